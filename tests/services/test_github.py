from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.contracts import Contract
from tests.services.conftest import Box
from tests.services.recorder import Recorder

from moorline import errors
from moorline.calls.cache import Cache
from moorline.calls.call import Call
from moorline.calls.guards import Guards
from moorline.calls.upload import Upload
from moorline.events import verify
from moorline.policies.policy import Policy
from moorline.sandbox.services.github import STAND_IN
from moorline.sandbox.standin import Emission, Surroundings
from moorline.services.business.github import GitHub

Run = Callable[[Any], Any]
SHA = "a" * 40
CALLS: list[Callable[[GitHub], Any]] = [
    lambda s: s.create_issue("a", "b", "c"),
    lambda s: s.get_issue("a", "b", 1),
    lambda s: s.update_issue("a", "b", 1, title="c"),
    lambda s: s.close_issue("a", "b", 1),
    lambda s: s.list_issues("a", "b").page(),
    lambda s: s.comment_issue("a", "b", 1, "c"),
    lambda s: s.list_comments("a", "b", 1).page(),
    lambda s: s.search_issues("c").page(),
    lambda s: s.get_repository("a", "b"),
    lambda s: s.list_repositories().page(),
    lambda s: s.create_repository("b"),
    lambda s: s.create_release("a", "b", "v1"),
    lambda s: s.get_release("a", "b"),
    lambda s: s.list_releases("a", "b").page(),
    lambda s: s.upload_asset("a", "b", 1, b"c", "d.txt"),
    lambda s: s.create_check("a", "b", "ci", SHA),
    lambda s: s.update_check("a", "b", 1, conclusion="success"),
    lambda s: s.list_deliveries().page(),
    lambda s: s.redeliver(1),
    lambda s: s.list_installations().page(),
    lambda s: s.create_installation_token(1),
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


def test_an_issues_life(box: Box, run: Run):
    """It is opened, read, changed, commented on and closed; lists and searches find it."""
    github = box.service(GitHub)
    number = run(github.create_issue("quay", "hello", "Adrift", labels=["rope"])).number
    run(github.create_issue("quay", "hello", "Aground", body="on sand"))
    changed = run(github.update_issue("quay", "hello", number, title="Adrift again", labels=["rope", "storm"]))
    assert (changed.title, changed.labels, changed.state) == ("Adrift again", ("rope", "storm"), "open")
    said = run(github.comment_issue("quay", "hello", number, "Tied ⚓"))
    assert (said.body, said.author) == ("Tied ⚓", "harbourmaster")
    assert [one.id for one in github.list_comments("quay", "hello", number)] == [said.id]
    closed = run(github.close_issue("quay", "hello", number, "not_planned"))
    assert (closed.state, closed.state_reason) == ("closed", "not_planned")
    assert run(github.get_issue("quay", "hello", number)) == closed
    assert [one.title for one in github.list_issues("quay", "hello")] == ["Aground"]
    assert [one.title for one in github.list_issues("quay", "hello", state="all", page_size=1)] == [
        "Aground",
        "Adrift again",
    ]
    assert [one.title for one in github.list_issues("quay", "hello", state="closed", labels=["storm"])] == [
        "Adrift again"
    ]
    assert not list(github.list_issues("quay", "hello", since=datetime.now(UTC) + timedelta(hours=1)))
    assert [one.title for one in github.search_issues("repo:quay/hello is:open SAND")] == ["Aground"]
    again = run(github.update_issue("quay", "hello", number, state="open", assignees=["harbourmaster"]))
    assert (again.state, again.assignees) == ("open", ("harbourmaster",))
    with pytest.raises(errors.NotFound):
        run(github.get_issue("quay", "hello", 99))
    with pytest.raises(errors.InvalidRequest):
        run(github.update_issue("quay", "hello", number, state="shut"))


def test_a_change_is_sent_again(box: Box, run: Run):
    """Its answer may be lost: sent twice it changes nothing more; and what a cache has of the issue is outdated."""
    github = box.service(GitHub, cache=Cache())
    number = run(github.create_issue("quay", "hello", "Adrift")).number
    assert run(github.get_issue("quay", "hello", number)).state == "open"
    box.arm(kind="dropped", processed=True, method="PATCH")
    call = github.close_issue("quay", "hello", number)
    assert run(call).state == "closed"
    assert not call.plan.reads
    assert run(github.get_issue("quay", "hello", number)).state == "closed"


def test_searches_have_a_limit_of_their_own(box: Box, run: Run, impatient: Policy):
    """Thirty a minute: the next one waits for the reset, and all else goes on."""
    headers = {"Authorization": "Bearer ghp_1", "User-Agent": "tests"}
    for _ in range(29):
        assert box.client.get("/github/search/issues?q=x", headers=headers).status_code == 200
    github = box.service(GitHub, policy=impatient)
    run(github.search_issues("x").page())
    with pytest.raises(errors.RateLimited) as caught:
        run(github.search_issues("x").page())
    assert caught.value.retry_at == pytest.approx(time.time() + 60, abs=10)
    assert run(github.get_repository("quay", "hello")).name == "hello"


@pytest.mark.parametrize("resource", ["search", "graphql"])
def test_a_part_that_is_spent_closes_no_other(run: Run, resource: str):
    """Also when the first that is heard of it is its end: the core's limit is another one."""
    spent = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int(time.time()) + 900)}
    recorder = Recorder(403, b'{"message":"API rate limit exceeded"}', {**spent, "X-RateLimit-Resource": resource})
    github = recorder.service(GitHub, policy=Policy(deadline=5))
    for _ in range(2):
        with pytest.raises(errors.RateLimited):
            run(github.search_issues("x").page())
    assert len(recorder.requests) == 1
    recorder.answer = (200, b'{"rate":{}}', {})
    assert run(github.check()) is True


