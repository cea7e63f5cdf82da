"""``OwnSecrets``: credentials that the application keeps itself, encrypted in its database (``store:``).

A database that is stolen shows none; a row that is moved to another name does not decrypt. The keys that encrypt are
never looked for here.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from moorline.errors import ConfigurationError, DecryptionFailed, Misuse, SecretUnavailable, StoreError
from moorline.identity import own_secrets_sql as sql
from moorline.identity.own_secrets_sql import Mark, Row
from moorline.secrets.keyring import KeyRing
from moorline.secrets.secret import Secret
from moorline.secrets.sources.base import LARGEST, Address, Content, Writable
from moorline.secrets.versions import Found, Stage
from moorline.store.encrypted import Encrypted, reseal
from moorline.store.ids import new_id
from moorline.store.schema import secrets
from moorline.store.steps import Steps, Write, perform, perform_sync
from moorline.store.store import Store
from moorline.telemetry import logger

__all__ = ["ENCRYPTED", "Kept", "OwnSecrets"]

_PURPOSE: Final = "secrets"
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,199}")
_ORDER: Final[dict[Stage, int]] = {"current": 0, "previous": 1, "pending": 2}

log = logger("secrets")


@dataclass(frozen=True, slots=True)
class Kept:
    """A version that is kept, without its value. Times are seconds since the epoch."""

    id: str
    name: str
    stage: Stage
    created_at: float
    not_before: float | None = None
    not_after: float | None = None


class OwnSecrets(Writable):
    """The credentials in the table ``secrets`` of *store*, encrypted with *ring*, or what that gives when it is needed.

    Methods come in two colours. They raise StoreUnavailable while the database is down, ConfigurationError for what is
    no name (letters, digits, ``_``, ``.``, ``-``) or where there is no key.
    """

    scheme: ClassVar[str] = "store"
    ttl: ClassVar[float] = 15.0

    def __init__(
        self, store: Store | Address, ring: KeyRing | Callable[[], KeyRing] | None = None, *, whole: bool = False
    ) -> None:
        if not isinstance(store, Store) or ring is None:
            raise ConfigurationError("store: is the database of an application; there is none here")
        super().__init__(Address("store", ""), whole=whole)
        self.store = store
        self._ring = ring
        self._unreadable: dict[str, str] = {}

    @property
    def ring(self) -> KeyRing:
        """What encrypts. Raises ConfigurationError where there is no key."""
        if not isinstance(self._ring, KeyRing):
            self._ring = self._ring()
        return self._ring

    # --- as a source

    def unit(self, name: str) -> str:
        """All that are kept: one question for all names."""
        del name
        return ""

    def where(self, name: str) -> str:
        """The table, and the name in it."""
        return f"store:#{name}" if name else "store:"

    def fetch(self, unit: str) -> Sequence[Content]:  # noqa: ARG002 (there is one)
        """All versions, those that are current first, then the newer ones before the older."""
        try:
            rows = self.store.read_sync(sql.every)
        except (StoreError, Misuse) as error:  # one that is not open
            raise SecretUnavailable(f"store: {error}") from error
        found, current = [], set[str]()
        for row in rows:
            # Two processes may make one current at the same moment: the newer one counts.
            late = row.stage == "current" and row.name in current
            content = self._content(row._replace(stage="previous") if late else row)
            if content is not None:
                found.append(content)
                current |= {row.name} if content.stage == "current" else set()
        return sorted(found, key=lambda one: _ORDER[one.stage])

    def picked(self, contents: Sequence[Content], name: str, called: str) -> Found:
        """What is kept under that name; that it cannot be decrypted is an error."""
        found = super().picked(contents, name, called)
        if found or name not in self._unreadable.values():
            return found
        problem = ConfigurationError(f"{self.where(name)}: no key of {self.ring!r} decrypts it")
        return Found(problems=[problem], failure=problem)

    def _content(self, row: Row) -> Content | None:
        try:
            plain = self.ring.decrypt(row.sealed, purpose=_PURPOSE, place=_place(row.name, row.id))
        except DecryptionFailed as error:
            if row.id not in self._unreadable:
                self._unreadable[row.id] = row.name
                log.error("secret_unreadable", variable=row.name, version=row.id, reason=str(error))
            return None
        fields = {row.name: plain.decode()}
        return Content(row.id, row.stage, fields=fields, not_before=row.not_before, not_after=row.not_after)

    # --- keeping

    async def put(self, name: str, secret: Secret, *, stage: Stage = "current", not_before: float | None = None) -> str:
        """Keep another version; its id. One that is *current* makes the one that was the previous one.

        Its end is ``secret.not_after``. Raises ConfigurationError beyond 20 versions of a name.
        """
        made = await perform(self.store, self._put(name, secret, stage, not_before))
        await asyncio.to_thread(self.changed, name)
        return made

    def put_sync(self, name: str, secret: Secret, *, stage: Stage = "current", not_before: float | None = None) -> str:
        """As ``put``, blocking."""
        made = perform_sync(self.store, self._put(name, secret, stage, not_before))
        self.changed(name)
        return made

    def _put(self, name: str, secret: Secret, stage: Stage, not_before: float | None) -> Steps[str]:
        plain = secret.reveal().encode()
        if not _NAME.fullmatch(name):
            raise ConfigurationError(f"{name!r} is no name of a secret")
        if len(plain) > LARGEST:
            raise ConfigurationError(f"{name} is larger than {LARGEST} bytes")
        if stage not in _ORDER:
            raise ConfigurationError(f"stage must be one of {', '.join(_ORDER)}, not {stage!r}")
        now = self.store.clock.wall()
        made = new_id(now)
        sealed = self.ring.encrypt(plain, purpose=_PURPOSE, place=_place(name, made))
        row = Row(made, name, stage, sealed, self.ring.current_id, not_before, secret.not_after, now)
        if not (yield Write(sql.put, row)):
            raise ConfigurationError(f"{name} has {sql.MOST} versions, which is as many as are kept: remove one")
        return made

    async def mark(self, name: str, id: str, stage: Stage) -> bool:
        """Give a version another stage; whether there is one of that id. Of a name one version is current."""
        done = await self.store.write(sql.mark, _checked(Mark(name, id, stage)))
        await asyncio.to_thread(self.changed, name)
        return done

    def mark_sync(self, name: str, id: str, stage: Stage) -> bool:
        """As ``mark``, blocking."""
        done = self.store.write_sync(sql.mark, _checked(Mark(name, id, stage)))
        self.changed(name)
        return done

    async def remove(self, name: str, id: str) -> bool:
        """Delete a version; whether there was one of that id."""
        done = await self.store.write(sql.delete, (name, id))
        await asyncio.to_thread(self.changed, name)
        return done

    def remove_sync(self, name: str, id: str) -> bool:
        """As ``remove``, blocking."""
        done = self.store.write_sync(sql.delete, (name, id))
        self.changed(name)
        return done

    # --- looking

    async def kept(self, name: str) -> list[Kept]:
        """The versions of a name, newest first, without their values."""
        return [_shown(row) for row in await self.store.read(sql.of, name)]

    def kept_sync(self, name: str) -> list[Kept]:
        """As ``kept``, blocking."""
        return [_shown(row) for row in self.store.read_sync(sql.of, name)]

    async def names(self) -> list[str]:
        """The names that there are, sorted."""
        return await self.store.read(sql.names)

    def names_sync(self) -> list[str]:
        """As ``names``, blocking."""
        return self.store.read_sync(sql.names)

    # --- keys

    async def reseal(self) -> tuple[int, tuple[str, ...]]:
        """Encrypt anew what another key than the current one has encrypted: how many, and the ids of those that no key
        decrypts. A key that has none left can go.
        """
        return await perform(self.store, self._reseal())

    def reseal_sync(self) -> tuple[int, tuple[str, ...]]:
        """As ``reseal``, blocking."""
        return perform_sync(self.store, self._reseal())

    def _reseal(self) -> Steps[tuple[int, tuple[str, ...]]]:
        done = yield from reseal(ENCRYPTED, self.ring)
        return done.changed, done.unreadable


def _place(name: str, id: str) -> str:
    """Where a value belongs: lengths keep ("a", "bc") and ("ab", "c") apart."""
    return f"{len(name)}:{name}:{id}"


ENCRYPTED: Final = Encrypted("kept values", secrets, _PURPOSE, lambda row: _place(row.name, row.id))


def _checked(mark: Mark) -> Mark:
    if mark.stage not in _ORDER:
        raise ConfigurationError(f"stage must be one of {', '.join(_ORDER)}, not {mark.stage!r}")
    return mark


def _shown(row: Row) -> Kept:
    return Kept(row.id, row.name, row.stage, row.created_at, row.not_before, row.not_after)
