"""GitHub's users, repositories, issues, releases and checks with all the fields that its description requires, for its
stand-in; and its refusals.

The shapes are those of github.json, and of docs.github.com for what that has not; the links follow its URL templates.
"""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any

from moorline.sandbox.standin import Answer

Thing = dict[str, Any]
DOCS = "https://docs.github.com/rest"

_USER_LINKS = {
    "followers_url": "/followers",
    "following_url": "/following{/other_user}",
    "gists_url": "/gists{/gist_id}",
    "starred_url": "/starred{/owner}{/repo}",
    "subscriptions_url": "/subscriptions",
    "organizations_url": "/orgs",
    "repos_url": "/repos",
    "events_url": "/events{/privacy}",
    "received_events_url": "/received_events",
}
_REPOSITORY_LINKS = {
    "archive_url": "/{archive_format}{/ref}",
    "assignees_url": "/assignees{/user}",
    "blobs_url": "/git/blobs{/sha}",
    "branches_url": "/branches{/branch}",
    "collaborators_url": "/collaborators{/collaborator}",
    "comments_url": "/comments{/number}",
    "commits_url": "/commits{/sha}",
    "compare_url": "/compare/{base}...{head}",
    "contents_url": "/contents/{+path}",
    "contributors_url": "/contributors",
    "deployments_url": "/deployments",
    "downloads_url": "/downloads",
    "events_url": "/events",
    "forks_url": "/forks",
    "git_commits_url": "/git/commits{/sha}",
    "git_refs_url": "/git/refs{/sha}",
    "git_tags_url": "/git/tags{/sha}",
    "hooks_url": "/hooks",
    "issue_comment_url": "/issues/comments{/number}",
    "issue_events_url": "/issues/events{/number}",
    "issues_url": "/issues{/number}",
    "keys_url": "/keys{/key_id}",
    "labels_url": "/labels{/name}",
    "languages_url": "/languages",
    "merges_url": "/merges",
    "milestones_url": "/milestones{/number}",
    "notifications_url": "/notifications{?since,all,participating}",
    "pulls_url": "/pulls{/number}",
    "releases_url": "/releases{/id}",
    "stargazers_url": "/stargazers",
    "statuses_url": "/statuses/{sha}",
    "subscribers_url": "/subscribers",
    "subscription_url": "/subscription",
    "tags_url": "/tags",
    "teams_url": "/teams",
    "trees_url": "/git/trees{/sha}",
}


class Refused(Exception):
    """What GitHub refuses, as it says so."""

    def __init__(self, status: int, message: str, **more: Any) -> None:
        super().__init__(message)
        self.answer = Answer(status, {"message": message, **more, "documentation_url": DOCS, "status": str(status)})


def unprocessable(field: str, code: str, resource: str = "Issue", **more: Any) -> Refused:
    """The validation of a field failed."""
    return Refused(422, "Validation Failed", errors=[{"resource": resource, "field": field, "code": code, **more}])


def given(body: bytes) -> Thing:
    """The JSON object of a request; an empty one where there is no body. Raises Refused."""
    try:
        found = json.loads(body or b"{}")
    except ValueError:
        raise Refused(400, "Problems parsing JSON") from None
    if not isinstance(found, dict):
        raise Refused(400, "Body should be a JSON object")
    return found


