"""What an application takes from queues that others own, and puts there."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar
from uuid import uuid4

from moorline.errors import ConfigurationError
from moorline.jobs.companions import Companion
from moorline.jobs.enqueue import EnqueueOptions, check_retries
from moorline.jobs.foreign.address import AmqpAddress, Connections
from moorline.jobs.foreign.carriers import source_at
from moorline.jobs.foreign.cloudevents import AMQP_PREFIX, PREFIX, binary, structured
from moorline.jobs.foreign.consumer import LARGEST, Consumer, reading_of, worked
from moorline.jobs.foreign.consuming import Consuming
from moorline.jobs.foreign.message import Message, body_of, checked
from moorline.jobs.foreign.publishing import Publication, Publisher
from moorline.jobs.registry import Jobs

if TYPE_CHECKING:
    from moorline.jobs.decision import Backoff

__all__ = ["Messages", "Messaging", "Mode"]

Mode = Literal[False, "structured", "binary"]
F = TypeVar("F", bound=Callable[..., Any])

_MAX_BODY: Final = 1024 * 1024


class Messages:
    """The consumers of one application, and its publisher."""

    def __init__(self, jobs: Jobs, connections: Mapping[str, str]) -> None:
        self.connections = Connections(connections)
        self.publisher = Publisher(jobs, self.connections)
        self._jobs = jobs
        self._consumers: dict[str, Consumer] = {}

    def add(self, consumer: Consumer, timeout: float | None, backoff: Backoff | None) -> None:
        """Raises ConfigurationError when the name is taken, or an option cannot be."""
        if consumer.name in self._consumers:
            raise ConfigurationError(f"name: two consumers are called {consumer.name!r}; give one of them another name")
        source_at(consumer.address, "")  # what is wrong with the URL is said now, not by a worker
        self._jobs.handler(consumer.job, worked(consumer), timeout=timeout, backoff=backoff)
        self._consumers[consumer.name] = consumer

    def companions(self) -> list[Companion]:
        """What a worker runs beside its jobs: one for each consumer."""
        return [self._companion(one) for one in self._consumers.values()]

    def _companion(self, consumer: Consumer) -> Companion:
        def run(worker: str) -> Any:
            return Consuming(consumer, self._jobs, lambda: source_at(consumer.address, worker)).run()

        return Companion(consumer.job, run)


class Messaging:
    """The part of ``Moorline`` that talks to queues, exchanges and streams of other programs.

    Their URLs: ``amqp://USER:PASSWORD@HOST/[VHOST/]QUEUE``, ``redis://HOST/DATABASE/STREAM``, ``sqs://REGION/QUEUE``,
    or ``NAME://…`` with the name of a connection; see ``docs/how-to/talk-to-other-systems.md``.
    """

    jobs: Jobs
    _messages: Messages

    def connection(self, name: str, url: str) -> None:
        """Call a server by a name: after ``app.connection("shop", "amqp://user:secret@rabbit/vhost")`` the URL
        ``shop://orders`` is its queue ``orders``, and holds no password. ``[connections]`` does the same by settings.

        Raises ConfigurationError for a name that is none or is taken, and a URL that is no server's.
        """
        self._messages.connections.add(name, url)

    def consume(
        self,
        url: str,
        *,
        model: Any = None,
        name: str | None = None,
        retries: int = 5,
        queue: str = "default",
        priority: int | None = None,
        timeout: float | None = None,
        backoff: Backoff | None = None,
        max_body: int = _MAX_BODY,
    ) -> Callable[[F], F]:
        """Handle the messages there: ``@app.consume("amqp://…/orders", model=Order)``, async or plain.

        While a worker runs, each message becomes a durable job of this application, then is acknowledged: retries, dead
        letters and commands are those of jobs, at least once. A message that has an id becomes one job in a database or
        Redis, however often it comes. The function gets the body as *model* (or as its own annotation says), and as a
        second argument, if it takes one, the ``Message``; without a model the ``Message`` alone. CloudEvents are opened
        first. What does not fit the model, or is over *max_body* bytes, goes to the dead letters as it came.

        *name* is the function's own unless given, and must stay; the other options are those of ``job``. Raises
        ConfigurationError naming the argument.
        """

        def decorate(function: F) -> F:
            named = getattr(function, "__name__", "") if name is None else name
            if not named:
                raise ConfigurationError(f"name: {function!r} has none of its own, so the consumer needs one")
            check_retries(retries)
            if not 0 < max_body <= LARGEST:
                raise ConfigurationError(f"max_body: expected bytes, up to {LARGEST:,}, got {max_body!r}")
            read, both = reading_of(function, model)
            call = getattr(function, "__call__", None)  # noqa: B004 -- an object's own
            consumer = Consumer(
                named,
                self._messages.connections.find(url),
                function,
                inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call),
                read,
                both,
                retries,
                EnqueueOptions(queue=queue, priority=priority),
                max_body,
            )
            self._messages.add(consumer, timeout, backoff)
            return function

        return decorate

    def publish(
        self,
        url: str,
        message: object,
        *,
        type: str | None = None,
        id: str | None = None,
        key: str | None = None,
        headers: Mapping[str, Any] | None = None,
        cloudevent: Mode = False,
        source: str | None = None,
        time: float | None = None,
        content_type: str | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> Publication:
        """A message to a queue, exchange or stream: ``await app.publish("amqp://…/orders", order)`` sends it now,
        confirmed; ``await app.publish(…).enqueue()`` by a durable job, also ``within=`` a transaction.

        *message*: bytes, or what JSON can say: dicts, dataclasses, models of pydantic's, structs of msgspec's. *key*:
        the routing key of an exchange, the group of an SQS FIFO queue. *id*: a new one unless given; *time*: seconds
        since the epoch, by default now. *cloudevent* puts it in an envelope of CloudEvents 1.0, for which *type* and
        *source* must be given; *attributes* are further ones of it (``subject``, extensions).

        Raises ConfigurationError for a URL that is none, InvalidArguments for what cannot be sent; sending raises as
        ``Publication.result`` does.
        """
        address = self._messages.connections.find(url)
        if cloudevent not in (False, "structured", "binary"):
            raise ConfigurationError(f"cloudevent: expected 'structured' or 'binary', got {cloudevent!r}")
        if attributes and not cloudevent:
            raise ConfigurationError("attributes: only a CloudEvent has some; see cloudevent=")
        body, media = body_of(message)
        made = Message(
            body,
            id=uuid4().hex if id is None else id,
            type=type,
            source=source,
            time=self.jobs.clock.wall() if time is None else time,
            content_type=content_type or media,
            key=key,
            headers=dict(headers or {}),
            attributes=dict(attributes or {}),
        )
        checked(made)
        if cloudevent == "structured":
            made = structured(made)
        elif cloudevent == "binary":
            made = binary(made, AMQP_PREFIX if isinstance(address, AmqpAddress) else PREFIX)
        return Publication(self._messages.publisher, url, address, made)
