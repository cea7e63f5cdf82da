"""Google Analytics 4: events by the Measurement Protocol, and its validation server.

Facts: services/analytics/google_analytics.md; contract: google_analytics.schema.json; for ``user_data``
developers.google.com/analytics/devguides/collection/ga4/uid-data (2026). Limits of lengths and counts are as the card
has them: from general knowledge of Google's page, not read again.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final
from urllib.parse import quote, urlsplit

from moorline import redaction
from moorline.calls.dialects import UnheadedKey
from moorline.calls.service import Endpoints, Exchange, Parameter, Plan, operation
from moorline.errors import ConfigurationError, InvalidRequest
from moorline.services.analytics.protocol import (
    Fact,
    Kind,
    PageView,
    ScreenView,
    Taken,
    Track,
    encoded,
    hashed_email,
    hashed_phone,
    microseconds,
)
from moorline.services.answers import items as items_of
from moorline.services.answers import optional_text, record
from moorline.services.facts import BatchLimits, FactService, Parcel, plain_fields, plain_json
from moorline.services.limits import as_text, at_most, refused

if TYPE_CHECKING:
    from moorline.calls.account import KeySource
    from moorline.secrets.secret import Secret

__all__ = ["GoogleAnalytics", "ValidationMessage"]

_COLLECT, _DEBUG = "/mp/collect", "/debug/mp/collect"
_HEAD_BYTES: Final = 10_000
_LIMITS: Final = BatchLimits(most=25, most_bytes=130_000 - _HEAD_BYTES, item_bytes=130_000 - _HEAD_BYTES)
_LINE: Final = BatchLimits(most=16, most_bytes=_LIMITS.most_bytes, item_bytes=_LIMITS.item_bytes)
_LINES: Final = 4
_PARAMS, _USER_PROPERTIES, _ITEM_PARAMS = 25, 25, 10
_NAME_LENGTH, _USER_NAME_LENGTH, _USER_ID_LENGTH = 40, 24, 256
_VALUE_LENGTH, _USER_VALUE_LENGTH = 100, 36
_LONGER: Final = {"page_location": 1000, "page_referrer": 420, "page_title": 300}
_OLDEST: Final = 72 * 3600.0
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_OTHER: Final = re.compile(r"[^A-Za-z0-9_]+")
_INSTANCE: Final = re.compile(r"[0-9A-Fa-f]{32}")
_RESERVED: Final = frozenset((
    "ad_click", "app_remove", "error", "first_open", "first_visit", "in_app_purchase", "session_start",
    "user_engagement",
))  # fmt: skip
_RESERVED_PREFIXES: Final = ("_", "firebase_", "ga_", "google_", "gtag.")
_HEAD: Final = frozenset((
    "app_instance_id", "client_id", "consent", "device", "email", "ip_override", "non_personalized_ads", "phone",
    "user_data", "user_location", "user_properties",
))  # fmt: skip
_CONSENTS: Final = ("ad_user_data", "ad_personalization")
_STRICT: Final = {"validation_behavior": "ENFORCE_RECOMMENDATIONS"}


@dataclass(frozen=True, slots=True)
class ValidationMessage:
    """What the validation server says of a request: where (*field*), what, and its *code* (``NAME_INVALID``, …)."""

    code: str
    description: str
    field: str = ""


class GoogleAnalytics(FactService):
    """Events for Google Analytics 4. The key is an API secret of the stream *measurement_id* (or *firebase_app_id*), of
    which there can be several, so that it is rotated without a gap. It goes in the query, by Google's design; here it
    is put there for each attempt, and is in no plan, log or error.

    Google answers 204 to everything, a wrong secret and malformed events among it: what is documented is checked here
    before it is sent, and ``taken`` is what was handed over. For tests there is its validation server, which keeps
    nothing and does not look at the secret: the operation ``validate`` asks it, and with ``validate=True`` every event
    goes there, and what it says is an error.

    *anonymous_id* is Google's ``client_id`` (with *firebase_app_id* its ``app_instance_id``), without which it takes
    nothing; a request has one of them, so that a batch is of one browser (``batches`` divides). Names of events and
    parameters are letters, figures and ``_``: what is between becomes ``_`` (``Order Paid``: ``Order_Paid``).
    Parameters are texts and numbers; truth values go as ``true`` and ``false``, and ``items`` is a list of objects.
    Of a *context* Google gets ``ip`` alone. Reports of the moment want the parameters ``session_id`` and
    ``engagement_time_msec``. Events of more than 72 hours ago are refused here. Nothing tells Google that an event
    comes twice: where it is unknown whether one arrived (no answer, or 5xx), it is not sent again, unless
    *at_least_once* says that twice is better than never.

    The EU's host (``region="eu"``) is unconfirmed. Facts: services/analytics/google_analytics.md; contract:
    google_analytics.schema.json.
    """

    name, category = "google_analytics", "analytics"
    docs = "services/analytics/google_analytics.md, google_analytics.schema.json"
    endpoints = Endpoints(
        "https://www.google-analytics.com", MappingProxyType({"eu": "https://region1.google-analytics.com"})
    )
    credentials = UnheadedKey(env="GA4_API_SECRET", sandbox="sandbox-api-secret-0123")
    measurement_id = Parameter("GA4_MEASUREMENT_ID", sandbox="G-SANDBOX123", default="", like="G-[A-Z0-9]{1,20}")
    firebase_app_id = Parameter("GA4_FIREBASE_APP_ID", default="", like=r"[0-9A-Za-z:._-]+")
    lacks: ClassVar[Mapping[str, str]] = {
        "identify": "there is no such call: what is known of a user goes with an event (user_properties=…, email=…)",
        "group": "the Measurement Protocol has none",
        "alias": "the Measurement Protocol has none",
        "webhooks": "there are none",
        "delete_user": "Google's User Deletion API has another host and wants OAuth",
    }
    usage: ClassVar[str] = """
