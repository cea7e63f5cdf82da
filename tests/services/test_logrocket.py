from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.contracts import Contract
from tests.services.conftest import Box
from tests.services.recorder import Recorder

from moorline import errors
from moorline.services.monitoring.logrocket import LogRocket

Run = Callable[[Any], Any]
SINCE, UNTIL = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 11, 2, tzinfo=UTC)
TRAITS: dict[str, str | bool | int | float] = {"plan": "pro", "seats": 4, "trial": False}
CALLS: list[Callable[[LogRocket], Any]] = [
    lambda s: s.identify("google-oauth2|abc/1", name="Ada", email="ada@example.com", traits=TRAITS),
    lambda s: s.request_highlights(user_id="u_42", since=SINCE, until=UNTIL, callback="https://shop.example/hook?x=1"),
    lambda s: s.get_highlights("h1"),
    lambda s: s.check(),
]


def test_identify(box: Box, run: Run):
    """What is set stays, a trait that is left out too, and a blank one is removed; any id can be in the path."""
    logrocket = box.service(LogRocket)
    run(CALLS[0](logrocket))
    run(logrocket.identify("google-oauth2|abc/1", traits={"plan": "", "seats": 5}))
    held = box.state("logrocket")["users"]
    assert held == {
        "google-oauth2|abc/1": {
            "name": "Ada",
            "email": "ada@example.com",
            "traits": {"seats": "5", "trial": "false"},
        }
    }


def test_highlights(box: Box, run: Run):
    """They are asked for, and looked at until they are ready or failed."""
    logrocket = box.service(LogRocket)
    asked = run(CALLS[1](logrocket))
    assert asked.status == "PENDING"
    assert run(logrocket.get_highlights(asked.id)).status == "PENDING"
    ready = run(logrocket.get_highlights(asked.id))
    assert (ready.status, "highlights" in ready.raw["result"]) == ("READY", True)
    failed = run(logrocket.request_highlights(email="nobody@example.com"))
    run(logrocket.get_highlights(failed.id))
    assert run(logrocket.get_highlights(failed.id)).status == "FAILED"
    with pytest.raises(errors.NotFound):
        run(logrocket.get_highlights("unknown"))


@pytest.mark.contracts
def test_requests_fit_the_contract(contracts_dir: Path):
    """Every request that we build is valid by logrocket.schema.json, with the word token before the key."""
    contract = Contract(contracts_dir, "logrocket.schema")
    for make, kind in ((CALLS[0], "UserPut"), (CALLS[1], "HighlightsRequest")):
        recorder = Recorder(200, b'{"id":"1"}')
        make(recorder.service(LogRocket, key="k")).result()
        [request] = recorder.requests
        assert contract.problems(f"/$defs/{kind}", json.loads(request.content)) == []
        assert request.headers["authorization"] == "token k"
    assert request.url.path == "/v1/orgs/quay/apps/shop/highlights/"


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda s: s.identify("u"), "user"),
        (lambda s: s.identify("u", traits={"a": []}), r"traits\[a\]"),
        (lambda s: s.identify("u", name=1), "name"),
        (lambda s: s.request_highlights(), "user_id"),
        (lambda s: s.request_highlights(user_id="u", since=SINCE), "since"),
        (lambda s: s.request_highlights(user_id="u", since=SINCE.replace(tzinfo=None), until=UNTIL), "since"),
        (lambda s: s.request_highlights(user_id="u", callback="http://x.example"), "callback"),
    ],
)
def test_limits_are_checked_before_sending(make: Callable[[Any], Any], field: str):
    """What cannot be is InvalidRequest naming the field, and nothing is sent."""
    recorder = Recorder()
    with pytest.raises(errors.InvalidRequest, match=f"^{field}:") as caught:
        make(recorder.service(LogRocket))
    assert (caught.value.outcome, recorder.requests) == ("not_sent", [])


@pytest.mark.parametrize("name", ["capture", "send_metrics", "send_logs", "send_events"])
def test_what_it_cannot_it_says(name: str):
    """No public API captures errors: asking for that says so, and where to report instead."""
    with pytest.raises(AttributeError, match="sessionURL"):
        getattr(LogRocket("k", app="a/b"), name)


def test_an_answer_of_another_shape():
    """It is BadAnswer."""
    for body in (b"{}", b'{"id":"1","status":"ODD"}', b'{"id":1}', b"[]"):
        with pytest.raises(errors.BadAnswer):
            Recorder(200, body).service(LogRocket).get_highlights("1").result()


def test_errors_are_mapped(box: Box, run: Run, monkeypatch: pytest.MonkeyPatch):
    """A wrong key is AuthenticationFailed, and an App ID has two parts."""
    with pytest.raises(errors.AuthenticationFailed, match="API key"):
        run(box.service(LogRocket, "wrong").check())
    with pytest.raises(errors.ConfigurationError, match="app"):
        LogRocket("k", app="shop")
    monkeypatch.delenv("LOGROCKET_APP_ID", raising=False)
    with pytest.raises(errors.ConfigurationError, match="LOGROCKET_APP_ID"):
        LogRocket("k").check()
    assert run(box.service(LogRocket).check()) is True
