"""What GitHub's webhooks tell, as values.

Facts: services/business/github.md; "Webhook events and payloads" of docs.github.com; octokit/webhooks payload-examples
for their shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from moorline.services.answers import flag, items, optional_text, record, text, whole
from moorline.services.github_objects import (
    CheckRun,
    Comment,
    Installation,
    Issue,
    Release,
    Repository,
    check_run_of,
    comment_of,
    installation_of,
    issue_of,
    labels_of,
    login_of,
    release_of,
    repository_of,
)

if TYPE_CHECKING:
    from moorline.events.event import Event

__all__ = ["Commit", "GitHubEvent", "PullRequest", "Push", "Subject", "read"]

_BRANCH, _TAG = "refs/heads/", "refs/tags/"


@dataclass(frozen=True, slots=True)
class PullRequest:
    """A pull request, as events bring it: from *head_ref* (whose last commit is *head_sha*) into *base_ref*."""

    id: int
    number: int
    title: str
    state: str
    url: str
    body: str | None = None
    author: str | None = None
    draft: bool = False
    merged: bool = False
    head_ref: str | None = None
    head_sha: str | None = None
    base_ref: str | None = None
    labels: tuple[str, ...] = ()
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit of a push."""

    id: str
    message: str
    author: str | None = None
    url: str | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Push:
    """Commits that came to *ref*, from *before* to *after*: zeros where it was *created* or *deleted*."""

    ref: str
    before: str
    after: str
    created: bool = False
    deleted: bool = False
    forced: bool = False
    commits: tuple[Commit, ...] = ()
    compare: str | None = None

    @property
    def branch(self) -> str | None:
        """The branch, if it is one that was pushed to."""
        return self.ref.removeprefix(_BRANCH) if self.ref.startswith(_BRANCH) else None

    @property
    def tag(self) -> str | None:
        """The tag, if it is one."""
        return self.ref.removeprefix(_TAG) if self.ref.startswith(_TAG) else None


Subject = Issue | PullRequest | Comment | Push | Release | CheckRun | Installation


@dataclass(frozen=True, slots=True)
class GitHubEvent:
    """What GitHub told: something of *type* (``pull_request``), perhaps with an *action* (``closed``), in *repository*,
    by *sender* (a login).

    *subject* is what it is about, for the types that are known here::

        match told.subject:
            case PullRequest(merged=True) as request: ...
            case Issue(number=number): ...

    None for all other types: see ``raw``. For a comment *issue* is the issue (or pull request) that it stands under.
    """

    type: str
    action: str | None = None
    repository: Repository | None = None
    sender: str | None = None
    organization: str | None = None
    installation_id: int | None = None
    subject: Subject | None = None
    issue: Issue | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


def read(event: Event) -> GitHubEvent:
    """What an event of GitHub's means. Raises BadAnswer."""
    told = record(event.payload, "the event")
    reader = _READERS.get(event.type)
    repository, installation = told.get("repository"), told.get("installation")
    issue = told.get("issue") if event.type in ("issues", "issue_comment") else None
    return GitHubEvent(
        type=event.type,
        action=optional_text(told, "action"),
        repository=None if repository is None else repository_of(repository),
        sender=login_of(told, "sender"),
        organization=login_of(told, "organization"),
        installation_id=None if installation is None else whole(record(installation, "installation"), "id"),
        subject=None if reader is None else reader(told),
        issue=None if issue is None else issue_of(issue),
        raw=told,
    )


def _pull_request(told: Mapping[str, Any]) -> PullRequest:
    request = record(told.get("pull_request"), "pull_request")
    head, base = record(request.get("head") or {}, "head"), record(request.get("base") or {}, "base")
    return PullRequest(
        id=whole(request, "id"),
        number=whole(request, "number"),
        title=text(request, "title"),
        state=text(request, "state"),
        url=text(request, "html_url"),
        body=optional_text(request, "body"),
        author=login_of(request, "user"),
        draft=flag(request, "draft"),
        merged=bool(request.get("merged")),  # null where it is not known yet
        head_ref=optional_text(head, "ref"),
        head_sha=optional_text(head, "sha"),
        base_ref=optional_text(base, "ref"),
        labels=labels_of(request),
        raw=request,
    )


def _push(told: Mapping[str, Any]) -> Push:
    return Push(
        ref=text(told, "ref"),
        before=text(told, "before"),
        after=text(told, "after"),
        created=flag(told, "created"),
        deleted=flag(told, "deleted"),
        forced=flag(told, "forced"),
        commits=tuple(_commit(one) for one in items(told.get("commits") or [], "commits")),
        compare=optional_text(told, "compare"),
    )


def _commit(value: object) -> Commit:
    found = record(value, "a commit")
    author = record(found.get("author") or {}, "author")
    return Commit(
        id=text(found, "id"),
        message=optional_text(found, "message") or "",
        author=optional_text(author, "username") or optional_text(author, "name"),
        url=optional_text(found, "url"),
        raw=found,
    )


_READERS: Final[Mapping[str, Callable[[Mapping[str, Any]], Subject]]] = {
    "issues": lambda told: issue_of(told.get("issue")),
    "issue_comment": lambda told: comment_of(told.get("comment")),
    "pull_request": _pull_request,
    "push": _push,
    "release": lambda told: release_of(told.get("release")),
    "check_run": lambda told: check_run_of(told.get("check_run")),
    "installation": lambda told: installation_of(told.get("installation")),
    "installation_repositories": lambda told: installation_of(told.get("installation")),
}
