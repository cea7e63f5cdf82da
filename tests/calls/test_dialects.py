from __future__ import annotations

import math
import re
import time
from email.utils import formatdate

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from moorline.calls.dialects import LimitFields, LimitPattern, RateLimitHeaders
from moorline.calls.limits import seconds_until
from moorline.errors import ConfigurationError
from moorline.policies.allowance import Reading
from moorline.services import GitHub, SendGrid, Stripe

NOW = 1_800_000_000.0
USUAL = RateLimitHeaders()


class Headers:
    """An answer that has nothing but headers, and a status."""

    def __init__(self, status: int = 200, **headers: str) -> None:
        self.status = status
        self._headers = {name.replace("_", "-").lower(): value for name, value in headers.items()}

    def header(self, name: str, default: str | None = None) -> str | None:
        return self._headers.get(name, default)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("7", 7),
        (" 0.5 ", 0.5),
        ("1800000030", 30),
        ("1800000030.5", 30.5),
        ("1800000030000", 30),
        ("1799999999", 0),
        ("6m0s", 360),
        ("1h30m", 5400),
        ("120ms", 0.12),
        ("1d", 86400),
        ("Fri, 15 Jan 2027 08:00:10 GMT", 10),
        ("Fri, 15 Jan 2027 07:59:00 GMT", 0),
        ("2027-01-15T08:00:10Z", 10),
        ("2027-01-15T09:00:10.5+01:00", 10.5),
        ("2027-01-15T08:00:10", 10),
        ("-1", None),
        ("+5", None),
        ("1e5", None),
        ("nan", None),
        ("inf", None),
        ("soon", None),
        ("", None),
        ("9" * 14, None),
        ("40000000", None),
        ("9" * 400, None),
        ("2027-13-45T99:00:00Z", None),
        ("Fri, 99 Jan 2027 08:00:10 GMT", None),
    ],
)
def test_when_a_limit_is_renewed(text, seconds):
    """A reset is understood as seconds, epoch in seconds and milliseconds, a duration, an HTTP-date and ISO 8601; all else is nothing."""
    assert seconds_until(text, NOW) == (seconds if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("kind", "text", "seconds"),
    [
        ("seconds", "1800000030", None),
        ("milliseconds", "1500", 1.5),
        ("epoch", "1800000009", 9),
        ("epoch", "9", 0),
        ("epoch_ms", "1800000009000", 9),
        ("epoch", "2027-01-15T08:00:10Z", None),
    ],
)
def test_a_reset_in_a_named_form(kind, text, seconds):
    """Where the record names the form of a reset, it is read as that and as nothing else."""
    assert seconds_until(text, NOW, kind) == seconds


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"ratelimit": '"default";r=50;t=30'}, [Reading(50, None, 30, None, "", "default")]),
        (
            {
                "ratelimit": '"burst";r=5;t=30, "day";r=99;t=1000;pk=:YWJj:',
                "ratelimit_policy": '"burst";q=100;w=60,"day";q=1000;w=86400;qu="requests"',
            },
            [Reading(5, 100, 30, 60, "", "burst"), Reading(99, 1000, 1000, 86400, "YWJj", "day")],
        ),
        ({"ratelimit": '"b";r=9;t=1', "ratelimit_policy": '"b";q=99;qu="content-bytes";w=10'}, []),
        ({"ratelimit": '"c";r=9', "ratelimit_policy": '"c";q=10;qu="concurrent-requests"'}, []),
        ({"ratelimit": '"a";r=1;t=2;acme-x="y;r=7"'}, [Reading(1, None, 2, None, "", "a")]),
        ({"ratelimit": "limit=100, remaining=50, reset=5"}, [Reading(50, 100, 5, None)]),
        (
            {"ratelimit": "limit=100, remaining=50, reset=5", "ratelimit_policy": "100;w=60"},
            [Reading(50, 100, 5, 60)],
        ),
        (
            {"ratelimit_limit": "100, 100;w=60", "ratelimit_remaining": "5", "ratelimit_reset": "7"},
            [Reading(5, 100, 7, 60)],
        ),
        ({"ratelimit_remaining": "5"}, [Reading(5)]),
        (
            {"x_ratelimit_limit": "100", "x_ratelimit_remaining": "5", "x_ratelimit_reset": "1800000007"},
            [Reading(5, 100, 7)],
        ),
        ({"x_rate_limit_remaining": "5", "x_rate_limit_reset": "7"}, [Reading(5, None, 7)]),
        ({"x_ratelimit_remaining": "-1"}, []),
        ({"x_ratelimit_remaining": "many"}, []),
        ({"ratelimit": '"default";r=-5;t=30'}, []),
        ({"ratelimit": '"default";r=5;t=30, "'}, []),
        ({"ratelimit": "?1"}, []),
        ({"x_ratelimit_limit": "100", "x_ratelimit_reset": "7"}, []),
        ({"x_ratelimit_remaining": "5", "age": "30"}, []),
        ({"x_ratelimit_remaining": "5", "age": "0"}, [Reading(5)]),
        ({}, []),
    ],
)
def test_the_usual_families(headers, expected):
    """The drafts of the IETF and the X-RateLimit families are understood without a word in a service's record; malformed ones are ignored."""
    assert list(USUAL.readings(Headers(**headers), NOW)) == expected


