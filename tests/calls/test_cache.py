"""The cache of answers: what costs no request, what is asked for with its ETag, and what is never kept."""

from __future__ import annotations

from email.utils import formatdate
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.calls.ledger import Ledger, Script, both, run

from moorline import Policy, errors
from moorline.calls import cache_rules as rules
from moorline.calls.cache import Cache
from moorline.calls.guards import Guards
from moorline.policies.breaker import Breaker

BODY = b'{"id":"b_1"}'


def answer(_status: int = 200, _body: bytes = BODY, **headers: str) -> tuple[int, dict[str, str], bytes]:
    return _status, {name.replace("_", "-"): text for name, text in headers.items()}, _body


def tagged(tag: str, body: bytes = BODY, **headers: str) -> tuple[int, dict[str, str], bytes]:
    return answer(200, body, etag=tag, **headers)


NOT_MODIFIED: tuple[int, dict[str, str], bytes] = (304, {}, b"")


def service(script: Script, cache: Cache | None = None, key: Any = "k1", **policy: Any) -> Ledger:
    wire = httpx2.MockTransport(script)
    return Ledger(key, wire=wire, policy=Policy(**policy), guards=Guards(script.clock), cache=cache or Cache())


def cache_of(ledger: Ledger) -> Cache:
    assert ledger.cache is not None
    return ledger.cache


def raw(colour: str, ledger: Ledger, id: str = "1", **options: Any) -> Any:
    return run(colour, ledger.read(id).using(**options).response())


@both
def test_a_304_gives_the_kept_body(colour):
    """The second read carries the ETag, weak ones verbatim; 304 is a success with the first body, marked as from the cache."""
    script = Script(tagged('W/"a"', x_left="9"), (304, {"x-left": "8", "request-id": "r2"}, b""))
    ledger = service(script)
    first, second = raw(colour, ledger), raw(colour, ledger)
    assert script.requests[1].headers["if-none-match"] == 'W/"a"'
    assert (first.from_cache, second.from_cache, second.status, second.body) == (False, True, 200, BODY)
    assert (second.header("x-left"), second.request_id, len(second.attempts)) == ("8", "r2", 1)
    assert run(colour, ledger.read("1")) == "b_1"
    assert (cache_of(ledger).misses, cache_of(ledger).validated, cache_of(ledger).hits) == (1, 2, 0)


@both
def test_a_fresh_answer_costs_no_request(colour):
    """Within max-age the kept answer is given with its age; after that it is asked for again."""
    script = Script(tagged('"a"', cache_control="private, max-age=60", age="10"), NOT_MODIFIED)
    ledger = service(script)
    raw(colour, ledger)
    script.clock.advance(49)
    found = raw(colour, ledger)
    assert (len(script.requests), found.from_cache, found.age, found.attempts) == (1, True, 59, ())
    script.clock.advance(1)
    assert raw(colour, ledger).from_cache
    assert len(script.requests) == 2


@both
def test_an_answer_from_the_cache_explains_itself(colour):
    """The time line of a Call that needed no request says so, and not that it was never sent."""
    ledger = service(Script(tagged('"a"', cache_control="max-age=60")))
    first, second = ledger.read("1"), ledger.read("1")
    run(colour, first)
    run(colour, second)
    assert "answered 200" in first.explain()
    assert "1 attempt" in first.explain()
    assert "answered 200 after 0.000 s, 0 attempts" in second.explain()


@both
def test_a_fresh_answer_is_given_when_the_service_is_down(colour):
    """An open breaker stops requests, not what is known."""
    script = Script(tagged('"a"', cache_control="max-age=10"), 500)
    ledger = service(script, retry=None, breaker=Breaker(failures=1))
    raw(colour, ledger)
    with pytest.raises(errors.ServiceUnavailable):
        raw(colour, ledger, "2")
    assert raw(colour, ledger).from_cache
    script.clock.advance(11)
    with pytest.raises(errors.CircuitOpen):  # stale is never given: that is what or_last_good is for
        raw(colour, ledger)


