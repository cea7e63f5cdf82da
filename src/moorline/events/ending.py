"""Which senders have secrets here, and when these end. A variable that holds what is no secret stops nobody else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from moorline.errors import ConfigurationError
from moorline.telemetry import logger

if TYPE_CHECKING:
    from moorline.events.signatures import Key
    from moorline.events.sources import Sources

__all__ = ["ending_secrets", "senders", "with_secrets"]

log = logger("events")


def senders(sources: Sources) -> list[str]:
    """The names under which anything may come: every service's, and the application's own sources."""
    from moorline import registry

    return sorted({*registry.names(), *sources})


def with_secrets(names: Iterable[str], secrets: Callable[[str], Sequence[Key]]) -> Iterator[tuple[str, Sequence[Key]]]:
    """Each name that has secrets, with them; one whose variable holds what is no secret is logged and left out."""
    for name in names:
        try:
            found = secrets(name)
        except ConfigurationError as error:
            log.warning("webhook_secret_unusable", service=name, reason=str(error))
            continue
        if found:
            yield name, found


def ending_secrets(names: Iterable[str], secrets: Callable[[str], Sequence[Key]]) -> Iterator[tuple[str, str, float]]:
    """The signing secrets whose end is known: service, name, end (seconds since the epoch)."""
    for name, found in with_secrets(names, secrets):
        for secret in found:
            until = getattr(secret, "not_after", None)
            if until is not None:
                yield name, getattr(secret, "name", ""), until
