"""Salesforce: records of any object, queries in SOQL, several requests and records at once, and outbound messages.

Facts: services/business/salesforce.md; contract: salesforce.schema.json (derived, not official). Collections of records
and ``queryAll`` are those of Salesforce's REST API developer guide, and not on the card. The messages' form:
Salesforce's SOAP API developer guide ("Understanding the outbound messaging WSDL", "Understanding notifications").
Salesforce honours no idempotency keys: a creation that was sent and not answered is OutcomeUnknown; an upsert may be
sent again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final
from urllib.parse import urlsplit

from moorline import redaction
from moorline.calls.dialects import BearerKey, LimitPattern
from moorline.calls.faults import one_line
from moorline.calls.service import (
    Endpoints,
    ErrorMap,
    Exchange,
    Page,
    Parameter,
    Plan,
    RateLimitHeaders,
    Service,
    hours,
    listing,
    operation,
    segment,
)
from moorline.calls.tokens import (
    JWT_BEARER,
    ClientCredentials,
    Grant,
    RefreshToken,
    Request,
    Token,
    TokenService,
    private_key,
    sandbox_kid,
    sandbox_pair,
    signed_jwt,
    token_of,
)
from moorline.errors import (
    AuthenticationFailed,
    BadAnswer,
    CallError,
    ConfigurationError,
    Conflict,
    LimitFault,
    NotFound,
    PermissionDenied,
    ServiceUnavailable,
)
from moorline.events.delivery import Delivers, Reply
from moorline.events.schemes.shared_secret import SharedSecret
from moorline.identity.oauth import OAuth
from moorline.services.answers import flag, items, optional_text, record, text, whole
from moorline.services.limits import at_most, refused
from moorline.services.soql import field_name, soql, written

if TYPE_CHECKING:
    from moorline.events.event import Event
    from moorline.secrets.secret import Secret

__all__ = [
    "ApiLimit",
    "Notification",
    "RecordResult",
    "SObject",
    "Salesforce",
    "SubRequest",
    "SubResult",
    "Upserted",
    "limit_info",
]

_TOKEN: Final = "/services/oauth2/token"  # noqa: S105 (a path)
_LOGIN: Final = "https://login.salesforce.com"
_TEST: Final = "https://test.salesforce.com"
_MY_DOMAIN: Final = "https://{domain}.my.salesforce.com"
_HOSTS: Final = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+(?:salesforce|force)\.com")
_LIFETIME: Final = 180  # seconds; the limit is three or five minutes, by different sources
_BATCH: Final = range(200, 2001)
_SUBREQUESTS: Final = 25
_COLLECTION: Final = 200  # not on the card
_REFERENCE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_USED: Final = re.compile(r"(?P<policy>(?:per-app-)?api-usage)=(?P<used>\d{1,15})/(?P<limit>\d{1,15})\b")
_METHODS: Final = ("GET", "POST", "PATCH", "PUT", "DELETE")
_CODES: Final[Mapping[str, type[CallError]]] = {
    "INVALID_SESSION_ID": AuthenticationFailed,
    "INVALID_LOGIN": AuthenticationFailed,
    "INSUFFICIENT_ACCESS": PermissionDenied,
    "INSUFFICIENT_ACCESS_OR_READONLY": PermissionDenied,
    "API_DISABLED_FOR_ORG": PermissionDenied,
    "NOT_FOUND": NotFound,
    "ENTITY_IS_DELETED": NotFound,
    "DUPLICATE_VALUE": Conflict,
    "DUPLICATES_DETECTED": Conflict,
    "DUPLICATE_EXTERNAL_ID": Conflict,
    "UNABLE_TO_LOCK_ROW": Conflict,
    "SERVER_UNAVAILABLE": ServiceUnavailable,
    # Of a day that rolls on: not RateLimited, so that nobody waits and tries again at once.
    "REQUEST_LIMIT_EXCEEDED": LimitFault,
}  # those that the card does not have are unconfirmed


@dataclass(frozen=True, slots=True)
class SObject:
    """A record: its *type*, its *id* (None in sums and groups), and the *fields* that were asked for."""

    type: str
    id: str | None
    fields: Mapping[str, Any]
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Upserted:
    """What an upsert did: whether it *created* the record. An update of older API versions names no *id*."""

    created: bool
    id: str | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class RecordResult:
    """What became of one of several records: *done* with its *id* (*created* by an upsert), or *code*, *message* and
    the *fields* that were wrong.
    """

    done: bool
    id: str | None = None
    created: bool | None = None
    code: str | None = None
    message: str | None = None
    fields: tuple[str, ...] = ()
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class SubRequest:
    """One request of a composite: *path* is below the API's version (``sobjects/Account``), *name* what later ones call
    its answer (``@{name.id}``).

    Raises InvalidRequest for what Salesforce would not take.
    """

    method: str
    path: str
    name: str
    body: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.method not in _METHODS:
            raise refused("method", f"must be one of {', '.join(_METHODS)}")
        if not _REFERENCE.fullmatch(self.name):
            raise refused("name", "must be letters, figures and '_', and begin with a letter")
        if self.path.startswith(("/", "http")):
            raise refused("path", "is below the version of the API, such as sobjects/Account")


@dataclass(frozen=True, slots=True)
class SubResult:
    """The answer to one request of a composite, with *code* and *message* where it failed. Of those that were undone
    because another one failed the code is ``PROCESSING_HALTED``.
    """

    name: str
    status: int
    body: Any = field(default=None, repr=False)
    code: str | None = None
    message: str | None = None

    @property
    def done(self) -> bool:
        """Whether it was done."""
        return 200 <= self.status <= 299


@dataclass(frozen=True, slots=True)
class ApiLimit:
    """How much of a limit there is, and what is left of it."""

    most: int
    remaining: int


@dataclass(frozen=True, slots=True)
class Notification:
    """An outbound message's record, as it was when it was sent: only the fields that the message has."""

    id: str
    type: str
    record_id: str | None
    fields: Mapping[str, Any]
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class _PrivateKey:
    """The private key that signs for a token; the sandbox takes one that is made for this process."""

    env: str

    @property
    def sandbox(self) -> str:
        return sandbox_pair()[0]

    def headers(self, secret: Secret) -> dict[str, str]:
        return BearerKey(env="the access token").headers(secret)


