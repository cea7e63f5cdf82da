"""The part of an application at which its users, or their tenants, connect accounts of theirs."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, TypeVar

from moorline.clock import Clock
from moorline.errors import ConfigurationError
from moorline.identity.scopes import checked
from moorline.secrets.rings import configured_ring, encryption_ring

if TYPE_CHECKING:
    from moorline.calls.service import Service
    from moorline.identity.connect_routes import ConnectRoutes
    from moorline.identity.connections import Connections
    from moorline.identity.connector import ConnectDesk, Connector
    from moorline.identity.desk import Desk
    from moorline.identity.own_secrets import OwnSecrets
    from moorline.identity.routes import SignInRoutes
    from moorline.identity.upkeep import Upkeep
    from moorline.identity.vault import Teller
    from moorline.secrets.keyring import KeyRing
    from moorline.store.store import Store

__all__ = ["Connecting"]

F = TypeVar("F", bound=Callable[..., Any])


class Connecting:
    """The part of ``Moorline`` that connects accounts."""

    store: Store
    clock: Clock
    receiver: Any
    _signing: SignInRoutes | None
    _connect: ConnectRoutes | None = None
    _connections: Connections | None = None
    _connectable: dict[str, tuple[type[Service], tuple[str, ...]]]
    _connect_desks: dict[str, ConnectDesk]
    _owner_of: Callable[..., Any] | None = None
    _upkeep: Upkeep | None = None

    if TYPE_CHECKING:

        @property
        def own_secrets(self) -> OwnSecrets:
            """Those of the application."""
            ...

        def _own(self, service: type[Service]) -> Service: ...

        def _configured(self, service: type[Service], *, pinned: bool) -> dict[str, Any]: ...

        def _connection_teller(self) -> Teller: ...

    def connect(
        self,
        *services: type[Service],
        scopes: Iterable[str] | Mapping[Any, Iterable[str]] = (),
        keys: KeyRing | None = None,
        owner: Callable[..., Any] | None = None,
    ) -> None:
        """Let owners connect accounts at these services: ``app.connect(HubSpot, scopes=("crm.objects.deals.read",))``.

        That opens ``/auth/connections``, ``/auth/{service}/connect``, ``/callback`` and ``/disconnect``; calls are made
        with ``app.connections.get(owner, HubSpot)``. *scopes* are what the application needs of each account, beside
        what the service's record asks for; for several services a mapping. *keys* encrypt the tokens (by default those
        in ``MOORLINE_ENCRYPTION_KEY``). *owner* is as for ``connection_owner``. The public address is that of
        ``[webhooks]``. It may be called several times.

        Raises ConfigurationError: no service, one that cannot be connected, no client id or secret, no key.
        """
        from moorline.identity.connect_routes import ConnectRoutes
        from moorline.identity.connections import Connections
        from moorline.identity.vault import Vault

        if not services:
            raise ConfigurationError("connect: which services?")
        wanted = _by_service(services, scopes)
        for service in services:
            self._connector(service, service(**self._configured(service, pinned=False)), ()).check()
        origin = self.receiver.intake.origin
        if self._connections is None:
            vault = Vault(self.store, keys or encryption_ring())
            vault.teller = self._connection_teller()
            self._connectable, self._connect_desks = {}, {}
            self._connections = Connections(vault, self._connect_desk, origin.public_url)
            self._connect = ConnectRoutes(
                self._connections, self._connect_desk, self._connectable, origin, self._owner, self._logins
            )
        elif keys is not None:
            raise ConfigurationError("connect: the keys are given the first time")
        if owner is not None:
            self.connection_owner(owner)
        for service in services:
            if service.name in self._connectable:
                raise ConfigurationError(f"connect: {service.name} is there twice")
            self._connectable[service.name] = service, wanted[service]

    @property
    def connections(self) -> Connections:
        """The accounts that are connected. Raises ConfigurationError without ``connect``."""
        if self._connections is None:
            raise ConfigurationError(
                "no accounts can be connected here: call app.connect(HubSpot, …), or set [accounts] services"
            )
        return self._connections

    def upkeep(self) -> Upkeep:
        """What encrypts anew whatever is kept encrypted after a change of keys, and revokes connections that could not
        be revoked; workers run it. Without a key nothing is done.
        """
        from moorline.identity.upkeep import Upkeep

        if self._upkeep is None:
            self._upkeep = Upkeep(self.store, self._configured_ring, lambda: self._connections)
        return self._upkeep

    def _configured_ring(self) -> KeyRing | None:
        """The keys by which this process reads its own secrets, where any are configured."""
        return None if configured_ring() is None else self.own_secrets.ring

    def connection_owner(self, function: F) -> F:
        """Ask the function, async or plain, who connects accounts by a request, an ASGI scope: the id of a tenant, say;
        None refuses. Without it the owner is the user who is signed in. Whatever it gives must be that request's own:
        nobody may connect, see or disconnect what is another's.
        """
        self._owner_of = function
        return function

    async def _owner(self, scope: MutableMapping[str, Any]) -> str | None:
        if self._owner_of is None:
            session = None if self._signing is None else await self._signing.session(scope)
            return None if session is None else session.user
        found = self._owner_of(scope)
        if inspect.isawaitable(found):
            found = await found
        if found is None or found == "":
            return None
        if isinstance(found, bool) or not isinstance(found, (str, int)):
            raise ConfigurationError("connection_owner gave no id of an owner")
        return str(found)

    def _logins(self) -> Mapping[str, Desk]:
        """Who signs users in, where the owner is the user who is signed in."""
        return {} if self._signing is None or self._owner_of is not None else self._signing.desks

    def _service_of(self, name: str, whose: Mapping[str, Any]) -> Service:
        """The service of a connected account, as a Call that was stored names it."""
        connections = self.connections
        own = self._connect_desk(name).provider.own
        made: Service = connections.get(whose["owner"], type(own), account=whose["account"], scopes=whose["scopes"])
        return made

    def _connect_desk(self, name: str) -> ConnectDesk:
        """What asks that service. Raises ConfigurationError for one that was not named to ``connect``."""
        from moorline.identity.connector import ConnectDesk

        found = self._connect_desks.get(name)
        if found is None:
            if name not in self._connectable:
                raise ConfigurationError(f"no accounts of {name} can be connected here: name it to app.connect")
            service, scopes = self._connectable[name]
            own = self._own(service)  # here, so that the application could make it first, with options of its own
            options = {"guards": own.guards, "wire": own.wire, "addresses": own.addresses}
            made = ConnectDesk(self._connector(service, own, scopes), clock=own.clock, **options)
            found = self._connect_desks.setdefault(name, made)
        return found

    def _connector(self, service: type[Service], own: Service, scopes: tuple[str, ...]) -> Connector:
        from moorline.identity.connector import Connector
        from moorline.identity.oauth import OAuth

        if not isinstance(service.oauth, OAuth):
            raise ConfigurationError(f"connect: accounts of {service.__name__} cannot be connected")
        return Connector(name=service.name, oauth=service.oauth, own=own, wanted=scopes)

    async def _close_connections(self) -> None:
        if self._connections is None:
            return
        from moorline.identity.refresh_flights import land_refreshes

        await asyncio.to_thread(land_refreshes, self.store)
        for desk in list(self._connect_desks.values()):
            await desk.aclose()

    def _connect_by_settings(self, services: Iterable[str], scopes: Mapping[str, Iterable[str]]) -> None:
        """As ``connect``, by the names of services."""
        from moorline import registry

        for name in services:
            self.connect(registry.service(name), scopes=scopes.get(name, ()))


def _by_service(services: tuple[type[Service], ...], scopes: Any) -> dict[type[Service], tuple[str, ...]]:
    if isinstance(scopes, Mapping):
        if strange := [one for one in scopes if one not in services]:
            raise ConfigurationError(f"connect: scopes are given for {strange[0]!r}, which is none of these services")
        return {one: tuple(sorted(checked(scopes.get(one, ())))) for one in services}
    given = tuple(sorted(checked(scopes)))
    if given and len(services) > 1:
        raise ConfigurationError("connect: of which service are the scopes? Give a mapping: {HubSpot: (…)}")
    return dict.fromkeys(services, given)
