"""The providers that are ready: Google, GitHub and Microsoft, each with what its answers prove.

Facts: signin/google.md, github.md and microsoft.md.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal

from moorline.calls.dialects import base_address
from moorline.errors import ConfigurationError, SignInFailed
from moorline.identity.provider import Provider, text_of
from moorline.identity.tokens import Rules

__all__ = ["GitHub", "Google", "Microsoft"]


@dataclass(frozen=True, kw_only=True)
class Google(Provider):
    """Google. *hosted_domain* lets in the users of one Workspace alone: by the claim ``hd``, not by the address."""

    name: str = "google"
    issuer: str = "https://accounts.google.com"
    authorize: str = "https://accounts.google.com/o/oauth2/v2/auth"
    token: str = "https://oauth2.googleapis.com/token"  # noqa: S105 (an address)
    keys: str = "https://www.googleapis.com/oauth2/v3/certs"
    userinfo: str = "https://openidconnect.googleapis.com/v1/userinfo"
    hosted_domain: str | None = None

    stand_in: ClassVar[str] = "google_signin"

    def __post_init__(self) -> None:
        if self.hosted_domain is not None:  # a hint for its page, and no more
            object.__setattr__(self, "parameters", {"hd": self.hosted_domain, **self.parameters})
        super().__post_init__()

    def is_issuer(self, told: str) -> bool:
        """Two spellings are Google's."""
        return told in (self.issuer, self.issuer.removeprefix("https://"))

    def rules(self, client: str, claims: Mapping[str, Any]) -> Rules:  # noqa: ARG002
        """Both spellings of its issuer; RS256."""
        return Rules.of((self.issuer, self.issuer.removeprefix("https://")), client, algorithms="RS256")

    def proves_email(self, claims: Mapping[str, Any]) -> bool:
        """Of its own addresses, and of those of a Workspace. Any other was proved once, and may have changed hands."""
        own = str(claims.get("email", "")).lower().endswith("@gmail.com")
        return claims.get("email_verified") is True and (own or bool(text_of(claims.get("hd"))))

    def let_in(self, claims: Mapping[str, Any]) -> None:
        """Whoever is of the hosted domain, if one was named."""
        if self.hosted_domain is not None and claims.get("hd") != self.hosted_domain:
            raise SignInFailed("the user is not of the hosted domain", reason="tenant")


@dataclass(frozen=True, kw_only=True)
class GitHub(Provider):
    """GitHub, which is no OpenID provider: who the user is it says at ``/user`` and ``/user/emails``."""

    name: str = "github"
    authorize: str = "https://github.com/login/oauth/authorize"
    token: str = "https://github.com/login/oauth/access_token"  # noqa: S105 (an address)
    userinfo: str = "https://api.github.com/user"
    scopes: tuple[str, ...] = ("read:user", "user:email")
    emails: str = "https://api.github.com/user/emails"

    stand_in: ClassVar[str] = "github_signin"

    @property
    def title(self) -> str:
        """As GitHub writes it."""
        return "GitHub" if self.name == "github" else super().title

    def is_issuer(self, told: str) -> bool:
        """As Auth.js has it; whether GitHub sends it is unconfirmed."""
        return told == "https://github.com/login/oauth"

    @property
    def emails_at(self) -> str:
        """Where the user's addresses are."""
        return self.placed(self.emails)

    def subject(self, claims: Mapping[str, Any]) -> str:
        """The number: a login may change, and be taken by somebody else."""
        found = claims.get("id")
        if not isinstance(found, int) or isinstance(found, bool) or found <= 0:
            raise SignInFailed("the answer holds no id of a user", reason="answer")
        return str(found)

    def proves_email(self, claims: Mapping[str, Any]) -> bool:
        """``email`` is the primary and verified one of the list; the profile's own is not looked at."""
        return claims.get("email") is not None

    def with_emails(self, user: Any, emails: Any) -> dict[str, Any]:
        """What ``/user`` says, its ``email`` being the primary and verified address of ``/user/emails``, or None."""
        if not isinstance(user, dict):
            raise SignInFailed("the answer holds no user", reason="answer")
        listed = [one for one in emails if isinstance(one, dict)] if isinstance(emails, list) else []
        good = [one.get("email") for one in listed if one.get("primary") is True and one.get("verified") is True]
        named = text_of(user.get("name")) or text_of(user.get("login"))
        found = {**user, "email": text_of(good[0]) if good else None, "name": named}
        return found | {"picture": text_of(user.get("avatar_url"), 2000)}


_GUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_CONSUMERS: Final = "9188040d-6c67-4c5b-b112-36a304b66dad"
_MANY: Final = ("common", "organizations")
_EDOV: Final = (True, 1, "1", "true", "True")


