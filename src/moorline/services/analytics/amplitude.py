"""Amplitude: events, user and group properties, by its HTTP V2 and Batch endpoints.

Facts: services/analytics/amplitude.md; contract: amplitude.schema.json; amplitude-analytics 1.3.0 (constants.py,
event.py, processor.py).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final
from urllib.parse import urlsplit

from moorline.calls.dialects import UnheadedKey
from moorline.calls.service import Endpoints, ErrorMap, Exchange, Parameter, Plan, operation
from moorline.errors import AuthenticationFailed, CallError, InvalidRequest, LimitFault
from moorline.services.analytics.protocol import (
    PAGE_VIEWED,
    SCREEN_VIEWED,
    Fact,
    GroupCall,
    Identify,
    Kind,
    PageView,
    ScreenView,
    Taken,
    Track,
    milliseconds,
    view_properties,
)
from moorline.services.answers import record, whole
from moorline.services.facts import BatchLimits, FactService, Parcel, plain_json
from moorline.services.limits import at_most, refused

if TYPE_CHECKING:
    from moorline.secrets.secret import Secret

__all__ = ["Amplitude"]

_UPLOAD, _BATCH = "/2/httpapi", "/batch"
_ROOM: Final = 1_000  # bytes for the key and the options
_LIMITS: Final = BatchLimits(most=1999, most_bytes=1_000_000 - _ROOM, item_bytes=1_000_000 - _ROOM)  # "fewer than 2000"
_BULK: Final = BatchLimits(most=2000, most_bytes=20_000_000 - _ROOM, item_bytes=1_000_000 - _ROOM)
_LONGEST: Final = 1024
_GROUP_TYPES: Final = 5
_RESERVED: Final = "[Amplitude] "
_NOBODY: Final = frozenset((
    "anonymous", "nil", "none", "null", "n/a", "na", "undefined", "unknown", "", "{}", "0", "-1", "lmy47d",
    "00000000-0000-0000-0000-000000000000",
))  # fmt: skip
_WHOLE_FAULTS: Final = (
    ("exceeded_daily_quota_users", "daily_quota"),
    ("exceeded_daily_quota_devices", "daily_quota"),
    ("events_with_missing_fields", "missing_fields"),
    ("events_with_invalid_fields", "invalid_fields"),
    ("events_with_invalid_id_lengths", "invalid_id_lengths"),
    ("silenced_events", "silenced"),
    ("silenced_devices", "silenced"),
    ("throttled_events", "throttled"),
)
# Whom an error blames, by places in the request and by ids, and for how many seconds: who is over a limit of a second
# is to pause, all others are refused for good.
_PAUSE: Final = 30.0
_PLACES: Final = (
    ("events_with_missing_fields", math.inf),
    ("events_with_invalid_fields", math.inf),
    ("events_with_invalid_id_lengths", math.inf),
    ("silenced_events", math.inf),
    ("throttled_events", _PAUSE),
)
_IDS: Final = (
    ("silenced_devices", "device_id", math.inf),
    ("exceeded_daily_quota_users", "user_id", math.inf),
    ("exceeded_daily_quota_devices", "device_id", math.inf),
    ("throttled_users", "user_id", _PAUSE),
    ("throttled_devices", "device_id", _PAUSE),
)


class _Errors(ErrorMap):
    """The ``code`` of an answer is its status again; what is wrong is told by which fields it has."""

    __slots__ = ()

    def data(self, exchange: Exchange) -> Any:
        """The answer, with ``reason`` besides."""
        found = ErrorMap.data(self, exchange)
        if not isinstance(found, dict):
            return found
        reason = next((code for name, code in _WHOLE_FAULTS if found.get(name)), None)
        if str(found.get("error", "")).startswith("Invalid API key"):
            reason = "invalid_api_key"
        return {**found, "reason": reason or found.get("missing_field")}


class Amplitude(FactService):
    """Events and properties for Amplitude. The key is the project's API key, which goes in the body.

    *anonymous_id* is Amplitude's ``device_id``. Ids of fewer than five characters are taken off events by Amplitude, so
    that they are refused here; *min_id_length* (``AMPLITUDE_MIN_ID_LENGTH``) lowers that. Amplitude knows what comes
    twice by ``insert_id`` and ``device_id`` for seven days, and so requests are repeated; for a fact without an
    *anonymous_id* it makes a device up of the user's id, which it says is random: that such ones are known again is
    unconfirmed. A batch is taken as a whole or not at all: where something is wrong, the error's ``detail`` has the
    places of the events that are to blame, and the others may be sent without them.

    There is no test mode: use another project. Facts: services/analytics/amplitude.md; contract: amplitude.schema.json.
    """

    name, category = "amplitude", "analytics"
    docs = "services/analytics/amplitude.md, amplitude.schema.json"
    endpoints = Endpoints("https://api2.amplitude.com", MappingProxyType({"eu": "https://api.eu.amplitude.com"}))
    credentials = UnheadedKey(env="AMPLITUDE_API_KEY", sandbox="0123456789abcdef0123456789abcdef")
    min_id_length = Parameter("AMPLITUDE_MIN_ID_LENGTH", default="5", like="[1-9][0-9]{0,2}")
    errors = _Errors(
        code="reason",
        message="error",
        kinds={
            "invalid_api_key": AuthenticationFailed,  # 400
            "silenced": InvalidRequest,
            "daily_quota": LimitFault,  # 429, and no limit of a second: nobody should wait for it
        },
    )
    dedupe: ClassVar[str] = (
        "Amplitude ignores what comes twice by its `insert_id` and device, for seven days: a write that was "
        "not answered is sent again."
    )
    lacks: ClassVar[Mapping[str, str]] = {
        "alias": "Amplitude joins a device and a user by itself, by an event that has both ids",
        "webhooks": "there are none for what is ingested",
        "delete_user": "its User Privacy API has another host and wants the secret key besides",
    }
    usage: ClassVar[str] = """
