"""Clerk: who a session token speaks of, users, their sessions, and what Clerk tells us of them.

Facts: services/auth/clerk.md; contract: clerk.json (of 2026-05-12, the version that every request names). Permissions
are read as PyPI clerk-backend-api 7.0.0 reads them (``security/authenticaterequest.py``); that a publishable key is the
host of the Frontend API, in base64 and with a dollar sign behind it, is @clerk/shared's ``keys.ts``. The names of the
variables: @clerk/backend 2.29, clerk.com/docs; ``CLERK_AUTHORIZED_PARTIES`` and ``CLERK_AUDIENCE`` are ours.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from moorline.calls.service import (
    BearerKey,
    Endpoints,
    ErrorMap,
    Exchange,
    Page,
    Parameter,
    Plan,
    RateLimitHeaders,
    listing,
    operation,
    segment,
)
from moorline.errors import BadAnswer, ConfigurationError, Conflict, InvalidToken, PermissionDenied
from moorline.events.delivery import Delivers
from moorline.events.schemes.standard_webhooks import StandardWebhooks
from moorline.identity.tokens import Claims, Rules
from moorline.identity.verification import Steps, Verification, checked
from moorline.services.answers import flag, items, milliseconds, optional_text, record, text, whole
from moorline.services.auth.protocol import (
    AuthEvent,
    AuthEventKind,
    Session,
    User,
    VerifiedUser,
    check_password,
    given,
    moment_of,
    subject,
)
from moorline.services.limits import as_text, refused
from moorline.services.verifying import VerifyingService, listed

if TYPE_CHECKING:
    from moorline.events.event import Event

__all__ = ["Clerk"]

_VERSION: Final = "2026-05-12"
_PAGE: Final = 500
_PASSWORD: Final = 8
_HOST: Final = re.compile(r"[A-Za-z0-9.-]+\.[A-Za-z0-9-]+")
_PARTIES: Final = r"https?://[^\s,]+(?:\s*,\s*https?://[^\s,]+)*"
_STATUSES: Final = ("abandoned", "active", "ended", "expired", "removed", "replaced", "revoked")
_EVENTS: Final = {
    "user.created": AuthEventKind.USER_CREATED,
    "user.updated": AuthEventKind.USER_UPDATED,
    "user.deleted": AuthEventKind.USER_DELETED,
    "session.created": AuthEventKind.SIGNED_IN,
    "session.ended": AuthEventKind.SIGNED_OUT,
    "session.removed": AuthEventKind.SIGNED_OUT,
    "session.revoked": AuthEventKind.SIGNED_OUT,
}


class Clerk(VerifyingService):
    """Users by Clerk. Development and production are two instances with keys of their own (``sk_test_…``,
    ``sk_live_…``), of which several are good at once: add, deploy, delete.

    Session tokens are verified here, with the keys that the instance publishes at its Frontend API, which is also their
    issuer: *publishable_key* names it, or *frontend_api* (``https://clerk.shop.example``) does. *authorized_parties*,
    the origins of your pages separated by commas, are what ``azp`` may be: name them where tokens come in a cookie, or
    a page of a sister domain may use it. A token without ``azp`` is then refused, as Clerk's SDKs do. *audience* is for
    tokens into which you have put one.

    A *name* is kept as the first name, *app_metadata* as public and *user_metadata* as unsafe metadata; private
    metadata, and names by halves, are extras (``private_metadata=…``, ``last_name=…``).

    Webhooks come by Svix. They are neither ordered nor immediate: not for the sign-up flow.

    Facts: services/auth/clerk.md; contract: clerk.json.
    """

    name, category = "clerk", "auth"
    docs = "services/auth/clerk.md, clerk.json"
    endpoints = Endpoints("https://api.clerk.com")
    credentials = BearerKey(env="CLERK_SECRET_KEY", sandbox="sk_test_sandbox")
    publishable_key = Parameter("CLERK_PUBLISHABLE_KEY", like=r"pk_(?:test|live)_[A-Za-z0-9+/=_-]+", default="")
    frontend_api = Parameter("CLERK_FRONTEND_API", like=r"https?://[!-~]+", default="")
    authorized_parties = Parameter("CLERK_AUTHORIZED_PARTIES", like=_PARTIES, default="")
    audience = Parameter("CLERK_AUDIENCE", like=r"[!-~]+", default="")
    default_headers = {"Clerk-API-Version": _VERSION}  # noqa: RUF012 (never changed)
    limits = RateLimitHeaders()  # Retry-After in seconds, and no others
    leeway = 5.0  # as Clerk's SDKs have it
    errors = ErrorMap(
        code="errors.0.code",
        message="errors.0.long_message|errors.0.message",
        request_id="clerk_trace_id",
        kinds={"form_identifier_exists": Conflict},
        statuses={402: PermissionDenied},  # the plan lacks the feature
    )
    webhooks = StandardWebhooks(
        prefix="svix-",
        aliases=("webhook-",),  # Clerk's SDKs take these too
        env="CLERK_WEBHOOK_SIGNING_SECRET",
        id="header:svix-id",
        type="type",
        typed=True,
        delivers=Delivers(
            within=15, retries="after 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 10 h; switched off after 5 days of failures"
        ),
    )
    usage = """
from moorline.services import Clerk

clerk = Clerk()
user = clerk.create_user(email="ada@example.com", name="Ada", skip_password_requirement=True).result()
print(user.id, [one.email for one in clerk.list_users(query="ada")])
"""

    def verify_token(self, token: str) -> Verification[VerifiedUser]:
        """Who a session token speaks of: ``await`` it, or ``.result()``. It comes in the cookie ``__session``, or as
        a bearer token.

        Raises InvalidToken, also for a user who has not finished signing in (``sts`` is ``pending``), CallError where
        Clerk's keys cannot be had, ConfigurationError where the Frontend API is not known.
        """
        return Verification(lambda: self._verified(token))

    @operation
    def get_user(self, user_id: str) -> Plan[User]:
        """A user. Raises NotFound."""
        return self.get(f"/v1/users/{segment(user_id, 'user_id')}", parse=_user)

    @operation
    def create_user(
        self,
        /,
        *,
        email: str | None = None,
        password: str | None = None,
        phone: str | None = None,
        name: str | None = None,
        email_verified: bool | None = None,
        app_metadata: dict[str, Any] | None = None,
        user_metadata: dict[str, Any] | None = None,
        **extra: object,
    ) -> Plan[User]:
        """A new user. Addresses count as verified unless *email_verified* is False; *phone* is in E.164.

        *extra* are Clerk's further fields (``last_name``, ``username``, ``external_id``, ``skip_password_requirement``
        for a user without a password, …). Clerk honours no idempotency keys: a lost answer is OutcomeUnknown, and an
        ``external_id`` of yours makes a second try a Conflict.

        Raises InvalidRequest before anything is sent for a password of fewer than 8 characters; Conflict where the
        address, telephone number, name or id is taken (``form_identifier_exists``; unconfirmed).
        """
        status = None if email is None or email_verified is None else ["verified" if email_verified else "reserved"]
        body = given(
            email_address=None if email is None else [email],
            email_address_identification_status=status,
            password=check_password(password, least=_PASSWORD),
            phone_number=None if phone is None else [phone],
            first_name=name,
            public_metadata=app_metadata,
            unsafe_metadata=user_metadata,
        )
        return self.post("/v1/users", json={**body, **extra}, parse=_user)

    @operation
    def update_user(
        self,
        /,
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
    ) -> Plan[User]:
        """Change a user; what is None stays as it is. *extra* are Clerk's further fields.

        Metadata are merged, key by key and deeply, and null takes a key away. Clerk changes them by a request of their
        own: give them alone. Raises InvalidRequest, naming the field, where they are given with others, and for
        *email*, *phone* and *email_verified*, which Clerk changes by ``/v1/email_addresses`` and ``/v1/phone_numbers``
        (use ``request``); NotFound.
        """
        for field, value in {"email": email, "phone": phone, "email_verified": email_verified}.items():
            if value is not None:
                raise refused(field, "is changed by an endpoint of its own (/v1/email_addresses, /v1/phone_numbers)")
        private = extra.pop("private_metadata", None)
        metadata = given(public_metadata=app_metadata, unsafe_metadata=user_metadata, private_metadata=private)
        fields = {**given(password=check_password(password, least=_PASSWORD), first_name=name), **extra}
        path = f"/v1/users/{segment(user_id, 'user_id')}"
        if metadata and fields:
            raise refused("app_metadata", "is changed by a request of its own: give metadata alone")
        if metadata:
            return self.patch(f"{path}/metadata", json=metadata, parse=_user)
        return self.patch(path, json=fields, parse=_user)

    @operation
    def delete_user(self, user_id: str) -> Plan[None]:
        """Delete a user. Raises NotFound."""
        return self.delete(f"/v1/users/{segment(user_id, 'user_id')}", parse=_gone)

    @listing
    def list_users(
        self, /, *, query: str | None = None, email: str | None = None, page_size: int = _PAGE, **extra: object
    ) -> Plan[Page[User]]:
        """All users, the newest first; of those that *query* finds, or who have that *email*. *page_size* is 1 to 500.

        Users who come or go while the pages are read move the others. *extra* are Clerk's further filters
        (``external_id``, ``banned``, ``order_by``, …).
        """
        return self._users(0, _size(page_size), {**given(query=query, email_address=email), **extra})

    @operation
    def count_users(self) -> Plan[int]:
        """How many users there are."""
        return self.get("/v1/users/count", parse=lambda answer: whole(record(answer.data), "total_count"))

    @operation
    def ban_user(self, user_id: str) -> Plan[User]:
        """Let a user sign in no more, and end all sessions. One who is banned stays so. Raises PermissionDenied where
        the plan lacks it (402).
        """
        return self._turned(user_id, "ban")

    @operation
    def unban_user(self, user_id: str) -> Plan[User]:
        """Let a banned user sign in again."""
        return self._turned(user_id, "unban")

    @operation
    def lock_user(self, user_id: str) -> Plan[User]:
        """Let a user sign in no more for the time that the instance's settings say."""
        return self._turned(user_id, "lock")

    @operation
    def unlock_user(self, user_id: str) -> Plan[User]:
        """Let a locked user sign in again."""
        return self._turned(user_id, "unlock")

    @listing
    def list_sessions(
        self, /, user_id: str, *, status: str | None = "active", page_size: int = _PAGE
    ) -> Plan[Page[Session]]:
        """The sessions of a user, the newest first; of all kinds where *status* is None."""
        if status is not None and status not in _STATUSES:
            raise refused("status", f"must be one of {', '.join(_STATUSES)}")
        return self._sessions(0, _size(page_size), given(user_id=as_text("user_id", user_id), status=status))

    @operation
    def revoke_session(self, session_id: str) -> Plan[Session]:
        """End a session. Tokens of it are good for the rest of their minute. Raises NotFound."""
        path = f"/v1/sessions/{segment(session_id, 'session_id')}/revoke"
        return self.post(path, parse=lambda answer: _session(answer.data), repeatable=True)

    @operation
    def check(self) -> Plan[bool]:
        """True if the key is good: counts the users. Raises AuthenticationFailed for one that Clerk does not take."""
        return self.get("/v1/users/count", parse=lambda answer: whole(record(answer.data), "total_count") >= 0)

    @classmethod
    def read_event(cls, event: Event) -> AuthEvent | None:
        """What an event means: ``user.*`` and ``session.*``; None for organizations, mails and all others.

        Of a user who was deleted only the id is told. Raises BadAnswer for an event of another shape.
        """
        kind = _EVENTS.get(event.type)
        if kind is None:
            return None
        told = record(event.payload, "the event")
        data = record(told.get("data"), "data")
        session = event.type.startswith("session.")
        whole_user = not session and kind is not AuthEventKind.USER_DELETED
        return AuthEvent(
            kind,
            event.type,
            user_id=optional_text(data, "user_id") if session else text(data, "id"),
            user=_read(data) if whole_user else None,
            session_id=text(data, "id") if session else None,
            at=milliseconds(told, "timestamp"),
            raw=told,
        )

    def _issuer(self) -> str:
        if self.frontend_api:
            return self.frontend_api.rstrip("/")
        if self.publishable_key:
            return f"https://{_host(self.publishable_key)}"
        if self.base_url != self.endpoints.default:  # the sandbox is all of Clerk
            return self.base_url
        raise ConfigurationError(
            "clerk: session tokens need the Frontend API: set CLERK_PUBLISHABLE_KEY or CLERK_FRONTEND_API"
        )

    def _keys_url(self) -> str:
        return f"{self._issuer()}/.well-known/jwks.json"

    def _verified(self, token: str) -> Steps[VerifiedUser]:
        rules = Rules.of(self._issuer(), self.audience or None, algorithms="RS256", leeway=self.clock_skew)
        claims = yield from checked(token, self.keys, rules, self.clock)
        parties = listed(self.authorized_parties)
        if parties and claims.get("azp") not in parties:
            raise InvalidToken("it was made for a page of another origin (azp)", reason="audience")
        if claims.get("sts") == "pending":
            raise InvalidToken("its user has not finished signing in (sts)", reason="claims")
        return _who(claims)

    def _turned(self, user_id: str, verb: str) -> Plan[User]:
        return self.post(f"/v1/users/{segment(user_id, 'user_id')}/{verb}", parse=_user, repeatable=True)

    def _users(self, offset: int, size: int, query: Mapping[str, object]) -> Plan[Page[User]]:
        def parse(exchange: Exchange) -> Page[User]:
            found = tuple(_read(one) for one in items(exchange.data, "the answer"))
            return Page(found, self._users(offset + size, size, query) if len(found) >= size else None)

        return self.get("/v1/users", query={"limit": size, "offset": offset, **query}, parse=parse)

    def _sessions(self, offset: int, size: int, query: Mapping[str, object]) -> Plan[Page[Session]]:
        def parse(exchange: Exchange) -> Page[Session]:
            listed_ = exchange.data["data"] if isinstance(exchange.data, dict) else exchange.data
            found = tuple(_session(one) for one in items(listed_, "the answer"))
            return Page(found, self._sessions(offset + size, size, query) if len(found) >= size else None)

        return self.get("/v1/sessions", query={"limit": size, "offset": offset, **query}, parse=parse)