@dataclass(frozen=True, kw_only=True)
class Microsoft(Provider):
    """Microsoft Entra ID and personal accounts.

    *tenant* is the GUID of yours (else ``MICROSOFT_TENANT_ID``), ``consumers``, or, for an application of many tenants,
    ``organizations`` or ``common``: these want *tenants*, the GUIDs that are let in, or ``"any"``. An e-mail address
    proves nothing here, as any tenant's administrator can set it to any; except of personal accounts, of the tenants
    that you *trust*, where ``xms_edov`` says that the domain's owner was verified, and where it is listed among the
    verified ones (optional claims).
    """

    name: str = "microsoft"
    issuer: str = "https://login.microsoftonline.com/{tenantid}/v2.0"
    scopes: tuple[str, ...] = ("openid", "profile", "email")
    tenant: str = ""
    tenants: tuple[str, ...] | Literal["any"] = ()
    trusted: tuple[str, ...] = ()
    host: str = "https://login.microsoftonline.com"

    stand_in: ClassVar[str] = "microsoft_signin"
    bound_keys: ClassVar[bool] = True

    def __post_init__(self) -> None:
        tenant = (self.tenant or os.environ.get("MICROSOFT_TENANT_ID", "")).strip().lower()
        if not tenant and self.in_sandbox:
            tenant = "common"
            object.__setattr__(self, "tenants", self.tenants or "any")
        if not _GUID.fullmatch(tenant) and tenant not in (*_MANY, "consumers"):
            raise ConfigurationError(
                f"{self.name}.tenant must be a GUID (or MICROSOFT_TENANT_ID), common, organizations or consumers"
            )
        if tenant in _MANY and not self.tenants:
            raise ConfigurationError(f"{self.name}.tenants must name the tenants that are let in, or be 'any'")
        for name in ("tenants", "trusted"):
            given = getattr(self, name)
            if given != "any" and (isinstance(given, str) or not all(_GUID.fullmatch(one.lower()) for one in given)):
                raise ConfigurationError(f"{self.name}.{name} must be GUIDs")
        root = f"{base_address(self.host, f'{self.name}.host')}/{tenant}"
        object.__setattr__(self, "issuer", f"{self.host.rstrip('/')}/{{tenantid}}/v2.0")
        object.__setattr__(self, "tenant", tenant)
        object.__setattr__(self, "authorize", f"{root}/oauth2/v2.0/authorize")
        object.__setattr__(self, "token", f"{root}/oauth2/v2.0/token")
        object.__setattr__(self, "keys", f"{root}/discovery/v2.0/keys")
        super().__post_init__()

    def is_issuer(self, told: str) -> bool:
        """The issuer of a tenant that is let in."""
        head, tail = self.issuer.split("{tenantid}")
        tid = told.removeprefix(head).removesuffix(tail)
        return told == f"{head}{tid}{tail}" and self._is_let_in(tid)

    def rules(self, client: str, claims: Mapping[str, Any]) -> Rules:
        """The issuer of the tenant that the token names, if it is let in; signed by a key of that issuer; five minutes,
        as Microsoft's own libraries have it.
        """
        tid = claims.get("tid")
        if not isinstance(tid, str) or not _GUID.fullmatch(tid):
            raise SignInFailed("the token names no tenant", reason="token")
        if not self._is_let_in(tid):
            raise SignInFailed("users of that tenant are not let in", reason="tenant")
        issuer = self.issuer.replace("{tenantid}", tid)
        return Rules(frozenset({issuer}), frozenset({client}), frozenset({"RS256"}), 300.0, bound_keys=True)

    def subject(self, claims: Mapping[str, Any]) -> str:
        """Tenant and object: ``sub`` is another one for each application."""
        tid, oid = claims.get("tid"), claims.get("oid")
        if not isinstance(oid, str) or not _GUID.fullmatch(oid.lower()):
            raise SignInFailed("the token names no user (oid): ask for the scope profile", reason="token")
        return f"{tid}.{oid.lower()}"

    def proves_email(self, claims: Mapping[str, Any]) -> bool:
        """See the class. There is no ``email_verified``; a claim of that name is not looked at."""
        tid, email = claims.get("tid"), str(claims.get("email", "")).lower()
        if tid == _CONSUMERS or tid in {one.lower() for one in self.trusted}:
            return True
        if any(claims.get("xms_edov") == one and "xms_edov" in claims for one in _EDOV):
            return True
        listed = [claims.get(name) for name in ("verified_primary_email", "verified_secondary_email")]
        return any(email in [str(known).lower() for known in one] for one in listed if isinstance(one, list))

    def _is_let_in(self, tid: str) -> bool:
        if _GUID.fullmatch(self.tenant):
            return tid == self.tenant
        if self.tenant == "consumers":
            return tid == _CONSUMERS
        if not _GUID.fullmatch(tid) or (self.tenant == "organizations" and tid == _CONSUMERS):
            return False
        return self.tenants == "any" or tid in {one.lower() for one in self.tenants}
