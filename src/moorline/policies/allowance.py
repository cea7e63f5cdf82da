"""What a service's answers say of one of its limits, and how many calls that lets us send at a moment.

A reading is late by the way back, readings overtake one another, and other processes use the same limit. So what
remains is counted against what we have in flight, the least of the readings that may be out of order holds, and a
process that uses a part of the limit takes that part of what remains. Three kinds of limits are told apart by what
they say: a window that begins anew at its reset, one that slides, and a bucket that is refilled at a rate (its reset
is when it will be full).
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from moorline.policies.trail import Trail

__all__ = ["Allowance", "Reading"]

_SCARCE: Final = 0.2  # of the limit: below, what remains is spread over the time until the reset
_LONGEST_GAP: Final = 1.0  # but never thinner than this: who calls now and then must not wait while calls remain
_UNSURE_GAP: Final = 0.25  # between probes after a reset whose effect nobody has seen yet
_ROUNDING: Final = 1.5  # seconds by which the resets of one window differ: whole seconds, and the way back
_TELLING: Final = 3.0  # seconds
_ROOMY: Final = 500.0  # so much more than any process has in flight that there is no need to count
_FORGOTTEN: Final = 60.0  # seconds after the window without a word, and the service has stopped saying
_LEAST: Final = 0.01  # seconds
_KEPT: Final = 0.6  # of our part, at a refusal
_REGAINED: Final = 1.002  # of our part, at an answer
_LEAST_PART: Final = 0.02
_MOST: Final = 1e15
_LONGEST: Final = 366 * 86_400.0


class Reading(NamedTuple):
    """What one answer says of one limit. Seconds are from its arrival; None is what it does not say.

    *bucket* is the part of the service that the limit is for (GitHub's ``search``), empty for all of it; *policy* the
    name of the limit, of which several may hold at once (``daily``). *closed*: nothing is counted, the service wants
    nobody to call this part of it until then.
    """

    remaining: float
    limit: float | None = None
    resets_in: float | None = None
    window: float | None = None
    bucket: str = ""
    policy: str = ""
    closed: bool = False

    @property
    def sound(self) -> bool:
        """Whether all its numbers can be true."""
        limit, resets_in, window = self.limit, self.resets_in, self.window
        return (
            0 <= self.remaining <= _MOST
            and (limit is None or 0 <= limit <= _MOST)
            and (resets_in is None or 0 <= resets_in <= _LONGEST)
            and (window is None or 0 <= window <= _LONGEST)
        )


class Allowance:
    """The model of one limit of a service. Not safe between threads: the gate that owns it holds the lock."""

    __slots__ = (
        "_caution",
        "_foreign",
        "_full",
        "_gap",
        "_left",
        "_limit",
        "_own",
        "_paced",
        "_part",
        "_probes",
        "_quiet",
        "_ratio",
        "_refill",
        "_restores",
        "_seen",
        "_since",
        "_slides",
        "_strikes",
        "_struck",
        "_told",
        "_trail",
        "_used",
        "_way",
        "_window",
        "_window_seen",
        "resets",
    )

    def __init__(self, reading: Reading, now: float) -> None:
        self._limit = self._window = self._window_seen = 0.0
        self._told = False  # whether the service itself names the window
        self._restores = False  # whether a reset was seen to give back the limit
        self._refill = 0.0  # units a second, once it is known for a bucket that is refilled
        self._ratio = 0.0  # seconds until it is full, for each unit used: constant for such a bucket
        self._used = 0.0  # when that was measured
        self._slides = False  # whether a reset gave back only a part: then what was used comes back as it went
        self._trail = Trail()
        self._part = 1.0  # of the limit, for us: less after a refusal, and more again with each answer
        self._caution = 1.0  # grows with refusals
        self._strikes = 0  # refusals while it was taken for a sliding window
        self._struck = -math.inf
        self._way = math.inf  # the shortest way there and back, in seconds
        self._foreign = 0.0  # used by others, in a window that slides
        self._own = 0.0  # what we have used since the window began
        self._full = 0.0  # what remained then
        self._paced = -math.inf  # the next moment for the last of what remains
        self._probes = 0.0  # sent since the reset, before its effect is known
        self._quiet = 0  # answers without a reading, since the last
        self._gap = _UNSURE_GAP
        self._since = now  # when the window began, as far as we know
        self._left = math.inf
        self._seen = -math.inf
        self.resets = now
        self._learn(reading)
        self._begin(reading, now, 0.0)

    # What is allowed -------------------------------------------------------------------------------------------------

    def left(self, now: float, flying: float) -> float:
        """How much may be sent now, when *flying* is on the way."""
        left = self._left
        if self._refill:
            return min(left * self._part + (now - self._seen) * self._refill * self._part, self._limit) - flying
        if self._slides:
            ours = self._trail.total(now, self._window)
            left = max(self._limit - self._foreign - ours, left + (now >= self.resets))  # then at least one came back
            return left * self._share(self._foreign + ours, ours) - flying
        return left * self._share(self._full - left, self._own + flying) - flying

    def _share(self, used: float, own: float) -> float:
        """Our part of what was used is our part of what remains: others use it as well."""
        return max(own / used, 0.05) * self._part if used >= 4 and own < 0.9 * used else self._part

    def wait(self, now: float, flying: float, ahead: float, cost: float, *, at_best: bool = False) -> float:
        """Seconds until *cost* may be sent, when *ahead* goes first; *at_best* where the next reset gives all back."""
        if self._renewed(now):
            return self._rounds(ahead + cost) * self._window if at_best else self._probe(now, ahead, cost)
        left, wanted = self.left(now, flying), ahead + min(cost, max(self._limit, 1.0))
        if left >= wanted:
            return max(self._paced - now, 0.0) + (ahead * self._spread(now, left) if self._scarce(left) else 0.0)
        if self._refill:
            return (wanted - left) / (self._refill * self._part)
        waited = max(self.resets - now, _LEAST)
        if self._slides:
            return self._forgotten(now, flying, wanted)
        beyond = wanted - max(left, 0.0) - 1  # the first after the reset is its probe
        rounds, rest = divmod(max(beyond, 0.0), max(self._limit, 1.0))
        return waited + rounds * self._window + (0.0 if at_best else rest * self._gap)

    def _rounds(self, wanted: float) -> int:
        """How many more resets it takes, after one that gave all back, until *wanted* has passed."""
        return max(math.ceil(wanted / max(self._limit, 1.0)) - 1, 0)

    def _forgotten(self, now: float, flying: float, wanted: float) -> float:
        """Seconds until a sliding window has room for *wanted*: as we remember what it holds, or as it says."""
        ours = self._trail.total(now, self._window)
        room = (self._limit - self._foreign - ours) * self._share(self._foreign + ours, ours) - flying
        waited = self._trail.wait(now, self._window, wanted - room)
        if now < self.resets:
            waited = min(waited, self.resets - now)
        return max(min(waited, self._window), _LEAST)

    def _renewed(self, now: float) -> bool:
        """Whether a reset has passed since the last word of the service."""
        return now >= self.resets and not self._refill and not (self._slides and self._trail.total(now, self._window))

    def _probe(self, now: float, ahead: float, cost: float) -> float:
        """After a reset nobody knows what it gave back: one finds out, others follow at the limit's average rate."""
        most = max(self._limit, 1.0)
        gap = self._gap / self._part
        open_ = 1.0 + (now - self.resets) / gap - self._probes
        if open_ > most:
            self._probes += open_ - most
            open_ = most
        wanted = ahead + min(cost, most)
        return (wanted - open_) * gap if wanted > open_ else 0.0

    def _scarce(self, left: float) -> bool:
        return left < _SCARCE * self._limit

    def _spread(self, now: float, left: float) -> float:
        """Seconds between two of the last calls."""
        if self._refill or self._slides:
            return 0.0
        return min(max(self.resets - now, 0.0) / max(left, 1.0), _LONGEST_GAP)

    def passed(self, now: float, flying: float, cost: float) -> None:
        """*cost* is on its way; *flying* does not hold it yet."""
        if self._renewed(now):
            self._probes += cost
            return
        left = self.left(now, flying)
        if self._scarce(left):
            self._paced = now + cost * self._spread(now, left)

    def returned(self, now: float, cost: float) -> None:
        """*cost* was never sent after all."""
        if self._renewed(now):
            self._probes = max(self._probes - cost, 0.0)

    # What is learnt --------------------------------------------------------------------------------------------------

    def unread(self, now: float, sent: float | None, cost: float) -> None:
        """An answer came that says nothing of this limit: what it cost is gone all the same."""
        self._quiet += 1
        self._remember(now, sent, cost)
        if sent is None or sent >= self._since:
            self._left -= cost
            self._own += cost

    def heed(self, reading: Reading, now: float, sent: float | None, cost: float, flying: float) -> None:
        """An answer came. *sent* is when its request left, None when that was not counted; *flying* is on its way."""
        left = reading.remaining
        if left > _ROOMY and sent is None and now < self.resets and reading.limit == self._limit < left / _SCARCE:
            self._left, self._seen = min(self._left, left), now  # nothing to count yet, as nearly always
            return
        renewed = self._renewed(now)
        self._remember(now, sent, cost)
        if renewed and sent is not None and sent < self.resets:
            return  # of the window that is over
        self._quiet = 0
        self._part = min(self._part * _REGAINED, 1.0)
        self._learn(reading)
        if renewed:
            self._compare(reading, now)
            self._begin(reading, now, cost)
        elif sent is not None and sent < self._since:
            self._left -= cost
        elif self._slides:
            self._slide(reading, now, sent, flying)
        else:
            self._count_down(reading, now, sent, cost)

    def refused(self, now: float, sent: float | None) -> None:
        """A call was refused that should have passed: others use the limit as well, so take a smaller part of it. And
        where nobody named the window, it may be far longer than it seems: after two refusals believe no more than what
        the answers say remains.
        """
        if sent is None or sent < self._struck:
            return
        self._struck = now
        self._part = max(_KEPT * self._part, _LEAST_PART)
        if not self._told:
            self._caution = min(2 * self._caution, 256.0)
            if self._slides:
                self._strikes += 1
                self._slides = self._strikes < 2

    def _remember(self, now: float, sent: float | None, cost: float) -> None:
        """It reached the service before now, by the time of the way back; the next will take the way there."""
        if sent is not None:
            self._way = min(self._way, now - sent)
        self._trail.add(now - (0.0 if math.isinf(self._way) else self._way), cost, self._window)

    def _compare(self, reading: Reading, now: float) -> None:
        """After a reset: what a new window would say was used, and what a sliding one would; the nearer is right."""
        used, anew, sliding = self._limit - reading.remaining, self._probes, self._trail.total(now, self._window)
        if sliding - anew > max(2.0, 0.05 * self._limit):
            nearer = abs(used - sliding) < abs(used - anew) and not self._anew(reading)
            self._slides, self._restores = nearer and self._strikes < 2, not nearer
        elif reading.remaining >= self._limit / 2:
            self._restores = True

    def _anew(self, reading: Reading) -> bool:
        """Whether the window has just begun by its own account; whole seconds tell nothing of a short one."""
        resets_in = reading.resets_in or 0.0
        return (self._window >= _TELLING or resets_in > _ROUNDING) and resets_in > 0.8 * self._window

    def _count_down(self, reading: Reading, now: float, sent: float | None, cost: float) -> None:
        self._own += cost
        resets = self._resets(reading, now)
        if sent is not None and sent >= self._seen:  # newer than all we know
            if reading.remaining > self._left + cost:
                self._begin(reading, now, cost)
                return
            self._left, self._seen = reading.remaining, now
            if resets > self.resets + _ROUNDING:  # no window that begins anew puts that off
                self._slides = not self._refill and self._strikes < 2
            self.resets = resets if self._slides or self._refill else min(self.resets, resets)
        elif reading.remaining <= self._left:
            self._left, self._seen = reading.remaining, now
            self.resets = min(self.resets, resets)

    def _slide(self, reading: Reading, now: float, sent: float | None, flying: float) -> None:
        if sent is None or sent < self._seen:
            if reading.remaining < self._left:
                self._left, self._seen = reading.remaining, now
            return
        self._left, self._seen = reading.remaining, now
        self.resets = self._resets(reading, now)
        used, ours = self._limit - reading.remaining, self._trail.total(now, self._window)
        self._foreign = max(used - ours - flying, 0.0)
        if used < ours / 2 and ours > 0.3 * self._limit:  # it forgot what we remember: it does begin anew
            self._slides = False
        elif (
            not self._told and used >= ours / 2 and self._foreign == 0 and self._window_seen < _TELLING
        ):  # whole seconds make a window too long
            least = max(self._window_seen - 1.0, self._window_seen / 2)
            kept = used + flying + self._trail.since(sent)
            self._window = max(min(self._window, self._trail.age(now, kept)), least)

    def _begin(self, reading: Reading, now: float, cost: float) -> None:
        self._since = max(min(self.resets, now), self._since)
        self._left, self._seen = reading.remaining, now
        self._full, self._own = reading.remaining + cost, cost
        self._probes = 0.0
        self._paced = -math.inf
        self.resets = self._resets(reading, now)

    def _resets(self, reading: Reading, now: float) -> float:
        if reading.resets_in is not None:
            return now + max(reading.resets_in, _LEAST)
        window = self._window or 1.0
        return max(self._since + window, now + _LEAST)

    def _learn(self, reading: Reading) -> None:
        limit = reading.remaining + 1 if reading.limit is None else max(reading.limit, reading.remaining)
        self._limit = limit if reading.limit is not None else max(self._limit, limit)
        if reading.window:
            self._window, self._told = reading.window, True
        elif not (self._told or self._slides):
            self._window = self._window_seen = max(self._window, reading.resets_in or 0.0)
        self._gap = max(self._window / max(self._limit, 1.0), 1e-6)
        if not (self._told or self._restores):
            self._gap = max(self._gap, _UNSURE_GAP * self._caution)
            self._caution = max(0.98 * self._caution, 1.0)
        self._tell_kind(reading)

    def _tell_kind(self, reading: Reading) -> None:
        """A bucket that is refilled says when it will be full, which is in proportion to what was used of it."""
        used = self._limit - reading.remaining
        if reading.resets_in is None or reading.resets_in < 2 or used < 2:
            return
        ratio = reading.resets_in / used
        if self._ratio and abs(reading.resets_in - self._ratio * used) > 1 + 0.1 * reading.resets_in:
            self._ratio = self._refill = 0.0
        elif not self._ratio:
            self._ratio, self._used = ratio, used
        elif used >= 2 * self._used:
            self._refill = 1 / ratio

    @property
    def refill(self) -> float:
        """Units a second, where it is known for a bucket that is refilled; otherwise 0."""
        return self._refill

    @property
    def slides(self) -> bool:
        """Whether it is known for a window that slides."""
        return self._slides

    # For the gate ----------------------------------------------------------------------------------------------------

    def roomy(self, now: float) -> bool:
        """Whether so much remains that calls need not be counted."""
        return now < self.resets and self._left > _ROOMY and not self._scarce(self._left)

    def over(self, now: float) -> bool:
        """Whether the service no longer speaks of it."""
        return self._quiet >= 10 and now > self.resets + max(2 * self._window, _FORGOTTEN)

    def why(self, now: float, flying: float) -> str:
        """The state in a few words."""
        if self._renewed(now):
            return "the service's limit was renewed, and is tried out first"
        left = max(math.floor(self.left(now, flying)), 0)
        if self._refill:
            return f"the service allows {left} more calls, and {self._refill:.3g} a second"
        return f"the service allows {left} more calls in {max(self.resets - now, 0.0):.3g} s"
