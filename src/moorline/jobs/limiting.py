"""A worker's part in limits: asks for what it has claimed, sends back what may not begin yet, says what has ended."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from random import Random
from typing import TYPE_CHECKING, Final

from moorline.clock import Clock
from moorline.errors import StoreError
from moorline.jobs.broker import Completion
from moorline.jobs.job import Claim
from moorline.jobs.limit_store import Ask, Denied, Limits
from moorline.jobs.limits import Line, Rule
from moorline.jobs.notes import Notes, Nowhere
from moorline.jobs.stopping import LOOK

if TYPE_CHECKING:
    from moorline.telemetry import Log

__all__ = ["Limiting"]

_BEATS: Final = 4  # in a lease, as of the worker itself
_GATHER: Final = 0.01  # seconds between two words about what has ended
_LOOK: Final = 0.1  # seconds between two looks whether others have made room
_LEAST_PARKED: Final = 4
_MOST_PARKED: Final = 1_000
_MOST_LINES: Final = 10_000
_UNUSED: Final = 86_400.0

_NOWHERE: Final = Nowhere()

Rules = Callable[[Claim], Sequence[Rule]]


class Limiting:
    """For one run of a worker. *rules* says under which rules a job is; *lease* is the worker's, in seconds.

    Some of those that find too many running stay here, and *begin* as soon as there is room; the others come again.
    Whom *notes* ask to stop meanwhile is *called off* instead, and why.
    """

    def __init__(
        self,
        limits: Limits,
        rules: Rules,
        begin: Callable[[Sequence[Claim]], None],
        worker: str,
        lease: float,
        clock: Clock,
        random: Random,
        log: Log,
        *,
        notes: Notes = _NOWHERE,
        called_off: Callable[[Claim, str], None] = lambda *_: None,
    ) -> None:
        self._begin = begin
        self._notes = notes
        self._called_off = called_off
        self._look_for_stops_at = 0.0  # by the monotonic clock
        self.parked: dict[str, Claim] = {}
        self._parked_of: Counter[str] = Counter()  # by the key of a rule
        self._limits = limits
        self._rules = rules
        self._worker = worker
        self._lease = lease
        self._clock = clock
        self._random = random
        self._log = log
        self._held: dict[str, list[Rule]] = {}  # by job
        self._lines: dict[str, Line] = {}  # by the key of a rule
        self._ended: dict[str, int] = {}  # by the key of a rule: how many, not yet told
        self._wake = asyncio.Event()
        self._counting = asyncio.Lock()  # what is counted here and there is the same while nobody has it
        self._doubt = False  # a word about it got no answer: it was heard, or not
        self._keep_at = 0.0  # by the monotonic clock

    async def admit(self, claims: Sequence[Claim], *, park: bool = True) -> tuple[list[Claim], list[Completion]]:
        """Those that may begin, and how the others come again; no attempt is spent. Raises StoreError.

        Without *park* none of them stays here.
        """
        asked = {claim.id: rules for claim in claims if (rules := list(self._rules(claim)))}
        if not asked:
            return list(claims), []
        async with self._counting:
            await self._tell()  # what has ended here must not keep out what comes here
            now = self._clock.wall()
            denied = await self._ask(list(asked.items()))
            self._held |= {job: rules for job, rules in asked.items() if job not in denied}
        begin = [claim for claim in claims if claim.id not in denied]
        sent_away = [one for one in claims if one.id in denied and not (park and self._park(one, denied[one.id]))]
        return begin, [self._again(claim, denied[claim.id], now) for claim in sent_away]

    def _park(self, claim: Claim, denied: Denied) -> bool:
        rule = denied.rule
        if rule.concurrency is None or denied.standing.running < rule.concurrency or len(self.parked) >= _MOST_PARKED:
            return False
        if self._parked_of[rule.key] >= max(_LEAST_PARKED, rule.concurrency):
            return False
        self._parked_of[rule.key] += 1
        self.parked[claim.id] = claim
        self._wake.set()
        return True

    async def _ask_again(self) -> None:
        """For those that are parked."""
        asked = [(claim.id, list(self._rules(claim))) for claim in self.parked.values()]
        denied = await self._ask(asked)
        await self._call_off(denied)
        admitted = []
        for job, rules in asked:
            if job in denied:
                continue
            if job in self.parked:
                admitted.append((self.parked.pop(job), rules))
            else:  # it was given back meanwhile, or called off, and is counted all the same
                self._free(rules)
        self._held |= {claim.id: rules for claim, rules in admitted}
        self._parked_of = Counter(one.rule.key for job, one in denied.items() if job in self.parked)
        if admitted:
            self._begin([claim for claim, _ in admitted])

    async def _call_off(self, denied: Container[str]) -> None:
        """Those that were asked to stop; of those that may not begin yet, that is looked for some times a minute."""
        now = self._clock.monotonic()
        every = now >= self._look_for_stops_at
        if every:
            self._look_for_stops_at = now + LOOK
        held = {job: claim.deliveries for job, claim in self.parked.items() if every or job not in denied}
        try:
            stops = await self._notes.stops(held) if held else {}
        except StoreError as error:
            self._log.warning("stops_not_read", error=str(error))  # they are looked for while it runs, too
            return
        for job, reason in stops.items():
            claim = self.parked.pop(job, None)
            if claim is not None:
                self._called_off(claim, reason)

    async def _ask(self, asked: Sequence[tuple[str, Sequence[Rule]]]) -> dict[str, Denied]:
        with self._in_doubt():
            return await self._limits.ask(Ask(self._worker, self._clock.wall() + self._lease, asked))

    @contextlib.contextmanager
    def _in_doubt(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._doubt = True
            self._wake.set()
            raise

    def clear(self) -> list[Claim]:
        """Those that are parked, to be given back."""
        parked = list(self.parked.values())
        self.parked.clear()
        self._parked_of.clear()
        return parked

    def _again(self, claim: Claim, denied: Denied, now: float) -> Completion:
        line = self._line(denied.rule)
        at = line.place(denied.rule, denied.standing, now, self._random, again=claim.snoozes > 0)
        # Counted once, however often: who waits for a place has not said that it is not its time.
        return Completion(claim.id, claim.deliveries, "ready", run_at=at, refund=True, snoozed=claim.snoozes == 0)

    def _line(self, rule: Rule) -> Line:
        line = self._lines.get(rule.key)
        if line is None:
            if len(self._lines) >= _MOST_LINES:
                self._lines.pop(next(iter(self._lines)))
            line = self._lines[rule.key] = Line()
        return line

    def ended(self, job: str, seconds: float | None = None) -> None:
        """A job has ended after so long, or was given back before it began."""
        rules = self._held.pop(job, ())
        self._free(rules)
        for rule in rules:
            if rule.concurrency is not None and seconds is not None:
                self._line(rule).ran(seconds, self._clock.wall())

    def _free(self, rules: Sequence[Rule]) -> None:
        for rule in rules:
            if rule.concurrency is not None:
                self._ended[rule.key] = self._ended.get(rule.key, 0) + 1
                self._wake.set()

    async def run(self) -> None:
        """Says what has ended, and keeps what runs; for ever."""
        while True:
            try:
                async with asyncio.timeout(_LOOK if self.parked else self._lease / _BEATS):
                    await self._wake.wait()
            except TimeoutError:
                pass
            else:
                await asyncio.sleep(_GATHER)
            self._wake.clear()
            try:
                async with self._counting:
                    await self._tell()
                    if self.parked:
                        await self._ask_again()
                if self._held and self._clock.monotonic() >= self._keep_at:
                    self._keep_at = self._clock.monotonic() + self._lease / _BEATS / 2
                    await self._limits.keep(self._worker, self._clock.wall() + self._lease)
            except StoreError as error:
                self._log.warning("job_limits_wait", error=str(error))
                await asyncio.sleep(self._lease / _BEATS / 4)

    async def _tell(self) -> None:
        """What has ended; after a doubt, all that runs instead."""
        ended, self._ended = self._ended, {}
        with self._in_doubt():
            if self._doubt:
                held = Counter(rule.key for one in self._held.values() for rule in one if rule.concurrency is not None)
                await self._limits.settle(self._worker, self._clock.wall() + self._lease, held)
                self._doubt = False
            elif ended:
                await self._limits.release(self._worker, ended)

    async def prune(self) -> None:
        """Forget what nobody has used for a day. Raises StoreError."""
        await self._limits.prune(self._clock.wall() - _UNUSED, self._worker)

    async def leave(self) -> None:
        """Nothing runs here any more. Raises StoreError."""
        await self._limits.leave(self._worker)
