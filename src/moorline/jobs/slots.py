"""The part of a worker that runs what it has claimed, as many at a time as it has slots."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING

from moorline.clock import Clock
from moorline.errors import StoreError
from moorline.jobs.appetite import Appetite
from moorline.jobs.broker import Broker
from moorline.jobs.completions import Completions
from moorline.jobs.decision import given_back, goes_on
from moorline.jobs.execution import Ended, Execution
from moorline.jobs.intake import Intake
from moorline.jobs.job import Claim
from moorline.jobs.kick import Kick
from moorline.jobs.limiting import Limiting
from moorline.jobs.notes import Reports
from moorline.jobs.processes import Processes
from moorline.jobs.registry import Jobs
from moorline.jobs.stopping import Stops
from moorline.jobs.threads import Threads

if TYPE_CHECKING:
    from moorline.telemetry import Log

__all__ = ["Slots"]


class Slots:
    """What is claimed waits in the intake for a slot, runs, and what it came to waits to be stored."""

    _jobs: Jobs
    _broker: Broker
    _concurrency: int
    _process_limit: int
    _lease: float
    _clock: Clock
    _random: Random
    _log: Log

    def _prepare_slots(self, worker: str) -> None:
        self._context = contextvars.copy_context()  # jobs start from it, not from the job that made room for them
        self._threads = Threads(self._concurrency)
        self._processes = Processes(self._process_limit, self._clock)
        self._completions = Completions(
            self._broker, self._clock, self._log, self._jobs.groups, self._fewer_unsaved, self._stopped
        )
        self._limiting: Limiting | None = None
        if self._jobs.limits is not None and self._jobs.limited:
            with_lease = (worker, self._lease, self._clock, self._random, self._log)
            self._limiting = Limiting(
                self._jobs.limits, self._jobs.rules, self._begin, *with_lease,
                notes=self._broker.notes, called_off=self._call_off,
            )  # fmt: skip
        self._appetite = Appetite(self._concurrency)
        self._intake = Intake(self._jobs.batching)
        self._linger: asyncio.Task[None] | None = None
        self._linger_until = 0.0
        self._tasks: dict[str, tuple[tuple[Claim, ...], asyncio.Task[None]]] = {}  # by the first claim's id
        self._reports = Reports(self._broker.notes, self._log)
        self._stops = Stops(self._broker.notes, self._tasks, self._can_cancel, self._log)
        self._execution = Execution(
            self._jobs, self._threads, self._processes, self._clock, self._random, self._reports, self._stops, self._log
        )
        self._kick = Kick()
        self._idle = asyncio.Event()
        self._idle.set()
        self._stop_asked = asyncio.Event()
        self._taking_back = False
        self._plenty = True
        self._held_up = False
        self._done = 0

    def _fewer_unsaved(self) -> None:
        if self._held_up:
            self._held_up = False
            self._kick.set()

    async def _admitted(self, claims: list[Claim], *, alone: bool = False) -> list[Claim]:
        """Without those that a limit sends away; what is to run *alone* does not wait here for room."""
        if self._limiting is None or not claims:
            return claims
        try:
            begin, back = await self._limiting.admit(claims, park=not alone)
        except StoreError:
            for claim in claims:
                self._completions.add(given_back(claim))
            raise
        for completion in back:
            self._completions.add(completion)
        return begin

    def _begin(self, claims: Sequence[Claim]) -> None:
        """A limit has room for these."""
        if self._stop_asked.is_set():
            for claim in claims:
                self._give_back(claim)
            return
        self._intake.put(claims, self._clock.monotonic())
        self._pump()

    def _call_off(self, claim: Claim, reason: str) -> None:
        """It has not begun, and a person stopped it."""
        self._ended(claim, self._stopped(claim, reason), self._clock.monotonic())
        self._pump()

    def _give_back(self, claim: Claim) -> None:
        """It has not begun."""
        self._completions.add(given_back(claim), again=claim)
        if self._limiting is not None:
            self._limiting.ended(claim.id)

    def _pump(self) -> None:
        intake, tasks = self._intake, self._tasks
        while len(tasks) < self._concurrency and not self._stop_asked.is_set():
            claims = intake.take(self._clock.monotonic())
            if claims:
                self._start(claims)
            elif intake:
                self._wait_for_more()
                return
            else:
                break
        if not tasks and not intake and not (self._limiting and self._limiting.parked):
            self._idle.set()

    def _wait_for_more(self) -> None:
        """What gathers is run when it is full, or has waited as long as it may."""
        self._idle.clear()
        now = self._clock.monotonic()
        wait = self._intake.due_in(now) or 0.0
        if self._linger is not None:
            if self._linger_until <= now + wait:
                return
            self._linger.cancel()
        self._linger_until = now + wait
        self._linger = asyncio.get_running_loop().create_task(self._after(wait))

    async def _after(self, seconds: float) -> None:
        await self._clock.asleep(seconds)
        self._linger = None
        self._pump()

    def _start(self, claims: tuple[Claim, ...]) -> asyncio.Task[None]:
        self._idle.clear()
        task = asyncio.get_running_loop().create_task(self._run(claims), context=self._context.copy())
        self._tasks[claims[0].id] = (claims, task)
        return task

    async def _run(self, claims: tuple[Claim, ...]) -> None:
        started = self._clock.monotonic()
        ends: list[Ended] = []
        try:
            ends = await self._execution.run(claims)
            for place, end in enumerate(ends):
                if end.error is not None:
                    ends[place] = self._not_its_fault(claims[place], end)
        except asyncio.CancelledError as cancelled:
            # Cancelled by itself, it failed.
            ends = [self._not_its_fault(one, Ended(self._execution.failed(one, cancelled))) for one in claims]
            raise
        except BaseException as error:
            # Whatever it is: a job whose end is not stored would run for as long as this worker lives.
            ends = [self._not_its_fault(one, Ended(self._execution.failed(one, error), error)) for one in claims]
            if isinstance(error, KeyboardInterrupt):
                raise
        finally:
            # A job that resisted being stopped was given back already.
            if self._tasks.pop(claims[0].id, None) is not None:
                for claim, end in zip(claims, ends, strict=True):
                    self._ended(claim, end, started)
                self._pump()
                if self._plenty and self._intake.ready() <= self._appetite.low:
                    self._kick.set()

    def _can_cancel(self, name: str) -> bool:
        handler = self._jobs.find(name)
        return handler is not None and handler.can_be_cancelled

    def _stopped(self, claim: Claim, reason: str) -> Ended:
        return self._execution.stopped(claim, reason)

    async def _stopped_before(self, claim: Claim) -> bool:
        """Whether it was asked to stop under a claim that its worker's death cut short: then it has ended.

        A person's retry forgets crashes, and with them what was asked before it.
        """
        try:
            for deliveries in range(claim.deliveries - claim.crashes, claim.deliveries):
                asked = await self._broker.notes.stops({claim.id: deliveries})
                if asked:
                    self._call_off(claim, asked[claim.id])
                    return True
        except StoreError:
            self._completions.add(given_back(claim))
            raise
        return False

    def _not_its_fault(self, claim: Claim, end: Ended) -> Ended:
        """What failed because it was stopped: by a person, or by us; the latter is as if it had not run."""
        if claim.id in self._stops:
            return self._execution.stopped(claim, self._stops[claim.id])
        return Ended(given_back(claim), end.error) if self._taking_back else end

    def _ended(self, claim: Claim, end: Ended, started: float) -> None:
        completion, error, aftermath = end
        self._reports.last(claim.id)
        if self._stops:
            self._stops.pop(claim.id, None)
        if self._limiting is not None:
            self._limiting.ended(claim.id, self._clock.monotonic() - started)
        keyed = completion if claim.order_key is None else completion._replace(order_key=claim.order_key)
        self._completions.add(keyed, aftermath, again=claim if completion.state == "ready" else None)
        self._done += 1
        self._appetite.ended += 1
        if completion.snoozed and goes_on(claim.snoozes + 1):
            self._log.warning("job_snoozes_on", job=claim.id, name=claim.name, snoozes=claim.snoozes + 1)
        if error is not None or completion.state == "dead":
            self._log.warning(
                "job_failed",
                job=claim.id,
                name=claim.name,
                attempt=claim.attempts,
                state=completion.state,
                error=type(error).__name__,
            )
        elif self._log.is_enabled_for(logging.DEBUG):
            ms = (self._clock.monotonic() - started) * 1e3
            self._log.debug("job", job=claim.id, name=claim.name, state=completion.state, ms=ms)

    def _shed(self) -> None:
        """Give back what waits for a slot: others may have one, and nobody's attempt is spent."""
        parked = [] if self._limiting is None else self._limiting.clear()
        for claim in (*self._intake.clear(), *parked):
            self._give_back(claim)
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        self._appetite.reset()
        if not self._tasks:
            self._idle.set()
