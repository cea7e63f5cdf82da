"""``Vault``: the tokens of connected accounts, encrypted in the database.

A database that is stolen shows no token; a row that is moved to another user does not decrypt. Keys rotate: ``reseal``
encrypts anew what an older key has encrypted, batch by batch, while all goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from moorline.errors import ConfigurationError, ConnectionNotFound
from moorline.identity import vault_sql
from moorline.identity.connection import Connection, Granted, Tokens, place_of
from moorline.identity.vault_sql import Change, Sealed, Which
from moorline.secrets.keyring import KeyRing
from moorline.store.encrypted import Encrypted, Resealed, reseal
from moorline.store.ids import new_id
from moorline.store.schema import connections
from moorline.store.steps import Read, Steps, Write, perform, perform_sync
from moorline.store.store import Store

__all__ = ["ENCRYPTED", "Resealed", "Vault"]

_PURPOSE: Final = "connections"
_LONGEST: Final = 500


ENCRYPTED: Final = Encrypted("connected accounts", connections, _PURPOSE, place_of)


class Vault:
    """The connections of an application: who has connected what, with which rights, and the tokens, encrypted with
    *ring*.

    Methods come in two colours. They raise StoreUnavailable while the database is down.
    """

    def __init__(self, store: Store, ring: KeyRing) -> None:
        self.store = store
        self.ring = ring

    def __repr__(self) -> str:
        return f"<Vault of {self.store!r}>"

    # --- keeping

    async def keep(self, owner: str, service: str, granted: Granted, *, account: str = "") -> Connection:
        """Store what was granted; of an account that is connected already the new tokens take the place of the old.

        Raises ConfigurationError for names that are none.
        """
        return await perform(self.store, self._keep(owner, service, account, granted))

    def keep_sync(self, owner: str, service: str, granted: Granted, *, account: str = "") -> Connection:
        """As ``keep``, blocking."""
        return perform_sync(self.store, self._keep(owner, service, account, granted))

    def _keep(self, owner: str, service: str, account: str, granted: Granted) -> Steps[Connection]:
        for name, value in (("owner", owner), ("service", service), ("account", account)):
            _check(name, value, empty=name == "account")
        while True:
            found: list[Connection] = yield Read(vault_sql.find, Which(owner, service, account))
            if not found:
                now = self.store.clock.wall()
                new = Connection(new_id(now), owner, service, account, created_at=now)
                row = self.granted(new, granted, now)
                if (yield Write(vault_sql.put, Sealed(row, self.ring.current_id))) is not None:
                    return row
            else:
                changed = yield from self.changed(found[0], granted)
                if changed is not None:
                    return changed

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

    def changed(self, row: Connection, granted: Granted) -> Steps[Connection | None]:
        """Put what was granted into *row*, if that is still as it was read; None if not."""
        new = self.granted(row, granted, self.store.clock.wall())
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
        if not (yield Write(vault_sql.change, Change(row.id, row.version, values))):
            return None
        return replace(new, version=row.version + 1)

    def ended(self, row: Connection, reason: str) -> Steps[Connection | None]:
        """The connection is of no more use until its owner connects it again; None if it has changed meanwhile."""
        now = self.store.clock.wall()
        values: dict[str, Any] = {"state": "ended", "reason": reason[:_LONGEST], "updated_at": now}
        values |= {"refreshing_since": None, "lost_at": None}
        if not (yield Write(vault_sql.change, Change(row.id, row.version, values))):
            return None
        return replace(row, version=row.version + 1, state="ended", reason=reason[:_LONGEST], refreshing_since=None)

    # --- looking

    def tokens(self, row: Connection) -> Tokens:
        """What opens it. Raises DecryptionFailed where the row was changed or moved, or its key is gone."""
        return Tokens.from_bytes(self.ring.decrypt(row.sealed, purpose=_PURPOSE, place=row.place))

    async def get(self, owner: str, service: str, account: str | None = None) -> Connection:
        """The connection of that owner; without *account* the one that was made last.

        Raises ConnectionNotFound.
        """
        return _first(await self.store.read(vault_sql.find, Which(owner, service, account, limit=1)), owner, service)

    def get_sync(self, owner: str, service: str, account: str | None = None) -> Connection:
        """As ``get``, blocking."""
        return _first(self.store.read_sync(vault_sql.find, Which(owner, service, account, limit=1)), owner, service)

    async def connections(self, which: Which | None = None) -> list[Connection]:
        """Those that fit, newest first."""
        return await self.store.read(vault_sql.find, which or Which())

    def connections_sync(self, which: Which | None = None) -> list[Connection]:
        """As ``connections``, blocking."""
        return self.store.read_sync(vault_sql.find, which or Which())

    async def forget(self, id: str) -> bool:
        """Delete a connection and its tokens; whether there was one. The provider is not told."""
        return await self.store.write(vault_sql.delete, id)

    def forget_sync(self, id: str) -> bool:
        """As ``forget``, blocking."""
        return self.store.write_sync(vault_sql.delete, id)

    # --- keys

    async def reseal(self, *, progress: Callable[[Resealed], None] | None = None) -> Resealed:
        """Encrypt with the newest key whatever another one has encrypted; after that the others can be taken out."""
        return await perform(self.store, reseal(ENCRYPTED, self.ring, progress))

    def reseal_sync(self, *, progress: Callable[[Resealed], None] | None = None) -> Resealed:
        """As ``reseal``, blocking."""
        return perform_sync(self.store, reseal(ENCRYPTED, self.ring, progress))


def _first(found: list[Connection], owner: str, service: str) -> Connection:
    if not found:
        raise ConnectionNotFound(f"{owner!r} has not connected {service}")
    return found[0]


def _check(name: str, value: object, *, empty: bool) -> None:
    if not isinstance(value, str) or len(value) > _LONGEST or "\0" in value or not (value or empty):
        raise ConfigurationError(f"connection: {name} must be a text of 1 to {_LONGEST} characters")
