"""Who is let in: by a token that is entered once, or as a user who has signed in and may look.

The token stands in ``MOORLINE_DASHBOARD_TOKEN`` (several, separated by commas, while one is changed for another). Who
has entered it gets a session in an encrypted cookie, whose key is derived from the token: without it, it ends. Scripts
that only read may send it as ``Authorization: Bearer``.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import inspect
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal

from moorline.dashboard.attempts import Attempts
from moorline.dashboard.tokens import TOKEN, dashboard_tokens
from moorline.errors import ConfigurationError
from moorline.identity import identities
from moorline.identity.asking import Ask, Origin, Refused
from moorline.identity.identities import Spend
from moorline.identity.sessions import Session, Sessions
from moorline.secrets.keyring import KeyRing
from moorline.secrets.secret import Secret
from moorline.telemetry import logger

if TYPE_CHECKING:
    from moorline.clock import Clock
    from moorline.store.store import Store

__all__ = ["Allow", "Gate", "Visitor", "client_address"]

BY_TOKEN: Final = "dashboard token"  # noqa: S105 (a name)
"""Who acts, as the audit has it, when it was the token that let somebody in."""

_ACTOR: Final = 200  # characters of who acts, as an audit takes them
_LONGEST: Final = 1_000  # characters of what is entered
_COOKIE: Final = "moorline-dashboard"

Allow = Callable[[Session], bool | Awaitable[bool]]
"""Whether a user who has signed in may use the dashboard."""

log = logger("dashboard")


@dataclass(frozen=True, slots=True)
class Visitor:
    """Somebody who is let in. *by* says how; *renewed* is the ``Set-Cookie`` that keeps the session, if one is due.
    Who comes *by* the header of a script may only read.
    """

    name: str
    by: Literal["token", "sign-in", "bearer"]
    renewed: str = ""


class Gate:
    """Decides. *allow* and *users* are for those whom *session* finds signed in; *idle* and *longest* are seconds that
    a session by token lasts without a request, and at all.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        session: Callable[[object], Awaitable[Session | None]],
        allow: Allow | None = None,
        users: Collection[str] = (),
        idle: float = 1_800.0,
        longest: float = 43_200.0,
    ) -> None:
        self._store = store
        self._clock = clock
        self._session = session
        self.allow = allow
        self.users = frozenset(users)
        self._idle, self._longest = idle, longest
        self._attempts = Attempts(clock.monotonic)

    @property
    def by_token(self) -> bool:
        """Whether a token lets in."""
        return bool(self._tokens())

    @property
    def by_sign_in(self) -> bool:
        """Whether users who have signed in may be let in."""
        return self.allow is not None or bool(self.users)

    async def visitor(self, ask: Ask, scope: object, address: str) -> Visitor | None:
        """Who asks, if he is let in. Raises Refused (403, 429), StoreError, ConfigurationError."""
        if (sent := _bearer(ask)) is not None:
            if not self._fits(sent, address):
                raise Refused(401, "This token is not the one.")
            return Visitor(BY_TOKEN, "bearer")
        if (found := await self._by_cookie(ask)) is not None:
            return found
        if not self.by_sign_in:
            return None
        try:
            session = await self._session(scope)
        except ConfigurationError as error:  # users are named, and nobody can sign in
            log.error("dashboard_without_sign_in", reason=str(error))
            return None
        if session is None:
            return None
        if not await self._allowed(session):
            log.warning("dashboard_user_refused", user=session.user)
            raise Refused(403, "You are signed in, and may not use the dashboard.")
        shown = "".join(one if one.isprintable() else "?" for one in session.user)
        return Visitor(f"user {shown}"[:_ACTOR], "sign-in")

    def enter(self, ask: Ask, token: str, address: str) -> str | None:
        """The ``Set-Cookie`` of a session, where the token is right. Raises Refused (429)."""
        sessions = self._sessions()
        if sessions is None or not self._fits(token, address):
            return None
        log.info("dashboard_entered", address=address)
        return sessions.header(sessions.new(BY_TOKEN, "token"), secure=ask.secure)

    async def leave(self, ask: Ask) -> str:
        """End the session by token; the ``Set-Cookie`` that takes it away. Raises StoreError."""
        sessions = self._sessions()
        if sessions is None:
            return ""
        session = sessions.read(ask.headers.get("cookie", ""), secure=ask.secure)
        if session is not None:
            spent = Spend(session.spent_key, sessions.until(session), self._clock.wall())
            await self._store.write(identities.spend, spent)
        return sessions.ended(secure=ask.secure)

    async def _by_cookie(self, ask: Ask) -> Visitor | None:
        sessions = self._sessions()
        if sessions is None:
            return None
        session = sessions.read(ask.headers.get("cookie", ""), secure=ask.secure)
        if session is None or await self._store.read(identities.is_spent, session.spent_key):
            return None
        again = sessions.renewed(session)
        return Visitor(session.user, "token", sessions.header(again, secure=ask.secure) if again else "")

    async def _allowed(self, session: Session) -> bool:
        if session.user in self.users:
            return True
        if self.allow is None:
            return False
        answer = self.allow(session)
        return (await answer if inspect.isawaitable(answer) else answer) is True

    def _fits(self, token: str, address: str) -> bool:
        """Whether it is one of the tokens. Raises Refused (429) while it may not be tried."""
        wait = self._attempts.wait(address)
        if wait > 0:
            log.warning("dashboard_attempts_limited", address=address, seconds=round(wait))
            raise Refused(429, f"Too many wrong tokens: try again in {max(round(wait / 60), 1)} minutes.")
        given = _digest(token[:_LONGEST])
        # Each is compared: how long it takes must not tell which.
        right = [hmac.compare_digest(given, _digest(one.reveal())) for one in self._tokens()]
        if not any(right):
            self._attempts.failed(address)
            log.warning("dashboard_token_wrong", address=address)
        return any(right)

    def _tokens(self) -> tuple[Secret, ...]:
        return dashboard_tokens(self._clock.wall())

    def _sessions(self) -> Sessions | None:
        tokens = self._tokens()
        if not tokens:
            return None
        return Sessions(_ring(tokens), self._clock, idle=self._idle, longest=self._longest, name=_COOKIE)


def client_address(ask: Ask, peer: str | None, origin: Origin) -> str:
    """Whose attempt it is: the peer, or who a proxy of ours says has asked it."""
    if origin.trusts(peer):
        said = ask.headers.get("x-forwarded-for", "").rpartition(",")[2].strip()
        if said:
            return said[:100]
    return peer or "unknown"


def _bearer(ask: Ask) -> str | None:
    scheme, _, token = ask.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


@lru_cache(maxsize=8)
def _ring(tokens: Iterable[Secret]) -> KeyRing:
    """Keys made of the tokens: slowly, so that a cookie that was stolen does not tell them."""
    made = [
        hashlib.scrypt(one.reveal().encode(), salt=b"moorline dashboard sessions", n=2**14, r=8, p=1, dklen=32)
        for one in tokens
    ]
    return KeyRing(Secret(base64.urlsafe_b64encode(one).decode(), name=f"a key made of {TOKEN}") for one in made)
