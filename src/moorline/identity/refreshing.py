"""A token that is fresh whenever it is asked for: refreshed ahead of its end, once, however many want it.

Threads and tasks of a process wait for one another here; processes and machines by a lease in the row, and by its
version: of two who refresh in spite of it, only one's tokens are kept, and the other reads them. Whoever waits does so
no longer than its call may; a refresh that is under way goes on, for a token that nobody stores is lost.

A provider may take the old refresh token back when it gives a new one (RFC 9700, section 4.14.2). So that a refresh is
under way is noted before it is asked for. Where a process dies between the answer and the database, the next one finds
the note and tries the old token: providers let it pass for some seconds, or as long as the new one is unused. If not,
the reason says that a refresh was lost, and the owner has to connect again. Where the database is away at that moment,
the process goes on with what it got, and stores it as soon as that is possible.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from moorline.calls.flight import Start, Wait
from moorline.errors import (
    AuthenticationFailed,
    CallerFault,
    CallError,
    ConfigurationError,
    ConnectionNotFound,
    CredentialFault,
    DeadlineExceeded,
    DecryptionFailed,
    ReauthorizationRequired,
    StoreError,
    StoreUnavailable,
)
from moorline.identity import vault_sql
from moorline.identity.connection import Connection, Granted, Tokens
from moorline.identity.refresh_flights import LEASE, Aim, Refreshing, flights_of
from moorline.identity.vault_sql import Begin
from moorline.policies.deadline import remaining
from moorline.store.steps import Read, Sleep, Write, perform, perform_sync
from moorline.telemetry import logger

if TYPE_CHECKING:
    from moorline.calls.call import Call
    from moorline.identity.vault import Vault
    from moorline.secrets.secret import Secret

__all__ = ["GRANT_IS_OVER", "FreshToken", "Refresh", "Unsaved", "was_lost"]

Refresh: TypeAlias = "Callable[[Tokens], Call[Granted]]"
"""Makes the Call that gets new tokens with the refresh token among the old, or with what is kept in its place. One that
needs neither has an attribute ``asks_anew`` that is true.
"""

_LEASE: Final = LEASE
_LOOKS: Final = 0.1  # seconds between two looks at what another process is doing
_AGAIN_AFTER: Final = 30.0  # seconds between two tries while the old token still serves
_STORE_AGAIN: Final = (0.5, 1.0, 2.0)  # seconds between tries to store what was refreshed because somebody asked for it
_SAID: Final = range(400, 500)  # statuses of answers that say that nothing was done

log = logger("identity")


class Ask:
    """The Call of a refresh, as a step."""

    __slots__ = ("call",)

    def __init__(self, call: Call[Granted]) -> None:
        self.call = call

    def now(self, _: object) -> Granted:
        """Blocks."""
        return self.call.result()

    async def later(self, _: object) -> Granted:
        """Suspends."""
        return await self.call


@dataclass(frozen=True, slots=True)
class Unsaved:
    """What was granted while the database was away; *row* says until when."""

    row: Connection
    granted: Granted


@dataclass(frozen=True, slots=True)
class _Held:
    row: Connection
    tokens: Tokens


class FreshToken:
    """The access token of one connection. For a service's requests: see ``FetchedKey``.

    *refresh* makes the Call that refreshes it; without one, a token that is over ends the connection. *reconnect* is
    the address at which the owner connects the account again; *endings* are the codes by which the provider says that
    the grant is over.

    Raises, where it is asked: ReauthorizationRequired, ConnectionNotFound, DecryptionFailed, StoreUnavailable, or the
    CallError of a refresh that failed while the old token was of no more use.
    """

    def __init__(
        self,
        vault: Vault,
        id: str,
        refresh: Refresh | None,
        *,
        reconnect: str | None = None,
        endings: frozenset[str] | None = None,
    ) -> None:
        self._vault = vault
        self._id = id
        self._refresh = refresh
        self._reconnect = reconnect
        self._endings = GRANT_IS_OVER if endings is None else endings
        self._clock = vault.store.clock
        self._held: _Held | None = None
        self._stale = False
        self._unsaved: Unsaved | None = None
        self._tried = -_AGAIN_AFTER
        self._lock = threading.Lock()  # held for a moment, never while something is awaited
        self._flight: Refreshing | None = None

    def __repr__(self) -> str:
        return f"<token of connection {self._id}>"

    def current(self) -> Secret:
        """The token that was read last. Raises ConnectionNotFound where none was."""
        return self._known.tokens.access

    @property
    def extra(self) -> dict[str, Any]:
        """What the provider has said beside it."""
        return dict(self._known.tokens.extra)

    @property
    def connection(self) -> Connection:
        """The connection, as it was read last."""
        return self._known.row

    @property
    def _known(self) -> _Held:
        if self._held is None:
            raise ConnectionNotFound(f"connection {self._id} was not read yet")
        return self._held

    def ready(self) -> None:
        """See to it that the token is good for a call that is made now."""
        if self._wanted():
            perform_sync(self._vault.store, self._together(Aim(), self._wanted))

    async def ready_async(self) -> None:
        """As ``ready``, on an event loop."""
        if self._wanted():
            await perform(self._vault.store, self._together(Aim(), self._wanted))

    def newer(self, refused: Secret, timeout: float | None = None) -> bool:  # noqa: ARG002 (bounded by its deadline)
        """Whether there is another token than *refused*, which the service would not take: the one that somebody else
        has got meanwhile, or a new one.
        """
        perform_sync(self._vault.store, self._newer(Aim(refused)))
        return self.current() != refused

    async def newer_async(self, refused: Secret) -> bool:
        """As ``newer``, on an event loop."""
        await perform(self._vault.store, self._newer(Aim(refused)))
        return self.current() != refused

    def outdated(self) -> None:
        """Read it again before it is used the next time: somebody has changed it."""
        self._stale = True

    def renew(self) -> None:
        """Refresh it now. Raises ConfigurationError for one that cannot be, StoreError where the new one could not be
        stored (it is kept here, for the next who asks), and as ``ready``.
        """
        perform_sync(self._vault.store, self._renewed())

    async def renew_async(self) -> None:
        """As ``renew``, on an event loop."""
        await perform(self._vault.store, self._renewed())

    def close(self) -> None:
        """Nothing: the connections to the provider are the service's that refreshes."""

    async def aclose(self) -> None:
        """Nothing."""

    # --- the steps

    def _wanted(self) -> bool:
        if not self._serves():
            return True
        row = self._known.row
        due = self._unsaved is not None or row.wants_refresh(self._clock.wall())
        return due and self._clock.monotonic() >= self._tried + _AGAIN_AFTER

    def _serves(self) -> bool:
        """Whether the token that was read last may be sent."""
        held = self._held
        return held is not None and not self._stale and not held.row.is_over(self._clock.wall())

    def _newer(self, aim: Aim) -> Generator[Any, Any, None]:
        yield from self._together(aim, lambda: self.current() == aim.refused)

    def _renewed(self) -> Generator[Any, Any, None]:
        if self._unsaved is None:
            yield from self._read()
        tokens = self._known.tokens
        if not self._can(tokens):
            raise ConfigurationError(
                f"connection {self._id} has no refresh token: its token is good until it is refused"
            )
        yield from self._newer(Aim(tokens.access, at_once=True))

    def _together(self, aim: Aim, wanted: Callable[[], bool]) -> Generator[Any, Any, None]:
        """See to the *aim*, unless somebody in this process is at it; then wait for that, and for another process that
        is: no longer than the caller has time for it.
        """
        store = self._vault.store
        while wanted():
            flight, leads = self._boarded(aim)
            if leads:
                flown = partial(self._flown, flight)
                yield Start(flight, lambda: perform_sync(store, flown()), lambda: perform(store, flown()))  # noqa: B023 (at once)
            try:
                ended = yield Wait(flight, store.clock)
            except DeadlineExceeded:
                if aim.refused is None and self._serves():
                    return
                raise
            if not ended:
                self._landed(flight)  # its loop has ended
            elif flight.aim != aim:
                continue
            elif not flight.outcome:
                self._check_time(self._known.row)
            elif leads or aim.refused is not None or self._serves():  # another's token may have come some time ago
                return

    def _boarded(self, aim: Aim) -> tuple[Refreshing, bool]:
        """The flight that is under way, and whether the caller has to begin it."""
        with self._lock:
            if self._flight is not None:
                return self._flight, False
            flight = self._flight = Refreshing(aim)
        flights_of(self._vault.store).add(flight)
        return flight, True

    def _landed(self, flight: Refreshing) -> None:
        with self._lock:
            if self._flight is flight:
                self._flight = None
        flights_of(self._vault.store).discard(flight)

    def _flown(self, flight: Refreshing) -> Generator[Any, Any, bool]:
        try:
            done = yield from self._fresh(flight.aim)
            if not done:
                yield Sleep(_LOOKS)  # here: all who wait look again together
            return done
        except (StoreError, ConfigurationError, DecryptionFailed) as error:
            if flight.aim.refused is not None or not self._serves():
                raise
            self._put_off(str(error))
            return True
        finally:
            self._landed(flight)

    def _fresh(self, aim: Aim) -> Generator[Any, Any, bool]:
        """Read the row, and refresh it if need be: because it is over, soon will be, or was refused. One that was got a
        moment ago and is refused is not refreshed unless ``at_once``: a service that refuses all would be asked anew at
        each call. False where another process is at it, and there is nothing to go on with.
        """
        refused = aim.refused
        if self._unsaved is not None:
            if aim.at_once:
                yield from self._stored_now(self._unsaved)
            elif not (yield from self._stored_late(self._unsaved)):
                return True
        row, tokens = yield from self._read()
        if not self._is_due(row, tokens, refused):
            return True
        new = row.version > 1 and self._clock.wall() < row.updated_at + _AGAIN_AFTER
        if refused is not None and new and not aim.at_once:
            return True
        over = refused is not None or row.is_over(self._clock.wall())
        if self._refresh is None or not self._can(tokens):
            if over:
                yield from self._end(row, "the access token is over, and there is no refresh token")
            return True
        call = self._refresh(tokens)  # before it is noted that it is under way: where it fails, nothing was sent
        begun = Begin(row.id, row.version, self._clock.wall(), _LEASE)
        if not (yield Write(vault_sql.begin, begun)):
            return not over  # another process is at it
        self._tried = self._clock.monotonic()
        yield from self._ask(row, tokens, begun, call, over=over)
        if aim.at_once and self._unsaved is not None:
            yield from self._stored_now(self._unsaved)
        return True

    def _can(self, tokens: Tokens) -> bool:
        """Whether there is a way to get another token."""
        if self._refresh is None:
            return False
        known = tokens.refresh is not None or tokens.grant is not None
        return known or getattr(self._refresh, "asks_anew", False)

    def _check_time(self, row: Connection) -> None:
        left = remaining(clock=self._clock)
        if left is not None and left <= _LOOKS:
            raise DeadlineExceeded(
                "the token of this connection is being refreshed by another process", service=row.service,
                outcome="not_sent",
            )  # fmt: skip

    def _is_due(self, row: Connection, tokens: Tokens, refused: Secret | None) -> bool:
        if refused is not None:
            return tokens.access == refused
        return row.wants_refresh(self._clock.wall())

    def _read(self) -> Generator[Any, Any, tuple[Connection, Tokens]]:
        row: Connection | None = yield Read(vault_sql.load, self._id)
        if row is None:
            raise ConnectionNotFound(f"connection {self._id} is there no more")
        if row.state == "revoking":
            raise ConnectionNotFound(f"{row.owner!r} has disconnected {row.service}")
        if row.state == "ended":
            raise self._required(row, row.reason or "it has ended")
        tokens = self._vault.tokens(row)
        self._hold(row, tokens)
        self._stale = False
        return row, tokens

    def _hold(self, row: Connection, tokens: Tokens) -> None:
        self._held = _Held(row, tokens)

    def _ask(
        self, row: Connection, tokens: Tokens, begun: Begin, call: Call[Granted], *, over: bool
    ) -> Generator[Any, Any, None]:
        try:
            granted: Granted = yield Ask(call)
        except CallError as error:
            lost = _may_have_rotated(error)
            yield Write(vault_sql.give_back, begun._replace(lost=lost))
            row = replace(row, lost_at=begun.now) if lost else row
            if isinstance(error, AuthenticationFailed):
                yield from self._refused(row, error)
            elif over:
                raise
            else:
                self._put_off(error.message)
            return
        except BaseException:  # cancelled: it may have been sent
            yield Write(vault_sql.give_back, begun._replace(lost=True))
            raise
        granted = _with_old(granted, tokens)
        try:
            changed = yield from self._vault.changed(row, granted)
        except StoreError as error:
            kept = self._vault.granted(row, granted, self._clock.wall())
            self._hold(kept, granted.tokens)
            self._unsaved = Unsaved(kept, granted)
            self._not_stored(row, error)
            return
        self._stored(row, changed)
        yield from self._read()

    def _stored_late(self, unsaved: Unsaved) -> Generator[Any, Any, bool]:
        """Store what could not be stored before; whether that went well. Raises StoreError where the token is of no
        more use either.
        """
        row, granted, now = unsaved.row, unsaved.granted, self._clock.wall()
        lasts = None if row.expires_at is None else max(row.expires_at - now, 0.0)
        try:
            changed = yield from self._vault.changed(row, replace(granted, lasts=lasts))
        except StoreError as error:
            if row.is_over(now):
                raise
            self._not_stored(row, error)
            return False
        self._unsaved = None
        self._stored(row, changed)
        return True

    def _stored_now(self, unsaved: Unsaved) -> Generator[Any, Any, None]:
        """As ``_stored_late``, for somebody who will be told that it is done: tried some more, then it raises."""
        for pause in _STORE_AGAIN:
            yield Sleep(pause)
            if (yield from self._stored_late(unsaved)):
                yield from self._read()
                return
        raise StoreUnavailable(
            f"connection {unsaved.row.id} was refreshed, and the database was away: its new token is kept in this "
            "process alone, which stores it when the token is asked for again"
        )

    def _put_off(self, reason: str) -> None:
        """The token that was read last goes on, and it is tried again after a while."""
        row, self._tried = self._known.row, self._clock.monotonic()
        log.warning("token_not_refreshed", connection=row.id, service=row.service, reason=reason)

    def _not_stored(self, row: Connection, error: StoreError) -> None:
        self._tried, self._stale = self._clock.monotonic(), False  # nothing newer than this can be read
        log.warning("token_not_stored", connection=row.id, service=row.service, reason=type(error).__name__)

    def _stored(self, row: Connection, changed: Connection | None) -> None:
        if changed is None:
            # It took longer than its lease, and somebody else was faster: what is there now is newer than this.
            log.warning("token_refreshed_twice", connection=row.id, service=row.service)

    def _refused(self, row: Connection, error: AuthenticationFailed) -> Generator[Any, Any, None]:
        """The provider does not take the refresh token: another process may have used it, or it is over."""
        found: Connection | None = yield Read(vault_sql.load, row.id)
        if found is not None and found.version != row.version:
            yield from self._read()
            return
        own = self._known.tokens.grant is not None
        if error.code not in self._endings and not (own and error.code in _CLIENT_IS_OVER):
            raise error  # of the application's own credential, which is nothing of the connection's
        lost = was_lost(row) and not own
        why = "a refresh was lost on its way here, and the old token is refused" if lost else "it was revoked"
        yield from self._end(row, f"{why} ({error.code})")

    def _end(self, row: Connection, reason: str) -> Generator[Any, Any, None]:
        ended = yield from self._vault.ended(row, reason)
        if ended is None:
            yield from self._read()
            return
        self._stale = True
        log.warning("connection_ended", connection=row.id, service=row.service, reason=reason)
        raise self._required(row, reason)

    def _required(self, row: Connection, reason: str) -> ReauthorizationRequired:
        return ReauthorizationRequired(
            f"{row.owner!r} has to connect {row.service} again: {reason}",
            service=row.service,
            connection=row.id,
            reconnect=self._reconnect,
        )


