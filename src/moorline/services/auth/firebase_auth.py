"""Firebase Authentication: who an ID token or a session cookie speaks of, users, blocking functions.

Facts: services/auth/firebase_auth.md; contract: firebase_auth.json. The variables are Google's (as FCM's) and
``FIREBASE_AUTH_EMULATOR_HOST``, which Firebase's own SDKs read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, ClassVar, Final

from moorline.calls.service import (
    Endpoints,
    ErrorMap,
    Exchange,
    Page,
    Parameter,
    Plan,
    listing,
    operation,
    segment,
)
from moorline.calls.tokens import KeyFile, ServiceAccount, key_file
from moorline.errors import (
    AuthenticationFailed,
    BadAnswer,
    ConfigurationError,
    Conflict,
    InvalidRequest,
    InvalidToken,
    NotFound,
    PermissionDenied,
    RateLimited,
)
from moorline.identity.keys import KeyCache
from moorline.identity.tokens import Claims, Rules, header_of, judged, part_of
from moorline.identity.verification import Steps, Verification, checked
from moorline.secrets.secret import Secret
from moorline.services.answers import flag, items, milliseconds, optional_text, record, text
from moorline.services.auth.protocol import User, VerifiedUser, check_password, given, moment_of, subject
from moorline.services.blocking import BlockingEvent, blocking_event, claims_text, jwt_in
from moorline.services.google_keys import ServiceAccountKeys
from moorline.services.limits import as_text, at_most, refused
from moorline.services.verifying import VerifyingService

__all__ = ["DeletedUsers", "FirebaseAuth"]

_SCOPE: Final = "https://www.googleapis.com/auth/identitytoolkit"
_GOOGLE: Final = "https://www.googleapis.com"
_ID_TOKENS: Final = "/robot/v1/metadata/x509/securetoken@system.gserviceaccount.com"
_COOKIES: Final = "/identitytoolkit/v3/relyingparty/publicKeys"
_EMULATOR: Final = "FIREBASE_AUTH_EMULATOR_HOST"
_LOCAL: Final = re.compile(r"(?:localhost|127\.0\.0\.1|\[::1\]):[0-9]{1,5}")
_PAGE: Final = 1000
_UID: Final = 128
_DAYS: Final = 14
_UNKNOWN: Final = ("USER_NOT_FOUND", "EMAIL_NOT_FOUND", "TENANT_NOT_FOUND")
_TAKEN: Final = ("EMAIL_EXISTS", "DUPLICATE_EMAIL", "DUPLICATE_LOCAL_ID", "PHONE_NUMBER_EXISTS")
_TOKENS: Final = ("INVALID_ID_TOKEN", "TOKEN_EXPIRED", "USER_DISABLED")
_LIMITS: Final = ("QUOTA_EXCEEDED", "RESOURCE_EXHAUSTED", "TOO_MANY_ATTEMPTS_TRY_LATER")


@dataclass(frozen=True, slots=True)
class _Errors(ErrorMap):
    """The code is the message, or what stands before a colon in it."""

    def data(self, exchange: Exchange) -> Any:
        """``code`` and ``message``; None for an error page of some proxy."""
        try:
            error = exchange.data["error"]
            code, colon, words = error["message"].partition(":")
        except (BadAnswer, TypeError, KeyError, AttributeError):
            return None
        if not re.fullmatch(r"[A-Z][A-Z0-9_]+", code.strip()):  # Google's general words, with a status beside them
            return {"code": error.get("status"), "message": error["message"]}
        return {"code": code.strip(), "message": words.strip() if colon else code.strip()}


@dataclass(frozen=True, slots=True)
class DeletedUsers:
    """What became of several users: *deleted* are the ids of those who are gone, *failed* Firebase's words on the
    others.
    """

    deleted: tuple[str, ...]
    failed: Mapping[str, str] = field(default_factory=dict)


@cache
def _owner() -> Secret:
    """What the emulator takes for a token. A word that is masked from then on: only where there is an emulator."""
    return Secret("owner", name="the emulator's key")


class FirebaseAuth(VerifyingService, ServiceAccountKeys):
    """Users by Firebase Authentication (Identity Platform).

    The credential is the key file of a service account, as JSON or as a path; of its keys several may be in use at
    once: add, deploy, delete. Its project is used unless *project_id* says otherwise, and the whole project unless
    *tenant_id* names a tenant; then only tokens of that tenant are believed. To verify tokens the project alone is
    needed, and no key.

    ``FIREBASE_AUTH_EMULATOR_HOST`` (``127.0.0.1:9099``) points it at the official emulator, where no credential is
    wanted. The emulator's tokens are not signed by anybody: they are believed only while that variable names a port of
    this machine, and never otherwise, whatever a token says. It may name no other machine.

    *app_metadata* are the user's custom claims, which come into the next ID token (within the hour); they are replaced
    as a whole. Firebase keeps no *user_metadata*. What happens to users it tells through Google's event system, not by
    HTTP; blocking functions do come by HTTP, and want an answer: see ``verify_blocking``.

    Facts: services/auth/firebase_auth.md; contract: firebase_auth.json.
    """

    name, category = "firebase_auth", "auth"
    docs = "services/auth/firebase_auth.md, firebase_auth.json"
    endpoints = Endpoints("https://identitytoolkit.googleapis.com")
    credentials = KeyFile(env="GOOGLE_APPLICATION_CREDENTIALS", service="firebase_auth")
    tokens = ServiceAccount(_SCOPE)
    project_id = Parameter("GOOGLE_CLOUD_PROJECT", like=r"[a-z][a-z0-9\-]{4,28}[a-z0-9]", default="")
    tenant_id = Parameter("FIREBASE_AUTH_TENANT", like=r"[A-Za-z0-9\-]{1,64}", default="")
    leeway = 0.0  # as Firebase's SDKs have it
    errors = _Errors(
        code="code",
        message="message",
        kinds={
            **dict.fromkeys(_UNKNOWN, NotFound),
            **dict.fromkeys(_TAKEN, Conflict),
            **dict.fromkeys(_TOKENS, InvalidRequest),  # a user's token that we passed on, not our own
            **dict.fromkeys(_LIMITS, RateLimited),
            "INSUFFICIENT_PERMISSION": PermissionDenied,
            "CONFIGURATION_NOT_FOUND": PermissionDenied,  # sign-in was never switched on in the project
            "UNAUTHENTICATED": AuthenticationFailed,
            "PERMISSION_DENIED": PermissionDenied,
        },
    )
    lacks: ClassVar[Mapping[str, str]] = {
        "webhooks": "Firebase sends none; its blocking functions want an answer at once (verify_blocking)"
    }
    usage: ClassVar[str] = """
