"""Messages of queues that others own: taken in as jobs, and sent out at once or by jobs."""

from __future__ import annotations

from moorline.jobs.foreign.message import Message

__all__ = ["Message"]
