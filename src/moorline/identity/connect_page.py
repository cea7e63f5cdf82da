"""The pages at which accounts are connected: HTML with forms, no script. All that a service has said is escaped."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final
from urllib.parse import urlsplit

__all__ = ["Account", "Offer", "page", "policy"]

_STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:44rem;margin:2rem auto;padding:0 1rem;color:#1c2430}"
    "section{border-top:1px solid #d5dae1;padding:.5rem 0 1rem}form{display:inline}"
    "button{font:inherit;padding:.3rem .9rem;margin:.2rem .4rem .2rem 0;cursor:pointer}"
    "code{background:#eef1f5;padding:0 .25rem}.ended{color:#a12622}.small{color:#5a6472;font-size:.9rem}"
)


@dataclass(frozen=True, slots=True)
class Account:
    """One that is connected: its *id* here, its *name* at the service, how it is, for what it was granted, and what is
    *missing*.
    """

    id: str
    name: str
    state: str
    reason: str
    scopes: Sequence[str]
    missing: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Offer:
    """A service: *at* is the path of its routes; *asks* are the scopes that are asked for, *account* is the one that is
    to be connected again, *next* where the owner goes afterwards.
    """

    title: str
    at: str
    accounts: Sequence[Account] = ()
    asks: Sequence[str] = ()
    account: str = ""
    next: str = ""
    alone: bool = False


def policy(addresses: Iterable[str]) -> str:
    """The Content-Security-Policy: our own style, forms that go here, and from here on to *addresses*.

    Browsers hold each redirect that follows a form against it as well. Where a service leads on nobody can list, its
    regional hosts or the sign-in of the user's company; so it is any host by https, and by http the one of an address.
    """
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    parts = [urlsplit(address) for address in addresses]
    onward = " ".join(["https:", *sorted({f"http://{one.netloc}" for one in parts if one.scheme == "http"})])
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; form-action 'self' {onward}; frame-ancestors 'none'; "
        "base-uri 'none'"
    )


def page(offers: Sequence[Offer]) -> str:
    """The page that lists *offers*, or shows the only one."""
    title = f"Connect {offers[0].title}" if len(offers) == 1 and offers[0].alone else "Connected accounts"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>"
        + "".join(map(_section, offers))
        + "</body></html>"
    )


def _section(offer: Offer) -> str:
    heading = "" if offer.alone else f"<h2>{escape(offer.title)}</h2>"
    rows = "".join(_account(offer, one) for one in offer.accounts)
    if offer.alone:
        asked = f"<p>You will be asked to allow: {_names(offer.asks)}</p>" if offer.asks else ""
        word = "Reconnect" if offer.account or any(one.name == offer.account for one in offer.accounts) else "Connect"
        fields = {"account": offer.account, "scopes": " ".join(offer.asks), "next": offer.next}
        return f"<section>{asked}{_button(offer, 'connect', word, fields)}{rows}</section>"
    word = "Connect another account" if offer.accounts else "Connect"
    new = {"new": "1"} if offer.accounts else {}
    empty = "" if offer.accounts else "<p>Not connected.</p>"
    return f"<section>{heading}{empty}{rows}{_button(offer, 'connect', word, {**new, 'next': offer.next})}</section>"


def _account(offer: Offer, one: Account) -> str:
    named = f"<strong>{escape(one.name)}</strong>" if one.name else "<strong>Account</strong>"
    state = {"good": "connected", "revoking": "is being disconnected"}.get(one.state, "has to be connected again")
    lines = [f'<p class="{escape(one.state)}">{named}: {state}</p>']
    if one.reason and one.state == "ended":
        lines.append(f'<p class="small">{escape(one.reason)}</p>')
    if one.scopes:
        lines.append(f'<p class="small">Allowed: {_names(one.scopes)}</p>')
    if one.missing:
        lines.append(f'<p class="ended small">Not allowed: {_names(one.missing)}</p>')
    if one.state != "revoking":
        if one.state == "ended" or one.missing:
            fields = {"account": one.name, "scopes": " ".join(one.missing), "next": offer.next}
            lines.append(_button(offer, "connect", "Reconnect", fields))
        lines.append(_button(offer, "disconnect", "Disconnect", {"id": one.id, "next": offer.next}))
    return "".join(lines)


def _button(offer: Offer, what: str, word: str, fields: dict[str, str]) -> str:
    hidden = "".join(
        f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">'
        for name, value in fields.items()
        if value
    )
    return f'<form method="post" action="{escape(offer.at)}/{what}">{hidden}<button>{escape(word)}</button></form>'


def _names(scopes: Iterable[str]) -> str:
    return ", ".join(f"<code>{escape(one)}</code>" for one in scopes)