@dataclass(frozen=True, slots=True)
class _Assertion:
    """The JWT bearer flow: the app's key signs that it acts for a user, who let it once and for all."""

    def account(self, service: Service, secret: Secret) -> tuple[str, ...]:  # noqa: ARG002
        """The app, the user, and where both are known."""
        assert isinstance(service, Salesforce)
        return "jwt", service.base_url, service.audience, service.client_id, service.username

    def request(self, service: Service, secret: Secret, now: float) -> Request:
        """The request for a token. Raises ConfigurationError."""
        assert isinstance(service, Salesforce)
        pem = private_key(secret, service.name)
        claims = {
            "iss": service.client_id,
            "sub": service.username,
            "aud": service.audience,
            "exp": int(now) + _LIFETIME,
        }
        kid = sandbox_kid(pem)
        header = {"alg": "RS256"} | ({} if kid is None else {"kid": kid})
        form = {"grant_type": JWT_BEARER, "assertion": signed_jwt(header, claims, pem, service.name)}
        return Request(service.base_url + _TOKEN, form, read=_token)


def _token(exchange: Exchange) -> Token:
    """Salesforce names no time at which it ends, and an address where it is to be used: one of its own, or, in the
    sandbox, the one where we asked. Raises BadAnswer for any other.
    """
    token = token_of(exchange)
    site = _own_site(text(record(exchange.data), "instance_url"), exchange.url)
    return Token(token.secret, token.lasts, site, token.successor)


