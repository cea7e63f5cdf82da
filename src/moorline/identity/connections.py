"""``Connections``: the accounts that the owners of an application, its users or tenants, have connected at services.

::

    app.connect(HubSpot, scopes=("crm.objects.contacts.read",))
    hubspot = app.connections.get("u_1", HubSpot)
    await hubspot.get_object("contacts", "512")
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypeVar, cast
from urllib.parse import quote, urlencode

from moorline.calls.known import Known
from moorline.errors import CallError, ConfigurationError, DecryptionFailed
from moorline.identity import vault_sql
from moorline.identity.connected_key import ConnectedKey, OwnedToken
from moorline.identity.connection import Connection, State
from moorline.identity.own_paths import own_path
from moorline.identity.refreshing import Ask, FreshToken
from moorline.identity.scopes import checked
from moorline.identity.vault import Vault, chosen, of
from moorline.identity.vault_sql import Which
from moorline.store.steps import Read, Steps, perform, perform_sync
from moorline.telemetry import logger

if TYPE_CHECKING:
    from moorline.calls.call import Call
    from moorline.calls.service import Service
    from moorline.identity.connection import Granted, Tokens
    from moorline.identity.connector import ConnectDesk
    from moorline.identity.device import DeviceFlow
    from moorline.identity.grants import Grant

__all__ = ["Connections", "Revoked"]

S = TypeVar("S", bound="Service")
_Found: TypeAlias = "list[Connection]"  # a method is called so, too

_MOST: Final = 10_000  # tokens that are kept at hand

log = logger("identity")


@dataclass(frozen=True, slots=True)
class Revoked:
    """What became of a connection that was taken back. *told* is ``now`` where the service knows it, ``later`` where it
    could not be told and will be, ``never`` where it knows no such request, or another owner has connected the same
    account: services end all grants of an account with one of them.
    """

    connection: Connection
    told: Literal["now", "later", "never"]


class Connections:
    """Connected accounts. *desk* gives the one that asks a service, by its name; *public_url* is the address by which
    the world calls the application (None: links are paths).

    Methods that ask the database come in two colours. They raise StoreUnavailable while it is down.
    """

    def __init__(self, vault: Vault, desk: Callable[[str], ConnectDesk], public_url: str | None = None) -> None:
        self.vault = vault
        self._desk = desk
        self._public_url = public_url
        self._tokens: Known[tuple[str, str, str | None], OwnedToken] = Known(_MOST)
        self._of_rows: Known[str, FreshToken] = Known(_MOST)  # by the ids of connections
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Connections in {self.vault!r}>"

    def get(self, owner: str, service: type[S], *, account: str | None = None, scopes: Iterable[str] = ()) -> S:
        """That *service* for *owner*: what it asks, it asks with the token of the account that the owner has connected
        (the *account* of that name; else the one that was connected last). It has the options of the application's own
        instance. Nothing is read before the first call.

        Calls raise ReauthorizationRequired where the grant has ended, or was not given for *scopes*: its ``reconnect``
        is the address at which the owner mends that; ConnectionNotFound where there is none, with the address that
        connects one in ``connect``. A call that the service refuses (401) is sent once more with a new token. Calls can
        be enqueued: the worker sends them with the token that is good then.

        The account has a rate gate of its own, as services count the calls of each by itself: one that is refused (429)
        holds up no other one. A ``rate`` of the policy is each account's, too; breaker and bulkhead are the service's.

        Raises ConfigurationError for a service that was not named to ``app.connect``.
        """
        desk = self._desk(service.name)
        wanted = checked(scopes)
        with self._lock:
            token = self._tokens.of((owner, service.name, account), lambda: self._owned(desk, owner, account))
        own = desk.provider.own
        if not isinstance(own, service):
            raise ConfigurationError(f"{service.__name__} is not the class that was named to app.connect")
        link = self._link_of(service.name)
        whose = {"owner": owner, "account": account, "scopes": sorted(wanted)}
        key = ConnectedKey(token, desk, wanted, link, whose)
        made = object.__new__(type(own))  # the application's instance, but for the key: it shares all else
        made.__dict__.update(vars(own))
        made.parameters = {**own.parameters, **desk.oauth.service_parameters}
        made.fetched = made.renewal = key
        made.limited_as = ", ".join(repr(one) for one in (owner, account) if one is not None)
        made._known_guard = None
        return made

    def connect_url(
        self,
        service: type[Service] | str,
        *,
        scopes: Iterable[str] = (),
        account: str | None = None,
        next: str | None = None,
    ) -> str:
        """The address of the page at which an owner connects an account, again or for the first time, with *scopes*
        beside those that are granted; *next* is the path where it goes on afterwards.

        Raises ConfigurationError for a service that was not named to ``app.connect``, for what is no scope, and for a
        *next* that leads elsewhere.
        """
        name = service if isinstance(service, str) else service.name
        self._desk(name)
        return self._link(name, account, checked(scopes), next)

    # --- without a browser here

    def device(self, service: type[Service] | str) -> DeviceFlow:
        """What connects accounts at *service* by a code that its owner types in elsewhere (RFC 8628).

        ::

            flow = app.connections.device(GitHub)
            code = await flow.begin()
            print(f"Open {code.verification_uri} and type {code.user_code}")
            await flow.connect("u_1", code)

        Raises ConfigurationError for a service that was not named to ``app.connect``, or does not know this flow.
        """
        from moorline.identity.device import DeviceFlow

        return DeviceFlow(self._desk(_known(service)), self.vault)

    async def open(
        self, owner: str, service: type[Service] | str, grant: Grant, *, account: str = "", scopes: Iterable[str] = ()
    ) -> Connection:
        """Connect an account that opens without consent: by an ``OwnClient`` of its owner's, or an ``Assertion`` that a
        key signs. *account* is what it is called here; *scopes* are asked for besides the record's.

        Raises CallError where the service does not take it (then nothing is kept), ConfigurationError.
        """
        from moorline.identity import grants

        desk = self._desk(_known(service))
        return await grants.connect(self.vault, desk, owner, grant, account=account, scopes=checked(scopes))

    def open_sync(
        self, owner: str, service: type[Service] | str, grant: Grant, *, account: str = "", scopes: Iterable[str] = ()
    ) -> Connection:
        """As ``open``, blocking."""
        from moorline.identity import grants

        desk = self._desk(_known(service))
        return grants.connect_sync(self.vault, desk, owner, grant, account=account, scopes=checked(scopes))

    # --- looking

    async def list(
        self,
        owner: str | None = None,
        service: type[Service] | str | None = None,
        *,
        state: State | None = None,
        before: str | None = None,
        limit: int = 100,
    ) -> _Found:
        """Connections, newest first; the next page is that ``before`` the last one's ``id``."""
        return await self.vault.connections(Which(owner, _name(service), None, state, before, limit))

    def list_sync(
        self,
        owner: str | None = None,
        service: type[Service] | str | None = None,
        *,
        state: State | None = None,
        before: str | None = None,
        limit: int = 100,
    ) -> _Found:
        """As ``list``, blocking."""
        return self.vault.connections_sync(Which(owner, _name(service), None, state, before, limit))

    async def find(self, id: str) -> Connection | None:
        """The connection of that id; None where there is none."""
        return await self.vault.store.read(vault_sql.load, id)

    # --- taking back, refreshing

    async def revoke(self, owner: str, service: type[Service] | str, *, account: str | None = None) -> Revoked:
        """Take the connection back: the service is told (RFC 7009), then the tokens are deleted. A service that cannot
        be told now is told later, by a worker. In any case this process makes no call with the token any more; others
        notice within 30 s.

        Raises ConnectionNotFound.
        """
        return await perform(self.vault.store, self._revoking(owner, _known(service), account))

    def revoke_sync(self, owner: str, service: type[Service] | str, *, account: str | None = None) -> Revoked:
        """As ``revoke``, blocking."""
        return perform_sync(self.vault.store, self._revoking(owner, _known(service), account))

    def _revoking(self, owner: str, service: str, account: str | None) -> Steps[Revoked]:
        while True:
            found: Any = yield Read(vault_sql.find, of(owner, service, account))
            done = yield from self.revoked(chosen(found, owner, service))
            if done is not None:
                return done

    def revoked(self, row: Connection) -> Steps[Revoked | None]:
        """As ``revoke``, of that connection; None where it has changed meanwhile."""
        call = None
        try:
            if not (yield from self._shared(row)):
                call = self._desk(row.service).revoked(self.vault.tokens(row))
        except (DecryptionFailed, ConfigurationError) as error:  # nobody can tell the service any more
            log.warning("connection_not_revoked", connection=row.id, service=row.service, reason=str(error))
        if call is not None:
            try:
                yield cast("Any", Ask(cast("Any", call)))
            except CallError as error:
                log.warning("connection_not_revoked", connection=row.id, service=row.service, reason=_plain(error))
                if row.state == "revoking":
                    return Revoked(row, "later")
                left = yield from self.vault.leaving(row, f"it could not be told: {_plain(error)}")
                if left is None:
                    return None
                self._forget(row)
                return Revoked(left, "later")
        if not (yield from self.vault.gone(row)):
            return None
        self._forget(row)
        log.info("connection_revoked", connection=row.id, service=row.service, told=call is not None)
        return Revoked(row, "never" if call is None else "now")

    def _forget(self, row: Connection) -> None:
        """Whoever has a token of that owner and service at hand looks anew before the next call."""
        with self._lock:
            known = self._tokens.items()
        for (owner, service, _account), token in known:
            if (owner, service) == (row.owner, row.service):
                token.forget()

    def _shared(self, row: Connection) -> Steps[bool]:
        """Whether somebody else uses the same account."""
        if not row.account:
            return False
        found: Any = yield Read(vault_sql.find, Which(None, row.service, row.account, "good", limit=2))
        return any(other.id != row.id for other in found)

    async def refresh(self, owner: str, service: type[Service] | str, *, account: str | None = None) -> Connection:
        """Refresh its token now; the connection as it is then.

        Raises ConnectionNotFound, ReauthorizationRequired, CallError; StoreError where the new token could not be
        stored, which this process goes on with; ConfigurationError for one without a refresh token.
        """
        return await self.refreshed(await self.vault.get(owner, _known(service), account))

    async def refreshed(self, row: Connection) -> Connection:
        """As ``refresh``, of that connection."""
        fresh = self._fresh(row)
        await fresh.renew_async()
        return fresh.connection

    def refresh_sync(self, owner: str, service: type[Service] | str, *, account: str | None = None) -> Connection:
        """As ``refresh``, blocking."""
        fresh = self._fresh(self.vault.get_sync(owner, _known(service), account))
        fresh.renew()
        return fresh.connection

    # --- parts

    def _fresh(self, row: Connection) -> FreshToken:
        """The token of that connection: one object for all who use it, so that what is known of it is known to all."""
        with self._lock:
            return self._of_rows.of(row.id, lambda: self._made(row))

    def _made(self, row: Connection) -> FreshToken:
        desk = self._desk(row.service)

        def refresh(tokens: Tokens) -> Call[Granted]:
            return desk.refreshed(tokens, made.connection.scopes)

        again = self._link(row.service, row.account or None, frozenset(), None)
        made = FreshToken(self.vault, row.id, refresh, reconnect=again, endings=desk.oauth.endings)
        return made

    def _owned(self, desk: ConnectDesk, owner: str, account: str | None) -> OwnedToken:
        link = self._link_of(desk.provider.name)
        return OwnedToken(
            self.vault, desk.provider.name, owner, account, self._fresh, lambda which: link(which, frozenset())
        )

    def _link_of(self, service: str) -> Callable[[str | None, frozenset[str]], str]:
        return lambda account, scopes: self._link(service, account, scopes, None)

    def _link(self, service: str, account: str | None, scopes: frozenset[str], next: str | None) -> str:
        asked: Mapping[str, str | None] = {
            "account": account,
            "scopes": " ".join(sorted(scopes)),
            "next": None if next is None else own_path(next),
        }
        query = urlencode({name: value for name, value in asked.items() if value}, quote_via=quote)
        path = f"{self._public_url or ''}/auth/{service}/connect"
        return f"{path}?{query}" if query else path


def _name(service: type[Service] | str | None) -> str | None:
    return service if service is None or isinstance(service, str) else service.name


def _known(service: type[Service] | str) -> str:
    return service if isinstance(service, str) else service.name


def _plain(error: CallError) -> str:
    """What went wrong, without the words of the provider: they may repeat what was sent."""
    return f"{type(error).__name__}{f' ({error.status})' if error.status else ''}"
