"""AWS KMS wraps encryption keys: ``aws-kms:<key ARN>:<ciphertext in base64>``.

Facts: botocore's model of kms (2014-11-01, botocore 1.44): GenerateDataKey, Decrypt, ReEncrypt. It is found by
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

from moorline.calls.aws import AwsErrors, AwsService
from moorline.calls.dialects import base_address
from moorline.calls.service import Endpoints, Plan, operation
from moorline.errors import BadAnswer, ConfigurationError, InvalidRequest, NotFound, ServiceUnavailable
from moorline.policies.policy import Policy
from moorline.policies.retry import Retry
from moorline.secrets.wrapped import DataKey

__all__ = ["KeyManagement"]

_CONTEXT: Final = {"moorline": "encryption key"}
"""The encryption context: without the same one nothing decrypts, and it is what CloudTrail and key policies see."""
_REGION: Final = re.compile(r"arn:[a-z-]+:kms:([a-z0-9-]+):.+")
_ENDPOINTS: Final = ("AWS_ENDPOINT_URL_KMS", "AWS_ENDPOINT_URL")  # AWS's own: botocore's configprovider.py
_MOST: Final = 6_144  # bytes of a ciphertext: CiphertextType


class KeyManagement(AwsService):
    """AWS KMS, as far as data keys need it. Its keys and region are found as those of all services of AWS; the region
    of an ARN goes before. It needs the rights kms:GenerateDataKey (for new keys), kms:Decrypt, and for ``rewrap``
    kms:ReEncryptFrom and kms:ReEncryptTo. The sandbox has none, so the real one is asked beside it too.
    """

    name, category = "kms", "keys"
    model = "kms"
    endpoints = Endpoints("https://kms.us-east-1.amazonaws.com")
    errors = AwsErrors(
        model="kms",
        kinds={
            "DependencyTimeoutException": ServiceUnavailable,
            "DisabledException": InvalidRequest,
            "KMSInternalException": ServiceUnavailable,
            "KMSInvalidStateException": InvalidRequest,
            "KeyUnavailableException": ServiceUnavailable,
            "NotFoundException": NotFound,
        },
    )
    # Nothing goes on without the key: a start waits for a hiccup, and no longer.
    default_policy = Policy(deadline=20.0, attempt_timeout=5.0, retry=Retry(retries=3, base=0.5, cap=4.0), breaker=None)

    def new(self, key: str) -> DataKey:
        """A new data key, wrapped by *key*: an id, an ARN or an alias. What is kept names the ARN, so that an alias
        can move on.
        """
        with closing(self._at(key)) as kms:
            arn, blob, plain = kms.generate_data_key(key).result()
        return DataKey(f"{arn}:{base64.b64encode(blob).decode('ascii')}", plain)

    def unwrap(self, wrapped: str) -> bytes:
        """The data key."""
        key, blob = _parts(wrapped)
        with closing(self._at(key)) as kms:
            return kms.decrypt(key, blob).result()

    def rewrap(self, wrapped: str) -> str:
        """The same data key, wrapped by the newest material of the key that wraps it."""
        key, blob = _parts(wrapped)
        with closing(self._at(key)) as kms:
            arn, again = kms.re_encrypt(key, blob).result()
        return f"{arn}:{base64.b64encode(again).decode('ascii')}"

    def wrapped_by(self, wrapped: str) -> str:
        """The key that wraps it."""
        return _parts(wrapped)[0]

    @operation
    def generate_data_key(self, /, key: str) -> Plan[tuple[str, bytes, bytes]]:
        """A new key of 32 bytes: the ARN of what wraps it, the ciphertext, and the key."""
        wanted = {"KeyId": key, "KeySpec": "AES_256", "EncryptionContext": _CONTEXT}
        return self.ask("GenerateDataKey", wanted, _generated, reads=True)  # what nobody heard of wraps nothing

    @operation
    def decrypt(self, /, key: str, blob: bytes) -> Plan[bytes]:
        """What *blob* wraps. *key* must be the one that has wrapped it."""
        wanted = {"KeyId": key, "CiphertextBlob": blob, "EncryptionContext": _CONTEXT}
        return self.ask("Decrypt", wanted, lambda answer: _bytes(answer, "Plaintext"), reads=True)

    @operation
    def re_encrypt(self, /, key: str, blob: bytes) -> Plan[tuple[str, bytes]]:
        """*blob* wrapped anew by the same *key*: its ARN, and the ciphertext. The plaintext never leaves KMS."""
        wanted = {
            "SourceKeyId": key,
            "DestinationKeyId": key,
            "CiphertextBlob": blob,
            "SourceEncryptionContext": _CONTEXT,
            "DestinationEncryptionContext": _CONTEXT,
        }
        return self.ask("ReEncrypt", wanted, _wrapped, reads=True)

    @property
    def in_sandbox(self) -> bool:
        """Never."""
        return False

    @property
    def base_url(self) -> str:
        """The argument, else what ``AWS_ENDPOINT_URL_KMS`` or ``AWS_ENDPOINT_URL`` name, else the region's endpoint."""
        if self._base_url is not None:
            return self._base_url
        for name in _ENDPOINTS:
            if found := os.environ.get(name, "").strip():
                return base_address(found, name)
        return self._endpoint()

    def _at(self, key: str) -> KeyManagement:
        """This one, in the region that *key* names."""
        found = _REGION.fullmatch(key)
        if found is None or self._region is not None:
            return self
        return type(self)(region=found[1], base_url=self._base_url, wire=self.wire, policy=self.policy)


def _parts(wrapped: str) -> tuple[str, bytes]:
    """The key, and the ciphertext. Raises ConfigurationError for what has not the form."""
    key, _, text = wrapped.rpartition(":")
    try:
        blob = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        blob = b""
    if not key or not 0 < len(blob) <= _MOST:
        raise ConfigurationError("a key that AWS KMS wraps is written aws-kms:KEY:CIPHERTEXT, the last part in base64")
    return key, blob


def _generated(answer: Mapping[str, Any]) -> tuple[str, bytes, bytes]:
    arn, blob = _wrapped(answer)
    return arn, blob, _bytes(answer, "Plaintext")


def _wrapped(answer: Mapping[str, Any]) -> tuple[str, bytes]:
    arn = answer.get("KeyId")
    if not isinstance(arn, str) or not arn:
        raise BadAnswer("the answer has no KeyId")
    return arn, _bytes(answer, "CiphertextBlob")


def _bytes(answer: Mapping[str, Any], name: str) -> bytes:
    found = answer.get(name)
    if not isinstance(found, bytes) or not found:
        raise BadAnswer(f"the answer has no {name}")
    return found