def _own_site(told: str, asked: str) -> str:
    """The address at which a token is to be used: of Salesforce, or where we *asked*. Raises BadAnswer."""
    site = told.rstrip("/")
    try:
        parts = urlsplit(site)
    except ValueError:
        raise BadAnswer("instance_url is no URL") from None
    own = site == f"https://{parts.netloc}" and _HOSTS.fullmatch(parts.netloc.lower())
    if not own and f"{parts.scheme}://{parts.netloc}" != "://".join(urlsplit(asked)[:2]):
        raise BadAnswer("the token is for a host that is not Salesforce's: nothing is sent there")
    return site


_GRANTS: Final[Mapping[str, tuple[str, Grant]]] = {
    "jwt": ("SALESFORCE_PRIVATE_KEY", _Assertion()),
    "refresh_token": ("SALESFORCE_REFRESH_TOKEN", RefreshToken(_TOKEN, read=_token)),
    "client_credentials": ("SALESFORCE_CLIENT_SECRET", ClientCredentials(_TOKEN, read=_token)),
}


def _is_limit(exchange: Exchange) -> bool:
    """Whether too many are at work at this moment (unconfirmed words); the day's limit has the same code."""
    return exchange.status == 403 and b"REQUEST_LIMIT_EXCEEDED" in exchange.body and b"oncurrent" in exchange.body


