"""Whom one application receives events from: every service's webhooks, and senders of its own, each by a name."""

from __future__ import annotations

import re
from typing import Any, Final

from moorline.errors import ConfigurationError
from moorline.events.intake import LONGEST_NAME, scheme_named
from moorline.events.own import OWN
from moorline.events.scheme import Scheme
from moorline.events.verification import GENERIC, scheme_of

__all__ = ["Sources", "check_name"]

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]*")


class Sources:
    """The senders of one application."""

    def __init__(self) -> None:
        self._own: dict[str, Scheme] = {}

    def add(self, name: str, scheme: Scheme) -> None:
        """Receive what *scheme* checks under ``/webhooks/<name>``.

        Raises ConfigurationError for a name that is none, or is taken, by a service too, and for what is no scheme.
        """
        check_name(name)
        if not isinstance(scheme, Scheme):
            raise ConfigurationError(f"scheme: expected such as HMACSignature(…), got {type(scheme).__name__}")
        if name in self._own:
            raise ConfigurationError(f"name: there is a source {name!r} already")
        self._own[name] = scheme

    def scheme(self, name: str) -> Scheme | None:
        """How the sender of that name signs, None if there is none."""
        return self._own.get(name) or scheme_named(name)

    def sender(self, service: str | type[Any] | Scheme) -> str:
        """The name under which its events come; ``moorline`` for its own. Raises ConfigurationError when nothing comes
        from there.
        """
        if service == OWN:
            return OWN
        if isinstance(service, Scheme):
            for name, scheme in self._own.items():
                if scheme is service:
                    return name
            raise ConfigurationError("service: this scheme is nobody's here; give it a name by app.source first")
        if isinstance(service, str) and service in self._own:
            return service
        try:
            return scheme_of(service)[0]
        except ConfigurationError as error:
            if not self._own:
                raise
            raise ConfigurationError(f"{error}; sources of this application: {', '.join(self)}") from None

    def __iter__(self) -> Any:
        return iter(sorted(self._own))


def check_name(name: object) -> None:
    """Raises ConfigurationError unless a source may be called so."""
    from moorline import registry

    if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        raise ConfigurationError(
            f"name: expected small letters, digits, - and _, at most {LONGEST_NAME} of them, got {name!r}"
        )
    if name in GENERIC or name == OWN or name in registry.names():
        raise ConfigurationError(f"name: {name!r} is that of a service; take another")
