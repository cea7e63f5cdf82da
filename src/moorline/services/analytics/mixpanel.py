"""Mixpanel: events by its import endpoint, profiles of users and groups, and joined ids.

Facts: services/analytics/mixpanel.md; contract: mixpanel.json; mixpanel 5.4.1 (PyPI, mixpanel/__init__.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final
from urllib.parse import urlsplit

from moorline.calls.dialects import UserKey, basic
from moorline.calls.service import Endpoints, ErrorMap, Exchange, Parameter, Plan, RateLimitHeaders, operation
from moorline.errors import BadAnswer, CallError, ConfigurationError, InvalidRequest
from moorline.policies.policy import Policy
from moorline.policies.retry import Retry
from moorline.services.analytics.protocol import (
    PAGE_VIEWED,
    SCREEN_VIEWED,
    Alias,
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
from moorline.services.facts import BatchLimits, FactService, Parcel, plain_json, zipped
from moorline.services.limits import at_most, refused

if TYPE_CHECKING:
    from moorline.secrets.secret import Secret

__all__ = ["Mixpanel"]

_IMPORT, _TRACK, _ENGAGE, _GROUPS = "/import", "/track", "/engage", "/groups"
_PATHS: Final = {
    "track": _IMPORT,
    "page": _IMPORT,
    "screen": _IMPORT,
    "identify": _ENGAGE,
    "group": _GROUPS,
    "alias": _TRACK,
}
_EVENTS: Final = BatchLimits(most=2000, most_bytes=10_000_000, item_bytes=999_999)
_PROFILES: Final = BatchLimits(most=50, most_bytes=10_000_000, item_bytes=999_999)  # 50: the official library
_OPERATIONS: Final = ("$set", "$set_once", "$add", "$union", "$append", "$remove", "$unset", "$delete")
_COUNTING: Final = ("$add", "$append")  # what is done twice counts twice
_ENTRIES: Final = 254
_DEEPEST: Final = 3
_EARLIEST: Final = 31_536_000  # 1971-01-01
_AHEAD: Final = 3600
_NOBODY: Final = frozenset((
    "00000000-0000-0000-0000-000000000000", "anon", "anonymous", "nil", "none", "null", "n/a", "na", "undefined",
    "unknown", "<nil>", "0", "-1", "true", "false", "[]", "{}",
))  # fmt: skip


def _failed(exchange: Exchange) -> str | None:
    """``0``, or with ``verbose=1`` an object that says so: a 200 that took nothing."""
    answer = exchange.data
    said = answer.get("status") if isinstance(answer, dict) else answer
    return "not_taken" if said == 0 and not isinstance(said, bool | float) else None


class Mixpanel(FactService):
    """Events, profiles and groups for Mixpanel. The key is the project's token; it is enough for everything.

    With *service_account* (its user name) and *project_id* the key is that account's secret
    (``MIXPANEL_SERVICE_ACCOUNT_SECRET``), of which there can be several at once, so that it is rotated without a gap;
    the token, which is no secret, is then *project_token*. The project's old API secret works as a key as well, with
    *project_token*.

    Events go to ``/import`` with ``strict=1``, which takes old ones too and tells what it refused; the client-side
    ``/track`` drops what is older than five days. Who is known is ``distinct_id`` by *user_id*, else by
    *anonymous_id*; with both, they are ``$user_id`` and ``$device_id`` as well, as projects with the simplified merging
    of ids want it. Dedupe is by event, time, ``distinct_id`` and ``$insert_id``, which a fact keeps: requests are
    repeated. ``region`` is that of the project (``eu``, ``in``): elsewhere its data are not found.

    There is no test mode: use a second project. Facts: services/analytics/mixpanel.md; contract: mixpanel.json.
    """

    name, category = "mixpanel", "analytics"
    docs = "services/analytics/mixpanel.md, mixpanel.json"
    endpoints = Endpoints(
        "https://api.mixpanel.com",
        MappingProxyType({"eu": "https://api-eu.mixpanel.com", "in": "https://api-in.mixpanel.com"}),
    )
    credentials = UserKey(env="MIXPANEL_PROJECT_TOKEN", sandbox="0123456789abcdef0123456789abcdef")
    service_account = Parameter("MIXPANEL_SERVICE_ACCOUNT", default="", like=r"[!-9;-~]+")
    project_id = Parameter("MIXPANEL_PROJECT_ID", default="", like="[0-9]+")
    project_token = Parameter("MIXPANEL_PROJECT_TOKEN", default="", like="[0-9A-Za-z]+")
    # No Retry-After: "back off 2 s doubling to 60 s".
    limits = RateLimitHeaders(silent=2.0)
    default_policy = Policy(retry=Retry(base=2.0))
    errors = ErrorMap(
        code="failed_records.0.field",
        message="failed_records.0.message|error",
        failed=_failed,
        kinds={"not_taken": InvalidRequest},
    )
    dedupe: ClassVar[str] = (
        "Mixpanel keeps one of events with the same name, time, `distinct_id` and `$insert_id`, and setting a"
        " property twice is setting it once: a write that was not answered is sent again, unless it adds or "
        "appends."
    )
    lacks: ClassVar[Mapping[str, str]] = {
        "webhooks": "its cohorts' webhooks have no signature (unconfirmed): see app.source()",
        "delete_user": "its GDPR API has another host and wants the OAuth token of a person",
    }
    usage: ClassVar[str] = """
