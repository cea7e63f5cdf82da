"""Auth0: who an access token speaks of, users by the Management API, log streams and event streams.

Facts: services/auth/auth0.md; contracts: auth0.json (the Management API), auth0_authentication.json. How a client
proves itself with a private key is PyPI auth0-python 6.8.0 (``authentication/client_authentication.py``). The names of
the variables are those of Auth0's quickstarts; ``AUTH0_CUSTOM_DOMAIN`` and ``AUTH0_KEY_ID`` are ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from moorline.calls.limits import LimitPattern
from moorline.calls.service import (
    BearerKey,
    Endpoints,
    ErrorMap,
    Exchange,
    Page,
    Parameter,
    Plan,
    RateLimitHeaders,
    Service,
    listing,
    operation,
    segment,
)
from moorline.calls.tokens import Request, TokenService, client_assertion
from moorline.errors import ConfigurationError, NotFound, PermissionDenied
from moorline.events.delivery import Delivers
from moorline.events.schemes.shared_secret import SharedSecret
from moorline.identity.tokens import Claims, Rules
from moorline.identity.verification import Steps, Verification, checked
from moorline.secrets.secret import Secret
from moorline.services.answers import flag, items, moment, optional_text, record, text, whole
from moorline.services.auth.protocol import (
    AuthEvent,
    AuthEventKind,
    User,
    VerifiedUser,
    check_password,
    given,
    moment_of,
    subject,
    words_in,
)
from moorline.services.limits import as_text, at_most, refused
from moorline.services.verifying import VerifyingService

if TYPE_CHECKING:
    from moorline.events.event import Event

__all__ = ["Auth0"]

_PAGE: Final = 50  # the schema allows 100, the public cloud 50
_NAME: Final = 300
_PHONE: Final = re.compile(r"\+[0-9]{1,15}")
_HOST: Final = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9-]+)+"
_DATABASE: Final = "Username-Password-Authentication"
_STREAMED: Final = {
    "user.created": AuthEventKind.USER_CREATED,
    "user.updated": AuthEventKind.USER_UPDATED,
    "user.deleted": AuthEventKind.USER_DELETED,
}
_LOGGED: Final = {
    "ss": AuthEventKind.USER_CREATED,
    "sdu": AuthEventKind.USER_DELETED,
    "s": AuthEventKind.SIGNED_IN,
    "f": AuthEventKind.SIGN_IN_FAILED,
}


class _Management:
    """The token of the Management API: by a secret, or by a JWT that the client's private key signs."""

    def account(self, service: Service, secret: Secret) -> tuple[str, ...]:  # noqa: ARG002
        """The tenant, and the client."""
        assert isinstance(service, Auth0)
        return service.base_url, service.management(), service.client_id

    def request(self, service: Service, secret: Secret, now: float) -> Request:
        """The request. Raises ConfigurationError for a private key that is none."""
        assert isinstance(service, Auth0)
        form = {
            "grant_type": "client_credentials",
            "client_id": service.client_id,
            "audience": f"{service.management()}/api/v2/",
        }
        value = secret.reveal()
        if not value.lstrip().startswith("-----BEGIN"):
            return Request(f"{service.base_url}/oauth/token", {**form, "client_secret": value})
        audience = f"{service.management()}/"
        proof = client_assertion(service.client_id, audience, value, now, key_id=service.key_id)
        return Request(f"{service.base_url}/oauth/token", {**form, **proof})