hostile = st.one_of(
    st.text(max_size=60),
    st.sampled_from(
        ["0", "-1", "nan", "inf", "1e400", "9" * 500, "1800000001", '"a";r=1;t=2', "a;b=:x:" * 200, '"' * 99]
    ),
    st.from_regex(r'"[a-z]+";(r|t|q|w)=\d{1,20}', fullmatch=True),
)


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "date",
                "ratelimit",
                "ratelimit_policy",
                "ratelimit_limit",
                "ratelimit_remaining",
                "ratelimit_reset",
                "retry_after",
                "retry_after_ms",
                "x_ratelimit_limit",
                "x_ratelimit_remaining",
                "x_ratelimit_reset",
                "x_rate_limit_remaining",
                "x_rate_limit_reset",
                "x_should_retry",
                "sforce_limit_info",
            ]
        ),
        hostile,
    )
)
@example({"ratelimit": "a" + ";b=:x:" * 160 + ";!"})
def test_no_header_is_harmful(headers):
    """Whatever the headers hold, nothing is raised, and every number is bounded: not negative, not NaN, no wait beyond a year."""
    records = (
        USUAL,
        RateLimitHeaders(fields=(LimitPattern("Sforce-Limit-Info", re.compile(r"(?P<used>\d+)/(?P<limit>\d+)")),)),
        RateLimitHeaders(remaining="X-RateLimit-Remaining", reset="X-RateLimit-Reset", reset_as="epoch"),
    )
    for record in records:
        answer = Headers(429, **headers)
        for reading in record.readings(answer, NOW):
            assert reading.sound
        for seconds in (record.asked_wait(answer, NOW), record.exhausted(answer, NOW)):
            assert seconds is None or 0 <= seconds <= 366 * 86400
        assert record.told_to_retry(answer) in (True, False, None)


def test_a_hostile_field_costs_no_more_than_its_length():
    """A field built to make the parser try all ways is refused within milliseconds."""
    begun = time.perf_counter()
    for text in ("a" + ";b=:x:" * 160 + ";!", '"' + "\\" * 990, "a" + " ;" * 490, "(" * 990, "x" * 100_000):
        assert USUAL.readings(Headers(ratelimit=text, ratelimit_policy=text), NOW) == ()
    assert time.perf_counter() - begun < 0.5


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry_after": "30"}, 30),
        ({"retry_after": "30", "retry_after_ms": "1500"}, 1.5),
        ({"retry_after_ms": "x", "retry_after": "3"}, 3),
        ({"retry_after": "Fri, 15 Jan 2027 08:00:10 GMT"}, 10),
        ({"retry_after": "1800000020"}, 20),
        ({"retry_after": "-3"}, None),
        ({"retry_after": "never"}, None),
        ({"retry_after": "999999999"}, None),
        ({"ratelimit": '"a";r=0;t=12'}, 12),
        ({"retry_after": "5", "ratelimit": '"a";r=0;t=12'}, 5),
        ({"ratelimit": '"a";r=0;t=12, "b";r=0;t=99, "c";r=1;t=500'}, 99),
        ({"x_ratelimit_remaining": "1", "x_ratelimit_reset": "12"}, None),
    ],
)
def test_the_wait_that_is_asked_for(headers, seconds):
    """Retry-After goes before a reset; of several spent limits the longest holds; nonsense asks for nothing."""
    assert USUAL.asked_wait(Headers(429, **headers), NOW) == seconds


def test_the_clock_of_the_service():
    """Absolute times are read by the Date of the answer where it has one, so that a wrong clock of ours sends nothing early."""
    late, close = "Fri, 15 Jan 2027 07:59:00 GMT", "Fri, 15 Jan 2027 07:59:59 GMT"
    date = "Fri, 15 Jan 2027 08:00:10 GMT"
    assert USUAL.asked_wait(Headers(429, retry_after=date, date=late), NOW) == 70
    assert USUAL.asked_wait(Headers(429, retry_after=date, date=close), NOW) == 11
    assert USUAL.asked_wait(Headers(429, retry_after=date, date="nonsense"), NOW) == 10
    spent = Headers(x_ratelimit_remaining="0", x_ratelimit_reset="1800000010", date=late)
    assert USUAL.exhausted(spent, NOW) == 70


