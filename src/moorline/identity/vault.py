"""``Vault``: the tokens of connected accounts, encrypted in the database.

A database that is stolen shows no token; a row that is moved to another user does not decrypt. Keys rotate: ``reseal``
encrypts anew what an older key has encrypted, batch by batch, while all goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from moorline.errors import ConfigurationError, ConnectionNotFound, DecryptionFailed
from moorline.identity import vault_sql
from moorline.identity.connection import Connection, Granted, State, Tokens, What, place_of
from moorline.identity.vault_sql import Change, Gone, Sealed, Which
from moorline.secrets.keyring import KeyRing
from moorline.store.encrypted import Encrypted, Resealed, reseal
from moorline.store.ids import new_id
from moorline.store.schema import connections
from moorline.store.steps import Read, Steps, Write, perform, perform_sync
from moorline.store.store import Store

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection as Database

__all__ = ["ENCRYPTED", "Resealed", "Teller", "Telling", "Vault", "chosen", "of"]

_PURPOSE: Final = "connections"
_LONGEST: Final = 500
_SOME: Final = 20


class Telling(Protocol):
    """What tells of a change of a connection, within the transaction that makes it."""

    def also(self, database: Database) -> object:
        """Done in that transaction."""
        ...

    def wrapped(self, apply: Any, payload: Any) -> tuple[Any, Any]:
        """What to give the store's writer."""
        ...

    def woken(self) -> None:
        """Called after the commit."""
        ...


Teller: TypeAlias = "Callable[[Connection, What], Telling | None]"
"""Tells of a connection, as it is after the change; None where there is nobody to tell."""


ENCRYPTED: Final = Encrypted("connected accounts", connections, _PURPOSE, place_of)


