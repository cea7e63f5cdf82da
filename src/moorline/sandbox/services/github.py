"""GitHub's stand-in: issues, repositories with Link paging, ETags, rate limits, signed deliveries.

Facts: services/business/github.md and github.json. The user ``harbourmaster`` owns 3 repositories, the organisation
``quay`` has 45; ``quay/no-issues`` has issues switched off, in ``quay/upstream`` there is no push access (labels and
assignees are dropped in silence), ``quay/old-name`` has moved to ``quay/hello``. Tokens with one of GitHub's prefixes
are good; those that end in ``wrong`` are refused (401), and ``github_pat_read…`` may only read (403).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from moorline.errors import ConfigurationError
from moorline.sandbox.services import _github_objects as objects
from moorline.sandbox.standin import Answer, Ask, Emission, Registration, Signed, Surroundings

__all__ = ["STAND_IN"]

_DOCS = "https://docs.github.com/rest"
_VERSIONS = ("2022-11-28", "2026-03-10")
_ACCEPTED = re.compile(r"\*/\*|application/\*|application/json|application/vnd\.github(\.[\w.+-]+)?(\+json)?")
_LIMIT = 5000
_HOUR = 3600

Thing = dict[str, Any]


class _Refused(Exception):
    def __init__(self, status: int, message: str, **more: Any) -> None:
        super().__init__(message)
        body = {"message": message, **more, "documentation_url": _DOCS, "status": str(status)}
        self.answer = Answer(status, body)


def _unprocessable(field: str, code: str, **more: Any) -> _Refused:
    return _Refused(422, "Validation Failed", errors=[{"resource": "Issue", "field": field, "code": code, **more}])


class GitHubStandIn:
    """One user with a token, and an organisation."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._base = ""
        self._ids = 1000
        self._used = 0
        self._reset = 0
        self._me: Thing = {}
        self._org: Thing = {}
        self._repositories: dict[str, Thing] = {}
        self._issues: dict[str, list[Thing]] = {}
        self._furnish("https://api.github.com")
        name = r"/repos/([\w.-]+)/([\w.-]+)"
        self._routes: list[tuple[str, str, Callable[..., Answer]]] = [
            ("GET", r"/rate_limit", self._rate_limit),
            ("GET", r"/user", self._user),
            ("GET", r"/user/repos", self._own_repositories),
            ("GET", r"/orgs/([\w.-]+)/repos", self._repositories_of),
            ("GET", name, self._one_repository),
            ("GET", r"/repositories/(\d+)", self._repository_by_id),
            ("GET", name + r"/issues", self._list_issues),
            ("POST", name + r"/issues", self._create_issue),
            ("GET", name + r"/issues/(\d+)", self._one_issue),
        ]

    # -- the protocol of a stand-in ------------------------------------------------------------------------------------

    async def handle(self, ask: Ask) -> Answer:
        """Answer one request."""
        self._furnish(ask.base)
        try:
            self._admit(ask)
            self._count(ask)
            await ask.work()
            answer = self._routed(ask)
        except _Refused as refused:
            answer = refused.answer
        answer = _conditional(ask, answer)
        media = {"X-GitHub-Media-Type": "github.v3; format=json", "X-GitHub-Request-Id": self._around.id("", 20)}
        return Answer(answer.status, answer.content, {**self._limits(), **media, **answer.headers})

    def snapshot(self) -> dict[str, Any]:
        """The names of the repositories, and the issues of each that has any."""
        return {"repositories": sorted(self._repositories), "issues": self._issues}

    def failure(self, status: int) -> Answer:
        """GitHub's error body for an injected status; 429 is the secondary limit."""
        message = "You have exceeded a secondary rate limit. Please wait a few minutes before you try again."
        if status >= 500:
            message = "No server is currently available to service your request."
        elif status not in (403, 429):
            message = "Problem"
        content = {"message": message, "documentation_url": _DOCS, "status": str(status)}
        return Answer(status, content, {**self._limits(), "X-GitHub-Request-Id": self._around.id("", 20)})

    def sample(self, event: str) -> bytes:
        """A ``ping``, ``push`` or ``issues`` body about ``quay/hello``."""
        repo, now = self._repositories["quay/hello"], self._around.clock.wall()
        name = event.partition(".")[0]
        content: Thing
        if name == "ping":
            hook = {"type": "Repository", "id": 1, "name": "web", "active": True, "events": ["*"], "config": {}}
            content = {"zen": "Keep it logically awesome.", "hook_id": 1, "hook": hook}
            content |= {"repository": repo, "sender": self._me}
        elif name == "push":
            content = objects.push_event(repo, self._me, now, f"{self._around.random.getrandbits(160):040x}")
        elif name == "issues":
            issue = objects.issue(repo, self._me, {"title": "Found adrift"}, number=1, id=1, at=now)
            content = {"action": "opened", "issue": issue, "repository": repo, "sender": self._me}
        else:
            raise ConfigurationError("'event': without a body the sandbox makes only ping, push and issues")
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()

    def sign(self, emission: Emission, *, url: str, secrets: tuple[str, ...], hook_id: str, broken: bool) -> Signed:
        """The headers of a delivery; signed with the first secret, for GitHub's hooks have one."""
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "GitHub-Hookshot/044aadd",
            "X-GitHub-Event": emission.event.partition(".")[0],
            "X-GitHub-Delivery": emission.id,
            "X-GitHub-Hook-ID": hook_id,
            "X-GitHub-Hook-Installation-Target-Type": "repository",
            "X-GitHub-Hook-Installation-Target-ID": "1296269",
        }
        for secret in secrets[:1]:
            key = secret.encode() + (b"?" if broken else b"")
            headers["X-Hub-Signature"] = "sha1=" + hmac.new(key, emission.body, hashlib.sha1).hexdigest()
            headers["X-Hub-Signature-256"] = "sha256=" + hmac.new(key, emission.body, hashlib.sha256).hexdigest()
        return Signed(headers)

    # -- the way to an action ------------------------------------------------------------------------------------------

    def _furnish(self, base: str) -> None:
        """Make the users and repositories once the client's spelling of our address is known."""
        if base == self._base or self._issues:
            return
        self._base, at = base, self._around.clock.wall()
        self._me = objects.user(base, "harbourmaster", 583231)
        self._org = objects.user(base, "quay", 9919, kind="Organization")
        self._repositories = {}
        names = [(self._me, f"logbook-{n}") for n in range(1, 4)]
        names += [(self._org, name) for name in ("hello", "no-issues", "upstream")]
        names += [(self._org, f"berth-{n:02}") for n in range(1, 43)]
        for index, (owner, name) in enumerate(names):
            repo = objects.repository(base, owner, name, 1_296_269 + index, at, push=name != "upstream")
            repo["has_issues"] = name != "no-issues"
            self._repositories[repo["full_name"]] = repo

    def _admit(self, ask: Ask) -> None:
        if not ask.headers.get("user-agent"):
            raise _Refused(403, "Request forbidden by administrative rules. Please send a User-Agent header.")
        accepted = [part.partition(";")[0].strip() for part in ask.headers.get("accept", "*/*").split(",")]
        if not any(_ACCEPTED.fullmatch(part) for part in accepted):
            raise _Refused(415, f"Unsupported 'Accept' header: {accepted}. Must accept 'application/json'.")
        if ask.headers.get("x-github-api-version", _VERSIONS[0]) not in _VERSIONS:
            raise _Refused(400, f"API version is not supported; supported: {', '.join(_VERSIONS)}.")
        scheme, _, token = ask.headers.get("authorization", "").partition(" ")
        if scheme.lower() not in ("bearer", "token") or not token:
            raise _Refused(401, "Requires authentication")
        if not re.match(r"github_pat_|gh[pous]_", token) or token.endswith("wrong"):
            raise _Refused(401, "Bad credentials")
        if token.startswith("github_pat_read") and ask.method != "GET":
            raise _Refused(403, "Resource not accessible by personal access token")

    def _count(self, ask: Ask) -> None:
        now = self._around.now()
        if now >= self._reset:
            self._used, self._reset = 0, now + _HOUR
        if ask.path == "/rate_limit":
            return
        if self._used >= _LIMIT:
            raise _Refused(403, "API rate limit exceeded for user ID 583231.")
        self._used += 1

    def _limits(self) -> dict[str, str]:
        return {
            "X-RateLimit-Limit": str(_LIMIT),
            "X-RateLimit-Remaining": str(_LIMIT - self._used),
            "X-RateLimit-Used": str(self._used),
            "X-RateLimit-Reset": str(self._reset or self._around.now() + _HOUR),
            "X-RateLimit-Resource": "core",
        }

    def _routed(self, ask: Ask) -> Answer:
        moved = "/repos/quay/old-name"
        if ask.path == moved or ask.path.startswith(moved + "/"):
            where = (
                ask.base + "/repos/quay/hello" + ask.path.removeprefix(moved) + (f"?{ask.query}" if ask.query else "")
            )
            status = 301 if ask.method == "GET" else 307
            content = {"message": "Moved Permanently", "url": where, "documentation_url": _DOCS}
            return Answer(status, content, {"Location": where})
        for method, pattern, action in self._routes:
            match = re.fullmatch(pattern, ask.path)
            if match and method == ask.method:
                return action(ask, *match.groups())
        raise _Refused(404, "Not Found")

    # -- what it does --------------------------------------------------------------------------------------------------

    def _rate_limit(self, ask: Ask) -> Answer:
        core = {"limit": _LIMIT, "used": self._used, "remaining": _LIMIT - self._used, "reset": self._reset}
        search = {"limit": 30, "used": 0, "remaining": 30, "reset": self._reset}
        return Answer(200, {"resources": {"core": core, "search": search}, "rate": core})

    def _user(self, ask: Ask) -> Answer:
        return Answer(200, self._me)

    def _own_repositories(self, ask: Ask) -> Answer:
        return _paged(ask, list(self._repositories.values()))

    def _repositories_of(self, ask: Ask, org: str) -> Answer:
        if org.lower() != "quay":
            raise _Refused(404, "Not Found")
        return _paged(ask, [repo for repo in self._repositories.values() if repo["owner"]["login"] == "quay"])

    def _repository(self, owner: str, name: str) -> Thing:
        repo = self._repositories.get(f"{owner}/{name}".lower())
        if repo is None:
            raise _Refused(404, "Not Found")
        return repo

    def _one_repository(self, ask: Ask, owner: str, name: str) -> Answer:
        return Answer(200, self._repository(owner, name))

    def _repository_by_id(self, ask: Ask, id: str) -> Answer:
        for repo in self._repositories.values():
            if repo["id"] == int(id):
                return Answer(200, repo)
        raise _Refused(404, "Not Found")

    def _list_issues(self, ask: Ask, owner: str, name: str) -> Answer:
        repo = self._repository(owner, name)
        return _paged(ask, self._issues.get(repo["full_name"], [])[::-1])

    def _one_issue(self, ask: Ask, owner: str, name: str, number: str) -> Answer:
        repo = self._repository(owner, name)
        for issue in self._issues.get(repo["full_name"], []):
            if issue["number"] == int(number):
                return Answer(200, issue)
        raise _Refused(404, "Not Found")

    def _create_issue(self, ask: Ask, owner: str, name: str) -> Answer:
        repo = self._repository(owner, name)
        if not repo["has_issues"]:
            raise _Refused(410, "Issues are disabled for this repo")
        given = _issue_fields(ask.body)
        logins = given.get("assignees") or []
        if not repo["permissions"]["push"]:
            given = {key: value for key, value in given.items() if key in ("title", "body")}
            logins = []
        for login in logins:
            if login != self._me["login"]:
                raise _unprocessable("assignees", "invalid", value=login)
        if given.get("milestone") is not None:
            raise _unprocessable("milestone", "invalid", value=given["milestone"])
        known = self._issues.setdefault(repo["full_name"], [])
        self._ids += 1
        filled = {**given, "assignees": [self._me for _ in logins]}
        issue = objects.issue(repo, self._me, filled, number=len(known) + 1, id=self._ids, at=self._around.clock.wall())
        known.append(issue)
        repo["open_issues"] = repo["open_issues_count"] = len(known)
        event = {"action": "opened", "issue": issue, "repository": repo, "sender": self._me}
        body = json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()
        delivery = str(uuid.UUID(int=self._around.random.getrandbits(128), version=4))
        self._around.emit(Emission("issues.opened", body, delivery))
        return Answer(201, json.loads(json.dumps(issue)), {"Location": issue["url"]})


