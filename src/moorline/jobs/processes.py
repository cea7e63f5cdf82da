"""Runs functions in processes of their own: what computes for long holds up no loop, and can be killed.

The standard library's executor breaks as a whole when one process dies, and cannot end one that takes too long.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import pickle
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, Final

from moorline.clock import Clock
from moorline.errors import JobProcessDied
from moorline.jobs.context import JobContext
from moorline.jobs.process_child import Task, serve
from moorline.jobs.threads import Threads

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

__all__ = ["Processes"]

_MOST_JOBS: Final = 1_000  # of one process: what a library leaks is given back with it


class Processes:
    """At most *limit*, started when needed, each for one function at a time and then for the next."""

    def __init__(self, limit: int, clock: Clock) -> None:
        self._threads = Threads(limit, name="moorline-process")  # each waits for what its process answers
        self._clock = clock
        self._idle: list[_Process] = []
        self._lock = threading.Lock()
        self._closed = False

    async def run(
        self,
        function: Callable[..., Any],
        args: list[Any],
        kwargs: dict[str, Any],
        context: JobContext,
        *,
        timeout: float | None = None,
    ) -> Any:
        """The function's result. After *timeout* seconds, or when the caller is cancelled, its process is killed.

        Raises TimeoutError, JobProcessDied, and what the function raises.
        """
        task = Task(function.__module__, function.__qualname__, args, kwargs, context.facts)
        run = _Run(self, task, context, timeout)
        try:
            return await self._threads.run(run, [], {})
        except asyncio.CancelledError:
            run.cancel()
            raise

    def take(self) -> _Process:
        """One that is free, or a new one."""
        while True:
            with self._lock:
                process = self._idle.pop() if self._idle else None
            if process is None:
                return _Process(self._clock)
            if process.lives():
                return process
            process.end()  # it died while nobody used it, such as of too little memory: no job's fault

    def put(self, process: _Process) -> None:
        """It is free again, unless it had enough."""
        with self._lock:
            if not self._closed and process.jobs < _MOST_JOBS:
                self._idle.append(process)
                return
        process.end()

    def close(self) -> None:
        """End those that are free; who runs something is ended by its canceller."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for process in idle:
            process.end()
        self._threads.close()


class _Run:
    """One call in a process, in one of the threads; may be cancelled from another one."""

    def __init__(self, pool: Processes, task: Task, context: JobContext, timeout: float | None) -> None:
        self._pool = pool
        self._task = task
        self._context = context
        self._timeout = timeout
        self._lock = threading.Lock()
        self._cancelled = False
        self._process: _Process | None = None

    def __call__(self) -> Any:
        with self._lock:
            if self._cancelled:
                raise asyncio.CancelledError
            process = self._process = self._pool.take()
        answered = False
        try:
            answer = process.call(self._task, self._timeout, self._context.tell)
            answered = True
        finally:
            with self._lock:
                self._process = None  # from here on it may be another one's
            if answered:
                self._pool.put(process)
            else:
                process.end()
        kind, what, *trace = answer
        if kind == "done":
            return what
        error: BaseException = pickle.loads(what)  # noqa: S301 -- from our own process
        error.add_note(f"in its process:\n{trace[0]}")
        raise error

    def cancel(self) -> None:
        """Kill its process, or let it never begin."""
        with self._lock:
            self._cancelled = True
            if self._process is not None:
                self._process.kill()


class _Process:
    def __init__(self, clock: Clock) -> None:
        spawn = multiprocessing.get_context("spawn")  # a fork would copy threads' locks, and connections
        self._clock = clock
        self._pipe: Connection
        self._pipe, theirs = spawn.Pipe()
        self._process: SpawnProcess = spawn.Process(target=serve, args=(theirs,), name="moorline-job", daemon=True)
        self._process.start()
        theirs.close()
        self.jobs = 0

    def call(self, task: Task, timeout: float | None, tell: Callable[[float, str], None]) -> tuple[Any, ...]:
        """The last answer; progress is told on the way."""
        self.jobs += 1
        until = None if timeout is None else self._clock.monotonic() + timeout
        try:
            self._pipe.send(task)
            while True:
                if until is not None and not self._pipe.poll(max(0.0, until - self._clock.monotonic())):
                    raise TimeoutError(f"the job took longer than its timeout of {timeout} s")
                answer: tuple[Any, ...] = self._pipe.recv()
                if answer[0] != "progress":
                    return answer
                tell(*answer[1:])
        except (EOFError, ConnectionError) as error:
            self._process.join(1.0)
            raise JobProcessDied(f"the job's process died {_how(self._process.exitcode)}") from error

    def lives(self) -> bool:
        """Whether it can be given something to run."""
        return self._process.is_alive()

    def kill(self) -> None:
        """At once, from any thread: who waits for its answer learns that it died."""
        self._process.kill()

    def end(self) -> None:
        """When nobody waits for it any more."""
        self._process.kill()
        self._process.join()
        self._pipe.close()


def _how(code: int | None) -> str:
    if code is None:
        return "(it did not say how)"
    return f"of signal {-code}" if code < 0 else f"with exit code {code}"