class Salesforce(TokenService):
    """Records by Salesforce, and its outbound messages (SOAP), which are not signed.

    ``domain`` (SALESFORCE_DOMAIN) is the organization's My Domain: ``acme``, or ``acme--uat.sandbox`` of a sandbox.
    Without one tokens are had at ``login.salesforce.com``, with ``region="sandbox"`` at ``test.salesforce.com``, and
    all organizations that are called so have one breaker and one limit between them. Requests go where the token says:
    a host of ``salesforce.com`` or ``force.com``.

    By default the credential is the private key (SALESFORCE_PRIVATE_KEY: its PEM or its path) of the app ``client_id``
    (SALESFORCE_CLIENT_ID, the consumer key), which acts for the user ``username`` (SALESFORCE_USERNAME), who must have
    allowed it beforehand. With ``grant`` (SALESFORCE_GRANT) ``"refresh_token"`` it is what a user's consent gave
    (SALESFORCE_REFRESH_TOKEN, with ``client_secret`` or SALESFORCE_CLIENT_SECRET; see ``RefreshToken`` for who keeps
    the next one, where the organization replaces them); with ``"client_credentials"`` it is the app's secret itself,
    and needs a domain. Tokens are renewed each hour, and when Salesforce ends one (INVALID_SESSION_ID).

    The secret of outbound messages stands at the end of the endpoint's path (``/webhooks/salesforce/<secret>``). Each
    Notification is an event: its type is the record's (``Opportunity``), its payload ``{"Notification": {"Id": …,
    "sObject": {…}}}``. What stands around them is not kept (the organization's id, and the session id, which is a
    credential): give each organization a secret of its own, which the event's ``secret`` names. What changed before it
    was sent is not told again: the record is as it was when it was sent.
    Facts: services/business/salesforce.md; contract: salesforce.schema.json.
    """

    name, category = "salesforce", "business"
    docs = "services/business/salesforce.md, salesforce.schema.json"
    endpoints = Endpoints(_LOGIN, regions={"sandbox": _TEST})
    credentials = _PrivateKey(env="SALESFORCE_PRIVATE_KEY")
    domain = Parameter("SALESFORCE_DOMAIN", like=r"(?:[A-Za-z0-9-]+(?:\.(?!my$)[A-Za-z0-9-]+)?)?", default="")
    client_id = Parameter("SALESFORCE_CLIENT_ID", sandbox="sandbox-consumer-key")
    client_secret = Parameter("SALESFORCE_CLIENT_SECRET", sandbox="sandbox-client-secret", secret=True, default="")
    username = Parameter("SALESFORCE_USERNAME", sandbox="ada@acme.example", like=r"[^\s]+", grants=("jwt",))
    api_version = Parameter("SALESFORCE_API_VERSION", like=r"\d{2,3}\.0", default="66.0")
    grant = Parameter("SALESFORCE_GRANT", like="jwt|refresh_token|client_credentials", default="jwt")
    tokens = _Assertion()
    # An answer names no end, and usually no further refresh token; an organization may have these replaced.
    oauth = OAuth(
        authorize="/services/oauth2/authorize",
        token="/services/oauth2/token",  # noqa: S106 (an address)
        revoke="/services/oauth2/revoke",  # unconfirmed
        scopes=("api", "refresh_token"),
        implies={"full": ("api", "web", "id"), "offline_access": ("refresh_token",)},  # unconfirmed
        unlisted=("refresh_token",),  # that answers always name it is unconfirmed
        lasts=hours(1),
        rotates=True,
        keeps=("instance_url",),
        account="id",
    )
    limits = RateLimitHeaders(
        # Of 24 hours that roll on, so that something comes back all the time: it is tried hourly.
        fields=(LimitPattern("Sforce-Limit-Info", _USED, window=hours(1)),)
    )
    errors = ErrorMap(
        code="0.errorCode|error",
        message="0.message|error_description",
        kinds=_CODES,
        statuses={300: Conflict},  # several records have that external id
        retry=frozenset({"UNABLE_TO_LOCK_ROW"}),
        undone=frozenset({"UNABLE_TO_LOCK_ROW"}),
        is_limit=_is_limit,
    )
    webhooks = SharedSecret(
        env="SALESFORCE_WEBHOOK_SECRET",  # ours: the sender gives it no name
        each="Envelope.Body.notifications.Notification",
        id="Notification.Id",
        type="Notification.sObject.@type",
        # Without exactly this answer it comes again for 24 h.
        answer=Reply(
            200,
            b'<?xml version="1.0" encoding="UTF-8"?>'
            b'<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/"><soapenv:Body>'
            b'<notificationsResponse xmlns="http://soap.sforce.com/2005/09/outbound"><Ack>true</Ack>'
            b"</notificationsResponse></soapenv:Body></soapenv:Envelope>",
            "text/xml; charset=utf-8",
        ),
        delivers=Delivers(retries="with growing gaps of up to 2 h, for 24 h, in no order"),
    )
    usage: ClassVar[str] = """
from moorline.services import Salesforce
from moorline.services.soql import soql

salesforce = Salesforce()
acme = salesforce.upsert_record("Account", "Ext_Id__c", "A-17", {"Name": "Acme GmbH"}).result()
query = soql("SELECT Id, Name FROM Account WHERE Name LIKE {name}", name="Acme%")
print(acme.created, [one.fields["Name"] for one in salesforce.query(query)])
"""

    @property
    def audience(self) -> str:
        """Whom the assertion is for: the login host of this kind of organization, wherever the token is fetched."""
        return _TEST if self._region == "sandbox" or self.domain.endswith(".sandbox") else _LOGIN

    def _grant(self) -> Grant | None:
        if self.grant == "client_credentials" and self._base_url is None and not (self.domain or self.in_sandbox):
            raise ConfigurationError("salesforce.domain is needed: client credentials are taken there alone")
        return _GRANTS[self.grant][1]

    def _key_variable(self) -> str:
        return _GRANTS[self.grant][0]

    def _endpoint(self) -> str:
        """The login host, or the organization's own."""
        return self._filled(_MY_DOMAIN) if self.domain else super()._endpoint()

    def located(self, url: str) -> str:
        """*url* at the host that the token named."""
        fetched, base = self.fetched, self.base_url
        site = getattr(fetched, "site", "")
        if not site and (found := getattr(fetched, "extra", {}).get("instance_url")):  # of a connected account
            site = _own_site(str(found), base)
        return site + url.removeprefix(base) if site and url.startswith(base) else url

    def _path(self, *parts: str) -> str:
        return "/".join((f"/services/data/v{self.api_version}", *parts))

    # Queries ---------------------------------------------------------------------------------------------------------

    @listing
    def query(self, query: str, *, batch_size: int | None = None, deleted: bool = False) -> Plan[Page[SObject]]:
        """The records that a query in SOQL finds, page after page; make it with ``soql`` where values go into it.

        *batch_size*, 200 to 2000, is no more than a hint. *deleted* finds archived records and those in the recycling
        bin too. Raises InvalidRequest (MALFORMED_QUERY, INVALID_FIELD).
        """
        return self._query(query, batch_size, deleted=deleted)

    def _query(self, query: str, batch_size: int | None, *, deleted: bool) -> Plan[Page[SObject]]:
        if batch_size is not None and batch_size not in _BATCH:
            raise refused("batch_size", f"must be from {_BATCH[0]} to {_BATCH[-1]}")
        headers = {} if batch_size is None else {"Sforce-Query-Options": f"batchSize={batch_size}"}

        def parse(exchange: Exchange) -> Page[SObject]:
            answer = record(exchange.data)
            found = tuple(_sobject(one) for one in items(answer.get("records"), "records"))
            if flag(answer, "done", default=True):
                return Page(found)
            following = text(answer, "nextRecordsUrl")
            if not following.startswith("/services/data/"):
                raise BadAnswer("nextRecordsUrl is no path of the API")
            return Page(found, self.get(following, headers=headers, parse=parse))

        path = self._path("queryAll" if deleted else "query")
        return self.get(path, query={"q": query}, headers=headers, parse=parse)

    @listing
    def list_changed(
        self,
        /,
        sobject: str,
        since: datetime,
        fields: Sequence[str] = ("Id",),
        *,
        changed: str = "SystemModstamp",
        deleted: bool = True,
        batch_size: int | None = None,
    ) -> Plan[Page[SObject]]:
        """The records that changed at *since* or later, those first that changed first: keep *changed* of the last one,
        which is among the fields, to go on from there, and expect it again. Begin a little earlier: what a long
        transaction wrote is seen later than it is stamped. *deleted* ones have ``IsDeleted``.
        """
        names = dict.fromkeys(("Id", changed, *(("IsDeleted",) if deleted else ()), *fields))
        columns = ", ".join(field_name(one) for one in names)
        order = f"ORDER BY {field_name(changed)} ASC, Id ASC"
        template = f"SELECT {columns} FROM {field_name(sobject)} WHERE {changed} >= {{since}} {order}"  # noqa: S608 (checked names)
        return self._query(soql(template, since=since), batch_size, deleted=deleted)

    # Records ---------------------------------------------------------------------------------------------------------

    @operation
    def get_record(self, sobject: str, record_id: str, fields: Sequence[str] = ()) -> Plan[SObject]:
        """A record by its id (15 or 18 characters), with *fields*, or all of them. Raises NotFound."""
        asked = {"fields": ",".join(field_name(one) for one in fields) or None}
        return self.get(self._record(sobject, record_id), query=asked, parse=lambda exchange: _sobject(exchange.data))

    @operation
    def create_record(self, sobject: str, fields: Mapping[str, Any]) -> Plan[str]:
        """Create a record, and give its id. *fields* are as JSON has them, and times, dates and decimals as they are (a
        Decimal comes out of a queue as text). Raises Conflict for a duplicate, InvalidRequest, OutcomeUnknown.
        """
        path = self._path("sobjects", segment(sobject, "sobject"))
        return self.post(path, json=written(fields), parse=lambda exchange: text(record(exchange.data), "id"))

    @operation
    def update_record(self, sobject: str, record_id: str, fields: Mapping[str, Any]) -> Plan[None]:
        """Set fields of a record; the others stay. It may be sent again."""
        path = self._record(sobject, record_id)
        return self.patch(path, json=written(fields), parse=lambda _: None, blank=True, repeatable=True)

    @operation
    def upsert_record(self, sobject: str, key_field: str, key: str, fields: Mapping[str, Any]) -> Plan[Upserted]:
        """Update the record whose external id *key_field* is *key*, or create it: ``created`` tells. It may be sent
        again. Raises Conflict where several have it, and does nothing.
        """
        if key_field in fields:
            raise refused(key_field, "is the key, and must not be among the fields")
        path = self._path("sobjects", segment(sobject, "sobject"), segment(key_field, "key_field"), segment(key, "key"))
        return self.patch(path, json=written(fields), parse=_upserted, blank=True, repeatable=True)

    @operation
    def delete_record(self, sobject: str, record_id: str) -> Plan[None]:
        """Move a record to the recycling bin. One that is there already is NotFound, also where the first answer was
        lost.
        """
        return self.delete(self._record(sobject, record_id), parse=lambda _: None, blank=True)

    def _record(self, sobject: str, record_id: str) -> str:
        return self._path("sobjects", segment(sobject, "sobject"), segment(record_id, "record_id"))

    # Several at once -------------------------------------------------------------------------------------------------

    @operation
    def create_records(
        self, /, sobject: str, records: Sequence[Mapping[str, Any]], *, all_or_none: bool = False
    ) -> Plan[tuple[RecordResult, ...]]:
        """Create up to 200 records, with a result for each; with *all_or_none* one that fails undoes the others."""
        body = self._collection([{"attributes": {"type": sobject}, **written(one)} for one in records], all_or_none)
        return self.post(self._path("composite", "sobjects"), json=body, parse=partial(_results, len(records)))

    @operation
    def update_records(
        self, /, sobject: str, changes: Mapping[str, Mapping[str, Any]], *, all_or_none: bool = False
    ) -> Plan[tuple[RecordResult, ...]]:
        """Set fields of up to 200 records, by their ids, with a result for each. It may be sent again."""
        listed = [{"attributes": {"type": sobject}, "id": key, **written(one)} for key, one in changes.items()]
        body, parse = self._collection(listed, all_or_none), partial(_results, len(changes))
        return self.patch(self._path("composite", "sobjects"), json=body, parse=parse, repeatable=True)

    @operation
    def upsert_records(
        self,
        /,
        sobject: str,
        key_field: str,
        records: Mapping[str, Mapping[str, Any]],
        *,
        all_or_none: bool = False,
    ) -> Plan[tuple[RecordResult, ...]]:
        """As ``upsert_record``, for up to 200 by their external ids, with a result for each."""
        listed = [{"attributes": {"type": sobject}, key_field: key, **written(one)} for key, one in records.items()]
        path = self._path("composite", "sobjects", segment(sobject, "sobject"), segment(key_field, "key_field"))
        body, parse = self._collection(listed, all_or_none), partial(_results, len(records))
        return self.patch(path, json=body, parse=parse, repeatable=True)

    @operation
    def delete_records(self, record_ids: Sequence[str], *, all_or_none: bool = False) -> Plan[tuple[RecordResult, ...]]:
        """Move up to 200 records to the recycling bin, with a result for each."""
        at_most("record_ids", record_ids, _COLLECTION, "records")
        query = {"ids": ",".join(segment(one, "record_ids") for one in record_ids), "allOrNone": all_or_none}
        return self.delete(self._path("composite", "sobjects"), query=query, parse=partial(_results, len(record_ids)))

    def _collection(self, records: list[dict[str, Any]], all_or_none: bool) -> dict[str, Any]:  # noqa: FBT001
        at_most("records", records, _COLLECTION, "records")
        return {"allOrNone": all_or_none, "records": records}

    @operation
    def composite(self, requests: Sequence[SubRequest], *, all_or_none: bool = True) -> Plan[tuple[SubResult, ...]]:
        """Up to 25 requests in one, in their order, with an answer for each; later ones may use what the earlier gave
        (``@{name.id}``). With *all_or_none* one that fails undoes the others; no error is raised for it: look at
        ``done``. It is OutcomeUnknown where the answer was lost, unless all of them read.
        """
        at_most("requests", requests, _SUBREQUESTS, "requests")
        listed = [
            {"method": one.method, "url": self._path(one.path), "referenceId": one.name}
            | ({} if one.body is None else {"body": written(one.body)})
            for one in requests
        ]
        reads = all(one.method == "GET" for one in requests)
        body = {"allOrNone": all_or_none, "compositeRequest": listed}
        return self.post(self._path("composite"), json=body, parse=_composite, repeatable=reads or None)

    # The organization ------------------------------------------------------------------------------------------------

    @operation
    def get_limits(self) -> Plan[dict[str, ApiLimit]]:
        """The organization's limits by their names (``DailyApiRequests``), with what is left of each."""
        return self.get(self._path("limits"), parse=_limits)

    @operation
    def check(self) -> Plan[bool]:
        """True if a token can be had and is good, also where its user may not see the limits, which are what is asked
        for. Raises AuthenticationFailed if not.
        """
        return self.get(self._path("limits"), parse=lambda exchange: bool(_limits(exchange)), accept=_known_token)

    @classmethod
    def read_event(cls, event: Event) -> Notification | None:
        """The record that an outbound message tells of. Raises BadAnswer for an event of another shape."""
        told = record(record(event.payload, "the event").get("Notification"), "Notification")
        about = record(told.get("sObject"), "sObject")
        fields = {name: value for name, value in about.items() if not name.startswith("@")}
        return Notification(text(told, "Id"), event.type, optional_text(about, "Id"), fields, raw=told)


