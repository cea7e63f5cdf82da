"""The keys that an issuer publishes, kept: asked for once, again when they are old or do not do, and not too often.

What to do is decided by :class:`Shelf`, which knows the time only from being told. :class:`KeyCache` does it, blocking
or on a loop; its requests pass through the same pipeline as every call, with a breaker of their own, so that an issuer
whose keys cannot be had is told apart from one whose API is down.
"""

from __future__ import annotations

import asyncio
import copy
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from moorline import telemetry
from moorline.calls.cache_rules import age_at_arrival, directives
from moorline.calls.call import Call
from moorline.calls.dialects import base_address
from moorline.calls.exchange import Exchange
from moorline.calls.open_service import OpenService
from moorline.calls.service import Service
from moorline.errors import BadAnswer, CallError, ConfigurationError, Misuse
from moorline.identity.keyset import KeySet
from moorline.policies.checks import check_seconds
from moorline.policies.policy import Policy
from moorline.policies.retry import Retry

__all__ = ["Keeping", "KeyCache", "Shelf"]

_POLICY: Final = Policy(deadline=5.0, attempt_timeout=3.0, retry=Retry(retries=1, base=0.2))
_PATIENCE: Final = 6.0
"""Seconds that one waits for what another one fetches."""
_MOST_BYTES: Final = 262_144
_MOST_PLACES: Final = 16
_log: Final = telemetry.logger("identity")

Step = Literal["use", "ask", "wait", "fail"]


@dataclass(frozen=True, slots=True)
class Keeping:
    """How long keys are kept, in seconds.

    They are fresh for as long as ``Cache-Control`` says, but no less than *shortest* and no more than *longest*;
    *usual* where it says nothing. A token that names a key which is not there has them asked for again, at most every
    *floor* seconds, whatever tokens come. When they are old and cannot be had, the old ones serve for another *outage*
    seconds; the issuer is then asked every *floor* seconds, and where there are none at all every *again* seconds.

    Raises ConfigurationError for what is no time, and where *shortest* is more than *longest*.
    """

    usual: float = 600.0
    shortest: float = 60.0
    longest: float = 86_400.0
    floor: float = 30.0
    again: float = 5.0
    outage: float = 3600.0

    def __post_init__(self) -> None:
        for name in ("usual", "shortest", "longest", "floor", "again"):
            check_seconds("Keeping", name, getattr(self, name))
        check_seconds("Keeping", "outage", self.outage, zero=True)
        if not self.shortest <= self.usual <= self.longest:
            raise ConfigurationError("Keeping: shortest <= usual <= longest must hold")

    def lasting(self, said: float | None) -> float:
        """For how many seconds keys are fresh whose issuer said so many, or nothing."""
        return self.usual if said is None else min(max(said, self.shortest), self.longest)


class Shelf:
    """The keys of one issuer, and what to do about them: pure decisions. Times are those of one monotonic clock."""

    def __init__(self, keeping: Keeping) -> None:
        self._keeping = keeping
        self.keys: KeySet | None = None
        self.error: CallError | None = None
        self.asking = False
        self.rounds = 0
        self._asked = 0.0
        self._due = 0.0
        self._fresh_until = 0.0

    def decide(self, now: float, key_id: str | None) -> Step:
        """``use`` the keys; ``ask`` for them; ``wait`` for who does, and decide again; or ``fail`` with the last error.

        They are used as well where asking again is not yet due: a token whose key is not among them is then refused.
        """
        if self.keys is None:
            return self._asked_unless(now >= self._due, "fail")
        known, fresh = self.keys.knows(key_id), now < self._fresh_until
        if fresh and known:
            return "use"
        usable = now < self._fresh_until + self._keeping.outage
        if known and usable and self.asking:
            return "use"  # somebody sees to it
        # An unknown key while the issuer cannot be asked may be a new one: that is not the token's fault.
        at_worst: Step = "use" if usable and (known or self.error is None) else "fail"
        return self._asked_unless(now >= self._due if self.error or not fresh else now >= self._floor(), at_worst)

    def _asked_unless(self, due: bool, otherwise: Step) -> Step:  # noqa: FBT001 (a decision's own)
        if self.asking:
            return "wait"
        return "ask" if due else otherwise

    def _floor(self) -> float:
        return self._asked + self._keeping.floor

    def begin(self, now: float) -> None:
        """They are being asked for."""
        self.asking, self._asked = True, now

    def give_up(self) -> None:
        """Who asked is gone, and nothing is known: another one asks."""
        self.asking, self._asked = False, self._asked - self._keeping.floor

    def put(self, keys: KeySet, now: float, said: float | None) -> None:
        """They are here, and fresh for as many seconds as the issuer *said*, within the bounds."""
        self.keys, self.error, self.asking = keys, None, False
        self.rounds += 1
        self._fresh_until = self._due = now + self._keeping.lasting(said)

    def fail(self, error: CallError, now: float) -> None:
        """They could not be had."""
        self.error, self.asking = error, False
        self._due = now + (self._keeping.again if self.keys is None else self._keeping.floor)


