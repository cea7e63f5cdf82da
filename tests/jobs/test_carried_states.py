"""Jobs on a carrier, walked at random: processes die at every request, answers are lost, calls are cut, time passes.

``MOORLINE_TEST_HISTORIES`` is how many histories of each kind are walked.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import Counter
from collections.abc import Awaitable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.events.stored import fresh_store
from tests.jobs.memory_carrier import Fault, MemoryCarrier, MemoryServer, Message, Style
from tests.jobs.unthreaded import Cut, Loop, UnthreadedBroker, awaited, unthreaded

from moorline.clock import ManualClock
from moorline.errors import JobNotFound, JobStateError, StoreUnavailable
from moorline.jobs.broker import MAX_CRASHES, Completion, WorkerInfo
from moorline.jobs.brokers.carrier import Lane, Letter
from moorline.jobs.brokers.parcel import unpacked
from moorline.jobs.job import Claim, JobRow, State

R = TypeVar("R")

LEASE = 10.0
MAX_ATTEMPTS = 3
HISTORIES = int(os.environ.get("MOORLINE_TEST_HISTORIES", "20"))

FAULTS: st.SearchStrategy[tuple[int, Fault] | None] = st.none() | st.tuples(
    st.integers(0, 3), st.sampled_from(["before", "partly", "after", "dies", "dies after", "loses", "sleeps"])
)
CUTS = st.none() | st.none() | st.integers(0, 3)
Failed = (StoreUnavailable, asyncio.CancelledError)


class Process:
    """A broker of its own on the one server and the one database."""

    def __init__(self, walk: CarriedStates, name: str) -> None:
        self.carrier = MemoryCarrier(walk.server, name)
        self.broker = UnthreadedBroker(self.carrier, outbox=walk.store, clock=walk.clock)


@dataclass(eq=False)
class Hand:
    """A worker: what it believes to hold, and what it could not say yet of how that ended."""

    process: Process
    info: WorkerInfo
    held: dict[str, Claim] = field(default_factory=dict)
    unsaid: dict[str, Completion] = field(default_factory=dict)


@dataclass
class Model:
    """What may be true of a job. ``waiting`` are the attempts, deliveries and crashes that it may wait with; it ran
    once, and once more for each time that it was put back (``back``) or doubled. ``ends`` are the deliveries of claims
    that ended so that it waits again, and whether the attempt was given back: an end that came too late is told by that
    number alone, so it may be that of another copy.
    """

    unique: bool = False
    waiting: set[tuple[int, int, int]] = field(default_factory=lambda: {(0, 0, 0)})
    ends: set[tuple[int, bool]] = field(default_factory=set)
    ended: bool = False
    heard: bool = False
    runs: int = 0
    back: int = 0
    doubled: int = 0

    def may_wait(self, attempts: int, deliveries: int, crashes: int) -> bool:
        """With these numbers."""
        return (attempts, deliveries, crashes) in self.waiting or any(
            of == deliveries and (attempts - 1 + refund, deliveries - 1, crashes) in self.waiting
            for of, refund in self.ends
        )


class CarriedStates(RuleBasedStateMachine):
    """Two processes, three workers (each new after a crash), one server, one database, one clock."""

    style: ClassVar[Style]
    sure: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.server = MemoryServer(self.style, self.clock, LEASE, sure=self.sure)
        self.server.posted, self.server.gone = self.on_posted, self.on_gone
        self.server.redelivered, self.server.doubled = self.on_redelivered, self.on_doubled
        self.closing = contextlib.ExitStack()
        self.store = self.closing.enter_context(fresh_store(self.clock))
        unthreaded(self.store)
        self.loop = Loop()
        self.closing.callback(self.loop.close)
        self.models: dict[str, Model] = {}
        self.accepted: set[str] = set()
        self.wrong: list[str] = []
        self.mute: set[str] = set()  # of whom nothing may be sent now
        self.number = 0
        self.processes = [self.process(), self.process()]
        self.hands = [self.hand(self.processes[place]) for place in (0, 0, 1)]

    def next_id(self, what: str) -> str:
        self.number += 1
        return f"{what}{self.number:06}"

    def process(self) -> Process:
        return Process(self, self.next_id("p"))

    def hand(self, process: Process) -> Hand:
        now = self.clock.wall()
        return Hand(process, WorkerInfo(self.next_id("w"), "host", 1, ("default",), now, LEASE))

    # --- what the server sees

    def on_posted(self, letter: Letter) -> None:
        parcel = unpacked(letter.body)
        assert parcel is not None
        model = self.models[parcel.id]
        if model.may_wait(parcel.attempts, parcel.deliveries, parcel.crashes):
            model.waiting.add((parcel.attempts, parcel.deliveries, parcel.crashes))
        else:
            self.wrong.append(f"{parcel.id} sent with numbers that it never had: {parcel}, {model}")
        if letter.lane.kind == "dead":
            if parcel.reason == "crashed" and parcel.crashes < MAX_CRASHES:
                self.wrong.append(f"{parcel.id} is dead of {parcel.crashes} crashes")
        elif parcel.crashes >= MAX_CRASHES or (parcel.crashes > 0) != (letter.lane.kind == "suspects"):
            self.wrong.append(f"{parcel.id} with {parcel.crashes} crashes sent to {letter.lane}")
        if parcel.id in self.mute:
            self.wrong.append(f"{parcel.id} sent by who had lost it")

    def on_redelivered(self, message: Message) -> None:
        parcel = unpacked(message.body)
        assert parcel is not None
        counted = (1 + parcel.doubts) if self.server.sure or parcel.doubts or parcel.crashes else 0
        self.models[parcel.id].waiting.add((parcel.attempts, parcel.deliveries + 1, parcel.crashes + counted))

    def on_doubled(self, ids: Sequence[str]) -> None:
        for id_ in ids:
            self.models[id_].doubled += 1

    def on_gone(self, message: Message) -> None:
        """What is settled has ended, or is somewhere else by then."""
        if not self.models[message.id].ended and all(one.id != message.id for one in self.server.messages):
            self.wrong.append(f"{message.id} was settled, and has not ended")
        if message.id in self.mute:
            self.wrong.append(f"{message.id} settled by who had lost it")

    # --- how it is asked

    def run(self, deed: Awaitable[R], process: Process, fault: tuple[int, Fault] | None, cut: int | None = None) -> R:
        """Raises what it raises, after the process has been replaced if that was the end of it."""
        with self.faulty(process, fault):
            try:
                return self.loop.run_until_complete(awaited(Cut(deed, cut)))
            finally:
                self.loop.run_until_complete(asyncio.sleep(0))  # what was begun is done, whoever waits for it

    @contextlib.contextmanager
    def faulty(self, process: Process, fault: tuple[int, Fault] | None) -> Iterator[None]:
        carrier = process.carrier
        carrier.countdown, carrier.fault = fault or (0, None)
        try:
            yield
        finally:
            carrier.fault = None
            if carrier.dead:
                self.die(process)

    def die(self, process: Process) -> None:
        process.carrier.dead = True
        process.carrier.lose()
        process.broker.close()
        place = self.processes.index(process)
        self.processes[place] = self.process()
        self.hands = [self.hand(self.processes[place]) if hand.process is process else hand for hand in self.hands]

    # --- the rules

    @rule(
        who=st.integers(0, 1),
        count=st.integers(1, 3),
        delay=st.sampled_from([0.0, 0.0, 3.0, 30.0]),
        priority=st.sampled_from([5, 5, 0, 9]),
        fault=FAULTS,
        cut=CUTS,
        again=st.booleans(),
    )
    def enqueue(
        self, who: int, count: int, delay: float, priority: int, fault: Any, cut: int | None, again: bool
    ) -> None:
        """Who is told of a failure sends it again, if it likes."""
        now = self.clock.wall()
        rows = [
            JobRow(self.next_id("j"), "n", b"", now + delay, now, priority=priority, max_attempts=MAX_ATTEMPTS)
            for _ in range(count)
        ]
        self.models |= {row.id: Model() for row in rows}
        try:
            self.run(self.processes[who].broker.enqueue(rows), self.processes[who], fault, cut)
        except Failed:
            if not again:
                return
            self.on_doubled([row.id for row in rows])
            self.run(self.processes[who].broker.enqueue(rows, again=True), self.processes[who], None)
        self.accepted |= {row.id for row in rows}

    @rule(who=st.integers(0, 1), key=st.sampled_from(["a", "b"]), cut=CUTS)
    def enqueue_unique(self, who: int, key: str, cut: int | None) -> None:
        """It stays in the database, and is another one's while that has not ended."""
        now, process = self.clock.wall(), self.processes[who]
        row = JobRow(self.next_id("j"), "n", b"", now, now, unique_key=key, max_attempts=MAX_ATTEMPTS)
        self.models[row.id] = Model(unique=True)
        with contextlib.suppress(asyncio.CancelledError):
            (id_,) = self.run(process.broker.enqueue([row]), process, None, cut)
            assert self.models[id_].unique
            assert id_ == row.id or not self.models[id_].heard  # the other one is still to be run, or is running
            self.accepted.add(id_)

    @rule(who=st.integers(0, 2), limit=st.integers(1, 4), alone=st.booleans(), fault=FAULTS, cut=CUTS)
    def claim(self, who: int, limit: int, alone: bool, fault: Any, cut: int | None) -> None:
        hand = self.hands[who]
        try:
            deed = hand.process.broker.claim(hand.info, limit, alone=alone)
            claimed = self.run(deed, hand.process, fault, cut).jobs
        except Failed:
            return
        assert len(claimed) <= limit or alone
        for one in claimed:
            self.claimed(hand, one, alone=alone)

    def claimed(self, hand: Hand, one: Claim, *, alone: bool) -> None:
        model, slept = self.models[one.id], hand.process.carrier.dead
        model.runs += 1
        assert (one.crashes > 0) == alone
        assert one.crashes < MAX_CRASHES
        assert 1 <= one.attempts <= MAX_ATTEMPTS
        assert one.run_at <= self.clock.wall() + 0.005
        if not model.unique:
            assert (one.attempts - 1, one.deliveries - 1, one.crashes) in model.waiting, (one, model)
            assert model.runs <= 1 + model.back + model.doubled, (one, model)
            if not model.doubled:
                assert not any(one.id in other.held.keys() - other.unsaid for other in self.hands), (one, model)
                assert not model.heard, (one, model)
        if not slept:
            hand.held[one.id] = one
            hand.unsaid.pop(one.id, None)

    @precondition(lambda self: any(hand.held for hand in self.hands))
    @rule(
        who=st.integers(0, 2),
        picks=st.lists(st.integers(0, 9), min_size=1, max_size=3),
        how=st.sampled_from(["done", "done", "fail", "snooze", "dead", "back"]),
        fault=FAULTS,
        cut=CUTS,
    )
    def finish(self, who: int, picks: list[int], how: str, fault: Any, cut: int | None) -> None:
        hand = next(hand for hand in (*self.hands[who:], *self.hands) if hand.held)
        claims = {one.id: one for pick in picks for one in [list(hand.held.values())[pick % len(hand.held)]]}
        ends = [hand.unsaid.get(id_) or self.ended(one, how) for id_, one in claims.items()]
        # What follows may have been sent when it was said before, and what ended could not be settled.
        self.on_doubled([end.id for end in ends if end.id in hand.unsaid and end.state != "done"])
        hand.unsaid |= {end.id: end for end in ends}
        lost = self.lost(hand, ends)
        self.mute = {id_ for id_ in lost if id_ not in {one.id for one in ends} - lost}
        before = Counter(message.id for message in self.server.messages)
        try:
            heard = self.run(hand.process.broker.finish(ends), hand.process, fault, cut)
        except Failed:
            return  # it says so again, if it lives
        finally:
            self.mute = set()
        for end, answer in zip(ends, heard, strict=True):
            if end.id in lost:
                assert not answer
                assert self.models[end.id].unique or before[end.id] == sum(
                    message.id == end.id for message in self.server.messages
                )
            if answer and end.state == "done":
                self.models[end.id].heard = True
            hand.held.pop(end.id, None)
            hand.unsaid.pop(end.id, None)

    def lost(self, hand: Hand, ends: Sequence[Completion]) -> set[str]:
        """Those that the broker knows to be others' by now."""
        held = hand.process.broker._held
        return {
            end.id
            for end in ends
            if not self.models[end.id].unique
            and (
                (one := held.get(end.id)) is None
                or one.parcel.deliveries != end.deliveries
                or not hand.process.carrier.holds(one.taken)
            )
        }

    def ended(self, one: Claim, how: str) -> Completion:
        state: State = "done" if how == "done" else "dead" if how == "dead" else "ready"
        if how == "fail" and one.attempts >= MAX_ATTEMPTS:
            state = "dead"
        refund = how in {"snooze", "back"}
        model = self.models[one.id]
        model.ended = model.ended or state == "done"
        model.back += state != "done"
        model.waiting.add((one.attempts - refund, one.deliveries, one.crashes))
        model.ends.add((one.deliveries, refund))
        run_at = None if how in {"done", "dead", "back"} else self.clock.wall() + 2.0
        return Completion(one.id, one.deliveries, state, run_at=run_at, refund=refund, snoozed=how == "snooze")

    @rule(who=st.integers(0, 2), keep=st.booleans(), fault=FAULTS, cut=CUTS)
    def give_back(self, who: int, keep: bool, fault: Any, cut: int | None) -> None:
        """As after an answer that was lost; what it does not know to hold goes back."""
        hand = self.hands[who]
        held = list(hand.held) if keep else []
        for one in list(hand.process.broker._held.values()):
            if one.worker == hand.info.id and one.parcel.id not in held:
                model, parcel = self.models[one.parcel.id], one.parcel
                model.back += 1
                model.waiting.add((parcel.attempts - 1, parcel.deliveries, parcel.crashes))
                model.ends.add((parcel.deliveries, True))
                said = hand.unsaid.get(parcel.id)
                if said is not None and said.state != "done":
                    self.on_doubled([parcel.id])  # as above
        if not keep:
            hand.held.clear()
            hand.unsaid.clear()
        with contextlib.suppress(*Failed):
            self.run(hand.process.broker.give_back(hand.info, held), hand.process, fault, cut)

    @rule(who=st.integers(0, 2), fault=FAULTS, cut=CUTS)
    def leave(self, who: int, fault: Any, cut: int | None) -> None:
        """Whoever leaves has given back before; what it has not been given comes to others, and is no suspect."""
        hand = self.hands[who]
        self.give_back(who, keep=False, fault=None, cut=None)
        if self.hands[who] is not hand:
            return
        with contextlib.suppress(*Failed):
            self.run(hand.process.broker.leave(hand.info), hand.process, fault, cut)
        if self.hands[who] is hand:
            self.hands[who] = self.hand(hand.process)

    @rule(who=st.integers(0, 2), fault=FAULTS)
    def beat(self, who: int, fault: Any) -> None:
        hand = self.hands[who]
        with contextlib.suppress(StoreUnavailable), self.faulty(hand.process, fault):
            hand.process.broker.heartbeat(hand.info)

    @rule(who=st.integers(0, 2), fault=FAULTS, cut=CUTS)
    def rescue(self, who: int, fault: Any, cut: int | None) -> None:
        hand = self.hands[who]
        with contextlib.suppress(*Failed):
            self.run(hand.process.broker.rescue(hand.info), hand.process, fault, cut)

    @rule(who=st.integers(0, 2), limit=st.integers(1, 3))
    def push(self, who: int, limit: int) -> None:
        """The server sends it what it has not asked for yet."""
        self.hands[who].process.carrier.push(self.hands[who].info, limit)

    @rule(who=st.integers(0, 1), how=st.sampled_from(["dies", "loses"]))
    def crash(self, who: int, how: str) -> None:
        """The process, or its connection."""
        if how == "dies":
            self.die(self.processes[who])
        else:
            self.processes[who].carrier.lose()

    @precondition(lambda self: any(one.lane.kind == "dead" for one in self.server.messages))
    @rule(who=st.integers(0, 1), pick=st.integers(0, 9), skip=st.booleans(), fault=FAULTS, cut=CUTS)
    def look_after_the_dead(self, who: int, pick: int, skip: bool, fault: Any, cut: int | None) -> None:
        dead = [one for one in self.server.messages if one.lane.kind == "dead"]
        letter = dead[pick % len(dead)]
        model, parcel, process = self.models[letter.id], unpacked(letter.body), self.processes[who]
        assert parcel is not None
        for one in dead:
            parcel = unpacked(one.body)
            if one.id == letter.id and parcel is not None:
                model.waiting.add((0, parcel.deliveries, 0))
                model.back += not skip
        model.ended = model.ended or skip
        deed = process.broker.skip(letter.id) if skip else process.broker.retry(letter.id)
        with contextlib.suppress(*Failed, JobNotFound, JobStateError):
            self.run(deed, process, fault, cut)

    @rule(backwards=st.booleans(), twice=st.booleans())
    def shuffle(self, backwards: bool, twice: bool) -> None:
        """The server hands the newest out first, or one that somebody has."""
        self.server.backwards, self.server.twice = backwards, twice

    @rule(seconds=st.sampled_from([1.0, 4.0, LEASE + 1]))
    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def nothing_is_wrong(self) -> None:
        """All that was accepted is somewhere, or has ended; and the server has seen nothing that must not be."""
        assert not self.wrong, self.wrong
        there = {one.id for one in self.server.messages}
        lost = {id_ for id_ in self.accepted if not self.models[id_].unique and not self.models[id_].ended} - there
        assert not lost

    def teardown(self) -> None:
        """When all have died, a last worker runs what is left, and nothing is left but the dead."""
        try:
            for process in list(self.processes):
                self.die(process)
            self.finish_all()
        finally:
            for process in self.processes:
                process.broker.close()
            self.closing.close()

    def finish_all(self) -> None:
        hand = self.hands[0]
        quiet = 0
        while quiet < 4:
            self.clock.advance(LEASE + 1)
            ask = hand.process.broker
            self.loop.run_until_complete(ask.rescue(hand.info))
            claims = [
                *self.loop.run_until_complete(ask.claim(hand.info, 50)).jobs,
                *self.loop.run_until_complete(ask.claim(hand.info, 1, alone=True)).jobs,
            ]
            quiet = 0 if claims else quiet + 1
            for one in claims:
                self.claimed(hand, one, alone=one.crashes > 0)
            ends = [self.ended(one, "done") for one in claims]
            assert all(self.loop.run_until_complete(ask.finish(ends)))
            hand.held.clear()
            self.nothing_is_wrong()
        assert {one.lane for one in self.server.messages} <= {Lane("default", "dead")}
        states = self.loop.run_until_complete(hand.process.broker.counts())
        assert {state for _, state in states} <= {"dead", "done"}


class OnConnections(CarriedStates):
    """As RabbitMQ with queues that count."""

    style = "connection"


class OnUnsureConnections(CarriedStates):
    """As RabbitMQ with queues that do not: only from the second time on is it sure that a worker died."""

    style = "connection"
    sure = False


class OnVisibility(CarriedStates):
    """As SQS."""

    style = "visibility"


_SETTINGS = settings(
    max_examples=HISTORIES, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestOnConnections = OnConnections.TestCase
TestOnConnections.settings = _SETTINGS
TestOnUnsureConnections = OnUnsureConnections.TestCase
TestOnUnsureConnections.settings = _SETTINGS
TestOnVisibility = OnVisibility.TestCase
TestOnVisibility.settings = _SETTINGS
