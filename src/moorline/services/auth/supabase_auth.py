"""Supabase Auth (GoTrue): who an access token speaks of, users, its HTTP hooks and their answers.

Facts: services/auth/supabase_auth.md; contract: supabase_auth.json (which lacks the creation of users: the card has
it). The variables are those of supabase.com/docs (``SUPABASE_URL``, ``SUPABASE_SECRET_KEY``,
``SUPABASE_SERVICE_ROLE_KEY``, ``SUPABASE_JWT_SECRET``); ``SUPABASE_JWT_ISSUER`` and ``SUPABASE_AUTH_HOOK_SECRET`` are
ours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from moorline.calls.dialects import in_header
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
from moorline.errors import AuthenticationFailed, ConfigurationError, Conflict, InvalidToken, NotFound, PermissionDenied
from moorline.events.delivery import Delivers, Reply
from moorline.events.schemes.standard_webhooks import StandardWebhooks
from moorline.identity.keyset import KeySet
from moorline.identity.tokens import Claims, Rules, header_of
from moorline.identity.verification import Steps, Verification, checked
from moorline.secrets.locker import secrets
from moorline.secrets.secret import Secret
from moorline.services.answers import items, moment, optional_text, record, text
from moorline.services.auth.protocol import (
    AuthEvent,
    AuthEventKind,
    User,
    VerifiedUser,
    check_password,
    given,
    moment_of,
    subject,
)
from moorline.services.limits import as_text, refused
from moorline.services.verifying import VerifyingService

if TYPE_CHECKING:
    from moorline.events.event import Event

__all__ = ["SupabaseAuth"]

_VERSION: Final = "2024-01-01"
_PAGE: Final = 50
_MOST: Final = 1000  # ours: the card names no limit
_LOCAL: Final = r"http://(?:localhost|127\.0\.0\.1|\[::1\])(?::[0-9]+)?/?"
_SCOPES: Final = ("global", "local", "others")
_NO_USERS: Final = frozenset({"anon", "service_role"})
_FOR_EVER: Final = "876000h"
_CLAIMS: Final = frozenset(
    {"aal", "aud", "email", "exp", "iat", "is_anonymous", "phone", "role", "session_id", "sub"}
)  # MinimumViableTokenSchema in GoTrue's tokens/service.go
_SANDBOX_SECRET: Final = "the-sandbox-of-moorline-shares-this-jwt-secret"  # noqa: S105 (it unlocks nothing)


@dataclass(frozen=True, slots=True)
class _Keys:
    """A secret key of the new kind goes into ``apikey`` alone; the older service_role key, a JWT, into both headers."""

    env: str
    sandbox: str = ""

    def headers(self, secret: Secret) -> dict[str, str]:
        """The headers with the key."""
        value = in_header(secret, self.env)
        return {"apikey": value} if value.startswith("sb_") else {"apikey": value, "Authorization": f"Bearer {value}"}


class SupabaseAuth(VerifyingService):
    """Users by Supabase Auth. There is no test mode: use a second project, or the local one of the command line.

    *url* is the project's (``https://<ref>.supabase.co``, or a custom domain); for a GoTrue of your own give its own
    address as *base_url*, and, where its tokens name another, the *issuer*. The key is a secret key (``sb_secret_…``,
    of which several are good at once) or the older ``service_role`` key.

    Access tokens are verified here, with the keys that the project publishes (ES256, RS256). A project that still signs
    with its shared secret publishes none: give the secret as *jwt_secret* (a string or a ``moorline.Secret``), or in
    ``SUPABASE_JWT_SECRET``, where an older one may stand beside it. Without it ``current_user`` has Supabase look at
    such a token. A token stays good until it ends, also after its user has signed out or was banned.

    A *name* is kept as ``name`` in the user's own metadata. Telephone numbers are in E.164; Supabase keeps them without
    the plus.

    Hooks over HTTP: a sign-in waits for them. They are answered ``{}``, which means "go on": right for send-sms,
    send-email, before- and after-user-created, whose work a handler does afterwards. Hooks that decide
    (customize-access-token, mfa- and password-verification) want an answer of their own: return ``hook_claims``,
    ``hook_decision`` or ``hook_refusal`` from an answering function. Most hooks do not say what they are (their type is
    empty): use one URL for each. A retry comes with a new id, so events are known by their content, but no longer
    than 10 s: retries end after 5, and a later hook with the same content (a second wrong password) is another event.
    Database webhooks (pg_net) are another product, and unsigned. The secret is ``v1,whsec_…`` as shown.

    Facts: services/auth/supabase_auth.md; contract: supabase_auth.json.
    """

    name, category = "supabase_auth", "auth"
    docs = "services/auth/supabase_auth.md, supabase_auth.json"
    endpoints = Endpoints("https://project.supabase.co/auth/v1")  # never used: each project has its own
    credentials = _Keys(env="SUPABASE_SECRET_KEY", sandbox="sb_secret_sandbox")
    url = Parameter("SUPABASE_URL", sandbox="https://sandbox.supabase.co", like=rf"https://[!-~]+|{_LOCAL}")
    issuer = Parameter("SUPABASE_JWT_ISSUER", default="")
    default_headers = {"X-Supabase-Api-Version": _VERSION}  # noqa: RUF012 (never changed)
    errors = ErrorMap(
        code="error_code|code|error",
        message="message|msg|error_description",
        kinds={
            **dict.fromkeys(("email_exists", "phone_exists", "user_already_exists"), Conflict),
            **dict.fromkeys(("no_authorization", "bad_jwt", "session_not_found"), AuthenticationFailed),
            "not_admin": PermissionDenied,
            "user_not_found": NotFound,
        },
        retry=frozenset({"conflict"}),
    )
    webhooks = StandardWebhooks(
        env="SUPABASE_AUTH_HOOK_SECRET",  # no name is customary in the card: unconfirmed
        type="metadata.name",
        commas=True,  # several signatures are joined by a comma and a space
        dedup="content",
        repeats_after=10,
        answer=Reply(200, b"{}"),
        delivers=Delivers(
            within=5, retries="up to 3 tries within those 5 s: connection errors, and 429 or 503 with Retry-After"
        ),
    )
    usage = """