def test_repositories(box: Box, run: Run):
    """One is made for the user or the organisation, private unless told so, and read, by an old name as well."""
    github = box.service(GitHub)
    mine = run(github.create_repository("skiff", description="small"))
    theirs = run(github.create_repository("barge", org="quay", private=False))
    assert (mine.full_name, mine.private, mine.description) == ("harbourmaster/skiff", True, "small")
    assert (theirs.full_name, theirs.private) == ("quay/barge", False)
    assert run(github.get_repository("quay", "barge")) == theirs
    assert run(github.get_repository("quay", "old-name")).full_name == "quay/hello"
    with pytest.raises(errors.InvalidRequest, match="Validation"):
        run(github.create_repository("barge", org="quay"))


def test_releases_and_their_files(box: Box, run: Run, tmp_path: Path):
    """The latest is no draft and no prerelease; files are sent where the release says, under a name that GitHub likes."""
    github = box.service(GitHub)
    first = run(github.create_release("quay", "hello", "v1.0", name="One", body="- all of it"))
    run(github.create_release("quay", "hello", "v1.1-rc1", prerelease=True))
    draft = run(github.create_release("quay", "hello", "v1.2", draft=True, target="main"))
    assert draft.published_at is None
    assert run(github.get_release("quay", "hello")) == first
    assert run(github.get_release("quay", "hello", "v1.1-rc1")).prerelease
    assert [one.tag for one in github.list_releases("quay", "hello", page_size=2)] == ["v1.2", "v1.1-rc1", "v1.0"]
    path = tmp_path / "moorline.tar.gz"
    path.write_bytes(b"x" * 100_000)
    sent = run(
        github.upload_asset("quay", "hello", first.id, path, "moor line.tar.gz", content_type="application/gzip")
    )
    assert (sent.name, sent.size, sent.state, sent.content_type) == (
        "moor.line.tar.gz",
        100_000,
        "uploaded",
        "application/gzip",
    )
    run(github.upload_asset("quay", "hello", first.id, b"abc", "sums.txt", label="Checksums"))
    assert [one.name for one in run(github.get_release("quay", "hello")).assets] == ["moor.line.tar.gz", "sums.txt"]
    with pytest.raises(errors.Conflict) as twice:
        run(github.upload_asset("quay", "hello", first.id, b"abc", "sums.txt"))
    assert twice.value.code == "already_exists"
    with pytest.raises(errors.Conflict):
        run(github.create_release("quay", "hello", "v1.0"))
    with pytest.raises(errors.NotFound) as missing:
        run(github.upload_asset("quay", "hello", 1, b"abc", "sums.txt"))
    assert missing.value.outcome == "not_sent"


