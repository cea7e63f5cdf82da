"""HubSpot: contacts, companies, deals and every other object of its CRM, and what it tells us of them.

Facts: services/business/hubspot.md; contract: hubspot.json (derived from HubSpot's own client); the PyPI package
hubspot-api-client 12.0.0 for the paths of lists and batches, ``objectWriteTraceId``, and pages of 100. HubSpot honours
no idempotency keys: a creation that was sent and not answered is OutcomeUnknown; an upsert may be sent again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from moorline import redaction
from moorline.calls.dialects import LimitFields
from moorline.calls.faults import one_line
from moorline.calls.service import (
    BearerKey,
    Endpoints,
    ErrorMap,
    Exchange,
    Page,
    Parameter,
    Plan,
    RateLimitHeaders,
    hours,
    listing,
    operation,
    segment,
)
from moorline.calls.tokens import Grant, RefreshToken, TokenService
from moorline.errors import (
    AuthenticationFailed,
    BadAnswer,
    CallError,
    Conflict,
    InvalidRequest,
    LimitFault,
    NotFound,
    PermissionDenied,
    ServiceUnavailable,
)
from moorline.events.delivery import Delivers
from moorline.events.schemes.hash_signature import HashSignature
from moorline.events.schemes.hmac_signature import HMACSignature
from moorline.events.schemes.newest_of import NewestOf, Version
from moorline.identity.oauth import OAuth
from moorline.services.answers import flag, items, moment, optional_text, record, text, whole
from moorline.services.limits import at_most, refused

if TYPE_CHECKING:
    from moorline.events.event import Event

__all__ = [
    "Association",
    "CRMChange",
    "CRMObject",
    "ChangeKind",
    "Filter",
    "HubSpot",
    "Link",
    "ObjectBatch",
    "ObjectResult",
    "existing_id",
]

_VARIABLE: Final = "HUBSPOT_CLIENT_SECRET"
_REFRESH: Final = "HUBSPOT_REFRESH_TOKEN"
_OLD: Final = "X-HubSpot-Signature"
_MARKER: Final = "X-HubSpot-Signature-Version"
_UNESCAPED: Final = ":/?@!$'()*,;"  # exactly these; no live example with one of them was seen: unconfirmed
_PAGE: Final = 100
_BATCH: Final = 100  # unconfirmed
_FOUND: Final = 10_000  # results of one search, at most: unconfirmed
_OPERATORS: Final = frozenset(
    {
        "EQ", "NEQ", "LT", "LTE", "GT", "GTE", "BETWEEN", "IN", "NOT_IN", "HAS_PROPERTY", "NOT_HAS_PROPERTY",
        "CONTAINS_TOKEN", "NOT_CONTAINS_TOKEN",
    }
)  # fmt: skip
_EXISTING: Final = re.compile(r"Existing ID: (\d+)")

Value = str | bool | int | float | Decimal | datetime | date | None
"""What a property can be set to: HubSpot takes text. A datetime is written as ``2026-11-28T10:00:00.000Z``, as HubSpot
answers it, a date as ``2026-11-28`` (that it takes both is unconfirmed); None clears the property."""

_V3: Final = HMACSignature(
    header="X-HubSpot-Signature-v3",
    signed="{method}{url}{body}{timestamp}",
    unescaped=_UNESCAPED,
    encoding="base64",
    timestamp="header:X-HubSpot-Request-Timestamp",
    clock="milliseconds",
    env=_VARIABLE,
)
_V2: Final = HashSignature(header=_OLD, signed="{method}{url}{body}", env=_VARIABLE)
_V1: Final = HashSignature(header=_OLD, env=_VARIABLE)
_KINDS: Final[Mapping[str, type[CallError]]] = {
    "VALIDATION_ERROR": InvalidRequest,
    "OBJECT_NOT_FOUND": NotFound,
    "CONFLICT": Conflict,
    "MISSING_SCOPES": PermissionDenied,
    "EXPIRED_AUTHENTICATION": AuthenticationFailed,
    "INVALID_AUTHENTICATION": AuthenticationFailed,
    # A quota that is spent until midnight: not RateLimited, so that nobody waits and tries again at once.
    "DAILY": LimitFault,
}


@dataclass(frozen=True, slots=True)
class CRMObject:
    """An object of the CRM. All *properties* are text, numbers and times too; None where one is empty. *created* is
    whether an upsert made it, None where nobody said.
    """

    id: str
    properties: Mapping[str, str | None]
    created_at: datetime | None = None
    updated_at: datetime | None = None
    archived: bool = False
    created: bool | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class ObjectResult:
    """What became of one of a batch, of which *key* was the id: an *object*, or *code* and *message* of HubSpot's."""

    key: str
    object: CRMObject | None = None
    code: str | None = None
    message: str | None = None

    @property
    def done(self) -> bool:
        """Whether HubSpot did it."""
        return self.object is not None