class Auth0(VerifyingService, TokenService):
    """Users by Auth0. There is no test mode: use another tenant.

    *domain* is the tenant's (``shop.eu.auth0.com``), with its region in it; *custom_domain* is accepted as the issuer
    of tokens besides it. *audience* is the identifier of your API, for which access tokens are made: a token for
    another API, an ID token, and one that was asked for without an audience (it is opaque) are refused. To manage users
    it is not needed.

    ``AUTH0_CLIENT_ID`` and ``AUTH0_CLIENT_SECRET`` are those of a machine-to-machine application that may use the
    Management API; its token is kept for the day that it lasts. In place of the secret it may be the private key (PEM)
    of the application, *key_id* being the id that Auth0 gave it: two of these are good at once, so that they are
    rotated without a gap. (Of secrets there is one; for up to 30 s both are taken.) For mTLS give a *wire* that shows
    the certificate.

    Webhooks, neither of which is signed: log streams (custom webhook) and event streams (CloudEvents).
    The secret is the token that you type there: for a log stream the ``Authorization`` header as it stands, for an
    event stream ``bearer``, or ``basic`` with ``user:password`` as the secret. A log stream may send JSON lines, an
    array or single objects: each record is an event, known by its ``log_id``, with a type such as ``ss`` (signed up).
    Auth0 holds one token at a time: accept old and new here, then change it there.

    Facts: services/auth/auth0.md; contracts: auth0.json, auth0_authentication.json.
    """

    name, category = "auth0", "auth"
    docs = "services/auth/auth0.md, auth0.json, auth0_authentication.json"
    endpoints = Endpoints("https://tenant.auth0.com")  # never used: each tenant has its own
    credentials = BearerKey(env="AUTH0_CLIENT_SECRET", sandbox="sandbox-secret")
    tokens = _Management()
    domain = Parameter("AUTH0_DOMAIN", sandbox="sandbox.eu.auth0.com", like=_HOST)
    custom_domain = Parameter("AUTH0_CUSTOM_DOMAIN", like=_HOST, default="")
    client_id = Parameter("AUTH0_CLIENT_ID", sandbox="sandbox-client")
    key_id = Parameter("AUTH0_KEY_ID", default="")
    audience = Parameter("AUTH0_AUDIENCE", sandbox="https://api.shop.example", default="")
    limits = RateLimitHeaders(
        remaining="x-ratelimit-remaining",
        reset="x-ratelimit-reset",
        reset_as="epoch",
        fields=(  # parsed by Auth0's .NET package (unconfirmed)
            LimitPattern(
                "Auth0-Client-Quota-Limit",
                re.compile(r"b=(?P<policy>\w+);q=(?P<limit>\d+);r=(?P<remaining>\d+);t=(?P<reset>\d+)"),
            ),
        ),
    )
    errors = ErrorMap(
        code="errorCode|error",
        message="message|error_description",
        kinds={"inexistent_user": NotFound, "insufficient_scope": PermissionDenied},
    )
    webhooks = SharedSecret(
        env="AUTH0_WEBHOOK_TOKEN",  # ours: the sender gives it no name
        id="log_id|id",
        type=("type", "data.type"),
        each="lines",
        delivers=Delivers(
            retries="event streams: 4 tries, 1, 2, 4 s apart, none after a 4xx; log streams: switched off after errors"
        ),
    )
    usage = """
from moorline.services import Auth0

auth0 = Auth0()
user = auth0.create_user(email="ada@example.com", password="Correct-horse-9", verify_email=False).result()
print(user.id, auth0.get_user(user.id).result().email)
"""

    def verify_token(self, token: str) -> Verification[VerifiedUser]:
        """Who an access token for your API speaks of: ``await`` it, or ``.result()``.

        *scopes* and, with Auth0's role-based rights, *permissions* are those of the token. A program that got it with
        its own credentials is a ``machine``. Tokens stay good after their user was deleted or blocked.

        Raises InvalidToken, CallError where the keys cannot be had, ConfigurationError without *domain* or *audience*.
        """
        return Verification(lambda: self._verified(token))

    @operation
    def get_user(self, user_id: str) -> Plan[User]:
        """A user, by an id such as ``auth0|65f0…``. Raises NotFound."""
        return self.get(_path(user_id), parse=_user)

    @operation
    def users_by_email(self, email: str) -> Plan[tuple[User, ...]]:
        """The users who have that address, of all connections, as they are now. None where there is none."""
        return self.get("/api/v2/users-by-email", query={"email": as_text("email", email).lower()}, parse=_several)

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
        """A new user, of the usual database or of another ``connection``.

        Auth0 sends a mail to an address that is not *email_verified*, unless ``verify_email=False`` is given. *phone*
        is in E.164. *extra* are Auth0's further fields (``username``, ``given_name``, ``nickname``, ``user_id``, …).
        Auth0 honours no idempotency keys: a lost answer is OutcomeUnknown, and a ``user_id`` of yours makes a second
        try a Conflict.

        Raises InvalidRequest, naming the field, before anything is sent for what is too long; Conflict where the
        address is taken (``auth0_idp_error``).
        """
        body = {
            "connection": _DATABASE,
            **_fields(email, password, phone, name, email_verified=email_verified),
            **extra,
        }
        metadata = given(app_metadata=app_metadata, user_metadata=user_metadata)
        return self.post("/api/v2/users", json={**body, **metadata}, parse=_user)

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
        """Change a user; what is None stays as it is. Metadata are merged at their first level, ``{}`` clears them.

        *extra* are Auth0's further fields; a ``connection`` is needed to change what belongs to another than the first
        identity. Raises NotFound, InvalidRequest.
        """
        fields = _fields(email, password, phone, name, email_verified=email_verified)
        metadata = given(app_metadata=app_metadata, user_metadata=user_metadata)
        return self.patch(_path(user_id), json={**fields, **metadata, **extra}, parse=_user)

    @operation
    def delete_user(self, user_id: str) -> Plan[None]:
        """Delete a user. One who is not there is no error: Auth0 does not say so."""
        return self.delete(_path(user_id), parse=lambda _: None, blank=True)

    @operation
    def block_user(self, user_id: str) -> Plan[User]:
        """Let a user sign in no more. Raises NotFound."""
        return self.patch(_path(user_id), json={"blocked": True}, parse=_user, repeatable=True)

    @operation
    def unblock_user(self, user_id: str) -> Plan[User]:
        """Let a user sign in again whom an administrator had blocked. A block for too many tries is another matter."""
        return self.patch(_path(user_id), json={"blocked": False}, parse=_user, repeatable=True)

    @listing
    def list_users(
        self, /, *, query: str | None = None, sort: str = "created_at:1", page_size: int = _PAGE, **extra: object
    ) -> Plan[Page[User]]:
        """Users, page by page, in the order *sort*; those that *query* finds (Lucene). *page_size* is 1 to 50.

        Auth0 finds no more than the first 1000, and refuses a page beyond (InvalidRequest): for more, have it make an
        export (``request("POST", "/api/v2/jobs/users-exports")``). What was changed a moment ago may not be found yet,
        and a search of more than 2 s is given up (ServiceUnavailable): never decide a sign-in by it.
        """
        if not 1 <= page_size <= _PAGE:
            raise refused("page_size", f"must be from 1 to {_PAGE}")
        search = {"q": query, "search_engine": "v3"} if query else {}
        return self._users(0, {"per_page": page_size, "include_totals": True, "sort": sort, **search, **extra})

    @operation
    def check(self) -> Plan[bool]:
        """True if the credentials are good and may read users: reads one.

        Raises AuthenticationFailed for credentials that Auth0 does not take, PermissionDenied without the scope
        ``read:users``.
        """
        return self.get("/api/v2/users", query={"per_page": 1}, parse=lambda answer: len(_several(answer)) <= 1)

    @classmethod
    def read_event(cls, event: Event) -> AuthEvent | None:
        """What an event means: of event streams ``user.*``, of log streams ``ss``, ``sdu``, ``s`` and ``f``; None for
        all others. Raises BadAnswer for an event of another shape.
        """
        told = record(event.payload, "the event")
        data = record(told.get("data"), "data")
        if event.type in _STREAMED:
            user = record(data.get("object"), "data.object")
            kind = _STREAMED[event.type]
            known = None if kind is AuthEventKind.USER_DELETED else _read(user)
            return AuthEvent(kind, event.type, text(user, "user_id"), known, at=moment(told, "time"), raw=told)
        if event.type not in _LOGGED:
            return None
        return AuthEvent(
            _LOGGED[event.type],
            event.type,
            user_id=optional_text(data, "user_id") or None,
            at=moment(data, "date"),
            raw=told,
        )

    def management(self) -> str:
        """The tenant's own address, by which the Management API is known also where a custom domain is in use."""
        return self.base_url if self._elsewhere else f"https://{self.domain}"

    def _endpoint(self) -> str:
        return f"https://{self.domain}"

    @property
    def _elsewhere(self) -> bool:
        """Whether requests go to the sandbox, or another address of yours, which is then all of Auth0."""
        return self._base_url is not None or self.in_sandbox

    def _keys_url(self) -> str:
        return f"{self.base_url}/.well-known/jwks.json"

    def _verified(self, token: str) -> Steps[VerifiedUser]:
        if not self.audience:
            raise ConfigurationError("auth0: access tokens are for an API: set AUTH0_AUDIENCE to its identifier")
        issuers = [f"{self.management()}/"]
        if self.custom_domain:
            issuers.append(f"https://{self.custom_domain}/")
        rules = Rules.of(issuers, self.audience, algorithms="RS256", leeway=self.clock_skew)
        claims = yield from checked(token, self.keys, rules, self.clock)
        return _who(claims)

    def _users(self, page: int, query: Mapping[str, object]) -> Plan[Page[User]]:
        def parse(exchange: Exchange) -> Page[User]:
            answer = record(exchange.data)
            found = tuple(_read(one) for one in items(answer.get("users"), "users"))
            more = found and whole(answer, "start") + len(found) < whole(answer, "total")
            return Page(found, self._users(page + 1, query) if more else None)

        return self.get("/api/v2/users", query={"page": page, **query}, parse=parse)


