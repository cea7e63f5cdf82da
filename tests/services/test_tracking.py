"""One ``Analytics`` for several vendors."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.servers import until
from tests.services.conftest import Box
from tests.services.facts import FACTS, TRACK

from moorline import Analytics, Moorline, errors
from moorline.calls.batcher import BatchCounts
from moorline.calls.guards import Guards
from moorline.policies.policy import Policy
from moorline.services import Amplitude, GoogleAnalytics, Mixpanel, Segment, Stripe
from moorline.services.facts import FactService

VENDORS: list[Any] = [Segment, Mixpanel, Amplitude, GoogleAnalytics]
ONCE = Policy(retry=None, breaker=None)
WHO: dict[str, Any] = {"user_id": "user-17", "anonymous_id": "123456.7654321"}


def adds_up(counts: BatchCounts) -> bool:
    """Whether everything that was added became something."""
    return counts.added == counts.sent + counts.spilled + counts.waiting + sum(counts.refused.values())


def wired(kind: type[FactService], answer: Callable[[httpx2.Request], httpx2.Response], **options: Any) -> Any:
    """A service behind a wire that answers so."""
    if kind is GoogleAnalytics:
        options["measurement_id"] = "G-1"
    wire = httpx2.MockTransport(answer)
    return kind("key0123456789", **{"wire": wire, "guards": Guards(), "policy": ONCE, **options})


def down(request: httpx2.Request) -> httpx2.Response:
    """Nobody is there."""
    raise httpx2.ConnectError("down", request=request)


def fine(request: httpx2.Request) -> httpx2.Response:
    """All is well, in everybody's words."""
    told = {"success": True, "status": 1, "events_ingested": 1, "validationMessages": []}
    return httpx2.Response(200, json=told)


@pytest.fixture
def analytics() -> Iterator[Callable[..., Analytics]]:
    """Makes them, and ends their threads."""
    made: list[Analytics] = []

    def make(*services: Any, **options: Any) -> Analytics:
        made.append(Analytics(*services, **options))
        return made[-1]

    yield make
    for one in made:
        one.close(0)


Make = Callable[..., Analytics]


def test_every_vendor_is_told(box: Box, analytics: Make):
    """Each kind reaches each vendor that has it, with one id and time; who lacks it is counted, and holds up nobody."""
    mine = analytics(*map(box.service, VENDORS))
    paid = mine.track("Order Paid", {"value": 12.5}, **WHO)
    assert paid is not None
    mine.identify({"plan": "pro"}, **WHO)
    mine.page("Prices", url="https://shop.example/prices", **WHO)
    mine.screen("Basket", {"count": 2}, category="Shop", **WHO)
    mine.group("acme", {"seats": 5}, **WHO)
    mine.alias("device-4", user_id="user-17")
    mine.add(TRACK)
    assert mine.flush(10)
    states = {kind.name: box.state(kind.name) for kind in VENDORS}
    assert states["segment"]["events"][0]["messageId"] == paid.message_id
    assert len(states["segment"]["events"]) == 7
    assert paid.message_id in {one["properties"].get("$insert_id") for one in states["mixpanel"]["events"]}
    assert (len(states["mixpanel"]["events"]), len(states["mixpanel"]["profiles"])) == (5, 1)
    assert states["amplitude"]["events"][0]["insert_id"] == paid.message_id
    assert len(states["amplitude"]["events"]) == 7
    assert sorted(one["name"] for one in states["google_analytics"]["events"]) == [
        "Order_Paid",
        "page_view",
        "screen_view",
    ]
    counts = mine.counts
    assert all(map(adds_up, counts.values()))
    assert {name: (one.added, one.sent) for name, one in counts.items()} == {
        "segment": (7, 7),
        "mixpanel": (7, 7),
        "amplitude": (7, 6),
        "google_analytics": (7, 3),
    }
    assert counts["amplitude"].refused == {"lacks_alias": 1}
    lacking = {"lacks_identify": 1, "lacks_group": 1, "lacks_alias": 1, "limits.at": 1}
    assert counts["google_analytics"].refused == lacking


def test_a_vendor_that_is_down_holds_up_no_other(analytics: Make):
    """The caller returns at once, the others get theirs, and what is for the one that is down waits."""
    mine = analytics(wired(Segment, down), wired(Mixpanel, fine), age=0.01)
    began = time.monotonic()
    for _ in range(100):
        mine.track("x", **WHO)
    assert time.monotonic() - began < 2
    assert not mine.flush(0.3)
    counts = mine.counts
    assert (counts["mixpanel"].sent, counts["segment"].sent, counts["segment"].waiting) == (100, 0, 100)