from moorline.services import GoogleAnalytics
from moorline.services.analytics.protocol import Track

fact = Track("purchase", {"currency": "EUR", "value": 12.5, "transaction_id": "T1"}, anonymous_id="123456.7654321")
print(GoogleAnalytics().validate([fact]).result())
print(GoogleAnalytics(validate=True).track(fact, session_id="1767225000", engagement_time_msec=100).result().taken)
"""

    def __init__(
        self, api_key: KeySource | None = None, *, validate: bool = False, at_least_once: bool = False, **options: Any
    ) -> None:
        super().__init__(api_key, **options)
        self.validating, self.at_least_once = validate, at_least_once

    @operation
    def track(self, /, fact: Track, **extra: object) -> Plan[Taken]:
        """Send one event. *extra* are fields of the request by their names (``user_properties``, ``consent``,
        ``user_location``, ``device``); ``email`` and ``phone`` go hashed into ``user_data``, as Google asks, and need a
        *user_id*; ``params`` takes the place of the properties; all else are further parameters.

        Raises InvalidRequest, naming field and limit, before anything is sent: no client id, a reserved name, more than
        25 parameters, texts over 100 characters, an event of more than 72 hours ago.
        """
        return self._one(fact, "track", extra)

    @operation
    def page(self, /, fact: PageView, **extra: object) -> Plan[Taken]:
        """Send the view of a page: ``page_view`` with ``page_title`` and ``page_location``. Raises as ``track``."""
        return self._one(fact, "page", extra)

    @operation
    def screen(self, /, fact: ScreenView, **extra: object) -> Plan[Taken]:
        """Send the view of a screen: ``screen_view`` with ``screen_name``; meant for streams of applications. Raises as
        ``track``.
        """
        return self._one(fact, "screen", extra)

    @operation
    def send_batch(self, /, facts: Sequence[Fact]) -> Plan[Taken]:
        """Send up to 25 events of one browser; those that Google would drop are left out and told.

        Raises InvalidRequest before anything is sent: too many, of several browsers (``batches``), more than 120 kB, or
        none that can go.
        """
        parcel = self.together(facts)
        return self._posted(self._head_of(parcel.facts[0], {}), parcel)

    @operation
    def validate(self, /, facts: Sequence[Fact]) -> Plan[tuple[ValidationMessage, ...]]:
        """What Google's validation server says of these events, of one browser; nothing is kept. Empty: all is well.

        It checks neither the secret nor the stream. Raises as ``send_batch``.
        """
        parcel = self.together(facts)
        body = self._body({**self._head_of(parcel.facts[0], {}), **_STRICT}, parcel)
        return self.post(_DEBUG, query=self._stream(), parse=_messages, repeatable=True, **plain_json(body))

    @operation
    def check(self) -> Plan[bool]:
        """True if Google can be reached: has an event validated. It tells nobody whether an API secret is good, so
        neither does this.
        """
        who = {"app_instance_id": "0" * 32} if self.firebase_app_id else {"client_id": "1.1"}
        body = encoded({**who, "events": [{"name": "check"}]})
        parse = lambda exchange: _messages(exchange) is not None  # noqa: E731
        return self.post(_DEBUG, query=self._stream(), parse=parse, repeatable=True, **plain_json(body))

    def presented(self, key: Secret, url: str, body: bytes | None) -> tuple[str, bytes | None]:
        """The address with the secret."""
        parts = urlsplit(url)
        if not parts.path.endswith(_COLLECT):
            return url, body
        return f"{url}{'&' if parts.query else '?'}api_secret={quote(key.reveal(), safe='')}", body

    def items(self, fact: Fact, extra: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Its event. Raises InvalidRequest."""
        name, params = _own(fact, extra.get("params"))
        further = {name: value for name, value in extra.items() if name not in _HEAD and name != "params"}
        at = microseconds(fact.at)
        if at < (self.clock.wall() - _OLDEST) * 1_000_000:
            raise refused("at", "is more than 72 hours ago, which Google drops")
        return [{"name": name, "params": _params({**params, **further}), "timestamp_micros": at}]

    def lane(self, fact: Fact) -> str:
        """The browser, and whatever else holds for a whole request."""
        return encoded(self._head_of(fact, {})).decode()

    def line(self, lane: str) -> str:
        """One of four queues, always the same for one browser: a request is of one alone, and there are many."""
        return str(zlib.crc32(lane.encode()) % _LINES)

    def batch_limits(self, lane: str) -> BatchLimits:  # noqa: ARG002
        """Those of one request."""
        return _LIMITS

    def line_limits(self, line: str) -> BatchLimits:  # noqa: ARG002
        """Few at a time, as they may all be of other browsers."""
        return _LINE

    def _head_of(self, fact: Fact, extra: Mapping[str, Any]) -> dict[str, Any]:
        """All of a request but its events."""
        given = {**fact.vendors.get(self.name, {}), **extra}
        name = "app_instance_id" if self.firebase_app_id else "client_id"
        client = as_text(name, given.get(name) or fact.anonymous_id or "")
        if not client:
            raise refused("anonymous_id", f"is needed: it is Google's {name}")
        if self.firebase_app_id and not _INSTANCE.fullmatch(client):
            raise refused("anonymous_id", "must be an app_instance_id, 32 hexadecimal figures")
        at_most("user_id", fact.user_id or "", _USER_ID_LENGTH, "characters")
        head: dict[str, Any] = {
            name: client,
            "user_id": fact.user_id,
            "ip_override": fact.context.get("ip"),
            **{
                one: given[one]
                for one in ("device", "ip_override", "non_personalized_ads", "user_location")
                if one in given
            },
            "consent": _consent(given.get("consent")),
            "user_properties": _user_properties(given.get("user_properties")),
            "user_data": _user_data(fact, given),
        }
        head = {one: value for one, value in head.items() if value is not None}
        at_most("fact", encoded(head), _HEAD_BYTES, "bytes besides its event")
        return head

    def _stream(self) -> dict[str, object]:
        if self.firebase_app_id:
            return {"firebase_app_id": self.firebase_app_id}
        if not self.measurement_id:
            raise ConfigurationError(
                "google_analytics has no measurement_id: set GA4_MEASUREMENT_ID in the environment, or pass it (or "
                "firebase_app_id)"
            )
        return {"measurement_id": self.measurement_id}

    def _body(self, head: Mapping[str, Any], parcel: Parcel) -> bytes:
        return encoded(head)[:-1] + b',"events":' + parcel.array + b"}"

    def _one(self, fact: Fact, kind: Kind, extra: Mapping[str, Any]) -> Plan[Taken]:
        parcel = self.single(fact, kind, extra)
        return self._posted(self._head_of(fact, plain_fields(extra)), parcel)

    def _posted(self, head: Mapping[str, Any], parcel: Parcel) -> Plan[Taken]:
        if not self.validating:
            body = plain_json(self._body(head, parcel))
            again = self.at_least_once or None
            sent = parcel.taken(None)
            return self.post(_COLLECT, query=self._stream(), parse=lambda _: sent, text=True, repeatable=again, **body)

        def parse(exchange: Exchange) -> Taken:
            told = _messages(exchange)
            if told:
                raise InvalidRequest(
                    redaction.text(told[0].description or "refused by the validation server"),
                    code=told[0].code,
                    detail=redaction.data(exchange.data),
                )
            return parcel.taken(exchange.data)

        body = plain_json(self._body({**head, **_STRICT}, parcel))
        return self.post(_DEBUG, query=self._stream(), parse=parse, repeatable=True, **body)


