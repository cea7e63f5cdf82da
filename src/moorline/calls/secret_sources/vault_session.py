"""Who we are to HashiCorp Vault or OpenBao: a token that was given, or one for which we log in; kept alive.

Facts: services/secrets/vault.md; contract: vault.json.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Final, TypeVar

from moorline.calls.call import Call
from moorline.calls.dialects import BearerKey, Endpoints, UnheadedKey
from moorline.calls.exchange import Exchange, Plan
from moorline.calls.faults import ErrorMap
from moorline.calls.operations import operation
from moorline.calls.service import Service
from moorline.clock import Clock
from moorline.errors import BadAnswer, CallError, ConfigurationError, MoorlineError, PermissionDenied
from moorline.policies.policy import Policy
from moorline.policies.retry import Retry
from moorline.secrets.locker import secrets
from moorline.secrets.secret import Secret
from moorline.secrets.sources.base import LARGEST
from moorline.secrets.sources.files import read_file
from moorline.telemetry import logger

__all__ = ["Session"]

T = TypeVar("T")
_POLICY: Final = Policy(deadline=15.0, attempt_timeout=5.0, retry=Retry(retries=2, base=0.2), breaker=None)
_ERRORS: Final = ErrorMap(message="errors.0", retry={412})
_OF_KUBERNETES: Final = "/var/run/secrets/kubernetes.io/serviceaccount/token"
_AGAIN_AFTER: Final = 30.0
_RENEWED_AT: Final = 2 / 3
_WORTH: Final = 0.1  # of its first time a token has to have after it was renewed: else it nears its max_ttl

log = logger("secrets")


class _Api(Service):
    """What a token is good for."""

    name, category = "vault", "secrets"
    endpoints = Endpoints("https://127.0.0.1:8200")
    credentials = BearerKey(env="VAULT_TOKEN", header="X-Vault-Token", scheme="")
    errors = _ERRORS
    default_headers: ClassVar[Mapping[str, str]] = {"X-Vault-Request": "true"}
    default_policy = _POLICY

    @operation
    def read(
        self, path: str, query: Mapping[str, object], headers: Mapping[str, str], accept: Callable[[CallError], Any]
    ) -> Plan[Any]:
        return self.get(f"/v1/{path}", query=query, headers=headers, parse=_object, accept=accept)

    @operation
    def write(self, path: str, body: Mapping[str, object], headers: Mapping[str, str]) -> Plan[Any]:
        # What it is for (Transit) gives an answer and keeps nothing: it may be asked again.
        return self.post(f"/v1/{path}", json=dict(body), headers=headers, parse=_object, repeatable=True)

    @operation
    def renew(self, headers: Mapping[str, str]) -> Plan[Any]:
        return self.post("/v1/auth/token/renew-self", json={}, headers=headers, parse=_object, repeatable=True)

    @operation
    def look_up(self, headers: Mapping[str, str]) -> Plan[Any]:
        return self.get("/v1/auth/token/lookup-self", headers=headers, parse=_object)


class _Login(Service):
    """What gives a token: its key is what proves who we are, and stands in the body."""

    name, category = "vault_login", "secrets"
    endpoints = Endpoints("https://127.0.0.1:8200")
    credentials = UnheadedKey(env="VAULT_SECRET_ID")
    errors = _ERRORS
    default_headers: ClassVar[Mapping[str, str]] = {"X-Vault-Request": "true"}
    default_policy = _POLICY
    field = ""

    @operation
    def log_in(self, mount: str, who: Mapping[str, str], headers: Mapping[str, str]) -> Plan[Any]:
        path = f"/v1/auth/{mount}/login"
        return self.post(path, json=dict(who), headers=headers, parse=_object, repeatable=True, acts=True)

    def presented(self, key: Secret, url: str, body: bytes | None) -> tuple[str, bytes | None]:
        """The body with what proves who we are: what is planned is shown and kept, and holds no key."""
        return url, json.dumps({**json.loads(body or b"{}"), self.field: key.reveal()}).encode()


@dataclass(frozen=True, slots=True)
class _Token:
    """*until* and *renew_at* are seconds of the monotonic clock, None for a token that lasts."""

    secret: Secret
    lasts: float = 0.0
    until: float | None = None
    renew_at: float | None = None
    renewable: bool = False
    given: bool = False


@dataclass(frozen=True, slots=True)
class _Way:
    """How to log in: the mount of the method, who we say that we are, and the field and the source of the proof."""

    mount: str
    who: Mapping[str, str]
    field: str
    proof: Callable[[], Secret]


class Session:
    """One server and namespace. ``VAULT_TOKEN`` is used if it is set; else we log in by AppRole (``VAULT_ROLE_ID`` and
    ``VAULT_SECRET_ID``) or as a service account of Kubernetes (``VAULT_KUBERNETES_ROLE``), and log in again when the
    token ends or is refused; else the token counts that the program ``vault`` has left (``~/.vault-token``). Tokens are
    renewed at two thirds of their time.

    The names of the variables for Kubernetes are our own. Safe between threads.
    """

    def __init__(self, address: str, namespace: str, clock: Clock) -> None:
        self.headers = {"X-Vault-Namespace": namespace} if namespace else {}
        self._clock = clock
        self._options: dict[str, Any] = {"base_url": address, "clock": clock, "wire": _wire()}
        self._api = _Api(self._shown, **self._options)
        self._lock = threading.RLock()
        self._token: _Token | None = None
        self._refused_at = -_AGAIN_AFTER

    def __repr__(self) -> str:
        return f"<Session with {self._api.base_url}>"

    def read(self, path: str, *, query: Mapping[str, object] | None = None, accept: Any = None) -> Any:
        """The answer to a GET, blocking; *accept* is a Plan's. Raises CallError, ConfigurationError."""
        return self._asked(lambda: self._api.read(path, query or {}, self.headers, accept or _nothing))

    def write(self, path: str, body: Mapping[str, object]) -> Any:
        """The answer to a POST that changes nothing there, blocking. Raises as ``read``."""
        return self._asked(lambda: self._api.write(path, body, self.headers))

    def tend(self) -> None:
        """Renew the token when it is time; failures are logged, and mended by who asks next."""
        with self._lock:
            token = self._token
            if token is None or token.renew_at is None or self._clock.monotonic() < token.renew_at:
                return
            try:
                self._renew(token)
            except MoorlineError as error:
                left = None if token.until is None else round(token.until - self._clock.monotonic())
                log.warning("vault_token_not_renewed", reason=str(error), left=left)

    def close(self) -> None:
        """Close the connections."""
        self._api.close()

    def _asked(self, call: Callable[[], Call[T]]) -> T:
        token = self._current()
        try:
            return call().result()
        except PermissionDenied:
            # There is no 401: it is not allowed, or the token is over. Another token tells.
            if not self._another(token):
                raise
        return call().result()

    def _shown(self) -> Secret:
        assert self._token is not None
        return self._token.secret

    def _current(self) -> _Token:
        with self._lock:
            given = secrets().load("VAULT_TOKEN")
            token = self._token
            if given is not None:
                if token is None or not token.given or token.secret != given:
                    self._token = _Token(given, given=True)  # to be looked up with
                    token = self._token = self._looked_up(given, given=True)
                return token
            if token is None or token.given or (token.until is not None and self._clock.monotonic() >= token.until):
                token = self._token = self._logged_in()
            return token

    def _looked_up(self, token: Secret, *, given: bool) -> _Token:
        """A token that was given, with its time, as far as it may be asked for it."""
        try:
            said = self._api.look_up(self.headers).result()
        except PermissionDenied:
            return _Token(token, given=given)
        data = said.get("data") or {}
        return self._made(token, data.get("ttl"), renewable=bool(data.get("renewable")), given=given)

    def _logged_in(self) -> _Token:
        way = _way()
        if way is None:
            kept = _of_program()
            if kept is None:
                raise ConfigurationError(
                    "vault needs a token: set VAULT_TOKEN, VAULT_ROLE_ID with VAULT_SECRET_ID, or VAULT_KUBERNETES_ROLE"
                )
            self._token = _Token(kept)
            return self._looked_up(kept, given=False)
        login = _Login(way.proof, **self._options)
        login.field = way.field
        try:
            said = login.log_in(way.mount, way.who, self.headers).result()
        finally:
            login.close()
        return self._granted(said)

    def _renew(self, token: _Token) -> None:
        made = None
        if token.renewable:
            with contextlib.suppress(PermissionDenied):
                made = self._granted(self._api.renew(self.headers).result(), before=token)
        if made is not None and (made.until is None or made.lasts > token.lasts * _WORTH):
            self._token = made
        elif not token.given and _way() is not None:
            self._token = self._logged_in()
        else:
            ends = made or token
            self._token = replace(ends, renew_at=None)
            left = round((ends.until or 0.0) - self._clock.monotonic())
            log.warning(
                "vault_token_ends", left=left, reason="it cannot be renewed, and nothing is known to log in with"
            )

    def _another(self, refused: _Token) -> bool:
        """Whether there is another token than the one that was refused; gets one if that is possible."""
        with self._lock:
            if self._token is not None and self._token.secret != refused.secret:
                return True
            now = self._clock.monotonic()
            if refused.given or _way() is None or now < self._refused_at + _AGAIN_AFTER:
                return False
            self._refused_at = now
            self._token = self._logged_in()
            return True

    def _granted(self, said: Any, before: _Token | None = None) -> _Token:
        auth = said.get("auth") or {}
        value = auth.get("client_token")
        secret = Secret(value, name="a token of vault") if isinstance(value, str) and value else None
        if secret is None:
            raise BadAnswer("vault gave no token")
        given = before is not None and before.given
        return self._made(secret, auth.get("lease_duration"), renewable=bool(auth.get("renewable")), given=given)

    def _made(self, secret: Secret, ttl: Any, *, renewable: bool, given: bool) -> _Token:
        lasts = float(ttl) if isinstance(ttl, (int, float)) and not isinstance(ttl, bool) else 0.0
        if lasts <= 0:  # a root token
            return _Token(secret, given=given)
        now = self._clock.monotonic()
        return _Token(secret, lasts, now + lasts, now + lasts * _RENEWED_AT, renewable, given)


