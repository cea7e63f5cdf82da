"""The queues and exchanges of a ``RabbitMQ`` carrier: their names, their settings, and how a delay is made of them.

Each lane is a durable queue: ``moorline.QUEUE`` for what waits, and ``.high``, ``.low``, ``.suspects``, ``.dead``.
Quorum queues dead-letter at least once, which takes all four of: quorum, a dead-letter exchange, the strategy
``at-least-once``, and ``reject-publish`` on overflow (https://www.rabbitmq.com/docs/quorum-queues).

A delay is a number of 14 bits, in units of 64 ms. For each bit there is a queue in which messages wait for that long,
and an exchange that leads to it, or past it to the next lower one; the routing key holds the bits, then the queue. So
any delay up to 17 minutes takes 14 queues, however many messages there are, and nothing waits behind a longer one.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any, Final

from moorline.errors import ConfigurationError
from moorline.jobs.brokers.carrier import Lane
from moorline.jobs.brokers.rabbit_link import Channel

__all__ = ["LONGEST_DELAY", "Lanes"]

_BITS: Final = 14
_UNIT: Final = 0.064  # seconds
LONGEST_DELAY: Final = _UNIT * (2**_BITS - 1)
_LONGEST_NAME: Final = 150  # characters; a routing key has 255 bytes, and the bits are in it
_OF_LANES: Final = (".high", ".low", ".suspects", ".dead")  # a queue named like another one's lane would be that
_DELIVERIES: Final = 20  # of one message, before the server itself puts it among the dead
_ENDING: Final = 0.25  # seconds of the server's: of a quorum queue that is made again sooner, the consumers of the one
# before are said to be consumers, and what is delivered to them is with nobody
_RUN_TIME: Final = 86_400_000  # milliseconds that a message may be taken and not settled, from RabbitMQ 3.12 on


class Lanes:
    """Names and settings. ``kind`` is ``quorum`` or ``classic``; all names begin with *prefix*."""

    def __init__(self, prefix: str, kind: str) -> None:
        self._prefix = prefix
        self._quorum = kind == "quorum"
        self.counts = self._quorum
        """Whether a message that is marked as redelivered was: after the server died, a classic queue marks all."""
        self.known: set[Lane] = set()
        self._holds = False

    def name(self, lane: Lane) -> str:
        """Raises ConfigurationError for a name that RabbitMQ cannot have."""
        odd = not lane.queue.isprintable() or set(lane.queue) & set("*#") or lane.queue.endswith(_OF_LANES)
        if odd or len(lane.queue.encode()) > _LONGEST_NAME:
            raise ConfigurationError(f"queue: {lane.queue!r} cannot be the name of a queue in RabbitMQ")
        base = f"{self._prefix}.{lane.queue}"
        return base if lane.kind == "normal" else f"{base}.{lane.kind}"

    def holds(self) -> list[str]:
        """The names of what delays are made of, each a queue and an exchange (the last only an exchange)."""
        return [self._hold(bit) for bit in range(-1, _BITS)] if self._holds else []

    def forget(self) -> None:
        """What was there may have been deleted."""
        self.known.clear()
        self._holds = False

    async def deleted(self) -> None:
        """Something was. What is declared after this is another one to the server, too."""
        self.forget()
        await asyncio.sleep(_ENDING)

    def way(self, lane: Lane, delay: float) -> tuple[str, str]:
        """The exchange and the routing key that lead there after *delay* seconds."""
        name = self.name(lane)
        units = min(math.ceil(delay / _UNIT - 1e-9), 2**_BITS - 1)
        if units <= 0:
            return "", name
        bits = ".".join(f"{units:0{_BITS}b}")
        return self._hold(units.bit_length() - 1), f"{bits}.{name}"

    async def declare(self, channel: Channel, lanes: set[Lane], *, delayed: bool) -> None:
        """Make what is not known to be there. It is the same for who comes first and who comes last."""
        raw = channel.raw
        if delayed and not self._holds:
            await self._declare_holds(channel)
            self._holds = True
        dead = {Lane(lane.queue, "dead") for lane in lanes}  # or the server could not put anything among them
        for lane in (lanes | dead) - self.known:
            name = self.name(lane)
            arguments: dict[str, Any] = {"x-consumer-timeout": _RUN_TIME} if self._quorum else {}
            if lane.kind != "dead" and self._quorum:
                to_dead = self._dead_lettered("", self.name(Lane(lane.queue, "dead")))
                arguments |= {"x-delivery-limit": _DELIVERIES} | to_dead
            await channel.answer(raw.queue_declare, name, durable=True, arguments=arguments | self._type())
            self.known.add(lane)
        if delayed:
            for lane in lanes:
                pattern = f"{'*.' * _BITS}{self.name(lane)}"
                await channel.answer(raw.queue_bind, self.name(lane), self._hold(-1), pattern)

    def _type(self) -> dict[str, Any]:
        return {"x-queue-type": "quorum"} if self._quorum else {}

    def _dead_lettered(self, exchange: str, key: str | None = None) -> dict[str, Any]:
        arguments: dict[str, Any] = {"x-dead-letter-exchange": exchange}
        if key is not None:
            arguments["x-dead-letter-routing-key"] = key
        if self._quorum:
            arguments |= {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}
        return arguments

    def _hold(self, bit: int) -> str:
        return f"{self._prefix}:hold.{bit:02}" if bit >= 0 else f"{self._prefix}:deliver"

    async def _declare_holds(self, channel: Channel) -> None:
        raw = channel.raw
        await channel.answer(raw.exchange_declare, self._hold(-1), "topic", durable=True)
        for bit in range(_BITS):
            name, below = self._hold(bit), self._hold(bit - 1)
            before = "*." * (_BITS - 1 - bit)
            arguments = {"x-message-ttl": round(_UNIT * 1000 * 2**bit)} | self._dead_lettered(below) | self._type()
            await channel.answer(raw.exchange_declare, name, "topic", durable=True)
            await channel.answer(raw.queue_declare, name, durable=True, arguments=arguments)
            await channel.answer(raw.queue_bind, name, name, f"{before}1.#")
            await channel.answer(raw.exchange_bind, below, name, f"{before}0.#")
