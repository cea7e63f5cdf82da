"""What all services that know users have in common: the user, who a token speaks of, the operations, the events.

Two kinds of data may be kept with a user: *app_metadata* is written by our side alone, so that rights may depend on it;
*user_metadata* may be written by the user, so that they must not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Protocol

from moorline.errors import InvalidToken
from moorline.identity.tokens import Claims
from moorline.identity.verification import Verification
from moorline.secrets.secret import Secret
from moorline.services.limits import as_text, refused

if TYPE_CHECKING:
    from moorline.calls.call import Call
    from moorline.calls.paging import Pages

__all__ = [
    "AuthEvent",
    "AuthEventKind",
    "AuthService",
    "Session",
    "User",
    "VerifiedUser",
    "check_password",
    "given",
    "moment_of",
    "subject",
    "words_in",
]

_MOST_PASSWORD: Final = 4096


@dataclass(frozen=True, slots=True)
class User:
    """A user as the service keeps it. What a service does not know, or does not say, is None; *disabled* users cannot
    sign in. Times are in UTC.
    """

    id: str
    email: str | None = None
    email_verified: bool | None = None
    phone: str | None = None
    name: str | None = None
    username: str | None = None
    picture: str | None = None
    disabled: bool = False
    created_at: datetime | None = None
    updated_at: datetime | None = None
    last_sign_in_at: datetime | None = None
    app_metadata: Mapping[str, Any] = field(default_factory=dict, repr=False)
    user_metadata: Mapping[str, Any] = field(default_factory=dict, repr=False)
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class VerifiedUser:
    """Who a verified token speaks of. It says what was so when the token was made, not what is so now.

    *id* is the user's, or, where *machine* is true, a program's. *session_id* is the session that the token belongs to,
    *organization* the one that is chosen in it; *roles*, *permissions* and *scopes* are those that the token carries;
    *actor* is who acts in the user's place. *email_verified* is None where the token does not say. *anonymous* users
    have no account of their own. *raw* are the service's own claims.
    """

    id: str
    email: str | None = None
    email_verified: bool | None = None
    phone: str | None = None
    name: str | None = None
    session_id: str | None = None
    organization: str | None = None
    roles: frozenset[str] = frozenset()
    permissions: frozenset[str] = frozenset()
    scopes: frozenset[str] = frozenset()
    actor: str | None = None
    anonymous: bool = False
    machine: bool = False
    issued_at: datetime | None = None
    expires_at: datetime | None = None
    app_metadata: Mapping[str, Any] = field(default_factory=dict, repr=False)
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Session:
    """A session of a user. *status* is in the service's words; *active* says whether it can be used."""

    id: str
    user_id: str
    status: str
    active: bool
    created_at: datetime | None = None
    expires_at: datetime | None = None
    last_active_at: datetime | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


class AuthEventKind(StrEnum):
    """What happened to a user, in words that all services share."""

    USER_CREATED = "user_created"
    USER_UPDATED = "user_updated"
    USER_DELETED = "user_deleted"
    SIGNED_IN = "signed_in"
    SIGN_IN_FAILED = "sign_in_failed"
    SIGNED_OUT = "signed_out"


@dataclass(frozen=True, slots=True)
class AuthEvent:
    """Something that happened to a user. *type* is the service's own word; *user* is there where all of it was told."""

    kind: AuthEventKind
    type: str
    user_id: str | None = None
    user: User | None = None
    session_id: str | None = None
    at: datetime | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


class AuthService(Protocol):
    """What every service of the category ``auth`` can do. Nothing has to inherit from it."""

    def verify_token(self, token: str) -> Verification[VerifiedUser]:
        """Who a session or access token speaks of. See :class:`moorline.identity.Verification`."""
        ...

    def get_user(self, user_id: str) -> Call[User]:
        """A user. Raises NotFound."""
        ...

    def create_user(
        self,
        *,
        email: str | None = None,
        password: str | None = None,
        phone: str | None = None,
        name: str | None = None,
        email_verified: bool | None = None,
        app_metadata: dict[str, Any] | None = None,
        user_metadata: dict[str, Any] | None = None,
        **extra: object,
    ) -> Call[User]:
        """A new user; what is None is left to the service. *extra* are its further fields by its own names.

        Raises InvalidRequest or Conflict where the address is taken.
        """
        ...

    def update_user(
        self,
        user_id: str,
        *,
        email: str | None = None,
        password: str | None = None,
        phone: str | None = None,
        name: str | None = None,
        email_verified: bool | None = None,
        app_metadata: dict[str, Any] | None = None,
        user_metadata: dict[str, Any] | None = None,
        **extra: object,
    ) -> Call[User]:
        """Change a user; what is None stays as it is. Raises NotFound."""
        ...

    def delete_user(self, user_id: str) -> Call[None]:
        """Delete a user. Tokens that were issued stay good until they end."""
        ...

    def list_users(self) -> Pages[User]:
        """All users, page by page."""
        ...

    def check(self) -> Call[bool]:
        """True if the key is good."""
        ...


def given(**fields: Any) -> dict[str, Any]:
    """Those of *fields* that are not None."""
    return {name: value for name, value in fields.items() if value is not None}


def check_password(password: str | None, *, least: int = 1) -> str | None:
    """*password* itself, which no log shows from now on. Raises InvalidRequest for one that is too short, or long."""
    if password is None:
        return None
    if not least <= len(as_text("password", password)) <= _MOST_PASSWORD:
        raise refused("password", f"must have from {least} to {_MOST_PASSWORD} characters")
    if password.strip():
        Secret(password, name="the password")
    return password


def subject(claims: Claims) -> str:
    """Whom a token speaks of. Raises InvalidToken for one that speaks of nobody."""
    found = claims.subject
    if found is None:
        raise InvalidToken("the token speaks of nobody (sub)", reason="claims")
    return found


def moment_of(seconds: float | None) -> datetime | None:
    """Seconds since the epoch as a time in UTC. Raises InvalidToken for one beyond the calendar."""
    if seconds is None:
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        raise InvalidToken("a time in the token is none", reason="claims") from None


def words_in(value: object) -> frozenset[str]:
    """The words of a claim: a list of texts, or a text with spaces between them (RFC 8693, ``scope``)."""
    if isinstance(value, str):
        return frozenset(value.split())
    if isinstance(value, list):
        return frozenset(one for one in value if isinstance(one, str))
    return frozenset()
