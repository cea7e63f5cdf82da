"""A worker's companion that takes messages from where others put them, and makes jobs of them.

::

    receive ─> enqueue (durable) ─> acknowledge
                  └── our broker is away: hold what is here, receive no more, try again
                  └── we are to stop: give back what is not enqueued

Nothing is acknowledged before its job is durable, so a crash between the two doubles a message and loses none; where
the message has an id and the broker knows its jobs' ids, the second one is the same job.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import TimeoutError as TooLate
from typing import Final

from moorline.errors import StoreError, StoreNotMigrated, StoreOverloaded, StoreUnavailable
from moorline.jobs.broker import Broker
from moorline.jobs.foreign.carriers import Delivery, Source
from moorline.jobs.foreign.consumer import LARGEST, Consumer
from moorline.jobs.job import JobRow
from moorline.jobs.registry import Jobs
from moorline.telemetry import logger

__all__ = ["Consuming"]

_PAUSE: Final = 0.1  # seconds before what our broker did not take is offered again, doubled each time
_LONGEST_PAUSE: Final = 10.0
_PATIENCE: Final = 30.0  # seconds for our broker to answer
_END: Final = 1.5  # seconds that the end may take
_AWAY: Final = (StoreUnavailable, StoreOverloaded, StoreNotMigrated)

log = logger("jobs")


class Consuming:
    """One run of a consumer, from ``run`` to its cancellation, in a thread of its own: sources block."""

    def __init__(self, consumer: Consumer, jobs: Jobs, make: Callable[[], Source]) -> None:
        self._consumer = consumer
        self._jobs = jobs
        self._make = make
        self._stop = threading.Event()
        self._chance = random.Random()

    async def run(self) -> None:
        """Until it is cancelled. Raises what the source does: StoreUnavailable, ConfigurationError."""
        loop = asyncio.get_running_loop()
        source = self._make()
        ended: asyncio.Future[None] = loop.create_future()

        def work() -> None:
            failure: Exception | None = None
            try:
                self._work(source, loop)
            except Exception as error:  # noqa: BLE001 -- it is raised where it is waited for
                failure = error
            try:
                loop.call_soon_threadsafe(_end, ended, failure)
            except RuntimeError:  # the loop is closed: nobody waits
                log.debug("consumer_ended_late", consumer=self._consumer.name)

        threading.Thread(target=work, name=f"moorline-consumer-{self._consumer.name}", daemon=True).start()
        try:
            await asyncio.shield(ended)
        finally:
            self._stop.set()
            source.interrupt()
            await asyncio.wait({ended}, timeout=_END)

    def _work(self, source: Source, loop: asyncio.AbstractEventLoop) -> None:
        name, address = self._consumer.name, self._consumer.address
        try:
            source.open()
            log.info("consumer_started", consumer=name, source=address.shown)
            while not self._stop.is_set():
                received = source.receive(address.prefetch)
                if received:
                    self._take(source, received, loop)
        finally:
            source.close()
            log.info("consumer_stopped", consumer=name, source=address.shown)

    def _take(self, source: Source, received: Sequence[Delivery], loop: asyncio.AbstractEventLoop) -> None:
        if self._stop.is_set():
            source.give_back(received)
            return
        now = self._jobs.clock.wall()
        fitting: list[tuple[Delivery, JobRow]] = []
        for one in received:
            if len(one.message.body) > LARGEST:
                self._leave(source, "too large", one)
                continue
            try:
                row = self._consumer.row(one, self._jobs, now)
            except Exception as error:  # noqa: BLE001 -- whatever it is, others must not stand behind it for ever
                self._leave(source, repr(error), one)
                continue
            fitting.append((one, row))
        if fitting:
            self._store(source, fitting, loop)

    def _store(self, source: Source, taken: list[tuple[Delivery, JobRow]], loop: asyncio.AbstractEventLoop) -> None:
        """All of them, or none; one by one, where our broker does not take one of them."""
        deliveries = [delivery for delivery, _ in taken]
        pause = _PAUSE
        while True:
            try:
                _enqueued(self._jobs.broker, [row for _, row in taken], loop)
            except _AWAY as error:
                log.warning("messages_wait", consumer=self._consumer.name, count=len(taken), error=str(error))
                if self._stop.wait(pause * self._chance.uniform(0.5, 1.0)):
                    source.give_back(deliveries)
                    return
                source.keep(deliveries)
                pause = min(pause * 2, _LONGEST_PAUSE)
            except StoreError as error:
                if len(taken) == 1:
                    self._leave(source, str(error), deliveries[0])
                    return
                for one in taken:
                    self._store(source, [one], loop)
                return
            else:
                source.acknowledge(deliveries)
                log.debug("messages_taken", consumer=self._consumer.name, count=len(taken))
                return

    def _leave(self, source: Source, reason: str, delivery: Delivery) -> None:
        """Neither acknowledged nor given back: its source has rules for what nobody settles."""
        message = delivery.message
        log.error(
            "message_left", consumer=self._consumer.name, message=message.id, bytes=len(message.body), reason=reason,
            advice="it stays where it is, for the rules of its source: a delivery limit, a redrive policy",
        )  # fmt: skip
        source.leave([delivery])


def _enqueued(broker: Broker, rows: Sequence[JobRow], loop: asyncio.AbstractEventLoop) -> None:
    asked = asyncio.run_coroutine_threadsafe(broker.enqueue(rows, again=True), loop)
    try:
        asked.result(_PATIENCE)
    except TooLate:
        asked.cancel()
        raise StoreUnavailable(f"the jobs' broker did not answer for {_PATIENCE:g} s") from None


def _end(ended: asyncio.Future[None], failure: Exception | None) -> None:
    if ended.done():
        return
    if failure is None:
        ended.set_result(None)
    else:
        ended.set_exception(failure)
        ended.exception()  # it may be that nobody waits any more
