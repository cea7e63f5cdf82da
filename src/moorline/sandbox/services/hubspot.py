"""HubSpot's stand-in: objects of any type with unique properties, searches, batches, associations, tokens, webhooks,
and a page at which accounts are connected.

Facts: services/business/hubspot.md and hubspot.json. Tokens begin with ``pat-``; those that end in ``wrong`` are
refused (401), those with ``noscope`` may read no contacts (403), for ``daily`` the day's quota is spent (429).
``POST /hubspot/oauth/v1/token`` takes the app ``sandbox-app`` with the secret ``sandbox-client-secret``, and refresh
tokens that do not end in ``wrong``; its access tokens last 1800 s. The addresses of 2026-03 take ``sandbox-client``:
see :mod:`._oauth`; the accounts are ``acme`` (hub 62515) and ``globex`` (hub 62516), which share what is stored; their
tokens open ``crm.objects.<type>.read`` and ``.write`` as far as these were granted. The sandbox's own: the types are
contacts, companies, deals and tickets; ``email`` of contacts is unique, and so is every property whose name ends in
``_key``; properties that begin with ``no_such`` do not exist; a search finds at once what was written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, unquote

from moorline.errors import ConfigurationError
from moorline.sandbox import signing
from moorline.sandbox.services._hubspot_search import condition
from moorline.sandbox.services._oauth import Accounts, Person, Refused, TokenPair
from moorline.sandbox.standin import Answer, Ask, Emission, Registration, Signed, Surroundings

__all__ = ["STAND_IN"]

_APP, _SECRET = "sandbox-app", "sandbox-client-secret"
_TYPES = {"contacts": "contact", "companies": "company", "deals": "deal", "tickets": "ticket"}
_EVENTS = tuple(
    f"{one}.{what}" for one in ("contact", "company", "deal") for what in ("creation", "propertyChange", "deletion")
)
_LIMIT = 190
_FOUND = 10_000
_BATCH = 100
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
_PEOPLE = (
    Person("acme", "Acme Inc. (acme.example)", {"hub_id": 62515}),
    Person("globex", "Globex (globex.example)", {"hub_id": 62516}),
)
_DEFAULT_LINKS = {("contacts", "companies"): 279, ("companies", "contacts"): 280}


class _Refused(Exception):
    def __init__(self, status: int, category: str, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status, self.category = status, category
        self.body = {
            "status": "error",
            "message": message,
            "correlationId": "aeb5f871-7f07-4993-9211-075dc63e7cbf",
            "category": category,
            **more,
        }
        self.answer = Answer(status, self.body)


def _invalid(message: str, code: str | None = None) -> _Refused:
    more = {} if code is None else {"errors": [{"message": message, "code": code}]}
    return _Refused(400, "VALIDATION_ERROR", message, **more)


class HubSpotStandIn:
    """One account."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._objects: dict[str, dict[str, dict[str, Any]]] = {one: {} for one in _TYPES}
        self._links: dict[tuple[str, str], dict[tuple[str, str], list[dict[str, Any]]]] = {}
        self._tokens: dict[str, float] = {}
        self._accounts = Accounts(
            around,
            "HubSpot",
            _PEOPLE,
            authorize="/oauth/authorize",
            token="/oauth/2026-03/token",
            revoke="/oauth/2026-03/token/revoke",
            lasts=1800,
            prefix="CJ-",
            shape=_granted,
            failed=_not_granted,
        )
        self._next, self._last, self._window = 500, 0, (0, _LIMIT)
        one = r"/crm/v3/objects/([^/]+)"
        tied = r"/crm/v4/objects/([^/]+)/([^/]+)/associations"
        self._routes: list[tuple[str, str, Callable[..., Answer]]] = [
            ("POST", one + "/search", self._search),
            ("POST", one + "/batch/(create|update|upsert|archive)", self._batch),
            ("POST", one, self._create),
            ("GET", one, self._list),
            ("GET", one + "/([^/]+)", self._get),
            ("PATCH", one + "/([^/]+)", self._update),
            ("DELETE", one + "/([^/]+)", self._archive),
            ("PUT", tied + "/default/([^/]+)/([^/]+)", self._associate),
            ("PUT", tied + "/([^/]+)/([^/]+)", self._associate),
            ("DELETE", tied + "/([^/]+)/([^/]+)", self._dissociate),
            ("GET", tied + "/([^/]+)", self._associations),
        ]

    async def handle(self, ask: Ask) -> Answer:
        """Answer one request."""
        if (ask.method, ask.path) == ("POST", "/oauth/v1/token"):
            return self._token(ask)
        connected = self._accounts.answer(ask)
        if connected is not None:
            return connected
        try:
            self._authorise(ask)
            await ask.work()
            answer = self._routed(ask)
        except _Refused as refused:
            answer = refused.answer
        return Answer(answer.status, answer.content, {**self._limits(ask), **answer.headers})

    def snapshot(self) -> dict[str, Any]:
        """The objects by type and id, archived ones too, and who is associated with whom."""
        links = [[*pair, *other] for pair, others in self._links.items() for other in others]
        return {"objects": self._objects, "associations": links, "accounts": self._accounts.snapshot()}

    def failure(self, status: int) -> Answer:
        """HubSpot's error body for an injected status."""
        if status == 429:
            return Answer(429, _limited("TEN_SECONDLY_ROLLING"))
        return _Refused(status, "INTERNAL_ERROR", "internal error").answer

    def sample(self, event: str) -> bytes:
        """An event about an object that the account does not have."""
        if event not in _EVENTS:
            raise ConfigurationError(f"'event': the sandbox knows {', '.join(_EVENTS)} of HubSpot")
        change = ("firstname", "Ada") if event.endswith("propertyChange") else None
        return self._told(event, "123", change)

    def sign(self, emission: Emission, *, url: str, secrets: tuple[str, ...], hook_id: str, broken: bool) -> Signed:
        """Signed in version 3."""
        return signing.signed(
            "hubspot",
            emission,
            url=url,
            secrets=secrets,
            broken=broken,
            now=self._around.clock.wall(),
            headers={"Content-Type": "application/json", "User-Agent": "HubSpot Connect 2.0"},
        )

    # -- who asks --------------------------------------------------------------------------------------------------

    def _token(self, ask: Ask) -> Answer:
        form = {name: values[0] for name, values in parse_qs(ask.body.decode("utf-8", "replace")).items()}
        refresh = form.get("refresh_token", "")
        if form.get("grant_type") != "refresh_token":
            return Answer(400, {**_invalid("unsupported grant_type").body, "status": "BAD_GRANT_TYPE"})
        if (form.get("client_id"), form.get("client_secret")) != (_APP, _SECRET):
            return Answer(400, {**_invalid("missing or invalid client id").body, "status": "BAD_CLIENT_ID"})
        if not refresh or refresh.endswith("wrong"):
            return Answer(400, {**_invalid("missing or unknown refresh token").body, "status": "BAD_REFRESH_TOKEN"})
        token = self._around.id("CJ", 40)
        self._tokens[token] = self._around.clock.monotonic() + 1800
        return Answer(
            200,
            {"access_token": token, "refresh_token": refresh, "token_type": "bearer", "expires_in": 1800},
        )

    def _authorise(self, ask: Ask) -> None:
        scheme, _, token = ask.headers.get("authorization", "").partition(" ")
        if self._accounts.knows(token):
            self._check_scopes(ask, token)
            return
        ends = self._tokens.get(token)
        if ends is not None and ends <= self._around.clock.monotonic():
            raise _Refused(401, "EXPIRED_AUTHENTICATION", "The OAuth token used to make this call expired.")
        if scheme.lower() != "bearer" or (ends is None and not token.startswith("pat-")) or token.endswith("wrong"):
            raise _Refused(401, "INVALID_AUTHENTICATION", "Authentication credentials not found or invalid.")
        if token.endswith("daily"):
            refused = _Refused(429, "", "")
            refused.answer = Answer(429, _limited("DAILY"))
            raise refused
        if token.endswith("noscope") and "/contacts" in ask.path:
            raise _Refused(403, "MISSING_SCOPES", "This app hasn't been granted all required scopes.")

    def _check_scopes(self, ask: Ask, token: str) -> None:
        held = self._accounts.allowed(token)
        if held is None:
            raise _Refused(401, "EXPIRED_AUTHENTICATION", "The OAuth token used to make this call expired.")
        found = re.match(r"/crm/v[34]/objects/([^/]+)", ask.path)
        reads = ask.method == "GET" or ask.path.endswith("/search")
        needed = f"crm.objects.{unquote(found[1])}.{'read' if reads else 'write'}" if found else "oauth"
        if needed not in held[1]:
            raise _Refused(403, "MISSING_SCOPES", "This app hasn't been granted all required scopes.")

    def _limits(self, ask: Ask) -> dict[str, str]:
        """Of 10 seconds and of the day; none on searches, and none of the day for OAuth tokens."""
        ten = self._around.now() // 10
        self._window = (ten, _LIMIT - 1 if self._window[0] != ten else max(self._window[1] - 1, 0))
        if ask.path.endswith("/search"):
            return {}
        said = {
            "X-HubSpot-RateLimit-Interval-Milliseconds": "10000",
            "X-HubSpot-RateLimit-Max": str(_LIMIT),
            "X-HubSpot-RateLimit-Remaining": str(self._window[1]),
        }
        if "pat-" in ask.headers.get("authorization", ""):
            said |= {"X-HubSpot-RateLimit-Daily": "250000", "X-HubSpot-RateLimit-Daily-Remaining": "249000"}
        return said

    def _routed(self, ask: Ask) -> Answer:
        for method, pattern, action in self._routes:
            found = re.fullmatch(pattern, ask.path)
            if method == ask.method and found:
                parts = [unquote(one) for one in found.groups()]
                if parts[0] not in _TYPES:
                    raise _invalid(f"Unable to infer object type from: {parts[0]}")
                return action(ask, *parts)
        raise _Refused(404, "OBJECT_NOT_FOUND", "resource not found")

    # -- objects ---------------------------------------------------------------------------------------------------

    def _create(self, ask: Ask, kind: str) -> Answer:
        given = _json(ask)
        return Answer(201, _shown(self._made(kind, given), None))

    def _made(self, kind: str, given: dict[str, Any]) -> dict[str, Any]:
        properties = _properties(given)
        self._check(kind, properties, None)
        ties = given.get("associations", [])
        for tie in ties:
            if not tie.get("to", {}).get("id") or not tie.get("types"):
                raise _invalid("associations need `to` and `types`")
        self._next += 1
        key, now = str(self._next), self._now()
        self._objects[kind][key] = {
            "id": key,
            "properties": {**properties, "hs_object_id": key},
            "createdAt": now,
            "updatedAt": now,
            "archived": False,
        }
        self._touched(kind, self._objects[kind][key], now)
        for tie in ties:
            other = next((one for one, held in self._objects.items() if tie["to"]["id"] in held), None)
            if other is None:
                raise _invalid("The association's object does not exist")
            self._tied(kind, key, other, tie["to"]["id"], tie["types"])
        self._emit(kind, "creation", key)
        return self._objects[kind][key]

    def _changed(self, kind: str, held: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
        properties = _properties(given)
        self._check(kind, properties, held["id"])
        held["properties"].update(properties)
        self._touched(kind, held, self._now())
        for name, value in properties.items():
            self._emit(kind, "propertyChange", held["id"], (name, value))
        return held

    def _touched(self, kind: str, held: dict[str, Any], now: str) -> None:
        held["updatedAt"] = now
        held["properties"]["lastmodifieddate" if kind == "contacts" else "hs_lastmodifieddate"] = now

    def _check(self, kind: str, properties: dict[str, str], mine: str | None) -> None:
        for name, value in properties.items():
            if name.startswith("no_such"):
                raise _invalid(
                    f'Property values were not valid: Property "{name}" does not exist', "PROPERTY_DOESNT_EXIST"
                )
            if name == "email" and value and not _EMAIL.fullmatch(value):
                raise _invalid(f"Property values were not valid: Email address {value} is invalid", "INVALID_EMAIL")
            if not _unique(kind, name) or not value:
                continue
            other = self._by(kind, name, value)
            if other is not None and other["id"] != mine:
                raise _Refused(409, "CONFLICT", f"Contact already exists. Existing ID: {other['id']}")

    def _by(self, kind: str, name: str, value: str) -> dict[str, Any] | None:
        live = (one for one in self._objects[kind].values() if not one["archived"])
        return next((one for one in live if (one["properties"].get(name) or "").lower() == value.lower()), None)

    def _found(self, kind: str, key: str, id_property: str | None, *, archived: bool = False) -> dict[str, Any]:
        if id_property is not None and not _unique(kind, id_property):
            raise _invalid(f"Property {id_property} is not a unique identifier property")
        held = self._objects[kind].get(key) if id_property is None else self._by(kind, id_property, key)
        if held is None or held["archived"] is not archived:
            raise _Refused(404, "OBJECT_NOT_FOUND", "resource not found")
        return held

    def _get(self, ask: Ask, kind: str, key: str) -> Answer:
        query = dict(ask.parameters)
        held = self._found(kind, key, query.get("idProperty"), archived=query.get("archived") == "true")
        return Answer(200, _shown(held, _wanted(query)))

    def _update(self, ask: Ask, kind: str, key: str) -> Answer:
        held = self._found(kind, key, dict(ask.parameters).get("idProperty"))
        return Answer(200, _shown(self._changed(kind, held, _json(ask)), None))

    def _archive(self, _ask: Ask, kind: str, key: str) -> Answer:
        held = self._objects[kind].get(key)
        if held is not None and not held["archived"]:
            held.update(archived=True, archivedAt=self._now())
            self._emit(kind, "deletion", key)
        return Answer(204)

    def _list(self, ask: Ask, kind: str) -> Answer:
        query = dict(ask.parameters)
        wanted = query.get("archived") == "true"
        held = [one for one in self._objects[kind].values() if one["archived"] is wanted]
        return Answer(200, _paged(held, query.get("limit", 10), query.get("after"), _wanted(query)))

    def _search(self, ask: Ask, kind: str) -> Answer:
        given = _json(ask)
        groups = given.get("filterGroups", [])
        live = [one for one in self._objects[kind].values() if not one["archived"]]
        try:
            tests = [[condition(one) for one in group["filters"]] for group in groups]
        except ValueError as error:
            raise _invalid(str(error)) from None
        found = [
            one
            for one in live
            if (not tests or any(all(test(one["properties"]) for test in group) for group in tests))
            and str(given.get("query", "")).lower() in json.dumps(one["properties"]).lower()
        ]
        for sort in reversed(given.get("sorts", [])):
            if not isinstance(sort, str):
                raise _invalid("sorts must be text")
            found.sort(key=lambda one: one["properties"].get(sort) or "")
        limit, after = given.get("limit", 10), given.get("after")
        page = _paged(found, limit, after, given.get("properties"))
        if int(after or 0) + int(limit) > _FOUND:
            raise _invalid(f"The total number of results is more than {_FOUND}")
        return Answer(200, {"total": len(found), **page})

    def _batch(self, ask: Ask, kind: str, what: str) -> Answer:
        inputs = _json(ask).get("inputs")
        if not isinstance(inputs, list) or not 1 <= len(inputs) <= _BATCH:
            raise _invalid(f"inputs must be 1 to {_BATCH}")
        if what == "archive":
            for one in inputs:
                self._archive(ask, kind, str(one.get("id")))
            return Answer(204)
        results, errors = [], []
        for one in inputs:
            try:
                results.append(self._one(kind, what, one))
            except _Refused as refused:
                traced = {"objectWriteTraceId": [one["objectWriteTraceId"]]} if "objectWriteTraceId" in one else {}
                errors.append(
                    {**refused.body, "context": traced, "links": {}, "errors": refused.body.get("errors", [])}
                )
        now = self._now()
        answer: dict[str, Any] = {"status": "COMPLETE", "results": results, "startedAt": now, "completedAt": now}
        if errors:
            return Answer(207, {**answer, "numErrors": len(errors), "errors": errors})
        return Answer(201 if what == "create" else 200, answer)

    def _one(self, kind: str, what: str, given: dict[str, Any]) -> dict[str, Any]:
        trace = {name: given[name] for name in ("objectWriteTraceId",) if name in given}
        if what == "create":
            return {**_shown(self._made(kind, given), None), **trace}
        key, id_property = str(given.get("id", "")), given.get("idProperty")
        new = {"new": False} if what == "upsert" else {}
        try:
            held = self._found(kind, key, id_property)
        except _Refused as refused:
            if what != "upsert" or id_property is None or refused.status != 404:
                raise
            held = self._made(kind, {"properties": {**_properties(given), id_property: key}})
            return {**_shown(held, None), "new": True, **trace}
        return {**_shown(self._changed(kind, held, given), None), **new, **trace}

    # -- associations ----------------------------------------------------------------------------------------------

    def _associate(self, ask: Ask, kind: str, key: str, other: str, to: str) -> Answer:
        if other not in _TYPES or key not in self._objects[kind] or to not in self._objects[other]:
            raise _Refused(404, "OBJECT_NOT_FOUND", "resource not found")
        if "/default/" in ask.path:
            spec = {
                "associationCategory": "HUBSPOT_DEFINED",
                "associationTypeId": _DEFAULT_LINKS.get((kind, other), 449),
            }
            self._tied(kind, key, other, to, [spec])
            now = self._now()
            results = [{"from": {"id": key}, "to": {"id": to}, "associationSpec": spec}]
            return Answer(200, {"status": "COMPLETE", "results": results, "startedAt": now, "completedAt": now})
        specs = json.loads(ask.body or b"null")
        if not isinstance(specs, list) or not specs:
            raise _invalid("Invalid input JSON: expected an array")
        self._tied(kind, key, other, to, specs)
        ends = {"fromObjectTypeId": kind, "fromObjectId": key, "toObjectTypeId": other, "toObjectId": to}
        return Answer(201, {**ends, "labels": []})

    def _tied(self, kind: str, key: str, other: str, to: str, specs: list[dict[str, Any]]) -> None:
        for spec in specs:
            if not isinstance(spec.get("associationTypeId"), int) or "associationCategory" not in spec:
                raise _invalid("An association needs associationCategory and associationTypeId")
        self._links.setdefault((kind, key), {})[other, to] = specs
        self._links.setdefault((other, to), {})[kind, key] = specs

    def _dissociate(self, _ask: Ask, kind: str, key: str, other: str, to: str) -> Answer:
        self._links.get((kind, key), {}).pop((other, to), None)
        self._links.get((other, to), {}).pop((kind, key), None)
        return Answer(204)

    def _associations(self, ask: Ask, kind: str, key: str, other: str) -> Answer:
        query = dict(ask.parameters)
        tied = [
            {
                "id": to,
                "toObjectId": to,
                "associationTypes": [
                    {"category": one["associationCategory"], "typeId": one["associationTypeId"]} for one in specs
                ],
            }
            for (type_, to), specs in self._links.get((kind, key), {}).items()
            if type_ == other
        ]
        page = _cut(tied, query.get("limit", 500), query.get("after"))
        page["results"] = [{name: one[name] for name in ("toObjectId", "associationTypes")} for one in page["results"]]
        return Answer(200, page)

    # -- webhooks and time -----------------------------------------------------------------------------------------

    def _emit(self, kind: str, what: str, key: str, change: tuple[str, str] | None = None) -> None:
        event = f"{_TYPES[kind]}.{what}"
        self._around.emit(Emission(event, self._told(event, key, change), self._around.id("", 12)))

    def _told(self, event: str, key: str, change: tuple[str, str] | None) -> bytes:
        one = {
            "eventId": self._around.random.getrandbits(31),
            "subscriptionId": 20,
            "portalId": 62515,
            "appId": 54321,
            "occurredAt": int(self._around.clock.wall() * 1000),
            "subscriptionType": event,
            "attemptNumber": 0,
            "objectId": int(key),
            "changeSource": "API",
        }
        if change is not None:
            one |= {"propertyName": change[0], "propertyValue": change[1]}
        else:
            one |= {"changeFlag": "CREATED" if event.endswith("creation") else "DELETED"}
        return json.dumps([one], separators=(",", ":")).encode()

    def _now(self) -> str:
        """The time in milliseconds; another one for each write, so that they can be told apart."""
        self._last = max(self._last + 1, int(self._around.clock.wall() * 1000))
        return datetime.fromtimestamp(self._last / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def _granted(pair: TokenPair) -> dict[str, Any]:
    answer = {"token_type": "bearer", "refresh_token": pair.refresh, "access_token": pair.access}
    return {**answer, "expires_in": pair.lasts, **pair.person.claims, "scopes": list(pair.scopes)}


def _not_granted(refused: Refused) -> Answer:
    """The words of RFC 6749, and HubSpot's own beside them (its changelog of the OAuth API)."""
    word = "BAD_REFRESH_TOKEN" if refused.error == "invalid_grant" else refused.error.upper()
    said = {"error": refused.error, "error_description": refused.description}
    return Answer(refused.status, {**said, "status": word, "message": refused.description})


def _limited(policy: str) -> dict[str, Any]:
    return {
        "status": "error",
        "message": "You have reached your limit.",
        "errorType": "RATE_LIMIT",
        "correlationId": "c033cdaa-2c40-4a64-ae48-b4cec88dad24",
        "policyName": policy,
        "requestId": "3d3e35b7-0dae-4b9f-a6e3-9c230cbcf8dd",
    }


def _json(ask: Ask) -> dict[str, Any]:
    try:
        given = json.loads(ask.body)
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise _invalid("Invalid input JSON")
    return given


def _properties(given: dict[str, Any]) -> dict[str, str]:
    properties = given.get("properties")
    if not isinstance(properties, dict) or not all(isinstance(one, str) for one in properties.values()):
        raise _invalid("Invalid input JSON: `properties` must be an object of texts")
    return properties


def _unique(kind: str, name: str) -> bool:
    return name == "hs_object_id" or name.endswith("_key") or (kind == "contacts" and name == "email")


def _wanted(query: dict[str, str]) -> list[str] | None:
    return query["properties"].split(",") if query.get("properties") else None


def _shown(held: dict[str, Any], wanted: list[str] | None) -> dict[str, Any]:
    """With all properties after a write; of those that are wanted, only such as are there."""
    if wanted is None:
        return {**held, "properties": dict(held["properties"])}
    return {**held, "properties": {name: held["properties"][name] for name in wanted if name in held["properties"]}}


def _cut(held: list[dict[str, Any]], limit: Any, after: Any) -> dict[str, Any]:
    if not str(limit).isdecimal() or not str(after or 0).isdecimal():
        raise _invalid("limit and after must be numbers")
    start, size = int(after or 0), int(limit)
    page: dict[str, Any] = {"results": held[start : start + size]}
    if start + size < len(held):
        page["paging"] = {"next": {"after": str(start + size)}}
    return page


def _paged(held: list[dict[str, Any]], limit: Any, after: Any, wanted: list[str] | None) -> dict[str, Any]:
    if not str(limit).isdecimal() or not 1 <= int(limit) <= 100:
        raise _invalid("limit must be from 1 to 100")
    page = _cut(held, limit, after)
    return {**page, "results": [_shown(one, wanted) for one in page["results"]]}


STAND_IN = Registration(name="hubspot", make=HubSpotStandIn, secret=_SECRET, events=_EVENTS)
