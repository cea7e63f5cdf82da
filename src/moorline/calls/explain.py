"""The time line of a call, to be read by a person: what ``Call.explain`` prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from moorline.calls import story
from moorline.calls.story import Step
from moorline.errors import Attempt

__all__ = ["line_of", "time_line"]


def time_line(name: str, steps: Sequence[Step | Attempt]) -> str:
    """The steps of one call, one a line, each with the seconds since it began; the first line says how it ended."""
    if not steps:
        return f"{name}: not sent yet"
    begun = min(_began(step) for step in steps)
    lines = [f"{name}: {_ending(steps)}"]
    lines += [f"  +{_began(step) - begun:.3f} s  {text}" for step, text in _told(steps)]
    return "\n".join(lines)


def line_of(step: Step) -> str:
    """One step in one line, without its time and name: ``retry 1 in 0.8 s: answered 503``."""
    return "".join(text for _step, text in _told([step])) or (
        _finished(step) if isinstance(step, story.Finished) else ""
    )


def _told(steps: Sequence[Step | Attempt]) -> Iterator[tuple[Step | Attempt, str]]:
    for step in steps:
        match step:
            case Attempt() | story.Tried():
                status = "no answer" if step.status is None else f"{step.status}"
                yield step, f"attempt {step.number}: {status} after {step.elapsed:.3f} s ({step.reason})"
            case story.Waiting(seconds=None):
                yield step, f"waits at the {step.part}: {step.reason}"
            case story.Waiting():
                yield step, f"waits at the {step.part}, {step.seconds:.3g} s: {step.reason}"
            case story.Retrying():
                yield step, f"retry {step.number} in {step.seconds:.3g} s: {step.reason}"
            case story.Refused():
                yield step, f"refused by the {step.part}: {step.reason}"
            case story.Renewed() | story.Resuming():
                yield step, step.reason
            case story.Hedging():
                yield step, f"sent once more beside the first: {step.reason}"
            case story.FellBack():
                yield step, f"falls back to {step.to}: {step.reason}"
            case story.GaveUp():
                yield step, f"no other attempt: {step.reason}"
            case story.StateChanged():
                why = f": {step.reason}" if step.reason else ""
                yield step, f"{step.part} {step.before} -> {step.after}{why}"
            case _:
                pass


def _ending(steps: Sequence[Step | Attempt]) -> str:
    wanted = [step for step in steps if step.reason != story.CANCELLED]
    if any(isinstance(step, story.Finished) or step.reason == "answered" for step in wanted):
        steps = wanted  # the others are of a hedge that lost
    last = steps[-1]
    for step in reversed(steps):
        if isinstance(step, story.Finished):
            instead = f"; {last.to} stood in" if isinstance(last, story.FellBack) else ""
            return _finished(step) + instead
    tries = sum(isinstance(step, (Attempt, story.Tried)) for step in steps)
    elapsed = _ended(last) - min(_began(step) for step in steps)
    if isinstance(last, Attempt) and last.reason == "answered":
        return f"answered {last.status} after {elapsed:.3f} s, {_times(tries)}"
    return f"under way for {elapsed:.3f} s, {_times(tries)}"


def _finished(step: story.Finished) -> str:
    if step.error is None:
        return f"answered {step.status} after {step.elapsed:.3f} s, {_times(step.attempts)}"
    return (
        f"{step.error} after {step.elapsed:.3f} s, {_times(step.attempts)}, outcome {step.outcome.replace('_', ' ')}"
        f" ({step.reason})"
    )


def _times(count: int) -> str:
    return "1 attempt" if count == 1 else f"{count} attempts"


def _began(step: Step | Attempt) -> float:
    """When it began: an attempt is told when it is over, the end when all is."""
    return step.at - step.elapsed if isinstance(step, (story.Tried, story.Finished)) else step.at


def _ended(step: Step | Attempt) -> float:
    return step.at + step.elapsed if isinstance(step, Attempt) else step.at
