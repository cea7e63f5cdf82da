"""Notes on jobs in Redis: a hash for each, which expires by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from moorline.jobs.notes import JobNote, Note

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from moorline.jobs.brokers.redis_link import Link

__all__ = ["RedisNotes"]

R = TypeVar("R")

_KEPT: Final = 86_400  # seconds after the last word


class RedisNotes:
    """See ``moorline.jobs.notes.Notes``. *use* runs a function with a link, in a thread."""

    def __init__(self, use: Callable[[Callable[[Link], Any]], Awaitable[Any]]) -> None:
        self._use = use

    def check(self) -> None:
        """See ``Notes``."""

    async def write(self, notes: Sequence[Note]) -> None:
        """See ``Notes``."""
        told: list[Any] = []
        for job_id, deliveries, at, done, message, result in notes:
            # A mark before a result: an empty one is not the same as none.
            kept = b"" if result is None else b"=" + result
            told += (job_id, deliveries, repr(at), "" if done is None else repr(done), message or "", kept)
        if told:
            await self._use(lambda link: link.do("note", _KEPT, *told))

    async def read(self, job_id: str) -> JobNote | None:
        """See ``Notes``."""
        (found,) = await self._use(lambda link: link.read(lambda p: p.hgetall, [f"note:{job_id}"]))
        if not found:
            return None
        facts: dict[str, bytes] = {name.decode(): value for name, value in found.items()}
        return JobNote(
            done=float(facts["n"]) if "n" in facts else None,
            message=facts["m"].decode() if "m" in facts else None,
            result=facts["y"][1:] if "y" in facts else None,
            at=float(facts["t"]) if "t" in facts else None,
            stop=facts["s"].decode() if "s" in facts else None,
            stop_deliveries=int(facts.get("sv", 0)),
        )

    async def ask_to_stop(self, job_id: str, deliveries: int, reason: str) -> None:
        """See ``Notes``."""
        await self._use(lambda link: link.do("ask_to_stop", _KEPT, job_id, deliveries, reason))

    async def stops(self, held: Mapping[str, int]) -> dict[str, str]:
        """See ``Notes``."""
        keys = [f"note:{job_id}" for job_id in held]
        found = await self._use(lambda link: link.read(lambda p: lambda key: p.hmget(key, "s", "sv"), keys))
        return {
            job_id: stop.decode()
            for (job_id, deliveries), (stop, of) in zip(held.items(), found, strict=True)
            if stop is not None and int(of) == deliveries
        }

    async def prune(self, before: float, *, limit: int = 1000) -> int:
        """See ``Notes``: the server does it."""
        del before, limit
        return 0