def _size(page_size: int) -> int:
    if not 1 <= page_size <= _PAGE:
        raise refused("page_size", f"must be from 1 to {_PAGE}")
    return page_size


def _host(publishable_key: str) -> str:
    encoded = publishable_key.split("_", 2)[2]
    try:
        host = base64.b64decode(encoded + "=" * (-len(encoded) % 4)).decode("ascii")
    except (binascii.Error, ValueError):
        host = ""
    if not host.endswith("$") or not _HOST.fullmatch(host[:-1]):
        raise ConfigurationError("clerk.publishable_key does not hold the host of a Frontend API")
    return host[:-1]


def _who(claims: Claims) -> VerifiedUser:
    chosen = claims.get("o")
    organization: Mapping[str, Any] = chosen if isinstance(chosen, dict) else {}
    actor = claims.get("act")
    role = organization.get("rol")
    return VerifiedUser(
        subject(claims),
        email=claims.text("email"),
        session_id=claims.text("sid"),
        organization=_text_or_none(organization.get("id")),
        roles=frozenset([role]) if isinstance(role, str) else frozenset(),
        permissions=_permissions(claims, organization),
        actor=_text_or_none(actor.get("sub")) if isinstance(actor, dict) else None,
        issued_at=moment_of(claims.issued_at),
        expires_at=moment_of(claims.expires_at),
        raw=claims,
    )


