"""The token of a connected account as the key of a service: found at the first call, fresh at each.

``OwnedToken`` is that of one owner, service and account, and there is one of it in an application, so that however many
ask for it one of them refreshes. ``ConnectedKey`` is what one user of it holds, with the scopes that this one needs.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from moorline.errors import ConnectionNotFound, ReauthorizationRequired, StoreError
from moorline.identity import vault_sql
from moorline.identity.vault import chosen, of
from moorline.store.steps import Read, Steps, perform, perform_sync
from moorline.telemetry import logger

if TYPE_CHECKING:
    from moorline.identity.connection import Connection
    from moorline.identity.connector import ConnectDesk
    from moorline.identity.refreshing import FreshToken
    from moorline.identity.vault import Vault
    from moorline.secrets.secret import Secret

__all__ = ["ConnectedKey", "OwnedToken"]

_LOOK_AGAIN: Final = 30.0  # seconds after which it is asked whether another process has changed the connection

log = logger("identity")


class OwnedToken:
    """Finds the connection at *service*. *fresh_of* gives the FreshToken of a connection, *link* the address at which
    the account is connected.
    """

    def __init__(
        self,
        vault: Vault,
        service: str,
        owner: str,
        account: str | None,
        fresh_of: Callable[[Connection], FreshToken],
        link: Callable[[str | None], str],
    ) -> None:
        self._vault = vault
        self._service = service
        self._owner = owner
        self._account = account
        self._fresh_of = fresh_of
        self._link = link
        self._clock = vault.store.clock
        self._fresh: FreshToken | None = None
        self._known: Connection | None = None
        self._looked = -_LOOK_AGAIN
        self._blocking = threading.Lock()
        self._waiting: tuple[asyncio.AbstractEventLoop, asyncio.Lock] | None = None

    @property
    def fresh(self) -> FreshToken:
        """The token. Raises ConnectionNotFound before it was found, and once it was forgotten."""
        fresh = self._fresh  # other threads may forget it
        if fresh is None:
            raise ConnectionNotFound(f"the connection of {self._owner!r} was not looked for yet, or has gone since")
        return fresh

    @property
    def known(self) -> Connection | None:
        """The connection as it was found last."""
        return self._known

    def look_again(self) -> None:
        """Look at the next call, however lately it was done."""
        self._looked = -_LOOK_AGAIN

    def forget(self) -> None:
        """It may have gone: use no token before it was found again, not even while the database is down."""
        self._fresh = self._known = None

    def ready(self) -> None:
        """See to it that the token is good for a call that is made now. Raises as ``FreshToken`` does."""
        self._find()
        try:
            self.fresh.ready()
        except ConnectionNotFound:  # it has gone; the owner may have made another one since
            self.look_again()
            self._find()
            self.fresh.ready()

    async def ready_async(self) -> None:
        """As ``ready``, on an event loop."""
        await self._find_async()
        try:
            await self.fresh.ready_async()
        except ConnectionNotFound:
            self.look_again()
            await self._find_async()
            await self.fresh.ready_async()

    def _find(self) -> None:
        if self._wanted():
            with self._blocking:
                if self._wanted():
                    perform_sync(self._vault.store, self._look())

    async def _find_async(self) -> None:
        if self._wanted():
            async with self._lock():
                if self._wanted():
                    await perform(self._vault.store, self._look())

    def _wanted(self) -> bool:
        return self._fresh is None or self._clock.monotonic() >= self._looked + _LOOK_AGAIN

    def _look(self) -> Steps[None]:
        """Find the connection. While the database is down one that was found goes on."""
        name = self._service
        try:
            found: list[Connection] = yield Read(vault_sql.find, of(self._owner, name, self._account))
        except StoreError as error:
            if self._fresh is None:
                raise
            log.warning("connection_not_looked_at", service=name, reason=str(error))
            self._looked = self._clock.monotonic()
            return
        try:
            row = chosen(found, self._owner, name)
        except ConnectionNotFound as error:
            self.forget()
            error.connect = self._link(self._account)
            raise
        known, self._known = self._known, row
        if known is None or self._fresh is None or (known.id, known.version) != (row.id, row.version):
            fresh = self._fresh_of(row)
            fresh.outdated()
            self._fresh = fresh
        self._looked = self._clock.monotonic()

    def _lock(self) -> asyncio.Lock:
        loop = asyncio.get_running_loop()
        if self._waiting is None or self._waiting[0] is not loop:
            self._waiting = loop, asyncio.Lock()
        return self._waiting[1]


class ConnectedKey:
    """The key of a service's requests: see ``FetchedKey``. *scopes* are those without which no call is made; *link*
    gives the address at which an account is connected with further scopes.
    """

    def __init__(
        self,
        token: OwnedToken,
        desk: ConnectDesk,
        scopes: frozenset[str],
        link: Callable[[str | None, frozenset[str]], str],
        whose: Mapping[str, Any],
    ) -> None:
        self._token = token
        self._desk = desk
        self._scopes = scopes
        self._link = link
        self.whose = whose

    def __repr__(self) -> str:
        return f"<key of {self.whose['owner']!r} at {self._desk.provider.name}>"

    def current(self) -> Secret:
        """The token that was read last. Raises ConnectionNotFound where none was."""
        return self._token.fresh.current()

    @property
    def extra(self) -> dict[str, Any]:
        """What the service has said beside the token; known once a call was made."""
        return self._token.fresh.extra

    @property
    def connection(self) -> Connection:
        """The connection; known once a call was made."""
        return self._token.fresh.connection

    def ready(self) -> None:
        """See to it that the token is good for a call that is made now, and was granted for what is needed.

        Raises ReauthorizationRequired, ConnectionNotFound, DecryptionFailed, StoreUnavailable, CallError.
        """
        try:
            self._token.ready()
            if self._missing:
                self._token.look_again()  # it may have been granted since
                self._token.ready()
        except ReauthorizationRequired as error:
            raise self._completed(error) from error.__cause__
        self._check()

    async def ready_async(self) -> None:
        """As ``ready``, on an event loop."""
        try:
            await self._token.ready_async()
            if self._missing:
                self._token.look_again()
                await self._token.ready_async()
        except ReauthorizationRequired as error:
            raise self._completed(error) from error.__cause__
        self._check()

    def newer(self, refused: Secret, timeout: float | None = None) -> bool:
        """Whether there is another token than *refused*, which the service would not take."""
        try:
            return self._token.fresh.newer(refused, timeout)
        except ReauthorizationRequired as error:
            raise self._completed(error) from error.__cause__

    async def newer_async(self, refused: Secret) -> bool:
        """As ``newer``, on an event loop."""
        try:
            return await self._token.fresh.newer_async(refused)
        except ReauthorizationRequired as error:
            raise self._completed(error) from error.__cause__

    def close(self) -> None:
        """Nothing: the connections are those of the application's service."""

    async def aclose(self) -> None:
        """Nothing."""

    @property
    def _missing(self) -> frozenset[str]:
        return self._desk.oauth.missing(self.connection.scopes, self._scopes) if self._scopes else frozenset()

    def _check(self) -> None:
        missing = self._missing
        if missing:
            row = self.connection
            names = ", ".join(sorted(missing))
            raise ReauthorizationRequired(
                f"{row.owner!r} has not granted {row.service} for {names}",
                service=row.service,
                connection=row.id,
                reconnect=self._link(row.account or None, missing),
                missing=missing,
            )

    def _completed(self, error: ReauthorizationRequired) -> ReauthorizationRequired:
        """With the address that asks for what is needed here as well."""
        if self._scopes and self._token.known is not None:
            row = self._token.known
            error.reconnect = self._link(row.account or None, self._desk.oauth.missing(row.scopes, self._scopes))
        return error