GRANT_IS_OVER: Final = frozenset(
    {"invalid_grant", "bad_refresh_token", "expired_token", "token_revoked", "invalid_refresh_token"}
)
"""What providers call a refresh token that is of no more use; the last one is Slack's."""


_CLIENT_IS_OVER: Final = frozenset({"invalid_client", "unauthorized_client"})  # of a client that is the owner's


def was_lost(row: Connection) -> bool:
    """Whether a refresh of it began of which nobody knows the end."""
    return row.lost_at is not None or row.refreshing_since is not None


def _may_have_rotated(error: CallError) -> bool:
    """Whether the refresh token may have been taken back, and the new one lost. An answer that turns it away says that
    it was not (some services put that into a 200); without one, or with a failure, nobody knows, be it of one attempt
    of several.
    """
    said = isinstance(error, (CallerFault, CredentialFault)) or error.status in _SAID or error.outcome == "not_sent"
    return not said or any(one.status not in _SAID for one in error.attempts[:-1])


def _with_old(granted: Granted, old: Tokens) -> Granted:
    """Many providers give no new refresh token: then the old one goes on."""
    new = granted.tokens
    refresh = old.refresh if new.refresh is None else new.refresh
    kept = Tokens(new.access, refresh, {**old.extra, **new.extra}, old.grant if new.grant is None else new.grant)
    return Granted(kept, granted.lasts, granted.scopes)
