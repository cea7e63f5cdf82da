"""What a browser holds of the sign-ins and connections that it has begun: a sealed cookie each, gone once answered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from moorline.identity import flow
from moorline.identity.asking import Refused
from moorline.identity.sessions import cookie, cookies
from moorline.telemetry import logger

if TYPE_CHECKING:
    from moorline.identity.asking import Ask
    from moorline.identity.flow import Pending
    from moorline.secrets.keyring import KeyRing

__all__ = ["begun", "ended", "held"]

_MOST_AT_ONCE: Final = 5  # of a browser that are under way
_LONGEST: Final = 4096  # name and value: a longer cookie browsers ignore, without a word (RFC 6265bis)

log = logger("identity")


def begun(ask: Ask, ring: KeyRing, pending: Pending) -> list[str]:
    """The ``Set-Cookie`` headers that keep *pending*, and take away the oldest where there are too many.

    Raises Refused for more than a browser keeps: it would come back as one that has begun nothing.
    """
    name, value = ask.pending + flow.cookie_of(pending.state), flow.sealed(ring, pending)
    if len(name) + len(value) > _LONGEST:
        log.warning("too_long_for_a_cookie", next=len(pending.next), scopes=len(pending.scopes))
        raise Refused(400, "This is too much at once: try a shorter address to return to, or fewer scopes.")
    return [*_crowded(ask, ring), cookie(name, value, secure=ask.secure, lasts=flow.LASTS)]


def held(ask: Ask, ring: KeyRing, state: str) -> Pending | None:
    """What this browser has begun with that state."""
    end = flow.cookie_of(state)
    for name, value in cookies(ask.headers.get("cookie", "")):
        if name == ask.pending + end and (one := flow.opened(ring, end, value)) is not None:
            return one
    return None


def ended(ask: Ask, state: str) -> str:
    """The ``Set-Cookie`` that takes it away."""
    return cookie(ask.pending + flow.cookie_of(state), "", secure=ask.secure, lasts=0)


def _crowded(ask: Ask, ring: KeyRing) -> list[str]:
    """What takes away the oldest of a browser that has begun too many, and those that nobody can read."""
    under_way: list[tuple[float, str]] = []
    for name, value in cookies(ask.headers.get("cookie", "")):
        if name.startswith(ask.pending):
            found = flow.opened(ring, name.removeprefix(ask.pending), value)
            under_way.append((0.0 if found is None else found.begun_at, name))
    oldest = sorted(under_way)[: max(len(under_way) - _MOST_AT_ONCE + 1, 0)]
    return [cookie(name, "", secure=ask.secure, lasts=0) for _, name in oldest if name.isascii() and name.isprintable()]
