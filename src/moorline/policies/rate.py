"""Our own quota, as it is configured. Its state is a ``Quota``, which the service's ``Gate`` holds."""

from __future__ import annotations

from dataclasses import dataclass

from moorline.policies.checks import check_count, check_seconds

__all__ = ["RateLimit"]


@dataclass(frozen=True, slots=True)
class RateLimit:
    """*limit* attempts in *per* seconds, again and again, of which *burst* (normally *limit*) may come at once.

    It is a bucket that holds *burst* and is filled evenly: any *per* seconds have at most *burst* + *limit*, which the
    first ones of a rush come close to. With ``burst=1`` attempts are spaced evenly, and no *per* seconds have more than
    *limit*: for those who count strictly.

    Raises ConfigurationError naming the field.
    """

    limit: int
    per: float = 1.0
    burst: int | None = None

    def __post_init__(self) -> None:
        check_count("RateLimit", "limit", self.limit)
        check_seconds("RateLimit", "per", self.per)
        if self.burst is not None:
            check_count("RateLimit", "burst", self.burst)
