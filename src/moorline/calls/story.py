"""What happened to a call, and why, as typed events: each refusal, wait, retry and change of state has its reason.

The engine tells them to whoever watches (``watch``) and keeps those of a service's Call for ``Call.explain``.
They hold no argument, no body and no credential; reasons are one line and redacted.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Final, Literal

from moorline import telemetry
from moorline.errors import Attempt, CallError, Outcome

__all__ = [
    "CANCELLED",
    "FellBack",
    "Finished",
    "GaveUp",
    "Hedging",
    "Part",
    "Refused",
    "Renewed",
    "Resuming",
    "Retrying",
    "StateChanged",
    "Step",
    "Story",
    "Tried",
    "Waiting",
    "Watcher",
    "changed",
    "new_number",
    "record",
    "record_refusal",
    "step_of",
    "tell",
    "watch",
    "watchers",
]

Part = Literal["admission", "breaker", "rate gate", "bulkhead", "key window", "shared state", "wire"]

CANCELLED: Final = "cancelled"
"""The reason of an attempt and an end that nobody waited for."""

_numbers: Final = itertools.count(1)


def new_number() -> int:
    """A number for a call, by which its steps are known among those of others in this process."""
    return next(_numbers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing that happened. ``at`` is seconds since the epoch; ``call`` numbers the calls of this process (0: none);
    ``reason`` is one line.
    """

    kind: ClassVar[str] = "step"

    at: float
    service: str
    operation: str = ""
    call: int = 0
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The step as JSON, its kind first."""
        return {"kind": self.kind, **{field.name: getattr(self, field.name) for field in fields(self)}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried(Step):
    """An attempt is over, well or badly. ``elapsed`` is seconds."""

    kind: ClassVar[str] = "attempt"

    number: int
    status: int | None
    elapsed: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting(Step):
    """The call waits for *part*: at the rate gate for ``seconds``, at the bulkhead for at most as many."""

    kind: ClassVar[str] = "wait"

    part: Part
    seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrying(Step):
    """Retry ``number`` comes after ``seconds``."""

    kind: ClassVar[str] = "retry"

    number: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused(Step):
    """*part* did not let the call through; nothing was sent this time."""

    kind: ClassVar[str] = "refused"

    part: Part


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewed(Step):
    """The service refused the credential; ``worked`` tells whether there was a newer one to try with."""

    kind: ClassVar[str] = "credential"

    worked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GaveUp(Step):
    """The attempt failed and no other follows; ``reason`` says why not."""

    kind: ClassVar[str] = "gave_up"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resuming(Step):
    """The body of a download broke off, and what follows begins at byte ``start`` of ``total`` (None: unknown): at 0
    where all of it comes again.
    """

    kind: ClassVar[str] = "resume"

    start: int
    total: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hedging(Step):
    """No answer yet: the same read is sent once more beside the first, and the first answer wins."""

    kind: ClassVar[str] = "hedge"


@dataclass(frozen=True, slots=True, kw_only=True)
class FellBack(Step):
    """The service could not: ``to`` stands in, another service or an earlier answer; ``reason`` is the error."""

    kind: ClassVar[str] = "fallback"

    to: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished(Step):
    """The call is over. ``error`` is the name of the error's class, None for an answer; ``elapsed`` is seconds."""

    kind: ClassVar[str] = "finished"

    status: int | None
    attempts: int
    elapsed: float
    outcome: Outcome
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChanged(Step):
    """A part that calls share is in another state: the breaker of ``service`` is ``closed``, ``open`` or ``half_open``;
    its rate gate ``free`` or ``holding`` calls back; its wire is another one; or the store at ``service``, where
    processes share their state, is ``up`` or ``away``.
    """

    kind: ClassVar[str] = "state"

    part: Part
    before: str
    after: str


_KINDS: Final = {
    kind.kind: kind
    for kind in (
        Tried,
        Waiting,
        Retrying,
        Refused,
        Renewed,
        Resuming,
        GaveUp,
        Hedging,
        FellBack,
        Finished,
        StateChanged,
    )
}


def step_of(written: Mapping[str, Any]) -> Step | None:
    """The step that ``to_dict`` wrote; None for a kind that this version does not know. Further keys are ignored."""
    kind = _KINDS.get(written.get("kind", ""))
    if kind is None:
        return None
    try:
        return kind(**{field.name: written[field.name] for field in fields(kind)})
    except KeyError:
        return None


Story = list[Step | Attempt]
Watcher = Callable[[Step], None]

watchers: Final[list[Watcher]] = []
"""Who is told of each step of every call in this process; change it with ``watch`` only."""


def watch(watcher: Watcher) -> Callable[[], None]:
    """Tell *watcher* each step of every call in this process, on whatever thread it happens; it must be quick.

    Returns the function that ends it. What *watcher* raises is logged, and the watcher is told no more: a fault in
    watching must not become a fault of calls.
    """
    watchers.append(watcher)

    def stop() -> None:
        if watcher in watchers:
            watchers.remove(watcher)

    return stop


def record(step: Step, story: Story | None) -> None:
    """Add *step* to the *story* of a Call, if there is one, and tell it to all who watch."""
    if story is not None:
        story.append(step)
    if watchers:
        tell(step)


def record_refusal(part: Part, error: CallError, story: Story, at: float) -> None:
    """As ``record``, of a call that *part* refused with *error* before it could begin, *at* seconds since the epoch."""
    common: dict[str, Any] = {"at": at, "service": error.service, "operation": error.operation, "reason": error.message}
    call, kind = new_number(), type(error).__name__
    record(Refused(part=part, call=call, **common), story)
    end = Finished(status=None, attempts=0, elapsed=0.0, outcome=error.outcome, error=kind, call=call, **common)
    record(end, story)


def changed(part: Part, service: str, at: float, before: str, after: str, reason: str) -> None:
    """Tell a change of state to all who watch, if anybody does."""
    if watchers:
        tell(StateChanged(at=at, service=service, reason=reason, part=part, before=before, after=after))


def tell(step: Step) -> None:
    """Tell *step* to all who watch."""
    for watcher in tuple(watchers):
        try:
            watcher(step)
        except Exception as error:  # noqa: BLE001 (see watch)
            watchers.remove(watcher)
            telemetry.logger("calls").error("watcher_failed", watcher=repr(watcher), error=type(error).__name__)
