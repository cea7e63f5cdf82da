"""``VerifyingService``: a service whose users' tokens are verified here, with the keys that it publishes."""

from __future__ import annotations

from typing import Any, ClassVar

from moorline.calls.service import Service
from moorline.errors import ConfigurationError
from moorline.identity.keys import Keeping, KeyCache

__all__ = ["VerifyingService", "listed"]


class VerifyingService(Service):
    """The base of the services of the category ``auth``: their published keys, kept and renewed.

    ``leeway`` is how far its clock and ours may differ, in seconds; *leeway* replaces it.
    """

    leeway: ClassVar[float] = 30.0
    keeping: ClassVar[Keeping] = Keeping()

    def __init__(self, *arguments: Any, leeway: float | None = None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if leeway is not None and not 0 <= leeway <= 300:
            raise ConfigurationError(f"{self.name}.leeway must be from 0 to 300 seconds, not {leeway!r}")
        self.clock_skew = self.leeway if leeway is None else leeway
        self.keys = KeyCache(self._keys_url, owner=self, keeping=self.keeping)

    def _keys_url(self) -> str:
        """Where its keys are at this moment."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Close the connections on the running loop, and the blocking ones."""
        await super().aclose()
        await self.keys.aclose()

    def close(self) -> None:
        """Close the connections of blocking calls."""
        super().close()
        self.keys.close()


def listed(text: str) -> tuple[str, ...]:
    """The words of a parameter that may hold several, separated by commas."""
    return tuple(word for one in text.split(",") if (word := one.strip()))
