"""GitHub: issues, repositories, releases, checks, webhooks and their redelivery; with a token, or as a GitHub App.

Facts: services/business/github.md; contract: github.json; the REST reference of docs.github.com for issues' comments,
releases, check runs and searches, which the contract does not have. GitHub honours no idempotency keys: a creation that
was sent and not answered is OutcomeUnknown, and is never repeated by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

from moorline.calls.service import Exchange, Page, Plan, listing, operation, segment
from moorline.calls.upload import Upload
from moorline.errors import BadAnswer
from moorline.events.delivery import Delivers
from moorline.events.schemes.hmac_signature import HMACSignature
from moorline.services import github_objects as objects
from moorline.services.answers import items, record, text
from moorline.services.github_account import GitHubAccount
from moorline.services.github_events import Commit, GitHubEvent, PullRequest, Push, read
from moorline.services.github_objects import (
    Asset,
    CheckRun,
    Comment,
    Delivery,
    Installation,
    InstallationToken,
    Issue,
    Release,
    Repository,
    undelivered,
)
from moorline.services.limits import as_text, at_most, refused

if TYPE_CHECKING:
    from moorline.events.event import Event

__all__ = [
    "Asset",
    "CheckRun",
    "Comment",
    "Commit",
    "Delivery",
    "GitHub",
    "GitHubEvent",
    "Installation",
    "InstallationToken",
    "Issue",
    "PullRequest",
    "Push",
    "Release",
    "Repository",
    "undelivered",
]

T = TypeVar("T")
_PAGE: Final = 100
_ANNOTATIONS: Final = 50
_OUTPUT: Final = 65_535


class GitHub(GitHubAccount):
    """Issues, repositories, releases, checks and webhooks on GitHub; Enterprise Server by
    ``base_url="https://HOST/api/v3"``.

    With ``app_id`` (GITHUB_APP_ID; its client id does as well) it is a GitHub App, and the key its private key, as PEM
    or as a path (GITHUB_APP_PRIVATE_KEY): what is asked of ``/app`` carries a JWT that it signs, all else the token of
    the installation ``installation_id`` (GITHUB_INSTALLATION_ID), which is fetched, kept and renewed before its hour is
    over. Several private keys may be in use at once (unconfirmed), so that they are rotated without a gap. A token that
    is given as *api_key* counts more than an app in the environment.

    Give it a ``Cache``: what did not change is answered by a 304, which costs nothing of the limit. GitHub wants writes
    one after another, a second apart, and takes at most 80 creations a minute (``Policy(rate=…)``).

    Facts: services/business/github.md; contract: github.json.
    """

    name, category = "github", "business"
    docs = "services/business/github.md, github.json"
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
    usage = """
from moorline.services import GitHub

