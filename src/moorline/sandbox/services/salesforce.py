"""Salesforce's stand-in: tokens, records, queries, upserts, composites, collections, limits, outbound messages.

Facts: services/business/salesforce.md and salesforce.schema.json. ``POST /salesforce/services/oauth2/token`` takes the
app ``sandbox-consumer-key``: assertions signed by moorline's own key for the sandbox, whose public half is their
``kid``; refresh tokens that do not end in ``wrong``; and the secret ``sandbox-client-secret``. Users whose name begins
with ``unknown`` allowed nothing. The sandbox's own: every object and field exists but those that begin with
``No_Such``; fields that end in ``_Id__c`` are external ids, unique but for ``Loose_Id__c``; a record named ``Locked
once`` cannot be locked the first time; an ``Amount`` below zero breaks a validation rule; an org has 5000 requests, and
each counts; after a call of ``/_end`` no token is good any more.

Accounts are connected at ``/services/oauth2/authorize``, by the client ``sandbox-client``: see :mod:`._oauth`.
They are ``acme`` and ``globex``, which share what is stored.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, unquote
from xml.sax.saxutils import escape

from moorline.errors import ConfigurationError
from moorline.sandbox import signing
from moorline.sandbox.services._assertions import read_assertion
from moorline.sandbox.services._oauth import Accounts, Person, TokenPair
from moorline.sandbox.services._soql import Malformed, parsed
from moorline.sandbox.standin import Answer, Ask, Emission, Registration, Signed, Surroundings

__all__ = ["STAND_IN"]

_APP, _SECRET = "sandbox-consumer-key", "sandbox-client-secret"
_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_AUDIENCES = ("https://login.salesforce.com", "https://test.salesforce.com")
_PREFIXES = {"Account": "001", "Contact": "003", "Opportunity": "006", "Lead": "00Q"}
_REQUIRED = {"Account": ("Name",), "Contact": ("LastName",), "Opportunity": ("Name", "StageName", "CloseDate")}
_READ_ONLY = ("Id", "CreatedDate", "LastModifiedDate", "SystemModstamp", "IsDeleted")
_EVENTS = ("Account", "Contact", "Lead", "Opportunity")
_LIMIT = 5000


class _Refused(Exception):
    def __init__(self, status: int, code: str, message: str, fields: list[str] | None = None) -> None:
        super().__init__(message)
        self.problem: dict[str, Any] = {"message": message, "errorCode": code}
        if fields is not None:
            self.problem["fields"] = fields
        self.answer = Answer(status, [self.problem])

    @property
    def result(self) -> dict[str, Any]:
        """The same, as the result for one of several records."""
        problem = {
            "statusCode": self.problem["errorCode"],
            "message": self.problem["message"],
            "fields": self.problem.get("fields", []),
        }
        return {"success": False, "errors": [problem]}


_PEOPLE = (
    Person("acme", "Acme GmbH", {"id": "https://login.salesforce.com/id/00Dacme/005ada"}),
    Person("globex", "Globex", {"id": "https://login.salesforce.com/id/00Dglobex/005hank"}),
)


class SalesforceStandIn:
    """One organization."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._base = ""
        self._accounts = Accounts(
            around,
            "Salesforce",
            _PEOPLE,
            authorize="/services/oauth2/authorize",
            token="/services/oauth2/token",
            revoke="/services/oauth2/revoke",
            shared=True,
            prefix="00D",
            shape=self._granted,
        )
        self._tokens: set[str] = set()
        self._records: dict[str, dict[str, dict[str, Any]]] = {}
        self._cursors: dict[str, tuple[list[dict[str, Any]], int]] = {}
        self._locked: set[str] = set()
        self._next, self._last, self._used = 0, 0, 0
        base = r"/services/data/v\d\d\.0"
        one = base + r"/sobjects/([^/]+)"
        self._routes: list[tuple[str, str, Callable[..., Answer]]] = [
            ("GET", base + "/(query|queryAll)", self._query),
            ("GET", base + "/query/([^/]+)", self._more),
            ("POST", one, self._create),
            ("GET", one + "/([^/]+)", self._get),
            ("PATCH", one + "/([^/]+)", self._update),
            ("DELETE", one + "/([^/]+)", self._delete),
            ("PATCH", one + "/([^/]+)/([^/]+)", self._upsert),
            ("POST", base + "/composite", self._composite),
            ("POST", base + "/composite/sobjects", self._create_all),
            ("PATCH", base + "/composite/sobjects", self._update_all),
            ("DELETE", base + "/composite/sobjects", self._delete_all),
            ("PATCH", base + "/composite/sobjects/([^/]+)/([^/]+)", self._upsert_all),
            ("GET", base + "/limits", self._limits),
        ]

    async def handle(self, ask: Ask) -> Answer:
        """Answer one request."""
        self._base = ask.base
        connected = self._accounts.answer(ask)
        if connected is not None:
            return connected
        if (ask.method, ask.path) == ("POST", "/services/oauth2/token"):
            return self._token(ask)
        try:
            self._authorise(ask)
            await ask.work()
            if ask.path == "/_end":
                self._tokens.clear()
                return Answer(204)
            answer = self._routed(ask)
        except _Refused as refused:
            answer = refused.answer
        return Answer(answer.status, answer.content, {"Sforce-Limit-Info": f"api-usage={self._used}/{_LIMIT}"})

    def snapshot(self) -> dict[str, Any]:
        """The records by object and id, deleted ones too."""
        return {"records": self._records, "used": self._used, "accounts": self._accounts.snapshot()}

    def failure(self, status: int) -> Answer:
        """Salesforce's error body for an injected status; it knows no 429."""
        code = {403: "REQUEST_LIMIT_EXCEEDED", 429: "REQUEST_LIMIT_EXCEEDED", 503: "SERVER_UNAVAILABLE"}.get(status)
        return _Refused(status, code or "UNKNOWN_EXCEPTION", "An unexpected error occurred.").answer

    def sample(self, event: str) -> bytes:
        """A message about a record that the organization does not have."""
        if event not in _EVENTS:
            raise ConfigurationError(f"'event': the sandbox knows {', '.join(_EVENTS)} of Salesforce")
        return self._told(event, {"Id": _id(_PREFIXES[event], 7), "Name": "Acme & Co"})

    def sign(self, emission: Emission, *, url: str, secrets: tuple[str, ...], hook_id: str, broken: bool) -> Signed:
        """Not signed: the secret is shown."""
        return signing.signed(
            "salesforce",
            emission,
            url=url,
            secrets=secrets,
            broken=broken,
            now=self._around.clock.wall(),
            headers={"Content-Type": "text/xml; charset=utf-8", "SOAPAction": '""'},
        )

    # -- who asks --------------------------------------------------------------------------------------------------

    def _token(self, ask: Ask) -> Answer:
        form = {name: values[0] for name, values in parse_qs(ask.body.decode("utf-8", "replace")).items()}
        grant = form.get("grant_type")
        problem = ("unsupported_grant_type", "grant type not supported")
        if grant == _GRANT:
            problem = _assertion_problem(form.get("assertion", ""), self._around.clock.wall())
        elif grant == "refresh_token":
            problem = _client_problem(form.get("client_id"), form.get("client_secret", _SECRET))
            refresh = form.get("refresh_token", "")
            if not problem[0] and (not refresh or refresh.endswith("wrong")):
                problem = ("invalid_grant", "expired access/refresh token")
        elif grant == "client_credentials":
            problem = _client_problem(*_basic(ask.headers.get("authorization", "")))
        if problem[0]:
            return Answer(400, {"error": problem[0], "error_description": problem[1]})
        token = self._around.id("00D", 40)
        self._tokens.add(token)
        return Answer(200, self._given(token, "https://login.salesforce.com/id/00Dx/005x"))

    def _given(self, token: str, who: str) -> dict[str, Any]:
        return {
            "access_token": token,
            "instance_url": self._base,
            "id": who,
            "token_type": "Bearer",
            "issued_at": str(int(self._around.clock.wall() * 1000)),
            "signature": "c2lnbmF0dXJl",
        }

    def _granted(self, pair: TokenPair) -> dict[str, Any]:
        given = self._given(pair.access, pair.person.claims["id"])
        return {**given, "refresh_token": pair.refresh, "scope": " ".join(pair.scopes)}

    def _authorise(self, ask: Ask) -> None:
        scheme, _, token = ask.headers.get("authorization", "").partition(" ")
        known = token in self._tokens or self._accounts.allowed(token) is not None
        if scheme.lower() != "bearer" or not known:
            raise _Refused(401, "INVALID_SESSION_ID", "Session expired or invalid")
        if self._used >= _LIMIT:
            raise _Refused(403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded.")
        self._used += 1

    def _routed(self, ask: Ask) -> Answer:
        for method, pattern, action in self._routes:
            found = re.fullmatch(pattern, ask.path)
            if method == ask.method and found:
                return action(ask, *(unquote(one) for one in found.groups()))
        raise _Refused(404, "NOT_FOUND", "The requested resource does not exist")

    # -- records ---------------------------------------------------------------------------------------------------

    def _create(self, ask: Ask, kind: str) -> Answer:
        return Answer(201, {"id": self._made(kind, _json(ask)), "success": True, "errors": []})

    def _made(self, kind: str, given: dict[str, Any]) -> str:
        self._check(kind, given, None)
        missing = [name for name in _REQUIRED.get(kind, ()) if given.get(name) in (None, "")]
        if missing:
            message = f"Required fields are missing: [{', '.join(missing)}]"
            raise _Refused(400, "REQUIRED_FIELD_MISSING", message, missing)
        self._lock(given)
        self._next += 1
        key, now = _id(_PREFIXES.get(kind, "a00"), self._next), self._now()
        fixed = {"Id": key, "CreatedDate": now, "LastModifiedDate": now, "SystemModstamp": now, "IsDeleted": False}
        self._records.setdefault(kind, {})[key] = {**given, **fixed}
        self._emit(kind, key)
        return key

    def _changed(self, kind: str, key: str, given: dict[str, Any]) -> None:
        held = self._held(kind, key)
        self._check(kind, given, held["Id"])
        self._lock(held)
        now = self._now()
        held.update(given, LastModifiedDate=now, SystemModstamp=now)
        self._emit(kind, held["Id"])

    def _check(self, kind: str, given: dict[str, Any], mine: str | None) -> None:
        if kind.startswith("No_Such") or not re.fullmatch(r"[A-Za-z]\w*", kind):
            raise _Refused(404, "NOT_FOUND", "The requested resource does not exist")
        for name, value in given.items():
            if name.startswith("No_Such"):
                raise _Refused(400, "INVALID_FIELD", f"No such column '{name}' on sobject of type {kind}", [name])
            if name in _READ_ONLY:
                raise _Refused(
                    400, "INVALID_FIELD_FOR_INSERT_UPDATE", f"Unable to create/update fields: {name}", [name]
                )
            if name == "Amount" and isinstance(value, int | float) and value < 0:
                raise _Refused(400, "FIELD_CUSTOM_VALIDATION_EXCEPTION", "Amount must not be negative", [name])
            if not name.endswith("_Id__c") or name == "Loose_Id__c":
                continue
            others = [one for one in self._with(kind, name, value) if one["Id"] != mine]
            if others:
                message = f"duplicate value found: {name} duplicates value on record with id: {others[0]['Id']}"
                raise _Refused(400, "DUPLICATE_VALUE", message)

    def _lock(self, record: dict[str, Any]) -> None:
        name = record.get("Name")
        if name == "Locked once" and name not in self._locked:
            self._locked.add(name)
            raise _Refused(400, "UNABLE_TO_LOCK_ROW", "unable to obtain exclusive access to this record or 1 records")

    def _with(self, kind: str, name: str, value: Any) -> list[dict[str, Any]]:
        live = (one for one in self._records.get(kind, {}).values() if not one["IsDeleted"])
        return [one for one in live if one.get(name) is not None and str(one[name]).lower() == str(value).lower()]

    def _held(self, kind: str, key: str) -> dict[str, Any]:
        records = self._records.get(kind, {})
        held = records.get(key) or next((one for full, one in records.items() if full[:15] == key), None)
        if held is None:
            raise _Refused(404, "NOT_FOUND", "Provided external ID field does not exist or is not accessible: " + key)
        if held["IsDeleted"]:
            raise _Refused(404, "ENTITY_IS_DELETED", "entity is deleted")
        return held

    def _get(self, ask: Ask, kind: str, key: str) -> Answer:
        held, asked = self._held(kind, key), dict(ask.parameters).get("fields")
        names = ["Id", *asked.split(",")] if asked else list(held)
        return Answer(200, _shown(kind, held, names))

    def _update(self, ask: Ask, kind: str, key: str) -> Answer:
        self._changed(kind, key, _json(ask))
        return Answer(204)

    def _delete(self, _ask: Ask, kind: str, key: str) -> Answer:
        self._held(kind, key).update(IsDeleted=True, SystemModstamp=self._now())
        return Answer(204)

    def _upsert(self, ask: Ask, kind: str, name: str, value: str) -> Answer:
        given = _json(ask)
        if name in given:
            raise _Refused(
                400, "INVALID_FIELD", f"The {name} field should not be specified in the sobject data.", [name]
            )
        found = self._with(kind, name, value)
        if len(found) > 1:
            return Answer(300, [f"/services/data/v66.0/sobjects/{kind}/{one['Id']}" for one in found])
        done = self._upserted(kind, name, value, given)
        return Answer(201 if done["created"] else 200, done)

    def _upserted(self, kind: str, name: str, value: Any, given: dict[str, Any]) -> dict[str, Any]:
        if not name.endswith("_Id__c"):
            raise _Refused(404, "NOT_FOUND", "Provided external ID field does not exist or is not accessible: " + name)
        found = self._with(kind, name, value)
        if len(found) > 1:
            raise _Refused(400, "DUPLICATE_EXTERNAL_ID", f"More than one record found for external id field: {name}")
        if not found:
            key = self._made(kind, {**given, name: value})
            return {"id": key, "success": True, "errors": [], "created": True}
        self._changed(kind, found[0]["Id"], given)
        return {"id": found[0]["Id"], "success": True, "errors": [], "created": False}

    # -- queries ---------------------------------------------------------------------------------------------------

    def _query(self, ask: Ask, how: str) -> Answer:
        try:
            query = parsed(dict(ask.parameters).get("q", ""))
            for name in query.names:
                if name.startswith("No_Such"):
                    message = f"No such column '{name}' on entity '{query.sobject}'."
                    raise _Refused(400, "INVALID_FIELD", message)
            if query.sobject.startswith("No_Such"):
                raise _Refused(400, "INVALID_TYPE", f"sObject type '{query.sobject}' is not supported.")
            held = self._records.get(query.sobject, {}).values()
            found = [one for one in held if (how == "queryAll" or not one["IsDeleted"]) and query.matches(one)]
            records = [_shown(query.sobject, one, list(query.fields)) for one in query.ordered(found)]
        except Malformed as error:
            raise _Refused(400, "MALFORMED_QUERY", str(error)) from None
        wished = re.search(r"batchSize=(\d+)", ask.headers.get("sforce-query-options", ""))
        size = min(max(int(wished[1]), 200), 2000) if wished else 2000
        cursor = self._around.id("01g", 15)
        self._cursors[cursor] = (records, size)
        return self._page(cursor, 0)

    def _more(self, _ask: Ask, locator: str) -> Answer:
        cursor, _, start = locator.partition("-")
        if cursor not in self._cursors or not start.isdecimal():
            raise _Refused(400, "INVALID_QUERY_LOCATOR", "invalid query locator")
        return self._page(cursor, int(start))

    def _page(self, cursor: str, start: int) -> Answer:
        records, size = self._cursors[cursor]
        end = start + size
        answer: dict[str, Any] = {
            "totalSize": len(records), "done": end >= len(records), "records": records[start:end]
        }  # fmt: skip
        if not answer["done"]:
            answer["nextRecordsUrl"] = f"/services/data/v66.0/query/{cursor}-{end}"
        return Answer(200, answer)

    # -- several at once -------------------------------------------------------------------------------------------

    def _all(self, given: dict[str, Any], act: Callable[[dict[str, Any]], dict[str, Any]]) -> Answer:
        """Each for itself, or all of them or none."""
        records = given.get("records")
        if not isinstance(records, list) or not 1 <= len(records) <= 200:
            raise _Refused(400, "EXCEEDED_MAX_SIZE_REQUEST", "records must be 1 to 200")
        before = json.dumps(self._records)
        results = []
        for one in records:
            try:
                results.append(act(dict(one)))
            except _Refused as refused:
                results.append(refused.result)
        if given.get("allOrNone") and not all(one["success"] for one in results):
            self._records = json.loads(before)
            halted = _Refused(400, "ALL_OR_NONE_OPERATION_ROLLED_BACK", "Record rolled back").result
            results = [halted if one["success"] else one for one in results]
        return Answer(200, results)

    def _create_all(self, ask: Ask) -> Answer:
        def act(one: dict[str, Any]) -> dict[str, Any]:
            return {"id": self._made(one.pop("attributes")["type"], one), "success": True, "errors": []}

        return self._all(_json(ask), act)

    def _update_all(self, ask: Ask) -> Answer:
        def act(one: dict[str, Any]) -> dict[str, Any]:
            key = one.pop("id")
            self._changed(one.pop("attributes")["type"], key, one)
            return {"id": key, "success": True, "errors": []}

        return self._all(_json(ask), act)

    def _upsert_all(self, ask: Ask, kind: str, name: str) -> Answer:
        def act(one: dict[str, Any]) -> dict[str, Any]:
            one.pop("attributes")
            return self._upserted(kind, name, one.pop(name), one)

        return self._all(_json(ask), act)

    def _delete_all(self, ask: Ask) -> Answer:
        query = dict(ask.parameters)

        def act(one: dict[str, Any]) -> dict[str, Any]:
            kind = next((kind for kind, held in self._records.items() if one["id"] in held), "")
            self._delete(ask, kind, one["id"])
            return {"id": one["id"], "success": True, "errors": []}

        records = [{"id": one} for one in query.get("ids", "").split(",") if one]
        return self._all({"records": records, "allOrNone": query.get("allOrNone") == "true"}, act)

    def _composite(self, ask: Ask) -> Answer:
        given = _json(ask)
        requests = given.get("compositeRequest")
        if not isinstance(requests, list) or not 1 <= len(requests) <= 25:
            raise _Refused(400, "INVALID_INPUT", "compositeRequest must be 1 to 25")
        before, answers = json.dumps(self._records), []
        bodies: dict[str, dict[str, Any]] = {}
        for one in requests:
            text = re.sub(r"@\{(\w+)\.(\w+)\}", lambda hole: str(bodies.get(hole[1], {}).get(hole[2])), json.dumps(one))
            request = json.loads(text)
            path, _, query = request["url"].partition("?")
            body = json.dumps(request.get("body")).encode()
            try:
                answer = self._routed(Ask(request["method"], path, query, {}, body, ask.base))
            except _Refused as refused:
                answer = refused.answer
            bodies[one["referenceId"]] = answer.content if isinstance(answer.content, dict) else {}
            answers.append(
                {
                    "body": answer.content,
                    "httpHeaders": {},
                    "httpStatusCode": answer.status,
                    "referenceId": one["referenceId"],
                }
            )
        if given.get("allOrNone") and any(one["httpStatusCode"] > 299 for one in answers):
            self._records = json.loads(before)
            halted = _Refused(400, "PROCESSING_HALTED", "The transaction was rolled back").answer
            for one in answers:
                if one["httpStatusCode"] <= 299:
                    one |= {"body": halted.content, "httpStatusCode": halted.status}
        return Answer(200, {"compositeResponse": answers})

    def _limits(self, _ask: Ask) -> Answer:
        return Answer(
            200,
            {
                "DailyApiRequests": {"Max": _LIMIT, "Remaining": _LIMIT - self._used},
                "DataStorageMB": {"Max": 1024, "Remaining": 1000},
            },
        )

    # -- messages and time -----------------------------------------------------------------------------------------

    def _emit(self, kind: str, key: str) -> None:
        if kind in _EVENTS:
            held = self._records[kind][key]
            fields = {name: value for name, value in held.items() if isinstance(value, str)}
            self._around.emit(Emission(kind, self._told(kind, {"Id": key, **fields}), self._around.id("04l", 15)))

    def _told(self, kind: str, fields: dict[str, str]) -> bytes:
        inner = "".join(f"<sf:{name}>{escape(value)}</sf:{name}>" for name, value in fields.items())
        number = _id("04l", self._around.random.getrandbits(20))
        return (
            '<?xml version="1.0" encoding="UTF-8"?>'
            '<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" '
            'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><soapenv:Body>'
            '<notifications xmlns="http://soap.sforce.com/2005/09/outbound">'
            "<OrganizationId>00D240000000001EAA</OrganizationId><ActionId>04k240000000001AAA</ActionId>"
            f'<SessionId xsi:nil="true"/><Notification><Id>{number}</Id>'
            f'<sObject xsi:type="sf:{kind}" xmlns:sf="urn:sobject.enterprise.soap.sforce.com">{inner}</sObject>'
            "</Notification></notifications></soapenv:Body></soapenv:Envelope>"
        ).encode()

    def _now(self) -> str:
        """The time in milliseconds; another one for each write, so that they can be told apart."""
        self._last = max(self._last + 1, int(self._around.clock.wall() * 1000))
        return datetime.fromtimestamp(self._last / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "+0000"


def _id(prefix: str, number: int) -> str:
    """An id of 18 characters: 15, and three that tell which of those are capitals."""
    short = f"{prefix}Hu0000{number:06d}"[:15]
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345"
    parts = (short[0:5], short[5:10], short[10:15])
    return short + "".join(alphabet[sum(1 << at for at, one in enumerate(part) if one.isupper())] for part in parts)


def _shown(kind: str, held: dict[str, Any], names: list[str]) -> dict[str, Any]:
    attributes = {"type": kind, "url": f"/services/data/v66.0/sobjects/{kind}/{held['Id']}"}
    known = {name.lower(): value for name, value in held.items()}
    return {"attributes": attributes, **{name: known.get(name.lower()) for name in names}}


def _json(ask: Ask) -> dict[str, Any]:
    try:
        given = json.loads(ask.body)
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise _Refused(
            400, "JSON_PARSER_ERROR", "The HTTP entity body is required, but this request has no entity body."
        )
    return given


def _basic(header: str) -> tuple[str, str]:
    try:
        client, _, secret = base64.b64decode(header.partition(" ")[2], validate=True).decode().partition(":")
    except ValueError:
        return "", ""
    return client, secret


def _client_problem(client: str | None, secret: str | None) -> tuple[str, str]:
    if client != _APP:
        return "invalid_client_id", "client identifier invalid"
    return ("", "") if secret == _SECRET else ("invalid_client", "invalid client credentials")


def _assertion_problem(assertion: str, now: float) -> tuple[str, str]:
    """What is wrong with the JWT, or nothing: its signature by the key that it names, and each of its claims."""
    try:
        header, claims = read_assertion(assertion)
        ends, user = float(claims["exp"]), str(claims["sub"])
        known = claims["iss"] == _APP, claims["aud"] in _AUDIENCES
    except (ValueError, KeyError, TypeError):
        return "invalid_grant", "invalid assertion"
    if header["alg"] != "RS256":
        return "invalid_grant", "invalid assertion"
    if not known[0]:
        return "invalid_client_id", "client identifier invalid"
    if not known[1]:
        return "invalid_grant", "audience is invalid"
    if not now < ends <= now + 300:
        return "invalid_grant", "expired authorization code"
    return ("invalid_grant", "user hasn't approved this consumer") if user.startswith("unknown") else ("", "")


STAND_IN = Registration(
    name="salesforce", make=SalesforceStandIn, secret="sandbox-salesforce-path-secret", events=_EVENTS
)
