"""The rate gate of a service: who may send now, who waits and how long, so that the service need not say 429."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from moorline.policies.allowance import Allowance, Reading
from moorline.policies.lane import Lane, Pass
from moorline.policies.pacer import Pacer
from moorline.policies.quota import Quota
from moorline.policies.rate import RateLimit

__all__ = ["Gate", "GateView", "Pass"]

_GRAIN: Final = 1e-6  # shorter waits are rounding errors of the clock
_LOST: Final = 60.0  # seconds after which a pass that nobody settled no longer counts as in flight
_MOST_LANES: Final = 1000
_LONGEST_CLOSING: Final = 366 * 86_400.0
_ASKED: Final = "the service asked to wait"


@dataclass(frozen=True, slots=True)
class GateView:
    """A gate at one moment, for operators: how many wait, for how many seconds the next of them does and why;
    *in_flight* is counted only while something is near its limit. *limits* says each limit in words.
    """

    waiting: int
    seconds: float
    why: str
    in_flight: int
    limits: tuple[str, ...]


class Gate:
    """The machine. Time comes from *now* (monotonic seconds); safe between threads; does no I/O.

    It combines what the service asked for (``close``, ``limited``), our own *quotas*, and what the service's answers
    say remains (``heed``). Waiters pass in the order of their coming; those whose *operation* belongs to another
    limit of the service (*apart*: each operation has its own) do not wait for one another.

    *on_change* is called with ``free`` and ``holding``, or the other way round, and the reason, outside of the lock:
    when it holds somebody back, and when it next lets somebody through at once.
    """

    __slots__ = (
        "__weakref__",
        "_apart",
        "_common",
        "_holding",
        "_lanes",
        "_lock",
        "_news",
        "_now",
        "_on_change",
        "_out",
        "_pacer",
        "_quotas",
        "_where",
        "free",
        "waiting",
    )

    free: bool
    """True when nothing restricts: then a call may be sent without asking, and without being counted."""

    def __init__(
        self,
        now: Callable[[], float],
        quotas: Iterable[RateLimit] = (),
        *,
        apart: bool = False,
        on_change: Callable[[str, str, str], None] | None = None,
    ) -> None:
        self._now = now
        self._on_change = on_change
        self._holding = False
        self._news: tuple[str, str, str] | None = None
        self._lock = threading.Lock()
        self._quotas = tuple(Quota(config, now()) for config in quotas)
        self._apart = apart
        self._common = Lane("")
        self._lanes = {"": self._common}
        self._where: dict[str, Lane] = {}  # the lane of each operation, as the service's answers taught us
        self._out: dict[Pass, None] = {}  # on their way, the oldest first
        self._pacer: Pacer | None = None
        self.waiting = 0
        self.free = not self._quotas

    # Passing ---------------------------------------------------------------------------------------------------------

    def take(self, longest: float, cost: float = 1.0, operation: str = "") -> Pass:
        """A Pass for one call that costs *cost*: let through, waiting, or refused when it would wait *longest* seconds
        or more even if all goes well.
        """
        with self._lock:
            now = self._now()
            lane = self._lane(operation)
            asked = Pass(lane, cost)
            queued, common = (lane.queued, self._queued(lane, now)) if self.waiting else (0.0, 0.0)
            wait, part = self._wait(lane, now, queued, common, cost)
            if not wait:
                self._let_through(asked, now)
                if self._holding and not self.waiting:
                    self._turn(False, "a call passed at once")
            else:
                asked.ok = wait < longest or self._wait(lane, now, queued, common, cost, at_best=True)[0] < longest
                self._hold_or_refuse(asked, now, wait, part)
        if self._news is not None:
            self._tell(())
        return asked

    def again(self, held: Pass, longest: float) -> Pass:
        """*held*, which has waited, once more: let through, to wait on, or refused for *longest*; then its place is
        given up.
        """
        with self._lock:
            if held.state != "waiting":
                return held
            now, lane = self._now(), held.lane
            held.granted, held.wake = False, None
            ahead = self._ahead(held)
            wait, part = self._wait(lane, now, ahead, ahead, held.cost)
            if not wait:
                self._leave(held)
                self._let_through(held, now)
            else:
                held.ok = wait < longest or self._wait(lane, now, ahead, ahead, held.cost, at_best=True)[0] < longest
                self._hold_or_refuse(held, now, wait, part)
            woken = self._next(now)
        if woken or self._news is not None:
            self._tell(woken)
        return held

    def give_back(self, unused: Pass) -> None:
        """Its caller was cancelled while waiting, or its request never left: the place or the call is the next one's.
        Does nothing for one that is settled.
        """
        with self._lock:
            now = self._now()
            if unused.state == "waiting":
                self._leave(unused)
            elif unused.state == "out":
                self._land(unused)
                for quota in self._quotas:
                    quota.refund(unused.cost)
                for lane in unused.lane.chain:
                    for allowance in lane.allowances.values():
                        allowance.returned(now, unused.cost)
            unused.state = "over"
            woken = self._next(now)
        if woken or self._news is not None:
            self._tell(woken)

    def _let_through(self, asked: Pass, now: float) -> None:
        asked.ok, asked.wait, asked.why = True, 0.0, ""
        asked.at, asked.state = now, "out"
        for quota in self._quotas:
            quota.spend(asked.cost)
        if self._pacer is not None:
            self._pacer.passed(asked.cost)
        for lane in asked.lane.chain:
            for allowance in lane.allowances.values():
                allowance.passed(now, lane.flying, asked.cost)
            lane.flying += asked.cost
        self._out[asked] = None

    def _hold_or_refuse(self, asked: Pass, now: float, wait: float, part: object) -> None:
        asked.wait = wait
        asked.why = self._why(part, asked.lane, now)
        if not self._holding:
            self._turn(True, asked.why)
        if not asked.ok:
            if asked.state == "waiting":
                self._leave(asked)
            asked.state = "over"
        else:
            asked.until = now + wait
            if asked.state == "new":
                asked.state = "waiting"
                asked.lane.waiting[asked] = None
                asked.lane.queued += asked.cost
                self.waiting += 1
                self.free = False

    def _turn(self, holding: bool, reason: str) -> None:  # noqa: FBT001 (the new state)
        """Remember a change, for who is told of it once the lock is free."""
        self._holding = holding
        if self._on_change is not None:
            self._news = ("free", "holding", reason) if holding else ("holding", "free", reason)

    def _tell(self, woken: Sequence[Pass]) -> None:
        """Outside of the lock."""
        self._wake(woken)
        news, self._news = self._news, None
        if news is not None and self._on_change is not None:
            self._on_change(*news)

    def _leave(self, held: Pass) -> None:
        lane = held.lane
        del lane.waiting[held]
        lane.queued = lane.queued - held.cost if lane.waiting else 0.0
        self.waiting -= 1

    def _ahead(self, held: Pass) -> float:
        ahead = 0.0
        for each in held.lane.waiting:
            if each is held:
                break
            ahead += each.cost
        return ahead

    def _queued(self, lane: Lane, now: float) -> float:
        """What waits in all lanes for what is common to all: it goes before a newcomer of any lane."""
        return sum(each.queued for each in self._lanes.values() if each is lane or each.closed <= now)

    def _wake(self, woken: Sequence[Pass]) -> None:
        """Have *woken* ask again; who is gone, its loop closed, leaves the queue to the next. Not under the lock."""
        while gone := [each for each in woken if not each.wake_up()]:
            with self._lock:
                for each in gone:
                    if each.state == "waiting":
                        self._leave(each)
                        each.state = "over"
                woken = self._next(self._now())

    def _next(self, now: float) -> Sequence[Pass]:
        """The first of each lane, where it may pass earlier than it thinks, or should have asked by now."""
        if not self.waiting:
            self._settle_free(now)
            return ()
        woken = []
        for lane in self._lanes.values():
            head = next(iter(lane.waiting), None)
            if head is not None and not head.granted:
                wait, _part = self._wait(lane, now, 0.0, 0.0, head.cost)
                if now + wait < head.until - 1e-3 or head.until < now:
                    woken.append(head)
        return woken

    # What restricts --------------------------------------------------------------------------------------------------

    def _wait(
        self, lane: Lane, now: float, ahead: float, common: float, cost: float, *, at_best: bool = False
    ) -> tuple[float, object]:
        """Seconds until *cost* may pass, and the part that says so. *at_best* takes a reset that is still to come, or
        to be tried out, to give back the whole limit.
        """
        longest = 0.0
        because: object = None
        for quota in self._quotas:
            wait = quota.wait(now, common, cost)
            if wait > longest:
                longest, because = wait, quota
        if self._pacer is not None:
            wait = self._pacer.wait(now, common, cost)
            if wait > longest:
                longest, because = wait, self._pacer
        for each in lane.chain:
            if each.closed - now > longest:
                longest, because = each.closed - now, each
            before = ahead if each is lane else common
            for allowance in each.allowances.values():
                wait = allowance.wait(now, self._in_flight(each, now), before, cost, at_best=at_best)
                if wait > longest:
                    longest, because = wait, allowance
        return (longest, because) if longest > _GRAIN else (0.0, None)

    def _why(self, part: object, lane: Lane, now: float) -> str:
        if isinstance(part, Lane):
            return _ASKED
        if isinstance(part, Allowance):
            owner = next(each for each in lane.chain if part in each.allowances.values())
            return part.why(now, owner.flying)
        return str(part)

    def _in_flight(self, lane: Lane, now: float) -> float:
        while self._out:
            oldest = next(iter(self._out))
            if now - oldest.at <= _LOST:
                break
            self._land(oldest)
            oldest.state = "over"
        return lane.flying

    def _land(self, back: Pass) -> None:
        if self._out.pop(back, back) is not None:
            return
        for lane in back.lane.chain:
            lane.flying = lane.flying - back.cost if self._out else 0.0

    def _lane(self, operation: str) -> Lane:
        if self._apart and operation:
            return self._named(operation)
        return self._where.get(operation) or self._common

    def _named(self, name: str) -> Lane:
        lane = self._lanes.get(name)
        if lane is None:
            if len(self._lanes) > _MOST_LANES:
                self._drop_lane()
            lane = self._lanes[name] = Lane(name, self._common)
        return lane

    def _drop_lane(self) -> None:
        """Forget the oldest that nobody uses: names come from outside, and their number has no bound."""
        now = self._now()
        for name, lane in self._lanes.items():
            if lane is not self._common and not lane.waiting and not lane.flying and lane.closed <= now:
                del self._lanes[name]
                self._where = {operation: each for operation, each in self._where.items() if each is not lane}
                return

    # What is learnt --------------------------------------------------------------------------------------------------

    def heed(self, readings: Iterable[Reading], back: Pass | None = None, operation: str = "") -> None:
        """An answer came, or is known to be lost: *back* is no longer in flight (None where nothing was counted), and
        this is what it says. Without *back* and *readings* there is nothing to heed.
        """
        with self._lock:
            now = self._now()
            sent, cost = (None, 1.0) if back is None else (back.at, back.cost)
            if back is not None:
                if back.state != "out":
                    sent = None
                self._land(back)
                back.state = "over"
            told: set[Allowance] = set()
            spent = False
            for reading in readings:
                if reading.sound and reading.closed:
                    lane = self._named(reading.bucket) if reading.bucket else self._common
                    self._shut(lane, now + (reading.resets_in or 0.0))
                    spent = True  # it says itself which part and how long: nothing is to be guessed
                elif reading.sound:
                    allowance = self._heed(reading, now, sent, cost, operation)
                    told.add(allowance)
                    if back is not None and back.refused and reading.remaining < 1:
                        allowance.refused(now, sent)
                        spent = True
            if back is not None:
                if back.refused and not spent:
                    self._slow_down(now, sent)
                back.refused = False
                self._unread(told, back.lane, sent, cost, now)
            woken = self._next(now)
        if woken or self._news is not None:
            self._tell(woken)

    def _heed(self, reading: Reading, now: float, sent: float | None, cost: float, operation: str) -> Allowance:
        lane = self._common
        if reading.bucket:
            lane = self._placed(reading.bucket, operation)
        elif self._apart and operation:
            lane = self._named(operation)
        allowance = lane.allowances.get(reading.policy)
        if allowance is None:
            allowance = lane.allowances[reading.policy] = Allowance(reading, now)
        else:
            allowance.heed(reading, now, sent, cost, lane.flying)
        return allowance

    def place(self, readings: Iterable[Reading], operation: str) -> None:
        """Note which part of the service *operation* belongs to, where an answer says that this part is spent: before
        ``close``, which would else close the whole service for it.
        """
        with self._lock:
            for reading in readings:
                if reading.sound and not reading.closed and reading.bucket and reading.remaining < 1:
                    self._placed(reading.bucket, operation)

    def _placed(self, bucket: str, operation: str) -> Lane:
        lane = self._named(bucket)
        if operation and not self._apart:
            if len(self._where) > _MOST_LANES:
                self._where.clear()
            self._where[operation] = lane
        return lane

    def _unread(self, told: set[Allowance], lane: Lane, sent: float | None, cost: float, now: float) -> None:
        for each in lane.chain:
            for policy, allowance in list(each.allowances.items()):
                if allowance not in told:
                    allowance.unread(now, sent, cost)
                    if allowance.over(now):
                        del each.allowances[policy]

    def close(self, seconds: float, operation: str = "") -> None:
        """The service asked to wait: nobody passes for *seconds* from now; where its operations are *apart*, nobody of
        this *operation*. Never shortens an earlier closing.
        """
        if not seconds > 0:  # NaN as well
            return
        with self._lock:
            self._shut(self._lane(operation), self._now() + min(seconds, _LONGEST_CLOSING))

    def _shut(self, lane: Lane, until: float) -> None:
        lane.closed = max(lane.closed, until)
        self.free = False

    def closed_for(self, operation: str = "") -> float:
        """For how many seconds the service wants nobody to call *operation*, or anything at all; 0 where it may be."""
        with self._lock:
            until = max(lane.closed for lane in self._lane(operation).chain)
            return max(until - self._now(), 0.0)

    def limited(self, back: Pass | None = None, *, known: bool = False) -> None:
        """The service refused; before ``heed``. *known*: the answer has readings. Where one of them is spent, only our
        model of that limit was wrong. Else it is a limit of which nothing is known: slow down by a part, and find back
        carefully.
        """
        with self._lock:
            if known and back is not None:
                back.refused = True  # the readings will tell
            elif not known or self._plenty(self._now()):
                self._slow_down(self._now(), None if back is None else back.at)

    def _plenty(self, now: float) -> bool:
        """Whether there are limits, and none of them is near."""
        known = [each for lane in self._lanes.values() for each in lane.allowances.values()]
        return bool(known) and all(each.roomy(now) for each in known)

    def _slow_down(self, now: float, sent: float | None) -> None:
        if self._pacer is None:
            self._pacer = Pacer(now)
            self.free = False
        else:
            self._pacer.limited(now, sent)

    def _settle_free(self, now: float) -> None:
        if self._quotas or self.waiting:
            return  # it is not, and stays so
        if self._pacer is not None and self._pacer.over(now):
            self._pacer = None
        self.free = self._pacer is None and self._open(now)
        if self.free and self._holding:
            self._turn(False, "nothing restricts any more")

    def _open(self, now: float) -> bool:
        for lane in self._lanes.values():
            if lane.closed > now:
                return False
            for allowance in lane.allowances.values():
                if not allowance.roomy(now):
                    return False
        return True

    def known_of(self, reading: Reading, operation: str = "") -> tuple[str, float, bool]:
        """What was learnt of the limit that *reading* is of: the name of its lane, the calls a second where it is a
        bucket that is refilled (0 where it is not), and whether it is a window that slides.
        """
        with self._lock:
            name = reading.bucket or (operation if self._apart else "")
            lane = self._lanes.get(name)
            allowance = None if lane is None else lane.allowances.get(reading.policy)
            return (name, 0.0, False) if allowance is None else (name, allowance.refill, allowance.slides)

    def lane_of(self, operation: str) -> str:
        """The name of the lane that *operation* belongs to, as far as is known."""
        if self._apart and operation:
            return operation
        lane = self._where.get(operation)
        return "" if lane is None else lane.name

    # For operators ---------------------------------------------------------------------------------------------------

    def snapshot(self) -> GateView:
        """What it does now."""
        with self._lock:
            now = self._now()
            heads = [head for lane in self._lanes.values() for head in [next(iter(lane.waiting), None)] if head]
            first = min(heads, key=lambda head: head.until, default=None)
            limits = [str(quota) for quota in self._quotas]
            if self._pacer is not None:
                limits.append(str(self._pacer))
            for lane in self._lanes.values():
                of = f"{lane.name}: " if lane.name else ""
                if lane.closed > now:
                    limits.append(f"{of}{_ASKED}, {lane.closed - now:.3g} s more")
                limits += [of + each.why(now, lane.flying) for each in lane.allowances.values()]
            return GateView(
                self.waiting,
                0.0 if first is None else max(first.until - now, 0.0),
                "" if first is None else first.why,
                len(self._out),
                tuple(limits),
            )

    def __repr__(self) -> str:
        state = "free" if self.free else f"{self.waiting} waiting, {math.ceil(self._lanes[''].flying)} in flight"
        return f"<Gate {state}>"
