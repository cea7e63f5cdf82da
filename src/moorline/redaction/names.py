"""Which names of headers, fields, query keys and variables hold something that may not be shown."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

__all__ = ["ENDS", "MASK", "SENSITIVE_HEADERS", "SHOWN_VALUES", "is_count", "is_sensitive"]

MASK: Final = "***"

SENSITIVE_HEADERS: Final = frozenset(
    {
        "authorization",
        "cookie",
        "proxy-authorization",
        "set-cookie",
        "stripe-signature",
        "www-authenticate",
        "x-amz-security-token",
        "x-api-key",
        "x-csrf-token",
        "x-hub-signature",
        "x-hub-signature-256",
        "x-sentry-auth",
        "x-twilio-email-event-webhook-signature",
    }
)
"""Header names, lower case, whose values are never shown. Names that :func:`is_sensitive` knows are masked as well."""

ENDS: Final = (
    "assertion",
    "authorization",
    "cookie",
    "credential",
    "cvc",
    "cvv",
    "jwt",
    "key",
    "passcode",
    "passphrase",
    "passwd",
    "password",
    "pwd",
    "secret",
    "sessionid",
    "signature",
    "token",
)
"""What a sensitive name ends with, but for an "s" and numbers; more is asked of a key (see ``is_sensitive``)."""

_SENSITIVE_ENDS: Final = (*(end + plural for end in ENDS if end != "key" for plural in ("", "s")), "apikey", "apikeys")
# Whole names. AWS Secrets Manager answers the value as SecretString or SecretBinary, KMS as Plaintext.
_SENSITIVE: Final = frozenset({"codeverifier", "otp", "pass", "plaintext", "secretbinary", "secretstring", "totp"})
# Names that end like a secret and hold none; an operator needs to see them.
_HARMLESS: Final = frozenset(
    {
        "aggregationkey",
        "dedupkey",
        "dedupekey",
        "foreignkey",
        "idempotencykey",
        "maxtokens",
        "objectkey",
        "partitionkey",
        "primarykey",
        "publickey",
        "routingkey",
        "sortkey",
        "uniquekey",
    }
)
# A key is a word of its own ("api_key", "apiKey", "APIKEY"); the end of another is not ("monkey").
_KEY: Final = re.compile(
    r"(?:(?:^|[^A-Za-z]|(?i:access|account|api|auth|encryption|license|master|private|secret|shared|signing|write))"
    r"(?i:keys?)|[a-z]Keys?)[^A-Za-z]*$"
)
# As "DB_PASS"; no "bypass", no "compass".
_PASS: Final = re.compile(r"(?:[^A-Za-z](?i:pass)|[a-z]Pass)[^A-Za-z]*$")
_VALUE: Final = re.compile("[-_.]?(?i:value)[^A-Za-z]*$")  # "token_value", "apiKeyValue"
_SEPARATORS: Final = str.maketrans("", "", "-_ .[]")
_DIGITS: Final = "0123456789"
_LONGEST: Final = 200

SHOWN_VALUES: Final = frozenset({"", MASK, "none", "null", "true", "false", "str", "bytes"})
"""What may stand under a sensitive name, in lower case: it says that there is none, or of what type it is."""


def is_sensitive(name: str) -> bool:
    """Whether a header, field or query key of that name holds something that may not be shown.

    Case, dashes, underscores and a trailing number (``X-Hub-Signature-256``) do not matter.
    """
    return _is_sensitive(name[-_LONGEST:])


@lru_cache(maxsize=4096)
def _is_sensitive(name: str) -> bool:
    name = _VALUE.sub("", name) or name
    lowered = name.lower()
    plain = lowered.translate(_SEPARATORS).rstrip(_DIGITS)
    if plain in _HARMLESS:
        return False
    # "secret_id" is half of a Vault AppRole; AWS's "SecretId" is a name.
    return (
        plain.endswith(_SENSITIVE_ENDS)
        or plain in _SENSITIVE
        or lowered.replace("-", "_") == "secret_id"
        or _KEY.search(name) is not None
        or _PASS.search(name) is not None
    )


_PLURALS: Final = (*(f"{end}s" for end in ENDS), "pass")


def is_count(name: str, value: object) -> bool:
    """Whether it is a number of tokens, and no token."""
    return isinstance(value, int | float) and name.lower().endswith(_PLURALS)
