"""A private cache of answers: fresh ones cost no request, old ones are asked for with their ETag.

A service that answers 304 need not send the body again, and many do not count it: GitHub's documentation says that
conditional requests with a correct ``Authorization`` header do not count against the primary rate limit (card
``business/github.md``).

This is our own, because hishel 2.0.0 (read and tried for this) decides freshness by guessing: an answer without
``Cache-Control`` but with ``Last-Modified`` is given for up to a week unasked (``get_heuristic_freshness``), with no
option against it; it reads ``time.time()`` itself, takes no notice of the ``Age`` header, and takes an answer without
``Date`` for new for ever (``get_age``).
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from moorline.calls import cache_rules as rules
from moorline.calls.exchange import Exchange
from moorline.calls.identity import identity, place
from moorline.calls.lru import Lru
from moorline.calls.sending import ServiceContext
from moorline.errors import CallError

if TYPE_CHECKING:
    from moorline.calls.call import Call
    from moorline.calls.sending import ServiceRequest
    from moorline.calls.service import Service
    from moorline.clock import Clock

__all__ = ["Cache", "Validating", "through"]

_MAX_BYTES: Final = 64 * 1024 * 1024
_MAX_ENTRIES: Final = 10_000
_OVERHEAD: Final = 600  # bytes of an entry beside its body and headers, about
_NOT_MODIFIED: Final = 304


@dataclass(frozen=True, slots=True)
class _Entry:
    exchange: Exchange
    address: bytes  # see identity.place
    at: float  # monotonic, when it came or was validated
    age: float  # seconds, at that moment
    fresh_for: float  # seconds, from age 0

    def age_now(self, now: float) -> float:
        return self.age + max(now - self.at, 0.0)


class Cache:
    """Answers to GETs, kept in this process as RFC 9111 says: at most *max_bytes* of *max_entries*, the least used go
    first.

    Give it to a service (``Stripe(cache=Cache())``), or one to several. Each credential and tenant has answers of its
    own. A write through the same service makes what is kept of that address outdated. Safe between threads.

    ``hits``, ``validated`` and ``misses`` count reads: answered without a request, by a 304, and by a new answer.
    Raises ConfigurationError naming the argument.
    """

    def __init__(self, *, max_bytes: int = _MAX_BYTES, max_entries: int = _MAX_ENTRIES) -> None:
        self._entries: Lru[bytes, _Entry] = Lru(
            "Cache", max_bytes=max_bytes, max_entries=max_entries, dropped=self._dropped
        )
        self._places: dict[bytes, set[bytes]] = {}
        self._lock = threading.RLock()
        self.hits = self.validated = self.misses = 0

    def __repr__(self) -> str:
        entries = self._entries
        counts = f"hits={self.hits}, validated={self.validated}, misses={self.misses}"
        return f"<Cache of {len(entries)} answers, {entries.bytes} of {entries.max_bytes} bytes, {counts}>"

    @property
    def answers(self) -> int:
        """How many are kept."""
        return len(self._entries)

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._entries.clear()

    def find(self, key: bytes) -> _Entry | None:
        """What is kept under *key*, fresh or not."""
        return self._entries.get(key)

    def keep(self, key: bytes, address: bytes, exchange: Exchange, age: float, clock: Clock) -> None:
        """Keep *exchange*, which had that *age* (seconds) just now, if it may be kept; forget the one before it."""
        with self._lock:
            self._entries.remove(key)
            if not rules.storable(exchange):
                return
            kept = exchange.copy()
            kept.headers = rules.stored_headers(exchange.headers)
            fresh_for = rules.lifetime(kept.headers, clock.wall())
            entry = _Entry(kept, address, clock.monotonic(), age, fresh_for)
            size = _OVERHEAD + len(kept.body) + sum(len(name) + len(text) for name, text in kept.headers.items())
            self._places.setdefault(address, set()).add(key)
            if not self._entries.put(key, entry, size):
                self._dropped(key, entry)

    def forget(self, key: bytes) -> None:
        """Forget the answer under *key*."""
        with self._lock:
            self._entries.remove(key)

    def outdated(self, address: bytes) -> None:
        """Forget what is kept of *address*: it was written to."""
        with self._lock:
            for key in list(self._places.get(address, ())):
                self._entries.remove(key)

    def _dropped(self, key: bytes, entry: _Entry) -> None:
        keys = self._places.get(entry.address)
        if keys is not None:
            keys.discard(key)
            if not keys:
                del self._places[entry.address]


class Validating(ServiceContext):
    """A sending that asks whether a kept answer still holds: 304 is a good answer to it."""

    __slots__ = ("conditions",)

    conditions: dict[str, str]

    def request(self) -> ServiceRequest:
        """The request with its conditions."""
        request = super().request()
        return request._replace(headers={**request.headers, **self.conditions})

    def judge(self, answer: Exchange) -> CallError | None:
        """As ever, but that 304 says yes."""
        if answer.status == _NOT_MODIFIED:
            answer.request_id = self._service.errors.request_id_of(answer)
            return None
        return super().judge(answer)


def through(
    cache: Cache, service: Service, call: Call[Any], context: ServiceContext
) -> Generator[ServiceContext, Exchange, Exchange]:
    """The conversation of one Call with *cache*: yields what must be sent, is resumed with the answer (or what
    sending raised), and returns the answer for the caller. *context* is that of the Call as it is.
    """
    request = context.request()
    headers = {name.lower(): text for name, text in request.headers.items()}
    tenant = call.options.tenant
    address = place(request, (service.key().reveal(),), tenant)
    if call.plan.method != "GET":
        return (yield from _written(cache, context, address, reads=call.plan.reads))
    if not rules.storing(headers):
        return (yield context)
    clock, key = service.clock, identity(request, tenant)
    entry = cache.find(key)
    if entry is not None and rules.wanted(headers, age := entry.age_now(clock.monotonic()), entry.fresh_for):
        cache.hits += 1
        found = entry.exchange.copy(age=age, from_cache=True)
        found.attempts = ()
        return found
    asked = clock.wall()
    conditions = {} if entry is None else rules.conditions(entry.exchange.headers)
    if entry is not None and conditions:
        validating = cast("Validating", service.context_of(call, kind=Validating))
        validating.conditions = conditions
        answer = yield validating
        if answer.status == _NOT_MODIFIED:
            age = rules.age_at_arrival(answer.headers, asked, clock.wall())
            if answer.url == request.url and rules.same_entity(entry.exchange.headers, answer.headers):
                cache.validated += 1
                return _revived(cache, key, entry, answer, age, clock)
            cache.forget(key)  # it speaks of something else
            asked = clock.wall()
            answer = yield service.context_of(call)
    else:
        answer = yield context
    cache.misses += 1
    if answer.url == request.url:  # where a redirect led is another address
        cache.keep(key, address, answer, rules.age_at_arrival(answer.headers, asked, clock.wall()), clock)
    return answer


def _revived(cache: Cache, key: bytes, entry: _Entry, answer: Exchange, age: float, clock: Clock) -> Exchange:
    """The kept answer, of which a 304 says that it holds."""
    renewed = entry.exchange.copy()
    renewed.headers = rules.freshened(entry.exchange.headers, answer.headers)
    cache.keep(key, entry.address, renewed, age, clock)
    found = renewed.copy(age=age, from_cache=True)
    found.attempts, found.request_id = answer.attempts, answer.request_id
    return found


def _written(
    cache: Cache, context: ServiceContext, address: bytes, *, reads: bool
) -> Generator[ServiceContext, Exchange, Exchange]:
    """A write makes what is kept of its address outdated (section 4.4), also when nobody knows what it did."""
    try:
        answer = yield context
    except CallError as error:
        if not reads and error.outcome == "unknown":
            cache.outdated(address)
        raise
    if not reads:
        cache.outdated(address)
    return answer
