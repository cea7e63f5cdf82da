"""Whatever is sent, the receiver answers it: no exception, no 5xx but 503, and no more read than it should be."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fuzzing import HEADERS, METHODS, STRANGE, Input, Mutator, Target, seeds, signed

SEEDS = seeds()
TARGET = Target()

names = st.one_of(
    st.sampled_from([name for seed in SEEDS for name, _ in seed.headers] + list(HEADERS)),
    st.binary(min_size=1, max_size=20),
)
values = st.one_of(
    st.sampled_from([value for seed in SEEDS for _, value in seed.headers] + list(STRANGE)), st.binary(max_size=60)
)
bodies = st.one_of(st.sampled_from([seed.body for seed in SEEDS] + list(STRANGE)), st.binary(max_size=3_000))
paths = st.one_of(
    st.sampled_from([seed.path for seed in SEEDS] + ["/", "/webhooks/", "/webhooks//", "/webhooks/github/../stripe"]),
    st.text(max_size=80).map("/webhooks/".__add__),
    st.text(max_size=80),
)
requests = st.builds(
    Input,
    service=st.sampled_from([seed.service for seed in SEEDS]),
    headers=st.lists(st.tuples(names, values), max_size=12).map(tuple),
    body=bodies,
    method=st.one_of(st.sampled_from(METHODS), st.text(max_size=10)),
    path=paths,
    query=st.binary(max_size=60),
    chunks=st.lists(st.integers(0, 400), max_size=6).map(tuple),
    leaves=st.booleans(),
)


@settings(max_examples=600)
@given(requests)
def test_any_request_is_answered(request: Input) -> None:
    """Any method, path, query, headers, body and chunking: a status below 500 or 503, or nothing for who left."""
    asyncio.run(TARGET.receive(request))


@settings(max_examples=300)
@given(requests)
def test_any_delivery_is_verified_or_refused(request: Input) -> None:
    """``verify`` raises InvalidSignature or UnusableEvent, and nothing else."""
    TARGET.verify(request)


@settings(max_examples=300)
@given(st.sampled_from(SEEDS), bodies, st.lists(st.integers(0, 400), max_size=4).map(tuple))
def test_any_body_may_be_signed(seed: Input, body: bytes, chunks: tuple[int, ...]) -> None:
    """A sender with the secret may sign what it likes: it is stored as both databases can, or refused."""
    request = signed(replace(seed, body=body, chunks=chunks))
    assert asyncio.run(TARGET.receive(request)) in {200, 202, 400, 401, 404, 405, 415, 503}
    TARGET.verify(request)


def test_the_seeds_are_good() -> None:
    """Each is a delivery that is accepted, so that what is made of it is not refused for the same reason always."""
    ours = {seed.service: TARGET.verify(seed) for seed in SEEDS}
    assert [name for name, accepted in ours.items() if not accepted] == []


async def test_mutations_of_real_deliveries() -> None:
    """3,000 of the inputs of ``benchmarks/fuzz.py``, over all services that have webhooks."""
    target, mutator = Target(), Mutator(20261127, SEEDS)
    for _ in range(3_000):
        request = mutator.next()
        await target.receive(request)
        target.verify(request)
    assert {200, 400, 401, 404, 405, 415} <= target.statuses.keys()