def _issue_fields(body: bytes) -> Thing:
    try:
        given = json.loads(body)
    except ValueError:
        raise _Refused(400, "Problems parsing JSON") from None
    if not isinstance(given, dict):
        raise _Refused(400, "Body should be a JSON object")
    if "title" not in given:
        raise _Refused(422, 'Invalid request.\n\n"title" wasn\'t supplied.')
    kinds: dict[str, tuple[type, ...]] = {
        "title": (str, int),
        "body": (str,),
        "labels": (list,),
        "assignees": (list,),
        "milestone": (str, int, type(None)),
    }
    for name, kind in kinds.items():
        value = given.get(name, "" if str in kind else [])
        if not isinstance(value, kind) or isinstance(value, bool):
            raise _Refused(422, f"Invalid request.\n\nFor 'properties/{name}', {json.dumps(value)} is not of its type.")
    for name in ("labels", "assignees"):
        for value in given.get(name, []):
            if not isinstance(value, str) and not (name == "labels" and isinstance(value, dict)):
                raise _Refused(422, f"Invalid request.\n\nFor 'items', {json.dumps(value)} is not a string.")
    if not str(given["title"]).strip():
        raise _unprocessable("title", "missing_field")
    return given


def _paged(ask: Ask, rows: list[Thing]) -> Answer:
    query = dict(ask.parameters)
    size = min(max(_whole(query.get("per_page"), 30), 1), 100)
    page = max(_whole(query.get("page"), 1), 1)
    last = max((len(rows) + size - 1) // size, 1)
    links = [("prev", page - 1), ("first", 1)] if page > 1 else []
    links = [*links, ("next", page + 1), ("last", last)] if page < last else links
    others = {key: value for key, value in query.items() if key != "page"}
    link = ", ".join(
        f'<{ask.base}{ask.path}?{urlencode({**others, "page": number})}>; rel="{name}"' for name, number in links
    )
    return Answer(200, rows[(page - 1) * size : page * size], {"Link": link} if link else {})


def _whole(text: str | None, default: int) -> int:
    return int(text) if text and text.isdecimal() else default


def _conditional(ask: Ask, answer: Answer) -> Answer:
    """A weak ETag on every good answer to a GET; 304 when the client has it already."""
    if ask.method != "GET" or answer.status != 200:
        return answer
    tag = 'W/"' + hashlib.sha256(answer.encoded()[0]).hexdigest() + '"'
    given = [part.strip() for part in ask.headers.get("if-none-match", "").split(",")]
    if tag in given or "*" in given:
        return Answer(304, None, {**answer.headers, "ETag": tag})
    return Answer(200, answer.content, {**answer.headers, "ETag": tag})


STAND_IN = Registration(
    name="github",
    make=GitHubStandIn,
    secret="github_sandbox_secret",
    events=("ping", "issues.opened", "push"),
    ping="ping",
)