@given(st.floats(-3.0, 3.0), st.floats(0.0, 1.0), st.integers(1, 3600))
@example(-1.9, 0.0, 10)
def test_no_skew_of_the_clocks_makes_a_wait_too_short(skew, part, seconds):
    """However far apart the clocks are, a wait until a date ends at that date of the service's clock or up to a second later."""
    theirs = NOW + part + skew
    until = math.floor(theirs + seconds)
    date, named = (formatdate(math.floor(moment), usegmt=True) for moment in (theirs, until))
    for headers in ({"retry_after": named}, {"x_ratelimit_remaining": "0", "x_ratelimit_reset": str(until)}):
        wait = USUAL.asked_wait(Headers(503, date=date, **headers), NOW + part)
        assert wait is not None
        assert max(until - theirs, 0.0) <= wait <= max(until - theirs, 0.0) + 1


@pytest.mark.parametrize(
    ("said", "verdict"), [("true", True), (" False ", False), ("maybe", None), ("", None), (None, None)]
)
def test_told_to_retry(said, verdict):
    """``x-should-retry`` is obeyed everywhere, a service's own name for it goes first, and other words mean nothing."""
    headers = {} if said is None else {"x_should_retry": said}
    assert USUAL.told_to_retry(Headers(**headers)) is verdict
    stripe = Headers(stripe_should_retry="false", **headers)
    assert Stripe.limits.told_to_retry(stripe) is False


# The records of the services -----------------------------------------------------------------------------------------

HUBSPOT = RateLimitHeaders(
    fields=(
        LimitFields(
            "X-HubSpot-RateLimit-Remaining",
            "X-HubSpot-RateLimit-Max",
            window="X-HubSpot-RateLimit-Interval-Milliseconds",
            window_as="milliseconds",
        ),
        LimitFields("X-HubSpot-RateLimit-Daily-Remaining", "X-HubSpot-RateLimit-Daily", window=86400, policy="daily"),
    )
)
SALESFORCE = RateLimitHeaders(
    fields=(
        LimitPattern(
            "Sforce-Limit-Info", re.compile(r"(?P<policy>[a-z-]+)=(?P<used>\d+)/(?P<limit>\d+)"), window=86400
        ),
    )
)
ZENDESK = RateLimitHeaders(
    fields=(
        LimitFields("X-Rate-Limit-Remaining", "X-Rate-Limit", window=60),
        LimitPattern(
            "zendesk-ratelimit-tickets-index",
            re.compile(r"total=(?P<limit>\d+);\s*remaining=(?P<remaining>\d+);\s*resets=(?P<reset>\d+)"),
            window=60,
            bucket="tickets-index",
        ),
    )
)
DATADOG = RateLimitHeaders(
    fields=(
        LimitFields(
            "X-RateLimit-Remaining",
            "X-RateLimit-Limit",
            "X-RateLimit-Reset",
            "seconds",
            window="X-RateLimit-Period",
            bucket="X-RateLimit-Name",
        ),
    )
)
SENTRY = RateLimitHeaders(
    fields=(LimitPattern("X-Sentry-Rate-Limits", re.compile(r"(?P<reset>\d+(?:\.\d+)?):(?P<bucket>[^:,]*)")),)
)
AUTH0 = RateLimitHeaders(
    reset_as="epoch",
    remaining="x-ratelimit-remaining",
    reset="x-ratelimit-reset",
    fields=(
        LimitPattern(
            "Auth0-Client-Quota-Limit",
            re.compile(r"b=(?P<policy>\w+);q=(?P<limit>\d+);r=(?P<remaining>\d+);t=(?P<reset>\d+)"),
        ),
    ),
)
SHOP = RateLimitHeaders(
    fields=(LimitPattern("X-Shop-Api-Call-Limit", re.compile(r"(?P<used>\d+)/(?P<limit>\d+)"), window=20),)
)
CHAT = RateLimitHeaders(
    fields=(
        LimitFields(
            "X-RateLimit-Remaining",
            "X-RateLimit-Limit",
            "X-RateLimit-Reset-After",
            "seconds",
            bucket="X-RateLimit-Bucket",
        ),
    )
)


