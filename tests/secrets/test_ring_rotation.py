"""In which order keys are rotated: whatever an operator does, nobody meets what he cannot read."""

from __future__ import annotations

import pytest
from hypothesis import settings, stateful
from hypothesis import strategies as st

from moorline.secrets.ring_rotation import next_step


@pytest.mark.parametrize(
    ("ids", "rows", "made", "step", "ring"),
    [
        ("a", {}, None, "make", "a"),
        ("a", {"a": 5}, "lost", "make", "a"),
        ("a", {"a": 5, "lost": 1}, "lost", "missing", "a"),
        ("ab", {"a": 5}, "b", "first", "ba"),
        ("abc", {"a": 5}, "c", "first", "cab"),
        ("ba", {"a": 5}, "b", "reseal", "ba"),
        ("ba", {"a": 1, "b": 4}, None, "reseal", "ba"),
        ("ba", {"b": 5}, "b", "remove", "b"),
        ("ba", {"b": 5, "gone": 1}, "b", "remove", "b"),
        ("b", {"b": 5}, "b", "done", "b"),
    ],
)
def test_each_step(ids: str, rows: dict[str, int], made: str | None, step: str, ring: str) -> None:
    """By what the variable holds, what the rows say, and what was made."""
    found = next_step(list(ids), rows, made)
    assert (found.step, "".join(found.ring)) == (step, ring)


class Rotation(stateful.RuleBasedStateMachine):
    """An operator who calls the command at any time, and deploys when it says so; processes that are started anew one
    after the other, and read and write at any moment between.
    """

    def __init__(self) -> None:
        super().__init__()
        self.variable = ["k0"]
        self.processes = [["k0"], ["k0"], ["k0"]]
        self.rows = ["k0"] * 4
        self.made: str | None = None
        self.count = 0
        self.ended = 0

    @stateful.rule()
    def command(self) -> None:
        """As it says: before a step all processes have the value of the one before."""
        self.processes = [list(self.variable) for _ in self.processes]
        found = next_step(self.variable, {key: self.rows.count(key) for key in self.rows}, self.made)
        assert not found.missing
        if found.step == "make":
            self.count += 1
            self.made = f"k{self.count}"
            self.variable = [*found.ring, self.made]
        elif found.step == "reseal":
            self.rows = [found.ring[0] for _ in self.rows]
        elif found.step == "done":
            self.made, self.ended = None, self.ended + 1
        else:
            self.variable = list(found.ring)

    @stateful.rule()
    def lose_what_was_printed(self) -> None:
        """The terminal was closed before anybody saw the value."""
        if self.made is not None and self.variable[-1] == self.made and self.made not in self.rows:
            self.variable = self.variable[:-1] or self.variable

    @stateful.rule(which=st.integers(0, 2))
    def start_anew(self, which: int) -> None:
        """With what the variable holds by now."""
        self.processes[which] = list(self.variable)

    @stateful.rule(which=st.integers(0, 2), row=st.integers(0, 3))
    def write(self, which: int, row: int) -> None:
        """With the key that is first there."""
        self.rows[row] = self.processes[which][0]

    @stateful.invariant()
    def everybody_reads_everything(self) -> None:
        """At any moment, in every process."""
        for process in self.processes:
            assert set(self.rows) <= set(process)


Rotation.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None, derandomize=True)
test_nobody_meets_what_he_cannot_read = Rotation.TestCase