def test_limits_of_a_vendor_are_counted_there(analytics: Make, caplog: pytest.LogCaptureFixture):
    """What one vendor's limits refuse goes to the others; the reason is counted by its field and in the log."""
    mine = analytics(wired(Segment, fine), wired(Mixpanel, fine), wired(Amplitude, fine), wired(GoogleAnalytics, fine))
    mine.track("x", {"text": "x" * 2000}, **WHO)
    mine.track("x", user_id="42")
    assert mine.flush()
    counts = mine.counts
    assert (counts["segment"].sent, counts["mixpanel"].sent) == (2, 2)
    assert counts["amplitude"].refused == {"limits.event_properties": 1, "limits.user_id": 1}
    assert counts["google_analytics"].refused == {"limits.properties": 1, "limits.anonymous_id": 1}
    assert "the limit is 1024" in caplog.text
    assert "Google's client_id" in caplog.text


def test_what_a_vendor_refuses_of_a_batch_is_counted(analytics: Make):
    """An answer that took a part is counted so, and sent again by nobody."""
    failed = [{"index": 1, "field": "properties.x", "message": "no such x"}]
    told = {"code": 400, "error": "some", "num_records_imported": 1, "failed_records": failed}
    mine = analytics(wired(Mixpanel, lambda _: httpx2.Response(400, json=told)), age=60.0)
    mine.track("a", **WHO)
    mine.track("b", **WHO)
    assert mine.flush()
    assert (mine.counts["mixpanel"].sent, mine.counts["mixpanel"].refused) == (1, {"vendor": 1})


def test_one_that_is_wrong_takes_no_others_with_it(box: Box, analytics: Make):
    """A vendor that refuses a batch as a whole gets the good ones without the bad."""
    mine = analytics(box.service(Amplitude), age=60.0)
    for number in range(10):
        mine.track("x", user_id="silenced-1" if number == 3 else "user-17")
    assert mine.flush(10)
    counts = mine.counts["amplitude"]
    assert (counts.sent, counts.refused, len(box.state("amplitude")["events"])) == (9, {"silenced": 1}, 9)


def test_one_who_is_over_a_limit_takes_no_others_with_it(box: Box, analytics: Make):
    """Of a day: refused; of a second: waits. All others arrive, with one more request."""
    mine = analytics(box.service(Amplitude, policy=ONCE), age=60.0)
    for number in range(100):
        mine.track("x", user_id={7: "quota-1", 9: "throttled-1"}.get(number, "user-17"))
    mine.flush(0)
    until(lambda: mine.counts["amplitude"].sent == 98)
    counts = mine.counts["amplitude"]
    assert (counts.waiting, counts.refused, len(box.state("amplitude")["events"])) == (1, {"daily_quota": 1}, 98)
    assert len(box.seen()) == 2


def test_in_test_mode_google_judges_each_event(analytics: Make):
    """What its validation server says is counted by its code, and the good ones pass."""

    def judged(request: httpx2.Request) -> httpx2.Response:
        bad = [one for one in json.loads(request.read())["events"] if one["name"] == "bad"]
        messages = [{"validationCode": "NAME_INVALID", "description": "no", "fieldPath": "events"} for _ in bad]
        return httpx2.Response(200, json={"validationMessages": messages})

    mine = analytics(wired(GoogleAnalytics, judged, validate=True), age=60.0)
    for name in ("a", "b", "bad", "c"):
        mine.track(name, **WHO)
    assert mine.flush()
    counts = mine.counts["google_analytics"]
    assert (counts.sent, counts.refused) == (3, {"NAME_INVALID": 1})


def test_many_browsers_share_no_request(box: Box, analytics: Make):
    """Google has one browser a request: a crowd of them is divided, and all arrive."""
    mine = analytics(box.service(GoogleAnalytics), age=60.0)
    for number in range(40):
        mine.track("x", anonymous_id=f"{number % 20}.1")
    assert mine.flush(20)
    assert mine.counts["google_analytics"].sent == 40
    assert len(box.state("google_analytics")["events"]) == 40