github = GitHub()
issue = github.create_issue("quay", "hello", "Build 42 failed", labels=["ci"]).result()
github.comment_issue("quay", "hello", issue.number, "Fixed by 43").result()
print(github.close_issue("quay", "hello", issue.number).result().state)
"""

    # Issues ----------------------------------------------------------------------------------------------------------

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
        return self.post(f"{_repo(owner, repo)}/issues", json=content | extra, parse=_of(objects.issue_of))

    @operation
    def get_issue(self, owner: str, repo: str, number: int) -> Plan[Issue]:
        """An issue, or a pull request as one. Raises NotFound."""
        return self.get(_issue(owner, repo, number), parse=_of(objects.issue_of))

    @operation
    def update_issue(
        self,
        /,
        owner: str,
        repo: str,
        number: int,
        *,
        title: str | None = None,
        body: str | None = None,
        state: str | None = None,
        state_reason: str | None = None,
        labels: Sequence[str] | None = None,
        assignees: Sequence[str] | None = None,
        **extra: object,
    ) -> Plan[Issue]:
        """Change what is given of an issue; *labels* and *assignees* take the place of all that there are.

        *state* is ``open`` or ``closed``, *state_reason* ``completed``, ``not_planned``, ``duplicate`` or ``reopened``.
        Raises NotFound, InvalidRequest.
        """
        given = {
            "title": title,
            "body": body,
            "state": state,
            "state_reason": state_reason,
            "labels": None if labels is None else list(labels),
            "assignees": None if assignees is None else list(assignees),
            **extra,
        }
        # Sent twice it changes nothing more.
        return self.patch(
            _issue(owner, repo, number), json=_present(given), parse=_of(objects.issue_of), repeatable=True
        )

    @operation
    def close_issue(self, owner: str, repo: str, number: int, reason: str = "completed") -> Plan[Issue]:
        """Close an issue as ``completed``, ``not_planned`` or ``duplicate``. Raises NotFound."""
        content = {"state": "closed", "state_reason": reason}
        return self.patch(_issue(owner, repo, number), json=content, parse=_of(objects.issue_of), repeatable=True)

    @listing
    def list_issues(
        self,
        /,
        owner: str,
        repo: str,
        *,
        state: str = "open",
        labels: Sequence[str] = (),
        since: datetime | None = None,
        page_size: int = _PAGE,
        **filters: object,
    ) -> Plan[Page[Issue]]:
        """The issues of a repository, pull requests among them, the newest first. *state* is ``open``, ``closed`` or
        ``all``, *since* when they were last changed. *filters* are GitHub's own (``assignee``, ``sort``). *page_size*
        is 1 to 100.
        """
        query = {
            "state": state,
            "labels": ",".join(labels) or None,
            "since": None if since is None else since.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            **filters,
        }
        return self._paged(f"{_repo(owner, repo)}/issues", query, page_size, objects.issue_of)

    @operation
    def comment_issue(self, owner: str, repo: str, number: int, body: str) -> Plan[Comment]:
        """Comment on an issue or a pull request. Raises NotFound, OutcomeUnknown."""
        if not as_text("body", body).strip():
            raise refused("body", "must not be empty")
        return self.post(f"{_issue(owner, repo, number)}/comments", json={"body": body}, parse=_of(objects.comment_of))

    @listing
    def list_comments(self, /, owner: str, repo: str, number: int, *, page_size: int = _PAGE) -> Plan[Page[Comment]]:
        """The comments on an issue or a pull request, the oldest first."""
        return self._paged(f"{_issue(owner, repo, number)}/comments", {}, page_size, objects.comment_of)

    @listing
    def search_issues(
        self, /, query: str, *, sort: str | None = None, order: str | None = None, page_size: int = _PAGE
    ) -> Plan[Page[Issue]]:
        """Issues and pull requests of all repositories, by GitHub's search (``"repo:quay/hello is:issue is:open
        adrift"``): the first 1000. It has a limit of its own, 30 a minute.
        """
        if not as_text("query", query).strip():
            raise refused("query", "must not be empty")
        asked = {"q": query, "sort": sort, "order": order}
        return self._paged("/search/issues", asked, page_size, objects.issue_of, "items")

    # Repositories ----------------------------------------------------------------------------------------------------

    @operation
    def get_repository(self, owner: str, repo: str) -> Plan[Repository]:
        """A repository; one that was renamed by its old name as well. Raises NotFound."""
        return self.get(_repo(owner, repo), parse=_of(objects.repository_of))

    @listing
    def list_repositories(
        self, /, *, org: str | None = None, page_size: int = _PAGE, **filters: object
    ) -> Plan[Page[Repository]]:
        """The repositories of *org*, or all that the token's user, or the app's installation, can see. *page_size* is
        1 to 100.

        *filters* are GitHub's own (``type="owner"``, ``sort="updated"``).
        """
        if org is None and self.fetched is not None:
            return self._paged("/installation/repositories", filters, page_size, objects.repository_of, "repositories")
        path = "/user/repos" if org is None else f"/orgs/{segment(org, 'org')}/repos"
        return self._paged(path, filters, page_size, objects.repository_of)

    @operation
    def create_repository(
        self,
        /,
        name: str,
        *,
        org: str | None = None,
        private: bool = True,
        description: str | None = None,
        **extra: object,
    ) -> Plan[Repository]:
        """Create a repository, for *org* or for the token's user; not public unless told so. *extra* are GitHub's
        fields (``auto_init=True``). Raises InvalidRequest or Conflict for a name that is taken, OutcomeUnknown.
        """
        if not as_text("name", name).strip():
            raise refused("name", "must not be empty")
        content = _present({"name": name, "private": private, "description": description, **extra})
        path = "/user/repos" if org is None else f"/orgs/{segment(org, 'org')}/repos"
        return self.post(path, json=content, parse=_of(objects.repository_of))

    # Releases --------------------------------------------------------------------------------------------------------

    @operation
    def create_release(
        self,
        /,
        owner: str,
        repo: str,
        tag: str,
        *,
        name: str | None = None,
        body: str | None = None,
        target: str | None = None,
        draft: bool = False,
        prerelease: bool = False,
        **extra: object,
    ) -> Plan[Release]:
        """Make a release of *tag*, which is made of *target* (a branch or commit) where it is not there yet.

        *extra* are GitHub's fields (``generate_release_notes=True``). Raises Conflict for a tag that has one.
        """
        if not as_text("tag", tag).strip():
            raise refused("tag", "must not be empty")
        optional = {"name": name, "body": body, "target_commitish": target, **extra}
        content = {"tag_name": tag, "draft": draft, "prerelease": prerelease, **_present(optional)}
        return self.post(f"{_repo(owner, repo)}/releases", json=content, parse=_of(objects.release_of))

    @operation
    def get_release(self, owner: str, repo: str, tag: str | None = None) -> Plan[Release]:
        """The release of *tag*, or the latest one that is neither a draft nor a prerelease. Raises NotFound."""
        path = "latest" if tag is None else f"tags/{segment(tag, 'tag')}"
        return self.get(f"{_repo(owner, repo)}/releases/{path}", parse=_of(objects.release_of))

    @listing
    def list_releases(self, /, owner: str, repo: str, *, page_size: int = _PAGE) -> Plan[Page[Release]]:
        """The releases, the newest first; drafts for who may push."""
        return self._paged(f"{_repo(owner, repo)}/releases", {}, page_size, objects.release_of)

    @operation
    def upload_asset(
        self,
        /,
        owner: str,
        repo: str,
        release_id: int,
        file: Any,
        name: str,
        *,
        label: str | None = None,
        content_type: str | None = None,
    ) -> Plan[Asset]:
        """Add a file to a release: bytes, the file at a path, or an ``Upload`` of known size.

        The release is read first, as it says where its files go. GitHub renames files with odd names: look at the
        result. Give more time for large ones by ``.using(timeout=…)``. Raises Conflict for a name that is taken; a 502
        may leave an empty asset in the state ``starter`` behind, which can be deleted.
        """
        if not as_text("name", name).strip():
            raise refused("name", "must not be empty")
        upload = file if isinstance(file, Upload) else Upload(file, content_type=content_type)
        if upload.size is None:
            raise refused("file", "must have a known size")

        def send(release: Release) -> Plan[Asset]:
            address = text(release.raw, "upload_url").partition("{")[0]
            if not self.is_own(address):
                raise BadAnswer("the release names an address for its files that is none of GitHub's")
            query = _present({"name": name, "label": label})
            return self.post(address, query=query, upload=upload, parse=_of(objects.asset_of))

        where = f"{_repo(owner, repo)}/releases/{segment(release_id, 'release_id')}"
        return self.post_after(self.get(where, parse=_of(objects.release_of)), send, parse=_of(objects.asset_of))

    # Checks ----------------------------------------------------------------------------------------------------------

    @operation
    def create_check(
        self,
        /,
        owner: str,
        repo: str,
        name: str,
        head_sha: str,
        *,
        status: str | None = None,
        conclusion: str | None = None,
        output: Mapping[str, Any] | None = None,
        details_url: str | None = None,
        external_id: str | None = None,
        **extra: object,
    ) -> Plan[CheckRun]:
        """Start a check of a commit, or tell its end at once by a *conclusion* (``success``, ``failure``, ``neutral``,
        ``cancelled``, ``skipped``, ``timed_out``, ``action_required``). Only apps may.

        *output* has ``title``, ``summary``, ``text``, ``annotations``, ``images``. Raises InvalidRequest, naming field
        and limit, before anything is sent: more than 50 annotations (update the run with the others), a summary or text
        over 65,535 characters. Raises PermissionDenied for who is no app.
        """
        if not as_text("name", name).strip() or not as_text("head_sha", head_sha).strip():
            raise refused("name" if not name.strip() else "head_sha", "must not be empty")
        given = {"status": status, "conclusion": conclusion, "details_url": details_url, "external_id": external_id}
        content = {"name": name, "head_sha": head_sha, **given, "output": _output(output), **extra}
        return self.post(f"{_repo(owner, repo)}/check-runs", json=_present(content), parse=_of(objects.check_run_of))

    @operation
    def update_check(
        self,
        /,
        owner: str,
        repo: str,
        check_run_id: int,
        *,
        status: str | None = None,
        conclusion: str | None = None,
        output: Mapping[str, Any] | None = None,
        **extra: object,
    ) -> Plan[CheckRun]:
        """Change a check run: a *conclusion* completes it, annotations are added to those that are there. Raises as
        ``create_check``, and NotFound.
        """
        content = _present({"status": status, "conclusion": conclusion, "output": _output(output), **extra})
        path = f"{_repo(owner, repo)}/check-runs/{segment(check_run_id, 'check_run_id')}"
        return self.patch(path, json=content, parse=_of(objects.check_run_of))

    # Webhooks --------------------------------------------------------------------------------------------------------

    @listing
    def list_deliveries(
        self,
        /,
        hook_id: int | None = None,
        *,
        owner: str | None = None,
        repo: str | None = None,
        org: str | None = None,
        status: str | None = None,
        page_size: int = _PAGE,
    ) -> Plan[Page[Delivery]]:
        """What was delivered to the webhook *hook_id* of a repository (*owner*, *repo*) or of *org*, or without one to
        the app's own, the newest first. *status* is ``success`` or ``failure``.

        GitHub never tries again by itself: ``undelivered`` of all of these are those to ``redeliver``.
        """
        if status not in (None, "success", "failure"):
            raise refused("status", "must be success or failure")
        path = f"{_hook(hook_id, owner, repo, org)}/deliveries"
        return self._paged(path, {"status": status}, page_size, objects.delivery_of)

    @operation
    def redeliver(
        self,
        delivery_id: int,
        hook_id: int | None = None,
        *,
        owner: str | None = None,
        repo: str | None = None,
        org: str | None = None,
    ) -> Plan[None]:
        """Deliver again, by the ``id`` of a delivery: its ``guid`` stays the same. Raises InvalidRequest."""
        path = f"{_hook(hook_id, owner, repo, org)}/deliveries/{segment(delivery_id, 'delivery_id')}/attempts"
        return self.post(path, parse=lambda _: None, blank=True)

    # The app ---------------------------------------------------------------------------------------------------------

    @listing
    def list_installations(self, /, *, page_size: int = _PAGE) -> Plan[Page[Installation]]:
        """The installations of the app, by its JWT."""
        return self._paged("/app/installations", {}, page_size, objects.installation_of)

    @operation
    def create_installation_token(
        self,
        installation_id: int,
        *,
        repositories: Sequence[str] = (),
        permissions: Mapping[str, str] | None = None,
    ) -> Plan[InstallationToken]:
        """A token for any installation of the app, for all that it may do or less: for *repositories* (their names),
        with *permissions* (``{"contents": "read"}``). It is good for an hour.

        The service's own installation needs none of it: its token is fetched by itself. Raises NotFound,
        PermissionDenied for an installation that is suspended.
        """
        content = _present({"repositories": list(repositories) or None, "permissions": permissions})
        path = f"/app/installations/{segment(installation_id, 'installation_id')}/access_tokens"
        # A token that nobody has ends by itself.
        return self.post(path, json=content, parse=_of(objects.token_of), repeatable=True, acts=True)

    @operation
    def check(self) -> Plan[bool]:
        """True if the credential is good: reads the rate limit, which costs nothing, or the app that it is. Raises
        AuthenticationFailed if not.
        """
        if self.app() and self.fetched is None:
            return self.get("/app", parse=lambda exchange: "id" in record(exchange.data))
        return self.get("/rate_limit", parse=lambda exchange: "rate" in record(exchange.data))

    @classmethod
    def read_event(cls, event: Event) -> GitHubEvent:
        """What an event means: its ``subject`` for pushes, pull requests, issues and their comments, releases, check
        runs and installations; of all others repository, sender and ``raw``. Raises BadAnswer for one of another shape.
        """
        return read(event)

    # -----------------------------------------------------------------------------------------------------------------

    def _paged(
        self, path: str, query: Mapping[str, object], size: int, one: Callable[[object], T], name: str | None = None
    ) -> Plan[Page[T]]:
        """A listing by the ``Link`` header; its items are the answer, or stand in it under *name*."""
        if not 1 <= size <= _PAGE:
            raise refused("page_size", f"must be from 1 to {_PAGE}")

        def parse(exchange: Exchange) -> Page[T]:
            rows = exchange.data if name is None else record(exchange.data).get(name)
            found = tuple(one(each) for each in items(rows, name or "the answer"))
            following = exchange.link("next")  # followed as it is: some endpoints page by cursor
            if following is not None and not self.is_own(following):
                raise BadAnswer("the next page is at an address that is none of GitHub's")
            return Page(found, None if following is None else self.get(following, parse=parse))

        return self.get(path, query={"per_page": size, **query}, parse=parse)


def _of(read_one: Callable[[object], T]) -> Callable[[Exchange], T]:
    return lambda exchange: read_one(exchange.data)


def _present(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _repo(owner: str, repo: str) -> str:
    return f"/repos/{segment(owner, 'owner')}/{segment(repo, 'repo')}"


def _issue(owner: str, repo: str, number: int) -> str:
    return f"{_repo(owner, repo)}/issues/{segment(number, 'number')}"


def _hook(hook_id: int | None, owner: str | None, repo: str | None, org: str | None) -> str:
    """Where a webhook is. Raises InvalidRequest for half an address."""
    if hook_id is None:
        if owner or repo or org:
            raise refused("hook_id", "is needed for the webhook of a repository or organization")
        return "/app/hook"
    if org is not None and not (owner or repo):
        return f"/orgs/{segment(org, 'org')}/hooks/{segment(hook_id, 'hook_id')}"
    if org is None and owner is not None and repo is not None:
        return f"{_repo(owner, repo)}/hooks/{segment(hook_id, 'hook_id')}"
    raise refused("hook_id", "needs owner and repo, or org, to be found")


def _output(output: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if output is None:
        return None
    for name in ("summary", "text"):
        at_most(f"output.{name}", as_text(f"output.{name}", output.get(name) or ""), _OUTPUT, "characters")
    at_most("output.annotations", output.get("annotations") or (), _ANNOTATIONS, "annotations in one request")
    return dict(output)
