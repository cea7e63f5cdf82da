"""Identity: whom a token speaks of, and whether it may be believed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moorline.identity.connection import Connection
    from moorline.identity.connections import Connections, Revoked
    from moorline.identity.keys import Keeping, KeyCache
    from moorline.identity.keyset import KeySet
    from moorline.identity.oauth import Client, OAuth, Revocation
    from moorline.identity.provider import Identity, OpenID, Provider
    from moorline.identity.ready import GitHub, Google, Microsoft
    from moorline.identity.sessions import Session
    from moorline.identity.tokens import Claims, verify_token
    from moorline.identity.verification import Verification

__all__ = [
    "Claims",
    "Client",
    "Connection",
    "Connections",
    "GitHub",
    "Google",
    "Identity",
    "Keeping",
    "KeyCache",
    "KeySet",
    "Microsoft",
    "OAuth",
    "OpenID",
    "Provider",
    "Revocation",
    "Revoked",
    "Session",
    "Verification",
    "verify_token",
]

_HOMES = {
    "Claims": "tokens",
    "Client": "oauth",
    "Connection": "connection",
    "Connections": "connections",
    "GitHub": "ready",
    "Google": "ready",
    "Identity": "provider",
    "Keeping": "keys",
    "KeyCache": "keys",
    "KeySet": "keyset",
    "Microsoft": "ready",
    "OAuth": "oauth",
    "OpenID": "provider",
    "Provider": "provider",
    "Revocation": "oauth",
    "Revoked": "connections",
    "Session": "sessions",
    "Verification": "verification",
    "verify_token": "tokens",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'moorline.identity' has no attribute {name!r}")
    value = getattr(import_module(f"moorline.identity.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