def _messages(exchange: Exchange) -> tuple[ValidationMessage, ...]:
    told = items_of(record(exchange.data).get("validationMessages"), "validationMessages")
    found = [record(one, "validationMessages") for one in told]
    return tuple(
        ValidationMessage(
            optional_text(one, "validationCode") or "unknown",
            optional_text(one, "description") or "",
            optional_text(one, "fieldPath") or "",
        )
        for one in found
    )


def _own(fact: Fact, params: Any) -> tuple[str, dict[str, Any]]:
    """Name and parameters of its event."""
    if params is not None and not isinstance(params, Mapping):
        raise refused("params", "must be an object")
    match fact:
        case PageView():
            known = {"page_title": fact.name, "page_location": fact.url, "page_category": fact.category}
            return "page_view", {**known, **(fact.properties if params is None else params)}
        case ScreenView():
            known = {"screen_name": fact.name, "screen_category": fact.category}
            return "screen_view", {**known, **(fact.properties if params is None else params)}
        case Track():
            name = _named("event", fact.event, _NAME_LENGTH)
            if name in _RESERVED:
                raise refused("event", f"{name!r} is reserved by Google")
            return name, dict(fact.properties if params is None else params)
    raise refused("kind", f"Google has no {fact.kind}")


def _named(field: str, name: str, most: int) -> str:
    """*name* with ``_`` for all that may not be in one."""
    made = _OTHER.sub("_", name).rstrip("_") if _OTHER.search(name) else name
    if not _NAME.fullmatch(made):
        raise refused(field, f"{name[:50]!r} must begin with an ASCII letter")
    at_most(field, made, most, "characters")
    return made