@both
def test_a_new_answer_replaces_the_old(colour):
    """A 200 to the question takes the place of what was kept, with its own ETag."""
    script = Script(tagged('"a"'), tagged('"b"', b'{"id":"b_2"}'), NOT_MODIFIED)
    ledger = service(script)
    assert [run(colour, ledger.read("1")) for _ in range(3)] == ["b_1", "b_2", "b_2"]
    assert [request.headers.get("if-none-match") for request in script.requests] == [None, '"a"', '"b"']


@both
def test_last_modified_is_asked_for_too(colour):
    """Without an ETag the date does; with both, both are sent."""
    script = Script(answer(last_modified="Mon, 01 Jan 2024 00:00:00 GMT"), NOT_MODIFIED)
    ledger = service(script)
    raw(colour, ledger)
    assert raw(colour, ledger).from_cache
    assert script.requests[1].headers["if-modified-since"] == "Mon, 01 Jan 2024 00:00:00 GMT"
    assert "if-none-match" not in script.requests[1].headers


@both
@pytest.mark.parametrize(
    "never",
    [
        tagged('"a"', cache_control="no-store"),
        tagged('"a"', cache_control="max-age=60, No-Store"),
        tagged('"a"', vary="Accept, *"),
        answer(),
        answer(last_modified=""),
        answer(203, etag='"a"'),
    ],
)
def test_what_is_never_kept(colour, never):
    """``no-store``, ``Vary: *``, an answer without validator or freshness, and anything but a plain 200."""
    script = Script(never)
    ledger = service(script)
    for _ in range(2):
        raw(colour, ledger)
    assert "if-none-match" not in script.requests[1].headers
    assert cache_of(ledger).answers == 0


@both
@pytest.mark.parametrize(
    "header",
    [
        "no-cache",
        "no-cache, max-age=60",
        "max-age=0",
        'private="x, max-age=60"',
        "max-age=60, max-age=0",
        "max-age=-1",
        "max-age=abc",
        "s-maxage=60",
        "max-age=1.5",
    ],
)
def test_what_must_be_asked_for_each_time(colour, header):
    """``no-cache``, no age, a shared cache's age, and numbers that are none: kept, and validated on each use."""
    script = Script(tagged('"a"', cache_control=header), NOT_MODIFIED)
    ledger = service(script)
    for _ in range(2):
        raw(colour, ledger)
    assert script.requests[1].headers["if-none-match"] == '"a"'


@both
def test_a_guess_is_not_made(colour):
    """An old Last-Modified without any word of freshness is asked for each time."""
    script = Script(answer(last_modified="Mon, 01 Jan 2001 00:00:00 GMT"), NOT_MODIFIED)
    ledger = service(script)
    for _ in range(3):
        raw(colour, ledger)
    assert len(script.requests) == 3


@both
def test_expires_counts_from_date(colour):
    """``Expires`` is freshness too, and an answer that was long under way is that much older."""
    now = Script(200).clock.wall()
    script = Script(
        tagged('"a"', date=formatdate(now - 100, usegmt=True), expires=formatdate(now + 50, usegmt=True)), NOT_MODIFIED
    )
    ledger = service(script)
    raw(colour, ledger)
    script.clock.advance(49)
    assert raw(colour, ledger).age == 149
    script.clock.advance(1)
    raw(colour, ledger)
    assert len(script.requests) == 2


@both
def test_each_credential_tenant_and_variant_has_its_own(colour):
    """Nobody gets another's answer: not with another key, another tenant, another header, or another address."""
    script = Script(tagged('"a"', cache_control="max-age=600"))
    cache = Cache()
    raw(colour, service(script, cache, "k1"))
    raw(colour, service(script, cache, "k2"))
    raw(colour, service(script, cache, "k1"), tenant="acme")
    raw(colour, service(script, cache, "k1"), headers={"Accept-Language": "de"})
    raw(colour, service(script, cache, "k1"), "2")
    assert len(script.requests) == 5
    assert all("if-none-match" not in request.headers for request in script.requests)
    assert raw(colour, service(script, cache, "k1"), tenant="acme").from_cache


@both
def test_a_rotated_key_is_another_credential(colour):
    """After a rotation what the old key saw is not given to the new one."""
    script = Script(tagged('"a"', cache_control="max-age=600"))
    keys = ["k1", "k1"]
    ledger = service(script, key=lambda: keys[0])
    raw(colour, ledger)
    keys[0] = "k2"
    assert not raw(colour, ledger).from_cache


