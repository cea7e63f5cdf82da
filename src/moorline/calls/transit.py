"""Vault's and OpenBao's Transit engine wraps encryption keys: ``vault-transit:<mount>/<key>:vault:v1:<ciphertext>``.

Facts: the OpenAPI document of OpenBao 2.7 (``/sys/internal/specs/openapi``) and https://openbao.org/api-docs/secret/transit
for ``datakey/plaintext``, ``decrypt`` and ``rewrap``; services/secrets/vault.md for all else. It is found by
``moorline.secrets.wrapped``, where a key of the ring names it.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Mapping
from contextlib import closing
from typing import Any, Final

from moorline.calls.secret_sources.vault_session import Session
from moorline.clock import SYSTEM
from moorline.errors import BadAnswer, ConfigurationError
from moorline.secrets.wrapped import DataKey

__all__ = ["Transit"]

# Given always, it is what a key with derivation wants; others do without it.
_CONTEXT: Final = base64.b64encode(b"moorline encryption key").decode("ascii")
_WRAPPED: Final = re.compile(r"([^:\s]+):(vault:v[0-9]{1,9}:[A-Za-z0-9+/=]{1,8000})")
_KEY: Final = re.compile(r"[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)+")


class Transit:
    """The Transit engine of HashiCorp Vault or OpenBao at ``VAULT_ADDR``, in the namespace ``VAULT_NAMESPACE`` if that
    is set; who we are there is said as for secrets in Vault (``VAULT_TOKEN``, AppRole, Kubernetes).

    The policy allows ``update`` on ``<mount>/decrypt/<key>``, and for new keys on ``<mount>/datakey/plaintext/<key>``,
    for ``rewrap`` on ``<mount>/rewrap/<key>``.
    """

    def new(self, key: str) -> DataKey:
        """A new data key, wrapped by *key*: ``<mount>/<name>``."""
        answer = _asked("datakey/plaintext", _checked(key), {"bits": 256})
        return DataKey(f"{key}:{_ciphertext(answer)}", _plain(answer))

    def unwrap(self, wrapped: str) -> bytes:
        """The data key."""
        key, text = _parts(wrapped)
        return _plain(_asked("decrypt", key, {"ciphertext": text}))

    def rewrap(self, wrapped: str) -> str:
        """The same data key, wrapped by the newest version of the key that wraps it. It never leaves the server."""
        key, text = _parts(wrapped)
        return f"{key}:{_ciphertext(_asked('rewrap', key, {'ciphertext': text}))}"

    def wrapped_by(self, wrapped: str) -> str:
        """The key that wraps it."""
        return _parts(wrapped)[0]


def _asked(what: str, key: str, body: Mapping[str, object]) -> Mapping[str, Any]:
    mount, _, name = key.rpartition("/")
    server = os.environ.get("VAULT_ADDR", "").strip()
    if not server:
        raise ConfigurationError("an encryption key is wrapped by vault-transit: where is it? set VAULT_ADDR")
    with closing(Session(server, os.environ.get("VAULT_NAMESPACE", "").strip(" /"), SYSTEM)) as session:
        data = session.write(f"{mount}/{what}/{name}", {**body, "context": _CONTEXT}).get("data")
    if not isinstance(data, dict):
        raise BadAnswer("the answer has no data")
    return data


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


def _ciphertext(data: Mapping[str, Any]) -> str:
    found = data.get("ciphertext")
    if not isinstance(found, str) or not _WRAPPED.fullmatch(f"-:{found}"):
        raise BadAnswer("the answer has no ciphertext of Transit's form")
    return found


def _plain(data: Mapping[str, Any]) -> bytes:
    try:
        return base64.b64decode(data.get("plaintext") or "", validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise BadAnswer("the answer's plaintext is no base64") from None