def _permissions(claims: Claims, organization: Mapping[str, Any]) -> frozenset[str]:
    """``org:<feature>:<permission>``: a number for each feature, each of whose bits is a permission."""
    features, names, numbers = claims.get("fea"), organization.get("per"), organization.get("fpm")
    if not (isinstance(features, str) and isinstance(names, str) and isinstance(numbers, str)):
        return frozenset()
    found = set()
    for feature, number in zip(features.split(","), numbers.split(","), strict=False):
        scope, _, word = feature.partition(":")
        if "o" not in scope or not word or not re.fullmatch(r"[0-9]{1,19}", number):
            continue
        found |= {f"org:{word}:{name}" for bit, name in enumerate(names.split(",")) if int(number) >> bit & 1}
    return frozenset(found)


def _text_or_none(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _user(exchange: Exchange) -> User:
    return _read(exchange.data)


def _read(value: object) -> User:
    answer = record(value)
    email = _primary(answer, "email_addresses", "primary_email_address_id")
    phone = _primary(answer, "phone_numbers", "primary_phone_number_id")
    names = [optional_text(answer, name) for name in ("first_name", "last_name")]
    return User(
        id=text(answer, "id"),
        email=None if email is None else text(email, "email_address"),
        email_verified=None if email is None else _verified_address(email),
        phone=None if phone is None else text(phone, "phone_number"),
        name=" ".join(one for one in names if one) or None,
        username=optional_text(answer, "username"),
        picture=optional_text(answer, "image_url"),
        disabled=flag(answer, "banned") or flag(answer, "locked"),
        created_at=milliseconds(answer, "created_at"),
        updated_at=milliseconds(answer, "updated_at"),
        last_sign_in_at=milliseconds(answer, "last_sign_in_at"),
        app_metadata=record(answer.get("public_metadata") or {}, "public_metadata"),
        user_metadata=record(answer.get("unsafe_metadata") or {}, "unsafe_metadata"),
        raw=answer,
    )


def _primary(answer: Mapping[str, Any], several: str, chosen: str) -> Mapping[str, Any] | None:
    wanted = optional_text(answer, chosen)
    for one in items(answer.get(several) or [], several):
        if wanted is not None and record(one, several).get("id") == wanted:
            return record(one, several)
    return None


def _verified_address(address: Mapping[str, Any]) -> bool:
    return record(address.get("verification") or {}, "verification").get("status") == "verified"


def _session(value: object) -> Session:
    answer = record(value)
    status = text(answer, "status")
    return Session(
        text(answer, "id"),
        text(answer, "user_id"),
        status,
        active=status == "active",
        created_at=milliseconds(answer, "created_at"),
        expires_at=milliseconds(answer, "expire_at"),
        last_active_at=milliseconds(answer, "last_active_at"),
        raw=answer,
    )


def _gone(exchange: Exchange) -> None:
    if not flag(record(exchange.data), "deleted"):
        raise BadAnswer("the answer does not say that the user is deleted")
