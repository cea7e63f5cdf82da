"""Work that must happen even if this process dies: jobs, their broker and their worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moorline.jobs.broadcast import Broadcast
    from moorline.jobs.context import JobContext, current
    from moorline.jobs.flows import RESULT
    from moorline.jobs.job import Job, JobHandle
    from moorline.jobs.limits import Limit
    from moorline.jobs.outcome import Cancel, Discard, Retry, Snooze
    from moorline.jobs.registry import JobFunction, Jobs
    from moorline.jobs.sync import Sync
    from moorline.jobs.sync_items import Gone
    from moorline.jobs.sync_state import SyncRun, SyncState
    from moorline.jobs.watch import Progress
    from moorline.jobs.worker import Worker

__all__ = [
    "RESULT", "Broadcast", "Cancel", "Discard", "Gone", "Job", "JobContext", "JobFunction", "JobHandle", "Jobs",
    "Limit", "Progress", "Retry", "Snooze", "Sync", "SyncRun", "SyncState", "Worker", "current",
]  # fmt: skip

_HOMES = {
    "RESULT": "moorline.jobs.flows",
    "Broadcast": "moorline.jobs.broadcast",
    "Cancel": "moorline.jobs.outcome",
    "Discard": "moorline.jobs.outcome",
    "Gone": "moorline.jobs.sync_items",
    "Job": "moorline.jobs.job",
    "JobContext": "moorline.jobs.context",
    "JobFunction": "moorline.jobs.registry",
    "JobHandle": "moorline.jobs.job",
    "Jobs": "moorline.jobs.registry",
    "Limit": "moorline.jobs.limits",
    "Progress": "moorline.jobs.watch",
    "Retry": "moorline.jobs.outcome",
    "Snooze": "moorline.jobs.outcome",
    "Sync": "moorline.jobs.sync",
    "SyncRun": "moorline.jobs.sync_state",
    "SyncState": "moorline.jobs.sync_state",
    "Worker": "moorline.jobs.worker",
    "current": "moorline.jobs.context",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'moorline.jobs' has no attribute {name!r}")
    return getattr(import_module(home), name)