def _path(user_id: str) -> str:
    return f"/api/v2/users/{segment(user_id, 'user_id')}"


def _fields(
    email: str | None, password: str | None, phone: str | None, name: str | None, *, email_verified: bool | None
) -> dict[str, Any]:
    if phone is not None and not _PHONE.fullmatch(as_text("phone", phone)):
        raise refused("phone", "must be in E.164: a plus, and up to 15 figures")
    if name is not None:
        at_most("name", as_text("name", name), _NAME, "characters")
    return given(
        email=email,
        password=check_password(password),
        phone_number=phone,
        name=name,
        email_verified=email_verified,
    )


def _who(claims: Claims) -> VerifiedUser:
    found = subject(claims)
    return VerifiedUser(
        found,
        email=claims.text("email"),
        organization=claims.text("org_id"),
        session_id=claims.text("sid"),
        permissions=words_in(claims.get("permissions")),
        scopes=words_in(claims.get("scope")),
        machine=claims.get("gty") == "client-credentials" or found.endswith("@clients"),
        issued_at=moment_of(claims.issued_at),
        expires_at=moment_of(claims.expires_at),
        raw=claims,
    )


def _user(exchange: Exchange) -> User:
    return _read(exchange.data)


def _several(exchange: Exchange) -> tuple[User, ...]:
    return tuple(_read(one) for one in items(exchange.data, "the answer"))


def _read(value: object) -> User:
    answer = record(value)
    verified = answer.get("email_verified")
    return User(
        id=text(answer, "user_id"),
        email=optional_text(answer, "email"),
        email_verified=None if verified is None else flag(answer, "email_verified"),
        phone=optional_text(answer, "phone_number"),
        name=optional_text(answer, "name"),
        username=optional_text(answer, "username"),
        picture=optional_text(answer, "picture"),
        disabled=flag(answer, "blocked"),
        created_at=moment(answer, "created_at"),
        updated_at=moment(answer, "updated_at"),
        last_sign_in_at=moment(answer, "last_login"),
        app_metadata=record(answer.get("app_metadata") or {}, "app_metadata"),
        user_metadata=record(answer.get("user_metadata") or {}, "user_metadata"),
        raw=answer,
    )
