"""What the routes under ``/auth`` answer: redirects, and small pages that no cache keeps and no script runs in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from html import escape
from typing import Any, Final

from moorline.errors import ConfigurationError, Misuse, StoreError
from moorline.identity.asking import Refused

__all__ = ["AWAY", "CLOSED", "Receive", "Scope", "Send", "redirect", "send_away", "send_page", "send_refusal"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

CLOSED: Final = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'"
"""The Content-Security-Policy of a page that is text alone."""
AWAY: Final = (StoreError, Misuse, ConfigurationError)
"""What is raised where the database does not answer; Misuse: it could not be opened."""
_HEADERS: Final = (
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)


async def redirect(send: Send, location: str, cookies: Iterable[str]) -> None:
    """On to *location*."""
    await _send(send, 303, b"", cookies, ((b"location", location.encode("latin-1")),), CLOSED)


async def send_page(send: Send, status: int, page: str, cookies: Iterable[str] = (), *, policy: str = CLOSED) -> None:
    """A page of HTML."""
    await _send(send, status, page.encode(), cookies, ((b"content-type", b"text/html; charset=utf-8"),), policy)


async def send_refusal(send: Send, refused: Refused, title: str, again: str) -> None:
    """A refusal as a page; *again* is what stands on the link to where it can be tried again."""
    links = [*([(refused.again, again)] if refused.again else ()), *refused.links]
    listed = "".join(f'<p><a href="{escape(at)}">{escape(word)}</a></p>' for at, word in links)
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<p>{escape(refused.text)}</p>{listed}</html>"
    )
    more: tuple[tuple[bytes, bytes], ...] = ((b"content-type", b"text/html; charset=utf-8"),)
    if refused.status == 503:
        more = (*more, (b"retry-after", b"5"))
    elif refused.allow:
        more = (*more, (b"allow", refused.allow.encode()))
    await _send(send, refused.status, page.encode(), refused.cookies, more, CLOSED)


async def send_away(send: Send, title: str, again: str) -> None:
    """The refusal while the database does not answer."""
    await send_refusal(send, Refused(503, "Please try again in a moment."), title, again)


async def _send(
    send: Send, status: int, body: bytes, cookies: Iterable[str], more: tuple[tuple[bytes, bytes], ...], policy: str
) -> None:
    headers = [*_HEADERS, (b"content-security-policy", policy.encode()), *more]
    headers += [(b"content-length", str(len(body)).encode())]
    headers += [(b"set-cookie", one.encode("latin-1")) for one in cookies]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
