"""The tokens that open the dashboard, read each time, so that a change of them needs no restart."""

from __future__ import annotations

from typing import Final

from moorline.errors import ConfigurationError
from moorline.secrets.secret import Secret
from moorline.secrets.sources import environment

__all__ = ["TOKEN", "dashboard_tokens"]

TOKEN: Final = "MOORLINE_DASHBOARD_TOKEN"  # noqa: S105 (the name of a variable)
"""The variable with the token; while one is changed for another it may hold several."""
_SHORTEST: Final = 16  # characters


def dashboard_tokens() -> tuple[Secret, ...]:
    """The tokens that let in, none where the variable is not set. Raises ConfigurationError for one that is short."""
    found = environment.load_all(TOKEN)
    if any(len(one.reveal()) < _SHORTEST for one in found):
        raise ConfigurationError(f"{TOKEN} (environment): must have at least {_SHORTEST} characters")
    return found
