"""Accounts that open without a consent page: by a client of the owner's own, or by what our key signs.

``OwnClient`` is the grant of RFC 6749, section 4.4: a tenant gives us the id and secret (or the private key) of a
client that it has made at the service. ``Assertion`` is that of RFC 7523, section 2.1: a key signs that we act for a
subject, who, or whose administrator, has allowed it there. Neither has a refresh token: the token is asked for anew.

What opens such an account is kept in its connection, encrypted with the tokens, so that it is renewed, found, ended and
forgotten as any other: see :func:`connect`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias
from urllib.parse import quote_plus

from moorline.calls.dialects import base_address, basic
from moorline.calls.tokens import JWT_BEARER, client_assertion, private_key, sandbox_kid, signed_jwt
from moorline.errors import ConfigurationError, DecryptionFailed
from moorline.identity.connection import Connection, Granted, Tokens
from moorline.identity.flow import TokenRequest
from moorline.identity.provider import TokenAuthentication
from moorline.secrets.secret import Secret
from moorline.store.steps import perform, perform_sync

if TYPE_CHECKING:
    from moorline.calls.call import Call
    from moorline.identity.connector import ConnectDesk
    from moorline.identity.vault import Vault

__all__ = ["Assertion", "Grant", "Ours", "OwnClient", "connect", "connect_sync", "grant_of"]

_LIFETIME: Final = 180  # seconds: Salesforce takes three minutes at most
_LONGEST: Final = 500


@dataclass(frozen=True, slots=True)
class Ours:
    """Of the application at the service: how clients prove themselves there, and its own credential."""

    authentication: TokenAuthentication
    credential: Callable[[], Secret]


@dataclass(frozen=True, slots=True)
class OwnClient:
    """The client *id* that an owner has made at the service, with its *secret*, or the private *key* (PEM, RSA) of
    which the service knows the public half (``private_key_jwt``, RFC 7523, section 2.2; *key_id* is its name there,
    *audience* whom the service wants to be named, if not the address). *token* is the address where tokens are had, if
    it is another than the service's.
    """

    kind: ClassVar[str] = "client_credentials"
    id: str
    secret: Secret | None = None
    key: Secret | None = None
    key_id: str = ""
    audience: str = ""
    token: str = ""
    scopes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.secret is None) == (self.key is None):
            raise ConfigurationError("OwnClient: give the secret or the key of the client")
        _check(self.id, "OwnClient.id", self.token)

    def request(self, url: str, scope: str, now: float, ours: Ours) -> TokenRequest:
        """The request at *url*. Raises ConfigurationError for a key that cannot be used."""
        form = {"grant_type": "client_credentials", **({"scope": scope} if scope else {})}
        headers = {"Accept": "application/json"}
        if self.key is not None:
            pem, audience = private_key(self.key, "OwnClient"), self.audience or url
            proof = client_assertion(self.id, audience, pem, now, key_id=self.key_id)
            return TokenRequest(url, {**form, "client_id": self.id, **proof}, headers)
        assert self.secret is not None
        if ours.authentication == "basic":
            headers |= basic(quote_plus(self.id), Secret(quote_plus(self.secret.reveal())))
            return TokenRequest(url, form, headers)
        return TokenRequest(url, {**form, "client_id": self.id, "client_secret": self.secret.reveal()}, headers)

    def to_data(self) -> dict[str, Any]:
        """In the clear: to be encrypted at once."""
        return {
            "kind": self.kind, "id": self.id, "secret": _shown(self.secret), "key": _shown(self.key),
            "key_id": self.key_id, "audience": self.audience, "token": self.token, "scopes": list(self.scopes),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Assertion:
    """What *key* (PEM, RSA) signs: that *issuer* (as a rule the id of our client) acts for *subject*, to the *audience*
    that the service wants to be named. Without a *key* it is the application's own credential for the service, whatever
    that is at the time. *key_id* is what the service calls the key; *claims* are further ones.
    """

    kind: ClassVar[str] = "jwt_bearer"
    issuer: str
    subject: str
    audience: str
    key: Secret | None = None
    key_id: str = ""
    token: str = ""
    scopes: tuple[str, ...] = ()
    claims: Mapping[str, Any] = field(default_factory=dict)
    lifetime: int = _LIFETIME

    def __post_init__(self) -> None:
        _check(self.issuer, "Assertion.issuer", self.token)
        _check(self.subject, "Assertion.subject")

    def request(self, url: str, scope: str, now: float, ours: Ours) -> TokenRequest:
        """As ``OwnClient.request``: the assertion says who we are, too."""
        pem = private_key(self.key or ours.credential(), "Assertion")
        name = self.key_id or sandbox_kid(pem)
        header = {"alg": "RS256", "typ": "JWT", **({"kid": name} if name else {})}
        times = {"iat": int(now), "exp": int(now) + self.lifetime}
        claims = {**self.claims, "iss": self.issuer, "sub": self.subject, "aud": self.audience, **times}
        form = {"grant_type": JWT_BEARER, "assertion": signed_jwt(header, claims, pem, "Assertion")}
        return TokenRequest(url, {**form, **({"scope": scope} if scope else {})}, {"Accept": "application/json"})

    def to_data(self) -> dict[str, Any]:
        """In the clear: to be encrypted at once."""
        return {
            "kind": self.kind, "issuer": self.issuer, "subject": self.subject, "audience": self.audience,
            "key": _shown(self.key), "key_id": self.key_id, "token": self.token, "scopes": list(self.scopes),
            "claims": dict(self.claims), "lifetime": self.lifetime,
        }  # fmt: skip


Grant: TypeAlias = OwnClient | Assertion
_KINDS: Final[Mapping[str, type[Grant]]] = {one.kind: one for one in (OwnClient, Assertion)}


def grant_of(tokens: Tokens) -> Grant | None:
    """What opens the account of these *tokens*; None for one that its owner has consented to. Raises DecryptionFailed
    for what this version does not know.
    """
    if tokens.grant is None:
        return None
    told = dict(tokens.grant)
    kind = _KINDS.get(str(told.pop("kind", "")))
    if kind is None:
        raise DecryptionFailed("what opens this account is not known to this version")
    for name in ("secret", "key"):
        if told.get(name) is not None:
            told[name] = Secret(told[name], name=f"the {name} of an account's client")
    try:
        return kind(**{**told, "scopes": tuple(told.get("scopes", ()))})
    except (TypeError, ConfigurationError) as error:
        raise DecryptionFailed(f"what opens this account cannot be read ({type(error).__name__})") from None


async def connect(
    vault: Vault, desk: ConnectDesk, owner: str, grant: Grant, *, account: str = "", scopes: Iterable[str] = ()
) -> Connection:
    """Open the account by *grant*, and keep it as a connection of *owner*: from now on it is renewed like any other.
    *account* is what it is called, if the service's answer does not say; *scopes* are asked for besides the record's.

    Raises CallError where the service does not take it (then nothing is kept), ConfigurationError, StoreError.
    """
    return await perform(vault.store, _connected(vault, desk, owner, _with(grant, desk, scopes), account))


def connect_sync(
    vault: Vault, desk: ConnectDesk, owner: str, grant: Grant, *, account: str = "", scopes: Iterable[str] = ()
) -> Connection:
    """As ``connect``, blocking."""
    return perform_sync(vault.store, _connected(vault, desk, owner, _with(grant, desk, scopes), account))


def _with(grant: Grant, desk: ConnectDesk, scopes: Iterable[str]) -> Grant:
    return replace(grant, scopes=desk.oauth.asking(grant.scopes, scopes))


def _connected(
    vault: Vault, desk: ConnectDesk, owner: str, grant: Grant, account: str
) -> Generator[Any, Any, Connection]:
    json.dumps(grant.to_data())  # raises now, and not when it is kept, for claims that are no JSON
    granted: Granted = yield _Ask(desk.opened(grant))
    if granted.scopes is None:
        granted = replace(granted, scopes=frozenset(grant.scopes))
    name = account or (grant.id if isinstance(grant, OwnClient) else grant.subject)
    return (yield from vault.keeping(owner, desk.provider.name, granted, account=name))


@dataclass(frozen=True, slots=True)
class _Ask:
    call: Call[Granted]

    def now(self, _: object) -> Granted:
        return self.call.result()

    async def later(self, _: object) -> Granted:
        return await self.call


def _shown(secret: Secret | None) -> str | None:
    return None if secret is None else secret.reveal()


def _check(value: str, name: str, token: str = "") -> None:
    if not 0 < len(value) <= _LONGEST or not value.isprintable():
        raise ConfigurationError(f"{name} must be a text of 1 to {_LONGEST} characters")
    if token:
        base_address(token, "token")
