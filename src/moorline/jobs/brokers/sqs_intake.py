"""What an SQS carrier has received for its workers: until when it is theirs, and who listens while they are idle."""

from __future__ import annotations

import functools
import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final, NamedTuple, cast

from moorline.clock import Clock
from moorline.jobs.broker import WorkerInfo
from moorline.jobs.brokers.carrier import Kind, Lane, Taken, Turns
from moorline.jobs.brokers.sqs_link import MOST
from moorline.telemetry import logger

__all__ = ["Ear", "Grip", "Intake", "Out", "Place", "grip_of"]

_LONGEST_HOLD: Final = 43_200  # seconds, by the service model
_WIDEST: Final = 8  # requests at once for one lane
_IDLE: Final = 0.2  # seconds without enough to do, after which somebody listens: who drains a queue is gone by then
_STALE: Final = 1.0  # seconds that a message may wait here while other workers may be idle
_FEWEST: Final = 1.0  # seconds of one poll that brought nothing, however soon the server answers
_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 20.0

log = logger("jobs")


class Place(NamedTuple):
    """A message of a FIFO queue that stays hidden for its job: its receipt, and until when (since the epoch)."""

    receipt: str
    until: float


class Grip:
    """The carrier's own of a message: others cannot have it before ``until``, by the monotonic clock.

    ``since`` is when it was received; ``place`` what its job has in a FIFO queue, and ``kept`` what was sent in its
    stead has of that (see ``sqs_groups``).
    """

    __slots__ = ("kept", "lane", "message", "object", "owner", "place", "receipt", "since", "span", "until", "url")

    def __init__(
        self,
        lane: Lane,
        url: str,
        message: str,
        receipt: str,
        owner: str,
        span: int,
        until: float,
        object_: str | None,
        place: Place | None = None,
    ) -> None:
        self.lane = lane
        self.url = url
        self.message = message
        self.receipt = receipt
        self.owner = owner
        self.span = span
        self.until = until
        self.object = object_
        self.since = until - span
        self.place = place
        self.kept: Place | None = None


def grip_of(taken: Taken) -> Grip:
    """Its handle."""
    return cast("Grip", taken.handle)


def most_of(lane: Lane) -> int:
    """Messages that one request asks of it."""
    return 1 if lane.kind == "ordered" else MOST


