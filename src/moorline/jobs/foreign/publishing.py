"""Messages to others, as values: made first, sent when they are awaited, or by a job."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from moorline.errors import ConfigurationError, Misuse, StoreError
from moorline.jobs.enqueue import Enqueued, EnqueueOptions, check_retries, in_loop
from moorline.jobs.foreign.address import Address, Connections
from moorline.jobs.foreign.carriers import Sink, sink_at
from moorline.jobs.foreign.message import Message, packed, unpacked
from moorline.jobs.job import Claim, JobHandle
from moorline.jobs.registry import Jobs

__all__ = ["PUBLISH_JOB", "Publication", "Publisher"]

PUBLISH_JOB: Final = "publish:message"
_PARALLEL: Final = 8


class Publisher:
    """The connections to servers that others own, each opened when it is first used."""

    def __init__(self, jobs: Jobs, connections: Connections) -> None:
        self._jobs = jobs
        self._connections = connections
        self._lock = threading.Lock()
        self._sinks: dict[tuple[type, str], Sink] = {}
        self._threads: ThreadPoolExecutor | None = None
        jobs.handler(PUBLISH_JOB, self.run)

    def send(self, address: Address, message: Message) -> str | None:
        """See ``Sink``."""
        key = type(address), address.server
        with self._lock:
            if key not in self._sinks:
                self._sinks[key] = sink_at(address)
            sink = self._sinks[key]
        return sink.send(address, message)

    async def send_async(self, address: Address, message: Message) -> str | None:
        """See ``Sink``."""
        with self._lock:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(_PARALLEL, thread_name_prefix="moorline-publish")
            threads = self._threads
        return await asyncio.get_running_loop().run_in_executor(threads, self.send, address, message)

    async def run(self, claim: Claim) -> None:
        """Send the message of that job. What it raises is worth another attempt, for all that we know."""
        message, beside = unpacked(claim.payload)
        await self.send_async(self._connections.find(str(beside.get("url"))), message)

    def enqueue(self, url: str, message: Message, retries: int, options: Mapping[str, Any]) -> Enqueued[JobHandle]:
        """See ``Publication.enqueue``."""
        if not self._connections.storable(url):
            raise ConfigurationError(
                "url: its password would be stored with the job: name the server with app.connection(NAME, URL) or in"
                " [connections], and publish to NAME://…"
            )
        unknown = sorted(set(options) - set(EnqueueOptions.__slots__))
        if unknown:
            known = ", ".join(("retries", *EnqueueOptions.__slots__))
            raise ConfigurationError(f"enqueue: {unknown[0]!r} is no option of a job; known: {known}")
        check_retries(retries)
        payload = packed(message, url=url)
        return self._jobs.enqueue(PUBLISH_JOB, payload, max_attempts=retries + 1, options=EnqueueOptions(**options))

    def close(self) -> None:
        """Disconnect. Used again, it connects again."""
        with self._lock:
            sinks, self._sinks = self._sinks, {}
            threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown()
        for sink in sinks.values():
            with contextlib.suppress(StoreError):
                sink.close()


class Publication:
    """``await`` it, or call ``.result()`` where no event loop runs: then the server has it, and what it calls it is
    given (an entry's id of a stream, SQS's id, None of AMQP). ``.enqueue()`` makes a durable job of it instead.

    ``message`` is what goes out; sent again, it has the same id.
    """

    __slots__ = ("_address", "_publisher", "_url", "message")

    def __init__(self, publisher: Publisher, url: str, address: Address, message: Message) -> None:
        self._publisher = publisher
        self._url = url
        self._address = address
        self.message = message

    def __repr__(self) -> str:
        return f"<Publication to {self._address.shown}: {self.message!r}>"

    def __await__(self) -> Generator[Any, None, str | None]:
        return self._publisher.send_async(self._address, self.message).__await__()

    def result(self) -> str | None:
        """Send it, and wait until the server has it.

        Raises StoreUnavailable when the server is away (it may have the message all the same), MessageRefused when it
        does not take it, ConfigurationError for what only a person can mend, Misuse inside a running event loop.
        """
        if in_loop():
            raise Misuse("result() would block the running event loop: await this instead")
        return self._publisher.send(self._address, self.message)

    def enqueue(self, *, retries: int = 5, **options: Any) -> Enqueued[JobHandle]:
        """A durable job that sends it, with retries; options are those of ``EnqueueOptions`` (``within=``, ``delay=``).

        The job holds the URL: one with a password is refused, and ``app.connection`` is the way (the worker looks the
        name up). Raises ConfigurationError naming the option.
        """
        return self._publisher.enqueue(self._url, self.message, retries, options)