@dataclass(frozen=True, slots=True)
class ObjectBatch:
    """A result for each input, in their order."""

    results: tuple[ObjectResult, ...]
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def failed(self) -> tuple[ObjectResult, ...]:
        """Those that were not done."""
        return tuple(one for one in self.results if not one.done)


@dataclass(frozen=True, slots=True)
class Filter:
    """One condition of a search: a *property*, HubSpot's *operator*, and its *value* (``BETWEEN`` up to *high*; ``IN``
    and ``NOT_IN`` take *values*). Times are compared in milliseconds since the epoch (unconfirmed on the card).

    Raises InvalidRequest for an operator that is none.
    """

    property: str
    operator: str
    value: Value = None
    high: Value = None
    values: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.operator not in _OPERATORS:
            raise refused("operator", f"must be one of {', '.join(sorted(_OPERATORS))}")
        for name in ("value", "high"):  # at once, so that it is the same after a queue
            if isinstance(at := getattr(self, name), datetime):
                object.__setattr__(self, name, _milliseconds(name, at))

    def written(self) -> dict[str, Any]:
        """As HubSpot takes it."""
        said: dict[str, Any] = {"propertyName": self.property, "operator": self.operator}
        if self.value is not None:
            said["value"] = _text(self.property, self.value)
        if self.high is not None:
            said["highValue"] = _text(self.property, self.high)
        return said | ({"values": list(self.values)} if self.values else {})


@dataclass(frozen=True, slots=True)
class Link:
    """A kind of association, which has a direction: 279 leads from a contact to a company, 280 back. HubSpot's own
    numbers are in ``hubspot.AssociationType`` of its client.
    """

    type_id: int
    category: str = "HUBSPOT_DEFINED"
    label: str | None = None

    def written(self) -> dict[str, Any]:
        """As HubSpot takes it."""
        return {"associationCategory": self.category, "associationTypeId": self.type_id}


@dataclass(frozen=True, slots=True)
class Association:
    """That an object is associated with another one, *to_id*, and how: *links* (or their *labels* alone, right after it
    was made).
    """

    to_id: str
    links: tuple[Link, ...] = ()
    labels: tuple[str, ...] = ()
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


class ChangeKind(StrEnum):
    """What a webhook says of an object."""

    CREATED = "created"
    CHANGED = "changed"
    DELETED = "deleted"
    OTHER = "other"


_CHANGES: Final = {
    "creation": ChangeKind.CREATED,
    "propertyChange": ChangeKind.CHANGED,
    "deletion": ChangeKind.DELETED,
    "privacyDeletion": ChangeKind.DELETED,
}


@dataclass(frozen=True, slots=True)
class CRMChange:
    """What a webhook tells: *type* in HubSpot's words (``contact.propertyChange``), with the *property* and its new
    *value* where it is about one.
    """

    kind: ChangeKind
    type: str
    object_type: str
    object_id: str
    portal_id: int | None = None
    property: str | None = None
    value: str | None = None
    at: datetime | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


