"""Work that must happen even if this process dies: jobs, their broker and their worker."""

from __future__ import annotations

from typing import Any

__all__ = ["Broadcast", "Cancel", "Discard", "Job", "JobFunction", "Jobs", "Retry", "Snooze", "Worker"]

_HOMES = {
    "Broadcast": "moorline.jobs.broadcast",
    "Cancel": "moorline.jobs.outcome",
    "Discard": "moorline.jobs.outcome",
    "Job": "moorline.jobs.job",
    "JobFunction": "moorline.jobs.registry",
    "Jobs": "moorline.jobs.registry",
    "Retry": "moorline.jobs.outcome",
    "Snooze": "moorline.jobs.outcome",
    "Worker": "moorline.jobs.worker",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'moorline.jobs' has no attribute {name!r}")
    return getattr(import_module(home), name)
