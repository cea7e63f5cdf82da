"""What a browser holds of the sign-ins and connections that it has begun: a sealed cookie each, gone once answered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from moorline.identity import flow
from moorline.identity.sessions import cookie, cookies

if TYPE_CHECKING:
    from moorline.identity.asking import Ask
    from moorline.identity.flow import Pending
    from moorline.secrets.keyring import KeyRing

__all__ = ["begun", "ended", "held"]

_MOST_AT_ONCE: Final = 5  # of a browser that are under way


def begun(ask: Ask, ring: KeyRing, pending: Pending) -> list[str]:
    """The ``Set-Cookie`` headers that keep *pending*, and take away the oldest where there are too many."""
    name = ask.pending + flow.cookie_of(pending.state)
    kept = cookie(name, flow.sealed(ring, pending), secure=ask.secure, lasts=flow.LASTS)
    return [*_crowded(ask, ring), kept]


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
