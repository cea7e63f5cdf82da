"""Access tokens: fetched with a service's configured credential, kept in memory, and renewed before they end.

A service declares how with ``tokens``, a :class:`Grant`: :class:`ClientCredentials` (RFC 6749, section 4.4),
:class:`RefreshToken` (section 6) or :class:`ServiceAccount` (a signed JWT, RFC 7523). The request for a token has a
breaker and limits of its own, so that a token endpoint that is down is told apart from a service that is.
"""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol
from urllib.parse import urlsplit

from moorline import telemetry
from moorline.calls.call import Call
from moorline.calls.dialects import BearerKey, Endpoints, basic
from moorline.calls.exchange import Exchange
from moorline.calls.faults import ErrorMap
from moorline.calls.service import Service
from moorline.errors import AuthenticationFailed, BadAnswer, CallError, ConfigurationError, InvalidRequest
from moorline.policies.policy import Policy
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
    "Tokens",
    "key_file",
    "new_pair",
    "private_key",
    "sandbox_kid",
    "sandbox_pair",
    "signed_jwt",
    "token_of",
]

_EARLY: Final = 300.0  # seconds before its end from which a token is renewed, or a tenth of its life if that is less
_AGAIN_AFTER: Final = 30.0
JWT_BEARER: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_PATIENCE: Final = Policy(deadline=15.0, attempt_timeout=5.0)
_log: Final = telemetry.logger("calls")


