"""The records that a service is described with: where it is, what unlocks it, and how it speaks of keys and limits."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from moorline.calls.limits import Closings, Headed, LimitFields, LimitPattern, RateLimitHeaders
from moorline.errors import ConfigurationError
from moorline.policies.checks import check_seconds
from moorline.secrets.secret import Secret

__all__ = [
    "BasicKey",
    "BearerKey",
    "Closings",
    "Credentials",
    "Endpoints",
    "Headed",
    "IdempotencyKey",
    "LimitFields",
    "LimitPattern",
    "RateLimitHeaders",
    "UnheadedKey",
    "UnusableKey",
    "UserKey",
    "basic",
    "hours",
    "in_header",
]

LOOPBACK: Final = re.compile(r"localhost|127(?:\.\d{1,3}){3}|::1", re.IGNORECASE)
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def hours(count: float) -> float:
    """Seconds in *count* hours."""
    return count * 3600.0


def base_address(address: str, name: str) -> str:
    """*address* without a slash at its end.

    Raises ConfigurationError, naming *name*, unless it is https, or http to this machine, without query or user.
    """
    try:
        parts = urlsplit(address)
        port_known = parts.port is None or parts.port > 0
    except (ValueError, AttributeError):
        raise ConfigurationError(f"{name} must be a URL such as https://api.example.com") from None
    if parts.scheme not in ("https", "http") or not parts.hostname or not port_known:
        raise ConfigurationError(f"{name} must be a URL such as https://api.example.com")
    if parts.scheme == "http" and not LOOPBACK.fullmatch(parts.hostname):
        raise ConfigurationError(f"{name} must be https: plain http is for this machine (localhost) only")
    if parts.username is not None or parts.query or parts.fragment:
        raise ConfigurationError(f"{name} must be scheme, host and path only: no user, no query, no fragment")
    return address.rstrip("/")


def check_header(where: str, name: Any, text: Any) -> None:
    """Raise ConfigurationError, naming *where* and the header, unless a request can carry it."""
    if not isinstance(name, str) or not _TOKEN.fullmatch(name):
        raise ConfigurationError(f"{where} has {name!r}, which is not the name of a header")
    if not isinstance(text, str) or not text.isascii() or not (text.isprintable() or not text):
        raise ConfigurationError(f"{where}[{name!r}] must be one line of ASCII text")


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Base URLs: the *default*, and others by *region* (``Endpoints("https://…", eu="…")`` is spelled with
    ``regions``). ``{name}`` in a host stands for the parameter of that name (``"https://{subdomain}.example.com"``),
    which has to be a DNS label, or several. *hosts* are further addresses of the same service, by the names that a
    Plan's ``host`` has, each with the same regions; whoever gives a base URL of their own, as the sandbox does, has
    them all there.
    """

    default: str
    regions: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    hosts: Mapping[str, Endpoints] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        object.__setattr__(self, "default", base_address(self.default, "Endpoints.default"))
        checked = {name: base_address(url, f"Endpoints.regions[{name!r}]") for name, url in self.regions.items()}
        object.__setattr__(self, "regions", MappingProxyType(checked))
        for name, one in self.hosts.items():
            if one.regions.keys() != self.regions.keys():
                raise ConfigurationError(f"Endpoints.hosts[{name!r}] has not the regions of the service")

    def of(self, region: str | None) -> str:
        """The address in *region*, or the default one."""
        return self.regions[region] if region else self.default


class Credentials(Protocol):
    """How a service wants its secret presented. ``env`` is the variable, ``sandbox`` the stand-in's test key."""

    @property
    def env(self) -> str:
        """The environment variable that holds the secret; empty where only connected accounts have one."""
        ...

    @property
    def sandbox(self) -> str:
        """The key that the sandbox accepts, or an empty string. ``{sandbox}`` in it stands for its address."""
        ...

    def headers(self, secret: Secret) -> dict[str, str]:
        """The headers of a request that carry the secret."""
        ...


class UnusableKey(ConfigurationError):
    """No request can carry that value: another accepted version of the credential may do."""


