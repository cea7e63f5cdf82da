from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.contracts import Contract
from tests.services.conftest import Box
from tests.services.recorder import Recorder

from moorline import errors
from moorline.events import verify
from moorline.policies.policy import Policy
from moorline.sandbox.services.github import STAND_IN
from moorline.sandbox.standin import Emission, Surroundings
from moorline.services.business.github import GitHub

Run = Callable[[Any], Any]
CALLS: list[Callable[[GitHub], Any]] = [
    lambda s: s.create_issue("a", "b", "c"),
    lambda s: s.list_repositories().page(),
    lambda s: s.check(),
    lambda s: s.request("GET", "/x"),
]


def test_create_issue(box: Box, run: Run):
    """An issue is opened with labels and assignees and comes back as a value."""
    made = run(
        box.service(GitHub).create_issue(
            "quay", "hello", "Adrift", body="⚓", labels=["rope"], assignees=["harbourmaster"]
        )
    )
    assert (made.number, made.title, made.state, made.body) == (1, "Adrift", "open", "⚓")
    assert (made.labels, made.assignees, made.author) == (("rope",), ("harbourmaster",), "harbourmaster")
    dropped = run(box.service(GitHub).create_issue("quay", "upstream", "Adrift", labels=["rope"]))
    assert dropped.labels == ()


def test_repositories_of_user_and_organisation(box: Box):
    """Listings follow Link headers to the end."""
    github = box.service(GitHub)
    assert len({repo.full_name for repo in github.list_repositories(page_size=10)}) == 48
    mine = list(github.list_repositories(org="quay", page_size=20))
    assert (len(mine), mine[0].default_branch) == (45, "main")
    assert len([request for request in box.seen() if request["path"] == "/orgs/quay/repos"]) == 3


async def test_repositories_async(box: Box):
    """The same on an event loop."""
    assert len([repo async for repo in box.service(GitHub).list_repositories(page_size=30)]) == 48


def test_typed_errors(box: Box, run: Run):
    """Unknown repositories, disabled issues, invalid fields, bad tokens and missing rights are told apart."""
    github = box.service(GitHub)
    with pytest.raises(errors.NotFound):
        run(github.create_issue("quay", "nowhere", "x"))
    with pytest.raises(errors.NotFound) as gone:
        run(github.create_issue("quay", "no-issues", "x"))
    assert gone.value.status == 410
    with pytest.raises(errors.InvalidRequest) as invalid:
        run(github.create_issue("quay", "hello", "x", assignees=["stranger"]))
    assert (invalid.value.status, invalid.value.code) == (422, "invalid")
    assert invalid.value.request_id
    with pytest.raises(errors.AuthenticationFailed):
        run(box.service(GitHub, "ghp_wrong").check())
    with pytest.raises(errors.PermissionDenied):
        run(box.service(GitHub, "github_pat_read").create_issue("quay", "hello", "x"))
    with pytest.raises(errors.InvalidRequest, match="title"):
        github.create_issue("quay", "hello", "  ")
    assert run(github.check()) is True


def test_renamed_repository(box: Box, run: Run):
    """A redirect to the new name is followed with the token, as it stays on the same origin."""
    assert run(box.service(GitHub).request("GET", "/repos/quay/old-name"))["full_name"] == "quay/hello"


def test_not_modified(box: Box, run: Run):
    """A conditional request by request() answers 304 without a body."""
    github = box.service(GitHub)
    first = run(github.request("GET", "/repos/quay/hello").response())
    assert first.header("etag").startswith('W/"')


