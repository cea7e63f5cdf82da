"""What GitHub answers, as values: issues, repositories, releases, checks, installations, deliveries.

Facts: services/business/github.md, github.json; the REST reference of docs.github.com for what is not in them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from moorline.secrets.secret import Secret
from moorline.services.answers import flag, items, moment, optional_text, record, text, whole

__all__ = [
    "Asset",
    "CheckRun",
    "Comment",
    "Delivery",
    "Installation",
    "InstallationToken",
    "Issue",
    "Release",
    "Repository",
    "asset_of",
    "check_run_of",
    "comment_of",
    "delivery_of",
    "installation_of",
    "issue_of",
    "labels_of",
    "login_of",
    "release_of",
    "repository_of",
    "token_of",
    "undelivered",
]


@dataclass(frozen=True, slots=True)
class Issue:
    """An issue. Address it by *number*, not by *id*. Pull requests come as issues too: *is_pull_request*.

    *state* is ``open`` or ``closed``, *state_reason* why (``completed``, ``not_planned``, …).
    """

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
    state_reason: str | None = None


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


@dataclass(frozen=True, slots=True)
class Comment:
    """A comment on an issue or a pull request."""

    id: int
    body: str
    url: str
    author: str | None = None
    created_at: datetime | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Asset:
    """A file of a release; *url* is where it is downloaded. In the state ``starter`` it is empty: its upload failed."""

    id: int
    name: str
    url: str
    state: str
    size: int = 0
    content_type: str | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Release:
    """A release of *tag*."""

    id: int
    tag: str
    url: str
    name: str | None = None
    body: str | None = None
    draft: bool = False
    prerelease: bool = False
    assets: tuple[Asset, ...] = ()
    author: str | None = None
    published_at: datetime | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class CheckRun:
    """A check of a commit: *status* is ``queued``, ``in_progress``, ``completed``, …, *conclusion* there at its end."""

    id: int
    name: str
    head_sha: str
    status: str
    conclusion: str | None = None
    url: str | None = None
    external_id: str | None = None
    app: str | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Installation:
    """An installation of an app on the *account* of somebody. *suspended* ones get no tokens."""

    id: int
    account: str | None = None
    app_id: int | None = None
    repository_selection: str | None = None
    suspended: bool = False
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class InstallationToken:
    """A token for an installation, good for an hour. ``raw`` does not hold it."""

    token: Secret
    expires_at: datetime | None = None
    permissions: Mapping[str, Any] = field(default_factory=dict)
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Delivery:
    """One try to deliver an event to a webhook. *id* redelivers it; *guid* is the event's, the same in all tries and
    for all webhooks that get it.
    """

    id: int
    guid: str
    event: str
    status: str
    status_code: int
    action: str | None = None
    redelivery: bool = False
    delivered_at: datetime | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def ok(self) -> bool:
        """Whether it was taken."""
        return self.status == "OK"


def undelivered(deliveries: Iterable[Delivery]) -> list[Delivery]:
    """Of each event that no try delivered, the newest try: what is to be redelivered, the oldest first.

    GitHub never tries again by itself, and keeps deliveries for some days only (3, unconfirmed): go through them on a
    schedule, after every time that you were down.
    """
    newest: dict[str, Delivery] = {}
    done: set[str] = set()
    for one in deliveries:
        if one.ok:
            done.add(one.guid)
        known = newest.get(one.guid)
        if known is None or one.id > known.id:
            newest[one.guid] = one
    return sorted((one for guid, one in newest.items() if guid not in done), key=lambda one: one.id)


def issue_of(value: object) -> Issue:
    """An issue of an answer or event. Raises BadAnswer."""
    issue = record(value, "the issue")
    return Issue(
        id=whole(issue, "id"),
        number=whole(issue, "number"),
        title=text(issue, "title"),
        state=text(issue, "state"),
        url=text(issue, "html_url"),
        body=optional_text(issue, "body"),
        labels=labels_of(issue),
        assignees=tuple(
            text(record(one, "an assignee"), "login") for one in items(issue.get("assignees") or [], "assignees")
        ),
        author=login_of(issue, "user"),
        is_pull_request=issue.get("pull_request") is not None,
        created_at=moment(issue, "created_at"),
        raw=issue,
        state_reason=optional_text(issue, "state_reason"),
    )


def repository_of(value: object) -> Repository:
    """A repository of an answer or event. Raises BadAnswer."""
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


def comment_of(value: object) -> Comment:
    """A comment of an answer or event. Raises BadAnswer."""
    comment = record(value, "the comment")
    return Comment(
        id=whole(comment, "id"),
        body=optional_text(comment, "body") or "",
        url=text(comment, "html_url"),
        author=login_of(comment, "user"),
        created_at=moment(comment, "created_at"),
        raw=comment,
    )


def asset_of(value: object) -> Asset:
    """A file of a release. Raises BadAnswer."""
    asset = record(value, "an asset")
    return Asset(
        id=whole(asset, "id"),
        name=text(asset, "name"),
        url=text(asset, "browser_download_url"),
        state=text(asset, "state"),
        size=whole(asset, "size", 0),
        content_type=optional_text(asset, "content_type"),
        raw=asset,
    )


def release_of(value: object) -> Release:
    """A release of an answer or event. Raises BadAnswer."""
    release = record(value, "the release")
    return Release(
        id=whole(release, "id"),
        tag=text(release, "tag_name"),
        url=text(release, "html_url"),
        name=optional_text(release, "name"),
        body=optional_text(release, "body"),
        draft=flag(release, "draft"),
        prerelease=flag(release, "prerelease"),
        assets=tuple(asset_of(one) for one in items(release.get("assets") or [], "assets")),
        author=login_of(release, "author"),
        published_at=moment(release, "published_at"),
        raw=release,
    )


def check_run_of(value: object) -> CheckRun:
    """A check run of an answer or event. Raises BadAnswer."""
    run = record(value, "the check run")
    app = run.get("app")
    return CheckRun(
        id=whole(run, "id"),
        name=text(run, "name"),
        head_sha=text(run, "head_sha"),
        status=text(run, "status"),
        conclusion=optional_text(run, "conclusion"),
        url=optional_text(run, "html_url"),
        external_id=optional_text(run, "external_id"),
        app=None if app is None else optional_text(record(app, "app"), "slug"),
        raw=run,
    )


def delivery_of(value: object) -> Delivery:
    """A delivery of an answer. Raises BadAnswer."""
    found = record(value, "a delivery")
    return Delivery(
        id=whole(found, "id"),
        guid=text(found, "guid"),
        event=text(found, "event"),
        status=optional_text(found, "status") or "",
        status_code=whole(found, "status_code", 0),
        action=optional_text(found, "action"),
        redelivery=flag(found, "redelivery"),
        delivered_at=moment(found, "delivered_at"),
        raw=found,
    )


def installation_of(value: object) -> Installation:
    """An installation of an answer or event. Raises BadAnswer."""
    found = record(value, "the installation")
    return Installation(
        id=whole(found, "id"),
        account=login_of(found, "account"),
        app_id=whole(found, "app_id") if found.get("app_id") is not None else None,
        repository_selection=optional_text(found, "repository_selection"),
        suspended=found.get("suspended_at") is not None,
        raw=found,
    )


def token_of(value: object) -> InstallationToken:
    """A token of an answer. Raises BadAnswer."""
    found = record(value, "the token")
    return InstallationToken(
        token=Secret(text(found, "token"), name="the installation token"),
        expires_at=moment(found, "expires_at"),
        permissions=record(found.get("permissions") or {}, "permissions"),
        raw={name: one for name, one in found.items() if name != "token"},
    )


def labels_of(holder: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the labels. Raises BadAnswer."""
    return tuple(_label(label) for label in items(holder.get("labels") or [], "labels"))


def _label(label: object) -> str:
    return label if isinstance(label, str) else optional_text(record(label, "a label"), "name") or ""


def login_of(holder: Mapping[str, Any], name: str) -> str | None:
    """Who it is; nobody where the account is gone. An enterprise has a slug in place of a login."""
    value = holder.get(name)
    if value is None:
        return None
    account = record(value, name)
    return text(account, "slug" if "login" not in account and "slug" in account else "login")
