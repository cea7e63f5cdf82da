"""GitHub's stand-in: issues, repositories, releases, checks, an app, webhooks' deliveries; Link paging, ETags, limits.

Facts: services/business/github.md and github.json. The user ``harbourmaster`` owns 3 repositories, the organisation
``quay`` has 45; ``quay/no-issues`` has issues switched off, in ``quay/upstream`` there is no push access (labels and
assignees are dropped in silence), ``quay/old-name`` has moved to ``quay/hello``. Tokens with one of GitHub's prefixes
are good; those that end in ``wrong`` are refused (401), and ``github_pat_read…`` may only read (403).

The app is 123456, its installation on ``quay`` 7654321, a suspended one 7654322; its private key comes with
``POST /app-manifests/sandbox/conversions``, and the tokens that it gets (``ghs_…``) alone may write checks. A 304 costs
nothing. ``quay/hello`` has the webhook 1, the organisation 2, and the app its own: one event was not delivered to each.

Accounts are connected at ``/login/oauth/authorize``, by the client ``sandbox-client``: see :mod:`._oauth`.
They are ``acme`` and ``globex``, which share what is stored.
"""

from __future__ import annotations

import base64
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
from moorline.sandbox.services._github_apps import Apps, Hooks
from moorline.sandbox.services._github_issues import Issues
from moorline.sandbox.services._github_objects import DOCS, Refused, Thing
from moorline.sandbox.services._github_releases import Checks, Releases
from moorline.sandbox.services._oauth import Accounts, Person, TokenPair
from moorline.sandbox.services._oauth import Refused as NotGranted
from moorline.sandbox.services._signin import CLIENT, SECRET
from moorline.sandbox.standin import Answer, Ask, Emission, Registration, Signed, Surroundings

__all__ = ["STAND_IN"]

_SECRET = "github_sandbox_secret"
_VERSIONS = ("2022-11-28", "2026-03-10")
_ACCEPTED = re.compile(r"\*/\*|application/\*|application/json|application/vnd\.github(\.[\w.+-]+)?(\+json)?")
_LIMIT = 5000
_LIMITS = {"core": (_LIMIT, 3600), "search": (30, 60)}
_EVENTS = (
    "ping",
    "push",
    "issues.opened",
    "issue_comment.created",
    "pull_request.opened",
    "release.published",
    "check_run.completed",
    "installation.created",
)


_PEOPLE = (
    Person("acme", "Ada of Acme", {"id": 62515, "login": "ada-acme"}),
    Person("globex", "Hank of Globex", {"id": 62516, "login": "hank-globex"}),
)


def _granted(pair: TokenPair) -> Thing:
    answer = {"access_token": pair.access, "token_type": "bearer", "scope": ",".join(pair.scopes)}
    refresh = {"refresh_token": pair.refresh, "refresh_token_expires_in": 15_811_200}
    return {**answer, "expires_in": pair.lasts, **refresh}


def _not_granted(refused: NotGranted) -> Answer:
    """GitHub's errors come with 200."""
    words = {"invalid_grant": "bad_refresh_token", "invalid_client": "incorrect_client_credentials"}
    return Answer(200, {"error": words.get(refused.error, refused.error), "error_description": refused.description})