def limit_info(header: str | None) -> dict[str, ApiLimit]:
    """What ``Sforce-Limit-Info`` says: ``api-usage``, and ``per-app-api-usage`` where there is one.

    It is on each answer: ``limit_info(call.response().result().header("Sforce-Limit-Info"))``.
    """
    return {
        one["policy"]: ApiLimit(int(one["limit"]), max(int(one["limit"]) - int(one["used"]), 0))
        for one in _USED.finditer((header or "")[:1000])
    }


def _sobject(value: object) -> SObject:
    found = record(value, "the record")
    attributes = record(found.get("attributes") or {}, "attributes")
    fields = {name: held for name, held in found.items() if name != "attributes"}
    return SObject(optional_text(attributes, "type") or "", optional_text(found, "Id"), fields, raw=found)


def _upserted(exchange: Exchange) -> Upserted:
    if not exchange.body:
        return Upserted(created=exchange.status == 201)
    answer = record(exchange.data)
    created = flag(answer, "created", default=exchange.status == 201)
    return Upserted(created, optional_text(answer, "id"), raw=answer)


def _results(count: int, exchange: Exchange) -> tuple[RecordResult, ...]:
    found = tuple(_result(record(one, "a result")) for one in items(exchange.data, "the answer"))
    if len(found) != count:
        raise BadAnswer("the answer has not one result for each record")
    return found


