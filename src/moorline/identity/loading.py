"""The part of an application that finds credentials: where it looks, and that they are there when it begins."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from moorline.identity.own_secrets import OwnSecrets
from moorline.secrets.locker import secrets
from moorline.secrets.rings import encryption_ring

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from moorline.calls.service import Service
    from moorline.events.handlers import Handlers
    from moorline.events.sources import Sources
    from moorline.identity.routes import SignInRoutes
    from moorline.secrets.secret_settings import SecretSettings
    from moorline.store.store import Store

__all__ = ["Loading", "look_for_secrets"]


def look_for_secrets(chosen: SecretSettings, own: Callable[[], OwnSecrets]) -> None:
    """Let this process look where the settings say; nothing is asked yet. *own* gives what ``store:`` stands for."""
    if chosen.configured:
        secrets().configure(chosen.sources, chosen.names, keep=chosen.keep, ttl=chosen.refresh)
        if chosen.uses("store"):
            secrets().attach(own())


class Loading:
    """The part of ``Moorline`` that finds credentials."""

    store: Store
    sources: Sources
    handlers: Handlers
    _services: dict[str, Service]
    _signing: SignInRoutes | None
    _own_secrets: OwnSecrets | None = None
    _loaded = False

    @property
    def own_secrets(self) -> OwnSecrets:
        """The credentials that this application keeps itself, in its database: ``put``, ``mark``, ``remove``, ``kept``.

        They are looked for where ``[secrets] sources`` has ``store:``. The keys of ``MOORLINE_ENCRYPTION_KEY`` encrypt
        them. Raises ConfigurationError when something is encrypted and there are none.
        """
        if self._own_secrets is None:
            self._own_secrets = OwnSecrets(self.store, encryption_ring)
        return self._own_secrets

    def _look_for_secrets(self, chosen: SecretSettings) -> None:
        look_for_secrets(chosen, lambda: self.own_secrets)

    async def _load_secrets(self, chosen: SecretSettings) -> None:
        """Load what is wanted, so that what is missing is found out now. Raises ConfigurationError that names it."""
        if self._loaded or not (chosen.configured or chosen.required):
            return
        self._look_for_secrets(chosen)
        await asyncio.to_thread(secrets().check, self._wanted(chosen))
        self._loaded = True

    async def _close_secrets(self, chosen: SecretSettings) -> None:
        """Threads and connections end; what is asked for after that is fetched anew."""
        self._loaded = False
        if chosen.configured:
            await asyncio.to_thread(secrets().close)

    def _wanted(self, chosen: SecretSettings) -> Mapping[str, str]:
        """What has to be there, and what for."""
        found = dict.fromkeys(chosen.names, "secrets.names") | dict.fromkeys(chosen.required, "secrets.required")
        if not chosen.configured or os.environ.get("MOORLINE_SANDBOX_URL"):
            return found
        for service in self._services.values():
            if service.needed_variable is not None:
                found[service.needed_variable] = service.name
        for name in self.handlers.senders:
            scheme = self.sources.scheme(name)
            if scheme is not None and scheme.env:
                found[scheme.env] = f"what {name} sends"
        if self._signing is not None:
            for desk in self._signing.desks.values():
                provider = desk.provider
                if provider.client_secret is None and provider.authentication != "none":
                    found[provider.variables[1]] = f"signing in by {provider.name}"
        return found