class Vault:
    """The connections of an application: who has connected what, with which rights, and the tokens, encrypted with
    *ring*.

    Methods come in two colours. They raise StoreUnavailable while the database is down.
    """

    teller: Teller | None = None
    """Who hears of what becomes of connections."""

    def __init__(self, store: Store, ring: KeyRing) -> None:
        self.store = store
        self.ring = ring

    def __repr__(self) -> str:
        return f"<Vault of {self.store!r}>"

    # --- keeping

    async def keep(self, owner: str, service: str, granted: Granted, *, account: str = "") -> Connection:
        """Store what was granted; of an account that is connected already the new tokens take the place of the old. A
        refresh token goes on where no other one comes: some providers give one at the first consent alone.

        Raises ConfigurationError for names that are none.
        """
        return await perform(self.store, self.keeping(owner, service, granted, account=account))

    def keep_sync(self, owner: str, service: str, granted: Granted, *, account: str = "") -> Connection:
        """As ``keep``, blocking."""
        return perform_sync(self.store, self.keeping(owner, service, granted, account=account))

    def keeping(self, owner: str, service: str, granted: Granted, *, account: str = "") -> Steps[Connection]:
        """As ``keep``, in steps."""
        for name, value in (("owner", owner), ("service", service), ("account", account)):
            _check(name, value, empty=name == "account")
        while True:
            found: list[Connection] = yield Read(vault_sql.find, Which(owner, service, account))
            if not found:
                now = self.store.clock.wall()
                new = Connection(new_id(now), owner, service, account, created_at=now)
                row = self.granted(new, granted, now)
                put = self._write(vault_sql.put, Sealed(row, self.ring.current_id), row, "connected")
                if (yield from put) is not None:
                    return row
            else:
                changed = yield from self.changed(found[0], self._goes_on(found[0], granted), "connected")
                if changed is not None:
                    return changed

    def _goes_on(self, row: Connection, granted: Granted) -> Granted:
        """*granted*, with the refresh token of *row* if that is good and no other one came."""
        if granted.tokens.refresh is not None or row.state != "good":
            return granted
        try:
            old = self.tokens(row)
        except DecryptionFailed:
            return granted
        return replace(granted, tokens=replace(granted.tokens, refresh=old.refresh))

    def _write(self, apply: Any, payload: Any, row: Connection, what: What | None) -> Steps[Any]:
        """Write it, and tell in the same transaction *what* has become of the connection, which is *row* then."""
        telling = None if self.teller is None or what is None else self.teller(row, what)
        if telling is None:
            return (yield Write(apply, payload))
        done = yield Write(*telling.wrapped(apply, payload._replace(also=telling.also)))
        if done:
            telling.woken()
        return done

    def granted(self, row: Connection, granted: Granted, now: float) -> Connection:
        """The connection *row* with what was granted now."""
        return replace(
            row,
            scopes=row.scopes if granted.scopes is None else granted.scopes,
            state="good",
            reason=None,
            refreshing_since=None,
            lost_at=None,
            expires_at=None if granted.lasts is None else now + granted.lasts,
            updated_at=now,
            sealed=self.ring.encrypt(granted.tokens.to_bytes(), purpose=_PURPOSE, place=row.place),
        )

    def changed(self, row: Connection, granted: Granted, what: What | None = None) -> Steps[Connection | None]:
        """Put what was granted into *row*, if that is still as it was read; None if not."""
        new = replace(self.granted(row, granted, self.store.clock.wall()), version=row.version + 1)
        if what is None and row.scopes - new.scopes:
            what = "reduced"
        values = {
            "scopes": " ".join(sorted(new.scopes)),
            "state": new.state,
            "reason": None,
            "refreshing_since": None,
            "lost_at": None,
            "expires_at": new.expires_at,
            "updated_at": new.updated_at,
            "sealed": new.sealed,
            "key_id": self.ring.current_id,
        }
        done = yield from self._write(vault_sql.change, Change(row.id, row.version, values), new, what)
        return new if done else None

    def ended(self, row: Connection, reason: str) -> Steps[Connection | None]:
        """The connection is of no more use until its owner connects it again; None if it has changed meanwhile."""
        return (yield from self._closed(row, "ended", reason, "ended"))

    def leaving(self, row: Connection, reason: str) -> Steps[Connection | None]:
        """Its owner has disconnected it, and the provider is to be told; None if it has changed meanwhile."""
        return (yield from self._closed(row, "revoking", reason, "disconnected"))

    def _closed(self, row: Connection, state: State, reason: str, what: What) -> Steps[Connection | None]:
        now = self.store.clock.wall()
        values: dict[str, Any] = {"state": state, "reason": reason[:_LONGEST], "updated_at": now}
        new = replace(row, version=row.version + 1, **values, refreshing_since=None, lost_at=None)
        values |= {"refreshing_since": None, "lost_at": None}
        done = yield from self._write(vault_sql.change, Change(row.id, row.version, values), new, what)
        return new if done else None

    def gone(self, row: Connection) -> Steps[bool]:
        """Delete it with its tokens, if it is still as it was read; whether it was."""
        what: What | None = None if row.state == "revoking" else "disconnected"  # that was told already
        done: bool = yield from self._write(vault_sql.delete, Gone(row.id, row.version), row, what)
        return done

    # --- looking

    def tokens(self, row: Connection) -> Tokens:
        """What opens it. Raises DecryptionFailed where the row was changed or moved, or its key is gone."""
        return Tokens.from_bytes(self.ring.decrypt(row.sealed, purpose=_PURPOSE, place=row.place))

    async def get(self, owner: str, service: str, account: str | None = None) -> Connection:
        """The connection of that owner; without *account* the one that was made last, of those that are good if any is.

        Raises ConnectionNotFound.
        """
        return chosen(await self.store.read(vault_sql.find, of(owner, service, account)), owner, service)

    def get_sync(self, owner: str, service: str, account: str | None = None) -> Connection:
        """As ``get``, blocking."""
        return chosen(self.store.read_sync(vault_sql.find, of(owner, service, account)), owner, service)

    async def connections(self, which: Which | None = None) -> list[Connection]:
        """Those that fit, newest first."""
        return await self.store.read(vault_sql.find, which or Which())

    def connections_sync(self, which: Which | None = None) -> list[Connection]:
        """As ``connections``, blocking."""
        return self.store.read_sync(vault_sql.find, which or Which())

    async def forget(self, id: str) -> bool:
        """Delete a connection and its tokens; whether there was one. The provider is not told."""
        return await self.store.write(vault_sql.delete, Gone(id))

    def forget_sync(self, id: str) -> bool:
        """As ``forget``, blocking."""
        return self.store.write_sync(vault_sql.delete, Gone(id))

    # --- keys

    async def reseal(self, *, progress: Callable[[Resealed], None] | None = None) -> Resealed:
        """Encrypt with the newest key whatever another one has encrypted; after that the others can be taken out."""
        return await perform(self.store, reseal(ENCRYPTED, self.ring, progress))

    def reseal_sync(self, *, progress: Callable[[Resealed], None] | None = None) -> Resealed:
        """As ``reseal``, blocking."""
        return perform_sync(self.store, reseal(ENCRYPTED, self.ring, progress))


def of(owner: str, service: str, account: str | None) -> Which:
    """Those among which ``chosen`` chooses."""
    return Which(owner, service, account, limit=_SOME)


def chosen(found: list[Connection], owner: str, service: str) -> Connection:
    """The one to be used. Raises ConnectionNotFound."""
    there = [row for row in found if row.state != "revoking"]
    if not there:
        raise ConnectionNotFound(f"{owner!r} has not connected {service}")
    return next((row for row in there if row.state == "good"), there[0])


def _check(name: str, value: object, *, empty: bool) -> None:
    if not isinstance(value, str) or len(value) > _LONGEST or "\0" in value or not (value or empty):
        raise ConfigurationError(f"connection: {name} must be a text of 1 to {_LONGEST} characters")
