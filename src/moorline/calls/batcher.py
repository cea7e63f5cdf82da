"""``Batcher``: items are handed over at once and sent later, many in one Call, by a thread of its own.

For what an application tells others of itself (events of analytics, metrics, logs): it must neither wait for them nor
break with them. What comes in is settled in one of three ways, and counted: sent, spilled (its Call is a durable job,
where the service is an application's), or refused, with the reason. What cannot be settled yet waits, up to a bound.
"""

from __future__ import annotations

import asyncio
import atexit
import math
import os
import random
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from moorline.calls.backlog import Backlog, Trip, Waiting
from moorline.clock import SYSTEM, Clock
from moorline.errors import (
    CallError,
    CredentialFault,
    InvalidArguments,
    InvalidRequest,
    LimitFault,
    MoorlineError,
    OutcomeUnknown,
)
from moorline.policies.checks import check_count, check_seconds
from moorline.policies.deadline import deadline
from moorline.telemetry import logger

if TYPE_CHECKING:
    from moorline.calls.call import Call

__all__ = ["BatchCounts", "Batcher", "close_all", "flush_all", "in_batcher"]

T = TypeVar("T")

_EXIT_SECONDS: Final = 5.0
_LONGEST_WAIT: Final = 60.0
_LAST_SECONDS: Final = 1.0  # for the thread to end the job that it is writing
_ENDS: Final = "the program ends"
_SAID_AGAIN: Final = 60.0  # seconds until the same trouble is logged once more

log = logger("batches")
_here = threading.local()
_live: weakref.WeakSet[Batcher[Any]] = weakref.WeakSet()


def in_batcher() -> bool:
    """Whether this thread sends for a Batcher: what is logged or fails here must not be handed to one again."""
    return getattr(_here, "sending", False)


@dataclass(frozen=True, slots=True)
class BatchCounts:
    """What became of all that was handed over: *added* is *sent*, *spilled*, *waiting* and *refused* together.

    *refused* has the reasons: a service's code or kind of error, ``too_large`` (one item beyond the service's limit),
    ``full`` (too many waited), ``closed``, ``lost`` (they waited when the program ended), ``outcome_unknown`` (it may
    have arrived, and cannot be sent twice).
    """

    added: int = 0
    sent: int = 0
    spilled: int = 0
    waiting: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)


