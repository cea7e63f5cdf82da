"""Zendesk: tickets with their comments, users, searches and what changed, and what it tells us of them.

Facts: services/business/zendesk.md. What the card does not have is marked as unconfirmed. Zendesk honours idempotency
keys when a ticket is created, and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, TypeVar

from moorline.calls.dialects import LimitFields, LimitPattern, basic
from moorline.calls.service import (
    BearerKey,
    Endpoints,
    ErrorMap,
    Exchange,
    IdempotencyKey,
    Page,
    Parameter,
    Plan,
    RateLimitHeaders,
    hours,
    listing,
    operation,
    segment,
)
from moorline.calls.tokens import ClientCredentials, Grant, RefreshToken, TokenService
from moorline.errors import AuthenticationFailed, Conflict, IdempotencyConflict, InvalidRequest, NotFound
from moorline.events.delivery import Delivers
from moorline.events.schemes.hmac_signature import HMACSignature
from moorline.identity.connection import Tokens
from moorline.identity.oauth import Client, OAuth, Revocation
from moorline.services.answers import flag, items, moment, optional_text, record, text, whole
from moorline.services.limits import as_text, refused

if TYPE_CHECKING:
    from moorline.events.event import Event
    from moorline.secrets.secret import Secret

_WAYS: Final = ("refresh_token", "client_credentials")
__all__ = ["ChangeKind", "Comment", "Exported", "Ticket", "User", "Zendesk", "ZendeskChange"]

T = TypeVar("T")
_TICKETS: Final = "/api/v2/tickets"
_USERS: Final = "/api/v2/users"
_PAGE: Final = 100
_PRIORITIES: Final = ("urgent", "high", "normal", "low")
_TYPES: Final = ("problem", "incident", "question", "task")
_KEYS: Final[Mapping[str, str]] = {
    "refresh_token": "ZENDESK_REFRESH_TOKEN",
    "client_credentials": "ZENDESK_CLIENT_SECRET",
}
_GRANTS: Final[Mapping[str, Grant]] = {
    "refresh_token": RefreshToken("/oauth/tokens", as_json=True, single_use=True),
    "client_credentials": ClientCredentials("/oauth/tokens", as_json=True),
}
_EVENT: Final = "zen:event-type:"


@dataclass(frozen=True, slots=True)
class Ticket:
    """A ticket. *status* is in Zendesk's words (``new``, ``open``, ``pending``, ``hold``, ``solved``, ``closed``)."""

    id: int
    subject: str | None = None
    status: str | None = None
    priority: str | None = None
    type: str | None = None
    requester_id: int | None = None
    assignee_id: int | None = None
    external_id: str | None = None
    tags: tuple[str, ...] = ()
    created_at: datetime | None = None
    updated_at: datetime | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Comment:
    """A comment on a ticket; what is not *public* is seen by agents alone."""

    id: int
    body: str
    public: bool
    author_id: int | None = None
    created_at: datetime | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class User:
    """A user: an end user, an agent or an admin, as *role* says. *created* is whether an upsert made it, None where
    nobody said.
    """

    id: int
    name: str | None = None
    email: str | None = None
    role: str | None = None
    external_id: str | None = None
    active: bool = True
    created_at: datetime | None = None
    updated_at: datetime | None = None
    created: bool | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Exported(Page[T], Generic[T]):
    """A page of what changed, and the *cursor* that goes on after it, after the last one as well."""

    cursor: str | None = None


class ChangeKind(StrEnum):
    """What a webhook says of an object."""

    CREATED = "created"
    CHANGED = "changed"
    DELETED = "deleted"


_KINDS: Final = {
    "created": ChangeKind.CREATED,
    "deleted": ChangeKind.DELETED,
    "soft_deleted": ChangeKind.DELETED,
    "permanently_deleted": ChangeKind.DELETED,
}  # of what the words of a type end in; unconfirmed


