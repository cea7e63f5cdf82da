"""The keys of an issuer are kept, renewed, and never asked for too often."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.identity.tokens import AUDIENCE, ISSUER, NOW, claims, jwk, jwks, private, token

from moorline import errors
from moorline.calls.guards import Guards
from moorline.clock import ManualClock
from moorline.identity import Keeping, KeyCache, KeySet, Verification, verify_token
from moorline.identity.keys import Shelf
from moorline.identity.tokens import Rules
from moorline.identity.verification import checked

URL = "https://issuer.example/.well-known/jwks.json"
FIRST, SECOND = KeySet.of(jwks()), KeySet.of(jwks(jwk("RSA", "second")))
DOWN = errors.ServiceUnavailable("answered 503")


class Issuer:
    """Publishes keys, and counts who asks."""

    def __init__(self, *published: dict[str, Any]) -> None:
        self.published: Any = jwks(*published)
        self.headers: dict[str, str] = {}
        self.status = 200
        self.asked = 0
        self.clock = ManualClock()
        self.before: Callable[[], None] = lambda: None

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        assert str(request.url) == URL
        assert "authorization" not in request.headers
        self.asked += 1
        self.before()
        content = self.published if isinstance(self.published, bytes) else json.dumps(self.published).encode()
        return httpx2.Response(self.status, content=content, headers=self.headers)

    def cache(self, **options: Any) -> KeyCache:
        guards = Guards(self.clock)
        return KeyCache(URL, wire=httpx2.MockTransport(self), guards=guards, clock=self.clock, name="issuer", **options)


@pytest.fixture(params=["sync", "async"])
def keys(request: pytest.FixtureRequest) -> Callable[..., KeySet]:
    """Ask a cache, blocking and on a loop."""
    if request.param == "sync":
        return lambda cache, key_id=None: cache.keys(key_id)
    return lambda cache, key_id=None: asyncio.run(cache.keys_async(key_id))


def test_they_are_asked_for_once(keys: Callable[..., KeySet]):
    """And used until they are old; the issuer's own word counts, within bounds."""
    issuer = Issuer()
    cache = issuer.cache()
    for _ in range(3):
        assert keys(cache, "first").knows("first")
    assert issuer.asked == 1
    issuer.clock.advance(599)
    keys(cache, "first")
    assert issuer.asked == 1
    issuer.clock.advance(1)
    keys(cache, "first")
    assert issuer.asked == 2


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Cache-Control": "public, max-age=19000, must-revalidate"}, 19_000),
        ({"Cache-Control": "max-age=19000", "Age": "9000"}, 10_000),
        ({"Cache-Control": "max-age=5"}, 60),
        ({"Cache-Control": "no-store"}, 60),
        ({"Cache-Control": "no-cache, max-age=900"}, 60),
        ({"Cache-Control": "max-age=99999999999999999999"}, 86_400),
        ({"Cache-Control": "max-age=soon"}, 600),
        ({"Cache-Control": "max-age=600", "Age": "x"}, 600),
        ({}, 600),
    ],
)
def test_how_long_they_are_fresh(headers: dict[str, str], seconds: int):
    """``max-age`` without what has passed of it, from a minute to a day; ten minutes where nothing is said."""
    issuer = Issuer()
    issuer.headers = headers
    cache = issuer.cache()
    cache.keys("first")
    issuer.clock.advance(seconds - 1)
    cache.keys("first")
    assert issuer.asked == 1
    issuer.clock.advance(1)
    cache.keys("first")
    assert issuer.asked == 2


def test_a_new_key_is_found(keys: Callable[..., KeySet]):
    """A token with a key that is not there has them asked for again, and what the issuer took away is gone."""
    issuer = Issuer()
    cache = issuer.cache()
    keys(cache, "first")
    issuer.published = jwks(jwk("RSA", "second"))
    issuer.clock.advance(31)
    assert keys(cache, "second").knows("second")
    assert not keys(cache, "first").knows("first")


