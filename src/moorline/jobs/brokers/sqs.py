"""The broker on Amazon SQS: messages received in batches, held by their visibility timeout.

A worker that has enough to do asks for more as it needs it. One that has not lets SQS answer when something comes (a
long poll for each lane, so three requests a minute), and asks for nothing meanwhile. Lanes for other priorities are
polled where they exist; those that do not are looked for once a minute: the first urgent job ever may wait that long.

What SQS sets, and nothing here can change: a message is hidden for 12 hours at most, so no job runs for longer than
that undisturbed; it is kept for 14 days; the counts are right a minute late. What FIFO queues do in another
way is in ``sqs_groups``.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, Unpack
from uuid import uuid4

from moorline.clock import SYSTEM, Clock
from moorline.errors import MoorlineError, StoreError, StoreUnavailable
from moorline.jobs.broker import WorkerInfo
from moorline.jobs.brokers.carried import CarriedBroker, Options
from moorline.jobs.brokers.carrier import Kind, Lane, Letter, Taken
from moorline.jobs.brokers.sqs_bodies import Bodies
from moorline.jobs.brokers.sqs_groups import ATTRIBUTE, place_in
from moorline.jobs.brokers.sqs_holding import Holding
from moorline.jobs.brokers.sqs_intake import Grip, Intake, Out, grip_of
from moorline.jobs.brokers.sqs_lanes import Lanes, is_fifo
from moorline.jobs.brokers.sqs_link import MISSING, MOST, Link, Refused, SqsWhere
from moorline.jobs.brokers.sqs_sender import LONGEST_DELAY, Sender
from moorline.telemetry import logger

__all__ = ["SqsBroker", "SqsCarrier"]

_AT_ONCE: Final = 8  # requests
_LEAVING: Final = 5.0  # seconds that who leaves waits for polls in flight
_LATE: Final = 1.0  # seconds that the answer of a long poll may have been on its way
_LOOKING: Final = 120  # seconds in which what is looked at is hidden from others
_AGAIN_LATER: Final = 30  # seconds until a body is tried again that could not be had
_SUSPECTS_EVERY: Final = 30.0  # seconds between two questions whether there are any; the answer is a minute old
_RANKS: Final[dict[str, dict[Kind, tuple[Kind, ...]]]] = {
    "standard": {"high": ("high",), "normal": ("normal",), "low": ("low",)},
    "fifo": {"high": ("high",), "normal": ("normal", "ordered", "later"), "low": ("low",)},
}
"""By the kind of the queues: the lanes of what waits, those of one rank in turn."""

_MADE: Final[tuple[Kind, ...]] = ("normal", "later")

log = logger("jobs")


class SqsBroker(CarriedBroker):
    """Keeps the contract of ``Broker`` on Amazon SQS, as far as a carrier can (see ``CarriedBroker``).

    ``url`` as ``SqsWhere`` says. It connects when it is first used. Raises ConfigurationError for a URL that it cannot
    use, and where AWS denies access; every method StoreUnavailable when SQS does not answer.
    """

    def __init__(self, url: str, *, clock: Clock = SYSTEM, **options: Unpack[Options]) -> None:
        super().__init__(SqsCarrier(url, clock=clock), clock=clock, **options)


class SqsCarrier:
    """See ``Carrier``. A receive whose answer was lost makes suspects of up to ten jobs: SQS has counted it."""

    longest_delay = LONGEST_DELAY

    def __init__(self, url: str, *, clock: Clock = SYSTEM) -> None:
        self.where = SqsWhere(url)
        self.shown = self.where.shown
        self.home = f"{self.where.shown} {self.where.prefix}" + (" fifo" if self.where.fifo else "")
        self.groups = self.where.fifo
        self.link = Link(self.where)
        self.lanes = Lanes(self.link, clock)
        self._bodies = Bodies(self.link)
        self.largest = self._bodies.largest
        self._sender = Sender(self.link, self.lanes, self._bodies, clock)
        self._clock = clock
        self._lock = threading.Lock()
        self._out = Out(clock)
        self._holding = Holding(self.link, self.lanes, self._out, clock)
        self._intakes: dict[str, Intake] = {}
        ranks = _RANKS[self.where.kind].values()
        self._kinds: tuple[Kind, ...] = (*itertools.chain(*ranks), "suspects", "dead")
        self._suspected: dict[Lane, tuple[bool, float]] = {}
        self._callbacks: dict[object, Callable[[], None]] = {}

    def close(self) -> None:
        """See ``Carrier``."""
        with self._lock:
            intakes, self._intakes = self._intakes, {}
        for intake in intakes.values():
            self._send_on(self._ended(intake))
        self.link.close()

    def check(self, queue: str) -> None:
        """See ``Carrier``."""
        self.lanes.name(Lane(queue))

    def post(self, letters: Sequence[Letter]) -> None:
        """See ``Carrier``."""
        self._sender.post(letters)
        for lane in {one.lane for one in letters if one.lane.kind == "suspects"}:
            self._suspect(lane, there=True)

    def _send_on(self, taken: Sequence[Taken]) -> None:
        """Send anew what was received and never handed out: it would come again as a suspect."""
        fresh = [one for one in taken if not one.again]
        try:
            self._sender.post([Letter(one.lane, "", "", one.body, follows=one) for one in fresh])
            self.settle(fresh)
        except MoorlineError as error:
            log.warning("jobs_not_given_back", jobs=len(fresh), error=str(error))

    # --- receiving

    def _receive(
        self, lane: Lane, url: str, count: int, *, wait: int = 0, span: int, owner: str = "", apart: bool = False
    ) -> list[Taken]:
        """Up to *count* (10 at most) of a lane. What is looked at *apart* is nobody's."""
        began = self._clock.monotonic()
        try:
            answer = self._received(
                lane, QueueUrl=url, MaxNumberOfMessages=min(count, MOST), WaitTimeSeconds=wait, VisibilityTimeout=span,
            )  # fmt: skip
        except Refused as refused:
            if refused.code != MISSING:
                raise
            self.lanes.forget(lane)
            return []
        if wait:  # it is hidden since the answer was sent, and not since we asked
            began = max(began, self._clock.monotonic() - min(_LATE, span / 4))
        taken = []
        for message in answer.get("Messages", ()):
            again = int(message["Attributes"]["ApproximateReceiveCount"]) > 1
            grip = Grip(lane, url, message["MessageId"], message["ReceiptHandle"], owner, span, began + span, None)
            grip.place = place_in(message)
            if apart or self._out.admit(grip):
                body = self._read(message["Body"], grip)
                if body is not None:
                    taken.append(Taken(lane, body, again, grip))
        return taken

    def _received(self, lane: Lane, **request: Any) -> dict[str, Any]:
        """A FIFO queue can be asked once more, for the same messages, when its answer was lost."""
        request["MessageSystemAttributeNames"] = ["ApproximateReceiveCount"]
        if self.where.fifo:
            request["MessageAttributeNames"] = [ATTRIBUTE]
        if not is_fifo(self.where, lane):
            return self.link.ask("receive_message", by="hear", **request)
        request["ReceiveRequestAttemptId"] = uuid4().hex
        try:
            return self.link.ask("receive_message", by="hear", **request)
        except StoreUnavailable:
            return self.link.ask("receive_message", by="hear", **request)

    def _read(self, text: str, grip: Grip) -> bytes | None:
        """None if the body cannot be had now: then the message is sent anew, for later."""
        try:
            body, grip.object = self._bodies.read(text)
            return body
        except StoreError as error:
            log.error("job_body_unavailable", queue=grip.lane.queue, error=str(error), again_in=_AGAIN_LATER)
        if grip.owner:
            one = Taken(grip.lane, b"", again=False, handle=grip)
            with contextlib.suppress(StoreError):  # then it comes again by itself, as a suspect
                self._sender.again(Letter(grip.lane, "", "", one.body, _AGAIN_LATER, follows=one), text)
                self._holding.settle([grip])
        return None

    def _intake(self, worker: WorkerInfo) -> Intake:
        with self._lock:
            intake = self._intakes.get(worker.id)
            if intake is None:
                intake = Intake(worker, self._hear, self._wake, self._send_on, self._clock, _RANKS[self.where.kind])
                self._intakes[worker.id] = intake
            return intake

    def at_hand(self, worker: WorkerInfo, limit: int) -> list[Taken]:  # noqa: ARG002 -- see below
        """See ``Carrier``: what was heard of is taken with the rest of its lane."""
        return []

    def take(self, worker: WorkerInfo, limit: int) -> list[Taken]:
        """See ``Carrier``."""
        intake = self._intake(worker)
        taken = intake.pop(limit)
        lanes = self._there(intake)
        for lane, url in lanes:
            room = limit - len(taken)
            if room <= 0:
                break
            if not (self._callbacks and intake.heard_of(lane)):
                try:
                    taken += self._asked(intake, lane, url, room)
                except MoorlineError as error:
                    if not taken:
                        raise
                    log.warning("claim_cut_short", jobs=len(taken), error=str(error))
                    return taken
        intake.turns.took(full=len(taken) >= limit)
        intake.rest([lane for lane, _ in lanes], max(limit - len(taken), 0), listening=bool(self._callbacks))
        return taken

    def _there(self, intake: Intake) -> list[tuple[Lane, str]]:
        """The lanes of a worker that there are. Those that are needed in any case are made."""
        lanes = []
        for lane in intake.served():
            url = self.lanes.url(lane) if lane.kind in _MADE else self.lanes.find(lane)
            if url is not None:
                lanes.append((lane, url))
        return lanes

    def _asked(self, intake: Intake, lane: Lane, url: str, room: int) -> list[Taken]:
        """What a lane has now, in as many requests at once as it has been worth before."""
        counts = intake.requests(lane, room)
        outcomes = self.link.tried(
            lambda count: self._receive(lane, url, count, span=intake.span, owner=intake.owner), counts
        )
        taken = [one for outcome in outcomes if not isinstance(outcome, Exception) for one in outcome]
        failures = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        if failures and not taken:  # otherwise those that came would be nobody's
            raise failures[0]
        intake.looked(lane, sum(counts), len(taken))
        return taken

    def _hear(self, intake: Intake, lane: Lane, count: int) -> list[Taken]:
        url = self.lanes.url(lane)
        return self._receive(lane, url, count, wait=self.where.wait, span=intake.span, owner=intake.owner)

    # --- holding

    def settle(self, taken: Sequence[Taken]) -> None:
        """See ``Carrier``."""
        grips = [grip_of(one) for one in taken]
        self._holding.settle(grips)
        stay = [grip for grip in grips if grip.kept is not None and grip.lane.kind == "ordered"]
        objects = [grip.object for grip in grips if grip.object is not None and grip not in stay]
        if objects:
            self._bodies.drop(objects)
        freed = {grip.lane.queue for grip in grips if grip.kept is None and (grip.lane.kind == "ordered" or grip.place)}
        if freed:  # of their keys the next ones can be had now
            for intake in list(self._intakes.values()):
                intake.stir([Lane(queue, "ordered") for queue in freed])
            self._wake()

    def holds(self, taken: Taken) -> bool:
        """See ``Carrier``: as far as we know."""
        return grip_of(taken).until > self._clock.monotonic()

    def keep(self, taken: Sequence[Taken]) -> None:
        """See ``Carrier``. What was lost already stays so: somebody else may have it."""
        self._holding.keep([grip_of(one) for one in taken if self.holds(one)])

    def spare(self, worker: WorkerInfo, *, last: bool = False) -> list[Taken]:
        """See ``Carrier``. Who leaves waits for polls in flight, so that what they bring does not become a suspect."""
        intake = self._intakes.get(worker.id)
        if intake is None:
            return []
        if last:
            return self._ended(intake)
        if not intake.stale:
            return []
        intake.hush()
        return intake.pop(sum(intake.here().values()))

    def _ended(self, intake: Intake) -> list[Taken]:
        intake.close(_LEAVING)
        return intake.pop(sum(intake.here().values()))

    def dismiss(self, worker: WorkerInfo) -> None:
        """See ``Carrier``."""
        with self._lock:
            intake = self._intakes.pop(worker.id, None)
        if intake is not None:
            intake.close(0.0)
        grips = self._out.of(worker.id)
        self._out.release(grips)
        self._holding.show(grips)
        for lane in {grip.lane for grip in grips if grip.lane.kind == "suspects"}:
            self._suspect(lane, there=True)

    # --- suspects

    def take_suspect(self, worker: WorkerInfo) -> Taken | None:
        """See ``Carrier``."""
        intake = self._intake(worker)
        for lane, url in self.lanes.found([Lane(queue, "suspects") for queue in worker.queues]):
            # A short poll asks some of Amazon's machines, a long one all: where there should be one, it is worth it.
            for wait in (0, 1) if self._are_suspects(lane, url) else (0,):
                taken = self._receive(lane, url, 1, wait=wait, span=intake.span, owner=worker.id)
                if taken:
                    return taken[0]
            self._suspect(lane, there=False)
        return None

    def suspects(self, worker: WorkerInfo) -> bool:
        """See ``Carrier``. What others put there is noticed after half a minute."""
        lanes = self.lanes.found([Lane(queue, "suspects") for queue in worker.queues])
        return any(self._are_suspects(lane, url) for lane, url in lanes)

    def _are_suspects(self, lane: Lane, url: str) -> bool:
        there, at = self._suspected.get(lane, (False, -math.inf))
        if not there and self._clock.monotonic() - at >= _SUSPECTS_EVERY:
            there = self._counted(lane, url)[0] > 0
            self._suspect(lane, there=there)
        return there

    def _suspect(self, lane: Lane, *, there: bool) -> None:
        self._suspected[lane] = there, self._clock.monotonic()

    # --- looking

    def waiting(self, queues: Sequence[str]) -> dict[Lane, int]:
        """See ``Carrier``. Delayed ones count."""
        lanes = self.lanes.found([Lane(queue, kind) for queue in queues for kind in self._kinds])
        answers = self.link.each(lambda one: sum(self._counted(*one)), lanes)
        counts = {lane: count for (lane, _), count in zip(lanes, answers, strict=True)}
        for intake in list(self._intakes.values()):
            for lane, count in intake.here().items():
                counts[lane] = counts.get(lane, 0) + count
        return counts

    def _counted(self, lane: Lane, url: str) -> tuple[int, int]:
        """How many may be received, and how many not yet."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesDelayed"]
        try:
            answer = self.link.ask("get_queue_attributes", QueueUrl=url, AttributeNames=names)
        except Refused as refused:
            if refused.code != MISSING:
                raise
            self.lanes.forget(lane)
            return 0, 0
        ready, delayed = (int(answer["Attributes"].get(name, 0)) for name in names)
        return ready, delayed

    def look(self, lane: Lane, limit: int, choose: Callable[[Sequence[Taken]], Sequence[Taken]]) -> list[Taken]:
        """See ``Carrier``. It hides what it looks at from others who look, for that moment."""
        url = self.lanes.find(lane)
        if url is None or limit < 1:
            return []
        found = self._gathered(lane, url, limit, self._counted(lane, url)[0])
        chosen: Sequence[Taken] = ()
        try:
            chosen = choose(found)
            self.settle(chosen)
        finally:
            kept = {id(one.handle) for one in chosen}
            self._holding.show([grip_of(one) for one in found if id(one.handle) not in kept])
        return found

    def _gathered(self, lane: Lane, url: str, limit: int, expected: int) -> list[Taken]:
        """Until there are as many as SQS believes; it believes late, so it is asked once in any case."""
        found: dict[str, Taken] = {}
        wait = 0
        while len(found) < limit:
            room = min(max(expected - len(found), MOST), limit - len(found))
            counts = [min(MOST, room - start) for start in range(0, room, MOST)][: 1 if wait else _AT_ONCE]
            parts = self.link.each(
                lambda count: self._receive(lane, url, count, wait=wait, span=_LOOKING, apart=True),  # noqa: B023 -- called at once
                counts,
            )
            came = {grip_of(one).message: one for part in parts for one in part}
            if came.keys() <= found.keys():
                if wait or len(found) >= expected:
                    break
                wait = 1  # asks all of Amazon's machines
            found |= came
        return list(found.values())

    def about(self) -> dict[str, str]:
        """See ``Carrier``."""
        region = self.link.client("ask").meta.region_name
        return {
            "service": "an emulator" if self.where.emulated else "Amazon SQS",
            "region": region,
            "queues": "FIFO" if self.where.fifo else "standard",
        }

    def remove(self, queue: str) -> None:
        """See ``Carrier``."""
        for kind in self._kinds:
            self.lanes.delete(Lane(queue, kind))

    # --- waking

    def _wake(self) -> None:
        for callback in list(self._callbacks.values()):
            callback()

    def listen(self, callback: Callable[[], None]) -> Callable[[], None]:
        """See ``Carrier``: for those that have taken before, and found too little."""
        key = object()
        self._callbacks[key] = callback
        for intake in list(self._intakes.values()):
            intake.listen()

        def end() -> None:
            self._callbacks.pop(key, None)
            if not self._callbacks:
                for intake in list(self._intakes.values()):
                    intake.hush()

        return end
