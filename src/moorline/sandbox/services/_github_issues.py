"""Issues, their comments, and searches for them, for GitHub's stand-in."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from moorline.sandbox.services import _github_objects as objects
from moorline.sandbox.services._github_objects import Refused, Thing
from moorline.sandbox.services._github_releases import Home
from moorline.sandbox.standin import Answer, Ask

__all__ = ["Issues"]

_KINDS: dict[str, tuple[type, ...]] = {
    "title": (str, int),
    "body": (str,),
    "labels": (list,),
    "assignees": (list,),
    "milestone": (str, int, type(None)),
    "state": (str,),
    "state_reason": (str, type(None)),
}
_STATES = {"state": ("open", "closed"), "state_reason": ("completed", "not_planned", "duplicate", "reopened", None)}


class Issues:
    """The issues of all repositories."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self.held: dict[str, list[Thing]] = {}
        self.comments: dict[str, list[Thing]] = {}

    def routes(self, name: str) -> list[tuple[str, str, Callable[..., Answer]]]:
        """What it answers to, but for the lists; *name* is the pattern of a repository."""
        return [
            ("POST", name + r"/issues", self._create),
            ("GET", name + r"/issues/(\d+)", self._one),
            ("PATCH", name + r"/issues/(\d+)", self._update),
            ("POST", name + r"/issues/(\d+)/comments", self._comment),
        ]

    def rows(self, owner: str, name: str, asked: dict[str, str]) -> list[Thing]:
        """The issues of a repository that are asked for, the newest first."""
        state, labels = asked.get("state", "open"), {one for one in asked.get("labels", "").split(",") if one}
        if state not in ("open", "closed", "all"):
            raise objects.unprocessable("state", "invalid", value=state)
        return [
            one
            for one in self.held.get(self._home.repository(owner, name)["full_name"], [])[::-1]
            if state in ("all", one["state"])
            and labels <= {label["name"] for label in one["labels"]}
            and one["updated_at"] >= asked.get("since", "")
        ]

    def comments_on(self, owner: str, name: str, number: str) -> list[Thing]:
        """The comments on an issue, the oldest first."""
        return self.comments.get(self._found(owner, name, number)["url"], [])

    def search(self, query: str) -> list[Thing]:
        """What fits the few qualifiers that the sandbox knows (``repo:``, ``is:open``, ``is:closed``, ``label:``), with
        all other words in the title or body.
        """
        if not query.strip():
            raise objects.unprocessable("q", "missing", "Search")
        found = [one for rows in self.held.values() for one in rows]
        for word in query.lower().split():
            kind, _, value = word.rpartition(":")
            if kind == "repo":
                found = [one for one in found if one["repository_url"].lower().endswith(f"/repos/{value}")]
            elif kind == "is" and value in ("open", "closed"):
                found = [one for one in found if one["state"] == value]
            elif kind == "label":
                found = [one for one in found if value in {label["name"].lower() for label in one["labels"]}]
            elif kind != "is":
                found = [one for one in found if word in f"{one['title']} {one['body'] or ''}".lower()]
        return found

    def _found(self, owner: str, name: str, number: str) -> Thing:
        repo = self._home.repository(owner, name)
        for issue in self.held.get(repo["full_name"], []):
            if issue["number"] == int(number):
                return issue
        raise Refused(404, "Not Found")

    def _one(self, ask: Ask, owner: str, name: str, number: str) -> Answer:
        return Answer(200, self._found(owner, name, number))

    def _allowed(self, repo: Thing, given: Thing) -> Thing:
        """Without push access labels, assignees and milestone are dropped in silence; else they must be there."""
        if not repo["permissions"]["push"]:
            return {key: value for key, value in given.items() if key in ("title", "body", "state", "state_reason")}
        for login in given.get("assignees") or []:
            if login != self._home.me["login"]:
                raise objects.unprocessable("assignees", "invalid", value=login)
        if given.get("milestone") is not None:
            raise objects.unprocessable("milestone", "invalid", value=given["milestone"])
        return {**given, "assignees": [self._home.me for _ in given.get("assignees") or []]}

    def _create(self, ask: Ask, owner: str, name: str) -> Answer:
        repo = self._home.repository(owner, name)
        if not repo["has_issues"]:
            raise Refused(410, "Issues are disabled for this repo")
        given = _fields(ask.body)
        if "title" not in given:
            raise Refused(422, 'Invalid request.\n\n"title" wasn\'t supplied.')
        filled = self._allowed(repo, given)
        known = self.held.setdefault(repo["full_name"], [])
        number, at = len(known) + 1, self._home.now()
        issue = objects.issue(repo, self._home.me, filled, number=number, id=self._home.new_id(), at=at)
        known.append(issue)
        repo["open_issues"] = repo["open_issues_count"] = sum(one["state"] == "open" for one in known)
        self._home.tell("issues.opened", repo, issue=issue)
        return Answer(201, json.loads(json.dumps(issue)), {"Location": issue["url"]})

    def _update(self, ask: Ask, owner: str, name: str, number: str) -> Answer:
        issue, repo = self._found(owner, name, number), self._home.repository(owner, name)
        if not repo["permissions"]["push"]:
            raise Refused(403, "Must have admin rights to Repository.")
        given = self._allowed(repo, _fields(ask.body))
        before, at = issue["state"], objects.moment(self._home.now())
        asked = json.loads(ask.body or b"{}")
        issue |= {key: given[key] for key in ("title", "body", "state", "state_reason") if key in given}
        if "labels" in given:
            names = [one if isinstance(one, str) else str(one.get("name", "")) for one in given["labels"]]
            issue["labels"] = [objects.label_object(repo, one, issue["id"] * 100 + n) for n, one in enumerate(names)]
        if "assignees" in asked:
            issue["assignees"] = given["assignees"]
            issue["assignee"] = given["assignees"][0] if given["assignees"] else None
        issue["updated_at"] = at
        if issue["state"] != before:
            closed = issue["state"] == "closed"
            issue["closed_at"], issue["closed_by"] = (at, self._home.me) if closed else (None, None)
            issue["state_reason"] = given.get("state_reason") or ("completed" if closed else "reopened")
            self._home.tell(f"issues.{'closed' if closed else 'reopened'}", repo, issue=issue)
        return Answer(200, issue)

    def _comment(self, ask: Ask, owner: str, name: str, number: str) -> Answer:
        issue, given = self._found(owner, name, number), objects.given(ask.body)
        if not isinstance(given.get("body"), str) or not re.search(r"\S", given["body"]):
            raise objects.unprocessable("body", "missing_field", "IssueComment")
        made = objects.comment(issue, self._home.me, given["body"], id=self._home.new_id(), at=self._home.now())
        self.comments.setdefault(issue["url"], []).append(made)
        issue["comments"] += 1
        self._home.tell("issue_comment.created", self._home.repository(owner, name), issue=issue, comment=made)
        return Answer(201, made, {"Location": made["url"]})


def _fields(body: bytes) -> Thing:
    given = objects.given(body)
    for name, kind in _KINDS.items():
        value = given.get(name, "" if str in kind else [])
        if not isinstance(value, kind) or isinstance(value, bool):
            raise Refused(422, f"Invalid request.\n\nFor 'properties/{name}', {json.dumps(value)} is not of its type.")
        if name in given and name in _STATES and value not in _STATES[name]:
            raise Refused(
                422, f"Invalid request.\n\nFor 'properties/{name}', {json.dumps(value)} is not a possible value."
            )
    for name in ("labels", "assignees"):
        for value in given.get(name, []):
            if not isinstance(value, str) and not (name == "labels" and isinstance(value, dict)):
                raise Refused(422, f"Invalid request.\n\nFor 'items', {json.dumps(value)} is not a string.")
    if "title" in given and not str(given["title"]).strip():
        raise objects.unprocessable("title", "missing_field")
    return given
