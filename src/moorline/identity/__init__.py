"""Identity: whom a token speaks of, and whether it may be believed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moorline.identity.connection import Connection
    from moorline.identity.connections import Connections, Revoked
    from moorline.identity.device import DeviceCode, DeviceFlow
    from moorline.identity.grants import Assertion, OwnClient
    from moorline.identity.keys import Keeping, KeyCache
    from moorline.identity.keyset import KeySet
    from moorline.identity.oauth import Client, OAuth, Revocation
    from moorline.identity.provider import Identity, OpenID, Provider
    from moorline.identity.ready import GitHub, Google, Microsoft
    from moorline.identity.sessions import Session
    from moorline.identity.tokens import Claims, verify_token
    from moorline.identity.vendors import google, microsoft
    from moorline.identity.verification import Verification

__all__ = [
    "Assertion",
    "Claims",
    "Client",
    "Connection",
    "Connections",
    "DeviceCode",
    "DeviceFlow",
    "GitHub",
    "Google",
    "Identity",
    "Keeping",
    "KeyCache",
    "KeySet",
    "Microsoft",
    "OAuth",
    "OpenID",
    "OwnClient",
    "Provider",
    "Revocation",
    "Revoked",
    "Session",
    "Verification",
    "google",
    "microsoft",
    "verify_token",
]

_HOMES = {
    "Assertion": "grants",
    "Claims": "tokens",
    "Client": "oauth",
    "Connection": "connection",
    "Connections": "connections",
    "DeviceCode": "device",
    "DeviceFlow": "device",
    "GitHub": "ready",
    "Google": "ready",
    "Identity": "provider",
    "Keeping": "keys",
    "KeyCache": "keys",
    "KeySet": "keyset",
    "Microsoft": "ready",
    "OAuth": "oauth",
    "OpenID": "provider",
    "OwnClient": "grants",
    "Provider": "provider",
    "Revocation": "oauth",
    "Revoked": "connections",
    "Session": "sessions",
    "Verification": "verification",
    "google": "vendors",
    "microsoft": "vendors",
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