class HubSpot(TokenService):
    """HubSpot's CRM. Objects are named as in its addresses: ``contacts``, ``companies``, ``deals``, ``tickets``, or a
    custom one's type (``2-123456``).

    The credential is a private app's token (HUBSPOT_ACCESS_TOKEN). With ``grant="refresh_token"`` (HUBSPOT_GRANT) it is
    the refresh token that an account gave your app (HUBSPOT_REFRESH_TOKEN), with ``client_id`` and ``client_secret``
    (HUBSPOT_CLIENT_ID, HUBSPOT_CLIENT_SECRET); the access token is fetched and renewed. Which of both it is, is
    settled when the service is made. Accounts for tests are accounts like others: there is no other host.

    Webhooks are signed in version 3, 2 or 1, by the app's client secret. Where a signature of version 3 is there it
    decides, whatever the others say; 2 and 1 hold no time, and count where 3 was left out, by HubSpot or by who replays
    a delivery (a duplicate, while its key is kept). Whose deliveries all have it takes nothing else by
    ``app.source(name, dataclasses.replace(HubSpot.webhooks, newest_only=True))``. The address is signed as HubSpot
    calls it: behind a proxy set ``webhooks.public_url``. Workflows may also ask by GET: not taken.
    Facts: services/business/hubspot.md; contract: hubspot.json.
    """

    name, category = "hubspot", "business"
    docs = "services/business/hubspot.md, hubspot.json"
    endpoints = Endpoints("https://api.hubapi.com")
    credentials = BearerKey(env="HUBSPOT_ACCESS_TOKEN", sandbox="pat-na1-sandbox")
    client_id = Parameter("HUBSPOT_CLIENT_ID", sandbox="sandbox-app", grants=("refresh_token",))
    client_secret = Parameter(_VARIABLE, sandbox="sandbox-client-secret", secret=True, grants=("refresh_token",))
    grant = Parameter("HUBSPOT_GRANT", like="(?:refresh_token)?", default="")
    tokens = RefreshToken("/oauth/v1/token")
    # The dated addresses: HubSpot ends those of v1 on 16 February 2027 (its changelog, "v1 OAuth API deprecation").
    # What an answer says: its changelog, "Additional details returned when generating OAuth access tokens".
    oauth = OAuth(
        authorize="https://app.hubspot.com/oauth/authorize",
        token="/oauth/2026-03/token",  # noqa: S106 (an address)
        revoke="/oauth/2026-03/token/revoke",
        scopes=("oauth",),
        account="hub_id",
        ended=("BAD_REFRESH_TOKEN",),
    )
    limits = RateLimitHeaders(
        fields=(
            LimitFields(
                "X-HubSpot-RateLimit-Remaining",
                "X-HubSpot-RateLimit-Max",
                window="X-HubSpot-RateLimit-Interval-Milliseconds",
                window_as="milliseconds",
            ),
            # Of the day, which ends at midnight in the account's time zone, whichever that is: so it is tried hourly.
            LimitFields(
                "X-HubSpot-RateLimit-Daily-Remaining", "X-HubSpot-RateLimit-Daily", window=hours(1), policy="daily"
            ),
        )
    )
    errors = ErrorMap(
        code="policyName|category|errorType",
        message="message",
        request_id="correlationId",
        kinds=_KINDS,
        statuses={423: Conflict, 477: ServiceUnavailable},  # locked for a moment; an account that moves
        retry=frozenset({423, 477, 521, 522, 523, 524}),  # the last four unconfirmed
    )
    webhooks = NewestOf(
        versions=(Version(_V3), Version(_V2, (_MARKER, "v2")), Version(_V1, (_MARKER, "v1"))),
        env=_VARIABLE,
        each="*",
        # eventId alone is not promised to be unique; attemptNumber differs in each retry.
        id=("subscriptionId", "eventId", "objectId", "occurredAt"),
        type="subscriptionType",
        typed=False,  # what a workflow sends is one object, with neither id nor type
        repeats_after=86_400,  # as long as it is tried again: a workflow may send the same object anew
        delivers=Delivers(  # both unconfirmed; an older text says 2 s
            within=5, retries="up to 10 times in 24 h, but not after 400, 401, 403, 404 or 405"
        ),
    )
    usage = """
from datetime import UTC, datetime
from moorline.services import HubSpot

hubspot = HubSpot()
ada = hubspot.upsert_object("contacts", "ada@customer.example", {"firstname": "Ada"}, id_property="email").result()
print(ada.id, ada.created, [one.id for one in hubspot.list_changed("contacts", datetime(2026, 1, 1, tzinfo=UTC))])
"""

    def _grant(self) -> Grant | None:
        return self.tokens if self.grant else None

    def _key_variable(self) -> str:
        return _REFRESH if self.grant else self.credentials.env

    @operation
    def create_object(
        self,
        /,
        object_type: str,
        properties: Mapping[str, Value],
        *,
        associations: Mapping[str, Link] | None = None,
        **extra: object,
    ) -> Plan[CRMObject]:
        """Create an object; *associations* are the ids of others, and how it is associated with each.

        Raises Conflict where a contact with that e-mail exists (``existing_id`` of the error is its id);
        InvalidRequest; OutcomeUnknown where the answer was lost.
        """
        body: dict[str, Any] = {"properties": _written(properties)}
        if associations:
            body["associations"] = [
                {"to": {"id": key}, "types": [link.written()]} for key, link in associations.items()
            ]
        return self.post(_path(object_type), json=body | extra, parse=_object)

    @operation
    def get_object(
        self,
        /,
        object_type: str,
        object_id: str,
        *,
        id_property: str | None = None,
        properties: Sequence[str] = (),
        archived: bool | None = None,
        **query: object,
    ) -> Plan[CRMObject]:
        """An object by its id, or by the value of *id_property* (``email``). HubSpot gives a few properties unless
        *properties* names them. *query* are its further parameters (``associations="companies"``).

        Raises NotFound.
        """
        asked = {"idProperty": id_property, "properties": ",".join(properties) or None, "archived": archived}
        return self.get(_path(object_type, object_id), query=asked | query, parse=_object)

    @operation
    def update_object(
        self, /, object_type: str, object_id: str, properties: Mapping[str, Value], *, id_property: str | None = None
    ) -> Plan[CRMObject]:
        """Set properties of an object, found by its id or by *id_property*; the others stay. It may be sent again."""
        query, body = {"idProperty": id_property}, {"properties": _written(properties)}
        return self.patch(_path(object_type, object_id), query=query, json=body, parse=_object, repeatable=True)

    @operation
    def upsert_object(
        self, /, object_type: str, key: str, properties: Mapping[str, Value], *, id_property: str
    ) -> Plan[CRMObject]:
        """Update the object whose *id_property* is *key*, or create it: ``created`` tells. It may be sent again.

        *id_property* must be one whose values are unique: ``email`` of contacts, or one of your own. HubSpot upserts in
        batches only: this is one of one. Raises what a creation raises.
        """

        def parse(exchange: Exchange) -> CRMObject:
            [result] = _batch(exchange, [key], id_property).results
            if result.object is None:
                kind = _KINDS.get(result.code or "", InvalidRequest)
                raise kind(result.message or "HubSpot did not do it", code=result.code, detail=_shown(exchange))
            return result.object

        return self._upsert(object_type, {key: properties}, id_property, parse)

    @operation
    def archive_object(self, object_type: str, object_id: str) -> Plan[None]:
        """Move an object to the recycling bin. One that is not there is no error."""
        return self.delete(_path(object_type, object_id), parse=lambda _: None, blank=True)

    @listing
    def list_objects(
        self,
        /,
        object_type: str,
        *,
        properties: Sequence[str] = (),
        archived: bool | None = None,
        page_size: int = _PAGE,
        after: str | None = None,
        **query: object,
    ) -> Plan[Page[CRMObject]]:
        """All objects of a type, in no promised order. *page_size* is 1 to 100; *after* goes on where a page ended."""
        asked = {"limit": _page_size(page_size), "properties": ",".join(properties) or None, "archived": archived}
        path = _path(object_type)

        def plan(cursor: str | None) -> Plan[Page[CRMObject]]:
            return self.get(path, query={**asked, **query, "after": cursor}, parse=parse)

        def parse(exchange: Exchange) -> Page[CRMObject]:
            found, cursor = _page(exchange)
            return Page(found, None if cursor is None else plan(cursor))

        return plan(after)

    @listing
    def search_objects(
        self,
        /,
        object_type: str,
        filters: Sequence[Filter] = (),
        *,
        any_of: Sequence[Sequence[Filter]] = (),
        query: str | None = None,
        properties: Sequence[str] = (),
        sorts: Sequence[str] = (),
        page_size: int = _PAGE,
        after: str | None = None,
    ) -> Plan[Page[CRMObject]]:
        """The objects that meet all *filters*, or all of one of the groups *any_of*; *query* is text to look for.

        *sorts* are properties. What was written a moment ago may not be found yet, and no search gives more than 10,000
        (unconfirmed, as are 5 searches a second, of which HubSpot's headers say nothing): ``list_changed`` has no such
        end. Raises InvalidRequest where one goes beyond it.
        """
        groups = [filters] if filters else []
        body: dict[str, Any] = {"limit": _page_size(page_size)}
        body |= {"filterGroups": [{"filters": [one.written() for one in group]} for group in (*groups, *any_of)]}
        body |= {name: list(value) for name, value in (("properties", properties), ("sorts", sorts)) if value}
        return self._search(object_type, body | ({} if query is None else {"query": query}), after)

    def _search(self, object_type: str, body: Mapping[str, Any], after: str | None) -> Plan[Page[CRMObject]]:
        def parse(exchange: Exchange) -> Page[CRMObject]:
            found, cursor = _page(exchange)
            return Page(found, None if cursor is None else self._search(object_type, body, cursor))

        return self._searching(object_type, body, after, parse)

    def _searching(self, object_type: str, body: Mapping[str, Any], after: str | None, parse: Any) -> Plan[Any]:
        whole_body = dict(body) if after is None else {**body, "after": after}
        return self.post(f"{_path(object_type)}/search", json=whole_body, parse=parse, repeatable=True)

    @listing
    def list_changed(
        self,
        /,
        object_type: str,
        since: datetime,
        *,
        properties: Sequence[str] = (),
        changed: str | None = None,
        page_size: int = _PAGE,
    ) -> Plan[Page[CRMObject]]:
        """The objects that changed at *since* or later, those first that changed first: keep ``updated_at`` of the last
        one to go on from there. Begin a little earlier, as a search finds changes after a moment: objects come again,
        none is left out.

        *changed* is the property with the time: ``lastmodifieddate`` of contacts, ``hs_lastmodifieddate`` of all others
        (unconfirmed on the card). Each page is a search from the last change of the one before: one that goes on by
        offset would leave out as many objects as change meanwhile, and end at 10,000. Archived objects are not found.
        Raises BadAnswer where more than those changed in one millisecond.
        """
        name = changed or ("lastmodifieddate" if object_type == "contacts" else "hs_lastmodifieddate")
        size = _page_size(page_size)
        asked = [*properties, *(() if name in properties else (name,))]

        def begun(start: str, known: frozenset[tuple[str, str]], after: str | None = None) -> Plan[Page[CRMObject]]:
            def parse(exchange: Exchange) -> Page[CRMObject]:
                found, cursor = _page(exchange)
                times = [_changed_at(one, name) for one in found]
                new = tuple(one for one, at in zip(found, times, strict=True) if (one.id, at) not in known)
                if cursor is None or not found:
                    return Page(new)
                last = times[-1]
                same = frozenset((one.id, at) for one, at in zip(found, times, strict=True) if at == last)
                if last != start:
                    return Page(new, begun(last, same))
                if not cursor.isdecimal() or int(cursor) + size > _FOUND:
                    raise BadAnswer(f"more than {_FOUND} objects have the same {name}")
                return Page(new, begun(start, known | same, cursor))

            condition = Filter(name, "GTE", start).written()
            body = {"limit": size, "filterGroups": [{"filters": [condition]}], "properties": asked, "sorts": [name]}
            return self._searching(object_type, body, after, parse)

        return begun(_milliseconds("since", since), frozenset())

    @operation
    def create_objects(
        self, /, object_type: str, objects: Sequence[Mapping[str, Value]], *, keys: Sequence[str] = ()
    ) -> Plan[ObjectBatch]:
        """Create up to 100 objects at once, with a result for each, known by *keys* (by default their numbers)."""
        at_most("objects", objects, _BATCH, "objects")
        names = [str(number) for number in range(len(objects))] if not keys else [*keys]
        if len(names) != len(objects):
            raise refused("keys", "must be as many as the objects")
        inputs = [
            {"properties": _written(one), "objectWriteTraceId": str(number)} for number, one in enumerate(objects)
        ]
        path = f"{_path(object_type)}/batch/create"
        return self.post(path, json={"inputs": inputs}, parse=partial(_batch, keys=names))

    @operation
    def update_objects(
        self, /, object_type: str, changes: Mapping[str, Mapping[str, Value]], *, id_property: str | None = None
    ) -> Plan[ObjectBatch]:
        """Set properties of up to 100 objects, by their ids (or values of *id_property*), with a result for each."""
        inputs = _inputs(changes, id_property)
        parse = partial(_batch, keys=[*changes], id_property=id_property)
        path = f"{_path(object_type)}/batch/update"
        return self.post(path, json={"inputs": inputs}, parse=parse, repeatable=True, acts=True)

    @operation
    def upsert_objects(
        self, /, object_type: str, objects: Mapping[str, Mapping[str, Value]], *, id_property: str
    ) -> Plan[ObjectBatch]:
        """As ``upsert_object``, for up to 100, by their values of *id_property*, with a result for each."""
        parse = partial(_batch, keys=[*objects], id_property=id_property)
        return self._upsert(object_type, objects, id_property, parse)

    def _upsert(
        self, object_type: str, objects: Mapping[str, Mapping[str, Value]], id_property: str, parse: Any
    ) -> Plan[Any]:
        body = {"inputs": _inputs(objects, id_property)}
        return self.post(f"{_path(object_type)}/batch/upsert", json=body, parse=parse, repeatable=True, acts=True)

    @operation
    def archive_objects(self, object_type: str, object_ids: Sequence[str]) -> Plan[None]:
        """Move up to 100 objects to the recycling bin."""
        at_most("object_ids", object_ids, _BATCH, "objects")
        body = {"inputs": [{"id": one} for one in object_ids]}
        path = f"{_path(object_type)}/batch/archive"
        return self.post(path, json=body, parse=lambda _: None, blank=True, repeatable=True, acts=True)

    @operation
    def associate(
        self, /, from_type: str, from_id: str, to_type: str, to_id: str, links: Sequence[Link] = ()
    ) -> Plan[Association]:
        """Associate two objects, by *links* or in HubSpot's usual way. It may be sent again."""
        begin = f"/crm/v4/objects/{segment(from_type, 'from_type')}/{segment(from_id, 'from_id')}/associations"
        end = f"{segment(to_type, 'to_type')}/{segment(to_id, 'to_id')}"
        if not links:
            return self.put(f"{begin}/default/{end}", parse=partial(_by_default, to_id=to_id))
        return self.put(f"{begin}/{end}", json=[one.written() for one in links], parse=_labelled)

    @operation
    def dissociate(self, from_type: str, from_id: str, to_type: str, to_id: str) -> Plan[None]:
        """End all associations between two objects."""
        path = f"{_associations(from_type, from_id, to_type)}/{segment(to_id, 'to_id')}"
        return self.delete(path, parse=lambda _: None, blank=True)

    @listing
    def list_associations(
        self, /, from_type: str, from_id: str, to_type: str, *, page_size: int = _PAGE
    ) -> Plan[Page[Association]]:
        """The objects of *to_type* that an object is associated with, and how."""
        path, size = _associations(from_type, from_id, to_type), _page_size(page_size)

        def plan(cursor: str | None) -> Plan[Page[Association]]:
            return self.get(path, query={"limit": size, "after": cursor}, parse=parse)

        def parse(exchange: Exchange) -> Page[Association]:
            answer = record(exchange.data)
            found = tuple(_association(record(one, "results")) for one in items(answer.get("results"), "results"))
            cursor = _cursor(answer)
            return Page(found, None if cursor is None else plan(cursor))

        return plan(None)

    @operation
    def check(self) -> Plan[bool]:
        """True if the token is good, also where it may not read contacts. Raises AuthenticationFailed if not."""
        return self.get(_path("contacts"), query={"limit": 1}, parse=_lists, accept=_known_token)

    @classmethod
    def read_event(cls, event: Event) -> CRMChange | None:
        """What an event means; None for what a workflow sends, whose body is yours.

        Raises BadAnswer for an event of another shape.
        """
        if "." not in event.type:
            return None
        told = record(event.payload, "the event")
        object_type, _, what = event.type.rpartition(".")
        return CRMChange(
            _CHANGES.get(what, ChangeKind.OTHER),
            event.type,
            object_type,
            str(whole(told, "objectId")),
            portal_id=whole(told, "portalId") if "portalId" in told else None,
            property=optional_text(told, "propertyName"),
            value=optional_text(told, "propertyValue"),
            at=moment({"occurredAt": whole(told, "occurredAt") / 1000}, "occurredAt"),
            raw=told,
        )


