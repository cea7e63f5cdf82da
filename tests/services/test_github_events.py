"""What GitHub's webhooks tell, by its own published examples and the sandbox's deliveries."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.services.mangled import mangled

from moorline import errors
from moorline.events import Event
from moorline.sandbox.services import _github_objects as made
from moorline.sandbox.services.github import STAND_IN
from moorline.sandbox.standin import Surroundings
from moorline.services import github_objects as objects
from moorline.services.business.github import (
    CheckRun,
    Comment,
    Delivery,
    GitHub,
    GitHubEvent,
    Installation,
    Issue,
    PullRequest,
    Push,
    Release,
    undelivered,
)


def told(type: str, content: Any, **headers: str) -> GitHubEvent:
    """What a delivery of *content* means."""
    return GitHub.read_event(Event("github", "1", type, json.dumps(content).encode(), headers))


def published(folder: Path, name: str) -> GitHubEvent:
    """What one of GitHub's examples means."""
    return told(name.partition(".")[0], json.loads((folder / "github" / f"{name}.json").read_bytes()))


@pytest.mark.payloads
def test_every_published_body_is_read(payloads_dir: Path):
    """Of each: its action, who did it, and where; and the subject where the type is known."""
    subjects = {
        "check_run": CheckRun,
        "issue_comment": Comment,
        "issues": Issue,
        "pull_request": PullRequest,
        "push": Push,
        "release": Release,
    }
    files = sorted((payloads_dir / "github").glob("*.json"))
    assert files
    for file in files:
        content = json.loads(file.read_bytes())
        found = published(payloads_dir, file.stem)
        assert found.raw == content
        assert found.action == content.get("action")
        assert found.sender == content["sender"]["login"]
        assert (found.repository and found.repository.full_name) == content.get("repository", {}).get("full_name")
        kind = subjects.get(found.type)
        assert found.subject is None if kind is None else isinstance(found.subject, kind), file.stem


@pytest.mark.payloads
def test_a_pull_request(payloads_dir: Path):
    """From where, into what, by whom, and whether it was merged."""
    opened, closed = published(payloads_dir, "pull_request.opened"), published(payloads_dir, "pull_request.closed")
    raw = opened.raw["pull_request"]
    request = opened.subject
    assert isinstance(request, PullRequest)
    assert (request.number, request.title, request.author) == (2, raw["title"], raw["user"]["login"])
    assert (request.head_ref, request.head_sha, request.base_ref) == (
        raw["head"]["ref"],
        raw["head"]["sha"],
        raw["base"]["ref"],
    )
    assert (request.state, request.merged, opened.installation_id) == ("open", False, opened.raw["installation"]["id"])
    match closed.subject:
        case PullRequest(state="closed", merged=merged):
            assert merged is closed.raw["pull_request"]["merged"]
        case _:
            pytest.fail("no closed pull request")


@pytest.mark.payloads
def test_a_push_of_a_tag_that_was_deleted(payloads_dir: Path):
    """The ref is a tag, nothing is left of it, and there are no commits."""
    push = published(payloads_dir, "push.1").subject
    assert isinstance(push, Push)
    assert (push.tag, push.branch, push.deleted, push.commits) == ("simple-tag", None, True, ())
    assert set(push.after) == {"0"}


def test_a_push_of_commits():
    """The branch, and who wrote what."""
    commit = {
        "id": "c1",
        "message": "Tie up",
        "url": "https://github.com/c1",
        "author": {"name": "Ada", "username": "ada"},
    }
    anonymous = {"id": "c2", "message": "x", "author": {"name": "Bob"}}
    found = told("push", {"ref": "refs/heads/feature/x", "before": "b", "after": "a", "commits": [commit, anonymous]})
    assert isinstance(found.subject, Push)
    assert found.subject.branch == "feature/x"
    assert [(one.id, one.author) for one in found.subject.commits] == [("c1", "ada"), ("c2", "Bob")]


@pytest.mark.payloads
def test_a_comment_names_its_issue(payloads_dir: Path):
    """The comment is the subject, and the issue stands beside it."""
    found = published(payloads_dir, "issue_comment.created")
    assert isinstance(found.subject, Comment)
    assert found.subject.body == found.raw["comment"]["body"]
    assert found.issue is not None
    assert found.issue.number == found.raw["issue"]["number"]


def test_an_installation():
    """Whose it is, and whether it is suspended."""
    account = {"login": "quay", "id": 1}
    content = {
        "action": "suspend",
        "installation": {"id": 7, "account": account, "app_id": 3, "suspended_at": "2026-01-01T00:00:00Z"},
    }
    found = told("installation", {**content, "sender": account})
    assert (found.installation_id, found.repository, found.sender) == (7, None, "quay")
    assert isinstance(found.subject, Installation)
    assert (found.subject.account, found.subject.app_id, found.subject.suspended) == ("quay", 3, True)


