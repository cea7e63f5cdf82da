"""Access tokens that are fetched with a service's configured credential: which grants there are, and what they ask.

A service declares how with ``tokens``, a :class:`Grant`: :class:`ClientCredentials` (RFC 6749, section 4.4),
:class:`RefreshToken` (section 6) or :class:`ServiceAccount` (a signed JWT, RFC 7523). Where tokens are kept and when
they are renewed is in :mod:`.token_cache`.
"""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol
from urllib.parse import urlsplit

from moorline.calls.dialects import BearerKey, basic
from moorline.calls.exchange import Exchange
from moorline.calls.service import Service
from moorline.errors import BadAnswer, ConfigurationError
from moorline.secrets.secret import Secret

if TYPE_CHECKING:
    from moorline.calls.renewal import FetchedKey

__all__ = [
    "JWT_BEARER",
    "ClientCredentials",
    "Grant",
    "KeyFile",
    "RefreshToken",
    "Request",
    "ServiceAccount",
    "Token",
    "TokenService",
    "client_assertion",
    "key_file",
    "new_pair",
    "private_key",
    "sandbox_kid",
    "sandbox_pair",
    "signed_jwt",
    "token_of",
]

_ASSERTION: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_PROVES: Final = 180  # seconds
JWT_BEARER: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"


@dataclass(frozen=True, slots=True)
class Token:
    """An access token, and for how many seconds it is good. *site* is the address where it is to be used, if its answer
    names one, *successor* the refresh token that takes the place of the one that it was got with. *unsaved*: it could
    not be kept for other processes yet.
    """

    secret: Secret
    lasts: float
    site: str = ""
    successor: Secret | None = None
    unsaved: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """What asks for a token: the address, and the form (or *json*) and headers that prove who asks. *read* makes the
    token of the answer, where there is more to it than RFC 6749 says.
    """

    url: str
    form: Mapping[str, object] | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    json: Mapping[str, object] | None = field(default=None, repr=False)
    read: Callable[[Exchange], Token] | None = None


class Grant(Protocol):
    """How a service's configured credential is turned into a token."""

    def account(self, service: Service, secret: Secret) -> tuple[str, ...]:
        """What the token is for, beside the service and its credential: the address that gives it, the client, the
        rights. Objects of a service for which all that is equal share one token. Raises as ``request``.
        """
        ...

    def request(self, service: Service, secret: Secret, now: float) -> Request:
        """The request for a token at *now*, seconds since the epoch. Raises ConfigurationError for a bad credential."""
        ...


@dataclass(frozen=True, slots=True)
class ClientCredentials:
    """``grant_type=client_credentials`` at *path*, with the parameter named *client* and the key as its secret: by
    Basic authentication, or *as_json*, where the service wants all in a JSON body.
    """

    path: str
    client: str = "client_id"
    as_json: bool = False
    read: Callable[[Exchange], Token] | None = None

    def account(self, service: Service, secret: Secret) -> tuple[str, ...]:  # noqa: ARG002
        """The address, and the client."""
        return "client_credentials", service.base_url + self.path, getattr(service, self.client)

    def request(self, service: Service, secret: Secret, now: float) -> Request:  # noqa: ARG002
        """The request."""
        url, fields = service.base_url + self.path, {"grant_type": "client_credentials"}
        client = getattr(service, self.client)
        if self.as_json:
            return Request(url, json={**fields, "client_id": client, "client_secret": secret.reveal()}, read=self.read)
        return Request(url, fields, basic(client, secret), read=self.read)


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """``grant_type=refresh_token`` at *path*: the configured credential is the refresh token that a user's consent gave
    to an app, whose id and secret are the parameters *client* and *client_secret*.

    Where the answer brings another refresh token, that one is used from then on, in this process, and in all others of
    an application that has a database and an encryption key. A source of the credential that has a method ``rotated``
    is given it (a Secret), and keeps it itself. Without either, a service that ends the old token asks for the consent
    again after a restart. *single_use*: each use ends the old one, so none is spent while the next could not be kept.
    """

    path: str
    client: str = "client_id"
    client_secret: str = "client_secret"  # noqa: S105 (a parameter's name)
    as_json: bool = False
    read: Callable[[Exchange], Token] | None = None
    single_use: bool = False

    def account(self, service: Service, secret: Secret) -> tuple[str, ...]:  # noqa: ARG002
        """The address, and the app."""
        return "refresh_token", service.base_url + self.path, getattr(service, self.client)

    def request(self, service: Service, secret: Secret, now: float) -> Request:  # noqa: ARG002
        """The request; an app without a secret (its parameter is empty) sends none."""
        fields = {
            "grant_type": "refresh_token",
            "refresh_token": secret.reveal(),
            "client_id": getattr(service, self.client),
            "client_secret": getattr(service, self.client_secret),
        }
        given = {name: value for name, value in fields.items() if value}
        url = service.base_url + self.path
        return Request(url, json=given, read=self.read) if self.as_json else Request(url, given, read=self.read)


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """Google's key file of a service account: a JWT that its private key signs is exchanged for a token.

    The credential is the file's JSON (``client_email``, ``private_key``, ``private_key_id``, ``token_uri``), or its
    path. Source: google-auth 2.62.2, ``google/oauth2/_client.py`` and ``service_account.py``. Needs the extra ``jwt``.
    """

    scope: str
    lifetime: float = 3600.0

    def account(self, service: Service, secret: Secret) -> tuple[str, ...]:
        """The key, whoever's file it is in, the address and the scope. Raises as ``request``."""
        held = key_file(secret, service.name)
        return "service_account", held["token_uri"], held["client_email"], held["private_key_id"], self.scope

    def request(self, service: Service, secret: Secret, now: float) -> Request:
        """The request. Raises ConfigurationError, without its content, for a file that is no such key."""
        account = key_file(secret, service.name)
        claims = {
            "iss": account["client_email"],
            "scope": self.scope,
            "aud": account["token_uri"],
            "iat": int(now),
            "exp": int(now + self.lifetime),
        }
        header = {"alg": "RS256", "typ": "JWT", "kid": account["private_key_id"]}
        assertion = signed_jwt(header, claims, account["private_key"], service.name)
        form = {"grant_type": JWT_BEARER, "assertion": assertion}
        return Request(account["token_uri"], form)