from moorline.services import SupabaseAuth

supabase = SupabaseAuth()
user = supabase.create_user(email="ada@example.com", email_verified=True, app_metadata={"plan": "pro"}).result()
print(user.id, [one.email for one in supabase.list_users()])
"""

    def __init__(self, *arguments: Any, jwt_secret: str | Secret | None = None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        secret = Secret(jwt_secret, name="supabase_auth.jwt_secret") if isinstance(jwt_secret, str) else jwt_secret
        self._shared = None if secret is None else KeySet.of_secrets(secret)

    def verify_token(self, token: str) -> Verification[VerifiedUser]:
        """Who an access token speaks of: ``await`` it, or ``.result()``. *app_metadata* are those of the token.

        The keys of a project (``anon``, ``service_role``) are tokens too, and are refused. Raises InvalidToken, also
        for one that is signed with a shared secret which is not known here; CallError where the keys cannot be had.
        """
        return Verification(lambda: self._verified(token))

    @operation
    def current_user(self, access_token: str) -> Plan[User]:
        """The user of an access token, by Supabase's own word: as it is now, and whatever the token is signed with.

        Raises AuthenticationFailed for a token that Supabase does not take, or whose session is over.
        """
        return self.get("/user", headers=_bearer(access_token), parse=self._user)

    @operation
    def sign_out(self, access_token: str, *, scope: str = "global") -> Plan[None]:
        """End the sessions of a token's user: all of them, this one (``local``), or all but this one (``others``).

        Access tokens stay good until they end. Raises AuthenticationFailed.
        """
        if scope not in _SCOPES:
            raise refused("scope", f"must be one of {', '.join(_SCOPES)}")
        headers = _bearer(access_token)
        return self.post("/logout", query={"scope": scope}, headers=headers, parse=lambda _: None, blank=True)

    @operation
    def get_user(self, user_id: str) -> Plan[User]:
        """A user. Raises NotFound."""
        return self.get(_path(user_id), parse=self._user)

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
        """A new user; no mail is sent. One whose address is not *email_verified* cannot sign in by it.

        *extra* are Supabase's further fields (``phone_confirm``, ``role``, ``password_hash``, ``id``, …). Supabase
        honours no idempotency keys: a lost answer is OutcomeUnknown, and an ``id`` of yours (a UUID) makes a
        second try a Conflict.

        Raises InvalidRequest without *email* and *phone*, and for a weak password; Conflict where the address or number
        is taken.
        """
        if email is None and phone is None:
            raise refused("email", "or phone is needed")
        body = _fields(email, password, phone, name, user_metadata, email_verified=email_verified)
        return self.post("/admin/users", json={**body, **given(app_metadata=app_metadata), **extra}, parse=self._user)

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
        """Change a user; what is None stays as it is. Metadata are merged key by key, and null takes a key away.

        *extra* are Supabase's further fields. Raises NotFound, Conflict.
        """
        body = _fields(email, password, phone, name, user_metadata, email_verified=email_verified)
        return self.put(_path(user_id), json={**body, **given(app_metadata=app_metadata), **extra}, parse=self._user)

    @operation
    def delete_user(self, user_id: str, *, soft: bool = False) -> Plan[None]:
        """Delete a user; with *soft* what is known of them is made unreadable, and the id kept. Raises NotFound."""
        body = {"should_soft_delete": True} if soft else None
        return self.delete(_path(user_id), json=body, parse=lambda _: None, blank=True)

    @operation
    def ban_user(self, user_id: str, *, hours: int | None = None) -> Plan[User]:
        """Let a user sign in no more, for so many *hours* or for ever (a hundred years)."""
        if hours is not None and not 1 <= hours <= 876_000:
            raise refused("hours", "must be from 1 to 876000")
        duration = _FOR_EVER if hours is None else f"{hours}h"
        return self.put(_path(user_id), json={"ban_duration": duration}, parse=self._user)

    @operation
    def unban_user(self, user_id: str) -> Plan[User]:
        """Let a banned user sign in again."""
        return self.put(_path(user_id), json={"ban_duration": "none"}, parse=self._user)

    @listing
    def list_users(self, /, *, page_size: int = _PAGE, **extra: object) -> Plan[Page[User]]:
        """All users, page by page. *page_size* is 1 to 1000. Users who come or go meanwhile move the others. *extra*
        are Supabase's ``filter`` and ``sort``.
        """
        if not 1 <= page_size <= _MOST:
            raise refused("page_size", f"must be from 1 to {_MOST}")
        return self._users(1, {"per_page": page_size, **extra}, page_size)

    @operation
    def check(self) -> Plan[bool]:
        """True if the key is good and may manage users: reads one.

        Raises AuthenticationFailed for a key that Supabase does not take, PermissionDenied for one of the public.
        """
        query = {"page": 1, "per_page": 1}
        return self.get("/admin/users", query=query, parse=lambda answer: len(_rows(answer)) <= 1)

    @classmethod
    def read_event(cls, event: Event) -> AuthEvent | None:
        """What a hook means: after-user-created; None for those that come before something happens, or do not say what
        they are. Raises BadAnswer for an event of another shape.
        """
        if event.type != "after-user-created":
            return None
        told = record(event.payload, "the event")
        user = _read(record(told.get("user"), "user"), event.received_at)
        at = moment(record(told.get("metadata"), "metadata"), "time")
        return AuthEvent(AuthEventKind.USER_CREATED, event.type, user.id, user, at=at, raw=told)

    @staticmethod
    def hook_refusal(message: str, *, http_code: int = 403) -> Reply:
        """The answer to a hook that says no; *message* is shown to the user. Raises ConfigurationError for an empty
        one, which Supabase takes for a yes.
        """
        if not message or not 400 <= http_code <= 599:
            raise ConfigurationError("a refusal needs a message, and an http_code from 400 to 599")
        return _reply({"error": {"http_code": http_code, "message": message}})

    @staticmethod
    def hook_claims(claims: Mapping[str, Any]) -> Reply:
        """The answer to customize-access-token: all claims of the new token. Raises ConfigurationError, naming them,
        where some are missing that Supabase must find.
        """
        missing = sorted(_CLAIMS - claims.keys())
        if missing:
            raise ConfigurationError(f"the claims lack {', '.join(missing)}")
        return _reply({"claims": dict(claims)})

    @staticmethod
    def hook_decision(*, reject: bool, message: str = "") -> Reply:
        """The answer to mfa- and password-verification; *message* is shown to a user who is rejected."""
        decision = {"decision": "reject" if reject else "continue"}
        return _reply(decision | ({"message": message} if message else {}))

    def authorized(
        self,
        key: Secret,
        method: str,  # noqa: ARG002
        url: str,  # noqa: ARG002
        headers: dict[str, str],
        body: bytes | None,  # noqa: ARG002
    ) -> dict[str, str]:
        """The key's headers, and those of the request, whose own ``Authorization`` is a user's."""
        return {**self.credentials.headers(key), **headers}

    def _key_variable(self) -> str:
        older = "SUPABASE_SERVICE_ROLE_KEY"
        held = secrets()
        known = held.load(self.credentials.env) is not None
        return older if not known and held.load(older) is not None else self.credentials.env

    def _endpoint(self) -> str:
        return f"{self.url.rstrip('/')}/auth/v1"

    def _keys_url(self) -> str:
        return f"{self.base_url}/.well-known/jwks.json"

    def _verified(self, token: str) -> Steps[VerifiedUser]:
        symmetric = header_of(token)[0] == "HS256"
        algorithms = ["HS256"] if symmetric else ["ES256", "RS256"]
        issuer = self.issuer or self.base_url
        rules = Rules.of(issuer, "authenticated", algorithms=algorithms, leeway=self.clock_skew)
        keys = self._shared_keys() if symmetric else self.keys
        claims = yield from checked(token, keys, rules, self.clock)
        if claims.get("role") in _NO_USERS:
            raise InvalidToken("it is a key of the project, and speaks of no user (role)", reason="claims")
        return _who(claims)

    def _shared_keys(self) -> KeySet:
        """The secrets that the project shares with us, for HS256 alone."""
        if self._shared is not None:
            return self._shared
        found = secrets().load_all("SUPABASE_JWT_SECRET")
        if not found and self.in_sandbox:
            found = (Secret(_SANDBOX_SECRET, name="the sandbox's JWT secret"),)
        if not found:
            message = "it is signed with the project's shared secret, which is not known here (SUPABASE_JWT_SECRET)"
            raise InvalidToken(message, reason="algorithm")
        now = self.clock.wall()
        return KeySet.of_secrets(one for one in found if one.not_after is None or now < one.not_after)

    def _users(self, page: int, query: Mapping[str, object], size: int) -> Plan[Page[User]]:
        def parse(exchange: Exchange) -> Page[User]:
            found = tuple(_read(one, self.clock.wall()) for one in _rows(exchange))
            return Page(found, self._users(page + 1, query, size) if len(found) >= size else None)

        return self.get("/admin/users", query={"page": page, **query}, parse=parse)

    def _user(self, exchange: Exchange) -> User:
        return _read(exchange.data, self.clock.wall())


def _path(user_id: str) -> str:
    return f"/admin/users/{segment(user_id, 'user_id')}"


def _bearer(access_token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {as_text('access_token', access_token)}"}


def _reply(content: Mapping[str, Any]) -> Reply:
    return Reply(200, json.dumps(content, separators=(",", ":")).encode())


def _fields(
    email: str | None,
    password: str | None,
    phone: str | None,
    name: str | None,
    user_metadata: Mapping[str, Any] | None,
    *,
    email_verified: bool | None,
) -> dict[str, Any]:
    metadata = {**(user_metadata or {}), **given(name=name)}
    return given(
        email=email,
        password=check_password(password),
        phone=phone,
        email_confirm=email_verified,
        user_metadata=None if user_metadata is None and name is None else metadata,
    )


def _who(claims: Claims) -> VerifiedUser:
    role, own = claims.text("role"), claims.get("app_metadata")
    return VerifiedUser(
        subject(claims),
        email=claims.text("email"),
        phone=_e164(claims.text("phone")),
        session_id=claims.text("session_id"),
        roles=frozenset([role]) if role else frozenset(),
        anonymous=claims.get("is_anonymous") is True,
        issued_at=moment_of(claims.issued_at),
        expires_at=moment_of(claims.expires_at),
        app_metadata=own if isinstance(own, dict) else {},
        raw=claims,
    )


def _e164(digits: str | None) -> str | None:
    return None if not digits else digits if digits.startswith("+") else f"+{digits}"


def _rows(exchange: Exchange) -> list[Any]:
    return items(record(exchange.data).get("users"), "users")


def _read(value: object, now: float) -> User:
    answer = record(value)
    own = record(answer.get("user_metadata") or {}, "user_metadata")
    email = optional_text(answer, "email") or None
    until = moment(answer, "banned_until")
    name = own.get("name") or own.get("full_name")
    return User(
        id=text(answer, "id"),
        email=email,
        email_verified=None if email is None else moment(answer, "email_confirmed_at") is not None,
        phone=_e164(optional_text(answer, "phone")),
        name=name if isinstance(name, str) else None,
        disabled=until is not None and until.timestamp() > now,
        created_at=moment(answer, "created_at"),
        updated_at=moment(answer, "updated_at"),
        last_sign_in_at=moment(answer, "last_sign_in_at"),
        app_metadata=record(answer.get("app_metadata") or {}, "app_metadata"),
        user_metadata=own,
        raw=answer,
    )
