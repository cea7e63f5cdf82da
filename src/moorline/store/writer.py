"""One thread that owns the writing connection and commits what waits together: group commit.

A commit that reaches the disk costs milliseconds whatever it holds, so whoever waits shares one. Each submitter is
answered after the commit, never before.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeAlias, TypeVar

from sqlalchemy.engine import Connection

from moorline.clock import SYSTEM, Clock
from moorline.errors import Misuse, StoreOverloaded, StoreUnavailable
from moorline.store.engines import is_conflict, is_disconnect, is_locked, is_silence, translated
from moorline.store.pressure import Pressure

__all__ = ["Apply", "AtOnce", "Session", "Writer"]

P = TypeVar("P")
R = TypeVar("R")
Apply: TypeAlias = Callable[[Connection, list[P]], Sequence[R | Exception]]
"""Writes the payloads in the order given and returns one result for each. A result that is an exception is raised to
that payload's submitter alone; an exception that is raised rolls the group back, and each payload is tried alone. It
may be called again for the same payload, so it does nothing but database work."""

AnyApply: TypeAlias = Callable[[Any, list[P]], Sequence[R | Exception]]
"""As ``Apply``, on whatever ``connect`` gives."""


@dataclass(frozen=True, eq=False, slots=True)
class AtOnce(Generic[P, R]):
    """An Apply that may be one statement, which is a transaction by itself, where a group holds nothing else.

    ``at_once`` is asked before a transaction is begun, and gives None for what must be written by ``apply`` in one.
    What fails in it, it leaves to that as well.
    """

    apply: Apply[P, R]
    at_once: Callable[[Any, list[P]], Sequence[R | Exception] | None]

    def __call__(self, connection: Connection, payloads: list[P]) -> Sequence[R | Exception]:
        """As ``apply``."""
        return self.apply(connection, payloads)


MAX_GROUP: Final = 2_000
_PAUSE: Final = 0.25  # seconds that a database which does not answer is left alone
_TRIES: Final = 3
_HALVED: Final = 16  # payloads
_IN_TWO: Final = range(26, 65)  # payloads of one statement; what is more has waited, and goes quicker as a whole
_QUICK: Final = 0.002  # seconds of a commit
_LOCKS: Final = 2  # of others, that one after the other are waited for; then what is left of the group is refused too


class Session(Protocol):
    """What the writer needs of a connection: SQLAlchemy's, or one where every write is a transaction of its own."""

    def begin(self) -> AbstractContextManager[Any]:
        """A transaction, which can ``commit``."""
        ...

    def close(self) -> None:
        """Disconnect."""
        ...


_Item: TypeAlias = tuple[Any, Any, Any, asyncio.AbstractEventLoop | None]
"""What waits: *apply*, its payload, the future of its answer, and that one's loop. Plain, as thousands a second are."""

_Answer: TypeAlias = tuple[_Item, Any]
"""An item and its result; a result that is an exception is raised."""


