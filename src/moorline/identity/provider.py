"""``Provider``: who signs users in. A record of where it is asked and how, and of what its answers prove.

``Google``, ``GitHub`` and ``Microsoft`` are ready; ``OpenID("okta", issuer="https://…")`` is any other OpenID provider
(Okta, Auth0, Keycloak, …), by its discovery document alone. Nothing here is sent or received.

Facts: the cards of Google's, GitHub's and Microsoft's sign-in; OpenID Connect Core 1.0, Discovery 1.0; RFC 9207.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Final, Literal, TypeAlias
from urllib.parse import urlsplit

from moorline.calls.dialects import base_address
from moorline.errors import BadAnswer, ConfigurationError, SignInFailed
from moorline.identity.tokens import LEEWAY, Rules
from moorline.secrets.secret import Secret
from moorline.secrets.sources import environment

__all__ = ["GitHub", "Google", "Identity", "Microsoft", "OpenID", "Places", "Provider", "TokenAuthentication"]

TokenAuthentication: TypeAlias = Literal["basic", "post", "none"]

_SANDBOX: Final = "MOORLINE_SANDBOX_URL"
_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_LONGEST: Final = 500
_LONGEST_SUBJECT: Final = 255  # OpenID Connect Core, section 2
_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})
_RESERVED: Final = frozenset(
    {"client_id", "redirect_uri", "response_type", "scope", "state", "nonce", "code_challenge", "code_challenge_method",
     "response_mode", "request", "request_uri"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Identity:
    """Who has signed in: a *subject* of a *provider*, which is the same at each sign-in and never another's.

    *email* may be anybody's unless *email_proved*: then the provider has made sure that it is this user's, and answers
    for it. Never tell users apart by an e-mail address or a name. *claims* is all that was said. *adds_to* is the user
    who, being signed in, has asked that this account be theirs too.
    """

    provider: str
    subject: str
    email: str | None = None
    email_proved: bool = False
    name: str | None = None
    picture: str | None = None
    claims: Mapping[str, Any] = field(default_factory=dict)
    adds_to: str | None = None

    def __repr__(self) -> str:
        return f"<Identity of {self.provider}>"


@dataclass(frozen=True, slots=True)
class Places:
    """Where a provider is asked. *answers_issuer*: it promises to name itself in each answer (RFC 9207)."""

    issuer: str
    authorize: str
    token: str
    keys: str
    userinfo: str = ""
    answers_issuer: bool = False
    authentication: TokenAuthentication = "basic"


@dataclass(frozen=True, kw_only=True)
class Provider:
    """A provider with explicit places. *name* is the word in our routes and the prefix of its variables:
    ``GOOGLE_CLIENT_ID``, ``GOOGLE_CLIENT_SECRET``.

    *issuer* is what its ID tokens say; without one it is no OpenID provider, and says who the user is by *userinfo*.
    *authentication* is how the client proves itself at *token*; ``none`` is for public clients. *parameters* are added
    to each request to sign in. With *max_age* (seconds) the user must have signed in there within that time.

    Raises ConfigurationError naming the argument.
    """

    name: str
    issuer: str = ""
    authorize: str = ""
    token: str = ""
    keys: str = ""
    userinfo: str = ""
    scopes: tuple[str, ...] = ("openid", "email", "profile")
    authentication: TokenAuthentication | None = None
    parameters: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    client_id: str | None = None
    client_secret: Secret | str | None = field(default=None, repr=False)
    answers_issuer: bool = False
    max_age: int | None = None

    stand_in: ClassVar[str] = ""
    """The sandbox's name of it."""
    bound_keys: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigurationError(f"provider: name {self.name!r} must be lower-case letters, digits, - and _")
        if isinstance(self.client_secret, str):
            object.__setattr__(self, "client_secret", Secret(self.client_secret, name=f"{self.name}.client_secret"))
        if taken := sorted(_RESERVED & self.parameters.keys()):
            raise ConfigurationError(f"{self.name}.parameters: {', '.join(taken)} cannot be set")
        if self.max_age is not None and self.max_age < 0:
            raise ConfigurationError(f"{self.name}.max_age must be seconds, not {self.max_age!r}")
        if self.openid and "openid" not in self.scopes:
            raise ConfigurationError(f"{self.name}.scopes must have openid among them")
        for name in ("authorize", "token", "keys", "userinfo"):
            if address := getattr(self, name):
                base_address(address, f"{self.name}.{name}")

    @property
    def openid(self) -> bool:
        """Whether it gives ID tokens."""
        return bool(self.issuer)

    @property
    def title(self) -> str:
        """Its name for people."""
        return self.name.replace("_", " ").title()

    @property
    def in_sandbox(self) -> bool:
        """Whether the environment points it at the sandbox."""
        return bool(self.stand_in and os.environ.get(_SANDBOX))

    @property
    def variables(self) -> tuple[str, str]:
        """The variables of the client's id and secret."""
        prefix = self.name.upper().replace("-", "_")
        return f"{prefix}_CLIENT_ID", f"{prefix}_CLIENT_SECRET"

    def client(self) -> str:
        """The id of our client there. Raises ConfigurationError, saying where it was looked for."""
        variable = self.variables[0]
        found = self.client_id or os.environ.get(variable, "").strip() or (self.in_sandbox and "sandbox-client")
        if not found:
            raise ConfigurationError(f"{self.name} has no client id: set {variable} in the environment")
        return str(found)

    def secret(self) -> Secret:
        """Its secret, the newest of several. Raises as ``client``."""
        if isinstance(self.client_secret, Secret):
            return self.client_secret
        variable = self.variables[1]
        found = environment.load(variable)
        if found is None and self.in_sandbox:
            found = Secret("sandbox-secret", name=f"the sandbox secret of {self.name}")
        if found is None:
            raise ConfigurationError(f"{self.name} has no client secret: set {variable} in the environment")
        return found

    @property
    def places(self) -> Places | None:
        """Where it is asked; None where its discovery document has to be read."""
        if not self.authorize or not self.token:
            return None
        at = self._placed
        return Places(
            self.issuer, at(self.authorize), at(self.token), at(self.keys), at(self.userinfo), self.answers_issuer,
            self.authentication or "post",
        )  # fmt: skip

    @property
    def discovery(self) -> str:
        """The address of its discovery document."""
        return f"{self.issuer.rstrip('/')}/.well-known/openid-configuration"

    def _placed(self, address: str) -> str:
        """*address*, or the one that stands in for it in the sandbox."""
        if not address or not self.in_sandbox:
            return address
        base = base_address(os.environ[_SANDBOX], _SANDBOX)
        return f"{base}/{self.stand_in}{urlsplit(address).path}"

    def discovered(self, document: Any) -> Places:
        """The places in a discovery document. Raises BadAnswer for one of another issuer, or without what is needed."""
        if not isinstance(document, dict) or document.get("issuer") != self.issuer:
            raise BadAnswer(f"the discovery document is not that of {self.name}: its issuer is another one")
        found = {}
        names = {"authorize": "authorization_endpoint", "token": "token_endpoint", "keys": "jwks_uri"}
        for ours, theirs in (names | {"userinfo": "userinfo_endpoint"}).items():
            value = document.get(theirs, "")
            if not value and ours not in names:
                found[ours] = ""
                continue
            address = value if isinstance(value, str) and value.isprintable() else ""
            try:
                base_address(address.partition("?")[0], theirs)  # a query may be there (RFC 6749, section 3.1)
            except ConfigurationError as error:
                raise BadAnswer(f"the discovery document of {self.name} is of no use: {error}") from None
            found[ours] = address
        if "S256" not in _listed(document, "code_challenge_methods_supported", "S256"):
            raise BadAnswer(f"{self.name} does not know PKCE with S256")
        promised = document.get("authorization_response_iss_parameter_supported") is True or self.answers_issuer
        methods = _listed(document, "token_endpoint_auth_methods_supported", "client_secret_basic")
        usual: TokenAuthentication = "post" if "client_secret_basic" not in methods else "basic"
        return Places(self.issuer, **found, answers_issuer=promised, authentication=self.authentication or usual)

    # --- what answers prove

    def is_issuer(self, told: str) -> bool:
        """Whether the ``iss`` of an answer is this provider."""
        return told == self.issuer

    def rules(self, client: str, claims: Mapping[str, Any]) -> Rules:  # noqa: ARG002 (for those with many issuers)
        """What its ID token has to be, which says *claims* of itself. Raises SignInFailed."""
        return Rules.of(self.issuer, client, leeway=LEEWAY)

    def subject(self, claims: Mapping[str, Any]) -> str:
        """Who it is that *claims* speak of, among all of this provider. Raises SignInFailed."""
        return _subject(claims.get("sub"))

    def proves_email(self, claims: Mapping[str, Any]) -> bool:
        """Whether the provider answers for the e-mail address in *claims*."""
        return claims.get("email_verified") is True

    def let_in(self, claims: Mapping[str, Any]) -> None:
        """Raises SignInFailed for one who may not sign in here."""

    def identity(self, claims: Mapping[str, Any]) -> Identity:
        """Who has signed in, by claims that were verified. Raises SignInFailed."""
        self.let_in(claims)
        email = _text(claims.get("email"))
        return Identity(
            self.name,
            self.subject(claims),
            email,
            email is not None and self.proves_email(claims),
            _text(claims.get("name")),
            _text(claims.get("picture"), 2000),
            MappingProxyType(dict(claims)),
        )