class GitHubStandIn:
    """One user with a token, and an organisation."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._base = ""
        self._ids = 1000
        self._spent: dict[str, list[int]] = {name: [0, 0] for name in _LIMITS}  # used, and when it is renewed
        self.me: Thing = {}
        self._accounts = Accounts(
            around,
            "GitHub",
            _PEOPLE,
            authorize="/login/oauth/authorize",
            token="/login/oauth/access_token",
            device="/login/device/code",
            rotates=True,
            lasts=28_800,
            prefix="ghu_",
            shape=_granted,
            failed=_not_granted,
        )
        self._repositories: dict[str, Thing] = {}
        self._apps = Apps(around, _SECRET)
        self._hooks = Hooks(around, self.sample)
        self._issues, self._releases, self._checks = Issues(self), Releases(self), Checks(self)
        self._furnish("https://api.github.com")
        name = r"/repos/([\w.-]+)/([\w.-]+)"
        self._routes: list[tuple[str, str, Callable[..., Answer]]] = [
            ("GET", r"/rate_limit", self._rate_limit),
            ("GET", r"/user", self._user),
            ("DELETE", r"/applications/([\w.-]+)/grant", self._revoke),
            ("GET", r"/user/repos", self._own_repositories),
            ("POST", r"/user/repos", lambda ask: self._create_repository(ask, self.me)),
            ("GET", r"/orgs/([\w.-]+)/repos", self._repositories_of),
            ("POST", r"/orgs/(quay)/repos", lambda ask, _: self._create_repository(ask, self._org)),
            ("GET", r"/installation/repositories", self._of_installation),
            ("GET", name, self._one_repository),
            ("GET", r"/repositories/(\d+)", self._repository_by_id),
            ("GET", name + r"/issues", self._list_issues),
            ("GET", name + r"/issues/(\d+)/comments", lambda ask, *one: _paged(ask, self._issues.comments_on(*one))),
            ("GET", r"/search/issues", self._search),
            ("GET", name + r"/releases", lambda ask, *one: _paged(ask, self._releases.rows(*one))),
            *self._issues.routes(name),
            *self._releases.routes(name),
            *self._checks.routes(name),
            *self._hooks.routes(name),
            *self._apps.routes(),
        ]

    # -- the protocol of a stand-in ------------------------------------------------------------------------------------

    async def handle(self, ask: Ask) -> Answer:
        """Answer one request."""
        self._furnish(ask.base)
        connected = self._accounts.answer(ask)
        if connected is not None:
            return connected
        resource = "search" if ask.path.startswith("/search/") else "core"
        try:
            self._admit(ask)
            self._check_limit(ask, resource)
            await ask.work()
            answer = self._routed(ask)
        except Refused as refused:
            answer = refused.answer
        answer = _conditional(ask, answer)
        if answer.status != 304 and ask.path != "/rate_limit" and self._spent[resource][0] < _LIMITS[resource][0]:
            self._spent[resource][0] += 1
        media = {"X-GitHub-Media-Type": "github.v3; format=json", "X-GitHub-Request-Id": self._around.id("", 20)}
        return Answer(answer.status, answer.content, {**self._limits(resource), **media, **answer.headers})

    def snapshot(self) -> dict[str, Any]:
        """The names of the repositories; the issues, releases and check runs of each that has any; comments; and what
        was spent of the limit.
        """
        return {
            "repositories": sorted(self._repositories),
            "issues": self._issues.held,
            "comments": self._issues.comments,
            "releases": self._releases.held,
            "check_runs": self._checks.held,
            "used": self._spent["core"][0],
        }

    def failure(self, status: int) -> Answer:
        """GitHub's error body for an injected status; 429 is the secondary limit."""
        message = "You have exceeded a secondary rate limit. Please wait a few minutes before you try again."
        if status >= 500:
            message = "No server is currently available to service your request."
        elif status not in (403, 429):
            message = "Problem"
        content = {"message": message, "documentation_url": DOCS, "status": str(status)}
        return Answer(status, content, {**self._limits(), "X-GitHub-Request-Id": self._around.id("", 20)})

    def sample(self, event: str) -> bytes:
        """A body about ``quay/hello``."""
        repo, now = self._repositories["quay/hello"], self.now()
        name, _, action = event.partition(".")
        commit = f"{self._around.random.getrandbits(160):040x}"
        if name == "push":
            return _encoded(objects.push_event(repo, self.me, now, commit))
        issue = objects.issue(repo, self.me, {"title": "Found adrift"}, number=1, id=1, at=now)
        hook = {"type": "Repository", "id": 1, "name": "web", "active": True, "events": ["*"], "config": {}}
        known: dict[str, Callable[[], Thing]] = {
            "ping": lambda: {"zen": "Keep it logically awesome.", "hook_id": 1, "hook": hook},
            "issues": lambda: {"issue": issue},
            "issue_comment": lambda: {
                "issue": issue,
                "comment": objects.comment(issue, self.me, "Tied up", id=2, at=now),
            },
            "pull_request": lambda: {
                "number": 2,
                "pull_request": objects.pull_request(repo, self.me, number=2, id=3, at=now, commit=commit),
            },
            "release": lambda: {"release": objects.release(repo, self.me, {"tag_name": "v1.0"}, id=4, at=now)},
            "check_run": lambda: {
                "check_run": objects.check_run(
                    repo, {"name": "ci", "head_sha": commit, "conclusion": "failure"}, id=5, at=now
                )
            },
            "installation": lambda: {"installation": self._apps.installation(self._base), "repositories": []},
        }
        if name not in known:
            raise ConfigurationError(f"'event': without a body the sandbox makes only {', '.join(_EVENTS)}")
        about = {} if name == "installation" else {"repository": repo}
        said = {"action": action} if action else {"action": "opened"} if name == "issues" else {}
        return _encoded({**said, **known[name](), **about, "sender": self.me})

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

    # -- for its parts -------------------------------------------------------------------------------------------------

    def repository(self, owner: str, name: str) -> Thing:
        """A repository, or a refusal."""
        repo = self._repositories.get(f"{owner}/{name}".lower())
        if repo is None:
            raise Refused(404, "Not Found")
        return repo

    def new_id(self) -> int:
        """Another number."""
        self._ids += 1
        return self._ids

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._around.clock.wall()

    def tell(self, event: str, repo: Thing, **content: Any) -> None:
        """Send an event, which the webhooks' deliveries name."""
        body = _encoded({"action": event.partition(".")[2], **content, "repository": repo, "sender": self.me})
        emission = Emission(event, body, str(uuid.UUID(int=self._around.random.getrandbits(128), version=4)))
        self._hooks.delivered(emission)
        self._around.emit(emission)

    # -- the way to an action ------------------------------------------------------------------------------------------

    def _furnish(self, base: str) -> None:
        """Make the users and repositories once the client's spelling of our address is known."""
        if base == self._base or self._issues.held or self._releases.held:
            return
        self._base, at = base, self.now()
        self.me = objects.user(base, "harbourmaster", 583231)
        self._org = objects.user(base, "quay", 9919, kind="Organization")
        self._repositories = {}
        names = [(self.me, f"logbook-{n}") for n in range(1, 4)]
        names += [(self._org, name) for name in ("hello", "no-issues", "upstream")]
        names += [(self._org, f"berth-{n:02}") for n in range(1, 43)]
        for index, (owner, name) in enumerate(names):
            repo = objects.repository(base, owner, name, 1_296_269 + index, at, push=name != "upstream")
            repo["has_issues"] = name != "no-issues"
            self._repositories[repo["full_name"]] = repo

    def _admit(self, ask: Ask) -> None:
        if not ask.headers.get("user-agent"):
            raise Refused(403, "Request forbidden by administrative rules. Please send a User-Agent header.")
        accepted = [part.partition(";")[0].strip() for part in ask.headers.get("accept", "*/*").split(",")]
        if not any(_ACCEPTED.fullmatch(part) for part in accepted):
            raise Refused(415, f"Unsupported 'Accept' header: {accepted}. Must accept 'application/json'.")
        if ask.headers.get("x-github-api-version", _VERSIONS[0]) not in _VERSIONS:
            raise Refused(400, f"API version is not supported; supported: {', '.join(_VERSIONS)}.")
        if ask.path.startswith(("/app-manifests/", "/applications/")):
            return
        scheme, _, token = ask.headers.get("authorization", "").partition(" ")
        if scheme.lower() not in ("bearer", "token") or not token:
            raise Refused(401, "Requires authentication")
        if ask.path == "/app" or ask.path.startswith("/app/"):
            self._apps.prove(token)
            return
        if not re.match(r"github_pat_|gh[pous]_", token) or token.endswith("wrong"):
            raise Refused(401, "Bad credentials")
        if self._accounts.knows(token) and self._accounts.allowed(token) is None:
            raise Refused(401, "Bad credentials")
        if token.startswith("ghs_") and not self._apps.good(token):
            raise Refused(401, "Bad credentials")
        if token.startswith("github_pat_read") and ask.method != "GET":
            raise Refused(403, "Resource not accessible by personal access token")

    def _check_limit(self, ask: Ask, resource: str) -> None:
        spent, (most, window), now = self._spent[resource], _LIMITS[resource], self._around.now()
        if now >= spent[1]:
            spent[:] = [0, now + window]
        if ask.path != "/rate_limit" and spent[0] >= most:
            raise Refused(403, "API rate limit exceeded for user ID 583231.")

    def _limits(self, resource: str = "core") -> dict[str, str]:
        (most, window), (used, reset) = _LIMITS[resource], self._spent[resource]
        return {
            "X-RateLimit-Limit": str(most),
            "X-RateLimit-Remaining": str(most - used),
            "X-RateLimit-Used": str(used),
            "X-RateLimit-Reset": str(reset or self._around.now() + window),
            "X-RateLimit-Resource": resource,
        }

    def _routed(self, ask: Ask) -> Answer:
        if (ask.method, ask.path) == ("POST", "/app-manifests/sandbox/conversions"):
            return self._apps.register()
        moved = "/repos/quay/old-name"
        if ask.path == moved or ask.path.startswith(moved + "/"):
            where = (
                ask.base + "/repos/quay/hello" + ask.path.removeprefix(moved) + (f"?{ask.query}" if ask.query else "")
            )
            status = 301 if ask.method == "GET" else 307
            content = {"message": "Moved Permanently", "url": where, "documentation_url": DOCS}
            return Answer(status, content, {"Location": where})
        for method, pattern, action in self._routes:
            match = re.fullmatch(pattern, ask.path)
            if match and method == ask.method:
                return action(ask, *match.groups())
        raise Refused(404, "Not Found")

    # -- what it does --------------------------------------------------------------------------------------------------

    def _rate_limit(self, ask: Ask) -> Answer:
        shown = {
            name: {"limit": most, "used": used, "remaining": most - used, "reset": reset}
            for (name, (most, _)), (used, reset) in zip(_LIMITS.items(), self._spent.values(), strict=True)
        }
        return Answer(200, {"resources": shown, "rate": shown["core"]})

    def _user(self, ask: Ask) -> Answer:
        connected = self._accounts.allowed(ask.headers.get("authorization", "").partition(" ")[2])
        return Answer(200, self.me if connected is None else {**self.me, **connected[0].claims})

    def _revoke(self, ask: Ask, client: str) -> Answer:
        shown = ask.headers.get("authorization", "").partition(" ")[2]
        if shown != base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode() or client != CLIENT:
            raise Refused(401, "Requires authentication")
        token = str(json.loads(ask.body).get("access_token", ""))
        if not self._accounts.knows(token):
            raise Refused(404, "Not Found")
        self._accounts.revoke(token)
        return Answer(204)

    def _own_repositories(self, ask: Ask) -> Answer:
        return _paged(ask, list(self._repositories.values()))

    def _repositories_of(self, ask: Ask, org: str) -> Answer:
        if org.lower() != "quay":
            raise Refused(404, "Not Found")
        return _paged(ask, [repo for repo in self._repositories.values() if repo["owner"]["login"] == "quay"])

    def _one_repository(self, ask: Ask, owner: str, name: str) -> Answer:
        return Answer(200, self.repository(owner, name))

    def _repository_by_id(self, ask: Ask, id: str) -> Answer:
        for repo in self._repositories.values():
            if repo["id"] == int(id):
                return Answer(200, repo)
        raise Refused(404, "Not Found")

    def _of_installation(self, ask: Ask) -> Answer:
        if not ask.headers.get("authorization", "").partition(" ")[2].startswith("ghs_"):
            raise Refused(403, "You must authenticate with an installation access token")
        rows = [repo for repo in self._repositories.values() if repo["owner"]["login"] == "quay"]
        page = _paged(ask, rows)
        return Answer(200, {"total_count": len(rows), "repositories": page.content}, page.headers)

    def _create_repository(self, ask: Ask, owner: Thing) -> Answer:
        given = objects.given(ask.body)
        name = given.get("name")
        if not isinstance(name, str) or not re.fullmatch(r"[\w.-]{1,100}", name):
            raise objects.unprocessable("name", "missing_field", "Repository")
        full = f"{owner['login']}/{name}"
        if full.lower() in self._repositories:
            message = "name already exists on this account"
            raise objects.unprocessable("name", "custom", "Repository", message=message)
        made = objects.repository(self._base, owner, name, self.new_id() + 2_000_000, self.now())
        made |= {"private": bool(given.get("private")), "description": given.get("description")}
        made["visibility"] = "private" if made["private"] else "public"
        self._repositories[full.lower()] = made
        return Answer(201, made, {"Location": made["url"]})

    def _list_issues(self, ask: Ask, owner: str, name: str) -> Answer:
        return _paged(ask, self._issues.rows(owner, name, dict(ask.parameters)))

    def _search(self, ask: Ask) -> Answer:
        rows = self._issues.search(dict(ask.parameters).get("q", ""))
        page = _paged(ask, rows[:1000])
        found = {"total_count": len(rows), "incomplete_results": False, "items": page.content}
        return Answer(200, found, page.headers)


def _encoded(content: Thing) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


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


STAND_IN = Registration(name="github", make=GitHubStandIn, secret=_SECRET, events=_EVENTS, ping="ping")