from moorline.services import FirebaseAuth

firebase = FirebaseAuth()
user = firebase.create_user(email="ada@example.com", password="correct-horse-9").result()
firebase.set_claims(user.id, {"role": "admin"}).result()
print(user.id, firebase.get_user(user.id).result().app_metadata)
"""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.cookie_keys = KeyCache(partial(self._published, _COOKIES), owner=self, keeping=self.keeping)

    # Tokens ----------------------------------------------------------------------------------------------------------

    def verify_token(self, token: str) -> Verification[VerifiedUser]:
        """Who an ID token speaks of: ``await`` it, or ``.result()``.

        A session cookie, a custom token, and a Google account's ID token are refused. It does not ask whether the
        sessions of the user were revoked, or the user disabled, since: for that read the user, and see ``is_revoked``.

        Raises InvalidToken, CallError where Google's certificates cannot be had, ConfigurationError without a project.
        """
        return Verification(lambda: self._verified(token, "https://securetoken.google.com", self.keys))

    def verify_session(self, cookie: str) -> Verification[VerifiedUser]:
        """Who a session cookie of ``create_session_cookie`` speaks of. As ``verify_token``."""
        return Verification(lambda: self._verified(cookie, "https://session.firebase.google.com", self.cookie_keys))

    def verify_blocking(self, body: bytes, *, url: str) -> Verification[BlockingEvent]:
        """What a blocking function is asked, from the request's raw *body*; *url* is the address that it was sent to,
        exactly as it is registered.

        Answer within 7 s (unconfirmed) with ``blocking_answer`` or ``blocking_refusal`` of
        :mod:`moorline.services.blocking`. Raises as ``verify_token``.
        """
        return Verification(lambda: self._blocked(body, url))

    @staticmethod
    def is_revoked(user: User, verified: VerifiedUser) -> bool:
        """Whether a verified token is over before its time: its *user*, read just now, was disabled, or the sessions
        were revoked after it began.
        """
        since, began = user.raw.get("validSince"), verified.raw.get("auth_time", 0)
        if user.disabled or user.id != verified.id:
            return True
        return isinstance(since, str) and since.isdecimal() and began < int(since)

    @operation
    def create_session_cookie(self, id_token: str, *, seconds: int = 432_000) -> Plan[Secret]:
        """A session cookie in place of an ID token, good for so many *seconds*: 5 minutes to 14 days.

        Give it only for a token that was made just now (its ``auth_time``), and check for CSRF. Raises InvalidRequest
        for a token that Firebase does not take.
        """
        if not 300 <= seconds <= _DAYS * 86_400:
            raise refused("seconds", f"must be from 300 to {_DAYS * 86_400} ({_DAYS} days)")
        body = {"idToken": as_text("id_token", id_token), "validDuration": str(seconds)}
        return self.post(f"{self._root()}:createSessionCookie", json=body, parse=_cookie, repeatable=True)

    # Users -----------------------------------------------------------------------------------------------------------

    @operation
    def get_user(self, user_id: str) -> Plan[User]:
        """A user. Raises NotFound (Firebase itself answers 200)."""
        return self._looked_up({"localId": [_uid(user_id)]}, parse=_one)

    @operation
    def users_by_email(self, email: str) -> Plan[tuple[User, ...]]:
        """The users who have that address; none where there is none."""
        return self._looked_up({"email": [as_text("email", email)]}, parse=_some)

    @operation
    def users_by_phone(self, phone: str) -> Plan[tuple[User, ...]]:
        """The users who have that number (E.164); none where there is none."""
        return self._looked_up({"phoneNumber": [as_text("phone", phone)]}, parse=_some)

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
        """A new user. Firebase answers with the id alone: the rest of the result is what was sent.

        *extra* are Firebase's further fields (``localId``, an id of yours; ``photoUrl``, ``disabled``). Firebase
        honours no idempotency keys: a lost answer is OutcomeUnknown, and a ``localId`` makes a second try a Conflict.

        Raises InvalidRequest, naming the field, for *app_metadata* (use ``set_claims`` afterwards) and *user_metadata*;
        Conflict where the address, number or id is taken.
        """
        if app_metadata is not None:
            raise refused("app_metadata", "is set by a request of its own: use set_claims")
        body = {**_fields(email, password, phone, name, user_metadata, email_verified=email_verified), **extra}
        if "localId" in body:
            _uid(body["localId"])

        def parse(exchange: Exchange) -> User:
            answer = record(exchange.data)
            known = {**body, "localId": text(answer, "localId")}
            return _read({name: value for name, value in known.items() if name != "password"}, answer)

        return self.post(f"{self._root()}/accounts", json=body, parse=parse)

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
        """Change a user; what is None stays as it is. *app_metadata* takes the place of all custom claims.

        *extra* are Firebase's further fields (``photoUrl``, ``disableUser``, ``deleteAttribute``, ``deleteProvider``).
        The result has what Firebase answers, which is not all. Raises NotFound, Conflict.
        """
        body = {**_fields(email, password, phone, name, user_metadata, email_verified=email_verified), **extra}
        if app_metadata is not None:
            body["customAttributes"] = _claims("app_metadata", app_metadata)
        return self._changed(user_id, body, parse=_user)

    @operation
    def delete_user(self, user_id: str) -> Plan[None]:
        """Delete a user. Raises NotFound."""
        return self.post(f"{self._root()}/accounts:delete", json={"localId": _uid(user_id)}, parse=lambda _: None)

    @operation
    def delete_users(self, user_ids: Iterable[str]) -> Plan[DeletedUsers]:
        """Delete up to 1000 users, whether they are disabled or not. The failure of one is told in the result."""
        wanted = [_uid(one) for one in dict.fromkeys(user_ids)]
        at_most("user_ids", wanted, _PAGE, "users")
        if not wanted:
            raise refused("user_ids", "must name somebody")
        body = {"localIds": wanted, "force": True}
        return self.post(f"{self._root()}/accounts:batchDelete", json=body, parse=partial(_deleted, tuple(wanted)))

    @listing
    def list_users(self, /, *, page_size: int = _PAGE) -> Plan[Page[User]]:
        """All users, in the order of their ids. *page_size* is 1 to 1000."""
        if not 1 <= page_size <= _PAGE:
            raise refused("page_size", f"must be from 1 to {_PAGE}")
        return self._users({"maxResults": page_size})

    @operation
    def set_claims(self, user_id: str, claims: dict[str, Any]) -> Plan[None]:
        """Set all custom claims of a user; ``{}`` takes them away. They come into the next ID token (within the hour).

        Raises InvalidRequest for more than 1000 characters as JSON, and for names that tokens have already.
        """
        body = {"customAttributes": _claims("claims", claims)}
        return self._changed(user_id, body, parse=lambda _: None, repeatable=True)

    @operation
    def revoke_sessions(self, user_id: str) -> Plan[None]:
        """End all sessions of a user: no refresh token of before counts any more. ID tokens do until they end; see
        ``is_revoked``.
        """
        body = {"validSince": str(int(self.clock.wall()))}
        return self._changed(user_id, body, parse=lambda _: None, repeatable=True)

    @operation
    def disable_user(self, user_id: str) -> Plan[None]:
        """Let a user sign in no more. Raises NotFound."""
        return self._changed(user_id, {"disableUser": True}, parse=lambda _: None, repeatable=True)

    @operation
    def enable_user(self, user_id: str) -> Plan[None]:
        """Let a disabled user sign in again. Raises NotFound."""
        return self._changed(user_id, {"disableUser": False}, parse=lambda _: None, repeatable=True)

    @operation
    def check(self) -> Plan[bool]:
        """True if the key is good and may read users: looks for one who is not there.

        Raises AuthenticationFailed for a key that Google does not take, PermissionDenied without the role, or where
        sign-in was never switched on in the project.
        """
        return self._looked_up({"localId": ["moorline-check"]}, parse=lambda answer: len(_some(answer)) <= 1)

    # Within ----------------------------------------------------------------------------------------------------------

    @property
    def emulated(self) -> bool:
        """Whether the environment points it at the emulator, on this machine.

        Raises ConfigurationError where the variable names another machine: what it says would be believed.
        """
        host = os.environ.get(_EMULATOR, "").strip()
        if not host or self._base_url is not None:
            return False
        if not _LOCAL.fullmatch(host):
            raise ConfigurationError(f"{_EMULATOR} must name a port of this machine, such as 127.0.0.1:9099")
        return True

    @property
    def base_url(self) -> str:
        """Where requests go: the argument, else the emulator or the sandbox if the environment names one."""
        if self.emulated:
            return f"http://{os.environ[_EMULATOR].strip()}/identitytoolkit.googleapis.com"
        return super().base_url

    async def aclose(self) -> None:
        """Close the connections on the running loop, and the blocking ones."""
        await super().aclose()
        await self.cookie_keys.aclose()

    def close(self) -> None:
        """Close the connections of blocking calls."""
        super().close()
        self.cookie_keys.close()

    def without_token(self) -> Secret | None:
        """The emulator's key is a word."""
        return _owner() if self.emulated else None

    def _keys_url(self) -> str:
        return self._published(_ID_TOKENS)

    def _published(self, path: str) -> str:
        base = self.base_url
        return f"{_GOOGLE if base == self.endpoints.default else base}{path}"

    def _project(self) -> str:
        found: Any = self.project_id
        if not found and not self.emulated:
            found = key_file(self.secret(), self.name).get("project_id")
        if not isinstance(found, str) or not found:
            raise ConfigurationError("firebase_auth has no project_id: no key file names one; set GOOGLE_CLOUD_PROJECT")
        return segment(found, "project_id")

    def _root(self) -> str:
        tenant = f"/tenants/{segment(self.tenant_id, 'tenant_id')}" if self.tenant_id else ""
        return f"/v1/projects/{self._project()}{tenant}"

    def _verified(self, token: str, issuer: str, keys: KeyCache) -> Steps[VerifiedUser]:
        project = self._project()
        claims = yield from self._proven(token, Rules.of(f"{issuer}/{project}", project, **self._how()), keys)
        if claims["aud"] != project:
            raise InvalidToken("it was made for several audiences", reason="audience")
        found = subject(claims)
        if len(found) > _UID:
            raise InvalidToken("its subject is too long", reason="claims")
        began = claims.moment("auth_time")
        if began is None or claims.issued_at is None or began > self.clock.wall() + self.clock_skew:
            raise InvalidToken("its user has not signed in yet (auth_time)", reason="claims")
        own = claims.get("firebase")
        firebase: Mapping[str, Any] = own if isinstance(own, dict) else {}
        if self.tenant_id and firebase.get("tenant") != self.tenant_id:
            raise InvalidToken("it is of another tenant", reason="claims")
        return _who(claims, firebase)

    def _blocked(self, body: bytes, url: str) -> Steps[BlockingEvent]:
        rules = Rules.of(f"https://securetoken.google.com/{self._project()}", url, **self._how())
        claims = yield from self._proven(jwt_in(body), rules, self.keys)
        return blocking_event(claims)

    def _how(self) -> dict[str, Any]:
        return {"algorithms": "RS256", "leeway": self.clock_skew}

    def _proven(self, token: str, rules: Rules, keys: KeyCache) -> Steps[Claims]:
        algorithm, key_id, parts = header_of(token)
        if self.emulated:  # whose tokens nobody signs: what else would be signed is none of its
            if algorithm != "none" or parts[2]:
                raise InvalidToken("the emulator's tokens are not signed, and this one is", reason="algorithm")
            return judged(part_of(parts[1], "claims"), rules, now=self.clock.wall())
        if key_id is None:
            raise InvalidToken("it names no key (kid)", reason="key")
        return (yield from checked(token, keys, rules, self.clock))

    def _looked_up(self, body: Mapping[str, Any], parse: Any) -> Plan[Any]:
        return self.post(f"{self._root()}/accounts:lookup", json=body, parse=parse, repeatable=True)

    def _changed(self, user_id: str, body: Mapping[str, Any], parse: Any, **plan: Any) -> Plan[Any]:
        return self.post(
            f"{self._root()}/accounts:update", json={"localId": _uid(user_id), **body}, parse=parse, **plan
        )

    def _users(self, query: Mapping[str, object]) -> Plan[Page[User]]:
        def parse(exchange: Exchange) -> Page[User]:
            found, after = _some(exchange), optional_text(record(exchange.data), "nextPageToken")
            if after and after == query.get("nextPageToken"):
                raise BadAnswer("the listing does not advance")
            # The emulator names a next page behind the last one, too.
            return Page(found, self._users({**query, "nextPageToken": after}) if after and found else None)

        return self.get(f"{self._root()}/accounts:batchGet", query=query, parse=parse)


