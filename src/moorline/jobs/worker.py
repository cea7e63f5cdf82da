"""``Worker``: claims jobs, runs them, stores how they ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any, Final

from moorline.clock import SYSTEM, Clock
from moorline.errors import ConfigurationError, Misuse, StoreError, StoreUnavailable
from moorline.jobs.ageing import AGEING
from moorline.jobs.broker import WorkerInfo
from moorline.jobs.chores import Chore, look_after
from moorline.jobs.companions import Companion, accompanied
from moorline.jobs.decision import given_back
from moorline.jobs.heartbeat import Heartbeat
from moorline.jobs.registry import Jobs
from moorline.jobs.signals import handled
from moorline.jobs.slots import Slots
from moorline.jobs.steps import Steps
from moorline.store.ids import new_id
from moorline.telemetry import logger

__all__ = ["Worker"]

_LEASE_SHARE: Final = 0.8  # of the lease, that a claim lives without a heartbeat; the rest is for being noticed
_RESCUE_SHARE: Final = 0.15  # of the lease, between two looks for workers that died
_STEP_SHARE: Final = 0.2  # of the lease, that the wall clock may gain between two such looks
_PRUNE_EVERY: Final = 60.0
_STALE: Final = 1.0  # seconds that a claimed job may wait for a free slot before others may have it
_MAX_UNSAVED: Final = 5_000
_PATIENCE: Final = 60.0  # seconds without new claims, so that a suspect can run alone
_LATER: Final = 300.0  # seconds until the next such try
_SAVE_AT_END: Final = 5.0  # seconds that storing results may take after the last job
_UNWIND: Final = 2.0  # seconds that a cancelled job may take to end
_DOUBTS: Final = 3  # looks after a failure: a claim that got no answer may be carried out later than what followed it
_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 2.0


class Worker(Slots):
    """Runs the jobs of some queues, up to *concurrency* at a time; those that ask for a process, in up to *processes*
    of them (default: as many as there are cores).

    ``lease`` (seconds): how soon the jobs of a worker that died are taken over; the clocks of all machines must agree
    to a small part of it. Where one is set forward, or slept, its workers look for dead ones a lease later. ``grace``:
    how long running jobs may take after the stop signal before they are cancelled and given back. ``poll``: the longest
    time in which a new job is noticed if no notification comes. ``keep``: how long done jobs are kept. ``quarantine``:
    a job whose worker died runs alone for this long before others join it.
    ``ageing``: seconds of waiting that make up for a step of priority, so that nothing waits for ever; 0 for strict
    priorities. ``chores`` are looked after while it ``run``s, and ``companions`` run beside it.
    """

    def __init__(
        self,
        jobs: Jobs,
        *,
        concurrency: int = 50,
        processes: int | None = None,
        lease: float = 30.0,
        grace: float = 25.0,
        queues: Sequence[str] = ("default",),
        clock: Clock = SYSTEM,
        poll: float = 1.0,
        keep: float = 86_400.0,
        quarantine: float = 5.0,
        ageing: float = AGEING,
        chores: Sequence[Chore] = (),
        companions: Sequence[Companion] = (),
        seed: int | None = None,
    ) -> None:
        for name, number in {"concurrency": concurrency, "processes": 1 if processes is None else processes}.items():
            if number < 1:
                raise ConfigurationError(f"{name}: {number!r} is not a positive number")
        for name, seconds in {"lease": lease, "poll": poll, "quarantine": quarantine}.items():
            if not 0 < seconds < float("inf"):
                raise ConfigurationError(f"{name}: {seconds!r} is not a positive number of seconds")
        if grace < 0 or keep < 0:
            raise ConfigurationError("grace, keep: must not be negative")
        if not 0 <= ageing < float("inf"):
            raise ConfigurationError(f"ageing: {ageing!r} is not a number of seconds, 0 for none")
        if isinstance(queues, str) or not queues or not all(queues):
            raise ConfigurationError(f"queues: {queues!r} is not a list of names")
        self._jobs = jobs
        self._broker = jobs.broker
        self._concurrency = concurrency
        self._process_limit = processes or os.cpu_count() or 1
        self._lease = lease
        self._grace = grace
        self._queues = tuple(queues)
        self._clock = clock
        self._poll = poll
        self._keep = keep
        self._quarantine = quarantine
        self._ageing = ageing
        self._chores = tuple(chores)
        self._companions = tuple(companions)
        self._random = random.Random(seed)
        self._log = logger("jobs")
        self._active = False
        self._done = 0

    def _prepare(self) -> None:
        """Everything that belongs to one run; an event loop runs."""
        now = self._clock.wall()
        self._info = WorkerInfo(
            new_id(now), socket.gethostname(), os.getpid(), self._queues, now, self._lease * _LEASE_SHARE, self._ageing
        )
        self._prepare_slots(self._info.id)
        self._taken_in_at = 0.0
        self._stop_now = asyncio.Event()
        self._doubt = False
        self._doubts_left = 0
        self._suspects = True
        self._suspects_after = 0.0
        self._rescue_after = 0.0

    @property
    def id(self) -> str:
        """The identity of the present run, as stored with the jobs it holds."""
        return self._info.id

    def stop(self, *, now: bool = False) -> None:
        """Claim no more and finish what runs, within the grace; ``now`` gives it back at once. Call it on the loop."""
        if not self._active:
            return
        self._stop_asked.set()
        if now:
            self._stop_now.set()
        self._kick.set()

    async def run(self, *, signals: bool = True) -> int:
        """Work until ``stop()``, or SIGTERM or SIGINT (a second one: at once). Returns how many jobs ended.

        Results are stored before it returns, and jobs that did not end are given back without spending an attempt.
        """
        async with self._session(signals=signals):
            chores = [look_after(one, self.id, self._log, self._random) for one in self._chores]
            others = (self._maintain(), self._stops.run(self._random), *chores, self._stop_asked.wait())
            beside = self._companions, self.id, self._stop_asked, self._clock, self._log, self._random
            async with accompanied(*beside):
                await self._first_failure(self._claim_for_ever(), *others)
        return self._done

    async def drain(self) -> int:
        """Work until nothing is due; how many jobs ended. For tests and one-off commands; no signal is handled."""
        async with self._session():
            await self._first_failure(self._drain(), self._stop_asked.wait())
        return self._done

    async def run_once(self) -> int:
        """Claim one batch, run it, store its results; returns how many jobs ended. For tests."""
        async with self._session():
            await self._first_failure(self._once(), self._stop_asked.wait())
        return self._done

    # --- a run's frame

    @contextlib.asynccontextmanager
    async def _session(self, *, signals: bool = False) -> AsyncIterator[None]:
        if self._active:
            raise Misuse("this worker runs already")
        self._active = True
        self._prepare()
        with handled(self._on_signal) if signals else contextlib.nullcontext():
            async with self._frame():
                yield

    @contextlib.asynccontextmanager
    async def _frame(self) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        heartbeat = Heartbeat(self._broker, self._info, self._clock, self._log)
        unlisten = self._broker.listen(self._kick.from_anywhere)
        saver = loop.create_task(self._completions.run())
        beside = [loop.create_task(self._reports.run())]
        if self._limiting is not None:
            beside.append(loop.create_task(self._limiting.run()))
        heartbeat.start()
        self._log.info("worker_started", worker=self.id, queues=self._queues, concurrency=self._concurrency)
        try:
            yield
        except asyncio.CancelledError:
            self._stop_now.set()
            raise
        except BaseException as error:
            self._log.error("worker_failed", worker=self.id, error=repr(error))
            raise
        finally:
            self._stop_asked.set()
            try:
                await self._wind_up(saver)
            finally:
                saver.cancel()
                for task in beside:
                    task.cancel()
                unlisten()
                await heartbeat.stop()
                self._threads.close()
                self._processes.close()
                self._active = False
                self._log.info("worker_stopped", worker=self.id, done=self._done)

    async def _first_failure(self, work: Coroutine[Any, Any, Any], *others: Coroutine[Any, Any, Any]) -> None:
        """Until one of them ends; then the first is asked to end, so that no claim is cut in half, the others cut."""
        tasks = [asyncio.ensure_future(one) for one in (work, *others)]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            self._stop_asked.set()
            self._kick.set()
            await asyncio.wait({tasks[0]}, timeout=_SAVE_AT_END)
        finally:
            self._stop_asked.set()  # a wait that ends in the instant in which it is cancelled does not tell of that
            self._kick.set()
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    def _on_signal(self) -> None:
        at_once = self._stop_asked.is_set()
        self._log.info("worker_stopping", worker=self.id, running=len(self._tasks), at_once=at_once)
        self.stop(now=at_once)

    async def _wind_up(self, saver: asyncio.Task[None]) -> None:
        """Give back what did not start, let finish what runs, cancel and give back the rest, store all, take leave."""
        self._shed()
        running = [task for _, task in self._tasks.values()]
        if running and not self._stop_now.is_set():
            waits = [asyncio.ensure_future(self._idle.wait()), asyncio.ensure_future(self._stop_now.wait())]
            await asyncio.wait(waits, timeout=self._grace, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
        await self._take_back()
        stored = asyncio.ensure_future(self._completions.stored())
        await asyncio.wait({stored, saver}, timeout=_SAVE_AT_END, return_when=asyncio.FIRST_COMPLETED)
        stored.cancel()
        if self._completions.unsaved:
            # The store is away: the lease will run out, and others take these over.
            self._log.error("job_results_lost", jobs=self._completions.unsaved)
            return
        with contextlib.suppress(StoreError):
            if self._limiting is not None:
                await self._limiting.leave()
            await self._broker.give_back(self._info, [])
            await self._broker.leave(self._info)

    async def _take_back(self) -> None:
        self._taking_back = True
        for _, task in self._tasks.values():
            task.cancel()
        left = [task for _, task in self._tasks.values()]
        if left:
            self._log.warning("jobs_given_back", jobs=sum(len(claims) for claims, _ in self._tasks.values()))
            await asyncio.wait(left, timeout=_UNWIND)
        for claims, _ in list(self._tasks.values()):  # they resist; whatever they come to, the job is no longer theirs
            for claim in claims:
                self._completions.add(given_back(claim), again=claim)
        self._tasks.clear()

    # --- claiming

    async def _claim_for_ever(self) -> None:
        pause = _PAUSE
        while not self._stop_asked.is_set():
            try:
                wait = await self._claim()
                pause = _PAUSE
            except StoreError as error:
                self._after_failure(error, "claim_failed")
                wait, pause = pause, min(pause * 2, _LONGEST_PAUSE)
                await self._clock.asleep(wait)
                continue
            if wait > 0 and not self._stop_asked.is_set():
                await self._kick.wait(wait)

    async def _claim(self) -> float:
        """Claim once; returns the seconds to wait for a kick before the next time."""
        if self._doubt:
            # A claim may have been committed and its answer lost: those jobs would be ours until we end.
            running = [claim for claims, _ in self._tasks.values() for claim in claims]
            parked = () if self._limiting is None else self._limiting.parked.values()
            held = [claim.id for claim in (*running, *self._intake, *parked)]
            await self._broker.give_back(self._info, [*held, *self._completions.ids()])
            self._doubt = False
        if self._suspects and self._clock.monotonic() >= self._suspects_after:
            await self._run_suspects()
        self._kick.clear()
        room = self._concurrency - len(self._tasks)
        wanted = self._appetite.wanted(room, self._intake.ready(), self._clock.monotonic())
        self._held_up = self._completions.unsaved > _MAX_UNSAVED
        if wanted <= 0 or self._held_up or self._stop_asked.is_set():
            self._plenty = True
            return self._poll
        claimed = await self._broker.claim(self._info, wanted)
        self._plenty = len(claimed.jobs) >= wanted
        self._taken_in_at = self._clock.monotonic()
        self._intake.put(await self._admitted(claimed.jobs), self._taken_in_at)
        self._pump()
        if self._plenty:
            return 0.0
        until_next = self._poll if claimed.next_at is None else claimed.next_at - self._clock.wall()
        return min(self._poll, max(until_next, 0.001))

    def _after_failure(self, error: StoreError, event: str) -> None:
        self._log.warning(event, worker=self.id, error=str(error))
        if isinstance(error, StoreUnavailable):
            self._doubt = True
            self._doubts_left = _DOUBTS
            # Others could not beat either: give them a lease's time before their jobs are taken for orphans.
            self._rescue_after = self._clock.monotonic() + self._lease

    async def _run_suspects(self) -> None:
        """Jobs that ran when a worker died, one by one with nothing beside them: only the guilty one dies again."""
        if not await self._until_idle(_PATIENCE):
            self._log.warning("suspects_wait", reason="other jobs run too long", again_in=_LATER)
            self._suspects_after = self._clock.monotonic() + _LATER
            return
        while not self._stop_asked.is_set():
            await self._completions.stored()
            claimed = await self._broker.claim(self._info, 1, alone=True)
            if not claimed.jobs:
                self._suspects = False
                return
            suspect = claimed.jobs[0]
            if await self._stopped_before(suspect) or not await self._admitted([suspect], alone=True):
                continue
            self._log.info("suspect_runs_alone", job=suspect.id, name=suspect.name, crashes=suspect.crashes)
            task = self._start((suspect,))
            await asyncio.wait({task}, timeout=self._quarantine)
            if not task.done():
                return  # it has lived long enough to have company

    async def _until_idle(self, timeout: float) -> bool:
        try:
            await asyncio.wait_for(self._idle.wait(), timeout)
        except TimeoutError:
            return False
        return not self._stop_asked.is_set()

    async def _drain(self) -> None:
        await self._rescue()
        while not self._stop_asked.is_set():
            before = self._done
            while await self._claim() == 0.0:
                if self._tasks:  # else all that was claimed gathers, and there is more of it
                    await self._until_idle(self._grace)
            await self._idle.wait()
            await self._completions.stored()
            if self._done == before and not self._suspects:
                return

    async def _once(self) -> None:
        await self._rescue()
        await self._claim()
        await self._idle.wait()

    # --- looking after the rest

    async def _maintain(self) -> None:
        steps = Steps(self._clock)
        next_prune = self._clock.monotonic() + self._random.uniform(0.0, _PRUNE_EVERY)
        while True:
            # Not all workers at the same moments.
            await asyncio.sleep(self._lease * _RESCUE_SHARE * self._random.uniform(0.8, 1.2))
            now = self._clock.monotonic()
            gained = steps.forward()
            if gained > self._lease * _STEP_SHARE:
                # Every lease may look over: whose workers live beat again within a lease's time.
                self._log.warning("clock_stepped", worker=self.id, seconds=round(gained, 1))
                self._rescue_after = now + self._lease
            if self._doubts_left:
                self._doubts_left -= 1
                self._doubt = True
                self._kick.set()
            if self._intake and now - self._taken_in_at > _STALE and len(self._tasks) >= self._concurrency:
                self._shed()
            try:
                if now >= self._rescue_after:
                    await self._rescue()
                if now >= next_prune:
                    next_prune = now + _PRUNE_EVERY
                    await self._prune()
            except StoreError as error:
                self._after_failure(error, "maintenance_failed")

    async def _rescue(self) -> None:
        rescued = await self._broker.rescue(self._info)
        if rescued.ready or rescued.dead:
            self._log.warning("jobs_rescued", jobs=len(rescued.ready), dead=list(rescued.dead))
        if rescued.suspects and not self._suspects:
            self._suspects = True
            self._kick.set()

    async def _prune(self) -> None:
        more = True
        while more and not self._stop_asked.is_set():
            before = self._clock.wall() - self._keep
            more = await self._broker.prune(before) + await self._broker.notes.prune(before) > 0
            if self._limiting is not None:
                await self._limiting.prune()
            if self._jobs.groups is not None:
                more = await self._jobs.groups.prune(before) > 0 or more
            await asyncio.sleep(_PAUSE)  # room for the real work between two batches