class Out:
    """All that was received and not settled. A message that is delivered twice at once (which SQS may do) is one."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._grips: dict[tuple[str, str], Grip] = {}

    def admit(self, grip: Grip) -> bool:
        """False if it is ours already; then only the newest receipt is good for anything."""
        key = grip.url, grip.message
        with self._lock:
            known = self._grips.get(key)
            if known is not None and known.until > self._clock.monotonic():
                known.receipt, known.until = grip.receipt, grip.until
                return False
            self._grips[key] = grip
            return True

    def release(self, grips: Iterable[Grip]) -> None:
        """They were settled, or given to others."""
        with self._lock:
            for grip in grips:
                grip.until = -math.inf
                if self._grips.get((grip.url, grip.message)) is grip:
                    del self._grips[grip.url, grip.message]

    def of(self, owner: str) -> list[Grip]:
        """What *owner* still has."""
        now = self._clock.monotonic()
        with self._lock:
            return [grip for grip in self._grips.values() if grip.owner == owner and grip.until > now]

    def places(self, *, but: Collection[Grip]) -> set[str]:
        """The receipts of the places that jobs have of which one is here, not counting those grips."""
        with self._lock:
            here = [grip for grip in self._grips.values() if grip not in but and grip.until > self._clock.monotonic()]
        return {grip.receipt if grip.place is None else grip.place.receipt for grip in here}

    def purge(self) -> None:
        """Forget what others may have."""
        now = self._clock.monotonic()
        with self._lock:
            for key in [key for key, grip in self._grips.items() if grip.until <= now]:
                del self._grips[key]


class Ear:
    """A thread that long-polls one lane while told to, and stops when it has heard something.

    ``hear`` receives up to a number of messages; ``heard`` is told what came, and whether there may be more.
    """

    def __init__(self, hear: Callable[[int], list[Taken]], heard: Callable[[list[Taken], bool], None]) -> None:
        self._hear = hear
        self._heard = heard
        self._turn = threading.Condition()
        self._count = 0
        self._not_before = 0.0
        self._closed = False
        self._thread: threading.Thread | None = None
        self.failed = False

    def listen(self, count: int, not_before: float = 0.0) -> None:
        """For up to *count* messages, from then on (``time.monotonic``); with 0, no more after the poll in flight."""
        with self._turn:
            self._count, self._not_before = count, not_before
            self._turn.notify_all()
            if count and self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="moorline-sqs-ear", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """As ``listen(0)``, and its thread ends."""
        with self._turn:
            self._closed, self._count = True, 0
            self._turn.notify_all()

    def join(self, until: float) -> None:
        """Wait for the poll that is in flight, until then at the latest (``time.monotonic``)."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(max(until - time.monotonic(), 0.0))

    def _run(self) -> None:
        pause = _PAUSE
        while (count := self._told()) > 0:
            began = time.monotonic()
            try:
                taken = self._hear(count)
            except Exception as error:  # noqa: BLE001 -- who takes next asks for itself, and is told
                self.failed = True
                log.warning("queue_not_heard", error=repr(error), again_in=pause)
                self._rest(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
                continue
            self.failed, pause = False, _PAUSE
            if taken:
                with self._turn:
                    self._count = 0
                self._heard(taken, len(taken) >= count)
            else:
                self._rest(began + _FEWEST - time.monotonic())

    def _told(self) -> int:
        with self._turn:
            while not self._closed:
                wait = self._not_before - time.monotonic() if self._count else None
                if wait is not None and wait <= 0:
                    return self._count
                self._turn.wait(wait)
            return 0

    def _rest(self, seconds: float) -> None:
        if seconds > 0:
            with self._turn:
                self._turn.wait_for(lambda: self._closed, seconds)


class Intake:
    """One worker's. What ears have heard waits here for its next ``take``, at most one request's of each lane."""

    def __init__(
        self,
        worker: WorkerInfo,
        hear: Callable[[Intake, Lane, int], list[Taken]],
        wake: Callable[[], None],
        send_on: Callable[[Sequence[Taken]], None],
        clock: Clock,
        kinds: Mapping[Kind, tuple[Kind, ...]],
    ) -> None:
        self.owner = worker.id
        self.queues = worker.queues
        self.span = min(max(math.ceil(worker.lease), 1), _LONGEST_HOLD)
        self._hear = hear
        self._wake = wake
        self._send_on = send_on
        self._clock = clock
        self._lock = threading.Lock()
        self._kinds = kinds
        self._buffers: dict[Kind, deque[Taken]] = {kind: deque() for kind in itertools.chain(*kinds.values())}
        self.turns = Turns(worker.ageing)
        self._ears: dict[Lane, Ear] = {}
        self._quiet: set[Lane] = set()  # where the last look found nothing more
        self._since = 0.0  # when the first of what is here came
        self._lanes: tuple[Lane, ...] = ()  # those that the last take knew of
        self._wanted = 0  # how many it was short of
        self._short_at: float | None = None  # when takes began to be (``time.monotonic``)
        self._turn = 0
        self._closed = False
        self._widths: dict[Lane, int] = {}

    def served(self) -> list[Lane]:
        """Its lanes, those to be asked first before the others; each time another one of a rank goes first."""
        self._turn += 1
        lanes: list[Lane] = []
        for rank in self.turns.kinds:
            own = [Lane(queue, kind) for kind in self._kinds[rank] for queue in self.queues]
            first = self._turn % len(own)
            lanes += own[first:] + own[:first]
        return lanes

    # --- what is here

    def pop(self, limit: int) -> list[Taken]:
        """Up to *limit* of what is here and still ours."""
        taken: list[Taken] = []
        with self._lock:
            now = self._clock.monotonic()
            for kind in itertools.chain(*(self._kinds[rank] for rank in self.turns.kinds)):
                buffer = self._buffers[kind]
                while buffer and len(taken) < limit:
                    one = buffer.popleft()
                    if grip_of(one).until > now:
                        taken.append(one)
        return taken

    def here(self) -> dict[Lane, int]:
        """How many wait here, of each lane."""
        counts: dict[Lane, int] = {}
        with self._lock:
            for buffer in self._buffers.values():
                for one in buffer:
                    counts[one.lane] = counts.get(one.lane, 0) + 1
        return counts

    @property
    def stale(self) -> bool:
        """Whether something has waited here for too long: the worker is busy, and others may not be."""
        return any(self._buffers.values()) and self._clock.monotonic() - self._since >= _STALE

    def _receiver(self, lane: Lane) -> Callable[[list[Taken], bool], None]:
        def heard(taken: list[Taken], more: bool) -> None:  # noqa: FBT001 -- as ``Ear`` calls it
            with self._lock:
                closed = self._closed
                if not closed:
                    if not any(self._buffers.values()):
                        self._since = self._clock.monotonic()
                    self._buffers[lane.kind].extend(taken)
                    if more:
                        self._quiet.discard(lane)
            if closed:
                self._send_on(taken)
            else:
                self._wake()

        return heard

    # --- who listens

    def looked(self, lane: Lane, asked: int, got: int) -> None:
        """What asking a lane came to: with how much it is asked next, and whether."""
        if got:
            self._quiet.discard(lane)
            if got >= asked:
                self._widths[lane] = min(self._widths.get(lane, 1) * 2, _WIDEST)
        else:
            self._quiet.add(lane)
            self._widths[lane] = 1

    def stir(self, lanes: Sequence[Lane]) -> None:
        """There may be something, whatever the last look found."""
        self._quiet.difference_update(lanes)

    def requests(self, lane: Lane, room: int) -> list[int]:
        """With how many messages each to ask a lane, in requests at once: as many as it has been worth before.

        Of an order key SQS would give all that it has in one request, and whoever dies makes suspects of them.
        """
        most = most_of(lane)
        return [min(most, room - start) for start in range(0, room, most)][: self._widths.get(lane, 1)]

    def heard_of(self, lane: Lane) -> bool:
        """Whether an ear will tell if something comes, so that nobody need ask."""
        ear = self._ears.get(lane)
        return ear is not None and not ear.failed and lane in self._quiet

    def rest(self, lanes: Sequence[Lane], wanted: int, *, listening: bool) -> None:
        """A take was so many short: listen meanwhile, if there is somebody to tell."""
        self._lanes, self._wanted = tuple(lanes), wanted
        if not wanted:
            self._short_at = None
        elif self._short_at is None:
            self._short_at = time.monotonic()
        if listening and wanted:
            self.listen()
        else:
            self.hush()

    def listen(self) -> None:
        """To the lanes that are quiet, for what the last take was short of, in equal parts; if it stays so a moment."""
        if self._closed or not self._wanted or self._short_at is None:
            return
        share = min(max(self._wanted // len(self._lanes), 1), MOST)
        for lane in self._lanes:
            if lane in self._quiet:
                if lane not in self._ears:
                    self._ears[lane] = Ear(functools.partial(self._hear, self, lane), self._receiver(lane))
                self._ears[lane].listen(min(share, most_of(lane)), self._short_at + _IDLE)

    def hush(self) -> None:
        """Nobody listens from now; what a poll in flight brings is still put here."""
        for ear in list(self._ears.values()):
            ear.listen(0)

    def close(self, patience: float) -> None:
        """As ``hush``, for good; what comes after *patience* is sent anew by who hears it."""
        ears = list(self._ears.values())
        for ear in ears:
            ear.close()
        until = time.monotonic() + patience
        for ear in ears:
            ear.join(until)
        with self._lock:
            self._closed = True
