from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx2
import pytest
from tests.secrets.places import Told, among
from tests.services.conftest import Box
from tests.services.recorder import Recorder, answered

from moorline import errors
from moorline.calls.guards import Guards
from moorline.clock import ManualClock
from moorline.events import Event
from moorline.events.verification import verify_each
from moorline.policies.policy import Policy
from moorline.sandbox.services.microsoft_graph import STAND_IN
from moorline.sandbox.standin import Emission, Surroundings
from moorline.secrets import locker
from moorline.secrets.secret import Secret
from moorline.services.business.microsoft_graph import GraphUser, MicrosoftGraph

Run = Callable[[Any], Any]
NOW = 1_790_000_000.0
CALLS: list[Callable[[MicrosoftGraph], Any]] = [
    lambda s: s.get_me(),
    lambda s: s.check(),
]
# learn.microsoft.com/graph/api/user-get, example 1
ADELE = {
    "businessPhones": ["+1 425 555 0109"], "displayName": "Adele Vance", "givenName": "Adele",
    "jobTitle": "Retail Manager", "mail": "AdeleV@contoso.com", "mobilePhone": "+1 425 555 0109",
    "officeLocation": "18/2111", "preferredLanguage": "en-US", "surname": "Vance",
    "userPrincipalName": "AdeleV@contoso.com", "id": "87d349ed-44d7-43e1-9a83-5f2406dee5bd",
}  # fmt: skip


def refused(code: str, **more: Any) -> bytes:
    """An error as learn.microsoft.com/graph/errors has it."""
    inner = {"request-id": "in-the-body", "date": "2026-11-28T10:00:00", **more}
    return json.dumps({"error": {"code": code, "message": "Uploaded fragment overlaps.", "innerError": inner}}).encode()


def test_whose_account_it_is(run: Run):
    """All that comes by default, at the version that is stable, with the token in the header."""
    recorder = Recorder(200, json.dumps(ADELE).encode())
    me = run(recorder.service(MicrosoftGraph, key="canary-token").get_me())
    assert me == GraphUser(
        id="87d349ed-44d7-43e1-9a83-5f2406dee5bd", principal_name="AdeleV@contoso.com", name="Adele Vance",
        email="AdeleV@contoso.com", given_name="Adele", surname="Vance", job_title="Retail Manager",
        office="18/2111", language="en-US", mobile_phone="+1 425 555 0109", business_phones=("+1 425 555 0109",),
    )  # fmt: skip
    assert me.raw == ADELE
    [request] = recorder.requests
    assert (request.method, str(request.url)) == ("GET", "https://graph.microsoft.com/v1.0/me")
    assert request.headers["authorization"] == "Bearer canary-token"
    personal: dict[str, Any] = {"id": "48d31887-5fad-4d73-a9f5-3c356e68a038", "businessPhones": [], "mail": None}
    me = run(Recorder(200, json.dumps(personal).encode()).service(MicrosoftGraph).get_me())
    assert (me.email, me.name, me.business_phones) == (None, None, ())
    with pytest.raises(errors.BadAnswer):
        run(Recorder(200, b'{"displayName":"x"}').service(MicrosoftGraph).check())


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "invalidRequest", errors.InvalidRequest),
        (401, "InvalidAuthenticationToken", errors.AuthenticationFailed),
        (402, "paymentRequired", errors.PermissionDenied),
        (403, "accessDenied", errors.PermissionDenied),
        (404, "itemNotFound", errors.NotFound),
        (409, "nameAlreadyExists", errors.Conflict),
        (410, "resyncRequired", errors.NotFound),
        (412, "resourceModified", errors.Conflict),
        (423, "notAllowed", errors.Conflict),
        (429, "activityLimitReached", errors.RateLimited),
        (403, "activityLimitReached", errors.RateLimited),
        (501, "notSupported", errors.InvalidRequest),
        (503, "serviceNotAvailable", errors.ServiceUnavailable),
        (507, "quotaLimitReached", errors.PermissionDenied),
        (509, "generalException", errors.RateLimited),
    ],
)
def test_errors(run: Run, status: int, code: str, kind: type[errors.CallError]):
    """Their code, message and id are found; what lies deeper stands in the detail, and the token nowhere."""
    content = refused(code, innerError={"code": "throttledRequest"})
    recorder = Recorder(status, content, {"request-id": "in-the-header", "Retry-After": "41"})
    service = recorder.service(MicrosoftGraph, key="canary-token", policy=Policy(retry=None, breaker=None))
    with pytest.raises(kind) as caught:
        run(service.request("GET", "/v1.0/me/drive"))
    error = caught.value
    assert (type(error), error.code, error.request_id) == (kind, code, "in-the-header")
    assert "Uploaded fragment overlaps." in str(error)
    detail: Any = error.detail
    assert detail["error"]["innerError"]["innerError"]["code"] == "throttledRequest"
    assert "canary" not in repr(error) + str(error)


def test_it_waits_as_long_as_it_is_told():
    """And asks again then."""
    clock, asked = ManualClock(NOW), list[float]()

    def answer(_: httpx2.Request) -> httpx2.Response:
        asked.append(clock.wall())
        if len(asked) == 1:
            return httpx2.Response(429, content=refused("activityLimitReached"), headers={"Retry-After": "10"})
        return httpx2.Response(200, json=ADELE)

    options: dict[str, Any] = {"wire": httpx2.MockTransport(answer), "guards": Guards(clock=clock)}
    service = MicrosoftGraph("token-0123456789", policy=Policy(deadline=60), **options)
    assert service.get_me().result().name == "Adele Vance"
    assert asked[1] - asked[0] >= 10