@dataclass(frozen=True, slots=True)
class ZendeskChange:
    """What an event subscription tells: *type* in Zendesk's words (``ticket.created``), *detail* the object, *event*
    what happened to it.
    """

    kind: ChangeKind
    type: str
    object_type: str
    object_id: str | None = None
    account_id: int | None = None
    at: datetime | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)
    event: Mapping[str, Any] = field(default_factory=dict)
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


class _Problems(ErrorMap):
    """``error`` is a word or an object; of a record that is not valid the finer word is among its ``details``."""

    __slots__ = ()

    def data(self, exchange: Exchange) -> Any:
        """What was found, with ``code`` and ``message`` besides."""
        found = ErrorMap.data(self, exchange)
        if not isinstance(found, dict):
            return found
        error = found.get("error")
        title, message = (error.get("title"), error.get("message")) if isinstance(error, dict) else (error, None)
        wrong = _wrong(found.get("details"))
        said = [found.get("description") or found.get("message") or message or title, *(what for _, what in wrong)]
        codes = [code for code, _ in wrong if code]
        return {
            **found,
            "code": codes[0] if codes else title if isinstance(title, str) else None,
            "message": "; ".join(one for one in said if isinstance(one, str)),
        }


def _wrong(details: object) -> list[tuple[str | None, str]]:
    """What is wrong with each field: Zendesk's word, and its description with the field's name."""
    found = []
    for name, problems in details.items() if isinstance(details, dict) else ():
        for one in problems if isinstance(problems, list) else ():
            if isinstance(one, dict):
                code = one.get("error")
                found.append((code if isinstance(code, str) else None, f"{name}: {one.get('description')}"))
    return found


def _revocation(_: Client, tokens: Tokens) -> Revocation:
    """developer.zendesk.com, "Revoking an OAuth access token": the one that the request shows."""
    return Revocation("DELETE", "/api/v2/oauth/tokens/current.json", bearer=tokens.access)