@dataclass(frozen=True, slots=True)
class Token:
    """An access token, and for how many seconds it is good. *site* is the address where it is to be used, if its answer
    names one, *successor* the refresh token that takes the place of the one that it was got with.
    """

    secret: Secret
    lasts: float
    site: str = ""
    successor: Secret | None = None


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

    Where the answer brings another refresh token, that one is used from then on, as long as this object lives. A source
    of the credential that has a method ``rotated`` is given it (a Secret), to keep it for other processes: without one,
    a service that ends the old token asks for the consent again after a restart.
    """

    path: str
    client: str = "client_id"
    client_secret: str = "client_secret"  # noqa: S105 (a parameter's name)
    as_json: bool = False
    read: Callable[[Exchange], Token] | None = None

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


@lru_cache(maxsize=8)  # to read one, and check it, takes 30 times as long as to sign with it
def _rsa_key(pem: str) -> Any:
    from joserfc.jwk import RSAKey

    return RSAKey.import_key(pem)


class TokenService(Service):
    """A service whose requests carry an access token, which ``tokens`` says how to get."""

    tokens: ClassVar[Grant]

    def _grant(self) -> Grant | None:
        """How this object gets its tokens, for services that have several ways; None where the credential is one."""
        return self.tokens

    def _fetching(self) -> FetchedKey | None:
        grant = self._grant()
        return None if grant is None else Tokens(self, grant)


class _Endpoint(Service):
    """The place where tokens are had, as a service of its own: its failures do not count against the other."""

    category = "tokens"
    endpoints = Endpoints("https://tokens.invalid")  # never used: each request names its own
    credentials = BearerKey(env="")
    errors = ErrorMap(
        code="error|category|status",  # HubSpot's are as its other errors
        message="error_description|message",
        kinds={
            **dict.fromkeys(("invalid_client", "invalid_grant", "unauthorized_client"), AuthenticationFailed),
            **dict.fromkeys(("invalid_request", "invalid_scope", "unsupported_grant_type"), InvalidRequest),
        },
        statuses={400: AuthenticationFailed},  # in words of its own: what it was shown is all that there is to refuse
    )

    def __init__(self, owner: Service, origin: str) -> None:
        self.name = owner.name  # type: ignore[misc]
        options = {"guards": owner.guards, "clock": owner.clock, "wire": owner.wire, "addresses": owner.addresses}
        super().__init__(policy=_PATIENCE, max_body=100_000, base_url=origin, **options)  # type: ignore[arg-type]

    def _guard_name(self, base: str) -> str:
        return f"{super()._guard_name(base)} tokens"

    def key(self) -> Secret:
        """None: the request proves itself."""
        return _NOTHING

    def authorized(
        self,
        key: Secret,  # noqa: ARG002
        method: str,  # noqa: ARG002
        url: str,  # noqa: ARG002
        headers: dict[str, str],
        body: bytes | None,  # noqa: ARG002
    ) -> dict[str, str]:
        """*headers* themselves."""
        return headers

    def asked(self, request: Request) -> Call[Token]:
        """The Call that fetches a token."""
        plan = self.post(
            request.url,
            form=request.form,
            json=request.json,
            headers=request.headers,
            parse=request.read or token_of,
            repeatable=True,
        )
        return Call.of(self, "token", plan, (), {})


_NOTHING: Final = Secret("none: the request proves itself")


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


@dataclass(frozen=True, slots=True)
class _Held:
    token: Token
    made_of: Secret
    until: float  # on the monotonic clock
    early: float


class Tokens:
    """The token of one service: fetched once for all who wait on a loop or a lock, anew when the credential changes.

    From five minutes before its end (or the last tenth of its life) a new one is fetched; as long as that fails, the
    old one serves until it ends.
    """

    def __init__(self, owner: Service, grant: Grant) -> None:
        self._owner = owner
        self._grant = grant
        self._endpoints: dict[str, _Endpoint] = {}  # by their origins
        self._held: _Held | None = None
        self._followed: tuple[Secret, Secret] | None = None  # the configured refresh token, and what came in its place
        self._tried = -_AGAIN_AFTER
        self._blocking = threading.Lock()
        self._waiting: tuple[asyncio.AbstractEventLoop, asyncio.Lock] | None = None

    def current(self) -> Secret:
        """The token that was fetched last. Raises ConfigurationError where none was."""
        if self._held is None:
            raise ConfigurationError(f"{self._owner.name} has no access token yet")
        return self._held.token.secret

    @property
    def site(self) -> str:
        """Where the token that was fetched last is to be used; empty where its answer did not say."""
        return "" if self._held is None else self._held.token.site

    def ready(self) -> None:
        """Fetch a token unless there is one that is good. Raises CallError, ConfigurationError."""
        if not self._wanted():
            return
        with self._blocking:
            if not self._wanted():
                return
            try:
                secret, call = self._asking()
                try:
                    token = call.result()
                except AuthenticationFailed:
                    if not self._owner.refused(secret):
                        raise
                    secret, call = self._asking()  # with another accepted version of the credential
                    token = call.result()
                self._keep(secret, token)
            except CallError as error:
                self._endure(error)

    async def ready_async(self) -> None:
        """As ``ready``, on an event loop."""
        if not self._wanted():
            return
        async with self._lock():
            if not self._wanted():
                return
            try:
                secret, call = self._asking()
                try:
                    token = await call
                except AuthenticationFailed:
                    if not self._owner.refused(secret):
                        raise
                    secret, call = self._asking()  # with another accepted version of the credential
                    token = await call
                self._keep(secret, token)
            except CallError as error:
                self._endure(error)

    def newer(self, refused: Secret, timeout: float | None = None) -> bool:  # noqa: ARG002 (bounded by its deadline)
        """Whether there is another token than *refused*, which the service would not take."""
        self._drop(refused)
        self.ready()
        return self.current() != refused

    async def newer_async(self, refused: Secret) -> bool:
        """As ``newer``, on an event loop."""
        self._drop(refused)
        await self.ready_async()
        return self.current() != refused

    def close(self) -> None:
        """Close the connections of blocking calls."""
        for endpoint in self._endpoints.values():
            endpoint.close()

    async def aclose(self) -> None:
        """Close all connections."""
        for endpoint in self._endpoints.values():
            await endpoint.aclose()

    def _drop(self, refused: Secret) -> None:
        """A token that was refused right after it was made is no old one: the storm would only move there."""
        held = self._held
        now = self._owner.clock.monotonic()
        if held is not None and held.token.secret == refused and now >= self._tried + _AGAIN_AFTER:
            self._held = _Held(held.token, held.made_of, now, held.early)

    def _wanted(self) -> bool:
        held, now = self._held, self._owner.clock.monotonic()
        if held is None or now >= held.until or self._outdated(held):
            return True
        return now >= held.until - held.early and now >= self._tried + _AGAIN_AFTER

    def _endure(self, error: CallError) -> None:
        """Go on with a token that is not over yet. Raises *error* where there is none."""
        held = self._held
        if held is None or self._owner.clock.monotonic() >= held.until or self._outdated(held):
            raise error
        _log.warning("token_not_renewed", service=self._owner.name, reason=error.message)

    def _outdated(self, held: _Held) -> bool:
        """Whether another credential is configured now: not one that only keeps what came in the place of the first."""
        secret = self._owner.secret()
        return held.made_of != secret and self._followed != (held.made_of, secret)

    def _asking(self) -> tuple[Secret, Call[Token]]:
        self._tried = self._owner.clock.monotonic()
        secret = self._owner.secret()
        newest = self._followed[1] if self._followed is not None and self._followed[0] == secret else secret
        request = self._grant.request(self._owner, newest, self._owner.clock.wall())
        parts = urlsplit(request.url)
        origin = f"{parts.scheme}://{parts.netloc}"
        if origin not in self._endpoints:
            self._endpoints[origin] = _Endpoint(self._owner, origin)
        return secret, self._endpoints[origin].asked(request)

    def _keep(self, secret: Secret, token: Token) -> None:
        if secret.tally is not None:
            secret.tally.worked(self._owner.clock.wall())
        early = min(_EARLY, token.lasts / 10)
        self._held = _Held(token, secret, self._tried + token.lasts, early)
        if token.successor is None or token.successor == secret:
            return
        known = self._followed
        self._followed = secret, token.successor
        if known != self._followed:
            self._owner.renewed_credential(token.successor)

    def _lock(self) -> asyncio.Lock:
        loop = asyncio.get_running_loop()
        if self._waiting is None or self._waiting[0] is not loop:
            self._waiting = loop, asyncio.Lock()
        return self._waiting[1]