def test_no_secret_is_kept():
    """Neither the credential nor a header of the request can be found in the cache."""
    script = Script(tagged('"a"', set_cookie="session=canary-cookie"))
    ledger = service(script, key="canary-key-0123456789")
    raw("sync", ledger, headers={"X-Other": "canary-header"})
    kept = [(key, vars_of(entry.exchange)) for key, (entry, _size) in cache_of(ledger)._entries._kept.items()]
    assert len(kept) == 1
    assert "canary" not in repr(kept) + repr(ledger.cache)


def vars_of(exchange: Any) -> dict[str, Any]:
    return {name: getattr(exchange, name) for name in type(exchange).__slots__}


@both
@pytest.mark.parametrize(
    ("headers", "asked"),
    [
        ({"Cache-Control": "no-cache"}, '"a"'),
        ({"Cache-Control": "max-age=10"}, '"a"'),
        ({"Cache-Control": "min-fresh=50"}, '"a"'),
        ({"Pragma": "no-cache"}, '"a"'),
        ({"Cache-Control": "no-store"}, None),
        ({"Range": "bytes=0-5"}, None),
        ({"If-None-Match": '"mine"'}, '"mine"'),
    ],
)
def test_a_caller_may_ask_for_more(colour, headers, asked):
    """The request's own directives are heard; a caller's own conditions are left alone."""
    cache, script = Cache(), Script(tagged('"a"', cache_control="max-age=60"))
    ledger = service(script, cache)
    raw(colour, ledger, headers=headers)
    script.clock.advance(20)
    raw(colour, ledger, headers=headers)
    assert script.requests[1].headers.get("if-none-match") == asked


@both
def test_a_callers_own_condition_is_not_ours(colour):
    """304 to a condition that the caller set is the caller's business, as without a cache."""
    script = Script(NOT_MODIFIED)
    with pytest.raises(errors.CallError) as caught:
        raw(colour, service(script), headers={"If-None-Match": '"mine"'})
    assert caught.value.status == 304


@both
def test_a_304_about_something_else_is_not_believed(colour):
    """When the 304 names another ETag, the answer is asked for again without a condition."""
    script = Script(tagged('"a"'), (304, {"etag": '"z"'}, b""), tagged('"z"', b'{"id":"b_9"}'))
    ledger = service(script)
    assert [run(colour, ledger.read("1")) for _ in range(2)] == ["b_1", "b_9"]
    assert [request.headers.get("if-none-match") for request in script.requests] == [None, '"a"', None]


@both
def test_a_redirect_is_another_address(colour):
    """What a redirect led to is not kept under the address that was asked for."""
    script = Script((302, {"location": "/elsewhere"}, b""), tagged('"a"', cache_control="max-age=60"))
    ledger = service(script)
    raw(colour, ledger)
    assert cache_of(ledger).answers == 0


@both
@pytest.mark.parametrize("end", [200, 500, httpx2.ReadTimeout("slow")])
def test_a_write_makes_it_outdated(colour, end):
    """After a write to the same address, or one of unknown outcome, it is read anew; a refused write changes nothing."""
    script = Script(tagged('"a"', cache_control="max-age=600"), end, tagged('"b"'))
    ledger = service(script, retry=None)
    raw(colour, ledger)
    write = ledger.request("PUT", "/bookings/1", json={"amount": 1})
    try:
        run(colour, write)
    except errors.CallError:
        assert end != 200
    assert raw(colour, ledger).from_cache == (end == 500)


@both
def test_errors_are_not_kept_and_hide_nothing(colour):
    """A 404 is raised, and what was kept before is still asked for with its ETag when the object is back."""
    script = Script(tagged('"a"'), 404, NOT_MODIFIED)
    ledger = service(script)
    raw(colour, ledger)
    with pytest.raises(errors.NotFound):
        raw(colour, ledger)
    assert raw(colour, ledger).body == BODY