def test_a_form_is_read_as_json_is():
    """Webhooks that send forms have the same in their field ``payload``."""
    body = urlencode({"payload": json.dumps({"action": "opened", "sender": {"login": "ada"}})}).encode()
    event = Event("github", "1", "star", body, {"content-type": "application/x-www-form-urlencoded"})
    assert GitHub.read_event(event).sender == "ada"


def test_ghosts_and_enterprises():
    """Whose account is gone is nobody; an enterprise goes by its slug."""
    issue = {"id": 1, "number": 2, "title": "x", "state": "open", "html_url": "https://github.com/x", "user": None}
    found = told("issues", {"action": "opened", "issue": issue, "sender": {"slug": "corp"}})
    assert isinstance(found.subject, Issue)
    assert (found.subject.author, found.sender) == (None, "corp")


_names = st.sampled_from(
    ["action", "repository", "sender", "issue", "pull_request", "id", "number", "login", "head", "user"]
)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_names, inner, max_size=6),
    max_leaves=12,
)


@given(
    value=_json,
    type=st.sampled_from(
        ["issues", "issue_comment", "pull_request", "push", "release", "check_run", "installation", "star"]
    ),
)
def test_odd_events_are_typed_errors(value: Any, type: str):
    """Whatever was signed, reading it gives a value or BadAnswer."""
    with contextlib.suppress(errors.BadAnswer):
        told(type, value)


_tries = st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=12)


@given(tries=_tries)
def test_only_what_no_try_delivered_is_lost(tries: list[tuple[str, bool]]):
    """One for each event that has no good try, and it is the newest of its tries, whatever order they come in."""
    tried = [
        Delivery(number, guid, "push", "OK" if ok else "timed out", 200 if ok else 0)
        for number, (guid, ok) in enumerate(tries)
    ]
    expected = {
        guid: max(one.id for one in tried if one.guid == guid)
        for guid in {guid for guid, _ in tries}
        if not any(ok for other, ok in tries if other == guid)
    }
    assert {one.guid: one.id for one in undelivered(tried)} == expected
    assert undelivered(tried[::-1]) == undelivered(tried) == sorted(undelivered(tried), key=lambda one: one.id)


_ME = made.user("https://api.github.com", "ada", 1)
_REPO = made.repository("https://api.github.com", _ME, "hello", 2, 0.0)
_ISSUE = made.issue(_REPO, _ME, {"title": "x", "labels": ["a"], "assignees": [_ME]}, number=1, id=3, at=0.0)
_FILE = made.asset(_REPO, _ME, id=5, tag="v1", name="a", about={"size": 1, "content_type": "x"}, at=0.0)
_RELEASE = {**made.release(_REPO, _ME, {"tag_name": "v1"}, id=4, at=0.0), "assets": [_FILE]}
_RUN = made.check_run(_REPO, {"name": "ci", "head_sha": "a"}, id=6, at=0.0)
_READERS = [
    (objects.issue_of, _ISSUE),
    (objects.repository_of, _REPO),
    (objects.comment_of, made.comment(_ISSUE, _ME, "x", id=7, at=0.0)),
    (objects.release_of, _RELEASE),
    (objects.asset_of, _FILE),
    (objects.check_run_of, _RUN),
    (objects.installation_of, {"id": 1, "account": {"login": "a"}, "app_id": 2, "suspended_at": None}),
    (objects.token_of, {"token": "ghs_1", "expires_at": "2026-01-01T00:00:00Z", "permissions": {"a": "b"}}),
    (objects.delivery_of, {"id": 1, "guid": "a", "event": "push", "status": "OK", "status_code": 200, "action": None}),
]


@settings(max_examples=40)
@given(data=st.data())
@pytest.mark.parametrize(("reader", "whole"), _READERS, ids=[reader.__name__ for reader, _ in _READERS])
def test_mangled_objects_are_bad_answers(reader: Callable[[object], Any], whole: Any, data: st.DataObject):
    """A value of the wrong kind, or one less, at whatever depth, gives a value or BadAnswer."""
    assert reader(whole).raw
    with contextlib.suppress(errors.BadAnswer):
        reader(data.draw(mangled(whole)))


_STAND_IN = STAND_IN.make(Surroundings())


@settings(max_examples=40)
@given(data=st.data())
@pytest.mark.parametrize("name", STAND_IN.events)
def test_mangled_events_are_bad_answers(name: str, data: st.DataObject):
    """The same of whole deliveries."""
    whole = json.loads(_STAND_IN.sample(name))
    with contextlib.suppress(errors.BadAnswer):
        told(name.partition(".")[0], data.draw(mangled(whole)))