def in_header(secret: Secret, env: str) -> str:
    """The value of *secret*, for a header. Raises UnusableKey, naming it or *env*, where none can carry it."""
    value = secret.reveal()
    if not value.isascii() or not value.isprintable():
        raise UnusableKey(f"{secret.name or env} holds characters that no HTTP header can carry")
    return value


@dataclass(frozen=True, slots=True)
class BearerKey:
    """``Authorization: Bearer <key>``; *header* and *scheme* for those who spell it otherwise."""

    env: str
    sandbox: str = ""
    header: str = "Authorization"
    scheme: str = "Bearer"

    def headers(self, secret: Secret) -> dict[str, str]:
        """The header with the key."""
        value = in_header(secret, self.env)
        return {self.header: f"{self.scheme} {value}" if self.scheme else value}


def basic(user: str, secret: Secret) -> dict[str, str]:
    """The header of RFC 7617 for *user* with that password. Raises ConfigurationError for a user with a colon."""
    if ":" in user:
        raise ConfigurationError("the user of Basic authentication cannot hold a colon")
    pair = base64.b64encode(f"{user}:{secret.reveal()}".encode()).decode("ascii")
    return {"Authorization": f"Basic {pair}"}


@dataclass(frozen=True, slots=True)
class BasicKey:
    """``Authorization: Basic``, the key being the password of *user*, the same for all accounts."""

    env: str
    sandbox: str = ""
    user: str = "api"

    def headers(self, secret: Secret) -> dict[str, str]:
        """The header with the key."""
        return basic(self.user, secret)


@dataclass(frozen=True, slots=True)
class UserKey:
    """``Authorization: Basic``, the key being the user; there is no password."""

    env: str
    sandbox: str = ""

    def headers(self, secret: Secret) -> dict[str, str]:
        """The header with the key. Raises UnusableKey for a key with a colon."""
        key = secret.reveal()
        if ":" in key:
            raise UnusableKey(f"{secret.name or self.env} cannot hold a colon")
        return {"Authorization": f"Basic {base64.b64encode(f'{key}:'.encode()).decode('ascii')}"}


@dataclass(frozen=True, slots=True)
class UnheadedKey:
    """A key that the address or the body carries, and no header: see ``Account.presented``."""

    env: str
    sandbox: str = ""

    def headers(self, secret: Secret) -> dict[str, str]:  # noqa: ARG002
        """None."""
        return {}


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """By what a service knows a repeated write, and for how many seconds (*window*) it remembers it: a *header*, or,
    where one is named, a *field* of the JSON body.

    *like* is the pattern of the keys that it takes, where not every text will do. Keys that we make are UUIDs. *where*
    is the pattern of the paths that honour one, where not all do: ``request()`` sends none to others.
    """

    header: str = "Idempotency-Key"
    window: float = 86_400.0
    methods: frozenset[str] = frozenset({"POST"})
    max_length: int = 255
    field: str = ""
    like: str = ""
    where: str = ""

    def __post_init__(self) -> None:
        check_seconds("IdempotencyKey", "window", self.window)

    def check(self, key: Any) -> str:
        """*key* itself. Raises ConfigurationError when no request can carry it, or the service would not take it."""
        if not isinstance(key, str) or not 0 < len(key) <= self.max_length:
            raise ConfigurationError(f"idempotency_key must be a string of 1 to {self.max_length} characters")
        if not key.isascii() or not key.isprintable() or key != key.strip():
            raise ConfigurationError("idempotency_key must be printable ASCII without spaces around it")
        if self.like and not re.fullmatch(self.like, key):
            raise ConfigurationError(f"idempotency_key must match {self.like}")
        return key

    def carried(self, key: str, headers: dict[str, str], body: bytes | None) -> bytes | None:
        """The body of a request that carries *key*; *headers* get it where that is its place."""
        if not self.field:
            headers[self.header] = key
            return body
        whole = {**json.loads(body or b"{}"), self.field: key}
        return json.dumps(whole, ensure_ascii=False, separators=(",", ":")).encode()