def test_strange_keys_cannot_make_us_hammer(keys: Callable[..., KeySet]):
    """Whatever ids come, the issuer is asked every half a minute, and tokens of known keys wait for nothing."""
    issuer = Issuer()
    cache = issuer.cache()
    for second in range(120):
        assert not keys(cache, f"garbage-{second}").knows(f"garbage-{second}")
        assert keys(cache, "first").knows("first")
        issuer.clock.advance(1)
    assert issuer.asked == 4


def test_an_outage_is_survived(keys: Callable[..., KeySet]):
    """Old keys serve for an hour while the issuer is down; then there are none. It is asked, but not all the time."""
    issuer = Issuer()
    cache = issuer.cache()
    keys(cache, "first")
    issuer.status = 503
    issuer.clock.advance(600)
    asked = issuer.asked
    for _ in range(60):
        assert keys(cache, "first").knows("first")
        issuer.clock.advance(1)
    assert 2 <= issuer.asked - asked <= 4  # two rounds, of two tries each
    with pytest.raises(errors.CallError):  # it may be a new one: that is not the token's fault
        keys(cache, "second")
    issuer.clock.advance(3600)
    with pytest.raises(errors.ServiceUnavailable) as caught:
        keys(cache, "first")
    assert (caught.value.service, caught.value.operation) == ("issuer", "keys")
    issuer.status = 200
    issuer.clock.advance(31)
    assert keys(cache, "first").knows("first")


def test_without_any_keys_it_fails_at_once(keys: Callable[..., KeySet]):
    """An issuer that never answered is asked every few seconds; in between the last error comes again."""
    issuer = Issuer()
    issuer.status = 500
    cache = issuer.cache()
    for _ in range(20):
        with pytest.raises(errors.CallError):
            keys(cache, "first")
    assert issuer.asked == 2  # one request and its retry
    issuer.status = 200
    issuer.clock.advance(6)
    assert keys(cache, "first").knows("first")


@pytest.mark.parametrize("published", [b"", b"<html>", b"[]", b"{}", b'{"keys":5}', b"x" * 300_000, b'{"a":"b"}'])
def test_answers_that_hold_no_keys(published: bytes):
    """Are BadAnswer, and what was there before goes on."""
    issuer = Issuer()
    cache = issuer.cache()
    fresh = issuer.cache()
    cache.keys("first")
    issuer.published = published
    with pytest.raises(errors.BadAnswer):
        fresh.keys("first")
    issuer.clock.advance(601)
    assert cache.keys("first").knows("first")


def test_an_issuer_without_keys_is_no_outage():
    """An empty set is an answer (a Supabase project that still has a shared secret)."""
    issuer = Issuer()
    issuer.published = {"keys": []}
    cache = issuer.cache()
    assert len(cache.keys("first")) == 0
    assert len(cache.keys("first")) == 0
    assert issuer.asked == 1