@dataclass(frozen=True, slots=True)
class _Fetched:
    keys: KeySet
    said: float | None


class _Publisher(OpenService):
    """The place where an issuer publishes its keys, as a service of its own."""

    category = "keys"

    def __init__(self, name: str, origin: str, options: Mapping[str, Any]) -> None:
        super().__init__(name, origin, policy=_POLICY, max_body=_MOST_BYTES, **options)

    def fetch(self, url: str) -> Call[_Fetched]:
        """The Call that fetches them."""
        return Call.of(self, "keys", self.get(url, parse=self._fetched_keys), (), {})

    def _fetched_keys(self, exchange: Exchange) -> _Fetched:
        try:
            keys = KeySet.of(exchange.data)
        except ConfigurationError:
            raise BadAnswer("the answer holds no keys") from None
        return _Fetched(keys, _said(exchange, self.clock.wall()))


def _said(exchange: Exchange, now: float) -> float | None:
    """For how many seconds the answer says that it is good; None where it says nothing."""
    said = directives(exchange.headers)
    if "no-store" in said or "no-cache" in said:
        return 0.0
    text = said.get("max-age")
    if text is None or not text.isascii() or not text.isdecimal():
        return None
    return max(float(text[:12]) - age_at_arrival(exchange.headers, now, now), 0.0)


class _Place:
    """The keys at one address: their shelf, who publishes them, and the request that is under way."""

    def __init__(self, url: str, publisher: _Publisher, keeping: Keeping) -> None:
        self.url = url
        self.publisher = publisher
        self.shelf = Shelf(keeping)
        self.lock = threading.Lock()  # held for a moment, never while something is awaited
        self.flight: Future[None] | None = None