def _new_name(field: str, name: str, most: int, found: Mapping[str, Any]) -> str:
    """*name* as ``_named`` has it. Raises InvalidRequest for one that is reserved by Google, or in *found*."""
    made = name if name.startswith(_RESERVED_PREFIXES) else _named(field, name, most)
    if made.startswith(_RESERVED_PREFIXES):
        raise refused(field, "begins with a prefix that is reserved by Google")
    if made in found:
        raise refused(field, f"is there twice, as {made}")
    return made


def _params(given: Mapping[str, Any], field: str = "properties", most: int = _PARAMS) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in given.items():
        if value is None:
            continue
        name = _new_name(f"{field}.{key}", key, _NAME_LENGTH, found)
        if name == "items" and field == "properties":
            found[name] = [_item(one) for one in (value if isinstance(value, list) else [value])]
        else:
            found[name] = _value(f"{field}.{key}", value, _LONGER.get(name, _VALUE_LENGTH))
    at_most(field, found, most, "entries")
    return found


def _item(one: Any) -> dict[str, Any]:
    if not isinstance(one, dict):
        raise refused("properties.items", "must be a list of objects")
    return _params(one, "properties.items", _PARAMS + _ITEM_PARAMS)


def _value(field: str, value: Any, most: int) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        at_most(field, value, most, "characters")
    elif not isinstance(value, int | float):
        raise refused(field, "must be a text or a number")
    return value


def _user_properties(given: Any) -> dict[str, Any] | None:
    """Each value within ``{"value": …}``, as Google wants them."""
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise refused("user_properties", "must be an object")
    at_most("user_properties", given, _USER_PROPERTIES, "entries")
    found: dict[str, Any] = {}
    for key, one in given.items():
        field = f"user_properties.{key}"
        name = _new_name(field, key, _USER_NAME_LENGTH, found)
        wrapped = one if isinstance(one, Mapping) and "value" in one else {"value": one}
        found[name] = {**wrapped, "value": _value(field, wrapped["value"], _USER_VALUE_LENGTH)}
    return found


def _consent(given: Any) -> dict[str, str] | None:
    if given is None:
        return None
    if not isinstance(given, Mapping) or not all(
        name in _CONSENTS and value in ("GRANTED", "DENIED") for name, value in given.items()
    ):
        raise refused("consent", f"has {' and '.join(_CONSENTS)}, each GRANTED or DENIED, in capitals")
    return dict(given)


def _user_data(fact: Fact, given: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the user gave of himself, hashed."""
    data = given.get("user_data") or {}
    if not isinstance(data, Mapping):
        raise refused("user_data", "must be an object")
    data = dict(data)
    if given.get("email"):
        data["sha256_email_address"] = [hashed_email(given["email"])]
    if given.get("phone"):
        data["sha256_phone_number"] = [hashed_phone(given["phone"])]
    if data and fact.user_id is None:
        raise refused("user_id", "is needed where there are email, phone or user_data")
    return data or None