from moorline.services import Amplitude
from moorline.services.analytics.protocol import Identify, Track

Amplitude().identify(Identify({"plan": "pro"}, user_id="user-17")).result()
taken = Amplitude().track(Track("Order Paid", user_id="user-17", properties={"value": 12.5})).result()
print(taken.taken)
"""

    @operation
    def track(self, /, fact: Track, **extra: object) -> Plan[Taken]:
        """Send one event. *extra* are Amplitude's further fields by their names (``session_id=…``, ``revenue=12.5``).

        Raises InvalidRequest, naming field and limit, before anything is sent: an id that is too short or means nobody,
        texts over 1024 characters, more than five kinds of groups, the prefix ``[Amplitude] ``.
        """
        return self._one(fact, "track", extra)

    @operation
    def identify(self, /, fact: Identify, **extra: object) -> Plan[Taken]:
        """Set what is known of somebody (``$set``). Traits that are all Amplitude's operations (``{"$add": {…}}``) go
        as they are; those do not mix with others. Raises as ``track``.
        """
        return self._one(fact, "identify", extra)

    @operation
    def page(self, /, fact: PageView, **extra: object) -> Plan[Taken]:
        """Send the view of a page: the event ``Page Viewed``, as Amplitude's own name for it is reserved. Raises as
        ``track``.
        """
        return self._one(fact, "page", extra)

    @operation
    def screen(self, /, fact: ScreenView, **extra: object) -> Plan[Taken]:
        """Send the view of a screen: the event ``Screen Viewed``. Raises as ``track``."""
        return self._one(fact, "screen", extra)

    @operation
    def group(self, /, fact: GroupCall, **extra: object) -> Plan[Taken]:
        """Put somebody into a group of *group_type* and, if there are traits, set what is known of it: two events, as
        in the official library. Raises as ``track``.
        """
        return self._one(fact, "group", extra)

    @operation
    def send_batch(self, /, facts: Sequence[Fact], *, bulk: bool = False) -> Plan[Taken]:
        """Send fewer than 2,000 events of all kinds, up to 1 MB; with *bulk* to the Batch endpoint, which takes 2,000
        and 20 MB, and 1,000 events/s of one user in place of 30, and may be later to show them.

        Facts that Amplitude would not take are left out and told. Raises InvalidRequest before anything is sent: too
        many, too large, or none that can go; and where Amplitude refuses the batch (see the class).
        """
        parcel = self.together(facts, _BULK if bulk else _LIMITS)
        return self._posted(_BATCH if bulk else _UPLOAD, parcel)

    @operation
    def check(self) -> Plan[bool]:
        """True if the key is good: uploads no events, which is refused for that and not for the key. That a wrong key
        is told first is unconfirmed. Raises AuthenticationFailed.
        """
        body = b'{"events":[]}'
        return self.post(
            _UPLOAD,
            parse=lambda exchange: bool(record(exchange.data)),
            accept=lambda error: True if isinstance(error, InvalidRequest) and error.status == 400 else None,
            repeatable=True,
            **plain_json(body),
        )

    def presented(self, key: Secret, url: str, body: bytes | None) -> tuple[str, bytes | None]:
        """The JSON of an upload with the key."""
        if body is None or not body.startswith(b'{"') or not urlsplit(url).path.endswith((_UPLOAD, _BATCH)):
            return url, body
        return url, b'{"api_key":' + json.dumps(key.reveal()).encode() + b"," + body[1:]

    def items(self, fact: Fact, extra: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Its event, or events. Raises InvalidRequest."""
        least = int(self.min_id_length)
        common: dict[str, Any] = {
            "user_id": _somebody("user_id", fact.user_id, least),
            "device_id": _somebody("anonymous_id", fact.anonymous_id, least),
            "time": milliseconds(fact.at),
            "insert_id": fact.message_id,
            "ip": fact.context.get("ip"),
        }
        common = {name: value for name, value in common.items() if value is not None}
        events = [{**common, **own, **extra} for own in _own(fact)]
        for number, event in enumerate(events[1:], 2):
            event["insert_id"] = f"{fact.message_id}-{number}"
        for event in events:
            at_most("groups", event.get("groups", {}), _GROUP_TYPES, "kinds of groups")
            _short("", event)
        return events

    def batch_limits(self, lane: str) -> BatchLimits:  # noqa: ARG002
        """Those of HTTP V2."""
        return _LIMITS

    def blamed(self, facts: Sequence[Fact], error: CallError) -> Mapping[int, float]:
        """Those that the answer names, by places or ids: Amplitude took none of the batch, and takes the others."""
        detail = error.detail if isinstance(error.detail, dict) else {}
        places = [(_numbers(detail.get(name)), pause) for name, pause in _PLACES]
        ids = [(field, _texts(detail.get(name)), pause) for name, field, pause in _IDS]
        if not any(numbers for numbers, _ in places) and not any(texts for _, texts, _ in ids):
            return {}
        found: dict[int, float] = {}
        for number, (place, item) in enumerate(self.origins(facts)):
            event = json.loads(item)
            pauses = [pause for numbers, pause in places if number in numbers]
            pauses += [pause for field, texts, pause in ids if event.get(field) in texts]
            if pauses:
                found[place] = max(*pauses, found.get(place, 0.0))
        return found

    def _one(self, fact: Fact, kind: Kind, extra: Mapping[str, Any]) -> Plan[Taken]:
        return self._posted(_UPLOAD, self.single(fact, kind, extra))

    def _posted(self, path: str, parcel: Parcel) -> Plan[Taken]:
        options = b"" if self.min_id_length == "5" else b',"options":{"min_id_length":%s}' % self.min_id_length.encode()

        def parse(exchange: Exchange) -> Taken:
            answer = record(exchange.data)
            whole(answer, "events_ingested")
            return parcel.taken(answer)

        body = b'{"events":' + parcel.array + options + b"}"
        return self.post(path, parse=parse, repeatable=True, **plain_json(body))  # what comes twice is ignored


