"""Vault's and OpenBao's Transit engine wraps encryption keys: ``vault-transit:<mount>/<key>:vault:v1:<ciphertext>``.

Facts: the OpenAPI document of OpenBao 2.7 (``/sys/internal/specs/openapi``) and https://openbao.org/api-docs/secret/transit
for ``datakey/plaintext``, ``decrypt`` and ``rewrap``; services/secrets/vault.md for headers, errors and namespaces.
It is found by ``moorline.secrets.wrapped``, where a key of the ring names it.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Callable
from contextlib import closing
from typing import Any, Final

from moorline.calls.dialects import BearerKey, base_address
from moorline.calls.exchange import Exchange
from moorline.calls.faults import ErrorMap
from moorline.calls.service import Endpoints, Plan, Service, operation
from moorline.errors import BadAnswer, ConfigurationError, PermissionDenied
from moorline.policies.policy import Policy
from moorline.policies.retry import Retry
from moorline.secrets.wrapped import DataKey

__all__ = ["Transit"]

# Given always, it is what a key with derivation wants; others do without it.
_CONTEXT: Final = base64.b64encode(b"moorline encryption key").decode("ascii")
_WRAPPED: Final = re.compile(r"([^:\s]+):(vault:v[0-9]{1,9}:[A-Za-z0-9+/=]{1,8000})")
_KEY: Final = re.compile(r"[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)+")
_NAMESPACE: Final = re.compile(r"[!-~]+")


class Transit(Service):
    """The Transit engine of HashiCorp Vault or OpenBao, as far as data keys need it: at ``VAULT_ADDR``, with the token
    in ``VAULT_TOKEN``, in the namespace ``VAULT_NAMESPACE`` if that is set.

    The token's policy allows ``update`` on ``<mount>/decrypt/<key>``, and for new keys on
    ``<mount>/datakey/plaintext/<key>``, for ``rewrap`` on ``<mount>/rewrap/<key>``. The sandbox has none, so the real
    one is asked beside it too.
    """

    name, category = "vault_transit", "keys"
    endpoints = Endpoints("https://127.0.0.1:8200")
    credentials = BearerKey(env="VAULT_TOKEN", header="X-Vault-Token", scheme="")
    errors = ErrorMap(message="errors.0", statuses={403: PermissionDenied})
    default_headers = {"X-Vault-Request": "true"}  # noqa: RUF012 (the base's record)
    # Nothing goes on without the key: a start waits for a hiccup, and no longer.
    default_policy = Policy(deadline=20.0, attempt_timeout=5.0, retry=Retry(retries=3, base=0.5, cap=4.0), breaker=None)

    def new(self, key: str) -> DataKey:
        """A new data key, wrapped by *key*: ``<mount>/<name>``."""
        with closing(self):
            wrapped, plain = self.data_key(_checked(key)).result()
        return DataKey(f"{key}:{wrapped}", plain)

    def unwrap(self, wrapped: str) -> bytes:
        """The data key."""
        with closing(self):
            return self.decrypt(*_parts(wrapped)).result()

    def rewrap(self, wrapped: str) -> str:
        """The same data key, wrapped by the newest version of the key that wraps it."""
        key, text = _parts(wrapped)
        with closing(self):
            return f"{key}:{self.rewrapped(key, text).result()}"

    def wrapped_by(self, wrapped: str) -> str:
        """The key that wraps it."""
        return _parts(wrapped)[0]

    @operation
    def data_key(self, /, key: str) -> Plan[tuple[str, bytes]]:
        """A new key of 32 bytes: wrapped, and itself."""

        def parse(exchange: Exchange) -> tuple[str, bytes]:
            return _ciphertext(exchange), _plain(exchange)

        return self._ask("datakey/plaintext", key, {"bits": 256}, parse)

    @operation
    def decrypt(self, /, key: str, wrapped: str) -> Plan[bytes]:
        """What *wrapped* is."""
        return self._ask("decrypt", key, {"ciphertext": wrapped}, _plain)

    @operation
    def rewrapped(self, /, key: str, wrapped: str) -> Plan[str]:
        """The same, wrapped by the newest version. The plaintext never leaves the server."""
        return self._ask("rewrap", key, {"ciphertext": wrapped}, _ciphertext)

    def _ask(self, what: str, key: str, body: dict[str, Any], parse: Callable[[Exchange], Any]) -> Plan[Any]:
        mount, _, name = key.rpartition("/")
        path = f"/v1/{mount}/{what}/{name}"
        # What nobody heard of wraps nothing: each of them may be asked again.
        return self.post(path, json={**body, "context": _CONTEXT}, parse=parse, headers=_namespace(), repeatable=True)

    @property
    def in_sandbox(self) -> bool:
        """Never."""
        return False

    @property
    def base_url(self) -> str:
        """The argument, else ``VAULT_ADDR``. Raises ConfigurationError where that is not set."""
        if self._base_url is not None:
            return self._base_url
        found = os.environ.get("VAULT_ADDR", "").strip()
        if not found:
            raise ConfigurationError("vault_transit has no address: set VAULT_ADDR in the environment")
        return base_address(found, "VAULT_ADDR")


def _namespace() -> dict[str, str]:
    found = os.environ.get("VAULT_NAMESPACE", "").strip()
    if found and not _NAMESPACE.fullmatch(found):
        raise ConfigurationError("VAULT_NAMESPACE does not hold what looks like one")
    return {"X-Vault-Namespace": found} if found else {}


def _checked(key: str) -> str:
    if not _KEY.fullmatch(key) or ".." in key:
        raise ConfigurationError(f"a key of Transit is named MOUNT/KEY, such as transit/app, not {key!r}")
    return key


def _parts(wrapped: str) -> tuple[str, str]:
    """The key, and the ciphertext. Raises ConfigurationError for what has not the form."""
    found = _WRAPPED.fullmatch(wrapped)
    if found is None:
        raise ConfigurationError("a key that Transit wraps is written vault-transit:MOUNT/KEY:vault:v1:CIPHERTEXT")
    return _checked(found[1]), found[2]


def _ciphertext(exchange: Exchange) -> str:
    found: str = exchange.data["data"]["ciphertext"]
    if not _WRAPPED.fullmatch(f"-:{found}"):
        raise BadAnswer("the answer has no ciphertext of Transit's form")
    return found


def _plain(exchange: Exchange) -> bytes:
    try:
        return base64.b64decode(exchange.data["data"]["plaintext"], validate=True)
    except binascii.Error:
        raise BadAnswer("the answer's plaintext is no base64") from None