@dataclass(frozen=True, slots=True)
class KeyFile:
    """The credential of a :class:`ServiceAccount`: the variable *env* holds the file's JSON, or its path.

    Requests carry the token that was got with it.
    """

    env: str
    service: str

    @property
    def sandbox(self) -> str:
        """A key file that the sandbox takes: made for this process, its ``private_key_id`` is its public key (DER)."""
        return _test_file(self.service)

    def headers(self, secret: Secret) -> dict[str, str]:
        """The header with the token."""
        return _BEARER.headers(secret)


_BEARER: Final = BearerKey(env="the access token")


@cache
def sandbox_pair() -> tuple[str, str]:
    """A private key in PEM, made for this process, and its public half, by which the sandbox checks what it signed:
    base64 of its DER. Whatever signs with it names that as ``kid``: see ``sandbox_kid``.
    """
    return new_pair()


def new_pair() -> tuple[str, str]:
    """Another such pair."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form, pem = serialization.PrivateFormat.PKCS8, serialization.Encoding.PEM
    public = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    private = key.private_bytes(pem, form, serialization.NoEncryption()).decode().strip()
    return private, base64.urlsafe_b64encode(public).decode()


def sandbox_kid(pem: str) -> str | None:
    """The ``kid`` of that key, if it is the sandbox's."""
    made = sandbox_pair() if sandbox_pair.cache_info().currsize else ("", "")
    return made[1] if pem == made[0] else None


@cache
def _test_file(service: str) -> str:
    private, public = sandbox_pair()
    return json.dumps(
        {
            "type": "service_account",
            "project_id": "moorline-sandbox",
            "private_key_id": public,
            "private_key": private,
            "client_email": "sandbox@moorline-sandbox.iam.gserviceaccount.com",
            "token_uri": f"{{sandbox}}/{service}/token",
        }
    )


def key_file(secret: Secret, service: str) -> Mapping[str, str]:
    """The fields of a service account's key file, from its JSON or its path; read anew when the file changes.

    Raises ConfigurationError, without its content.
    """
    text = secret.reveal().strip()
    try:
        changed = None if text.startswith("{") else Path(text).stat().st_mtime_ns
    except (OSError, ValueError) as error:
        why = type(error).__name__
        raise ConfigurationError(f"{service}: the key file of the service account cannot be read ({why})") from None
    return _read_key_file(secret, service, changed)


