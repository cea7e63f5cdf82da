from __future__ import annotations

import hashlib
import hmac
import json
import re
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.contracts import Contract

from moorline.clock import ManualClock
from moorline.errors import ConfigurationError
from moorline.sandbox.services.github import STAND_IN
from moorline.sandbox.standin import Ask, Emission, Surroundings

KEY = {
    "Authorization": "Bearer github_pat_1",
    "Accept": "application/vnd.github+json",
    "X-GitHub-Api-Version": "2022-11-28",
    "User-Agent": "tests",
}
ISSUES = "/repos/quay/hello/issues"


async def get(box: httpx2.AsyncClient, path: str, **headers: str) -> httpx2.Response:
    return await box.get("/github" + path, headers={**KEY, **{k.replace("_", "-"): v for k, v in headers.items()}})


async def post(box: httpx2.AsyncClient, path: str, content: Any, **headers: str) -> httpx2.Response:
    return await box.post("/github" + path, json=content, headers={**KEY, **headers})


async def test_issues_are_numbered_and_kept(box: httpx2.AsyncClient):
    """Issues get numbers from 1 on, labels become objects, and they can be read back."""
    first = await post(box, ISSUES, {"title": "Adrift", "labels": ["rope"], "assignees": ["harbourmaster"]})
    second = await post(box, ISSUES, {"title": "Aground"})
    assert (first.status_code, first.json()["number"], second.json()["number"]) == (201, 1, 2)
    assert first.json()["labels"][0]["name"] == "rope"
    assert (await get(box, ISSUES + "/1")).json() == first.json()
    assert [issue["number"] for issue in (await get(box, ISSUES)).json()] == [2, 1]


async def test_without_push_access_labels_are_dropped(box: httpx2.AsyncClient):
    """In a repository without push access labels and assignees vanish in silence, as on GitHub."""
    made = await post(
        box, "/repos/quay/upstream/issues", {"title": "x", "labels": ["a"], "assignees": ["harbourmaster"]}
    )
    assert (made.status_code, made.json()["labels"], made.json()["assignees"]) == (201, [], [])


@pytest.mark.parametrize(
    ("path", "content", "status"),
    [
        ("/repos/quay/nowhere/issues", {"title": "x"}, 404),
        ("/repos/quay/no-issues/issues", {"title": "x"}, 410),
        (ISSUES, {}, 422),
        (ISSUES, {"title": " "}, 422),
        (ISSUES, {"title": None}, 422),
        (ISSUES, {"title": "x", "labels": "a"}, 422),
        (ISSUES, {"title": "x", "labels": [1]}, 422),
        (ISSUES, {"title": "x", "assignees": ["stranger"]}, 422),
        (ISSUES, {"title": "x", "milestone": 9}, 422),
        (ISSUES, [], 400),
    ],
)
async def test_refusals(box: httpx2.AsyncClient, path: str, content: Any, status: int):
    """What GitHub refuses is refused with its status, a message and where to read about it."""
    response = await post(box, path, content)
    assert response.status_code == status
    assert response.json()["message"]
    assert response.json()["documentation_url"].startswith("https://docs.github.com")


async def test_headers_are_required(box: httpx2.AsyncClient):
    """No User-Agent is 403, a foreign Accept 415, an unknown version 400, no token and a wrong one 401."""
    assert (await get(box, "/user", User_Agent="")).status_code == 403
    assert (await get(box, "/user", Accept="image/png")).status_code == 415
    assert (await get(box, "/user", X_GitHub_Api_Version="1999-01-01")).status_code == 400
    assert (await get(box, "/user", Authorization="")).status_code == 401
    assert (await get(box, "/user", Authorization="Bearer ghp_wrong")).status_code == 401
    assert (await post(box, ISSUES, {"title": "x"}, Authorization="Bearer github_pat_read")).status_code == 403


async def test_link_paging(box: httpx2.AsyncClient):
    """Following rel="next" gives every repository once; the last page has no next."""
    url: str | None = "/orgs/quay/repos?per_page=20"
    seen: list[str] = []
    pages = 0
    while url:
        response = await get(box, url)
        seen += [repo["full_name"] for repo in response.json()]
        pages += 1
        found = re.search(r'<http://sandbox/github([^>]+)>; rel="next"', response.headers.get("link", ""))
        url = found and found[1]
    assert (pages, len(seen), len(set(seen))) == (3, 45, 45)


async def test_etag(box: httpx2.AsyncClient):
    """The same ETag again is a 304 without a body; after a change the answer is new."""
    first = await get(box, "/repos/quay/hello")
    again = await get(box, "/repos/quay/hello", If_None_Match=first.headers["etag"])
    assert (again.status_code, again.content) == (304, b"")
    await post(box, ISSUES, {"title": "x"})
    assert (await get(box, "/repos/quay/hello", If_None_Match=first.headers["etag"])).status_code == 200


