"""What is claimed and not started: nothing is lost or doubled, batches are bounded, nobody lingers too long."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from moorline.errors import ConfigurationError
from moorline.jobs.intake import Batching, Intake
from moorline.jobs.job import Claim

RULES = {"three": Batching(3, 2.0), "ten": Batching(10, 0.0), "slow": Batching(2, 5.0)}


def claim(number: int, name: str) -> Claim:
    return Claim(str(number), name, "default", 5, b"", 0.0, 1, 6, 1, 0, 0, None, 0.0)


def claims(name: str, *numbers: int) -> list[Claim]:
    return [claim(number, name) for number in numbers]


def ids(batch: Iterable[Claim]) -> str:
    return "".join(one.id for one in batch)


def test_single_jobs_go_as_they_came():
    """One at a time, without waiting."""
    intake = Intake(RULES.get)
    intake.put(claims("plain", 1, 2), 0.0)
    assert (len(intake), intake.ready(), intake.due_in(0.0)) == (2, 2, None)
    assert [ids(intake.take(0.0)) for _ in range(3)] == ["1", "2", ""]
    assert not intake


def test_a_batch_runs_when_it_is_full():
    """Up to its size; what is left over waits for more."""
    intake = Intake(RULES.get)
    intake.put(claims("three", 1, 2), 0.0)
    assert (intake.take(1.0), intake.ready()) == ((), 0)
    intake.put(claims("three", 3, 4), 1.0)
    assert (len(intake), intake.ready()) == (4, 3)
    assert (ids(intake.take(1.0)), intake.take(1.0)) == ("123", ())
    assert intake.due_in(1.0) == 2.0


def test_a_batch_runs_when_it_has_lingered():
    """Its first job waits no longer than it may, and takes along what came after it."""
    intake = Intake(RULES.get)
    intake.put(claims("three", 1), 0.0)
    intake.put(claims("three", 2), 1.5)
    assert (intake.take(1.9), intake.due_in(1.5)) == ((), 0.5)
    assert ids(intake.take(2.0)) == "12"


def test_what_was_there_first_runs_first():
    """Neither full batches nor single jobs push before the others."""
    intake = Intake(RULES.get)
    intake.put(claims("plain", 1), 0.0)
    intake.put(claims("three", 2, 3, 4), 1.0)
    intake.put(claims("plain", 5), 2.0)
    assert [ids(intake.take(2.0)) for _ in range(3)] == ["1", "234", "5"]


def test_clearing_gives_all_of_it_back():
    """Whatever gathers is given back with the rest."""
    intake = Intake(RULES.get)
    intake.put([*claims("plain", 1), *claims("three", 2), *claims("slow", 3)], 0.0)
    assert sorted(ids([one]) for one in intake.clear()) == ["1", "2", "3"]
    assert (len(intake), bool(intake), intake.due_in(0.0)) == (0, False, None)


@pytest.mark.parametrize(
    ("argument", "options"),
    [("batch", {"size": 0}), ("batch", {"size": 10_001}), ("batch", {"size": True}), ("batch", {"size": "5"}),
     ("linger", {"size": 5, "linger": -1}), ("linger", {"size": 5, "linger": 11}), ("linger", {"size": 5, "linger": "1"})],
)  # fmt: skip
def test_a_bad_argument_is_named(argument: str, options: dict[str, Any]):
    """A batch is bounded, and so is the time for which claimed jobs wait."""
    with pytest.raises(ConfigurationError, match=argument):
        Batching(**options)


class Intakes(RuleBasedStateMachine):
    """Claims come, time passes, slots are free: in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.intake = Intake(RULES.get)
        self.now = 0.0
        self.inside: dict[str, tuple[float, str]] = {}
        self.number = 0

    @rule(names=st.lists(st.sampled_from(["plain", "other", *RULES]), max_size=8))
    def put(self, names: list[str]) -> None:
        made = []
        for name in names:
            self.number += 1
            made.append(claim(self.number, name))
            self.inside[str(self.number)] = (self.now, name)
        self.intake.put(made, self.now)

    @rule()
    def take(self) -> None:
        batch = self.intake.take(self.now)
        names = {one.name for one in batch}
        if not batch:
            # Nobody is kept waiting who need not wait.
            assert all(name in RULES and at + RULES[name].linger > self.now for at, name in self.inside.values())
            return
        assert len(names) == 1
        (name,) = names
        rule_ = RULES.get(name)
        since = min(self.inside[one.id][0] for one in batch)
        if rule_ is None:
            assert len(batch) == 1
        else:
            assert len(batch) <= rule_.size
            assert len(batch) == rule_.size or since + rule_.linger <= self.now
        # In the order of their coming, and none of the name was there before.
        mine = [int(id_) for id_, (_, own) in self.inside.items() if own == name]
        assert rule_ is None or [int(one.id) for one in batch] == sorted(mine)[: len(batch)]
        for one in batch:
            del self.inside[one.id]

    @rule(seconds=st.sampled_from([0.1, 1.0, 2.0, 5.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def wait_as_told(self) -> None:
        wait = self.intake.due_in(self.now)
        if wait is not None:
            self.now += wait
            assert self.intake.take(self.now + 1e-9) or not self.inside
            kept = {one.id for one in self.intake}
            self.inside = {id_: one for id_, one in self.inside.items() if id_ in kept}

    @invariant()
    def it_holds_what_it_was_given(self) -> None:
        """Nothing is lost or doubled."""
        assert sorted(one.id for one in self.intake) == sorted(self.inside)
        assert len(self.intake) == len(self.inside)
        assert bool(self.intake) == bool(self.inside)
        assert self.intake.ready() <= len(self.intake)


TestIntakes = Intakes.TestCase
TestIntakes.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestIntakes.__doc__ = "Nothing is lost or doubled, no batch is too large, none waits longer than it may."