class Zendesk(TokenService):
    """Tickets by Zendesk. ``subdomain`` (ZENDESK_SUBDOMAIN) is the account's, of ``https://{subdomain}.zendesk.com``; a
    sandbox is an account with another one.

    The credential is an API token (ZENDESK_API_TOKEN) of the agent ``email`` (ZENDESK_EMAIL). Without an email it is an
    OAuth access token (ZENDESK_OAUTH_TOKEN). With ``grant`` (ZENDESK_GRANT), ``client_id`` and ``client_secret``
    (ZENDESK_CLIENT_ID, ZENDESK_CLIENT_SECRET) the access token is fetched and renewed: ``"refresh_token"`` with a
    refresh token (ZENDESK_REFRESH_TOKEN), of which each use gives a new one (unconfirmed; see ``RefreshToken`` for who
    keeps it), or ``"client_credentials"`` with the client's secret itself. Which kind it is, is settled when the
    service is made. Several API tokens are good at once (unconfirmed): add, switch, delete.

    Webhooks come of event subscriptions, and of triggers and automations with a body of your own. An event
    subscription's id is its account and its own; a trigger's body, which you write, has none that could be known as
    such (``id`` is often the ticket's): equal bodies are one event if they were signed within the same minute. Choose
    POST, PUT or PATCH: of a GET or DELETE nothing but the time is signed. The test that Zendesk sends before a webhook
    is created is signed with a published secret, and refused.
    Facts: services/business/zendesk.md.
    """

    name, category = "zendesk", "business"
    docs = "services/business/zendesk.md"
    endpoints = Endpoints("https://{subdomain}.zendesk.com")
    credentials = BearerKey(env="ZENDESK_API_TOKEN", sandbox="sandbox-zendesk-token")
    subdomain = Parameter("ZENDESK_SUBDOMAIN", sandbox="acme", like="[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
    email = Parameter("ZENDESK_EMAIL", sandbox="agent@acme.example", like=r"(?:[^\s:/@]+@[^\s:/@]+)?", default="")
    client_id = Parameter("ZENDESK_CLIENT_ID", sandbox="sandbox-client", grants=_WAYS)
    client_secret = Parameter("ZENDESK_CLIENT_SECRET", sandbox="sandbox-client-secret", secret=True, grants=_WAYS)
    grant = Parameter("ZENDESK_GRANT", like=f"(?:{'|'.join(_WAYS)})?", default="")
    # Of the account that ``subdomain`` names. Tokens end where the client is so configured; PKCE, and that each refresh
    # gives another refresh token, are unconfirmed.
    oauth = OAuth(
        authorize="/oauth/authorizations/new",
        token="/oauth/tokens",  # noqa: S106 (an address)
        as_json=True,
        revoke=_revocation,
        scopes=("read",),
        rotates=True,
        whoami="/api/v2/users/me.json",
        account="user.id",
    )
    # Two hours, and the word for a key that is used again, are unconfirmed.
    idempotency = IdempotencyKey(window=hours(2), where=r"/api/v2/tickets(?:\.json)?")
    limits = RateLimitHeaders(
        fields=(
            LimitFields("X-Rate-Limit-Remaining", "X-Rate-Limit", window=60),
            LimitPattern(
                "zendesk-ratelimit-tickets-index",
                re.compile(r"total=(?P<limit>\d+);\s*remaining=(?P<remaining>\d+);\s*resets=(?P<reset>\d+)"),
                window=60,
                bucket="tickets-index",
            ),
        )
    )
    errors = _Problems(
        code="code",
        message="message",
        request_id="header:X-Request-Id",  # unconfirmed
        key_reused=frozenset({"IdempotentRequestError"}),
        kinds={
            "DuplicateValue": Conflict,
            "IdempotentRequestError": IdempotencyConflict,
            "RecordInvalid": InvalidRequest,
            "RecordNotFound": NotFound,
            "UpdateConflict": Conflict,
        },
    )
    webhooks = HMACSignature(
        header="X-Zendesk-Webhook-Signature",
        signed="{timestamp}{body}",
        timestamp="header:X-Zendesk-Webhook-Signature-Timestamp",
        clock="iso8601",
        encoding="base64",
        env="ZENDESK_WEBHOOK_SECRET",
        published=("dGhpc19zZWNyZXRfaXNfZm9yX3Rlc3Rpbmdfb25seQ==",),
        id=("account_id", "id"),
        templated=True,
        lacking="digest",
        type="type",
        forms=True,  # triggers may be told to send one
        typed=False,
        repeats_after=60,
        methods=("POST", "PUT", "PATCH"),
        # 10 to 12 s by the card. No tolerance is documented: 5 minutes is ours. That the invocation id in the headers
        # stays the same over retries is unconfirmed, and it is not signed.
        delivers=Delivers(within=10, retries="409, timeouts, and 429 or 503 with Retry-After under 60 s"),
    )
    usage: ClassVar[str] = """
from moorline.services import Zendesk

zendesk = Zendesk()
ada = zendesk.upsert_user("Ada", email="ada@customer.example").result()
ticket = zendesk.create_ticket("Order 17 is late", subject="Refund", requester_id=ada.id).result()
print(ticket.id, ticket.status, zendesk.add_comment(ticket.id, "Ask the carrier.", public=False).result().updated_at)
"""

    def _grant(self) -> Grant | None:
        return _GRANTS.get(self.grant)

    def _key_variable(self) -> str:
        return _KEYS.get(self.grant) or ("ZENDESK_API_TOKEN" if self.email else "ZENDESK_OAUTH_TOKEN")

    def authorized(
        self,
        key: Secret,
        method: str,  # noqa: ARG002
        url: str,  # noqa: ARG002
        headers: dict[str, str],
        body: bytes | None,  # noqa: ARG002
    ) -> dict[str, str]:
        """The headers with the agent and its API token, or with the access token."""
        if self.fetched is None and self.email:
            return {**headers, **basic(f"{self.email}/token", key)}
        return {**headers, **self.credentials.headers(key)}

    # Tickets ---------------------------------------------------------------------------------------------------------

    @operation
    def create_ticket(
        self,
        /,
        body: str,
        *,
        subject: str | None = None,
        public: bool = True,
        requester: Mapping[str, str] | None = None,
        requester_id: int | None = None,
        priority: str | None = None,
        status: str | None = None,
        ticket_type: str | None = None,
        tags: Sequence[str] = (),
        external_id: str | None = None,
        custom_fields: Mapping[int, Any] | None = None,
        **extra: object,
    ) -> Plan[Ticket]:
        """Open a ticket, whose first comment is *body*. *requester* is ``{"name": …, "email": …}``, who is made a user
        if need be. *extra* are Zendesk's further fields (``assignee_id``, ``group_id``).

        It carries an idempotency key, which Zendesk remembers for two hours. Raises InvalidRequest.
        """
        if not as_text("body", body).strip():
            raise refused("body", "must not be empty")
        given = {
            **_fields(priority=priority, ticket_type=ticket_type, status=status, external_id=external_id),
            **_fields(subject=subject, requester=requester, requester_id=requester_id, tags=list(tags) or None),
            "comment": {"body": body, "public": public},
            **_custom(custom_fields),
            **extra,
        }
        return self.post(_TICKETS, json={"ticket": given}, parse=_ticket)

    @operation
    def get_ticket(self, ticket_id: int) -> Plan[Ticket]:
        """A ticket as it is now. Raises NotFound."""
        return self.get(f"{_TICKETS}/{segment(ticket_id, 'ticket_id')}", parse=_ticket)

    @operation
    def update_ticket(
        self,
        /,
        ticket_id: int,
        *,
        comment: str | None = None,
        public: bool = True,
        status: str | None = None,
        priority: str | None = None,
        ticket_type: str | None = None,
        tags: Sequence[str] | None = None,
        custom_fields: Mapping[int, Any] | None = None,
        unchanged_since: datetime | None = None,
        **extra: object,
    ) -> Plan[Ticket]:
        """Change a ticket. *tags* take the place of all that it has. With *unchanged_since*, the ``updated_at`` that
        you know, it is changed only if nobody else did meanwhile; otherwise Conflict. *extra* are further fields.

        An update with one of *comment* and *unchanged_since* is not sent again by itself where its answer is lost: the
        comment would be there twice, and our own change is a Conflict too. Raises InvalidRequest, also for a ticket
        that is closed.
        """
        given = _fields(status=status, priority=priority, ticket_type=ticket_type) | _custom(custom_fields)
        if tags is not None:
            given["tags"] = list(tags)
        if comment is not None:
            given["comment"] = {"body": comment, "public": public}
        if unchanged_since is not None:
            given |= {"safe_update": True, "updated_stamp": _stamp("unchanged_since", unchanged_since)}
        path = f"{_TICKETS}/{segment(ticket_id, 'ticket_id')}"
        once = not {"comment", "safe_update"}.isdisjoint(given | extra)
        return self.put(path, json={"ticket": given | extra}, parse=_ticket, repeatable=False if once else None)

    @operation
    def add_comment(self, /, ticket_id: int, body: str, *, public: bool = True, **extra: object) -> Plan[Ticket]:
        """Comment on a ticket: an answer to the requester, or a note among agents with ``public=False``. *extra* are
        further fields of the comment (``html_body``, ``author_id``, ``uploads``). A lost answer is OutcomeUnknown.
        """
        comment = {"body": body, "public": public, **extra}
        path = f"{_TICKETS}/{segment(ticket_id, 'ticket_id')}"
        return self.put(path, json={"ticket": {"comment": comment}}, parse=_ticket, repeatable=False)

    @listing
    def list_comments(self, ticket_id: int, *, page_size: int = _PAGE) -> Plan[Page[Comment]]:
        """The comments on a ticket, oldest first (the path is unconfirmed on the card)."""
        path = f"{_TICKETS}/{segment(ticket_id, 'ticket_id')}/comments"
        return self._by_cursor(path, "comments", _read_comment, {}, page_size)

    @listing
    def list_tickets(self, /, *, page_size: int = _PAGE, **query: object) -> Plan[Page[Ticket]]:
        """All tickets that are not archived, by cursor; *query* are further parameters (``sort="-updated_at"``)."""
        return self._by_cursor(_TICKETS, "tickets", _read_ticket, query, page_size)

    @listing
    def list_changed_tickets(
        self, since: datetime | None = None, *, cursor: str | None = None, page_size: int = _PAGE
    ) -> Plan[Page[Ticket]]:
        """The tickets that changed at *since* or later, deleted ones too, in the order of their changes, or those after
        a *cursor*: that of the last page (``Exported.cursor``), from which to go on the next time.

        Zendesk's incremental export: the path, ten requests a minute, and that *since* is a minute ago or more are
        unconfirmed on the card. A ticket may come again.
        """
        return self._exported("tickets", _read_ticket, since, cursor, page_size)

    @listing
    def list_changed_users(
        self, since: datetime | None = None, *, cursor: str | None = None, page_size: int = _PAGE
    ) -> Plan[Page[User]]:
        """As ``list_changed_tickets``, of users."""
        return self._exported("users", _read_user, since, cursor, page_size)

    # Searches --------------------------------------------------------------------------------------------------------

    @listing
    def search(
        self, /, query: str, *, sort_by: str | None = None, sort_order: str | None = None, page_size: int = _PAGE
    ) -> Plan[Page[Ticket | User | Mapping[str, Any]]]:
        """What Zendesk's own words find (``type:ticket status<solved``): tickets, users, and others as they come. No
        more than 1000 (unconfirmed), after which it is InvalidRequest: ``export`` has no such end.
        """
        asked = {"query": query, "sort_by": sort_by, "sort_order": sort_order}
        return self._by_number("/api/v2/search", "results", _read_result, asked, page_size)

    @listing
    def export(
        self, /, query: str, *, kind: str, page_size: int = _PAGE
    ) -> Plan[Page[Ticket | User | Mapping[str, Any]]]:
        """All that a search finds, by cursor. *kind* is ``ticket``, ``user``, ``organization`` or ``group``, and has to
        be named (unconfirmed on the card).
        """
        asked = {"query": query, "filter": {"type": kind}}
        return self._by_cursor("/api/v2/search/export", "results", partial(_read_result, kind=kind), asked, page_size)

    # Users -----------------------------------------------------------------------------------------------------------

    @operation
    def upsert_user(
        self, /, name: str, *, email: str | None = None, external_id: str | None = None, **extra: object
    ) -> Plan[User]:
        """Update the user with that *external_id* or *email*, or create one: ``created`` tells. *extra* are further
        fields (``role``, ``phone``, ``user_fields``, ``skip_verify_email=True``). It may be sent again.
        """
        if email is None and external_id is None:
            raise refused("email", "or external_id is needed: a user is known by one of them")
        given = {"name": name, **_fields(email=email, external_id=external_id), **extra}
        return self.post(
            f"{_USERS}/create_or_update", json={"user": given}, parse=_upserted, repeatable=True, acts=True, keyed=False
        )

    @operation
    def get_user(self, user_id: int) -> Plan[User]:
        """A user. Raises NotFound."""
        return self.get(f"{_USERS}/{segment(user_id, 'user_id')}", parse=_user)

    @listing
    def search_users(
        self, /, query: str | None = None, *, external_id: str | None = None, page_size: int = _PAGE
    ) -> Plan[Page[User]]:
        """The users that *query* finds (a name, an e-mail, ``email:ada@customer.example``), or with that
        *external_id*.
        """
        if (query is None) is (external_id is None):
            raise refused("query", "or external_id: give one of them")
        asked = {"query": query, "external_id": external_id}
        return self._by_number(f"{_USERS}/search", "users", _read_user, asked, page_size)

    @operation
    def check(self) -> Plan[bool]:
        """True if the credential is good. Raises AuthenticationFailed if not, also where it is taken for nobody's."""
        return self.get(f"{_USERS}/me", parse=_somebody)

    @classmethod
    def read_event(cls, event: Event) -> ZendeskChange | None:
        """What an event subscription tells; None for what a trigger sends, whose body is yours.

        Raises BadAnswer for an event of another shape.
        """
        if not event.type.startswith(_EVENT):
            return None
        told = record(event.payload, "the event")
        what = event.type.removeprefix(_EVENT)
        subject = (optional_text(told, "subject") or "").split(":")  # zen:ticket:123
        return ZendeskChange(
            _KINDS.get(what.rpartition(".")[2], ChangeKind.CHANGED),
            what,
            what.partition(".")[0],
            object_id=subject[-1] if len(subject) == 3 else None,
            account_id=whole(told, "account_id") if "account_id" in told else None,
            at=moment(told, "time"),
            detail=record(told.get("detail") or {}, "detail"),
            event=record(told.get("event") or {}, "event"),
            raw=told,
        )

    # Pages -----------------------------------------------------------------------------------------------------------

    def _by_cursor(
        self, path: str, name: str, read: Callable[[object], T], query: Mapping[str, object], page_size: int
    ) -> Plan[Page[T]]:
        size = _page_size(page_size)

        def plan(after: str | None) -> Plan[Page[T]]:
            return self.get(path, query={**query, "page": {"size": size, "after": after}}, parse=parse)

        def parse(exchange: Exchange) -> Page[T]:
            answer = record(exchange.data)
            found = tuple(read(one) for one in items(answer.get(name), name))
            meta = record(answer.get("meta") or {}, "meta")
            return Page(found, plan(text(meta, "after_cursor")) if flag(meta, "has_more") else None)

        return plan(None)

    def _by_number(
        self, path: str, name: str, read: Callable[[object], T], query: Mapping[str, object], page_size: int
    ) -> Plan[Page[T]]:
        """By the pages' numbers: the address in ``next_page`` may be of another host that the account has."""
        size = _page_size(page_size)

        def plan(number: int) -> Plan[Page[T]]:
            return self.get(path, query={**query, "page": number, "per_page": size}, parse=partial(parse, number))

        def parse(number: int, exchange: Exchange) -> Page[T]:
            answer = record(exchange.data)
            found = tuple(read(one) for one in items(answer.get(name), name))
            return Page(found, plan(number + 1) if optional_text(answer, "next_page") else None)

        return plan(1)

    def _exported(
        self, name: str, read: Callable[[object], T], since: datetime | None, cursor: str | None, page_size: int
    ) -> Plan[Page[T]]:
        if (since is None) is (cursor is None):
            raise refused("since", "or cursor: give one of them")
        size = _page_size(page_size)
        start = None if since is None else int(_aware("since", since).timestamp())

        def plan(**where: object) -> Plan[Page[T]]:
            return self.get(f"/api/v2/incremental/{name}/cursor", query={**where, "per_page": size}, parse=parse)

        def parse(exchange: Exchange) -> Page[T]:
            answer = record(exchange.data)
            found = tuple(read(one) for one in items(answer.get(name), name))
            after = optional_text(answer, "after_cursor")
            over = flag(answer, "end_of_stream", default=after is None)
            return Exported(found, None if over else plan(cursor=text(answer, "after_cursor")), cursor=after)

        return plan(start_time=start) if cursor is None else plan(cursor=cursor)


def _page_size(given: int) -> int:
    if not 1 <= given <= _PAGE:
        raise refused("page_size", f"must be from 1 to {_PAGE}")
    return given


def _aware(name: str, at: datetime) -> datetime:
    if at.tzinfo is None:
        raise refused(name, "needs a time zone")
    return at.astimezone(UTC)


def _stamp(name: str, at: datetime) -> str:
    return _aware(name, at).strftime("%Y-%m-%dT%H:%M:%SZ")


def _fields(*, priority: str | None = None, ticket_type: str | None = None, **others: object) -> dict[str, Any]:
    """Those that are given."""
    if priority is not None and priority not in _PRIORITIES:
        raise refused("priority", f"must be one of {', '.join(_PRIORITIES)}")
    if ticket_type is not None and ticket_type not in _TYPES:
        raise refused("ticket_type", f"must be one of {', '.join(_TYPES)}")
    given = {"priority": priority, "type": ticket_type, **others}
    return {name: value for name, value in given.items() if value is not None}


def _custom(fields: Mapping[int, Any] | None) -> dict[str, Any]:
    return {} if not fields else {"custom_fields": [{"id": key, "value": value} for key, value in fields.items()]}


def _optional_whole(holder: Mapping[str, Any], name: str) -> int | None:
    return None if holder.get(name) is None else whole(holder, name)


def _texts(holder: Mapping[str, Any], name: str) -> tuple[str, ...]:
    return tuple(one for one in items(holder.get(name) or [], name) if isinstance(one, str))


def _ticket(exchange: Exchange) -> Ticket:
    return _read_ticket(record(exchange.data).get("ticket"))


def _read_ticket(value: object) -> Ticket:
    ticket = record(value, "the ticket")
    return Ticket(
        id=whole(ticket, "id"),
        subject=optional_text(ticket, "subject"),
        status=optional_text(ticket, "status"),
        priority=optional_text(ticket, "priority"),
        type=optional_text(ticket, "type"),
        requester_id=_optional_whole(ticket, "requester_id"),
        assignee_id=_optional_whole(ticket, "assignee_id"),
        external_id=optional_text(ticket, "external_id"),
        tags=_texts(ticket, "tags"),
        created_at=moment(ticket, "created_at"),
        updated_at=moment(ticket, "updated_at"),
        raw=ticket,
    )


def _read_comment(value: object) -> Comment:
    comment = record(value, "the comment")
    return Comment(
        id=whole(comment, "id"),
        body=optional_text(comment, "body") or "",
        public=flag(comment, "public"),
        author_id=_optional_whole(comment, "author_id"),
        created_at=moment(comment, "created_at"),
        raw=comment,
    )


def _user(exchange: Exchange) -> User:
    return _read_user(record(exchange.data).get("user"))


def _upserted(exchange: Exchange) -> User:
    return _read_user(record(exchange.data).get("user"), created=exchange.status == 201)


def _read_user(value: object, *, created: bool | None = None) -> User:
    user = record(value, "the user")
    return User(
        id=whole(user, "id"),
        name=optional_text(user, "name"),
        email=optional_text(user, "email"),
        role=optional_text(user, "role"),
        external_id=optional_text(user, "external_id"),
        active=flag(user, "active", default=True),
        created_at=moment(user, "created_at"),
        updated_at=moment(user, "updated_at"),
        created=created,
        raw=user,
    )


def _read_result(value: object, kind: str | None = None) -> Ticket | User | Mapping[str, Any]:
    found = record(value, "a result")
    told = optional_text(found, "result_type") or kind
    if told == "ticket":
        return _read_ticket(found)
    return _read_user(found) if told == "user" else found


def _somebody(exchange: Exchange) -> bool:
    """Unconfirmed: a wrong credential may be answered with 200, and a user who is nobody."""
    user = record(record(exchange.data).get("user"), "the user")
    if user.get("id") is None:
        raise AuthenticationFailed("Zendesk takes the credential for nobody's")
    return bool(whole(user, "id"))