@lru_cache(maxsize=64)  # each call asks it for the project
def _read_key_file(secret: Secret, service: str, changed: int | None) -> Mapping[str, str]:
    text = secret.reveal().strip()
    try:
        if changed is not None:
            with Path(text).open(encoding="utf-8") as file:
                text = file.read(100_000)
        found = json.loads(text)
    except (OSError, ValueError) as error:
        why = type(error).__name__
        raise ConfigurationError(f"{service}: the key file of the service account cannot be read ({why})") from None
    needed = ("client_email", "private_key", "private_key_id", "token_uri")
    missing = [name for name in needed if not isinstance(found, dict) or not isinstance(found.get(name), str)]
    if missing:
        raise ConfigurationError(f"{service}: the key file of the service account has no {', '.join(missing)}")
    Secret(found["private_key"])  # it is masked from now on
    parts = urlsplit(found["token_uri"])
    if parts.scheme != "https" and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        raise ConfigurationError(f"{service}: the token_uri of the service account must be https")
    fields: Mapping[str, str] = found
    return fields


def private_key(secret: Secret, service: str) -> str:
    """A private key, from its PEM or the path of its file. Raises ConfigurationError, without its content."""
    held = secret.reveal().strip()
    if held.startswith("-----BEGIN"):
        return held
    try:
        with Path(held).open(encoding="utf-8") as file:
            held = file.read(100_000)
    except (OSError, ValueError) as error:
        why = type(error).__name__
        raise ConfigurationError(f"{service}: the private key cannot be read ({why})") from None
    if held.strip():
        Secret(held)  # it is masked from now on
    return held


def signed_jwt(header: Mapping[str, Any], claims: Mapping[str, Any], private_key: str, service: str) -> str:
    """A JWT that the RSA key (PEM) signs. Raises ConfigurationError for a key that is none, or without joserfc."""
    try:
        from joserfc import jwt
        from joserfc.errors import JoseError
    except ImportError as error:
        raise ConfigurationError(f"{service} signs tokens with joserfc; pip install 'moorline[jwt]'") from error
    try:
        return jwt.encode(dict(header), dict(claims), _rsa_key(private_key), algorithms=["RS256"])
    except (JoseError, ValueError, TypeError) as error:
        raise ConfigurationError(f"{service}: the private key cannot be used ({type(error).__name__})") from None


def client_assertion(client: str, audience: str, private_key: str, now: float, *, key_id: str = "") -> dict[str, str]:
    """The fields by which a client proves itself with its private key (RFC 7523, section 2.2), to *audience*.

    Raises as ``signed_jwt``.
    """
    claims = {"iss": client, "sub": client, "aud": audience, "iat": int(now), "exp": int(now) + _PROVES}
    header = {"alg": "RS256", **({"kid": key_id} if key_id else {})}
    made = signed_jwt(header, {**claims, "jti": str(uuid.uuid4())}, private_key, client)
    return {"client_assertion_type": _ASSERTION, "client_assertion": made}


@lru_cache(maxsize=8)  # to read one, and check it, takes 30 times as long as to sign with it
def _rsa_key(pem: str) -> Any:
    from joserfc.jwk import RSAKey

    return RSAKey.import_key(pem)


class TokenService(Service):
    """A service whose requests carry an access token, which ``tokens`` says how to get."""

    tokens: ClassVar[Grant]

    def without_token(self) -> Secret | None:
        """What is sent where no token is wanted, as an emulator does not; None where one is."""
        return None

    def _grant(self) -> Grant | None:
        """How this object gets its tokens, for services that have several ways; None where the credential is one."""
        return self.tokens

    def _fetching(self) -> FetchedKey | None:
        grant = self._grant()
        if grant is None:
            return None
        from moorline.calls.token_cache import Tokens

        return Tokens(self, grant)


def token_of(exchange: Exchange) -> Token:
    """The token of an answer as RFC 6749, section 5.1, has it; an hour where no ``expires_in`` is named.

    Raises BadAnswer.
    """
    answer = exchange.data
    if not isinstance(answer, dict) or not isinstance(answer.get("access_token"), str) or not answer["access_token"]:
        raise BadAnswer("the answer has no access_token")
    lasts = answer.get("expires_in", 3600)
    if isinstance(lasts, str) and lasts.isdecimal():
        lasts = int(lasts)
    if isinstance(lasts, bool) or not isinstance(lasts, (int, float)) or not 0 < lasts < 10**9:
        raise BadAnswer("the answer's expires_in is no number of seconds")
    successor = answer.get("refresh_token")
    return Token(
        Secret(answer["access_token"], name="the access token"),
        float(lasts),
        successor=Secret(successor, name="the refresh token") if isinstance(successor, str) and successor else None,
    )