async def test_moved_repository(box: httpx2.AsyncClient):
    """A renamed repository is a redirect that keeps the method for writes."""
    assert (await get(box, "/repos/quay/old-name")).headers["location"] == "http://sandbox/github/repos/quay/hello"
    assert (await post(box, "/repos/quay/old-name/issues", {"title": "x"})).status_code == 307


async def test_primary_limit():
    """After 5,000 requests in the hour it is a 403 with nothing remaining, until the reset; /rate_limit stays free."""
    clock = ManualClock()
    stand_in = STAND_IN.make(Surroundings(clock=clock))
    headers = {name.lower(): value for name, value in KEY.items()}

    async def ask(path: str) -> Any:
        return await stand_in.handle(Ask("GET", path, "", headers, b"", "http://sandbox/github"))

    for _ in range(5000):
        last = await ask("/user")
    assert (last.status, last.headers["X-RateLimit-Remaining"]) == (200, "0")
    refused = await ask("/user")
    assert (refused.status, refused.headers["X-RateLimit-Remaining"]) == (403, "0")
    assert int(refused.headers["X-RateLimit-Reset"]) == int(clock.wall()) + 3600
    assert (await ask("/rate_limit")).status == 200
    clock.advance(3600)
    assert (await ask("/user")).status == 200


@pytest.mark.parametrize("event", ["ping", "push", "issues.opened"])
def test_signature(event: str):
    """Deliveries carry the HMAC of the raw body; a broken one does not fit; without a secret there is none."""
    stand_in = STAND_IN.make(Surroundings())
    body = stand_in.sample(event)
    emission = Emission(event, body, "guid")
    headers = stand_in.sign(emission, url="https://x.example", secrets=("s",), hook_id="7", broken=False).headers
    assert headers["X-Hub-Signature-256"] == "sha256=" + hmac.new(b"s", body, hashlib.sha256).hexdigest()
    assert (headers["X-GitHub-Event"], headers["X-GitHub-Hook-ID"]) == (event.partition(".")[0], "7")
    broken = stand_in.sign(emission, url="https://x.example", secrets=("s",), hook_id="7", broken=True).headers
    assert broken["X-Hub-Signature-256"] != headers["X-Hub-Signature-256"]
    assert (
        "X-Hub-Signature-256"
        not in stand_in.sign(emission, url="https://x.example", secrets=(), hook_id="7", broken=False).headers
    )
    with pytest.raises(ConfigurationError, match="event"):
        stand_in.sample("star")


async def test_answers_fit_the_contract(box: httpx2.AsyncClient, contracts_dir: Path):
    """Every answer is what github.json describes; GET /user, single repositories and 401s are in the card only."""
    contract = Contract(contracts_dir, "github")
    good = {"title": "Adrift", "body": "Rope", "labels": ["a"], "assignees": ["harbourmaster"]}
    await post(box, ISSUES, good)
    asked = [
        ("POST", ISSUES, await post(box, ISSUES, good)),
        ("POST", ISSUES, await post(box, ISSUES, {})),
        ("POST", ISSUES, await post(box, ISSUES, {"title": "x", "assignees": ["stranger"]})),
        ("POST", ISSUES, await post(box, ISSUES, [])),
        ("POST", ISSUES, await post(box, ISSUES, good, Authorization="Bearer github_pat_read")),
        ("POST", "/repos/a/b/issues", await post(box, "/repos/a/b/issues", good)),
        ("POST", "/repos/quay/no-issues/issues", await post(box, "/repos/quay/no-issues/issues", good)),
        ("GET", ISSUES, await get(box, ISSUES)),
        ("GET", "/user/repos", await get(box, "/user/repos?per_page=100")),
        ("GET", "/user/repos", await get(box, "/user/repos", Authorization="Bearer ghp_wrong")),
        ("GET", "/orgs/quay/repos", await get(box, "/orgs/quay/repos?per_page=100")),
        ("GET", "/rate_limit", await get(box, "/rate_limit")),
    ]
    statuses = [response.status_code for _, _, response in asked]
    assert statuses == [201, 422, 422, 400, 403, 404, 410, 200, 200, 401, 200, 200]
    for method, path, response in asked:
        assert contract.answer_problems(method, path, response.status_code, response.content) == [], path
    content = STAND_IN.make(Surroundings()).failure(503).content
    assert contract.answer_problems("POST", ISSUES, 503, json.dumps(content).encode()) == []
