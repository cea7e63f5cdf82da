"""What carries foreign messages, as consumers and publishers know it, and which module has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from moorline.jobs.foreign.address import Address, AmqpAddress, StreamAddress
from moorline.jobs.foreign.message import Message

__all__ = ["Delivery", "Sink", "Source", "sink_at", "source_at"]


class Delivery(NamedTuple):
    """A message that is ours until it is acknowledged or given back; ``handle`` is the source's own.

    ``stamped``: its time is the sender's, or goes with its id: the same again when the sender sends it twice.
    """

    message: Message
    handle: Any
    stamped: bool = True


class Source(Protocol):
    """Where messages come from. All of it blocks, and is called by one thread, but for ``interrupt``.

    Raises StoreUnavailable when the server is away or has taken back what we hold: then it is closed, and opened anew.
    """

    def open(self) -> None:
        """Connect. Raises ConfigurationError when there is no such queue, and says what to do."""
        ...

    def receive(self, limit: int) -> Sequence[Delivery]:
        """Up to so many as soon as there are any; none after some seconds, or when interrupted."""
        ...

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """They are stored here. An acknowledgement that is lost makes them come again."""
        ...

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        """Others may have them at once."""
        ...

    def leave(self, deliveries: Sequence[Delivery]) -> None:
        """They are neither acknowledged nor given back: the server has rules for that. Others come all the same."""
        ...

    def keep(self, deliveries: Sequence[Delivery]) -> None:
        """They are still ours: it takes longer. Called every few seconds."""
        ...

    def interrupt(self) -> None:
        """From any thread: end a ``receive`` that waits."""
        ...

    def close(self) -> None:
        """Disconnect. What was received and neither acknowledged nor given back comes again, here or elsewhere."""
        ...


class Sink(Protocol):
    """Where messages go, one server's. Any thread may use it."""

    def send(self, address: Any, message: Message) -> str | None:
        """Returns when the server has it; what it calls it, if it names it.

        Raises StoreUnavailable when the server is away (it may have the message), MessageRefused when it does not take
        it, ConfigurationError for what only a person can mend.
        """
        ...

    def close(self) -> None:
        """Disconnect; it connects again when it is used again."""
        ...


def source_at(address: Address, worker: str) -> Source:
    """The source at *address*, for the worker of that id. Raises ConfigurationError."""
    if isinstance(address, AmqpAddress):
        from moorline.jobs.foreign.amqp import AmqpSource

        return AmqpSource(address)
    if isinstance(address, StreamAddress):
        from moorline.jobs.foreign.streams import StreamSource

        return StreamSource(address, worker)
    from moorline.jobs.foreign.sqs import SqsSource

    return SqsSource(address)


def sink_at(address: Address) -> Sink:
    """The sink for all addresses of that server. Raises ConfigurationError."""
    if isinstance(address, AmqpAddress):
        from moorline.jobs.foreign.amqp import AmqpSink

        return AmqpSink(address.server)
    if isinstance(address, StreamAddress):
        from moorline.jobs.foreign.streams import StreamSink

        return StreamSink(address.server)
    from moorline.jobs.foreign.sqs import SqsSink

    return SqsSink(address.server)