class Writer:
    """The writer thread. ``connect`` opens the connection that it alone uses; at most ``max_waiting`` payloads wait.

    ``halves``: a group costs little beside what is in it, so one that ends a rest is written in two. Those who submit
    again when they are answered would else all wait at the same time, and the server for them after that. For the same
    reason a group that is one statement is written in two, where commits are quick. ``apart``: there is no transaction
    that holds several deeds, so each kind of those in a group succeeds or fails by itself. ``committed`` is called by
    the thread after each group.
    """

    def __init__(
        self,
        connect: Callable[[], Session],
        *,
        max_waiting: int,
        clock: Clock = SYSTEM,
        halves: bool = False,
        apart: bool = False,
        committed: Callable[[], None] | None = None,
    ) -> None:
        self._halves = halves
        self._apart = apart
        self._committed = committed
        self._connect = connect
        self._max_waiting = max_waiting
        self._clock = clock
        self._queue: queue.SimpleQueue[list[_Item] | None] = queue.SimpleQueue()
        self._queued = 0
        self._turns: dict[asyncio.AbstractEventLoop, list[_Item]] = {}
        self._connection: Session | None = None
        self._down_until = 0.0
        self._thread: threading.Thread | None = None
        self._closing = False
        self._rested = True
        self._lock = threading.Lock()
        self._pressure = Pressure()
        self.groups = 0
        self.written = 0

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="moorline-writer", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what waits, then stop. Later submissions are refused."""
        with self._lock:  # so that nothing is queued behind the end mark, never to be answered
            self._closing = True
            while self._turns:
                self._put(self._turns.popitem()[1])
            self._queue.put(None)
        if self._thread is not None:
            self._thread.join()

    @property
    def waiting(self) -> int:
        """How many payloads wait for the next commit."""
        return self._queued + sum(map(len, list(self._turns.values()))) if self._turns else self._queued

    def admit(self, within: float | None = None) -> None:
        """Raises StoreOverloaded when too much waits, or one more write would wait longer than *within* seconds."""
        waiting = self.waiting
        if waiting >= self._max_waiting:
            raise StoreOverloaded(f"{self._max_waiting} writes wait for the database already")
        if within is not None:
            wait = self._pressure.wait(waiting, self._clock.monotonic())
            if wait > within:
                later = 5.0 if wait == math.inf else max(1.0, wait)
                raise StoreOverloaded(f"{waiting} writes wait, one more would for {wait:.2f} s", retry_after=later)

    def submit(self, apply: AnyApply[P, R], payload: P, *, within: float | None = None) -> Future[R]:
        """Queue *payload*; the future is done after the commit.

        Raises StoreOverloaded as ``admit`` does; the future raises StoreUnavailable when the database is down.
        """
        self.admit(within)
        future: Future[R] = Future()
        with self._lock:
            self._check_open()
            self._put([(apply, payload, future, None)])
        return future

    def submit_async(self, apply: AnyApply[P, R], payload: P, *, within: float | None = None) -> asyncio.Future[R]:
        """As ``submit``, for the running event loop: one wake-up of the loop answers the whole group.

        What is submitted in one turn of the loop, or the next, is queued after it: a writer that is woken by the first
        of many takes the interpreter from the others, and commits less at a time. And who is woken by a submission may
        submit what goes with it.
        """
        loop = asyncio.get_running_loop()
        turn = self._turns.get(loop)
        if turn is None or within is not None or len(self._turns) > 1 or self._queued + len(turn) >= self._max_waiting:
            self.admit(within)
        future: asyncio.Future[R] = loop.create_future()
        item = (apply, payload, future, loop)
        if turn is not None:
            turn.append(item)
            return future
        with self._lock:
            self._check_open()
            self._turns[loop] = [item]
        loop.call_soon(loop.call_soon, self._end_turn, loop)
        return future

    def gathers(self) -> bool:
        """Whether something was submitted in this turn of the running loop, and goes with what is submitted now."""
        return asyncio.get_running_loop() in self._turns

    def _end_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            turn = self._turns.pop(loop, None)  # None: the writer was closed, and has taken it
            if turn is not None:
                self._put(turn)

    def _check_open(self) -> None:
        if self._closing or self._thread is None:
            raise Misuse("the store is not open")

    def _put(self, items: list[_Item]) -> None:
        """Queue them; the lock is held."""
        self._queued += len(items)
        self._queue.put(items)

    def _run(self) -> None:
        ended = False
        while not ended:
            group, ended = self._gathered()
            if group and self._in_two(group):
                half = len(group) // 2
                self._write_measured(group[:half])
                group = group[half:]
            if group:
                self._write_measured(group)
        self._drop()

    def _in_two(self, group: list[_Item]) -> bool:
        if isinstance(group[0][0], AtOnce):
            return len(group) in _IN_TWO and self._pressure.fixed < _QUICK
        return self._halves and self._rested and len(group) >= _HALVED

    def _gathered(self) -> tuple[list[_Item], bool]:
        """What waits, up to a group; and whether nothing will come after it."""
        self._rested = self._queue.empty()
        items = self._queue.get()
        group: list[_Item] = []
        while items is not None:
            group += items
            if len(group) >= MAX_GROUP:
                break
            try:
                items = self._queue.get_nowait()
            except queue.Empty:
                break
        return group, items is None

    def _write_measured(self, group: list[_Item]) -> None:
        with self._lock:
            self._queued -= len(group)
        self._pressure.began(len(group), self._clock.monotonic())
        for part in _by_apply(group).values() if self._apart else [group]:
            self._write(part)
        self._pressure.ended(self._clock.monotonic())
        self.groups += 1
        self.written += len(group)
        if self._committed is not None:
            self._committed()

    def _write(self, group: list[_Item]) -> bool:
        """All in one transaction; if that fails, each payload alone, so that only the bad one fails.

        True if somebody else's lock was in the way.
        """
        if self._clock.monotonic() < self._down_until:
            error = StoreUnavailable("the database did not answer a moment ago")
            _answer([(item, error) for item in group])
            return False
        try:
            _answer(self._transaction(group))
        except Exception as error:  # noqa: BLE001 -- whatever went wrong belongs to the submitters
            failure, locked = translated(error), is_locked(error)
            if isinstance(failure, StoreUnavailable) and not is_conflict(error) and not locked:
                self._drop()
                _answer([(item, failure) for item in group])
            elif len(group) == 1:
                _answer([(group[0], failure)])
            else:
                self._one_by_one(group, failure)
            return locked
        return False

    def _one_by_one(self, group: list[_Item], failure: Exception) -> None:
        locks = 0
        for place, item in enumerate(group, 1):
            locks += self._write([item])
            if locks >= _LOCKS:
                _answer([(left, failure) for left in group[place:]])
                return

    def _transaction(self, group: list[_Item]) -> list[_Answer]:
        by_apply = _by_apply(group)
        silent = False
        for remaining in reversed(range(_TRIES)):
            committing = False
            try:
                connection = self._connected()
                if len(by_apply) == 1 and isinstance(group[0][0], AtOnce):
                    done = group[0][0].at_once(connection, [item[1] for item in group])
                    if done is not None:
                        return list(zip(group, done, strict=True))
                with connection.begin() as transaction:
                    answers: list[_Answer] = []
                    for apply, items in by_apply.items():
                        results = apply(connection, [payload for _, payload, _, _ in items])
                        answers += zip(items, results, strict=True)
                    committing = True
                    transaction.commit()
                return answers
            except Exception as error:
                if is_disconnect(error):
                    self._drop()
                    if committing:
                        message = "the connection was lost while committing: it may or may not have been kept"
                        raise StoreUnavailable(message) from error
                # A connection that died unnoticed, or a lost race, is worth the same again; nothing was committed.
                # Who is silent on a new connection too does not answer.
                if not remaining or silent or not (is_disconnect(error) or is_conflict(error)):
                    raise
                silent = is_silence(error)
        raise AssertionError("unreachable")

    def _connected(self) -> Session:
        if self._connection is None:
            try:
                self._connection = self._connect()
            except Exception:
                self._down_until = self._clock.monotonic() + _PAUSE
                raise
        return self._connection

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):  # it is broken, that is why it is dropped
                connection.close()


def _by_apply(group: list[_Item]) -> dict[Any, list[_Item]]:
    by_apply: dict[Any, list[_Item]] = {}
    for item in group:
        same = by_apply.get(item[0])
        if same is None:
            by_apply[item[0]] = [item]
        else:
            same.append(item)
    return by_apply


def _answer(answers: list[_Answer]) -> None:
    loops: dict[asyncio.AbstractEventLoop, list[_Answer]] = {}
    for answer in answers:
        (_, _, future, loop), result = answer
        if loop is not None:
            theirs = loops.get(loop)
            if theirs is None:
                loops[loop] = [answer]
            else:
                theirs.append(answer)
            continue
        try:
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
        except InvalidStateError:
            pass  # its submitter gave up waiting; the write stands
    for loop, theirs in loops.items():
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits there any more
            loop.call_soon_threadsafe(_settle, theirs)


def _settle(answers: list[_Answer]) -> None:
    for (_, _, future, _), result in answers:
        if future.done():
            continue  # cancelled by who waited; the write stands
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)