def existing_id(error: CallError) -> str | None:
    """The id of the object that stood in the way of a creation, where HubSpot says it in its Conflict."""
    found = _EXISTING.search(error.message)
    return None if found is None else found[1]


def _path(object_type: str, object_id: str | None = None) -> str:
    path = f"/crm/v3/objects/{segment(object_type, 'object_type')}"
    return path if object_id is None else f"{path}/{segment(object_id, 'object_id')}"


def _associations(from_type: str, from_id: str, to_type: str) -> str:
    begin = f"/crm/v4/objects/{segment(from_type, 'from_type')}/{segment(from_id, 'from_id')}"
    return f"{begin}/associations/{segment(to_type, 'to_type')}"


def _page_size(given: int) -> int:
    if not 1 <= given <= _PAGE:
        raise refused("page_size", f"must be from 1 to {_PAGE}")
    return given


def _text(name: str, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return _aware(name, value).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if isinstance(value, (int, float, Decimal, date)):
        return format(value, "f") if isinstance(value, Decimal) else str(value)
    raise refused(name, f"must be text, a number or a time, not {type(value).__name__}")


def _aware(name: str, at: datetime) -> datetime:
    if at.tzinfo is None:
        raise refused(name, "needs a time zone")
    return at.astimezone(UTC)


def _milliseconds(name: str, at: datetime) -> str:
    return str(round(_aware(name, at).timestamp() * 1000))


def _written(properties: Mapping[str, Value]) -> dict[str, str]:
    return {name: _text(name, value) for name, value in properties.items()}


def _inputs(objects: Mapping[str, Mapping[str, Value]], id_property: str | None) -> list[dict[str, Any]]:
    at_most("objects", objects, _BATCH, "objects")
    named = {} if id_property is None else {"idProperty": id_property}
    return [
        {"id": key, "properties": _written(one), "objectWriteTraceId": str(number), **named}
        for number, (key, one) in enumerate(objects.items())
    ]


def _object(exchange: Exchange) -> CRMObject:
    return _read(exchange.data)


def _read(value: object) -> CRMObject:
    found = record(value, "the object")
    properties = record(found.get("properties"), "properties")
    return CRMObject(
        id=text(found, "id"),
        properties={name: optional_text(properties, name) for name in properties},
        created_at=moment(found, "createdAt"),
        updated_at=moment(found, "updatedAt"),
        archived=flag(found, "archived"),
        created=flag(found, "new") if "new" in found else None,
        raw=found,
    )


def _cursor(answer: Mapping[str, Any]) -> str | None:
    paging = record(answer.get("paging") or {}, "paging")
    return optional_text(record(paging.get("next") or {}, "paging.next"), "after") or None


def _page(exchange: Exchange) -> tuple[tuple[CRMObject, ...], str | None]:
    answer = record(exchange.data)
    return tuple(_read(one) for one in items(answer.get("results"), "results")), _cursor(answer)


def _changed_at(found: CRMObject, name: str) -> str:
    """The time of a change in milliseconds, as searches take it."""
    at = moment(found.properties, name) or found.updated_at
    if at is None:
        raise BadAnswer(f"an object has no {name}")
    return _milliseconds(name, at)


def _batch(exchange: Exchange, keys: Sequence[str], id_property: str | None = None) -> ObjectBatch:
    """Each result finds its input by the number that we gave it, else by its id or key; what failed alike."""
    answer = record(exchange.data)
    found: dict[int, ObjectResult] = {}
    loose: list[Mapping[str, Any]] = []
    numbers = {key.lower(): number for number, key in enumerate(keys)}
    for value in items(answer.get("results"), "results"):
        one = _read(value)
        told = one.id if id_property is None else one.properties.get(id_property) or ""
        number = _number(optional_text(one.raw, "objectWriteTraceId"), len(keys), numbers.get(told.lower()))
        if number is not None:
            found[number] = ObjectResult(keys[number], one)
    for value in items(answer.get("errors") or [], "errors"):
        error = record(value, "errors")
        traced = record(error.get("context") or {}, "context").get("objectWriteTraceId")
        number = _number(traced[0] if isinstance(traced, list) and traced else None, len(keys), None)
        if number is None:
            loose.append(error)
        else:
            found[number] = _failure(keys[number], error)
    for number, key in enumerate(keys):
        if number not in found:
            found[number] = _failure(key, loose[0] if loose else {})
    return ObjectBatch(tuple(found[number] for number in range(len(keys))), raw=answer)


def _number(traced: object, most: int, otherwise: int | None) -> int | None:
    if isinstance(traced, str) and traced.isdecimal() and len(traced) < 4 and int(traced) < most:
        return int(traced)
    return otherwise


def _failure(key: str, error: Mapping[str, Any]) -> ObjectResult:
    message = one_line(error.get("message")) or "HubSpot does not say what became of it"
    return ObjectResult(key, code=one_line(error.get("category"), 100), message=redaction.text(message))


def _shown(exchange: Exchange) -> Any:
    return redaction.data(exchange.data)


def _by_default(exchange: Exchange, to_id: str) -> Association:
    answer = record(exchange.data)
    made = [record(one, "results") for one in items(answer.get("results"), "results")]
    if not made:
        errors = items(answer.get("errors") or [], "errors")
        failed = _failure(to_id, record(errors[0], "errors") if errors else {})
        kind = _KINDS.get(failed.code or "", InvalidRequest)
        raise kind(failed.message or "", code=failed.code, detail=_shown(exchange))
    specs = [record(one.get("associationSpec"), "associationSpec") for one in made]
    links = tuple(Link(whole(one, "associationTypeId"), text(one, "associationCategory")) for one in specs)
    return Association(to_id, links, raw=answer)


def _labelled(exchange: Exchange) -> Association:
    answer = record(exchange.data)
    labels = [one for one in items(answer.get("labels"), "labels") if isinstance(one, str)]
    return Association(_id(answer, "toObjectId"), labels=tuple(labels), raw=answer)


def _association(answer: Mapping[str, Any]) -> Association:
    kinds = [record(one, "associationTypes") for one in items(answer.get("associationTypes"), "associationTypes")]
    links = tuple(Link(whole(one, "typeId"), text(one, "category"), optional_text(one, "label")) for one in kinds)
    labels = tuple(one.label for one in links if one.label)
    return Association(_id(answer, "toObjectId"), links, labels, raw=answer)


def _id(answer: Mapping[str, Any], name: str) -> str:
    """The contract has text, and a number is the same id."""
    value = answer.get(name)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else text(answer, name)


def _lists(exchange: Exchange) -> bool:
    items(record(exchange.data).get("results"), "results")
    return True


def _known_token(error: CallError) -> bool | None:
    return True if error.code == "MISSING_SCOPES" else None