def moment(seconds: float) -> str:
    """GitHub's times: UTC, whole seconds, ``Z``."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def node(kind: str, id: int) -> str:
    """A global node id."""
    return f"{kind}_{base64.urlsafe_b64encode(id.to_bytes(6, 'big')).decode().rstrip('=')}"


def user(base: str, login: str, id: int, *, kind: str = "User") -> Thing:
    """A user or an organisation."""
    url = f"{base}/users/{login}"
    return {
        "login": login,
        "id": id,
        "node_id": node("U", id),
        "avatar_url": f"https://avatars.githubusercontent.com/u/{id}?v=4",
        "gravatar_id": "",
        "url": url,
        "html_url": f"https://github.com/{login}",
        **{name: url + tail for name, tail in _USER_LINKS.items()},
        "type": kind,
        "site_admin": False,
    }


def repository(base: str, owner: Thing, name: str, id: int, at: float, *, push: bool = True) -> Thing:
    """A repository, as lists and lookups show it."""
    full = f"{owner['login']}/{name}"
    url = f"{base}/repos/{full}"
    return {
        "id": id,
        "node_id": node("R", id),
        "name": name,
        "full_name": full,
        "private": False,
        "owner": owner,
        "html_url": f"https://github.com/{full}",
        "description": None,
        "fork": False,
        "url": url,
        **{link: url + tail for link, tail in _REPOSITORY_LINKS.items()},
        "git_url": f"git://github.com/{full}.git",
        "ssh_url": f"git@github.com:{full}.git",
        "clone_url": f"https://github.com/{full}.git",
        "svn_url": f"https://github.com/{full}",
        "mirror_url": None,
        "homepage": None,
        "language": "Python",
        "license": None,
        "forks": 0,
        "forks_count": 0,
        "stargazers_count": 0,
        "watchers": 0,
        "watchers_count": 0,
        "size": 1,
        "default_branch": "main",
        "open_issues": 0,
        "open_issues_count": 0,
        "is_template": False,
        "topics": [],
        "has_issues": True,
        "has_projects": True,
        "has_wiki": True,
        "has_pages": False,
        "has_downloads": True,
        "has_discussions": False,
        "archived": False,
        "disabled": False,
        "visibility": "public",
        "pushed_at": moment(at),
        "created_at": moment(at),
        "updated_at": moment(at),
        "permissions": {"admin": push, "maintain": push, "push": push, "triage": push, "pull": True},
        "allow_forking": True,
        "web_commit_signoff_required": False,
    }


def issue(repo: Thing, author: Thing, given: Thing, *, number: int, id: int, at: float) -> Thing:
    """An open issue; labels become objects."""
    url = f"{repo['url']}/issues/{number}"
    labels = [label if isinstance(label, str) else str(label.get("name", "")) for label in given.get("labels", ())]
    assignees = given.get("assignees", [])
    return {
        "url": url,
        "repository_url": repo["url"],
        "labels_url": url + "/labels{/name}",
        "comments_url": url + "/comments",
        "events_url": url + "/events",
        "html_url": f"{repo['html_url']}/issues/{number}",
        "id": id,
        "node_id": node("I", id),
        "number": number,
        "title": str(given["title"]),
        "user": author,
        "labels": [label_object(repo, name, id * 100 + index) for index, name in enumerate(labels)],
        "state": "open",
        "locked": False,
        "assignee": assignees[0] if assignees else None,
        "assignees": assignees,
        "milestone": None,
        "comments": 0,
        "created_at": moment(at),
        "updated_at": moment(at),
        "closed_at": None,
        "author_association": "OWNER",
        "active_lock_reason": None,
        "body": given.get("body"),
        "closed_by": None,
        "timeline_url": url + "/timeline",
        "performed_via_github_app": None,
        "state_reason": None,
    }


def label_object(repo: Thing, name: str, id: int) -> Thing:
    """A label of a repository."""
    return {
        "id": id,
        "node_id": node("LA", id),
        "url": f"{repo['url']}/labels/{name}",
        "name": name,
        "color": "ededed",
        "default": False,
        "description": None,
    }


def push_event(repo: Thing, author: Thing, at: float, commit: str) -> Thing:
    """The body of a ``push`` delivery with one commit."""
    who = {"name": author["login"], "email": f"{author['login']}@example.com", "username": author["login"]}
    head = {
        "id": commit,
        "tree_id": commit[::-1],
        "distinct": True,
        "message": "Tie up",
        "timestamp": moment(at),
        "url": f"{repo['html_url']}/commit/{commit}",
        "author": who,
        "committer": who,
        "added": [],
        "removed": [],
        "modified": ["README.md"],
    }
    return {
        "ref": "refs/heads/main",
        "before": "0" * 40,
        "after": commit,
        "repository": repo,
        "pusher": {"name": who["name"], "email": who["email"]},
        "sender": author,
        "created": False,
        "deleted": False,
        "forced": False,
        "base_ref": None,
        "compare": f"{repo['html_url']}/compare/000000000000...{commit[:12]}",
        "commits": [head],
        "head_commit": head,
    }


def comment(issue: Thing, author: Thing, body: str, *, id: int, at: float) -> Thing:
    """A comment on an issue."""
    return {
        "id": id,
        "node_id": node("IC", id),
        "url": f"{issue['repository_url']}/issues/comments/{id}",
        "html_url": f"{issue['html_url']}#issuecomment-{id}",
        "issue_url": issue["url"],
        "body": body,
        "user": author,
        "created_at": moment(at),
        "updated_at": moment(at),
        "author_association": "OWNER",
        "performed_via_github_app": None,
    }


def release(repo: Thing, author: Thing, given: Thing, *, id: int, at: float) -> Thing:
    """A release; its files go to ``upload_url``."""
    url, tag = f"{repo['url']}/releases/{id}", given["tag_name"]
    draft = bool(given.get("draft"))
    return {
        "id": id,
        "node_id": node("RE", id),
        "url": url,
        "assets_url": url + "/assets",
        "upload_url": url + "/assets{?name,label}",
        "html_url": f"{repo['html_url']}/releases/tag/{tag}",
        "tarball_url": f"{repo['url']}/tarball/{tag}",
        "zipball_url": f"{repo['url']}/zipball/{tag}",
        "tag_name": tag,
        "target_commitish": given.get("target_commitish") or repo["default_branch"],
        "name": given.get("name"),
        "body": given.get("body"),
        "draft": draft,
        "prerelease": bool(given.get("prerelease")),
        "author": author,
        "created_at": moment(at),
        "published_at": None if draft else moment(at),
        "assets": [],
    }


def asset(repo: Thing, author: Thing, *, id: int, tag: str, name: str, about: Thing, at: float) -> Thing:
    """A file of a release; *about* is its label, type and size."""
    return {
        "id": id,
        "node_id": node("RA", id),
        "url": f"{repo['url']}/releases/assets/{id}",
        "browser_download_url": f"{repo['html_url']}/releases/download/{tag}/{name}",
        "name": name,
        "state": "uploaded",
        "download_count": 0,
        "uploader": author,
        "created_at": moment(at),
        "updated_at": moment(at),
        **about,
    }


def check_run(repo: Thing, given: Thing, *, id: int, at: float) -> Thing:
    """A check run of the sandbox's app; a conclusion completes it."""
    done = given.get("conclusion") is not None
    output = given.get("output") or {}
    shown = {name: output.get(name) for name in ("title", "summary", "text")}
    annotations = {"annotations_count": len(output.get("annotations") or ())}
    return {
        "id": id,
        "node_id": node("CR", id),
        "head_sha": given["head_sha"],
        "external_id": given.get("external_id") or "",
        "url": f"{repo['url']}/check-runs/{id}",
        "html_url": f"{repo['html_url']}/runs/{id}",
        "details_url": given.get("details_url"),
        "status": "completed" if done else given.get("status") or "queued",
        "conclusion": given.get("conclusion"),
        "started_at": moment(at),
        "completed_at": moment(at) if done else None,
        "output": {**shown, **annotations, "annotations_url": f"{repo['url']}/check-runs/{id}/annotations"},
        "name": given["name"],
        "check_suite": {"id": id + 1},
        "app": {"id": 123456, "slug": "harbour-pilot", "name": "Harbour Pilot"},
        "pull_requests": [],
    }


def pull_request(repo: Thing, author: Thing, *, number: int, id: int, at: float, commit: str) -> Thing:
    """An open pull request from a branch of the same repository."""
    ends = {
        name: {"label": f"{repo['owner']['login']}:{ref}", "ref": ref, "sha": sha, "user": repo["owner"], "repo": repo}
        for name, ref, sha in (("head", "tie-up", commit), ("base", repo["default_branch"], commit[::-1]))
    }
    return {
        "id": id,
        "node_id": node("PR", id),
        "number": number,
        "state": "open",
        "locked": False,
        "title": "Tie up",
        "user": author,
        "body": None,
        "url": f"{repo['url']}/pulls/{number}",
        "html_url": f"{repo['html_url']}/pull/{number}",
        "created_at": moment(at),
        "updated_at": moment(at),
        "closed_at": None,
        "merged_at": None,
        "draft": False,
        "merged": False,
        "mergeable": None,
        "labels": [],
        "assignees": [],
        "requested_reviewers": [],
        **ends,
    }
