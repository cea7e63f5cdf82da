"""GitHub: issues and repositories.

Facts: services/business/github.md; contract: github.json. GitHub honours no idempotency keys: a creation that was sent
and not answered is OutcomeUnknown, and is never repeated by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Final

from moorline.calls.dialects import LimitFields
from moorline.calls.service import (
    BearerKey,
    Endpoints,
    ErrorMap,
    Exchange,
    Page,
    Plan,
    RateLimitHeaders,
    Service,
    listing,
    operation,
    segment,
)
from moorline.events.delivery import Delivers
from moorline.events.schemes.hmac_signature import HMACSignature
from moorline.services.answers import flag, items, moment, optional_text, record, text, whole
from moorline.services.limits import as_text, refused

__all__ = ["GitHub", "Issue", "Repository"]

API_VERSION: Final = "2022-11-28"  # 2026-03-10 exists and has breaking changes
_PAGE: Final = 100
_SECONDARY_WAIT: Final = 60.0  # at least, when a secondary limit says nothing else
_LIMITED: Final = (403, 429)


@dataclass(frozen=True, slots=True)
class Issue:
    """An issue. Address it by *number*, not by *id*. Pull requests come as issues too: *is_pull_request*."""

    id: int
    number: int
    title: str
    state: str
    url: str
    body: str | None = None
    labels: tuple[str, ...] = ()
    assignees: tuple[str, ...] = ()
    author: str | None = None
    is_pull_request: bool = False
    created_at: datetime | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository; *full_name* is ``owner/name``."""

    id: int
    name: str
    full_name: str
    url: str
    private: bool = False
    archived: bool = False
    default_branch: str | None = None
    description: str | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


def _is_limit(exchange: Exchange) -> bool:
    """Whether a 403 is a limit and no lack of rights: nothing remains, a time is named, or the message says so."""
    if exchange.status not in _LIMITED:
        return False
    if exchange.header("x-ratelimit-remaining") == "0" or exchange.header("retry-after") is not None:
        return True
    return b"rate limit" in exchange.body[:4096].lower()


class GitHub(Service):
    """Issues and repositories on GitHub; Enterprise Server by ``base_url="https://HOST/api/v3"``.

    Facts: services/business/github.md; contract: github.json.
    """

    name, category = "github", "business"
    docs = "services/business/github.md, github.json"
    endpoints = Endpoints("https://api.github.com")
    credentials = BearerKey(env="GITHUB_TOKEN", sandbox="github_pat_sandbox")
    limits = RateLimitHeaders(
        fields=(
            LimitFields(
                remaining="X-RateLimit-Remaining",
                limit="X-RateLimit-Limit",
                reset="X-RateLimit-Reset",
                reset_as="epoch",
                bucket="X-RateLimit-Resource",  # core, search, graphql, …: each for itself
            ),
        ),
        silent=_SECONDARY_WAIT,
    )
    errors = ErrorMap(
        code="errors.0.code", message="message", request_id="header:X-GitHub-Request-Id", is_limit=_is_limit
    )
    webhooks = HMACSignature(
        header="X-Hub-Signature-256",
        prefix="sha256=",
        env="GITHUB_WEBHOOK_SECRET",
        id=("header:X-GitHub-Hook-ID", "header:X-GitHub-Delivery"),  # the GUID is shared by all hooks of an event
        type="header:X-GitHub-Event",
        action="action",
        largest=25 * 1024 * 1024,
        delivers=Delivers(within=10, retries="none; redelivered by hand or through the API, with the same id"),
    )
    default_headers: ClassVar[Mapping[str, str]] = {
        "Accept": "application/vnd.github+json",
        "X-GitHub-Api-Version": API_VERSION,
    }

    @operation
    def create_issue(
        self,
        /,
        owner: str,
        repo: str,
        title: str,
        *,
        body: str | None = None,
        labels: Sequence[str] = (),
        assignees: Sequence[str] = (),
        milestone: int | None = None,
        **extra: object,
    ) -> Plan[Issue]:
        """Open an issue. Without push access GitHub drops labels, assignees and milestone silently: look at the result.

        Raises NotFound (also for what the token may not see, and where issues are off), InvalidRequest, OutcomeUnknown.
        """
        if not as_text("title", title).strip():
            raise refused("title", "must not be empty")
        optional = {"body": body, "labels": list(labels), "assignees": list(assignees), "milestone": milestone}
        content = {"title": title} | {name: value for name, value in optional.items() if value not in (None, [])}
        path = f"/repos/{segment(owner, 'owner')}/{segment(repo, 'repo')}/issues"
        return self.post(path, json=content | extra, parse=_issue)

    @listing
    def list_repositories(
        self, /, *, org: str | None = None, page_size: int = _PAGE, **filters: object
    ) -> Plan[Page[Repository]]:
        """The repositories of *org*, or all that the token's user can see. *page_size* is 1 to 100.

        *filters* are GitHub's own (``type="owner"``, ``sort="updated"``).
        """
        if not 1 <= page_size <= _PAGE:
            raise refused("page_size", f"must be from 1 to {_PAGE}")
        path = "/user/repos" if org is None else f"/orgs/{segment(org, 'org')}/repos"
        return self.get(path, query={"per_page": page_size, **filters}, parse=self._repositories)

    def _repositories(self, exchange: Exchange) -> Page[Repository]:
        found = tuple(_repository(item) for item in items(exchange.data, "the answer"))
        following = exchange.link("next")  # followed as it is: some endpoints page by cursor
        return Page(found, None if following is None else self.get(following, parse=self._repositories))

    @operation
    def check(self) -> Plan[bool]:
        """True if the token is good: reads the rate limit, which costs nothing. Raises AuthenticationFailed if not."""
        return self.get("/rate_limit", parse=lambda exchange: "rate" in record(exchange.data))


def _issue(exchange: Exchange) -> Issue:
    issue = record(exchange.data, "the issue")
    author = issue.get("user")
    return Issue(
        id=whole(issue, "id"),
        number=whole(issue, "number"),
        title=text(issue, "title"),
        state=text(issue, "state"),
        url=text(issue, "html_url"),
        body=optional_text(issue, "body"),
        labels=tuple(_label(label) for label in items(issue.get("labels") or [], "labels")),
        assignees=tuple(
            text(record(one, "an assignee"), "login") for one in items(issue.get("assignees") or [], "assignees")
        ),
        author=None if author is None else text(record(author, "user"), "login"),
        is_pull_request=issue.get("pull_request") is not None,
        created_at=moment(issue, "created_at"),
        raw=issue,
    )


def _label(label: object) -> str:
    return label if isinstance(label, str) else optional_text(record(label, "a label"), "name") or ""


def _repository(value: object) -> Repository:
    repo = record(value, "a repository")
    return Repository(
        id=whole(repo, "id"),
        name=text(repo, "name"),
        full_name=text(repo, "full_name"),
        url=text(repo, "html_url"),
        private=flag(repo, "private"),
        archived=flag(repo, "archived"),
        default_branch=optional_text(repo, "default_branch"),
        description=optional_text(repo, "description"),
        raw=repo,
    )
