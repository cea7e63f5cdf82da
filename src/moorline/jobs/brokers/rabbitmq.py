"""The broker on RabbitMQ (3.10 or newer): durable queues, publisher confirms, consumers with a prefetch of their own.

Two connections, because a server that is short of memory stops reading from those who publish: what settles must not
stand behind them. What is published is sent in windows, each confirmed as a whole before the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple, Unpack, cast

from moorline.clock import SYSTEM, Clock
from moorline.errors import StoreError, StoreUnavailable
from moorline.jobs.broker import WorkerInfo
from moorline.jobs.brokers.carried import CarriedBroker, Options
from moorline.jobs.brokers.carrier import Kind, Lane, Letter, Taken
from moorline.jobs.brokers.rabbit_intake import Intake
from moorline.jobs.brokers.rabbit_lanes import LONGEST_DELAY, Lanes
from moorline.jobs.brokers.rabbit_link import Channel, Link, RabbitWhere

__all__ = ["RabbitBroker", "RabbitCarrier"]

_WINDOW: Final = 2_000  # messages
_WINDOW_BYTES: Final = 4_000_000
_LARGEST: Final = 16_777_216  # bytes of one message: the default of RabbitMQ 4 (max_message_size); 3.10 takes more
_FOLLOWS: Final = 16_384  # of them, in a new job: left for what becomes of it
_CONFIRM: Final = 30.0  # seconds
_PUSH: Final = 2.0  # seconds in which what waits in a queue should have been pushed to us
_KINDS: Final[tuple[Kind, ...]] = ("high", "normal", "low", "suspects", "dead")
_CONTENT: Final = "application/json"
_DURABLE: Final = 2
_NOT_FOUND: Final = 404
_RETURNING: Final = 0.5  # seconds in which messages that were looked at are in their queue again
_TRIES: Final = 10
_FEW: Final = 50  # messages that are not worth a thread's turn
_MOST_INNOCENT: Final = 10_000
_MOST_LOOKED: Final = 65_535  # the largest prefetch
_MOST_LOOKS: Final = 5
_LONGEST_TYPE: Final = 80  # characters of a job's name; a short string has 255 bytes


class RabbitBroker(CarriedBroker):
    """Keeps the contract of ``Broker`` on RabbitMQ, as far as a carrier can (see ``CarriedBroker``).

    ``url`` as ``RabbitWhere`` says. It connects when it is first used.
    Raises ConfigurationError for a URL that it cannot use; every method StoreUnavailable when RabbitMQ does not answer.
    """

    def __init__(self, url: str, *, clock: Clock = SYSTEM, **options: Unpack[Options]) -> None:
        super().__init__(RabbitCarrier(url, clock=clock), clock=clock, **options)


class RabbitCarrier:
    """See ``Carrier``."""

    longest_delay = LONGEST_DELAY
    largest = _LARGEST
    groups = False

    def __init__(self, url: str, *, clock: Clock = SYSTEM) -> None:
        self.where = RabbitWhere(url)
        self.shown = self.where.shown
        self.home = f"{self.where.shown} {self.where.prefix}"
        self._clock = clock
        self._lanes = Lanes(self.where.prefix, self.where.kind)
        self._lock = threading.Lock()
        self._out: _Sender | None = None
        self._in: Link | None = None
        self._intakes: dict[str, Intake] = {}
        self._looked: dict[Lane, tuple[int, float]] = {}
        self._innocent: set[bytes] = set()
        self._callbacks: dict[object, Callable[[], None]] = {}

    def close(self) -> None:
        """See ``Carrier``."""
        with self._lock:
            sender, self._out = self._out, None
            link, self._in = self._in, None
            self._intakes.clear()
        if sender is not None:
            sender.link.close()
        if link is not None:
            link.close()

    def _sender(self) -> _Sender:
        with self._lock:
            if self._out is None or self._out.lost:
                if self._out is not None:
                    self._out.link.close()
                self._lanes.forget()
                self._out = None
                self._out = _Sender(Link(self.where, lambda: None), self._lanes)
            return self._out

    def _taker(self) -> Link:
        with self._lock:
            if self._in is None or self._in.lost:
                if self._in is not None:
                    self._in.close()
                self._in = None
                for intake in self._intakes.values():
                    self._clear(intake)
                self._intakes.clear()
                self._in = Link(self.where, self._wake)
            return self._in

    # --- sending

    def check(self, queue: str) -> None:
        """See ``Carrier``."""
        self._lanes.name(Lane(queue))

    def post(self, letters: Sequence[Letter]) -> None:
        """See ``Carrier``. Raises StoreError if one is too large, and has sent nothing then."""
        for one in letters:
            if len(one.body) > self.largest - (_FOLLOWS if one.follows is None else 0):
                raise StoreError(f"a job of {len(one.body):,} bytes: RabbitMQ takes {self.largest:,}")
        sender = self._sender()
        for window in _windows(letters):
            sender.link.ask(sender.send(window), _CONFIRM)

    # --- taking

    def _intake(self, worker: WorkerInfo) -> Intake:
        link = self._taker()
        intake = self._intakes.get(worker.id)
        if intake is None or intake.lost:
            if intake is not None:
                self._clear(intake)
                self._lanes.forget()  # somebody may have deleted a queue
            intake = self._intakes[worker.id] = Intake(
                link, self._lanes, worker, self._wake, self._clock, self._innocent
            )
        return intake

    def _clear(self, lost: Intake) -> None:
        """What it was pushed and had not handed out comes again, and nobody has died with it."""
        if len(self._innocent) < _MOST_INNOCENT:
            self._innocent.update(lost.digests())

    def at_hand(self, worker: WorkerInfo, limit: int) -> list[Taken]:
        """See ``Carrier``: what was pushed, for those who are told of what comes after it."""
        intake = self._intakes.get(worker.id)
        if not self._callbacks or intake is None or intake.lost:
            return []
        return self._popped(intake, limit) if 0 < len(intake) <= _FEW and not intake.wants(limit) else []

    def take(self, worker: WorkerInfo, limit: int) -> list[Taken]:
        """See ``Carrier``."""
        intake = self._intake(worker)
        link = self._taker()
        if intake.wants(limit):
            link.ask(intake.want(limit))
        if not intake and not (self._callbacks and intake.emptied):
            waiting = link.ask(intake.waiting())
            if waiting and not intake:
                intake.wait(min(waiting, limit), _PUSH)
        return self._popped(intake, limit)

    def _popped(self, intake: Intake, limit: int) -> list[Taken]:
        taken = intake.pop(limit)
        intake.turns.took(full=len(taken) >= limit)
        return taken

    def take_suspect(self, worker: WorkerInfo) -> Taken | None:
        """See ``Carrier``."""
        return self._taker().ask(self._intake(worker).suspect())

    def suspects(self, worker: WorkerInfo) -> bool:
        """See ``Carrier``."""
        return any(self._counted([Lane(queue, "suspects") for queue in worker.queues]).values())

    def settle(self, taken: Sequence[Taken]) -> None:
        """See ``Carrier``. It is written soon; what is lost on the way comes again."""
        tags: dict[Intake, list[int]] = {}
        for one in taken:
            intake, tag = _handle(one)
            tags.setdefault(intake, []).append(tag)
        for intake, theirs in tags.items():
            intake.settle(theirs)

    def holds(self, taken: Taken) -> bool:
        """See ``Carrier``."""
        return not _handle(taken)[0].lost

    def keep(self, taken: Sequence[Taken]) -> None:
        """See ``Carrier``: the connection's own heartbeat does it."""

    def spare(self, worker: WorkerInfo, *, last: bool = False) -> list[Taken]:
        """See ``Carrier``."""
        intake = self._intakes.get(worker.id)
        if intake is None or intake.lost:
            return []
        link = self._taker()
        if not last and (not intake.stale or link.ask(intake.waiting())):
            return []  # others have enough, and what is sent anew loses its place
        return link.ask(intake.spare(last=last))

    def dismiss(self, worker: WorkerInfo) -> None:
        """See ``Carrier``."""
        intake = self._intakes.pop(worker.id, None)
        if intake is not None and not intake.lost:
            self._taker().ask(intake.close())

    # --- looking

    def waiting(self, queues: Sequence[str]) -> dict[Lane, int]:
        """See ``Carrier``."""
        lanes = [Lane(queue, kind) for queue in queues for kind in _KINDS]
        for lane in set(lanes).intersection(list(self._looked)):
            self._back(lane)
        counts = self._counted(lanes)
        for intake in list(self._intakes.values()):
            for lane, count in intake.here().items():
                counts[lane] = counts.get(lane, 0) + count
        return counts

    def _counted(self, lanes: Sequence[Lane]) -> dict[Lane, int]:
        sender = self._sender()
        return sender.link.ask(sender.count(lanes))

    def look(self, lane: Lane, limit: int, choose: Callable[[Sequence[Taken]], Sequence[Taken]]) -> list[Taken]:
        """See ``Carrier``. Others who look at the same moment see what is left."""
        count = min(self._back(lane), limit)
        if not count:
            return []
        sender = self._sender()
        channel, found = sender.link.ask(sender.look(lane, count))
        chosen: Sequence[Taken] = ()
        renewed: list[Taken] = []
        try:
            chosen = choose(found)
            renewed = self._renewed(found, chosen)
        finally:
            sender.link.ask(sender.looked(channel, [_seen(one).tag for one in (*chosen, *renewed)]))
            self._looked[lane] = len(found) - len(chosen), time.monotonic()
        return found

    def _renewed(self, found: Sequence[Taken], chosen: Sequence[Taken]) -> list[Taken]:
        """Those that were given back often, sent once more: a server counts it, and may have a limit (RabbitMQ 4: 20),
        beyond which it drops what is among the dead.
        """
        gone = {_seen(one).tag for one in chosen}
        worn = [one for one in found if _seen(one).looks >= _MOST_LOOKS and _seen(one).tag not in gone]
        try:
            self.post([Letter(one.lane, _seen(one).id, _seen(one).name, one.body, follows=one) for one in worn])
        except StoreError:  # the next look does it
            return []
        return worn

    def _back(self, lane: Lane) -> int:
        """How many are there, after those are back that we have looked at a moment ago."""
        expected, at = self._looked.pop(lane, (0, 0.0))
        recent = time.monotonic() - at < _RETURNING
        for _ in range(_TRIES if recent else 1):
            count = self._counted([lane])[lane]
            if count >= expected:
                break
            time.sleep(_RETURNING / _TRIES)  # the server's time, whatever ours is
        return count

    def about(self) -> dict[str, str]:
        """See ``Carrier``."""
        return {
            "server": self._sender().link.server,
            "queues": f"{self.where.kind}, durable",
            "messages": "persistent, each window of them confirmed by the server",
        }

    def remove(self, queue: str) -> None:
        """See ``Carrier``. What delays are made of is shared with other queues, and stays."""
        sender = self._sender()
        sender.link.ask(sender.delete([Lane(queue, kind) for kind in _KINDS]))

    # --- waking

    def _wake(self) -> None:
        for callback in list(self._callbacks.values()):
            callback()

    def listen(self, callback: Callable[[], None]) -> Callable[[], None]:
        """See ``Carrier``: messages are pushed to who has taken before."""
        key = object()
        self._callbacks[key] = callback

        def end() -> None:
            self._callbacks.pop(key, None)

        return end