@pytest.mark.parametrize(
    ("base", "address", "there"),
    [
        (None, "https://uploads.github.com/repos/a/b/releases/1/assets{?name,label}", True),
        ("https://api.tenant.ghe.com", "https://uploads.tenant.ghe.com/repos/a/b/releases/1/assets{?name,label}", True),
        ("https://git.corp.example/api/v3", "https://git.corp.example/api/uploads/repos/a/b/releases/1/assets", True),
        (None, "https://uploads.github.com.evil.example/x{?name,label}", False),
        (None, "https://evil.example/x", False),
        (None, "http://uploads.github.com/x", False),
    ],
)
def test_files_go_to_githubs_own_hosts(run: Run, base: str | None, address: str, there: bool):
    """The token goes with them, so that no other address will do."""
    sent: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(request)
        if request.method == "GET":
            release = {"id": 1, "tag_name": "v1", "html_url": "https://github.com/x", "upload_url": address}
            return httpx2.Response(200, json=release)
        made = {"id": 2, "name": "a", "browser_download_url": "https://github.com/a", "state": "uploaded"}
        return httpx2.Response(201, json=made)

    github = GitHub("ghp_1", base_url=base, wire=httpx2.MockTransport(answer), guards=Guards())
    call = github.upload_asset("a", "b", 1, b"abc", "a b.txt", label="x")
    if not there:
        with pytest.raises(errors.BadAnswer) as caught:
            run(call)
        assert (caught.value.outcome, len(sent)) == ("not_sent", 1)
        return
    assert run(call).id == 2
    assert str(sent[1].url) == address.partition("{")[0] + "?name=a+b.txt&label=x"
    assert (sent[1].headers["authorization"], sent[1].content) == ("Bearer ghp_1", b"abc")


def test_what_did_not_change_costs_nothing(box: Box, run: Run):
    """With a cache the second read is a 304, which GitHub does not count; after a change it is read anew."""
    cache = Cache()
    github = box.service(GitHub, cache=cache)
    first = run(github.get_repository("quay", "hello"))
    used = box.state("github")["used"]
    for _ in range(5):
        assert run(github.get_repository("quay", "hello")) == first
    assert (cache.misses, cache.validated, box.state("github")["used"]) == (1, 5, used)
    run(github.create_issue("quay", "hello", "Adrift"))
    assert run(github.get_repository("quay", "hello")).raw["open_issues"] == 1
    assert (cache.misses, box.state("github")["used"]) == (2, used + 2)


def test_listings_are_revalidated_too(box: Box):
    """Page by page, and the whole list costs nothing the second time."""
    cache = Cache()
    github = box.service(GitHub, cache=cache)
    names = [one.full_name for one in github.list_repositories(org="quay", page_size=20)]
    used = box.state("github")["used"]
    assert [one.full_name for one in github.list_repositories(org="quay", page_size=20)] == names
    assert (cache.validated, box.state("github")["used"]) == (3, used)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda s: s.comment_issue("a", "b", 1, " "), "body"),
        (lambda s: s.search_issues(""), "query"),
        (lambda s: s.create_repository(" "), "name"),
        (lambda s: s.create_release("a", "b", ""), "tag"),
        (lambda s: s.upload_asset("a", "b", 1, b"x", ""), "name"),
        (lambda s: s.upload_asset("a", "b", 1, Upload(iter([b"x"])), "x"), "file"),
        (lambda s: s.create_check("a", "b", "", SHA), "name"),
        (lambda s: s.create_check("a", "b", "ci", ""), "head_sha"),
        (lambda s: s.create_check("a", "b", "ci", SHA, output={"annotations": [{}] * 51}), "output.annotations"),
        (lambda s: s.update_check("a", "b", 1, output={"summary": "x" * 65_536}), "output.summary"),
        (lambda s: s.list_deliveries(status="lost"), "status"),
        (lambda s: s.list_issues("a", "b", page_size=101), "page_size"),
    ],
)
def test_limits_are_checked_before_sending(make: Callable[[GitHub], Any], field: str):
    """By name, and nothing is sent."""
    recorder = Recorder()
    with pytest.raises(errors.InvalidRequest, match=f"^{field}"):
        make(recorder.service(GitHub))
    assert recorder.requests == []


@pytest.mark.parametrize(
    "address",
    [
        "https://evil.example/x?page=2",
        "http://api.github.com/x",
        "https://[",
        "https://api.github.com/a b",
        "//x.example",
    ],
)
def test_a_page_that_leads_elsewhere(address: str):
    """Only an address of GitHub's own is followed; another is a fault of the answer."""
    recorder = Recorder(200, b"[]", {"Link": f'<{address}>; rel="next"'})
    with pytest.raises(errors.BadAnswer, match="next page"):
        list(recorder.service(GitHub).list_issues("quay", "hello"))
    assert len(recorder.requests) == 1


