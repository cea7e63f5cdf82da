"""``Place``: where one credential is looked for; what the modules beside this one have in common."""

from __future__ import annotations

from typing import Protocol

from moorline.secrets.versions import Found

__all__ = ["Place"]


class Place(Protocol):
    """Where one credential is looked for."""

    @property
    def where(self) -> str:
        """The place, for people: no secret."""
        ...

    def now(self) -> Found:
        """What is there, as far as is known: each call of a service asks. Raises ConfigurationError where that cannot
        be said.
        """
        ...