from moorline.services import Mixpanel
from moorline.services.analytics.protocol import Identify, Track

Mixpanel().identify(Identify({"plan": "pro"}, user_id="user-17")).result()
facts = [Track("Order Paid", user_id="user-17"), Track("Order Paid", user_id="anonymous")]
print(Mixpanel().send_batch(facts).result().refused)
"""

    @operation
    def track(self, /, fact: Track, **extra: object) -> Plan[Taken]:
        """Send one event. *extra* are further properties, Mixpanel's own among them (``**{"$city": "Berlin"}``).

        Raises InvalidRequest, naming field and limit, before anything is sent: 1 MB, 255 properties, more than three
        levels, a time before 1971 or more than an hour ahead, an id that means nobody (``anonymous``, ``0``).
        """
        return self._one(fact, "track", extra)

    @operation
    def identify(self, /, fact: Identify, **extra: object) -> Plan[Taken]:
        """Set what is known of somebody (``$set``); the trait ``email`` is Mixpanel's ``$email``. *extra* are its other
        operations (``**{"$add": {"orders": 1}}``), which make a request that is not repeated where twice is not once.
        """
        return self._one(fact, "identify", extra)

    @operation
    def page(self, /, fact: PageView, **extra: object) -> Plan[Taken]:
        """Send the view of a page: the event ``Page Viewed``, as Mixpanel has no other. Raises as ``track``."""
        return self._one(fact, "page", extra)

    @operation
    def screen(self, /, fact: ScreenView, **extra: object) -> Plan[Taken]:
        """Send the view of a screen: the event ``Screen Viewed``. Raises as ``track``."""
        return self._one(fact, "screen", extra)

    @operation
    def group(self, /, fact: GroupCall, **extra: object) -> Plan[Taken]:
        """Set what is known of a group; *group_type* is its ``$group_key``. Who belongs to it Mixpanel learns of
        events: give them a property of that name.
        """
        return self._one(fact, "group", extra)

    @operation
    def alias(self, /, fact: Alias, **extra: object) -> Plan[Taken]:
        """Join two ids (``$create_alias``), in projects with the original merging of ids; cannot be undone."""
        return self._one(fact, "alias", extra)

    @operation
    def send_batch(self, /, facts: Sequence[Fact]) -> Plan[Taken]:
        """Send up to 2,000 events, or 50 profiles of users or groups: those do not share a request (``batches``).

        What Mixpanel would not take is left out, and what it refused is told, with its reason: the others were taken.
        Raises InvalidRequest before anything is sent: too many, more than 10 MB, or none that can go.
        """
        parcel = self.together(facts)
        return self._posted(_PATHS[parcel.facts[0].kind], parcel, lambda error: _partly(error, parcel))

    @operation
    def check(self) -> Plan[bool]:
        """True if the key is good: imports an event that strict checking must refuse, so that nothing is kept. That a
        wrong key is told before that is unconfirmed. Raises AuthenticationFailed.
        """
        event = {"event": "check", "properties": {"time": 0, "distinct_id": "", "$insert_id": "check"}}
        query = self._import_query()
        return self.post(_IMPORT, json=[event], query=query, parse=_answered, accept=_reached, repeatable=True)

    def authorized(
        self, key: Secret, method: str, url: str, headers: dict[str, str], body: bytes | None
    ) -> dict[str, str]:
        """The headers with the key, for ``/import`` alone: the other endpoints know the token."""
        if not urlsplit(url).path.endswith(_IMPORT):
            return headers
        if self.service_account:
            return {**headers, **basic(self.service_account, key)}
        return super().authorized(key, method, url, headers, body)

    def items(self, fact: Fact, extra: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Events, or updates of a profile. Raises InvalidRequest."""
        who = fact.user_id or fact.anonymous_id or ""
        match fact:
            case Identify():
                traits = {"$email" if name == "email" else name: value for name, value in fact.traits.items()}
                return self._updates(who, {"$distinct_id": who}, traits, extra)
            case GroupCall():
                names = {"$group_key": fact.group_type, "$group_id": fact.group_id}
                return self._updates(fact.group_id, names, fact.traits, extra)
            case Alias():
                ids = {"distinct_id": _somebody("previous_id", fact.previous_id), "alias": _somebody("user_id", who)}
                return [{"event": "$create_alias", "properties": {**extra, **ids, "token": self._token()}}]
            case Track():
                return [self._event(fact, fact.event, fact.properties, extra)]
            case PageView():
                return [self._event(fact, PAGE_VIEWED, view_properties(fact), extra)]
            case ScreenView():
                return [self._event(fact, SCREEN_VIEWED, view_properties(fact), extra)]

    def lane(self, fact: Fact) -> str:
        """The endpoint."""
        return _PATHS[fact.kind]

    def batch_limits(self, lane: str) -> BatchLimits:
        """Those of the endpoint."""
        return _PROFILES if lane in (_ENGAGE, _GROUPS) else _EVENTS

    def _key_variable(self) -> str:
        return "MIXPANEL_SERVICE_ACCOUNT_SECRET" if self.service_account else self.credentials.env

    def _token(self) -> str:
        """The project's token, which records carry."""
        if self.project_token:
            return self.project_token
        if self.service_account:
            raise ConfigurationError(
                "mixpanel has no project_token: set MIXPANEL_PROJECT_TOKEN in the environment, or pass it"
            )
        return self.key().reveal()

    def _import_query(self) -> dict[str, object]:
        if self.service_account and not self.project_id:
            raise ConfigurationError(
                "mixpanel has no project_id, which a service account needs: set MIXPANEL_PROJECT_ID, or pass it"
            )
        return {"strict": "1", "project_id": self.project_id or None}

    def _event(self, fact: Fact, name: str, properties: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
        at, now = milliseconds(fact.at), self.clock.wall()
        if not _EARLIEST * 1000 <= at <= (now + _AHEAD) * 1000:
            raise refused("at", "must be of 1971 or later, and no more than an hour ahead")
        ids = {"$device_id": fact.anonymous_id, "$user_id": fact.user_id}
        both = ids if all(ids.values()) else {}
        filled = {**fact.context, **properties, **both, **extra, "time": at, "$insert_id": fact.message_id}
        filled["distinct_id"] = _somebody("user_id", fact.user_id or fact.anonymous_id or "")
        _bounded("properties", filled)
        return {"event": name, "properties": filled}

    def _updates(
        self, who: str, names: Mapping[str, Any], traits: Mapping[str, Any], extra: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """One for each operation, as in the official library."""
        _somebody("user_id", who)
        done = {name: value for name, value in extra.items() if name in _OPERATIONS}
        if traits or not done:
            done = {**done, "$set": {**traits, **done.get("$set", {})}}
        _bounded("traits", done.get("$set", {}))
        rest = {name: value for name, value in extra.items() if name not in _OPERATIONS}
        return [{"$token": self._token(), **names, **rest, name: value} for name, value in done.items()]

    def _one(self, fact: Fact, kind: Kind, extra: Mapping[str, Any]) -> Plan[Taken]:
        return self._posted(_PATHS[kind], self.single(fact, kind, extra), None)

    def _posted(self, path: str, parcel: Parcel, accept: Callable[[CallError], Taken | None] | None) -> Plan[Taken]:
        def parse(exchange: Exchange) -> Taken:
            _answered(exchange)
            return parcel.taken(exchange.data)

        if path == _IMPORT:
            query = self._import_query()
            return self.post(path, query=query, parse=parse, accept=accept, repeatable=True, **zipped(parcel.array))
        once = not any(f'"{name}"'.encode() in item for item in parcel.items for name in _COUNTING)
        query = {"verbose": 1} if path == _TRACK else {"verbose": 1, "ip": 0}
        return self.post(path, query=query, parse=parse, repeatable=once or None, **plain_json(parcel.array))


def _answered(exchange: Exchange) -> bool:
    answer = exchange.data
    if answer != 1 and not isinstance(answer, dict):
        raise BadAnswer("the answer is neither 1 nor an object")
    return True


def _reached(error: CallError) -> bool | None:
    return True if error.status == 400 and isinstance(error, InvalidRequest) else None


def _partly(error: CallError, parcel: Parcel) -> Taken | None:
    """The result where strict checking refused some, by their places, and took the others."""
    detail = error.detail if error.status == 400 and isinstance(error.detail, dict) else {}
    records = detail.get("failed_records")
    faults = {}
    for one in records if isinstance(records, list) else []:
        place = one.get("index") if isinstance(one, dict) else None
        if isinstance(place, int) and 0 <= place < len(parcel.items):
            faults[place] = str(one.get("message") or one.get("field") or "refused")[:500]
    return parcel.taken(detail, faults) if faults else None


def _somebody(field: str, who: str) -> str:
    if who.lower() in _NOBODY:
        raise refused(field, f"{who!r} means nobody to Mixpanel")
    return who


def _bounded(field: str, value: Any, depth: int = 0) -> None:
    """Raise InvalidRequest for what has too many entries, or is nested too deeply."""
    if not isinstance(value, dict | list):
        return
    if depth > _DEEPEST:
        raise refused(field, f"are nested more than {_DEEPEST} deep")
    at_most(field, value, _ENTRIES, "entries")
    for one in value.values() if isinstance(value, dict) else value:
        _bounded(field, one, depth + 1)
