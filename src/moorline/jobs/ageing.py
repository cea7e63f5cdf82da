"""Which waiting job goes first: by priority, but who has waited for long enough passes. Pure; the brokers look it up.

Jobs wait in lanes, one for each queue and priority, in which the earliest due is the head. A step of priority is worth
a head start of so many seconds (*ageing*), so a steady stream of urgent jobs holds others up only for a time; 0 makes
it worth any. The order of the lanes is decided once a claim, by their heads.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from moorline.jobs.job import Claim

__all__ = ["AGEING", "due_lanes", "order", "rank"]

AGEING: Final = 60.0
"""Seconds that a step of priority is worth unless told otherwise."""


def rank(priority: int, run_at: float, ageing: float) -> tuple[float, float]:
    """The lower goes first; of equals the one that was due earlier."""
    return (run_at + priority * ageing if ageing else priority), run_at


def order(ageing: float, claim: Claim) -> tuple[tuple[float, float], str]:
    """To sort claims by, in which order they are run."""
    return rank(claim.priority, claim.run_at, ageing), claim.id


def due_lanes(heads: Iterable[tuple[str, int, float | None]], now: float, ageing: float) -> list[tuple[str, int]]:
    """The lanes in which something is due, those to be emptied first before the others.

    *heads* are the queue, priority and first due time of each lane (None: empty), in the order of equals.
    """
    due = [(queue, priority, at) for queue, priority, at in heads if at is not None and at <= now]
    due.sort(key=lambda lane: rank(lane[1], lane[2], ageing))
    return [(queue, priority) for queue, priority, _ in due]