def _numbers(told: Any) -> set[int]:
    """The places in a list, or in the lists under the names of fields."""
    lists = [told] if isinstance(told, list) else list(told.values()) if isinstance(told, dict) else []
    return {one for places in lists if isinstance(places, list) for one in places if isinstance(one, int)}


def _texts(told: Any) -> set[str]:
    """The ids in a list, or under which something is told."""
    return {one for one in told if isinstance(one, str)} if isinstance(told, list | dict) else set()


def _somebody(field: str, value: str | None, least: int) -> str | None:
    if value is None:
        return None
    if value.lower() in _NOBODY:
        raise refused(field, f"{value!r} means nobody to Amplitude")
    if len(value) < least:
        raise refused(field, f"has {len(value)} characters; Amplitude takes off ids of fewer than {least}")
    return value


def _own(fact: Fact) -> list[dict[str, Any]]:
    """The fields of its kind."""
    surroundings = {name: value for name, value in fact.context.items() if name != "ip"}
    match fact:
        case Identify():
            return [{"event_type": "$identify", "user_properties": _operations(fact.traits)}]
        case GroupCall():
            groups = {fact.group_type: fact.group_id}
            joined = {"event_type": "$identify", "groups": groups, "user_properties": {"$set": dict(groups)}}
            known = {"event_type": "$groupidentify", "groups": groups, "group_properties": _operations(fact.traits)}
            return [joined, known] if fact.traits else [joined]
        case PageView() | ScreenView():
            name = PAGE_VIEWED if isinstance(fact, PageView) else SCREEN_VIEWED
            return [{"event_type": name, "event_properties": {**surroundings, **view_properties(fact)}}]
        case Track():
            if fact.event.startswith(_RESERVED):
                raise refused("event", f"the prefix {_RESERVED!r} is Amplitude's own")
            return [{"event_type": fact.event, "event_properties": {**surroundings, **fact.properties}}]
    raise refused("kind", f"Amplitude has no {fact.kind}")


def _operations(traits: Mapping[str, Any]) -> dict[str, Any]:
    """``{"$set": traits}``, or the traits where all are operations."""
    ours = [name for name in traits if name.startswith("$")]
    if not ours:
        return {"$set": dict(traits)}
    if len(ours) < len(traits):
        raise refused("traits", f"mix {ours[0]!r}, an operation, with others, which Amplitude would ignore")
    return dict(traits)


def _short(where: str, value: Any) -> None:
    if isinstance(value, str):
        at_most(where, value, _LONGEST, "characters")
    elif isinstance(value, dict):
        for name, one in value.items():
            _short(f"{where}.{name}" if where else name, one)
    elif isinstance(value, list):
        for one in value:
            _short(where, one)
