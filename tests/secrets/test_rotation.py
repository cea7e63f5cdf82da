"""The state machine of a rotation."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from moorline.errors import RotationRefused
from moorline.secrets.rotation import (
    UNUSED,
    Found,
    Record,
    Situation,
    Use,
    add,
    arranged,
    promote,
    retire,
    rollback,
)

NOW = 1_800_000_000.0


def use(version: str, process: str = "p1", *, place: int = 0, ago: float | None = None, **more: object) -> Use:
    facts: dict[str, object] = {"host": "web-1", "pid": 17, "role": "serve", "told_at": NOW}
    last = None if ago is None else NOW - ago
    return Use(version, process, place=place, last_at=last, **{**facts, **more})  # type: ignore[arg-type]


def at(*found: str, uses: tuple[Use, ...] = (), now: float = NOW) -> Situation:
    return Situation(now, tuple(map(Found, found)), uses)


def order(record: Record, *found: str) -> tuple[str, ...]:
    return arranged(record, tuple(map(Found, found)), NOW)[0]


def test_without_a_decision_the_order_of_the_source_counts():
    """Nothing decided: as the environment has it, pending ones behind."""
    assert order(Record(), "b", "a") == ("b", "a")
    assert arranged(Record(), [Found("p", pending=True), Found("a")], NOW)[0] == ("a", "p")


def test_a_whole_rotation():
    """Added it is used last, promoted it is used first, and the old one can be retired once nobody has used it."""
    record = add(Record(), Found("new"), at("old"))
    assert order(record, "new", "old") == ("old", "new")
    record = promote(record, "new", at("old", "new"))
    assert order(record, "old", "new") == ("new", "old")
    with pytest.raises(RotationRefused, match=r"serve 17 on web-1, 2 hours ago"):
        retire(record, "old", at("old", "new", uses=(use("old", ago=7_300), use("new", place=1))))
    with pytest.raises(RotationRefused, match="until 10 minutes ago"):
        retire(record, "old", at("old", "new", now=NOW + 600))
    later = NOW + UNUSED
    uses = (use("old", ago=1, told_at=later), use("new", place=1, told_at=later))
    record = retire(record, "old", at("old", "new", uses=uses, now=later))
    assert (order(record, "old", "new"), record.status("old")) == (("new",), "retired")
    undone = rollback(record, at("old", "new"))
    assert order(undone, "old", "new") == ("new", "old")
    with pytest.raises(RotationRefused, match="nothing to be undone"):
        rollback(undone, at("old", "new"))


def test_one_that_nobody_has_decided_on_is_retired_once_it_is_known_to_be_unused():
    """Two values in the variable, and no decision yet: the processes tell for how long the second was not used."""
    for begun in (None, NOW - UNUSED + 60):
        uses = (use("new", begun_at=begun, ago=5), use("old", place=1, begun_at=begun))
        with pytest.raises(
            RotationRefused, match=r"who uses old is told only for 24 hours|nobody has told of old"
        ) as no:
            retire(Record(), "old", at("new", "old", uses=uses))
        assert "known 24 hours after" in str(no.value)
    uses = (use("new", begun_at=NOW - UNUSED), use("old", place=1, begun_at=NOW - UNUSED))
    record = retire(Record(), "old", at("new", "old", uses=uses))
    assert (record.status("new"), record.status("old")) == ("first", "retired")
    with pytest.raises(RotationRefused, match="was used within 24 hours"):
        retire(Record(), "old", at("new", "old", uses=(uses[0], replace(uses[1], last_at=NOW - 60))))
    record = promote(Record(), "new", at("new", "old", now=NOW - 60))
    with pytest.raises(RotationRefused, match="used first until 61 s ago"):
        retire(record, "old", at("new", "old", uses=uses))


def test_rolling_back_a_promotion_uses_the_old_one_first_again():
    """The new one is accepted still, as before."""
    record = promote(add(Record(), Found("new"), at("old")), "new", at("old", "new"))
    assert order(rollback(record, at("old", "new")), "new", "old") == ("old", "new")


def test_what_somebody_lacks_is_not_promoted():
    """A running process that has only the old one is named; one that is gone does not count."""
    uses = (use("old"), use("new", "p2", pid=4, host="web-2"))
    with pytest.raises(RotationRefused, match="not yet at serve 17 on web-1"):
        promote(Record(), "new", at("old", "new", uses=uses))
    assert promote(Record(), "new", at("old", "new", uses=uses), force=True).status("new") == "first"
    gone = replace(uses[0], told_at=NOW - 1_000)
    assert promote(Record(), "new", at("old", "new", uses=(gone, uses[1]))).status("new") == "first"


def test_the_last_good_one_is_never_retired():
    """Not with force, not for a process that has no other, and not where the other one is over."""
    for situation in (
        at("a"),
        at("a", "b", uses=(use("a"),)),
        Situation(NOW, (Found("a"), Found("b", not_after=NOW - 1))),
        Situation(NOW, (Found("a"), Found("b", not_before=NOW + 60))),
    ):
        with pytest.raises(RotationRefused):
            retire(Record(), "a", situation, force=True)
    assert order(retire(Record(), "a", at("a", "b"), force=True), "a", "b") == ("b",)
    with pytest.raises(RotationRefused, match="used first"):
        retire(Record(), "a", at("a", "b"))


def test_what_is_retired_stays_so_until_it_is_added_with_force():
    """Neither promoting nor adding brings it back by mistake."""
    record = retire(Record(), "a", at("a", "b"), force=True)
    with pytest.raises(RotationRefused, match="retired"):
        promote(record, "a", at("a", "b"))
    with pytest.raises(RotationRefused, match="retired"):
        add(record, Found("a"), at("a", "b"))
    assert order(add(record, Found("a"), at("a", "b"), force=True), "a", "b") == ("b", "a")


def test_what_a_source_puts_in_front_later_stays_there():
    """A deployment or a secret manager that brings a version of which nobody has decided is newer than the decision."""
    record = promote(Record(), "b", at("a", "b"))
    assert order(record, "a", "b") == ("b", "a")
    assert order(record, "c", "a", "b") == ("c", "b", "a")
    assert order(record, "a", "c", "b") == ("b", "a", "c")
    assert order(promote(record, "b", at("c", "a", "b")), "c", "a", "b")[0] == "b"


def test_only_retired_ones_left_are_told_apart():
    """They are all that there is, for requests of ours, and good for nothing else."""
    record = retire(Record(), "a", at("a", "b"), force=True)
    assert arranged(record, [Found("a")], NOW) == (("a",), False)
    assert arranged(record, [Found("a"), Found("b")], NOW) == (("b",), True)


@given(st.permutations(["a", "b", "c", "d"]), st.data())
@settings(max_examples=60)
def test_the_order_is_determined(found: list[str], data: st.DataObject):
    """The same decisions and versions give the same order, in whatever order the standings are kept."""
    record = promote(add(Record(), Found("c"), at("a", "b")), "b", at("a", "b", "c"))
    shuffled = replace(record, standings=tuple(data.draw(st.permutations(record.standings))))
    assert order(record, *found) == order(shuffled, *found)
    assert set(order(record, *found)) == set(found)


VERSIONS = ("a", "b", "c", "d")


@dataclass
class Process:
    """One that has some versions, and calls with what it has."""

    held: list[str] = field(default_factory=lambda: ["a"])
    last: dict[str, float] = field(default_factory=dict)


class Rotating(RuleBasedStateMachine):
    """Operators decide, sources change, time passes, versions end, two processes call."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.record = Record()
        self.ends: dict[str, float] = {}
        self.processes = {"p1": Process(), "p2": Process()}

    def _found(self, held: list[str]) -> list[Found]:
        return [Found(one, not_after=self.ends.get(one)) for one in held]

    def _situation(self, *, here: bool) -> Situation:
        uses = tuple(
            Use(
                version,
                name,
                "h",
                1,
                "serve",
                place,
                self.now,
                last_at=process.last.get(version),
                not_after=self.ends.get(version),
            )
            for name, process in self.processes.items()
            for place, version in enumerate(process.held)
        )
        return Situation(self.now, tuple(self._found(self.processes["p1"].held)) if here else (), uses)

    def _good(self, held: list[str]) -> list[str]:
        used, good = arranged(self.record, self._found(held), self.now)
        return [one for one in used if good and self.ends.get(one, self.now + 1) > self.now]

    @rule(version=st.sampled_from(VERSIONS), here=st.booleans(), force=st.booleans(), op=st.sampled_from("apr"))
    def decide(self, version: str, here: bool, force: bool, op: str) -> None:
        situation = self._situation(here=here)
        before = {name: self._good(one.held) for name, one in self.processes.items()}
        try:
            if op == "a":
                self.record = add(self.record, Found(version), situation, force=force)
            elif op == "p":
                self.record = promote(self.record, version, situation, force=force)
                assert all(self._good(one.held)[0] == version for one in self.processes.values() if version in one.held)
            else:
                self.record = retire(self.record, version, situation, force=force)
        except RotationRefused:
            pass
        for name, process in self.processes.items():
            assert self._good(process.held) or not before[name]

    @rule(here=st.booleans())
    def undo(self, here: bool) -> None:
        before = {name: self._good(one.held) for name, one in self.processes.items()}
        try:
            self.record = rollback(self.record, self._situation(here=here))
        except RotationRefused:
            return
        for name, process in self.processes.items():
            assert self._good(process.held) or not before[name]

    @rule(name=st.sampled_from(["p1", "p2"]), held=st.lists(st.sampled_from(VERSIONS), unique=True, min_size=1))
    def deploy(self, name: str, held: list[str]) -> None:
        self.processes[name].held = held

    @rule(version=st.sampled_from(VERSIONS))
    def call(self, version: str) -> None:
        for process in self.processes.values():
            used, _ = arranged(self.record, self._found(process.held), self.now)
            process.last[used[0]] = self.now

    @rule(seconds=st.sampled_from([1.0, 3_600.0, 100_000.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: len(self.ends) < 2)
    @rule(version=st.sampled_from(VERSIONS))
    def end(self, version: str) -> None:
        self.ends[version] = self.now

    @invariant()
    def something_is_there_to_send(self) -> None:
        """Whatever a process finds, it has something to send, and what is good comes before what is not."""
        for process in self.processes.values():
            used, _ = arranged(self.record, self._found(process.held), self.now)
            assert used
            ended = [self.ends.get(one, self.now + 1) <= self.now for one in used]
            assert ended == sorted(ended)

    @invariant()
    def one_is_first(self) -> None:
        """At most one, and no version stands twice."""
        statuses = [one.status for one in self.record.standings]
        assert statuses.count("first") <= 1
        names = [one.version for one in self.record.standings]
        assert len(names) == len(set(names))


Rotating.TestCase.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
TestRotating = Rotating.TestCase
