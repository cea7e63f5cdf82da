"""What analytics services share: facts, what they refuse, and what is the same for all of a batch."""

from __future__ import annotations

import gzip
import hashlib
import json
import uuid
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.services.facts import FACTS, TRACK

from moorline import errors
from moorline.calls.call import Call
from moorline.services.analytics.amplitude import Amplitude
from moorline.services.analytics.google_analytics import GoogleAnalytics
from moorline.services.analytics.mixpanel import Mixpanel
from moorline.services.analytics.protocol import (
    Alias,
    AnalyticsService,
    GroupCall,
    Identify,
    PageView,
    ScreenView,
    Taken,
    Track,
    hashed_email,
    hashed_phone,
    json_value,
    microseconds,
    milliseconds,
)
from moorline.services.analytics.segment import Segment
from moorline.services.facts import Parcel, parts


class Colour(Enum):
    RED = "red"


def test_a_fact_has_its_id_and_time_from_the_start():
    """Two facts differ in their ids; one keeps its own, and its time is aware."""
    first, second = Track("x", user_id="u"), Track("x", user_id="u")
    assert first.message_id != second.message_id
    assert uuid.UUID(first.message_id).version == 4
    assert first.at.utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Track("x"), "user_id"),
        (lambda: Track("", user_id="u"), "event"),
        (lambda: Track("x" * 1025, user_id="u"), "event"),
        (lambda: Track(7, user_id="u"), "event"),  # type: ignore[arg-type]
        (lambda: Track("x", user_id=""), "user_id"),
        (lambda: Track("x", user_id=17), "user_id"),  # type: ignore[arg-type]
        (lambda: Track("x", anonymous_id=" "), "anonymous_id"),
        (lambda: Track("x", user_id="u", at=datetime(2026, 1, 1)), "at"),  # noqa: DTZ001
        (lambda: Track("x", user_id="u", at="now"), "at"),  # type: ignore[arg-type]
        (lambda: Track("x", user_id="u", message_id="a b"), "message_id"),
        (lambda: Track("x", user_id="u", message_id="a" * 37), "message_id"),
        (lambda: Track("x", user_id="u", message_id=7), "message_id"),  # type: ignore[arg-type]
        (lambda: Track("x", [1], user_id="u"), "properties"),  # type: ignore[arg-type]
        (lambda: Track("x", {"a": object()}, user_id="u"), "properties.a"),
        (lambda: Track("x", {"a": {"b": float("nan")}}, user_id="u"), "properties.a.b"),
        (lambda: Track("x", {"a": datetime(2026, 1, 1)}, user_id="u"), "properties.a"),  # noqa: DTZ001
        (lambda: Track("\ud800", user_id="u"), "event"),
        (lambda: Track("x", {"a": "\ud800"}, user_id="u"), "properties.a"),
        (lambda: Track("x", {"\ud800": 1}, user_id="u"), "properties"),
        (lambda: Track("x", {7: 1}, user_id="u"), "properties"),  # type: ignore[dict-item]
        (lambda: Track("x", user_id="u", context={"a": b"x"}), "context.a"),
        (lambda: Track("x", user_id="u", vendors={"Segment": {}}), "vendors"),
        (lambda: Track("x", user_id="u", vendors={"segment": 1}), "vendors"),  # type: ignore[dict-item]
        (lambda: Identify([], user_id="u"), "traits"),  # type: ignore[arg-type]
        (lambda: PageView("", user_id="u"), "name"),
        (lambda: ScreenView("", user_id="u"), "name"),
        (lambda: GroupCall("", user_id="u"), "group_id"),
        (lambda: GroupCall("g", user_id="u", group_type=""), "group_type"),
        (lambda: Alias("old", anonymous_id="new"), "user_id"),
        (lambda: Alias("", user_id="new"), "previous_id"),
    ],
)
def test_what_no_vendor_could_take_is_refused_when_it_is_made(make: Any, field: str):
    """The error names the field, and says that nothing was sent."""
    with pytest.raises(errors.InvalidRequest) as caught:
        make()
    assert (caught.value.code, caught.value.outcome) == (field, "not_sent")


def test_nesting_is_bounded():
    """Forty levels are the limit, of whatever holds itself too."""
    loop: dict[str, Any] = {}
    loop["a"] = loop
    with pytest.raises(errors.InvalidRequest, match="more than 40 deep") as caught:
        Track("x", loop, user_id="u")
    assert caught.value.code == "properties"


def test_values_become_plain_json():
    """Times, decimals, ids, sets and enumerations have their JSON form; a fact keeps nothing that may change."""
    given_ = {
        "at": datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=1))),
        "day": date(2026, 1, 1),
        "price": Decimal("12.50"),
        "id": uuid.UUID(int=7),
        "set": {1},
        "tuple": ("a", None, True),
        "colour": Colour.RED,
    }
    fact = Track("x", given_, user_id="u")
    given_["tuple"] = ()
    assert fact.properties == {
        "at": "2026-01-01T00:00:00+01:00",
        "day": "2026-01-01",
        "price": 12.5,
        "id": "00000000-0000-0000-0000-000000000007",
        "set": [1],
        "tuple": ["a", None, True],
        "colour": "red",
    }


SERVICES: list[Any] = [
    Segment("wk_facts_0001"),
    Mixpanel("key0123456789"),
    Amplitude("key0123456789"),
    GoogleAnalytics("secret_facts_0001", measurement_id="G-1"),
]