@pytest.mark.parametrize(
    ("record", "headers", "expected"),
    [
        (
            GitHub.limits,
            {
                "x_ratelimit_limit": "30",
                "x_ratelimit_remaining": "29",
                "x_ratelimit_reset": "1800000060",
                "x_ratelimit_resource": "search",
            },
            [Reading(29, 30, 60, None, "search")],
        ),
        (
            SendGrid.limits,
            {"x_ratelimit_limit": "600", "x_ratelimit_remaining": "599", "x_ratelimit_reset": "1800000060"},
            [Reading(599, 600, 60)],
        ),
        (
            HUBSPOT,
            {
                "x_hubspot_ratelimit_remaining": "108",
                "x_hubspot_ratelimit_max": "110",
                "x_hubspot_ratelimit_interval_milliseconds": "10000",
                "x_hubspot_ratelimit_daily": "250000",
                "x_hubspot_ratelimit_daily_remaining": "249000",
            },
            [Reading(108, 110, None, 10), Reading(249000, 250000, None, 86400, "", "daily")],
        ),
        (
            SALESFORCE,
            {"sforce_limit_info": "api-usage=25/5000; per-app-api-usage=17/250(appName=sample-connected-app)"},
            [
                Reading(4975, 5000, None, 86400, "", "api-usage"),
                Reading(233, 250, None, 86400, "", "per-app-api-usage"),
            ],
        ),
        (
            ZENDESK,
            {
                "x_rate_limit": "700",
                "x_rate_limit_remaining": "699",
                "zendesk_ratelimit_tickets_index": "total=100; remaining=99; resets=41",
            },
            [Reading(699, 700, None, 60), Reading(99, 100, 41, 60, "tickets-index")],
        ),
        (
            DATADOG,
            {
                "x_ratelimit_limit": "300",
                "x_ratelimit_remaining": "299",
                "x_ratelimit_reset": "1234",
                "x_ratelimit_period": "3600",
                "x_ratelimit_name": "events",
            },
            [Reading(299, 300, 1234, 3600, "events")],
        ),
        (
            SENTRY,
            {"x_sentry_rate_limits": "60:transaction:key, 2700.5:default;error;security:organization"},
            [Reading(0, None, 60, None, "transaction"), Reading(0, None, 2700.5, None, "default;error;security")],
        ),
        (
            AUTH0,
            {
                "x_ratelimit_remaining": "8",
                "x_ratelimit_reset": "1800000005",
                "auth0_client_quota_limit": "b=per_hour;q=100;r=99;t=3000,b=per_day;q=300;r=299;t=80000",
            },
            [
                Reading(8, None, 5),
                Reading(99, 100, 3000, None, "", "per_hour"),
                Reading(299, 300, 80000, None, "", "per_day"),
            ],
        ),
        (SHOP, {"x_shop_api_call_limit": "32/40"}, [Reading(8, 40, None, 20)]),
        (
            CHAT,
            {
                "x_ratelimit_limit": "5",
                "x_ratelimit_remaining": "0",
                "x_ratelimit_reset": "1800000001",
                "x_ratelimit_reset_after": "1.25",
                "x_ratelimit_bucket": "abcd1234",
            },
            [Reading(0, 5, 1.25, None, "abcd1234")],
        ),
    ],
    ids=["github", "sendgrid", "hubspot", "salesforce", "zendesk", "datadog", "sentry", "auth0", "shop", "chat"],
)
def test_the_vendors_dialects(record, headers, expected):
    """A record can say how each of the known services speaks of its limits."""
    assert list(record.readings(Headers(**headers), NOW)) == expected


def test_a_limit_that_names_no_time():
    """GitHub's secondary limit without a header is a minute, as its documentation asks; a 500 without one asks for nothing."""
    assert GitHub.limits.asked_wait(Headers(403), NOW) == 60
    assert GitHub.limits.asked_wait(Headers(429, retry_after="5"), NOW) == 5
    assert GitHub.limits.asked_wait(Headers(500), NOW) is None
    assert USUAL.asked_wait(Headers(429), NOW) is None


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (LimitFields, "LimitFields"),
        (lambda: LimitFields(used="X-Used"), "used and limit"),
        (lambda: LimitFields("X-Left", reset_as="minutes"), "LimitFields.reset_as"),  # type: ignore[arg-type]
        (lambda: LimitPattern("X", re.compile(r"\d+")), "LimitPattern.pattern"),
        (lambda: LimitPattern("X", re.compile(r"(?P<used>\d+)")), "LimitPattern.pattern"),
        (lambda: LimitPattern("X", re.compile(r"(?P<reset>\d+)(?P<colour>.)")), "LimitPattern.pattern"),
        (lambda: RateLimitHeaders(silent=-1), "RateLimitHeaders.silent"),
        (lambda: RateLimitHeaders(silent=math.nan), "RateLimitHeaders.silent"),
    ],
)
def test_wrong_records_are_named(make, named):
    """A record that cannot be read gives an error that names what is wrong with it."""
    with pytest.raises(ConfigurationError, match=named):
        make()
