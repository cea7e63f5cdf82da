"""``ServiceTokens``: the tokens that an application's services get with their own credentials, shared by its processes.

They are kept in the vault as the connections of an owner of their own, one for each account of a service, and refreshed
by the same lease: of all processes one asks, the others read what it got. So a refresh token that is replaced at each
use outlives a restart. While the database is away, or holds nothing that can be read, a process asks for itself.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from moorline.calls.tokens import Token
from moorline.errors import AuthenticationFailed, DecryptionFailed, StoreError
from moorline.identity import vault_sql
from moorline.identity.connection import Connection, Granted, Tokens
from moorline.identity.refreshing import GRANT_IS_OVER, FreshToken, Unsaved, was_lost
from moorline.identity.vault import Vault
from moorline.identity.vault_sql import APPLICATION, Sealed, Which
from moorline.secrets.secret import Secret
from moorline.store.ids import new_id
from moorline.store.steps import Read, Write
from moorline.telemetry import logger

if TYPE_CHECKING:
    from moorline.calls.call import Call
    from moorline.calls.token_cache import Asking
    from moorline.secrets.keyring import KeyRing
    from moorline.store.store import Store

__all__ = ["ServiceTokens"]

_NONE: Final = Tokens(Secret("moorline: there is no token yet", name="no token yet"))

log = logger("identity")


class _Place(NamedTuple):
    service: str
    account: str


class ServiceTokens:
    """A ``TokenKeeper`` on the application's *store*. *keys* gives the ring that encrypts; None: nothing is kept."""

    def __init__(self, store: Store, keys: Callable[[], KeyRing | None]) -> None:
        self._store = store
        self._keys = keys
        self._unsaved: dict[_Place, Unsaved] = {}

    def __repr__(self) -> str:
        return f"<tokens of services in {self._store!r}>"

    def token(self, service: str, account: str, ask: Asking, refused: Secret | None) -> Token | None:
        """See ``TokenKeeper``. Raises CallError, ConfigurationError."""
        kept = self._kept(_Place(service, account), ask)
        if kept is None:
            return None
        try:
            kept.ready()
            if refused is not None and kept.current() == refused:
                kept.newer(refused)
        except StoreError as error:
            self._away(kept, error)
            return None
        return self._found(kept)

    async def token_async(self, service: str, account: str, ask: Asking, refused: Secret | None) -> Token | None:
        """As ``token``, on an event loop."""
        kept = self._kept(_Place(service, account), ask)
        if kept is None:
            return None
        try:
            await kept.ready_async()
            if refused is not None and kept.current() == refused:
                await kept.newer_async(refused)
        except StoreError as error:
            self._away(kept, error)
            return None
        return self._found(kept)

    def _kept(self, place: _Place, ask: Asking) -> _KeptToken | None:
        ring = self._keys() if self._store.is_open else None
        return None if ring is None else _KeptToken(Vault(self._store, ring), place, ask, self._unsaved.get(place))

    def _away(self, kept: _KeptToken, error: StoreError) -> None:
        log.warning("tokens_not_shared", service=kept.place.service, reason=type(error).__name__)

    def _found(self, kept: _KeptToken) -> Token:
        unsaved = kept.unsaved
        if unsaved is None:
            self._unsaved.pop(kept.place, None)
        else:
            self._unsaved[kept.place] = unsaved
        return kept.token(unsaved=unsaved is not None)


class _Asked:
    """A ``Refresh`` that uses the configured credential where no refresh token has taken its place."""

    asks_anew = True

    def __init__(self, ask: Asking) -> None:
        self._ask = ask

    def __call__(self, tokens: Tokens) -> Call[Granted]:
        return self._ask(tokens.refresh, _granted)


def _granted(token: Token) -> Granted:
    return Granted(Tokens(token.secret, token.successor, {"site": token.site}), token.lasts)


class _KeptToken(FreshToken):
    """The token of one account of a service. It never ends: who is refused now may be let in again tomorrow."""

    def __init__(self, vault: Vault, place: _Place, ask: Asking, unsaved: Unsaved | None = None) -> None:
        super().__init__(vault, place.account, _Asked(ask))
        self.place = place
        self._asking = ask
        self._unsaved = unsaved
        if unsaved is not None:
            self._hold(unsaved.row, unsaved.granted.tokens)

    @property
    def unsaved(self) -> Unsaved | None:
        """What was granted and could not be stored."""
        return self._unsaved

    def token(self, *, unsaved: bool) -> Token:
        """As services want it."""
        row, tokens = self.connection, self._known.tokens
        lasts = 0.0 if row.expires_at is None else max(row.expires_at - self._clock.wall(), 0.0)
        return Token(tokens.access, lasts, str(tokens.extra.get("site", "")), tokens.refresh, unsaved)

    def _read(self) -> Generator[Any, Any, tuple[Connection, Tokens]]:
        which = Which(APPLICATION, *self.place, limit=1)
        while not (found := (yield Read(vault_sql.find, which))):
            now = self._clock.wall()
            new = Connection(new_id(now), APPLICATION, *self.place, created_at=now)
            first = self._vault.granted(new, Granted(_NONE, 0.0), now)
            yield Write(vault_sql.put, Sealed(first, self._vault.ring.current_id))  # by whoever is first
        row: Connection = found[0]
        try:
            tokens = self._vault.tokens(row)
        except DecryptionFailed as error:
            log.warning("token_unreadable", connection=row.id, service=row.service, reason=str(error))
            tokens, row = _NONE, replace(row, expires_at=0.0)
        if row.state != "good":  # an operator has ended it: with it goes what was kept of it
            tokens, row = _NONE, replace(row, expires_at=0.0)
        self._hold(row, tokens)
        return row, tokens

    def _refused(self, row: Connection, error: AuthenticationFailed) -> Generator[Any, Any, None]:
        found: list[Connection] = yield Read(vault_sql.find, Which(APPLICATION, *self.place, limit=1))
        if found and found[0].version != row.version:
            yield from self._read()
            return
        if not row.is_over(self._clock.wall()):
            log.warning("token_not_refreshed", connection=row.id, service=row.service, reason=error.message)
            return
        if self._asking.refreshes and error.code in GRANT_IS_OVER and was_lost(row):
            error = copy.copy(error)
            error.message += " (a refresh was lost on its way here: another consent is needed, and its refresh token)"
        raise error