@both
def test_whoever_changes_an_answer_changes_his_own(colour):
    """Two callers of one kept answer do not share what they read from it."""
    script = Script(tagged('"a"', cache_control="max-age=600"))
    ledger = service(script)
    first = raw(colour, ledger)
    first.data["id"] = "changed"
    first.headers["etag"] = "changed"
    second = raw(colour, ledger)
    second.data["id"] = "changed"
    assert raw(colour, ledger).data == {"id": "b_1"}


@both
def test_it_is_bounded(colour):
    """At most so many bytes and so many answers, the least used go first; too large a one is not kept at all."""
    script = Script(tagged('"a"', b'"' + b"x" * 3000 + b'"'))
    few = Cache(max_entries=2)
    ledger = service(script, few)
    for number in ("1", "2", "1", "3"):
        raw(colour, ledger, number)
    requests = len(script.requests)
    raw(colour, ledger, "1")
    raw(colour, ledger, "2")
    assert ["if-none-match" in request.headers for request in script.requests[requests:]] == [True, False]
    small = Cache(max_bytes=8000)
    ledger = service(script, small)
    for number in "123456":
        raw(colour, ledger, number)
    assert small.answers == 2
    assert small._entries.bytes <= 8000
    tiny = Cache(max_bytes=1000)
    raw(colour, service(script, tiny))
    assert (tiny.answers, tiny._entries.bytes, tiny._places) == (0, 0, {})
    few.clear()
    assert (few.answers, few._entries.bytes, few._places) == (0, 0, {})


def test_arguments_are_checked():
    """Bounds are positive, and a cache is a Cache."""
    with pytest.raises(errors.ConfigurationError, match="max_bytes"):
        Cache(max_bytes=0)
    with pytest.raises(errors.ConfigurationError, match=r"ledger\.cache must be a Cache, not dict"):
        Ledger("k", cache={})  # type: ignore[arg-type]


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet='abmaxgenostr-=,"\\ 0123456789;*', max_size=60))
def test_any_header_can_be_read(text):
    """Whatever stands in Cache-Control, Expires or Age, reading it gives an answer, never an exception."""
    headers = {"cache-control": text, "expires": text, "age": text, "date": text, "connection": text, "vary": text}
    rules.directives(headers)
    assert rules.lifetime(headers, 0.0) >= 0
    assert rules.age_at_arrival(headers, 0.0, 1.0) >= 1
    assert rules.stored_headers(headers).keys() <= headers.keys()


COURSE = st.lists(
    st.tuples(
        st.sampled_from(["read", "write", "change", "wait"]),
        st.sampled_from(["", "max-age=5", "no-cache", "no-store", "max-age=20, must-revalidate"]),
        st.integers(1, 15),
    ),
    max_size=25,
)


@settings(max_examples=150, deadline=None)
@given(COURSE)
def test_nothing_older_than_its_freshness_is_given(course):
    """Beside a model server whose object changes: each read is the present version, or one that was still fresh, or
    was changed behind our back within max-age.
    """
    versions: dict[str, Any] = {"now": 0, "control": ""}
    script = Script(200)

    def serve(request: httpx2.Request) -> httpx2.Response:
        if request.method == "PUT":
            versions["now"] += 1
            return httpx2.Response(200, json={})
        tag = f'"{versions["now"]}"'
        headers = {"etag": tag, "cache-control": versions["control"]}
        if request.headers.get("if-none-match") == tag:
            return httpx2.Response(304, headers=headers)
        return httpx2.Response(200, headers=headers, json={"id": versions["now"]})

    ledger = Ledger("k", wire=httpx2.MockTransport(serve), guards=Guards(script.clock), cache=Cache())
    until: dict[int, float] = {}
    for step, control, seconds in course:
        versions["control"] = control
        if step == "wait":
            script.clock.advance(seconds)
        elif step == "change":
            versions["now"] += 1
        elif step == "write":
            ledger.request("PUT", "/bookings/1", json={}).result()
            until.clear()
        else:
            now = script.clock.monotonic()
            found = ledger.read("1").response().result()
            version = found.data["id"]
            if found.from_cache and found.attempts == ():
                assert now < until[version]
            else:
                assert version == versions["now"]
                fresh = {"max-age=5": 5, "max-age=20, must-revalidate": 20}.get(control, 0)
                until[version] = now + fresh
