"""How many bytes of bodies are held at a time is bounded, over all connections; what ends gives its part back."""

from __future__ import annotations

import asyncio
import gzip
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.events.schemes import GITHUB, NOW, SENDERS
from tests.events.test_receiver import FakeInbox, post

from moorline.clock import ManualClock
from moorline.events import Inbox, Receiver
from moorline.events.blocking import BlockingReceiver
from moorline.events.refused import Held, Portion, Refused

SENDER = SENDERS[0]
BODY = b'{"action":"opened","x":"' + b"x" * 900 + b'"}'


def receiver(most: int, inbox: Inbox | None = None) -> Receiver:
    made = Receiver(
        inbox or FakeInbox(), lambda _: [SENDER.secret], {"github": GITHUB}.get, max_body=10_000, clock=ManualClock(NOW)
    )
    made.intake.held = Held(most)
    return made


def parts(body: bytes) -> list[bytes]:
    return [body[start : start + 100] for start in range(0, len(body), 100)]


async def test_a_body_beyond_the_bound_is_asked_to_come_again():
    """503 with Retry-After, not 413: it is the others that are too many; the next one is taken when they are done."""
    made = receiver(1000)
    signed = SENDER.signed(body=BODY)
    blocked = Portion(made.intake.held)
    blocked.add(500)
    answer = await post(made, parts(BODY), signed)
    assert answer is not None
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert made.intake.held.bytes == 500
    blocked.release()
    answer = await post(made, parts(BODY), signed)
    assert answer is not None
    assert (answer.status, made.intake.held.bytes) == (200, 0)


async def test_a_compressed_body_counts_as_large_as_it_may_become():
    """Small on its way, it may be the whole limit in memory."""
    made = receiver(9_999)
    headers = SENDER.signed(body=BODY) | {"Content-Encoding": "gzip"}
    answer = await post(made, gzip.compress(BODY), headers)
    assert answer is not None
    assert (answer.status, made.intake.held.bytes) == (503, 0)


async def test_a_sender_that_leaves_or_is_cut_gives_its_part_back():
    """Nothing stays held of a request that ended in another way."""
    made = receiver(10_000)
    await post(made, [*parts(BODY)[:4], {"type": "http.disconnect"}], SENDER.signed(body=BODY))
    assert made.intake.held.bytes == 0
    more: list[Any] = [{"type": "http.request", "body": b"x" * 100, "more_body": True}] * 4
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(post(made, more, SENDER.signed(body=BODY)), 0.05)
    assert made.intake.held.bytes == 0


def test_threads_are_bounded_alike(inbox: Inbox):
    """The blocking driver shares the rule and the count."""
    intake = receiver(500, inbox).intake
    pieces = parts(BODY)
    reply = BlockingReceiver(intake).respond(
        "github", method="POST", headers={name.lower(): value for name, value in SENDER.signed(body=BODY).items()},
        query="", scheme="https", host="x", path="/webhooks/github", client=None,
        read=lambda _: pieces.pop(0) if pieces else b"",
    )  # fmt: skip
    assert (reply.status, dict(reply.headers)["retry-after"], intake.held.bytes) == (503, "1", 0)


@given(sizes=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 60) | st.none()), max_size=60))
def test_the_bound_holds_whatever_comes(sizes: list[tuple[int, int | None]]):
    """Never more than the bound is held, and the sum of the portions is what is held; None releases one."""
    held = Held(100)
    portions = [Portion(held) for _ in range(5)]
    model = [0] * 5
    for which, size in sizes:
        if size is None:
            portions[which].release()
            model[which] = 0
        elif sum(model) + size > 100 and size:
            with pytest.raises(Refused):
                portions[which].add(size)
        else:
            portions[which].add(size)
            model[which] += size
        assert held.bytes == sum(model) <= 100
