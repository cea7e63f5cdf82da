"""Releases, their files, and check runs, for GitHub's stand-in.

Facts: the REST reference of docs.github.com ("releases", "assets", "check runs").
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Protocol

from moorline.sandbox.services import _github_objects as objects
from moorline.sandbox.services._github_objects import Refused, Thing
from moorline.sandbox.standin import Answer, Ask

__all__ = ["Checks", "Home", "Releases"]

_CONCLUSIONS = frozenset(
    {"action_required", "cancelled", "failure", "neutral", "success", "skipped", "stale", "timed_out"}
)
_NAME = re.compile(r"[^A-Za-z0-9._+-]+")


class Home(Protocol):
    """What the rest of the stand-in gives."""

    me: Thing

    def repository(self, owner: str, name: str) -> Thing:
        """A repository, or a refusal."""
        ...

    def new_id(self) -> int:
        """Another number."""
        ...

    def now(self) -> float:
        """Seconds since the epoch."""
        ...

    def tell(self, event: str, repo: Thing, **content: Any) -> None:
        """Send an event."""
        ...


class Releases:
    """The releases of all repositories."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self.held: dict[str, list[Thing]] = {}

    def routes(self, name: str) -> list[tuple[str, str, Callable[..., Answer]]]:
        """What it answers to; *name* is the pattern of a repository."""
        return [
            ("POST", name + r"/releases", self._create),
            ("GET", name + r"/releases/latest", self._latest),
            ("GET", name + r"/releases/tags/([^/]+)", self._tagged),
            ("GET", name + r"/releases/(\d+)", self._one),
            ("POST", name + r"/releases/(\d+)/assets", self._upload),
        ]

    def rows(self, owner: str, name: str) -> list[Thing]:
        """Those of a repository, the newest first."""
        return self.held.get(self._home.repository(owner, name)["full_name"], [])[::-1]

    def _create(self, ask: Ask, owner: str, name: str) -> Answer:
        repo, given = self._home.repository(owner, name), objects.given(ask.body)
        tag = given.get("tag_name")
        if not isinstance(tag, str) or not tag.strip():
            raise objects.unprocessable("tag_name", "missing_field", "Release")
        if any(one["tag_name"] == tag for one in self.rows(owner, name)):
            raise objects.unprocessable("tag_name", "already_exists", "Release")
        made = objects.release(repo, self._home.me, given, id=self._home.new_id(), at=self._home.now())
        self.held.setdefault(repo["full_name"], []).append(made)
        if not made["draft"]:
            self._home.tell("release.published", repo, release=made)
        return Answer(201, made, {"Location": made["url"]})

    def _found(self, owner: str, name: str, wanted: Callable[[Thing], bool]) -> Thing:
        found = next(filter(wanted, self.rows(owner, name)), None)
        if found is None:
            raise Refused(404, "Not Found")
        return found

    def _latest(self, ask: Ask, owner: str, name: str) -> Answer:
        return Answer(200, self._found(owner, name, lambda one: not one["draft"] and not one["prerelease"]))

    def _tagged(self, ask: Ask, owner: str, name: str, tag: str) -> Answer:
        return Answer(200, self._found(owner, name, lambda one: one["tag_name"] == tag and not one["draft"]))

    def _one(self, ask: Ask, owner: str, name: str, number: str) -> Answer:
        return Answer(200, self._found(owner, name, lambda one: one["id"] == int(number)))

    def _upload(self, ask: Ask, owner: str, name: str, number: str) -> Answer:
        """A file; it comes to the host of uploads in truth, and here below the same base."""
        release = self._found(owner, name, lambda one: one["id"] == int(number))
        asked = dict(ask.parameters)
        if not asked.get("name"):
            raise Refused(400, "Missing name parameter")
        kind = ask.headers.get("content-type", "")
        if not kind:
            raise Refused(415, "Content-Type is needed")
        shown = _NAME.sub(".", asked["name"])
        if any(one["name"] == shown for one in release["assets"]):
            raise objects.unprocessable("name", "already_exists", "ReleaseAsset")
        about = {"label": asked.get("label"), "content_type": kind, "size": len(ask.body)}
        repo, number_of = self._home.repository(owner, name), self._home.new_id()
        made = objects.asset(
            repo,
            self._home.me,
            id=number_of,
            tag=release["tag_name"],
            name=shown,
            about=about,
            at=self._home.now(),
        )
        release["assets"].append(made)
        return Answer(201, made)


class Checks:
    """The check runs of all repositories: apps make them, and nobody else."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self.held: dict[str, list[Thing]] = {}

    def routes(self, name: str) -> list[tuple[str, str, Callable[..., Answer]]]:
        """What it answers to; *name* is the pattern of a repository."""
        return [
            ("POST", name + r"/check-runs", self._create),
            ("PATCH", name + r"/check-runs/(\d+)", self._update),
            ("GET", name + r"/check-runs/(\d+)", self._one),
        ]

    def _create(self, ask: Ask, owner: str, name: str) -> Answer:
        repo, given = self._home.repository(owner, name), self._given(ask)
        for field in ("name", "head_sha"):
            if not isinstance(given.get(field), str) or not given[field]:
                raise Refused(422, f'Invalid request.\n\n"{field}" wasn\'t supplied.')
        if not re.fullmatch(r"[0-9a-f]{40}", given["head_sha"]):
            raise Refused(422, f"No commit found for SHA: {given['head_sha'][:60]}")
        made = objects.check_run(repo, given, id=self._home.new_id(), at=self._home.now())
        self.held.setdefault(repo["full_name"], []).append(made)
        self._home.tell(f"check_run.{'completed' if made['conclusion'] else 'created'}", repo, check_run=made)
        return Answer(201, made)

    def _update(self, ask: Ask, owner: str, name: str, number: str) -> Answer:
        repo, given = self._home.repository(owner, name), self._given(ask)
        held = self._found(repo, number)
        before = held["output"]["annotations_count"]
        changed = objects.check_run(repo, {**held, **given}, id=held["id"], at=self._home.now())
        if "output" in given:
            changed["output"]["annotations_count"] += before
        else:
            changed["output"] = held["output"]
        held |= changed
        if given.get("conclusion"):
            self._home.tell("check_run.completed", repo, check_run=held)
        return Answer(200, held)

    def _one(self, ask: Ask, owner: str, name: str, number: str) -> Answer:
        return Answer(200, self._found(self._home.repository(owner, name), number))

    def _found(self, repo: Thing, number: str) -> Thing:
        found = next((one for one in self.held.get(repo["full_name"], []) if one["id"] == int(number)), None)
        if found is None:
            raise Refused(404, "Not Found")
        return found

    def _given(self, ask: Ask) -> Thing:
        if not ask.headers.get("authorization", "").partition(" ")[2].startswith("ghs_"):
            raise Refused(403, "You must authenticate via a GitHub App.")
        given = objects.given(ask.body)
        if given.get("conclusion") is not None and given["conclusion"] not in _CONCLUSIONS:
            raise Refused(422, "Invalid request.\n\nFor 'properties/conclusion', it is not a possible value.")
        output = given.get("output")
        if output is not None and not (isinstance(output, dict) and output.get("title") and output.get("summary")):
            raise Refused(422, 'Invalid request.\n\nFor \'properties/output\', "title" and "summary" are needed.')
        if output and len(output.get("annotations") or ()) > 50:
            raise Refused(422, "Invalid request.\n\nNo more than 50 items are allowed; annotations.")
        return given
