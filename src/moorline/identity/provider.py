"""``Provider``: who signs users in. A record of where it is asked and how, and of what its answers prove.

``OpenID("okta", issuer="https://…")`` is any OpenID provider (Okta, Auth0, Keycloak, …), by its discovery document
alone; Google, GitHub and Microsoft are in :mod:`.ready`. Nothing here is sent or received.

Facts: OpenID Connect Core 1.0 and Discovery 1.0; RFC 6749, 9207.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Final, Literal, TypeAlias
from urllib.parse import urlsplit

from moorline.calls.dialects import base_address
from moorline.errors import BadAnswer, ConfigurationError, SignInFailed
from moorline.identity.tokens import LEEWAY, Rules
from moorline.secrets.locker import secrets
from moorline.secrets.secret import Secret

__all__ = ["Identity", "OpenID", "Places", "Provider", "TokenAuthentication", "text_of"]

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
    def pkce(self) -> bool:
        """Whether it knows PKCE (RFC 7636)."""
        return True

    def asking(self, scopes: Iterable[str]) -> dict[str, str]:
        """The parameter that asks for *scopes*."""
        return {"scope": " ".join(scopes)}

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
        found = secrets().load(variable)
        if found is None and self.in_sandbox:
            found = Secret("sandbox-secret", name=f"the sandbox secret of {self.name}")
        if found is None:
            raise ConfigurationError(f"{self.name} has no client secret: set {variable} in {secrets().where(variable)}")
        return found

    @property
    def places(self) -> Places | None:
        """Where it is asked; None where its discovery document has to be read."""
        if not self.authorize or not self.token:
            return None
        at = self.placed
        return Places(
            self.issuer, at(self.authorize), at(self.token), at(self.keys), at(self.userinfo), self.answers_issuer,
            self.authentication or "post",
        )  # fmt: skip

    @property
    def discovery(self) -> str:
        """The address of its discovery document."""
        return f"{self.issuer.rstrip('/')}/.well-known/openid-configuration"

    def placed(self, address: str) -> str:
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
        email = text_of(claims.get("email"))
        return Identity(
            self.name,
            self.subject(claims),
            email,
            email is not None and self.proves_email(claims),
            text_of(claims.get("name")),
            text_of(claims.get("picture"), 2000),
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


def text_of(value: object, longest: int = _LONGEST) -> str | None:
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
