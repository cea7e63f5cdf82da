"""Who does something that is kept in the audit."""

from __future__ import annotations

from moorline.errors import ConfigurationError

__all__ = ["check_actor"]

_LONGEST = 200


def check_actor(actor: object) -> None:
    """Raises ConfigurationError unless it can be read as somebody's name."""
    if not isinstance(actor, str) or not actor.strip() or len(actor) > _LONGEST or not actor.isprintable():
        raise ConfigurationError(f"actor: expected who does it, such as an e-mail address, got {actor!r}")