def _uid(value: Any) -> str:
    if not 1 <= len(as_text("user_id", value)) <= _UID:
        raise refused("user_id", f"must have from 1 to {_UID} characters")
    return str(value)


def _claims(field_name: str, claims: Mapping[str, Any]) -> str:
    try:
        return claims_text(field_name, claims)
    except ConfigurationError as error:
        raise refused(field_name, str(error).removeprefix(f"{field_name}: ").removeprefix(f"{field_name} ")) from None


def _fields(
    email: str | None,
    password: str | None,
    phone: str | None,
    name: str | None,
    user_metadata: Mapping[str, Any] | None,
    *,
    email_verified: bool | None,
) -> dict[str, Any]:
    if user_metadata is not None:
        raise refused("user_metadata", "is nothing that Firebase keeps; app_metadata are its custom claims")
    return given(
        email=email,
        password=check_password(password),
        phoneNumber=phone,
        displayName=name,
        emailVerified=email_verified,
    )


def _who(claims: Claims, firebase: Mapping[str, Any]) -> VerifiedUser:
    verified, tenant = claims.get("email_verified"), firebase.get("tenant")
    return VerifiedUser(
        subject(claims),
        email=claims.text("email"),
        email_verified=verified if isinstance(verified, bool) else None,
        phone=claims.text("phone_number"),
        name=claims.text("name"),
        organization=tenant if isinstance(tenant, str) else None,
        anonymous=firebase.get("sign_in_provider") == "anonymous",
        issued_at=moment_of(claims.issued_at),
        expires_at=moment_of(claims.expires_at),
        raw=claims,
    )


