"""Google and Microsoft as places where accounts are connected: one grant there opens many services.

For a service's class of theirs: ``oauth = google("https://www.googleapis.com/auth/devstorage.read_write")``.

Facts: signin/google.md and microsoft.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from moorline.errors import ConfigurationError
from moorline.identity.oauth import OAuth

__all__ = ["google", "microsoft"]

_TENANT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,252}")
_LONG: Final = "https://www.googleapis.com/auth/userinfo."


def google(*scopes: str, implies: Mapping[str, tuple[str, ...]] | None = None, **fields: Any) -> OAuth:
    """Accounts of Google, for *scopes*; *fields* are further ones of the record.

    Who it is the userinfo says (``sub``). A refresh token comes at a consent alone, so that each connection asks for
    one. What is granted already is granted with it (``include_granted_scopes``). The user may untick scopes. Answers
    have the long names of ``email`` and ``profile``.
    """
    names: dict[str, tuple[str, ...]] = {}
    for one in ("email", "profile"):
        names |= {one: (f"{_LONG}{one}",), f"{_LONG}{one}": (one,)}
    return OAuth(
        **{
            "authorize": "https://accounts.google.com/o/oauth2/v2/auth",
            "token": "https://oauth2.googleapis.com/token",
            "revoke": "https://oauth2.googleapis.com/revoke",
            "device": "https://oauth2.googleapis.com/device/code",
            "whoami": "https://openidconnect.googleapis.com/v1/userinfo",
            "account": "sub",
            "scopes": ("openid", *scopes),
            "implies": {**names, **(implies or {})},
            "parameters": {"access_type": "offline", "prompt": "consent", "include_granted_scopes": "true"},
            "client": "google",
            **fields,
        }
    )


def microsoft(*scopes: str, tenant: str = "common", **fields: Any) -> OAuth:
    """Accounts of Microsoft, for *scopes* of one resource, such as ``User.Read``; *tenant* is an id or domain,
    ``common``, ``organizations`` or ``consumers``. *fields* are further ones of the record.

    Who it is the userinfo says: ``sub``, which is this application's own name of the user. Each refresh gives a new
    refresh token, and does not take the old one back. There is no way to revoke a grant from here.

    Raises ConfigurationError for a *tenant* that is none.
    """
    if not _TENANT.fullmatch(tenant):
        raise ConfigurationError(f"microsoft: tenant {tenant!r} is none")
    base = f"https://login.microsoftonline.com/{tenant}/oauth2/v2.0"
    return OAuth(
        **{
            "authorize": f"{base}/authorize",
            "token": f"{base}/token",
            "device": f"{base}/devicecode",
            "whoami": "https://graph.microsoft.com/oidc/userinfo",
            "account": "sub",
            "scopes": ("openid", "offline_access", *scopes),
            # learn.microsoft.com/entra/identity-platform/v2-oauth2-auth-code-flow: an answer without either.
            "unlisted": ("openid", "offline_access"),
            "refreshes_scope": True,
            "ended": ("interaction_required",),
            "client": "microsoft",
            **fields,
        }
    )
