"""The tokens that open the dashboard, read each time, so that a change of them needs no restart."""

from __future__ import annotations

from typing import Final

from moorline.errors import ConfigurationError
from moorline.secrets.locker import secrets
from moorline.secrets.secret import Secret

__all__ = ["TOKEN", "dashboard_tokens"]

TOKEN: Final = "MOORLINE_DASHBOARD_TOKEN"  # noqa: S105 (the name of a variable)
"""The variable with the token; while one is changed for another it may hold several."""
_SHORTEST: Final = 16  # characters


def dashboard_tokens(now: float) -> tuple[Secret, ...]:
    """The tokens that let in at that time (seconds since the epoch), none where the variable is not set.

    Raises ConfigurationError for one that is short.
    """
    found = tuple(one for one in secrets().load_all(TOKEN) if one.not_after is None or now < one.not_after)
    if any(len(one.reveal()) < _SHORTEST for one in found):
        raise ConfigurationError(f"{TOKEN}: must have at least {_SHORTEST} characters")
    return found