class KeyCache:
    """The keys at *url* (a JWKS, or Google's map of certificates), for one issuer. Share one object for each issuer.

    *url* may be a function that says where they are at this moment. *owner* is the Service on whose guards, clock and
    wire the requests are made; without one, *options* are those of a Service (``guards``, ``clock``, ``wire``, …). The
    id of a key means something for its issuer alone: a KeyCache holds the keys of one, and no others are looked at.

    ``keys(key_id)`` and ``await keys_async(key_id)`` give the KeySet in which the key of that id is, if the issuer has
    it. They raise CallError where no keys can be had, and ConfigurationError for an address that is not https. Threads
    and loops share what is kept, and the request that is under way.
    """

    def __init__(
        self,
        url: str | Callable[[], str],
        *,
        name: str | None = None,
        owner: Service | None = None,
        keeping: Keeping | None = None,
        **options: Any,
    ) -> None:
        self._url = url
        self._name = name
        self._owner = owner
        self._keeping = keeping or Keeping()
        self._options = options
        self._places: dict[str, _Place] = {}
        self._lock = threading.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<KeyCache of {self._owner.name if self._owner else self._name or 'an issuer'}>"

    def keys(self, key_id: str | None = None) -> KeySet:
        """The keys, fetched if need be. Blocks. Raises Misuse where it would have to wait inside a running loop."""
        place = self._place()
        rounds = place.shelf.rounds
        while isinstance(step := self._step(place, key_id, rounds), _Flight):
            if _in_a_loop():
                if not step.waits:
                    self._land(place, step.end, None)
                raise Misuse(
                    "the issuer's keys have to be fetched, which would block the running event loop; use `await` here"
                )
            if not step.waits:
                self._lead(place, step.end)
            try:
                step.end.result(_PATIENCE)
            except TimeoutError:
                self._land(place, step.end, None)  # whoever asked will not answer any more
        return step

    async def keys_async(self, key_id: str | None = None) -> KeySet:
        """As ``keys``, on an event loop."""
        place = self._place()
        rounds = place.shelf.rounds
        while isinstance(step := self._step(place, key_id, rounds), _Flight):
            if not step.waits:
                # A task of its own: who made it may be cancelled, and the others wait for it too.
                task = asyncio.ensure_future(self._lead_async(place, step.end))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            try:
                async with asyncio.timeout(_PATIENCE):
                    await asyncio.wrap_future(step.end)
            except TimeoutError:
                self._land(place, step.end, None)
        return step

    def close(self) -> None:
        """Close the connections of blocking requests."""
        for place in list(self._places.values()):
            place.publisher.close()

    async def aclose(self) -> None:
        """Close all connections."""
        for place in list(self._places.values()):
            await place.publisher.aclose()

    def _place(self) -> _Place:
        url = self._url() if callable(self._url) else self._url
        found = self._places.get(url)
        if found is not None:
            return found
        with self._lock:
            if url not in self._places:
                if len(self._places) >= _MOST_PLACES:
                    self._places.pop(next(iter(self._places)))
                self._places[url] = _Place(url, self._publisher(url), self._keeping)
            return self._places[url]

    def _publisher(self, url: str) -> _Publisher:
        base_address(url, "the address of the keys")
        parts = urlsplit(url)
        owner, options = self._owner, self._options
        if owner is not None:
            options = {"guards": owner.guards, "clock": owner.clock, "wire": owner.wire, "addresses": owner.addresses}
        name = self._name or (owner.name if owner is not None else parts.hostname or "")
        return _Publisher(name, f"{parts.scheme}://{parts.netloc}", options)

    def _step(self, place: _Place, key_id: str | None, rounds: int) -> KeySet | _Flight:
        """The keys, or the request to wait for, or to make. They do whatever they are once they came after the caller
        began to want them, *rounds* having come before. Raises CallError where they could not be had just now.
        """
        with place.lock:
            shelf, now = place.shelf, place.publisher.clock.monotonic()
            if shelf.rounds != rounds and shelf.keys is not None:
                return shelf.keys
            step = shelf.decide(now, key_id)
            if step == "wait" and place.flight is not None:
                return _Flight(place.flight, waits=True)
            if step == "use" and shelf.keys is not None:
                return shelf.keys
            if step == "fail" and shelf.error is not None:
                raise copy.copy(shelf.error) from shelf.error
            shelf.begin(now)
            place.flight = Future()
            place.flight.set_running_or_notify_cancel()  # so that no waiter can cancel it for the others
            return _Flight(place.flight, waits=False)

    def _lead(self, place: _Place, end: Future[None]) -> None:
        try:
            self._land(place, end, place.publisher.fetch(place.url).result())
        except BaseException as error:
            self._land(place, end, error)
            if not isinstance(error, CallError):
                raise

    async def _lead_async(self, place: _Place, end: Future[None]) -> None:
        try:
            self._land(place, end, await place.publisher.fetch(place.url))
        except Exception as error:  # noqa: BLE001 -- it is raised where it is waited for
            self._land(place, end, error)
        except BaseException as error:
            self._land(place, end, error)
            raise

    def _land(self, place: _Place, end: Future[None], found: _Fetched | BaseException | None) -> None:
        """Note how it ended, once, and wake all who wait: they look at the shelf again."""
        with place.lock:
            if place.flight is not end:
                return
            place.flight = None
            shelf, now = place.shelf, place.publisher.clock.monotonic()
            if isinstance(found, _Fetched):
                shelf.put(found.keys, now, found.said)
            elif isinstance(found, CallError):
                shelf.fail(found, now)
            else:
                shelf.give_up()
        if isinstance(found, CallError) and shelf.keys is not None:
            _log.warning("keys_not_renewed", service=place.publisher.name, reason=found.message)
        if isinstance(found, Exception) and not isinstance(found, CallError):
            end.set_exception(found)
        else:
            end.set_result(None)


def _in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class _Flight:
    end: Future[None]
    waits: bool
