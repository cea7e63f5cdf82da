"""Zendesk's stand-in: tickets with comments, users, searches, exports by cursor, tokens, signed event subscriptions.

Facts: services/business/zendesk.md. API tokens (Basic, with ``email/token``) and access tokens (Bearer) that end in
``wrong`` are refused (401), those that end in ``anonymous`` are taken for nobody. ``POST /zendesk/oauth/tokens`` takes
the client ``sandbox-client`` with the secret ``sandbox-client-secret``; a refresh token is good once, and followed by
another. The sandbox's own: 700 requests a minute, 1000 results of a search, a search that knows ``type:``, ``status``,
``email:`` and words, ids that count up, and ``id`` and ``time`` of the events.

Accounts are connected at ``/oauth/authorizations/new``, by the client ``sandbox-client``: see :mod:`._oauth`.
They are ``acme`` and ``globex``, which share what is stored.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from moorline.errors import ConfigurationError
from moorline.sandbox import signing
from moorline.sandbox.idempotency import Keys
from moorline.sandbox.services._oauth import Accounts, Person
from moorline.sandbox.services._zendesk_pages import Refused, by_cursor, by_number, matches, page_size
from moorline.sandbox.standin import Answer, Ask, Emission, Registration, Signed, Surroundings

__all__ = ["STAND_IN"]

_CLIENT, _SECRET = "sandbox-client", "sandbox-client-secret"
_ACCOUNT = 12514403
_EVENTS = tuple(
    f"zen:event-type:{one}"
    for one in ("ticket.created", "ticket.status_changed", "ticket.comment_added", "user.created", "user.name_changed")
)
_CHOICES = {
    "priority": ("urgent", "high", "normal", "low"),
    "status": ("new", "open", "pending", "hold", "solved", "closed"),
    "type": ("problem", "incident", "question", "task"),
}
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
_FOUND = 1000
_LIMIT = 700


def _invalid(field: str, description: str, error: str = "BlankValue") -> Refused:
    details = {field: [{"description": description, "error": error}]}
    return Refused(422, {"error": "RecordInvalid", "description": "Record validation errors", "details": details})


def _missing() -> Refused:
    return Refused(404, {"error": "RecordNotFound", "description": "Not found"})


_PEOPLE = (Person("acme", "Ada at Acme", {"id": 901}), Person("globex", "Hank at Globex", {"id": 902}))


class ZendeskStandIn:
    """One account with one agent."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._keys = Keys(around.clock, 2 * 3600.0)
        self._tickets: dict[int, dict[str, Any]] = {}
        self._users: dict[int, dict[str, Any]] = {}
        self._changes: dict[str, list[tuple[int, int]]] = {"tickets": [], "users": []}
        self._comments: dict[int, list[dict[str, Any]]] = {}
        self._access: dict[str, float] = {}
        self._accounts = Accounts(
            around,
            "Zendesk",
            _PEOPLE,
            authorize="/oauth/authorizations/new",
            token="/oauth/tokens",
            shared=True,
            rotates=True,
            lasts=7200,
        )
        self._spent: set[str] = set()
        self._next, self._last, self._minute = 35000, 0, (0, _LIMIT)
        self._agent = self._kept({"name": "Agent", "email": "agent@acme.example", "role": "agent"})
        one = r"/([0-9]+)"
        self._routes: list[tuple[str, str, Callable[..., Answer]]] = [
            ("GET", "/tickets", self._list),
            ("GET", "/tickets" + one, self._get),
            ("PUT", "/tickets" + one, self._update),
            ("GET", "/tickets" + one + "/comments", self._list_comments),
            ("GET", "/search", self._search),
            ("GET", "/search/export", self._export),
            ("POST", "/users/create_or_update", self._upsert),
            ("GET", "/users/search", self._search_users),
            ("GET", "/users/me", self._me),
            ("DELETE", "/oauth/tokens/current", self._revoke),
            ("GET", "/users" + one, self._get_user),
            ("GET", "/incremental/(tickets|users)/cursor", self._incremental),
        ]

    async def handle(self, ask: Ask) -> Answer:
        """Answer one request."""
        connected = self._accounts.answer(ask)
        if connected is not None:
            return connected
        if (ask.method, ask.path) == ("POST", "/oauth/tokens"):
            return self._token(ask)
        try:
            self._authorise(ask)
            path = ask.path.removeprefix("/api/v2").removesuffix(".json")
            if (ask.method, path) == ("POST", "/tickets"):
                answer = await self._once(ask)
            else:
                await ask.work()
                answer = self._routed(ask, path)
        except Refused as refused:
            answer = refused.answer
        return Answer(answer.status, answer.content, {**self._limits(ask), **answer.headers})

    def snapshot(self) -> dict[str, Any]:
        """Tickets, their comments, and users, by id."""
        return {"tickets": self._tickets, "comments": self._comments, "users": self._users}

    def failure(self, status: int) -> Answer:
        """Zendesk's error body for an injected status."""
        title = {429: "APIRateLimitExceeded", 503: "ServiceUnavailable"}.get(status, "InternalError")
        headers = {"Retry-After": "1"} if status == 429 else {}
        return Answer(status, {"error": {"title": title, "message": "Sorry."}}, headers)

    def sample(self, event: str) -> bytes:
        """An event about an object that the account does not have."""
        if event not in _EVENTS:
            raise ConfigurationError(f"'event': the sandbox knows {', '.join(_EVENTS)} of Zendesk")
        return self._told(event, 1, {"id": "1"}, {})

    def sign(self, emission: Emission, *, url: str, secrets: tuple[str, ...], hook_id: str, broken: bool) -> Signed:
        """Signed over time and body."""
        return signing.signed(
            "zendesk",
            emission,
            url=url,
            secrets=secrets,
            broken=broken,
            now=self._around.clock.wall(),
            headers={
                "Content-Type": "application/json",
                "User-Agent": "Zendesk Webhook",
                "X-Zendesk-Account-Id": str(_ACCOUNT),
                "X-Zendesk-Webhook-Id": hook_id,
                "X-Zendesk-Webhook-Invocation-Id": emission.id,
            },
        )

    # -- who asks --------------------------------------------------------------------------------------------------

    def _token(self, ask: Ask) -> Answer:
        try:
            given = json.loads(ask.body)
            client = given["client_id"], given["client_secret"]
        except (ValueError, TypeError, KeyError):
            return Answer(400, {"error": "invalid_request", "error_description": "The request is missing a parameter"})
        if client != (_CLIENT, _SECRET):
            return Answer(401, {"error": "invalid_client", "error_description": "Client authentication failed"})
        answer: dict[str, Any] = {"token_type": "bearer", "scope": "read write", "expires_in": 7200}
        if given.get("grant_type") == "refresh_token":
            refresh = given.get("refresh_token")
            if not isinstance(refresh, str) or refresh.endswith("wrong") or refresh in self._spent:
                return Answer(400, {"error": "invalid_grant", "error_description": "The refresh token is invalid"})
            self._spent.add(refresh)
            answer["refresh_token"] = self._around.id("refresh-", 40)
        elif given.get("grant_type") != "client_credentials":
            return Answer(400, {"error": "unsupported_grant_type", "error_description": "The grant is not supported"})
        token = self._around.id("access-", 40)
        self._access[token] = self._around.clock.monotonic() + 7200
        return Answer(200, {"access_token": token, **answer})

    def _authorise(self, ask: Ask) -> None:
        token = self._shown_token(ask)
        if not token or token.endswith("wrong"):
            raise Refused(401, {"error": "Couldn't authenticate you"})

    def _shown_token(self, ask: Ask) -> str:
        """The API token of an agent, or the access token; empty where there is none that could be good."""
        scheme, _, shown = ask.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            if self._accounts.knows(shown):
                return shown if self._accounts.allowed(shown) is not None else ""
            ends = self._access.get(shown)
            return "" if ends is not None and ends <= self._around.clock.monotonic() else shown
        try:
            user, _, token = base64.b64decode(shown, validate=True).decode().partition(":")
        except (binascii.Error, ValueError):
            return ""
        return token if user.endswith("/token") and _EMAIL.fullmatch(user.removesuffix("/token")) else ""

    def _limits(self, ask: Ask) -> dict[str, str]:
        minute, rest = divmod(self._around.now(), 60)
        self._minute = (minute, _LIMIT - 1 if self._minute[0] != minute else max(self._minute[1] - 1, 0))
        said = {"X-Rate-Limit": str(_LIMIT), "X-Rate-Limit-Remaining": str(self._minute[1])}
        if ask.method == "GET" and ask.path == "/api/v2/tickets":
            said |= {"ratelimit-limit": str(_LIMIT), "ratelimit-remaining": str(self._minute[1])}
            said |= {"ratelimit-reset": str(60 - rest)}
            said |= {"zendesk-ratelimit-tickets-index": f"total=100; remaining=99; resets={60 - rest}"}
        return said

    async def _once(self, ask: Ask) -> Answer:
        """Create a ticket, or answer again what was answered to the same key."""
        key = ask.headers.get("idempotency-key")
        if key is None:
            await ask.work()
            return self._create(ask)
        before = self._keys.begin(key, hashlib.sha256(ask.body).hexdigest()) if len(key) <= 255 else "other"
        if before == "other":
            message = "Request parameters do not match those of the request that the key was first used with"
            raise Refused(400, {"error": "IdempotentRequestError", "description": message})
        if before == "running":
            raise Refused(409, {"error": "Conflict", "description": "The key is in use"})
        if before is not None:
            return Answer(before.status, before.content, {**before.headers, "x-idempotency-lookup": "hit"})
        try:
            await ask.work()
            answer = self._create(ask)
        except BaseException:
            self._keys.forget(key)
            raise
        self._keys.finish(key, answer)
        return Answer(answer.status, answer.content, {**answer.headers, "x-idempotency-lookup": "miss"})

    def _routed(self, ask: Ask, path: str) -> Answer:
        for method, pattern, action in self._routes:
            found = re.fullmatch(pattern, path)
            if method == ask.method and found and ask.path.startswith("/api/v2/"):
                return action(ask, *found.groups())
        raise Refused(404, {"error": {"title": "InvalidEndpoint", "message": "Not found"}})

    # -- tickets ---------------------------------------------------------------------------------------------------

    def _create(self, ask: Ask) -> Answer:
        given = _given(ask, "ticket")
        _check(given)
        comment = given.pop("comment", None)
        if not isinstance(comment, dict) or not (comment.get("body") or comment.get("html_body")):
            raise _invalid("comment", "Description: cannot be blank")
        requester = given.pop("requester", None)
        if isinstance(requester, dict):
            given["requester_id"] = self._known(requester)
        elif "requester_id" in given and given["requester_id"] not in self._users:
            raise _invalid("requester", "Requester: is invalid", "InvalidValue")
        given.setdefault("requester_id", self._agent)
        key = self._id()
        at = self._touched("tickets", key)
        self._tickets[key] = {
            "id": key,
            "url": f"{ask.base}/api/v2/tickets/{key}.json",
            "status": "new",
            "subject": None,
            "priority": None,
            "type": None,
            "assignee_id": None,
            "external_id": None,
            "tags": [],
            "created_at": _shown(at),
            **given,
            "updated_at": _shown(at),
        }
        self._commented(key, comment, given["requester_id"])
        self._emit("ticket.created", key, self._tickets[key], {})
        return Answer(201, {"ticket": self._tickets[key]}, {"Location": self._tickets[key]["url"]})

    def _get(self, _ask: Ask, key: str) -> Answer:
        return Answer(200, {"ticket": self._held(key)})

    def _update(self, ask: Ask, key: str) -> Answer:
        held, given = self._held(key), _given(ask, "ticket")
        _check(given)
        if held["status"] == "closed":
            raise _invalid("status", "Status: closed prevents ticket update", "ClosedTicket")
        if given.pop("safe_update", False) and given.pop("updated_stamp", None) != held["updated_at"]:
            message = "Safe Update prevented the update due to outdated ticket data."
            raise Refused(409, {"error": "UpdateConflict", "description": message})
        given.pop("updated_stamp", None)
        comment, status = given.pop("comment", None), held["status"]
        held.update(given, updated_at=_shown(self._touched("tickets", held["id"])))
        if comment is not None:
            if not isinstance(comment, dict) or not (comment.get("body") or comment.get("html_body")):
                raise _invalid("comment", "Comment: cannot be blank")
            made = self._commented(held["id"], comment, self._agent)
            self._emit("ticket.comment_added", held["id"], held, {"comment": made})
        if held["status"] != status:
            self._emit("ticket.status_changed", held["id"], held, {"previous": status, "current": held["status"]})
        return Answer(200, {"ticket": held, "audit": {"id": self._id(), "ticket_id": held["id"], "events": []}})

    def _commented(self, ticket: int, given: dict[str, Any], author: int) -> dict[str, Any]:
        comment = {
            "id": self._id(),
            "body": given.get("body") or given.get("html_body"),
            "public": given.get("public", True),
            "author_id": given.get("author_id", author),
            "created_at": _shown(self._last),
        }
        self._comments.setdefault(ticket, []).append(comment)
        return comment

    def _held(self, key: str) -> dict[str, Any]:
        held = self._tickets.get(int(key))
        if held is None:
            raise _missing()
        return held

    def _list(self, ask: Ask) -> Answer:
        return Answer(200, by_cursor(ask, "tickets", list(self._tickets.values())))

    def _list_comments(self, ask: Ask, key: str) -> Answer:
        return Answer(200, by_cursor(ask, "comments", self._comments[self._held(key)["id"]]))

    # -- searches and exports --------------------------------------------------------------------------------------

    def _search(self, ask: Ask) -> Answer:
        query = dict(ask.parameters)
        found = [one | {"result_type": kind} for kind, one in self._matches(query.get("query"))]
        if query.get("sort_by"):
            found.sort(key=lambda one: str(one.get(query["sort_by"])), reverse=query.get("sort_order") == "desc")
        return Answer(200, by_number(ask, "results", found, most=_FOUND))

    def _export(self, ask: Ask) -> Answer:
        query = dict(ask.parameters)
        wanted = query.get("filter[type]")
        if wanted not in ("ticket", "user", "organization", "group"):
            raise Refused(400, {"error": {"title": "Bad Request", "message": "filter[type] is required"}})
        found = [one | {"result_type": kind} for kind, one in self._matches(query.get("query")) if kind == wanted]
        return Answer(200, by_cursor(ask, "results", found))

    def _matches(self, query: str | None) -> list[tuple[str, dict[str, Any]]]:
        if not query:
            raise Refused(422, {"error": "invalid", "description": "Invalid search: the query is missing"})
        everything = [
            *(("ticket", one) for one in self._tickets.values()),
            *(("user", one) for one in self._users.values()),
        ]
        return [(kind, one) for kind, one in everything if all(matches(kind, one, word) for word in query.split())]

    def _incremental(self, ask: Ask, name: str) -> Answer:
        """By time, then by the place in the list of changes; an object that changed again is told of at its newest."""
        query = dict(ask.parameters)
        changes, held = self._changes[name], self._tickets if name == "tickets" else self._users
        if "cursor" in query:
            try:
                start = int(base64.b64decode(query["cursor"]).decode())
            except (binascii.Error, ValueError):
                raise Refused(400, {"error": "InvalidCursor", "description": "cursor is invalid"}) from None
        elif not query.get("start_time", "").isdecimal():
            raise Refused(400, {"error": "InvalidValue", "description": "start_time is invalid"})
        else:
            since = int(query["start_time"])
            start = next((number for number, (at, _) in enumerate(changes) if at >= since), len(changes))
        size = page_size(query.get("per_page", "1000"), 1000)
        last = {key: number for number, (_, key) in enumerate(changes)}
        numbers = [number for number in range(start, len(changes)) if last[changes[number][1]] == number]
        page, rest = numbers[:size], numbers[size:]
        cursor = base64.b64encode(str(page[-1] + 1 if rest else len(changes)).encode()).decode()
        return Answer(
            200,
            {
                name: [held[changes[number][1]] for number in page],
                "after_cursor": cursor,
                "after_url": f"{ask.base}{ask.path}?cursor={quote(cursor)}",
                "before_cursor": None,
                "end_of_stream": not rest,
            },
        )

    # -- users -----------------------------------------------------------------------------------------------------

    def _upsert(self, ask: Ask) -> Answer:
        given = _given(ask, "user")
        key = self._find(given)
        if key is None:
            return Answer(201, {"user": self._users[self._user(given)]})
        held = self._users[key]
        name = held["name"]
        held.update(given, updated_at=_shown(self._touched("users", key)))
        if held["name"] != name:
            change = {"previous": name, "current": held["name"]}
            self._emit("user.name_changed", key, held, change)
        return Answer(200, {"user": held})

    def _known(self, requester: dict[str, Any]) -> int:
        key = self._find(requester)
        return self._user({"role": "end-user", **requester}) if key is None else key

    def _find(self, given: dict[str, Any]) -> int | None:
        """By the external id, then by the e-mail; they must not be two."""
        found = []
        for name in ("external_id", "email"):
            value = given.get(name)
            if value is not None:
                same = [key for key, one in self._users.items() if str(one.get(name) or "").lower() == value.lower()]
                found += same[:1]
        if len(set(found)) > 1:
            raise _invalid("email", f"Email: {given['email']} is already being used by another user", "DuplicateValue")
        return found[0] if found else None

    def _user(self, given: dict[str, Any]) -> int:
        if not isinstance(given.get("name"), str) or not given["name"].strip():
            raise _invalid("name", "Name: is too short (minimum is 1 characters)", "ValueTooShort")
        if given.get("email") is not None and not _EMAIL.fullmatch(str(given["email"])):
            raise _invalid("email", f"Email: {given['email']} is not properly formatted", "InvalidFormat")
        key = self._kept(given)
        self._emit("user.created", key, self._users[key], {})
        return key

    def _kept(self, given: dict[str, Any]) -> int:
        key = self._id()
        at = _shown(self._touched("users", key))
        fixed = {"id": key, "active": True, "created_at": at, "updated_at": at}
        self._users[key] = {"email": None, "role": "end-user", "external_id": None, **given, **fixed}
        return key

    def _get_user(self, _ask: Ask, key: str) -> Answer:
        held = self._users.get(int(key))
        if held is None:
            raise _missing()
        return Answer(200, {"user": held})

    def _search_users(self, ask: Ask) -> Answer:
        query = dict(ask.parameters)
        if "external_id" in query:
            found = [one for one in self._users.values() if one["external_id"] == query["external_id"]]
        else:
            found = [one for kind, one in self._matches(query.get("query")) if kind == "user"]
        return Answer(200, by_number(ask, "users", found, most=10_000))

    def _me(self, ask: Ask) -> Answer:
        user = self._users[self._agent]
        if self._shown_token(ask).endswith("anonymous"):
            user = {"id": None, "name": "Anonymous user", "email": "invalid@example.com"}
        connected = self._accounts.allowed(self._shown_token(ask))
        if connected is not None:
            user = {**user, "id": connected[0].claims["id"], "name": connected[0].name}
        return Answer(200, {"user": user})

    def _revoke(self, ask: Ask) -> Answer:
        self._accounts.revoke(self._shown_token(ask))
        return Answer(204)

    # -- webhooks, ids and time ------------------------------------------------------------------------------------

    def _emit(self, event: str, key: int, detail: dict[str, Any], change: dict[str, Any]) -> None:
        body = self._told(f"zen:event-type:{event}", key, {**detail, "id": str(detail["id"])}, change)
        self._around.emit(Emission(f"zen:event-type:{event}", body, self._around.id("01", 24)))

    def _told(self, event: str, key: int, detail: dict[str, Any], change: dict[str, Any]) -> bytes:
        kind = event.removeprefix("zen:event-type:").partition(".")[0]
        told = {
            "type": event,
            "account_id": _ACCOUNT,
            "id": str(uuid.UUID(int=self._around.random.getrandbits(128), version=4)),
            "time": _shown(self._around.now()),
            "zendesk_event_version": "2022-11-06",
            "subject": f"zen:{kind}:{key}",
            "detail": detail,
            "event": change,
        }
        return json.dumps(told, separators=(",", ":")).encode()

    def _touched(self, name: str, key: int) -> int:
        """The second of a change; another one for each, so that they can be told apart."""
        self._last = max(self._last + 1, self._around.now())
        self._changes[name].append((self._last, key))
        return self._last

    def _id(self) -> int:
        self._next += 1
        return self._next


def _given(ask: Ask, name: str) -> dict[str, Any]:
    try:
        given = json.loads(ask.body)[name]
    except (ValueError, TypeError, KeyError):
        given = None
    if not isinstance(given, dict):
        message = f"{name} is missing"
        raise Refused(400, {"error": {"title": "Invalid attribute", "message": message}})
    return dict(given)


def _check(ticket: dict[str, Any]) -> None:
    for name, choices in _CHOICES.items():
        if ticket.get(name) is not None and ticket[name] not in choices:
            raise _invalid(name, f"{name.capitalize()}: {ticket[name]} is not included in the list", "InvalidValue")
    if "tags" in ticket and not isinstance(ticket["tags"], list):
        raise _invalid("tags", "Tags: must be a list", "InvalidValue")


def _shown(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


STAND_IN = Registration(name="zendesk", make=ZendeskStandIn, secret="sandbox-zendesk-signing-secret", events=_EVENTS)
