"""Keeps a worker's lease alive from a thread of its own: a job that blocks the event loop is not taken for a crash."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Final

from moorline.clock import Clock
from moorline.errors import Misuse, StoreError
from moorline.jobs.broker import Broker, WorkerInfo
from moorline.telemetry import Log

__all__ = ["Heartbeat"]

BEATS: Final = 4
"""Beats in a lease: three may fail before it is over."""

STALLED_LEASES: Final = 10
"""A loop that did not turn for so many leases is not slow but stuck; its jobs are better off elsewhere."""


class Heartbeat:
    """One lease for the whole worker, whatever number of jobs it holds."""

    def __init__(self, broker: Broker, worker: WorkerInfo, clock: Clock, log: Log) -> None:
        self._broker = broker
        self._worker = worker
        self._clock = clock
        self._log = log
        self._ended = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._turned = clock.monotonic()
        self._thread = threading.Thread(target=self._run, name="moorline-heartbeat", daemon=True)

    def start(self) -> None:
        """Start beating."""
        self._thread.start()

    async def stop(self) -> None:
        """Stop beating."""
        self._ended.set()
        while self._thread.is_alive():  # noqa: ASYNC110 -- a thread sets no asyncio.Event when it has ended
            await asyncio.sleep(0.005)

    def _run(self) -> None:
        pause = self._worker.lease / BEATS
        while not self._ended.wait(pause):
            with contextlib.suppress(RuntimeError):  # the loop is closed: the worker is gone
                self._loop.call_soon_threadsafe(self._turn)
            still = self._clock.monotonic() - self._turned
            if still > self._worker.lease * STALLED_LEASES:
                self._log.error("worker_stalled", seconds=round(still), advice="a job blocks the event loop")
                continue
            try:
                self._broker.heartbeat(self._worker)
                pause = self._worker.lease / BEATS
            except (StoreError, Misuse) as error:
                self._log.warning("heartbeat_failed", error=str(error))
                pause = min(self._worker.lease / BEATS / 4, 1.0)

    def _turn(self) -> None:
        self._turned = self._clock.monotonic()