class Batcher(Generic[T]):
    """Sends what is added, in the Call that *send* makes of up to *most* items, or *most_bytes* of what *size* says of
    each. A batch that is not full goes when its first item has waited *age* seconds, at ``flush`` and at exit.

    While the service is down a batch becomes a durable job, where its service belongs to an application; else it waits,
    and is tried again after 1, 2, 4, … up to 60 s or when the service said. While the service limits us all wait, up
    to half of *capacity*; with refused credentials too, for somebody to mend them. *capacity* is how many items may
    wait in all. One batch is under way at a time, so that their order is kept. *refusals* reads from a Call's result
    how many items the service refused, by reason. *blamed* reads from the error of a Call which of its items that is
    about, by their places, and in how many seconds each may be sent again (infinite: never); the others go at once,
    without them. *name* is for the log.

    Raises ConfigurationError naming the argument.
    """

    def __init__(
        self,
        send: Callable[[list[T]], Call[Any]],
        *,
        name: str,
        size: Callable[[T], int],
        most: int,
        most_bytes: int,
        age: float = 5.0,
        capacity: int = 10_000,
        refusals: Callable[[Any], Mapping[str, int]] | None = None,
        blamed: Callable[[list[T], CallError], Mapping[int, float]] | None = None,
        clock: Clock = SYSTEM,
    ) -> None:
        check_count("Batcher", "most", most)
        check_count("Batcher", "most_bytes", most_bytes)
        check_count("Batcher", "capacity", capacity)
        check_seconds("Batcher", "age", age)
        self.name = name
        self._send = send
        self._size = size
        self._refusals = refusals
        self._blamed = blamed
        self._clock = clock
        self._backlog: Backlog[T] = Backlog(most=most, most_bytes=most_bytes, age=age, capacity=capacity)
        self._random = random.Random()
        self._forget()
        _live.add(self)

    def _forget(self) -> None:
        """Begin anew: at first, and in a child process, whose parent sends what waits here."""
        self._changed = threading.Condition()
        self._backlog.clear()
        self._thread: threading.Thread | None = None
        self._trip: Trip[T] = Trip([])
        self._closed = self._over = False
        self._closing_at = math.inf  # when what is not sent by then is given up
        self._added = self._sent = self._spilled = self._flying = self._flush_to = self._failures = 0
        self._refused: Counter[str] = Counter()
        self._resume_at = -math.inf
        self._said: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"<Batcher {self.name}, {len(self._backlog)} waiting>"

    @property
    def counts(self) -> BatchCounts:
        """What became of everything until now."""
        with self._changed:
            waiting = len(self._backlog) + self._flying
            return BatchCounts(self._added, self._sent, self._spilled, waiting, dict(self._refused))

    def add(self, item: T) -> bool:
        """Hand it over. Never blocks and never raises; False for what is refused at once, and counted so."""
        try:
            size = self._size(item)
        except Exception as error:  # noqa: BLE001 - what an application says of itself must not break it
            return self._refuse_one(type(error).__name__)
        with self._changed:
            fits = size <= self._backlog.most_bytes
            why = "closed" if self._closed else "full" if self._backlog.full else "" if fits else "too_large"
            if not why:
                self._added += 1
                self._backlog.add(item, size, self._clock.monotonic())
                if self._backlog.ready == 1 or self._backlog.due_at() == -math.inf:
                    self._changed.notify_all()
        if why:
            return self._refuse_one(why)
        if self._thread is None:
            self._start()
        return True

    def flush(self, timeout: float = 5.0, *, spill: bool = False) -> bool:
        """Send what was added before, now, and wait. With *spill*, what still waits after *timeout* seconds is made
        durable jobs, where its service belongs to an application. False if some of it waits even then.
        """
        self._start()
        with self._changed:
            self._flush_to = goal = self._added
            self._hurry()
            done = self._changed.wait_for(lambda: self._settled >= goal, timeout)
        if done or not spill:
            return done
        self._take_over()
        left = self._spill_all()
        with self._changed:
            self._backlog.put_back(left)
            self._ended(len(left))
            return self._settled >= goal

    async def aflush(self, timeout: float = 5.0, *, spill: bool = False) -> bool:
        """As ``flush``, on the event loop."""
        return await asyncio.to_thread(self.flush, timeout, spill=spill)

    def close(self, timeout: float = 5.0) -> bool:
        """Take nothing more, and send what waits. What is left after *timeout* seconds, a batch that is under way among
        it, is spilled, or counted as lost and logged. True if nothing was lost.
        """
        self._end(self._clock.monotonic() + timeout)
        if self.flush(timeout):
            return True
        before = self._given_up
        unknown = self._take_over(last=True)
        if unknown:
            self._refuse(unknown, "outcome_unknown", f"{_ENDS} before the answer is there")
        lost = self._spill_all()
        if lost:
            self._refuse(lost, "lost", _ENDS)
        with self._changed:
            return self._changed.wait_for(lambda: not self._flying, _LAST_SECONDS) and self._given_up == before

    async def aclose(self, timeout: float = 5.0) -> bool:
        """As ``close``, on the event loop."""
        return await asyncio.to_thread(self.close, timeout)

    def _take_over(self, *, last: bool = False) -> list[Waiting[T]]:
        """Let what is under way wait again, and its answer count no more: the vendor drops what comes twice. What must
        not be sent twice stays; the *last* time it is taken out, and given.
        """
        with self._changed:
            trip = self._trip
            call, unknown = trip.call, []
            if call is not None and not last and (call.service.queue is None or not call.repeatable):
                return []
            if call is not None and not call.repeatable:
                unknown = trip.parts[:1]
            left = [one for part in trip.parts[len(unknown) :] for one in part]
            trip.parts, trip.call, self._over = [], None, self._over or last
            self._backlog.put_back(left)
            self._flying -= len(left)
            return [one for part in unknown for one in part]

    def _spill_all(self) -> list[Waiting[T]]:
        """Make durable jobs of all that waits; gives that of which none could be made, to be settled or put back."""
        with self._changed:
            self._backlog.rejoin(math.inf)
            batches = list(iter(self._backlog.take, []))
            self._flying += sum(map(len, batches))
        return [one for batch in batches for one in self._spill(batch)]

    def _end(self, at: float) -> None:
        with self._changed:
            self._closed = True
            self._closing_at = min(self._closing_at, at)
            self._hurry()

    def _hurry(self) -> None:
        """Nothing waits for a later try."""
        self._resume_at = -math.inf
        self._backlog.rejoin(math.inf)
        self._changed.notify_all()

    # --- the thread

    def _start(self) -> None:
        """Start the thread, unless there is one. Where none can be had all waits, for the next one who adds or flushes
        to try again.
        """
        with self._changed:
            if self._thread is not None or not self._backlog:
                return
            thread = threading.Thread(target=self._run, name=f"moorline-batches-{self.name}", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                waiting, why = len(self._backlog), str(error)
            else:
                self._thread = thread
                return
        self._say("batch_waits_for_a_thread", waiting, why)

    def _run(self) -> None:
        _here.sending = True
        while True:
            with self._changed:
                while (wait := self._due_in()) > 0:
                    if self._closed and not self._backlog:
                        return
                    self._changed.wait(None if math.isinf(wait) else wait)
            self.run_once()

    def _due_in(self) -> float:
        """Seconds until there is something to do; infinite while nothing waits."""
        wanted = self._backlog.ready and (self._closed or self._settled < self._flush_to)
        due = -math.inf if wanted else self._backlog.due_at()
        return max(due, self._resume_at) - self._clock.monotonic()

    def run_once(self) -> int:
        """Send one batch, due or not, and settle it; gives the number of its items. For the thread, and for tests."""
        with self._changed:
            self._backlog.rejoin(self._clock.monotonic())
            batch = self._backlog.take()
            self._flying += len(batch)
            trip = self._trip = Trip([batch] if batch else [])
        while part := next(iter(trip.parts), None):
            with self._bounded():
                self._settle(trip, part)
        return len(batch)

    def _bounded(self) -> AbstractContextManager[None]:
        left = self._closing_at - self._clock.monotonic()
        return nullcontext() if math.isinf(left) else deadline(max(left, 0.01), clock=self._clock)

    def _settle(self, trip: Trip[T], part: Sequence[Waiting[T]]) -> None:
        try:
            call = self._send([one.item for one in part])
            with self._changed:
                if not trip.parts:
                    return
                trip.call = call
            found = call.result()
            refused = dict(self._refusals(found)) if self._refusals is not None else {}
        except CallError as error:
            if self._landed(trip):
                self._failed(trip, part, error)
        except Exception as error:  # noqa: BLE001 - the thread goes on, whatever one batch brings
            if self._landed(trip):
                self._refuse(part, type(error).__name__, str(error))
        else:
            if self._landed(trip):
                self._taken(part, refused)

    def _landed(self, trip: Trip[T]) -> bool:
        """Whether the part that was sent is the thread's to settle still; it is no more under way."""
        with self._changed:
            trip.call = None
            return bool(trip.parts and trip.parts.pop(0))

    def _taken(self, part: Sequence[Waiting[T]], refused: Mapping[str, int]) -> None:
        for why, number in refused.items():  # which ones they were does not matter for counting them
            gone, part = part[:number], part[number:]
            self._refuse(gone, why, "the service took only part of a batch")
        with self._changed:
            self._failures = 0
            self._sent += len(part)
            self._ended(len(part))

    def _failed(self, trip: Trip[T], batch: Sequence[Waiting[T]], error: CallError) -> None:
        pauses = self._to_blame(batch, error) if trip.splits > 0 else {}
        if pauses:
            trip.splits -= 1
            self._go_without(trip, batch, error, pauses)
        elif self._waits_for(error) or error.retryable:
            self._put_off(batch, error)
        elif isinstance(error, InvalidRequest) and len(batch) > 1 and trip.splits > 0:
            trip.splits -= 1
            middle = len(batch) // 2  # one that is wrong must not take the others with it
            with self._changed:
                trip.parts[:0] = [batch[:middle], batch[middle:]]
        else:
            unknown = isinstance(error, OutcomeUnknown)
            self._refuse(batch, "outcome_unknown" if unknown else error.code or type(error).__name__, str(error))

    def _to_blame(self, batch: Sequence[Waiting[T]], error: CallError) -> Mapping[int, float]:
        try:
            return {} if self._blamed is None else self._blamed([one.item for one in batch], error)
        except Exception as failure:  # noqa: BLE001 - then it is dealt with as a whole
            self._say("batch_not_divided", len(batch), str(failure), type(failure).__name__)
            return {}

    def _go_without(
        self, trip: Trip[T], batch: Sequence[Waiting[T]], error: CallError, pauses: Mapping[int, float]
    ) -> None:
        """Refuse or put off those to blame, by their places, and send the others next."""
        parts: dict[float, list[Waiting[T]]] = {}
        for place, one in enumerate(batch):
            parts.setdefault(pauses.get(place, 0.0), []).append(one)
        innocent = parts.pop(0.0, None)
        if innocent:
            with self._changed:
                trip.parts.insert(0, innocent)
        for pause, part in parts.items():
            if math.isinf(pause):
                self._refuse(part, error.code or type(error).__name__, str(error))
            else:
                self._put_off(part, error, pause)

    def _waits_for(self, error: CallError) -> bool:
        """Whether what failed so waits here: with a bad key a job would be given up at once, and jobs of what is
        limited would all come back at once.
        """
        room = len(self._backlog) < self._backlog.capacity // 2 and not self._closed
        return isinstance(error, CredentialFault) or (isinstance(error, LimitFault) and room)

    def _put_off(self, batch: Sequence[Waiting[T]], error: CallError, pause: float | None = None) -> None:
        """Make jobs of them, or let them wait: with all others, or for *pause* seconds apart from them."""
        left = batch if self._waits_for(error) else self._spill(batch)
        if left:
            self._hold(left, error, pause)

    def _spill(self, batch: Sequence[Waiting[T]]) -> list[Waiting[T]]:
        """Make durable jobs of them; gives those of which none could be made."""
        try:
            call = self._send([one.item for one in batch])
            if call.service.queue is None:
                return list(batch)
            call.enqueue().result()
        except (InvalidArguments, InvalidRequest) as error:  # more than one job, or one request, may hold
            if len(batch) == 1:
                self._refuse(batch, getattr(error, "code", None) or "too_large", str(error))
                return []
            middle = len(batch) // 2
            return [*self._spill(batch[:middle]), *self._spill(batch[middle:])]
        except MoorlineError as error:
            self._say("batch_not_spilled", len(batch), str(error))
            return list(batch)
        with self._changed:
            self._spilled += len(batch)
            self._ended(len(batch))
        self._say("batch_spilled", len(batch), "it is a job now")
        return []

    def _hold(self, batch: Sequence[Waiting[T]], error: CallError, pause: float | None) -> None:
        with self._changed:
            held = not self._over
            if held and pause is not None:
                self._backlog.set_apart(batch, self._clock.monotonic() + pause)
            elif held:
                self._failures += 1
                wait = min(2.0 ** min(self._failures - 1, 10), _LONGEST_WAIT) * self._random.uniform(0.5, 1.0)
                if error.retry_at is not None:
                    wait = max(wait, min(error.retry_at - self._clock.wall(), 3600.0))
                self._resume_at = self._clock.monotonic() + wait
                self._backlog.put_back(batch)
            if held:
                self._flying -= len(batch)
        if held:
            self._say("batch_held", len(batch), str(error))
        else:
            self._refuse(batch, "lost", _ENDS)

    # --- counting

    @property
    def _settled(self) -> int:
        return self._sent + self._spilled + self._refused.total()

    @property
    def _given_up(self) -> int:
        return self._refused["lost"] + self._refused["outcome_unknown"]

    def _ended(self, number: int) -> None:
        self._flying -= number
        self._changed.notify_all()

    def _refuse(self, batch: Sequence[Waiting[T]], why: str, message: str) -> None:
        with self._changed:
            self._refused[why] += len(batch)
            self._ended(len(batch))
        self._say("batch_refused", len(batch), message, why)

    def _refuse_one(self, why: str) -> bool:
        with self._changed:
            self._added += 1
            self._refused[why] += 1
            self._changed.notify_all()
        self._say("batch_refused", 1, "refused when it was added", why)
        return False

    def _say(self, event: str, items: int, message: str, why: str = "") -> None:
        """Log it, the same trouble once a minute: there may be thousands of items."""
        now = self._clock.monotonic()
        if now - self._said.get(event + why, -math.inf) < _SAID_AGAIN:
            return
        self._said[event + why] = now
        before, _here.sending = in_batcher(), True
        try:
            log.warning(event, batcher=self.name, items=items, reason=message, **({"why": why} if why else {}))
        finally:
            _here.sending = before


def flush_all(batchers: Iterable[Batcher[Any]], timeout: float, *, spill: bool = False) -> bool:
    """``Batcher.flush`` of each, all at the same time, within *timeout* seconds together."""
    return _each(batchers, lambda one, left: one.flush(left, spill=spill), timeout)


def close_all(batchers: Iterable[Batcher[Any]], timeout: float) -> bool:
    """``Batcher.close`` of each, all at the same time, within *timeout* seconds together."""
    return _each(batchers, Batcher.close, timeout)


def _each(batchers: Iterable[Batcher[Any]], act: Callable[[Batcher[Any], float], bool], timeout: float) -> bool:
    busy = list(batchers)
    end = time.monotonic() + timeout
    for one in busy:  # all begin before the first is waited for
        one.flush(0)
    ended = [act(one, max(end - time.monotonic(), 0.0)) for one in busy]
    return all(ended)


def _close_all() -> None:
    """All at once, so that together they take as long as one."""
    for one in list(_live):
        if one.counts.waiting:
            one._end(one._clock.monotonic() + _EXIT_SECONDS)  # noqa: SLF001
    for one in list(_live):
        one.close(max(one._closing_at - one._clock.monotonic(), 0.0) if one.counts.waiting else 0.0)  # noqa: SLF001


def _forget_all() -> None:
    for one in list(_live):
        one._forget()  # noqa: SLF001


atexit.register(_close_all)
os.register_at_fork(after_in_child=_forget_all)