def _cookie(exchange: Exchange) -> Secret:
    return Secret(text(record(exchange.data), "sessionCookie"), name="the session cookie")


def _some(exchange: Exchange) -> tuple[User, ...]:
    return tuple(_read(record(one), one) for one in items(record(exchange.data).get("users", []), "users"))


def _one(exchange: Exchange) -> User:
    found = _some(exchange)
    if not found:
        raise NotFound("there is no user of that id", code="USER_NOT_FOUND")
    return found[0]


def _user(exchange: Exchange) -> User:
    return _read(record(exchange.data), exchange.data)


def _deleted(wanted: tuple[str, ...], exchange: Exchange) -> DeletedUsers:
    failed: dict[str, str] = {}
    for one in items(record(exchange.data).get("errors", []), "errors"):
        fault = record(one, "errors")
        at = fault.get("index", 0)  # protocol buffers leave a 0 out
        if not isinstance(at, int) or not 0 <= at < len(wanted):
            raise BadAnswer("the answer tells of a user who was not named")
        failed[wanted[at]] = optional_text(fault, "message") or "refused"
    return DeletedUsers(tuple(one for one in wanted if one not in failed), failed)


def _read(answer: Mapping[str, Any], raw: Mapping[str, Any]) -> User:
    email = optional_text(answer, "email")
    attributes = optional_text(answer, "customAttributes")
    return User(
        id=text(answer, "localId"),
        email=email,
        email_verified=None if email is None else flag(answer, "emailVerified"),
        phone=optional_text(answer, "phoneNumber"),
        name=optional_text(answer, "displayName"),
        picture=optional_text(answer, "photoUrl"),
        disabled=flag(answer, "disabled"),
        created_at=milliseconds(answer, "createdAt"),
        last_sign_in_at=milliseconds(answer, "lastLoginAt"),
        app_metadata=_attributes(attributes),
        raw=raw,
    )


def _attributes(given_text: str | None) -> Mapping[str, Any]:
    """JSON within JSON."""
    if not given_text:
        return {}
    try:
        return record(Exchange(200, {}, given_text.encode()).data, "customAttributes")
    except UnicodeEncodeError:
        raise BadAnswer("'customAttributes' in the answer is no JSON") from None
