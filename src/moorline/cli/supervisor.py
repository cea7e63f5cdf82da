"""Several processes of one command: started, started again when they crash, and stopped together.

Each crash waits longer than the one before (half a second, doubled up to half a minute); a process that has run for a
minute is well again. The others go on meanwhile. The first SIGTERM or SIGINT is passed on, so that workers finish
within their grace; so is the second one, at which they give back what runs. Who has not ended when the grace is over,
or some seconds after the second signal, is killed, and a third one kills at once. SIGHUP replaces the processes one
after the other, as long as those that are new stay. They also stop when the supervisor is gone: each holds the end of a
pipe that closes then.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from moorline.telemetry import logger

__all__ = ["PARENT", "Supervisor", "end_with_parent"]

PARENT: Final = "MOORLINE_SUPERVISED_BY"
"""The environment variable that names the pipe's descriptor."""

_MISUSED: Final = 2  # the exit code of a wrong setting: the next process would say the same
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 30.0
_WELL_AFTER: Final = 60.0
_SETTLED_AFTER: Final = 5.0
_AT_ONCE: Final = 4.0  # seconds that giving back what runs may take
_KILL_AGAIN: Final = 0.5  # seconds: one may have been about to start

log = logger("supervisor")


class Supervisor:
    """Keeps *count* processes of *command* running. *grace* is how long one may take to end before it is killed,
    *at_once* the same after a second signal. Where they are replaced, the next is after *settled* seconds of the new
    one.
    """

    def __init__(
        self,
        command: Sequence[str],
        count: int,
        *,
        grace: float,
        first_pause: float = _FIRST_PAUSE,
        settled: float = _SETTLED_AFTER,
        at_once: float = _AT_ONCE,
    ) -> None:
        self._command = tuple(command)
        self._count = count
        self._grace = grace
        self._first_pause = first_pause
        self._settled = settled
        self._at_once = at_once
        self._running: dict[int, asyncio.subprocess.Process] = {}  # by place
        self._begun = [0] * count  # how often, by place
        self._stop = asyncio.Event()
        self._stop_now = asyncio.Event()
        self._code = 0
        self._signals = 0

    async def run(self) -> int:
        """Until told to stop; the exit code: 0, or that of a process that was misused."""
        reading, writing = os.pipe()
        try:
            with self._heeding():
                async with asyncio.TaskGroup() as places:
                    for place in range(self._count):
                        places.create_task(self._keep(place, reading))
        finally:
            os.close(reading)
            os.close(writing)
        return self._code

    async def _keep(self, place: int, pipe: int) -> None:
        loop = asyncio.get_running_loop()
        crashes = 0
        while not self._stop.is_set():
            since = loop.time()
            code = await self._run_one(place, pipe)
            if self._stop.is_set():
                return
            if code == _MISUSED and self._begun[place] == 1 and loop.time() - since < _WELL_AFTER:
                # Later, such as at a deployment, it is no reason to stop those that work.
                self._code = code
                self._tell_all(signal.SIGTERM)
                self._stop.set()
                return
            crashes = 0 if code == 0 or loop.time() - since >= _WELL_AFTER else crashes + 1
            pause = min(self._first_pause * 2 ** (crashes - 1), _LONGEST_PAUSE) if crashes else 0.0
            pause *= random.uniform(0.75, 1.25)
            tell = log.info if code == 0 else log.error
            tell("process_ended", place=place, code=code, again_in=round(pause, 2))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), pause)

    async def _run_one(self, place: int, pipe: int) -> int | None:
        """Its exit code; None when it could not be started."""
        self._begun[place] += 1
        try:
            # A session of its own: what the terminal tells all of a group comes through us, once.
            process = await asyncio.create_subprocess_exec(
                *self._command, pass_fds=(pipe,), start_new_session=True, env={**os.environ, PARENT: str(pipe)}
            )
        except OSError as error:  # no memory, or the interpreter is being installed anew: the others go on
            log.error("process_not_started", place=place, error=str(error))
            return None
        self._running[place] = process
        log.info("process_started", place=place, pid=process.pid)
        if self._stop.is_set():  # told while it was started
            process.send_signal(signal.SIGTERM)
        try:
            return await process.wait()
        finally:
            del self._running[place]

    @contextlib.contextmanager
    def _heeding(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        asked = asyncio.Event()
        beside = [loop.create_task(self._replacing(asked)), loop.create_task(self._kill_late())]
        heeds: dict[signal.Signals, Callable[[], None]] = {
            signal.SIGTERM: self._end, signal.SIGINT: self._end, signal.SIGHUP: asked.set,
        }  # fmt: skip
        for number, heed in heeds.items():
            loop.add_signal_handler(number, heed)
        try:
            yield
        finally:
            for task in beside:
                task.cancel()
            for number in heeds:
                loop.remove_signal_handler(number)

    def _end(self) -> None:
        self._signals += 1
        log.info("stopping", processes=len(self._running), asked=self._signals)
        self._stop.set()
        if self._signals > 1:
            self._stop_now.set()
        self._tell_all(signal.SIGTERM if self._signals < 3 else signal.SIGKILL)

    async def _kill_late(self) -> None:
        """Those that were told to stop and hang."""
        await self._stop.wait()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop_now.wait(), self._grace)
            await asyncio.sleep(self._at_once)
        pids = [process.pid for process in self._running.values()]
        advice = "they did not end when told to; others take over their jobs when the leases are out"
        log.error("processes_killed", pids=pids, advice=advice)
        while True:
            self._tell_all(signal.SIGKILL)
            await asyncio.sleep(_KILL_AGAIN)

    def _tell_all(self, number: signal.Signals) -> None:
        for process in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)

    async def _replacing(self, asked: asyncio.Event) -> None:
        """Each time that it is *asked*, and once more for what was asked meanwhile: that may mean newer code."""
        while await asked.wait():
            asked.clear()
            await self._replace()

    async def _replace(self) -> None:
        """One after the other, so that most work meanwhile; no more once a new one has not stayed."""
        for place in range(self._count):
            process = self._running.get(place)
            if process is None or self._stop.is_set():
                continue
            begun = self._begun[place]
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), self._grace)
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), self._settled)
                return
            if place not in self._running or self._begun[place] > begun + 1:
                log.error("replacing_stopped", place=place, reason="the new process has ended; the others go on")
                return


def end_with_parent() -> None:
    """In a supervised process: be told to stop when the supervisor is gone."""
    given = os.environ.pop(PARENT, "")
    if not given.isdigit():
        return

    def wait() -> None:
        with contextlib.suppress(OSError):
            while os.read(int(given), 1):
                pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="moorline-parent", daemon=True).start()