@pytest.mark.parametrize("service", SERVICES, ids=lambda one: one.name)
def test_further_fields_become_plain_json(service: Any):
    """What a vendor's own fields hold is made plain, or refused by name, as what a fact holds is."""
    fact = Track("x", anonymous_id="123456.7654321")
    call = service.track(fact, price=Decimal("1.5"), id=uuid.UUID(int=7))
    body = call.plan.content
    text = (gzip.decompress(body) if body.startswith(b"\x1f\x8b") else body).decode()
    assert '"price":1.5' in text
    assert '"id":"00000000-0000-0000-0000-000000000007"' in text
    for wrong in (float("nan"), object(), b"x", datetime(2026, 1, 1)):  # noqa: DTZ001
        with pytest.raises(errors.InvalidRequest, match="price: ") as caught:
            service.track(fact, price=wrong)
        assert caught.value.code == "price"


def test_fields_of_a_whole_request_become_plain_json():
    """Those of a batch, and those that Google has once a request."""
    segment, google = SERVICES[0], SERVICES[3]
    call = segment.send_batch([TRACK], context={"day": date(2026, 1, 1)})
    assert json.loads(gzip.decompress(call.plan.content))["context"] == {"day": "2026-01-01"}
    fact = Track("x", user_id="user-17", anonymous_id="123456.7654321")
    call = google.track(fact, device={"day": date(2026, 1, 1)})
    assert json.loads(call.plan.content)["device"] == {"day": "2026-01-01"}
    for make in (
        lambda: segment.send_batch([TRACK], context={"a": object()}),
        lambda: google.track(fact, device={"a": float("nan")}),
        lambda: google.track(fact, user_properties={"a": object()}),
        lambda: google.track(fact, user_data=5),
    ):
        with pytest.raises(errors.InvalidRequest):
            make()


def test_no_repr_shows_what_is_known_of_somebody():
    """Properties, traits and surroundings are private."""
    for fact in FACTS:
        assert not {word for word in ("ada@", "pro", "203.0", "12.5") if word in repr(fact)}


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(properties=st.dictionaries(st.text(max_size=8), _JSON, max_size=4), at=st.datetimes(timezones=st.just(UTC)))
def test_a_queue_changes_no_fact(properties: dict[str, Any], at: datetime):
    """What went through a queue is the fact that it was, id and time included, and JSON is its own plain form."""
    facts = [Track("x", properties, user_id="u", at=at), Identify(properties, user_id="u", at=at), *FACTS]
    assert json_value("x", properties) == properties
    service = Segment("key-0123456789")
    call = service.send_batch(facts)
    again = Call.from_payload(json.loads(json.dumps(call.to_payload())), lambda _: service)
    assert (again.args or (again.kwargs["facts"],))[0] == facts


@given(at=st.datetimes(timezones=st.just(UTC)))
def test_times_are_exact(at: datetime):
    """Microseconds and milliseconds are whole, and lose nothing but what is below them."""
    micros = microseconds(at)
    assert datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros) == at
    assert milliseconds(at) == micros // 1000


def test_hashes():
    """Addresses and numbers are hashed in Google's normal form, wherever dots and spaces were."""
    same = {hashed_email(one) for one in (" Ada.L@Gmail.com", "adal@gmail.com", "a.d.a.l@GMAIL.COM ")}
    assert len(same) == 1
    assert hashed_email("ada.l@shop.example") != hashed_email("adal@shop.example")
    assert hashed_email("a@b.c") == hashlib.sha256(b"a@b.c").hexdigest()
    assert hashed_phone("+44 7700-900000") == hashed_phone("+447700900000")
    for wrong in ("", "ada", "@shop.example", "a@b", "a b@c.d"):
        with pytest.raises(errors.InvalidRequest):
            hashed_email(wrong)
    for wrong in ("", "07700900000", "+12", "+1234567890123456"):
        with pytest.raises(errors.InvalidRequest):
            hashed_phone(wrong)


@given(sizes=st.lists(st.integers(1, 40_000), max_size=60))
def test_parts_keep_to_the_limits_and_lose_nothing(sizes: list[int]):
    """Each part can be sent, and together they are all facts that the vendor would take, in their order."""
    service = Segment("key-0123456789")
    facts = [Track("x", {"t": "x" * size}, user_id="u") for size in sizes]
    divided = parts(service, facts)
    for part in divided:
        assert len(service.send_batch(part).args[0]) == len(part)
    assert [one for part in divided for one in part] == [one for one in facts if _fits(service, one)]


def _fits(service: Segment, fact: Track) -> bool:
    try:
        return service.weighed(fact)[0] > 0
    except errors.InvalidRequest:
        return False


def test_the_protocol_is_kept():
    """Those that lack nothing fit the category's protocol, as a type checker sees it and as they are."""
    whole: list[AnalyticsService] = [Segment("key-0123456789"), Mixpanel("key0123456789")]
    for one in whole:
        assert one.track(TRACK).operation == "track"
        assert one.send_batch([TRACK]).operation == "send_batch"


def test_faults_name_the_facts_they_are_of():
    """The vendor's places are of items, of which a fact may have several; each fact is counted once."""
    facts = (TRACK, FACTS[1], FACTS[2])
    parcel = Parcel(facts, (b"1", b"2", b"3", b"4"), (0, 1, 1, 2))
    taken = parcel.taken({}, {1: "bad", 2: "bad too", 9: "nowhere"})
    assert isinstance(taken, Taken)
    assert (taken.taken, [(one.message_id, one.by) for one in taken.refused]) == (2, [(facts[1].message_id, "vendor")])