@pytest.mark.parametrize("status", [403, 429])
@pytest.mark.parametrize(
    ("headers", "message", "wait"),
    [
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "{+900}"}, "API rate limit exceeded", 900),
        ({"Retry-After": "30", "X-RateLimit-Remaining": "10"}, "You have exceeded a secondary rate limit", 30),
        ({"X-RateLimit-Remaining": "10"}, "You have exceeded a secondary rate limit. Please wait", 60),
    ],
)
def test_limits(run: Run, status: int, headers: dict[str, str], message: str, wait: int):
    """Primary limits wait for the reset, secondary ones for Retry-After or a minute, whether said by 403 or 429."""
    sent = {name: value.replace("{+900}", str(int(time.time()) + 900)) for name, value in headers.items()}
    recorder = Recorder(status, f'{{"message":"{message}"}}'.encode(), sent)
    with pytest.raises(errors.RateLimited) as caught:
        run(recorder.service(GitHub, policy=Policy(deadline=5)).check())
    assert caught.value.retry_at == pytest.approx(time.time() + wait, abs=5)
    assert len(recorder.requests) == 1


def test_a_403_without_a_limit_is_about_rights(run: Run):
    """A 403 with quota left is PermissionDenied."""
    recorder = Recorder(403, b'{"message":"Resource not accessible"}', {"X-RateLimit-Remaining": "10"})
    with pytest.raises(errors.PermissionDenied):
        run(recorder.service(GitHub).check())


@pytest.mark.parametrize(("kind", "error"), [("dropped", errors.OutcomeUnknown), ("truncated", errors.BadAnswer)])
def test_unanswered_creation_is_not_repeated(box: Box, run: Run, kind: str, error: type[errors.CallError]):
    """GitHub has no keys: an issue whose answer was lost or cut is said to be so, and is not sent again."""
    box.arm(kind=kind, processed=True)
    with pytest.raises(error):
        run(box.service(GitHub).create_issue("quay", "hello", "x"))
    assert len(box.state("github")["issues"]["quay/hello"]) == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda s: s.create_issue("quay", "hello", "x"),
        lambda s: s.create_issue(
            "quay", "hello", "x", body="b", labels=["a"], assignees=["c"], milestone=3, type="Bug"
        ),
    ],
)
def test_requests_fit_the_contract(contracts_dir: Path, make: Callable[[Any], Any]):
    """Every request that we build is valid by github.json, with the version pinned and a User-Agent."""
    recorder = Recorder(500)
    with pytest.raises(errors.CallError):
        make(recorder.service(GitHub, policy=Policy(retry=None))).result()
    [request] = recorder.requests
    contract = Contract(contracts_dir, "github")
    path = "/repos/quay/hello/issues"
    assert contract.request_problems("POST", path, request.content, request.headers["content-type"]) == []
    assert request.headers["x-github-api-version"] == "2022-11-28"
    assert request.headers["accept"] == "application/vnd.github+json"
    assert request.headers["user-agent"]


def test_listing_parameters_are_in_the_contract(contracts_dir: Path):
    """The query's names are those of github.json."""
    recorder = Recorder(200, b"[]")
    list(recorder.service(GitHub).list_repositories(org="quay", type="all", sort="updated"))
    document = Contract(contracts_dir, "github").document
    given = document["paths"]["/orgs/{org}/repos"]["get"]["parameters"]
    known = {
        one.get("name") or document["components"]["parameters"][one["$ref"].rpartition("/")[2]]["name"] for one in given
    }
    assert set(recorder.requests[0].url.params) == {"per_page", "type", "sort"} <= known


@pytest.mark.parametrize("event", ["ping", "push", "issues.opened"])
def test_webhooks_verify(event: str):
    """Deliveries of the sandbox verify; id is hook and GUID together; a broken one does not verify."""
    stand_in = STAND_IN.make(Surroundings())
    body = stand_in.sample(event)
    headers = stand_in.sign(
        Emission(event, body, "guid-1"), url="https://x.example", secrets=("s",), hook_id="7", broken=False
    ).headers
    found = verify(GitHub, headers=headers, body=body, secrets=["new", "s"])
    assert found.type == event.partition(".")[0]
    assert "guid-1" in found.id
    assert "7" in found.id
    broken = stand_in.sign(
        Emission(event, body, "guid-1"), url="https://x.example", secrets=("s",), hook_id="7", broken=True
    ).headers
    with pytest.raises(errors.InvalidSignature):
        verify(GitHub, headers=broken, body=body, secrets="s")