def _way() -> _Way | None:
    role = os.environ.get("VAULT_ROLE_ID", "").strip()
    if role:
        mount = os.environ.get("VAULT_APPROLE_MOUNT", "").strip(" /") or "approle"
        return _Way(mount, {"role_id": role}, "secret_id", _secret_id)
    role = os.environ.get("VAULT_KUBERNETES_ROLE", "").strip()
    if role:
        mount = os.environ.get("VAULT_KUBERNETES_MOUNT", "").strip(" /") or "kubernetes"
        return _Way(mount, {"role": role}, "jwt", _service_account)
    return None


def _secret_id() -> Secret:
    found = secrets().load("VAULT_SECRET_ID")
    if found is None:
        raise ConfigurationError(f"vault: VAULT_ROLE_ID needs VAULT_SECRET_ID in {secrets().where('VAULT_SECRET_ID')}")
    return found


def _service_account() -> Secret:
    """The token of the pod, which Kubernetes replaces: it is read at each log-in."""
    path = Path(os.environ.get("VAULT_KUBERNETES_TOKEN_FILE", "").strip() or _OF_KUBERNETES)
    try:
        return Secret(read_file(path, LARGEST).decode().strip(), name="the service account's token")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"vault: {path} cannot be read ({type(error).__name__})") from None


def _of_program() -> Secret | None:
    try:
        held = read_file(Path.home() / ".vault-token", LARGEST, shy=True).decode().strip()
    except (OSError, RuntimeError, UnicodeDecodeError):
        return None
    return Secret(held, name="~/.vault-token") if held else None


def _wire() -> Any:
    """A transport that trusts ``VAULT_CACERT`` alone, if that is set."""
    authority = os.environ.get("VAULT_CACERT", "").strip()
    if not authority:
        return None
    import ssl

    import httpx2

    try:
        context = ssl.create_default_context(cafile=authority)
    except OSError as error:
        raise ConfigurationError(f"VAULT_CACERT: {authority} cannot be used ({type(error).__name__})") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return httpx2.HTTPTransport(verify=context)


def _object(exchange: Exchange) -> dict[str, Any]:
    if not isinstance(exchange.data, dict):
        raise BadAnswer("the answer is no object")
    return exchange.data


def _nothing(error: CallError) -> None:
    del error
