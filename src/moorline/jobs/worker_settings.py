"""``WorkerSettings``: ``[worker]``, how jobs are run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Self

from pydantic import BaseModel, Field, model_validator

from moorline.setting_kinds import STRICT, Seconds, Words

if TYPE_CHECKING:
    from moorline.jobs.limits import Limit

__all__ = ["LimitSettings", "WorkerSettings"]


class LimitSettings(BaseModel):
    """``[worker.limits.QUEUE]``: how many of a queue's jobs begin in a time, or run at once, over all workers."""

    model_config = STRICT

    limit: Annotated[int, Field(ge=1)] | None = None
    """So many jobs begin in ``per`` seconds."""
    per: Seconds = 1.0
    """Seconds in which ``limit`` jobs begin."""
    burst: Annotated[int, Field(ge=1)] | None = None
    """How many of them may begin at once; by default all."""
    concurrency: Annotated[int, Field(ge=1)] | None = None
    """So many run at once."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.limit is None and self.concurrency is None:
            raise ValueError("says no limit: set limit (and per), concurrency, or both; or leave it out")
        return self

    def build(self) -> Limit:
        """As workers take it."""
        from moorline.jobs.limits import Limit
        from moorline.policies.rate import RateLimit

        rate = None if self.limit is None else RateLimit(self.limit, self.per, self.burst)
        return Limit(rate, self.concurrency)


class WorkerSettings(BaseModel):
    """``[worker]``: how jobs are run."""

    model_config = STRICT

    concurrency: Annotated[int, Field(ge=1, le=10_000)] = 50
    """Jobs in flight in one process."""
    processes: Annotated[int, Field(ge=1, le=1_000)] | None = None
    """Processes for jobs that compute (``process=True``); by default as many as there are cores."""
    lease: Seconds = 30.0
    """Seconds without a heartbeat after which a worker's jobs are taken over."""
    grace: Annotated[float, Field(ge=0)] = 25.0
    """Seconds that running jobs have after SIGTERM; what is unfinished then is given back."""
    queues: Annotated[Words, Field(min_length=1)] = ("default",)
    """The queues that are worked; in the environment separated by commas."""
    ageing: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 60.0
    """Seconds of waiting that make up for a step of priority, so that no job waits for ever; 0: none do."""

    limits: dict[str, LimitSettings] = {}
    """By queue: how many of its jobs begin in a time, or run at once, over all workers that share the database."""