@dataclass(frozen=True)
class OpenID(Provider):
    """An OpenID provider, by its *issuer* alone: ``OpenID("okta", issuer="https://dev-1.okta.com")``. The issuer is
    compared to the letter. Set *trusts_email* to False where users can have addresses marked as verified that are not.
    """

    name: str
    issuer: str = field(kw_only=True)
    trusts_email: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        base_address(self.issuer, f"{self.name}.issuer")
        super().__post_init__()

    def proves_email(self, claims: Mapping[str, Any]) -> bool:
        """As the provider says, if it is believed."""
        return self.trusts_email and super().proves_email(claims)


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
        return claims.get("email_verified") is True and (own or bool(_text(claims.get("hd"))))

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

    def is_issuer(self, told: str) -> bool:
        """As Auth.js has it; whether GitHub sends it is unconfirmed."""
        return told == "https://github.com/login/oauth"

    @property
    def emails_at(self) -> str:
        """Where the user's addresses are."""
        return self._placed(self.emails)

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
        named = _text(user.get("name")) or _text(user.get("login"))
        found = {**user, "email": _text(good[0]) if good else None, "name": named}
        return found | {"picture": _text(user.get("avatar_url"), 2000)}


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


def _text(value: object, longest: int = _LONGEST) -> str | None:
    """A text of one line that can be shown; None for anything else."""
    return value if isinstance(value, str) and value.isprintable() and 0 < len(value) <= longest else None


def _listed(document: Mapping[str, Any], name: str, usual: str) -> list[Any]:
    """The words of a list in a discovery document; where there is none, the usual one."""
    found = document.get(name, [usual])
    return found if isinstance(found, list) else []


def _subject(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_SUBJECT or not value.isprintable():
        raise SignInFailed("the answer names no subject", reason="answer")
    return value