def test_any_other_endpoint(run: Run):
    """By ``request``: also the address of a next page, which is a whole one; a write without an answer may be done."""
    page = {"value": [], "@odata.nextLink": "https://graph.microsoft.com/v1.0/me/messages?$skip=23"}
    recorder = Recorder(200, json.dumps(page).encode())
    service = recorder.service(MicrosoftGraph)
    found = run(service.request("GET", "/v1.0/me/messages", query={"$select": "from,subject"}))
    run(service.request("GET", found["@odata.nextLink"]))
    assert [request.url.query for request in recorder.requests] == [b"%24select=from%2Csubject", b"$skip=23"]
    with pytest.raises(errors.MoorlineError):
        run(service.request("GET", "https://graph.microsoft.com.evil.example/v1.0/me"))
    assert len(recorder.requests) == 2


def test_without_a_key_of_its_own(box: Box, run: Run, monkeypatch: pytest.MonkeyPatch):
    """Nothing is looked for in any source, before a call, at one, or after a 401; what is missing is an account."""
    source = Told(MICROSOFT_GRAPH_TOKEN="canary-0123456789")
    monkeypatch.setattr(locker, "_PROCESS", among(source))
    monkeypatch.delenv("MOORLINE_SANDBOX_URL", raising=False)
    graph = MicrosoftGraph(guards=Guards())
    assert (graph.variable, graph.needed_variable, graph.key_origin, graph.key_ends) == (None, None, "", None)
    with pytest.raises(errors.ConfigurationError, match=r"app\.connections\.get\(owner, MicrosoftGraph\)"):
        run(graph.get_me())
    monkeypatch.setenv("MOORLINE_SANDBOX_URL", box.url)
    assert run(graph.check())
    box.arm(kind="status", status=401, service="microsoft_graph")
    with pytest.raises(errors.AuthenticationFailed):
        run(graph.check())
    assert source.fetches == 0


def test_the_stand_in(box: Box, run: Run):
    """Reads and changes the user; refuses tokens that it does not know, fields that there are none of, other paths."""
    graph = box.service(MicrosoftGraph)
    me = run(graph.get_me())
    assert (me.name, me.job_title) == ("Ada at Acme", None)
    assert run(graph.request("PATCH", "/v1.0/me", json={"jobTitle": "Analyst"})) is None
    assert run(graph.get_me()).job_title == "Analyst"
    assert box.state("microsoft_graph")["users"]["acme"]["jobTitle"] == "Analyst"
    for method, path, kind in (
        ("PATCH", "/v1.0/me", errors.InvalidRequest),
        ("DELETE", "/v1.0/me", errors.InvalidRequest),
        ("GET", "/v1.0/me/drive", errors.NotFound),
    ):
        with pytest.raises(kind) as caught:
            run(graph.request(method, path, json=None if method == "GET" else {"id": "another"}))
        assert caught.value.request_id
    with pytest.raises(errors.AuthenticationFailed):
        run(box.service(MicrosoftGraph, key="another-token").check())
    box.arm(kind="status", status=429, service="microsoft_graph")
    with pytest.raises(errors.RateLimited):
        run(graph.check().using(retry=None))


def test_a_change_is_told():
    """By a notification with the secret in it, which says of whom."""
    emitted: list[Emission] = []
    stand_in: Any = STAND_IN.make(Surroundings(clock=ManualClock(NOW), emit=emitted.append))
    wire = httpx2.MockTransport(lambda request: answered(stand_in, request))
    graph = MicrosoftGraph("sandbox-graph-token", wire=wire, guards=Guards())
    graph.request("PATCH", "/v1.0/me", json={"mobilePhone": "+1 425 555 0109"}).result()
    [emission] = emitted
    url = "https://shop.example/webhooks/microsoft_graph"
    signed = stand_in.sign(emission, url=url, secrets=("a state",), hook_id="1", broken=False)
    [event] = verify_each(MicrosoftGraph, headers=signed.headers, body=signed.body, secrets=Secret("a state"), url=url)
    told = MicrosoftGraph.read_event(event)
    assert (told.what, told.lifecycle, told.resource) == ("updated", False, f"users/{told.resource_id}")
    assert told.resource_id == graph.get_me().result().id
    assert told.ends_at == datetime.fromtimestamp(NOW + 3600, UTC)


def test_what_a_notification_says():
    """Those of the lifecycle are about the subscription; what has another shape is a BadAnswer."""

    def read(told: Any) -> Any:
        return MicrosoftGraph.read_event(Event("microsoft_graph", "1", "x", json.dumps(told).encode()))

    found = read({"subscriptionId": "s", "lifecycleEvent": "missed", "tenantId": "t", "resource": "users/1"})
    assert (found.what, found.lifecycle, found.subscription_id, found.resource_id) == ("missed", True, "s", None)
    made = {"changeType": "created"}
    shapes: list[Any] = [[], {}, {"changeType": 7}, made | {"subscriptionExpirationDateTime": "soon"}]
    for wrong in (*shapes, {**made, "resourceData": [1]}):
        with pytest.raises(errors.BadAnswer):
            read(wrong)
