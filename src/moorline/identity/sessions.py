"""Sessions: who is signed in, kept in an encrypted cookie of the browser.

The cookie is ``HttpOnly``, ``SameSite=Lax``, and over https ``Secure`` with the prefix ``__Host-``, so that no other
host, a subdomain's included, can set it. Each sign-in begins a session with an id of its own and ends the one before,
so that none can be fixed beforehand. A session ends when it was idle too long, when it is too old whatever was done
with it, and with signing out: then its id is noted as spent, so that a copy of the cookie is of no use either. All of a
user's end at once by a note of the user and the time.

Instead of the cookie the session of the host application may hold it: then who is signed in, and since when, stands
there under ``moorline``, and the rest is the same.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from moorline.clock import Clock
from moorline.errors import ConfigurationError, DecryptionFailed
from moorline.secrets.keyring import KeyRing
from moorline.store.ids import new_id

if TYPE_CHECKING:
    from moorline.identity.asking import Ask

__all__ = ["LONGEST", "Session", "Sessions", "all_of", "cookie", "cookies", "with_session"]

LONGEST: Final = 366 * 86_400.0
"""Seconds that no session outlasts."""
_PURPOSE: Final = "session"
_RENEWED_AFTER: Final = 60.0  # seconds; a cookie with each answer would be too much
_LONGEST_HEADER: Final = 32_768
_LONGEST_USER: Final = 500
_HELD_AS: Final = "moorline"


@dataclass(frozen=True, slots=True)
class Session:
    """A user who is signed in: by which *provider*, since when, and when the browser was seen last; times in seconds
    since the epoch.
    """

    id: str
    user: str
    provider: str
    started_at: float
    seen_at: float

    def __repr__(self) -> str:
        return f"<Session of {self.user!r}>"

    @property
    def spent_key(self) -> str:
        """What is noted of it once it has ended."""
        return f"session {self.id}"

    @property
    def user_key(self) -> str:
        """What is noted of its user once all sessions were ended."""
        return all_of(self.user)


class Sessions:
    """Makes and reads the cookies, with *ring*. *idle* and *longest* are seconds: how long a session lasts without a
    request, and at all. *host* gives the host application's own session, of an ASGI scope: a mapping.

    Raises ConfigurationError naming the argument.
    """

    def __init__(
        self,
        ring: KeyRing,
        clock: Clock,
        *,
        idle: float = 86_400.0,
        longest: float = 1_209_600.0,
        name: str = "moorline",
        host: Callable[[Any], Any] | None = None,
    ) -> None:
        if not 60 <= idle <= longest <= LONGEST:
            raise ConfigurationError("sessions: idle must be from 60 seconds to longest, and that at most 366 days")
        self.ring = ring
        self.idle = idle
        self.longest = longest
        self._clock = clock
        self._name = name
        self._host = host

    @property
    def in_cookies(self) -> bool:
        """Whether cookies of ours hold them, and not the host application's own session."""
        return self._host is None

    # --- of a request

    def held(self, ask: Ask) -> Session | None:
        """The session of a request, if it is in time; whether it was ended is for the database to say."""
        if self._host is None:
            return self.read(ask.headers.get("cookie", ""), secure=ask.secure)
        return self._in_time(self._of_host(ask).get(_HELD_AS))

    def hold(self, ask: Ask, session: Session, *, begins: bool = False) -> list[str]:
        """Keep it; the cookies that do it. One that *begins* has the host's session under another id."""
        if self._host is None:
            return [self.header(session, secure=ask.secure)]
        host = self._of_host(ask)
        renewed = getattr(host, "cycle_key", None)  # Django's word for it
        if begins and callable(renewed):
            renewed()
        host[_HELD_AS] = asdict(session)
        return []

    def let_go(self, ask: Ask) -> list[str]:
        """Keep it no more; the cookies that do it."""
        if self._host is None:
            return [self.ended(secure=ask.secure)]
        self._of_host(ask).pop(_HELD_AS, None)
        return []

    def _of_host(self, ask: Ask) -> Any:
        assert self._host is not None
        try:
            found = self._host(ask.scope)
        except (KeyError, AttributeError, AssertionError):
            found = None
        if not hasattr(found, "get") or not hasattr(found, "pop"):
            raise ConfigurationError(
                "sign_in: the host application has no session here; is its middleware around this?"
            )
        return found

    # --- cookies

    def name(self, *, secure: bool) -> str:
        """Of the cookie."""
        return f"__Host-{self._name}" if secure else self._name

    def new(self, user: str, provider: str) -> Session:
        """A session that begins now. Raises ConfigurationError for what is no id of a user."""
        if not user or len(user) > _LONGEST_USER:
            raise ConfigurationError(f"a user's id must be a text of 1 to {_LONGEST_USER} characters")
        now = self._clock.wall()
        return Session(new_id(now), user, provider, now, now)

    def header(self, session: Session, *, secure: bool) -> str:
        """The ``Set-Cookie`` that keeps it."""
        plain = json.dumps(asdict(session), separators=(",", ":")).encode()
        name = self.name(secure=secure)
        value = base64.urlsafe_b64encode(self.ring.encrypt(plain, purpose=_PURPOSE, place=name)).decode().rstrip("=")
        lasts = min(self.idle, session.started_at + self.longest - self._clock.wall())
        return cookie(name, value, secure=secure, lasts=max(int(lasts), 0))

    def ended(self, *, secure: bool) -> str:
        """The ``Set-Cookie`` that takes it away."""
        return cookie(self.name(secure=secure), "", secure=secure, lasts=0)

    def read(self, header: str, *, secure: bool) -> Session | None:
        """The session in a ``Cookie`` header, if it is in time; whether it was ended is for the database to say."""
        name = self.name(secure=secure)
        for one, value in cookies(header):
            if one == name and (found := self._opened(name, value)) is not None:
                return found
        return None

    def _opened(self, name: str, value: str) -> Session | None:
        try:
            raw = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)) if value.isascii() else b""
            return self._in_time(json.loads(self.ring.decrypt(raw, purpose=_PURPOSE, place=name)))
        except (DecryptionFailed, ValueError):
            return None

    def _in_time(self, held: Any) -> Session | None:
        now = self._clock.wall()
        try:
            found = Session(**held)
            in_time = now < found.seen_at + self.idle and now < found.started_at + self.longest
        except TypeError:
            return None
        return found if in_time else None

    def until(self, session: Session) -> float:
        """When it ends at the latest, whatever is done."""
        return session.started_at + self.longest

    def renewed(self, session: Session) -> Session | None:
        """The session, seen now; None while the cookie need not be sent again."""
        now = self._clock.wall()
        return replace(session, seen_at=now) if now >= session.seen_at + _RENEWED_AFTER else None


def all_of(user: str) -> str:
    """What is noted of a user whose sessions were all ended."""
    return f"sessions of {user}"


def cookies(header: str) -> Iterator[tuple[str, str]]:
    """The pairs of a ``Cookie`` header (RFC 6265, section 4.2.1), those of one name in their order."""
    for part in header[:_LONGEST_HEADER].split(";"):
        name, equals, value = part.partition("=")
        if equals:
            yield name.strip(), value.strip().strip('"')


def cookie(name: str, value: str, *, secure: bool, lasts: int) -> str:
    """A ``Set-Cookie`` for this host alone, which no script reads and no request of another site carries but to come
    here.
    """
    marks = "; Secure" if secure else ""
    return f"{name}={value}; Path=/; Max-Age={lasts}; HttpOnly{marks}; SameSite=Lax"


def with_session(headers: Iterable[tuple[bytes, bytes]], cookie: str) -> list[tuple[bytes, bytes]]:
    """*headers* of an answer and a session, which no cache may give to whoever asks next (RFC 9111, section 7.3)."""
    kept = [(name, value) for name, value in headers if name.lower() != b"cache-control"]
    return [*kept, (b"cache-control", b"no-store"), (b"set-cookie", cookie.encode("latin-1"))]
