"""Firebase's blocking functions: what Identity Platform asks before it lets a user in, and what it may be answered.

Facts: services/auth/firebase_auth.md, which has them from npm firebase-functions 7.4.0 (``common/providers/identity``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from moorline.errors import ConfigurationError, InvalidToken
from moorline.events.delivery import Reply
from moorline.identity.tokens import Claims
from moorline.services.auth.protocol import subject

__all__ = ["BlockingEvent", "blocking_answer", "blocking_event", "blocking_refusal", "claims_text", "jwt_in"]

_MOST_CLAIMS: Final = 1000  # characters
_MOST_BODY: Final = 64 * 1024
_UNKNOWN: Final = frozenset({"beforeSendEmail", "beforeSendSms"})
"""Of these nobody is known yet."""
_RESERVED: Final = frozenset(
    {
        "acr", "amr", "at_hash", "aud", "auth_time", "azp", "c_hash", "cnf", "exp", "firebase", "iat", "iss", "jti",
        "nbf", "nonce", "sub",
    }
)  # fmt: skip
"""PyPI firebase-admin, ``_auth_utils.py``."""


@dataclass(frozen=True, slots=True)
class BlockingEvent:
    """What is about to happen: *type* is ``beforeCreate``, ``beforeSignIn``, ``beforeSendEmail`` or ``beforeSendSms``.

    *user_id* is None for the last two. *user* is the user's record in Firebase's words; *raw* are all claims.
    """

    id: str
    type: str
    user_id: str | None
    user: Mapping[str, Any] = field(default_factory=dict, repr=False)
    ip_address: str | None = None
    user_agent: str | None = None
    sign_in_method: str | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


def jwt_in(body: bytes) -> str:
    """The token in the body of a request. Raises InvalidToken for a body that has none."""
    try:
        found = json.loads(body)["data"]["jwt"] if len(body) <= _MOST_BODY else None
    except (ValueError, KeyError, TypeError, RecursionError):
        found = None
    if not isinstance(found, str):
        raise InvalidToken("the body holds no token (data.jwt)")
    return found


def blocking_event(claims: Claims) -> BlockingEvent:
    """What verified claims tell. Raises InvalidToken for claims of another shape."""
    kind, number, record = claims.text("event_type"), claims.text("event_id"), claims.get("user_record")
    if kind is None or number is None:
        raise InvalidToken("it is no token of a blocking function (event_type, event_id)", reason="claims")
    return BlockingEvent(
        number,
        kind,
        None if kind in _UNKNOWN else subject(claims),
        record if isinstance(record, dict) else {},
        ip_address=claims.text("ip_address"),
        user_agent=claims.text("user_agent"),
        sign_in_method=claims.text("sign_in_method"),
        raw=claims,
    )


def claims_text(name: str, claims: Mapping[str, Any]) -> str:
    """Claims of ours as they are kept: JSON of at most 1000 characters, without names that tokens have already.

    Raises ConfigurationError.
    """
    taken = sorted(_RESERVED & claims.keys())
    if taken:
        raise ConfigurationError(f"{name}: {', '.join(taken)} are names of the token itself")
    try:
        text = json.dumps(claims, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{name} cannot be written as JSON: {error}") from None
    if len(text) > _MOST_CLAIMS:
        raise ConfigurationError(f"{name} has {len(text)} characters as JSON; the limit is {_MOST_CLAIMS}")
    return text


def blocking_answer(
    *,
    custom_claims: Mapping[str, Any] | None = None,
    session_claims: Mapping[str, Any] | None = None,
    **changes: object,
) -> Reply:
    """Go on, with these *changes* of the user (``displayName``, ``disabled``, ``emailVerified``, ``photoURL``), claims
    that stay with the user, and claims for this session (before signing in only); without any, as it is.

    Raises ConfigurationError for claims that are too long, together or alone, or have a name of the token's own.
    """
    for name, claims in (("custom_claims", custom_claims), ("session_claims", session_claims)):
        claims_text(name, claims or {})
    claims_text("custom_claims and session_claims", {**(custom_claims or {}), **(session_claims or {})})
    record = {"customClaims": custom_claims, "sessionClaims": session_claims, **changes}
    given = {name: value for name, value in record.items() if value is not None}
    return _reply(200, {"userRecord": {**given, "updateMask": ",".join(given)}} if given else {})


def blocking_refusal(message: str, *, status: str = "PERMISSION_DENIED", http_status: int = 403) -> Reply:
    """Do not let it happen; *message* is for the user. Raises ConfigurationError for a status that is no 4xx."""
    if not 400 <= http_status <= 499:
        raise ConfigurationError(f"http_status: {http_status!r} is no refusal; one is from 400 to 499")
    return _reply(http_status, {"error": {"status": status, "message": message}})


def _reply(status: int, content: Mapping[str, Any]) -> Reply:
    return Reply(status, json.dumps(content, separators=(",", ":")).encode())