@pytest.mark.parametrize(
    ("switch", "given_", "leaves"),
    [
        (None, None, {"segment", "google_analytics"}),
        (True, None, {"segment", "google_analytics"}),
        (False, None, set()),
        ({"analytics"}, None, {"segment"}),
        (["marketing"], None, {"google_analytics"}),
        (set(), None, set()),
        (False, True, {"segment", "google_analytics"}),
        (True, False, set()),
        (None, {"marketing"}, {"google_analytics"}),
        (lambda fact: fact.user_id == "user-17", None, {"segment", "google_analytics"}),
        (lambda fact: {"marketing"}, None, {"google_analytics"}),
        (lambda fact: None, None, set()),
        (lambda fact: 1 / 0, None, set()),
        (lambda fact: "analytics", None, set()),
    ],
)
def test_without_consent_nothing_leaves(analytics: Make, switch: Any, given_: Any, leaves: set[str]):
    """A vendor gets what its category was agreed to; all else is counted, and no answer is no."""
    google = wired(GoogleAnalytics, fine)
    mine = analytics(wired(Segment, fine), google, consent=switch, needs={"google_analytics": "marketing"})
    mine.track("x", consent=given_, **WHO)
    assert mine.flush()
    counts = mine.counts
    assert {name for name, one in counts.items() if one.sent} == leaves
    assert {name for name, one in counts.items() if one.refused == {"no_consent": 1}} == set(counts) - leaves


def test_wrong_arguments_raise_at_once(analytics: Make):
    """What no vendor could take is a mistake in the program; with ``strict=False`` it is counted."""
    mine = analytics(wired(Segment, fine))
    for wrong in (
        lambda one: one.track("x"),
        lambda one: one.track("x", {"a": object()}, **WHO),
        lambda one: one.track("x", consent="analytics", **WHO),
        lambda one: one.add({"event": "x"}),
    ):
        with pytest.raises(errors.InvalidRequest):
            wrong(mine)
        lenient = analytics(wired(Segment, fine), strict=False)
        assert wrong(lenient) is None
        assert lenient.counts["segment"].refused == {"invalid": 1}
    assert mine.counts["segment"].added == 0


@pytest.mark.parametrize("default", [None, {"locale": "de"}])
@pytest.mark.parametrize("wrong", [None, "text", [("ip", "203.0.113.7")], 7])
def test_a_wrong_context_is_refused_by_its_name(analytics: Make, default: dict[str, Any] | None, wrong: Any):
    """With a default for it as without one."""
    with pytest.raises(errors.InvalidRequest, match="context: must be an object"):
        analytics(wired(Segment, fine), context=default).track("x", context=wrong, **WHO)
    lenient = analytics(wired(Segment, fine), context=default, strict=False)
    assert lenient.track("x", context=wrong, **WHO) is None
    assert lenient.counts["segment"].refused == {"invalid": 1}


def test_defaults_of_the_context(box: Box, analytics: Make):
    """The surroundings of a request are given once; those of a fact win, and a function that fails costs no fact."""
    mine = analytics(box.service(Segment), context={"ip": "203.0.113.7", "locale": "de"})
    mine.track("x", context={"locale": "en"}, **WHO)
    mine.add(TRACK)
    asked = analytics(box.service(Segment), context=lambda: {"ip": "203.0.113.9"})
    asked.track("x", **WHO)
    broken = analytics(box.service(Segment), context=lambda: 1 / 0)
    assert broken.track("x", **WHO) is not None
    for one in (mine, asked, broken):
        assert one.flush()
    contexts = [one.get("context") for one in box.state("segment")["events"]]
    assert contexts == [
        {"ip": "203.0.113.7", "locale": "en"},
        {"ip": "203.0.113.7", "locale": "de"},
        {"ip": "203.0.113.9"},
        None,
    ]


def test_a_vendor_that_is_set_up_wrongly_breaks_nobody(analytics: Make, monkeypatch: pytest.MonkeyPatch):
    """A missing key is counted, with the reason in the log, and the other vendors get theirs."""
    for name in ("MIXPANEL_PROJECT_TOKEN", "SEGMENT_WRITE_KEY", "MOORLINE_SANDBOX_URL"):
        monkeypatch.delenv(name, raising=False)
    mine = analytics(Mixpanel, Segment, wired(Amplitude, fine))
    mine.identify({"a": 1}, **WHO)
    assert mine.flush()
    counts = mine.counts
    assert counts["mixpanel"].refused == counts["segment"].refused == {"ConfigurationError": 1}
    assert counts["amplitude"].sent == 1


@pytest.mark.parametrize(
    ("services", "options", "why"),
    [
        ([], {}, "not none"),
        ([Stripe], {}, "not Stripe"),
        ([7], {}, "not int"),
        ([Segment, Segment], {}, "once"),
        ([Segment], {"needs": {"mixpanel": "ads"}}, "'mixpanel'"),
        ([Segment], {"consent": "analytics"}, "consent"),
        ([Segment], {"age": -1}, "age"),
    ],
)
def test_arguments_are_checked(services: list[Any], options: dict[str, Any], why: str):
    """The error names what is wrong with the arguments of Analytics itself."""
    with pytest.raises(errors.ConfigurationError, match=why):
        Analytics(*services, **options)