def _result(answer: Mapping[str, Any]) -> RecordResult:
    done = flag(answer, "success")
    created = flag(answer, "created") if "created" in answer else None
    problems = [record(one, "errors") for one in items(answer.get("errors") or [], "errors")]
    if done or not problems:
        return RecordResult(done, optional_text(answer, "id"), created, raw=answer)
    code, message = (one_line(problems[0].get(name)) for name in ("statusCode", "message"))
    fields = tuple(one for one in items(problems[0].get("fields") or [], "fields") if isinstance(one, str))
    return RecordResult(done, optional_text(answer, "id"), None, code, _clean(message), fields, raw=answer)


def _clean(message: str | None) -> str | None:
    return None if message is None else redaction.text(message)


def _composite(exchange: Exchange) -> tuple[SubResult, ...]:
    answers = items(record(exchange.data).get("compositeResponse"), "compositeResponse")
    return tuple(_sub_result(record(one, "compositeResponse")) for one in answers)


def _sub_result(answer: Mapping[str, Any]) -> SubResult:
    status, body = whole(answer, "httpStatusCode"), answer.get("body")
    problem = body[0] if status > 299 and isinstance(body, list) and body and isinstance(body[0], dict) else {}
    code, message = (one_line(problem.get(name)) for name in ("errorCode", "message"))
    return SubResult(text(answer, "referenceId"), status, body, code, _clean(message))


def _limits(exchange: Exchange) -> dict[str, ApiLimit]:
    answer = record(exchange.data)
    found = {name: record(value, "a limit") for name, value in answer.items()}
    return {name: ApiLimit(whole(one, "Max"), whole(one, "Remaining")) for name, one in found.items()}


def _known_token(error: CallError) -> bool | None:
    return True if isinstance(error, PermissionDenied) else None
