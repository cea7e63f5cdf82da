"""GitHub's users, repositories and issues with all the fields that its description requires, for its stand-in.

The shapes are those of github.json; the links follow its URL templates.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any

Thing = dict[str, Any]

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