class _Seen(NamedTuple):
    """The handle of what is looked at; ``looks`` is how often it was given back before."""

    tag: int
    id: str
    name: str
    looks: int


class _Sender:
    """The connection that publishes, and looks. Its coroutines run on the link's loop."""

    def __init__(self, link: Link, lanes: Lanes) -> None:
        self.link = link
        self._lanes = lanes
        self._channel: Channel | None = None
        self._turn = asyncio.Lock()
        self._tag = 0  # of the last message that was published
        self._open: set[int] = set()  # tags that are not confirmed
        self._lowest = 1
        self._refused = False
        self._returned: list[str] = []
        self._confirmed: asyncio.Future[Any] | None = None

    @property
    def lost(self) -> bool:
        """Whether it is to be replaced."""
        return self.link.lost

    async def _opened(self) -> Channel:
        if self._channel is None or self._channel.lost:
            channel = await self.link.channel()
            self._tag, self._lowest = 0, 1
            await channel.answer(channel.raw.confirm_delivery, self._on_confirm)
            channel.raw.add_on_return_callback(self._on_return)
            self._channel = channel
        return self._channel

    async def send(self, letters: Sequence[Letter]) -> None:
        """Returns when all are confirmed: they are in their queues, on the disk."""
        async with self._turn:
            for _ in range(2):
                try:
                    channel = await self._opened()
                    lanes = {one.lane for one in letters}
                    await self._lanes.declare(channel, lanes, delayed=any(one.delay > 0 for one in letters))
                    returned = await self._publish(channel, letters)
                except Exception as error:
                    if getattr(error, "reply_code", None) != _NOT_FOUND:
                        raise
                    returned = {one.id for one in letters}
                if not returned:
                    return
                await self._lanes.deleted()
                letters = [one for one in letters if one.id in returned]
            raise StoreUnavailable(f"RabbitMQ has no queue for {len(letters)} jobs, though it was just declared")

    async def _publish(self, channel: Channel, letters: Sequence[Letter]) -> set[str]:
        """Publish and wait for the confirms; the ids of those that no queue took."""
        from pika import BasicProperties

        publish = channel.raw.basic_publish
        self._refused, self._returned = False, []
        self._open = set(range(self._tag + 1, self._tag + len(letters) + 1))
        self._lowest = self._tag + 1
        self._confirmed = confirmed = channel.future()
        for one in letters:
            exchange, key = self._lanes.way(one.lane, one.delay)
            about = BasicProperties(
                content_type=_CONTENT, delivery_mode=_DURABLE, message_id=one.id, type=one.name[:_LONGEST_TYPE]
            )
            self._tag += 1
            publish(exchange, key, one.body, about, mandatory=True)
        await confirmed
        if self._refused:
            raise StoreUnavailable("RabbitMQ refused a job: its queue is full, or it cannot write")
        return set(self._returned)

    def _on_confirm(self, frame: Any) -> None:
        from pika.spec import Basic

        tag = frame.method.delivery_tag
        if frame.method.multiple:
            self._open.difference_update(range(self._lowest, tag + 1))
            self._lowest = tag + 1
        else:
            self._open.discard(tag)
        if isinstance(frame.method, Basic.Nack):
            self._refused = True
        if not self._open and self._confirmed is not None and not self._confirmed.done():
            self._confirmed.set_result(None)

    def _on_return(self, _: Any, __: Any, properties: Any, ___: bytes) -> None:
        self._returned.append(properties.message_id)

    async def count(self, lanes: Sequence[Lane]) -> dict[Lane, int]:
        """The messages that wait in each; those that are not there have none."""
        counts = {}
        channel = await self.link.channel()
        for lane in lanes:
            try:
                answer = await channel.answer(channel.raw.queue_declare, self._lanes.name(lane), passive=True)
                counts[lane] = answer.method.message_count
            except Exception as error:
                if getattr(error, "reply_code", None) != _NOT_FOUND:
                    raise
                counts[lane] = 0
                channel = await self.link.channel()
        await channel.close()
        return counts

    async def delete(self, lanes: Sequence[Lane]) -> None:
        """Those that are not there are none to the server."""
        channel = await self.link.channel()
        for lane in lanes:
            await channel.answer(channel.raw.queue_delete, self._lanes.name(lane))
            self._lanes.known.discard(lane)
        await channel.close()

    async def look(self, lane: Lane, count: int) -> tuple[Channel, list[Taken]]:
        """Take that many, on a channel whose end gives them back."""
        channel = await self.link.channel()
        raw = channel.raw
        found: list[Taken] = []
        enough = channel.future()

        def receive(_: Any, method: Any, about: Any, body: bytes) -> None:
            looks = (about.headers or {}).get("x-delivery-count", 0)
            seen = _Seen(method.delivery_tag, about.message_id or "", about.type or "", looks)
            found.append(Taken(lane, body, method.redelivered, seen))
            if len(found) == count and not enough.done():
                enough.set_result(None)

        await channel.answer(raw.basic_qos, prefetch_count=min(count, _MOST_LOOKED))
        await channel.answer(raw.basic_consume, self._lanes.name(lane), receive)
        with contextlib.suppress(TimeoutError):  # somebody else took some
            await asyncio.wait_for(enough, _PUSH)
        return channel, list(found)

    async def looked(self, channel: Channel, tags: Iterable[int]) -> None:
        """Settle these, and give the others back."""
        for tag in tags:
            channel.raw.basic_ack(tag)
        await channel.close()


def _seen(taken: Taken) -> _Seen:
    return cast("_Seen", taken.handle)


def _handle(taken: Taken) -> tuple[Intake, int]:
    return cast("tuple[Intake, int]", taken.handle)


def _windows(letters: Sequence[Letter]) -> Iterator[list[Letter]]:
    window: list[Letter] = []
    size = 0
    for one in letters:
        if window and (len(window) >= _WINDOW or size + len(one.body) > _WINDOW_BYTES):
            yield window
            window, size = [], 0
        window.append(one)
        size += len(one.body)
    if window:
        yield window