def test_google_publishes_certificates():
    """A map of ids to X.509 certificates; the certificate's own dates say nothing."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "securetoken")])
    key, then = private("RSA"), datetime(2020, 1, 1, tzinfo=UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, then, then + timedelta(days=17))
    pem = made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
    issuer = Issuer()
    issuer.published = {"first": pem, "broken": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"}
    assert verification(issuer, issuer.cache()).result() == "u_1"


def verification(issuer: Issuer, cache: KeyCache, made: str | None = None) -> Verification[str | None]:
    """The subject of a token of now."""
    now = issuer.clock.wall()
    given = made or token(claims(iat=now, exp=now + 60))
    rules = Rules.of(ISSUER, AUDIENCE)

    def steps() -> Any:
        return (yield from checked(given, cache, rules, issuer.clock)).subject

    return Verification(steps)


def test_a_cache_is_as_good_as_keys():
    """``verify_token`` takes one in place of the keys, and asks for them only where a token could be a good one."""
    issuer = Issuer()
    cache = issuer.cache()
    rules: dict[str, Any] = {"jwks": cache, "issuer": ISSUER, "audience": AUDIENCE, "now": NOW}
    for wrong in ("a.b.c", token(alg="HS256", key=b"x" * 32), token(alg="none")):
        with pytest.raises(errors.InvalidToken):
            verify_token(wrong, **rules)
    assert issuer.asked == 0
    assert verify_token(token(), **rules).subject == "u_1"
    assert verify_token(token(), **rules).subject == "u_1"
    assert issuer.asked == 1


def test_a_verification_in_both_colours():
    """The same object is awaited or run, and again; a refusal is raised in both."""
    issuer = Issuer()
    cache = issuer.cache()
    good, bad = verification(issuer, cache), verification(issuer, cache, "a.b.c")

    async def both() -> tuple[Any, Any]:
        return await good, await good

    assert (good.result(), asyncio.run(both())) == ("u_1", ("u_1", "u_1"))
    with pytest.raises(errors.InvalidToken):
        bad.result()
    assert issuer.asked == 1


async def test_blocking_inside_a_loop():
    """Is refused where it would have to wait, and fine where the keys are there."""
    issuer = Issuer()
    cache = issuer.cache()
    with pytest.raises(errors.Misuse, match="await"):
        verification(issuer, cache).result()
    assert await verification(issuer, cache) == "u_1"
    assert verification(issuer, cache).result() == "u_1"
    await cache.aclose()


def test_threads_share_one_request():
    """However many want the keys at once."""
    issuer = Issuer()
    cache = issuer.cache()
    arrived = threading.Barrier(8)

    def ask(_: int) -> KeySet:
        arrived.wait(10)
        return cache.keys("first")

    with ThreadPoolExecutor(8) as pool:
        assert all(one.knows("first") for one in pool.map(ask, range(8)))
    assert issuer.asked == 1
    cache.close()


async def test_tasks_and_threads_share_one_request():
    """A thread that comes while a task asks waits for the same answer."""
    issuer = Issuer()
    cache = issuer.cache()
    going, gate = asyncio.Event(), asyncio.Event()

    async def slow(request: httpx2.Request) -> httpx2.Response:
        going.set()
        await gate.wait()
        return issuer(request)

    slowly = KeyCache(URL, wire=httpx2.MockTransport(slow), guards=Guards(issuer.clock), clock=issuer.clock)
    tasks = [asyncio.create_task(slowly.keys_async("first")) for _ in range(3)]
    await going.wait()
    place = slowly._place()
    thread = asyncio.create_task(asyncio.to_thread(slowly.keys, "first"))
    tasks[0].cancel()  # who made the request leaves; the request does not
    await asyncio.sleep(0)
    assert place.shelf.asking
    gate.set()
    assert all(one.knows("first") for one in [await tasks[1], await tasks[2], await thread])
    assert tasks[0].cancelled()
    assert issuer.asked == 1
    del cache


def test_a_loop_that_ends_leaves_the_request_to_others():
    """What was asked by a loop that is gone is asked anew."""
    issuer = Issuer()

    async def never(request: httpx2.Request) -> httpx2.Response:
        await asyncio.sleep(3600)
        raise AssertionError

    calls: list[int] = []

    async def wire(request: httpx2.Request) -> httpx2.Response:
        calls.append(1)
        return await never(request) if len(calls) == 1 else issuer(request)

    cache = KeyCache(URL, wire=httpx2.MockTransport(wire), guards=Guards(), name="issuer")

    async def gone() -> None:
        task = asyncio.create_task(cache.keys_async("first"))
        for _ in range(20):
            await asyncio.sleep(0)
        assert calls
        task.cancel()

    asyncio.run(gone())
    gc.collect()
    assert asyncio.run(cache.keys_async("first")).knows("first")


@pytest.mark.parametrize("url", ["http://issuer.example/jwks", "ftp://issuer.example", "issuer.example", "https://"])
def test_keys_come_over_https(url: str):
    """Whoever can change them on the way can sign what he likes; plain HTTP is for this machine."""
    with pytest.raises(errors.ConfigurationError):
        KeyCache(url).keys()


def test_the_address_may_change():
    """It is looked up each time; keys of one address are not those of another."""
    issuer = Issuer()
    where = ["https://issuer.example/.well-known/jwks.json"]
    cache = KeyCache(lambda: where[0], wire=httpx2.MockTransport(issuer), guards=Guards(issuer.clock))
    cache.keys("first")
    where[0] = "http://issuer.example/"
    with pytest.raises(errors.ConfigurationError):
        cache.keys("first")


@pytest.mark.parametrize(
    "wrong", [{"floor": 0}, {"usual": -1}, {"outage": -1}, {"shortest": 900}, {"longest": 10}, {"again": "x"}]
)
def test_bounds_that_cannot_be(wrong: dict[str, Any]):
    """Are named."""
    with pytest.raises(errors.ConfigurationError, match="Keeping"):
        Keeping(**wrong)


class ShelfMachine(RuleBasedStateMachine):
    """Tokens come, time passes, keys change, the issuer goes away and comes back, whoever asks may vanish."""

    @initialize()
    def begin(self) -> None:
        self.keeping = Keeping()
        self.shelf = Shelf(self.keeping)
        self.now = 0.0
        self.up = True
        self.published = FIRST
        self.changed = 0.0
        self.flight = False
        self.begun = 0.0
        self.last: tuple[float, float, bool] | None = None  # from when to when the last request took, and how it ended
        self.got: float | None = None
        self.said: float | None = None

    @rule(seconds=st.sampled_from([0.5, 1, 4, 5, 29, 30, 31, 60, 600, 3600, 90_000]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def fall(self) -> None:
        self.up = not self.up

    @rule()
    def rotate(self) -> None:
        self.published = SECOND if self.published is FIRST else FIRST
        self.changed = self.now

    @rule(key_id=st.sampled_from(["first", "second", "garbage", None]))
    def come(self, key_id: str | None) -> None:
        step = self.shelf.decide(self.now, key_id)
        if step == "wait":
            assert self.flight
        if step == "use":
            assert self.shelf.keys is not None
            assert self.got is not None
            kept = self.keeping.lasting(self.said) + self.keeping.outage
            assert self.now < self.got + kept, "no key is used for longer than the outage that is borne"
        if step == "fail":
            assert self.shelf.error is not None
        if step == "ask":
            assert not self.flight, "one at a time"
            if self.last is not None:
                begun, landed, well = self.last
                if not well:
                    least = self.keeping.floor if self.got is not None else self.keeping.again
                    assert self.now >= landed + least, "not again at once after it failed"
                elif self.now < landed + self.keeping.lasting(self.said):
                    assert self.now >= begun + self.keeping.floor, "not again at once for a strange id"
            self.begun = self.now
            self.shelf.begin(self.now)
            self.flight = True

    @rule(said=st.sampled_from([None, 0.0, 5.0, 300.0, 1e9]))
    def land(self, said: float | None) -> None:
        if not self.flight:
            return
        self.flight = False
        self.last = self.begun, self.now, self.up
        if self.up:
            self.shelf.put(self.published, self.now, said)
            self.got, self.said = self.now, said
        else:
            self.shelf.fail(DOWN, self.now)

    @rule()
    def vanish(self) -> None:
        if self.flight:
            self.flight = False
            self.shelf.give_up()
            assert self.shelf.decide(self.now, "garbage") in ("ask", "fail", "use")

    @invariant()
    def a_new_key_is_learned_in_time(self) -> None:
        """A token with a published key is verified half a minute after it can be at the latest, if the issuer is up."""
        if not self.up or self.flight:
            return
        wanted = "first" if self.published is FIRST else "second"
        later = self.now + self.keeping.floor
        step = self.shelf.decide(later, wanted)
        known = self.shelf.keys is not None and self.shelf.keys.knows(wanted)
        assert step == "ask" or (step == "use" and known)


TestShelf = ShelfMachine.TestCase
TestShelf.settings = settings(max_examples=80, stateful_step_count=40)