def test_it_survives_an_outage(tmp_path: Path, analytics: Make):
    """With an application's services a batch that cannot be sent is a durable job, and arrives with the same ids."""
    arrived: list[str] = []
    up = threading.Event()

    def answer(request: httpx2.Request) -> httpx2.Response:
        if not up.is_set():
            raise httpx2.ConnectError("down", request=request)
        import gzip

        arrived.extend(one["messageId"] for one in json.loads(gzip.decompress(request.read()))["batch"])
        return httpx2.Response(200, json={"success": True})

    app = Moorline(f"sqlite:///{tmp_path}/moorline.db")
    wire = httpx2.MockTransport(answer)
    service = app.service(Segment, api_key="key0123456789", wire=wire, guards=Guards(), policy=ONCE)
    mine = analytics(service, age=60.0)
    with app.opened():
        facts = [mine.track("x", {"number": number}, **WHO) for number in range(5)]
        assert mine.flush(10)
        assert (mine.counts["segment"].spilled, arrived) == (5, [])
    up.set()

    async def work() -> None:
        async with app.running(worker=True):
            for _ in range(3000):
                if arrived:
                    return
                await asyncio.sleep(0.01)

    asyncio.run(work())
    assert arrived == [one.message_id for one in facts if one is not None]


def test_closed_it_takes_no_more(analytics: Make):
    """After ``close`` everything is counted as refused; what waited was sent, and closing twice does no harm."""
    mine = analytics(wired(Segment, fine), wired(Mixpanel, fine), age=60.0)
    mine.track("x", **WHO)
    assert mine.close()
    mine.track("x", **WHO)
    mine.identify({}, **WHO)
    assert mine.close()
    counts = mine.counts
    assert (counts["segment"].sent, counts["segment"].refused) == (1, {"closed": 2})
    assert (counts["mixpanel"].sent, counts["mixpanel"].refused) == (1, {"closed": 2})
    assert repr(mine) == "<Analytics segment, mixpanel>"


def test_a_child_process_counts_its_own(analytics: Make):
    """What waited before a fork is the parent's; the child begins anew, and is not held up by the parent's locks."""
    mine = analytics(wired(Segment, fine), age=60.0)
    mine.track("x", **WHO)
    mine.track("x", consent=False, **WHO)
    vendor = mine._vendors[0]
    with vendor._lock:  # as another thread of the parent may hold it
        child = os.fork()
        if child == 0:
            before = mine.counts["segment"]
            mine.track("x", **WHO)
            os._exit(0 if (before.added, mine.counts["segment"].waiting) == (0, 1) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (mine.counts["segment"].added, mine.counts["segment"].waiting) == (2, 1)


async def test_on_an_event_loop(analytics: Make):
    """Nothing blocks the loop: facts are handed over, flushed and closed from it."""
    mine = analytics(wired(Segment, fine), wired(Amplitude, fine), age=60.0)
    for fact in FACTS:
        mine.add(fact)
    assert await mine.aflush()
    assert mine.counts["segment"].sent == 6
    assert await mine.aclose()


@settings(max_examples=15, deadline=None)
@given(
    events=st.lists(
        st.tuples(
            st.sampled_from(["track", "identify", "page", "group", "alias"]),
            st.sampled_from(["u", "user-17", "anonymous", "x" * 300]),
            st.sampled_from([None, True, False, ("analytics",)]),
            st.integers(0, 1200),
        ),
        max_size=25,
    ),
    statuses=st.lists(st.sampled_from([200, 200, 400, 401, 413, 429, 503]), min_size=1, max_size=4),
)
def test_everything_is_counted(events: list[tuple[str, str, Any, int]], statuses: list[int]):
    """Whatever is said and whatever is answered: added is sent, spilled, waiting and refused, for each vendor."""
    asked = iter(range(1_000_000))

    def answer(request: httpx2.Request) -> httpx2.Response:
        status = statuses[next(asked) % len(statuses)]
        return fine(request) if status == 200 else httpx2.Response(status, json={"error": "no", "code": status})

    mine = Analytics(*(wired(kind, answer) for kind in VENDORS), age=60.0, capacity=10)
    try:
        for kind, who, consent, size in events:
            own = {"user_id": who, "anonymous_id": "1234.56", "consent": consent}
            match kind:
                case "track":
                    mine.track("x", {"text": "x" * size}, **own)
                case "page":
                    mine.page("x", **own)
                case "alias":
                    mine.alias("old-1", **own)
                case "group":
                    mine.group("acme", {"seats": size}, **own)
                case _:
                    mine.identify({"a": size}, **own)
        mine.flush(0.05)
    finally:
        mine.close(0.05)
    for counts in mine.counts.values():
        assert counts.added == len(events)
        assert adds_up(counts)