def test_a_page_at_the_same_place():
    """However its address is written."""
    seen: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(str(request.url))
        following = {} if len(seen) > 1 else {"Link": '<https://git.corp.example/api/v3/x?page=2>; rel="next"'}
        return httpx2.Response(200, json=[], headers=following)

    base = "https://Git.corp.example:443/api/v3"
    github = GitHub("ghp_1", base_url=base, wire=httpx2.MockTransport(answer), guards=Guards())
    assert list(github.list_issues("quay", "hello")) == []
    assert seen[1:] == ["https://git.corp.example/api/v3/x?page=2"]


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
    """Reads and writes follow to the new name, with the token, as it stays on the same origin; each write is done once."""
    assert run(box.service(GitHub).request("GET", "/repos/quay/old-name"))["full_name"] == "quay/hello"
    made = run(box.service(GitHub).create_issue("quay", "old-name", "of the old name"))
    found = run(box.service(GitHub).request("GET", f"/repos/quay/hello/issues/{made.number}"))
    assert found["title"] == "of the old name"
    later = run(box.service(GitHub).create_issue("quay", "hello", "the next"))
    assert later.number == made.number + 1


@pytest.mark.parametrize(
    "to", ["https://elsewhere.example/issues", "http://api.github.com/x", "https://uploads.github.com/x"]
)
def test_a_write_is_not_sent_elsewhere(run: Run, to: str):
    """Another origin is not followed, with or without the token: it is told where it is."""
    asked: list[str] = []

    def moved(request: httpx2.Request) -> httpx2.Response:
        asked.append(request.url.host)
        return httpx2.Response(307, json={"message": "Moved", "url": to}, headers={"Location": to})

    github = GitHub("ghp_0123456789", wire=httpx2.MockTransport(moved), guards=Guards())
    with pytest.raises((errors.NotFound, errors.BadAnswer)) as caught:
        run(github.create_issue("quay", "hello", "x"))
    assert (caught.value.status, asked) == (307, ["api.github.com"])


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


@pytest.mark.parametrize(
    ("path", "make", "names"),
    [
        ("/orgs/{org}/repos", lambda s: s.list_repositories(org="quay", type="all", sort="updated"), {"type", "sort"}),
        ("/user/repos", lambda s: s.list_repositories(visibility="public"), {"visibility"}),
        (
            "/repos/{owner}/{repo}/issues",
            lambda s: s.list_issues("a", "b", labels=["x"], since=datetime.now(UTC), assignee="c"),
            {"state", "labels", "since", "assignee"},
        ),
    ],
)
def test_listing_parameters_are_in_the_contract(
    contracts_dir: Path, path: str, make: Callable[[Any], Any], names: set[str]
):
    """The query's names are those of github.json."""
    recorder = Recorder(200, b"[]")
    list(make(recorder.service(GitHub)))
    document = Contract(contracts_dir, "github").document
    given = document["paths"][path]["get"]["parameters"]
    known = {
        one.get("name") or document["components"]["parameters"][one["$ref"].rpartition("/")[2]]["name"] for one in given
    }
    assert set(recorder.requests[0].url.params) == {"per_page", *names} <= known


def test_the_stand_ins_objects_fit_the_contract(box: Box, contracts_dir: Path):
    """Issues, however they are come by, and repositories are what github.json describes."""
    contract, github = Contract(contracts_dir, "github"), box.service(GitHub)
    number = github.create_issue("quay", "hello", "x", labels=["a"]).result().number
    made = github.create_repository("skiff").result()
    found = [
        github.close_issue("quay", "hello", number).result(),
        github.get_issue("quay", "hello", number).result(),
        *github.list_issues("quay", "hello", state="all"),
        *github.search_issues("x"),
    ]
    for one in found:
        assert contract.problems(contract.component("issue"), json.loads(json.dumps(one.raw))) == []
    assert contract.problems(contract.component("repository"), json.loads(json.dumps(made.raw))) == []


def test_it_survives_a_queue(box: Box):
    """A Call comes out of a queue as it went in."""
    github = box.service(GitHub)
    call = github.create_issue("quay", "hello", "Adrift", labels=["rope"], type="Bug")
    again = Call.from_payload(json.loads(json.dumps(call.to_payload())), lambda name: github)
    assert again.result().labels == ("rope",)


@pytest.mark.parametrize("event", STAND_IN.events)
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
