from __future__ import annotations

import contextlib
import inspect
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError
from slack_sdk.signature import SignatureVerifier
from slack_sdk.webhook import WebhookClient
from tests.contracts import Contract
from tests.services.conftest import Box
from tests.services.mangled import mangled
from tests.services.recorder import Recorder

from moorline import errors
from moorline.calls.call import Call
from moorline.calls.guards import Guards
from moorline.calls.upload import Upload
from moorline.events import Event, verify
from moorline.policies.policy import Policy
from moorline.policies.retry import Retry
from moorline.sandbox.services import _slack_objects as made
from moorline.sandbox.services._slack_objects import ARCHIVED, BOT_USER, GENERAL, PRIVATE, RANDOM, RESPONSE_URL
from moorline.sandbox.services.slack import STAND_IN
from moorline.sandbox.standin import Ask, Emission, Surroundings
from moorline.services import slack_objects as objects
from moorline.services.business.slack import Slack
from moorline.services.slack_objects import SlackCommand, SlackEvent, SlackInteraction

Run = Callable[[Any], Any]
ADA, BOB = "U0ADA000001", "U0BOB000001"
BLOCKS = [{"type": "section", "text": {"type": "mrkdwn", "text": "*Build 42*"}}]
TS = "1785578400.000100"
SOON = datetime.now(UTC) + timedelta(hours=1)
CALLS: list[Callable[[Slack], Any]] = [
    lambda s: s.post_message(GENERAL, "Hi"),
    lambda s: s.update_message(GENERAL, TS, "Hi"),
    lambda s: s.delete_message(GENERAL, TS),
    lambda s: s.post_ephemeral(GENERAL, ADA, "Hi"),
    lambda s: s.schedule_message(GENERAL, SOON, "Hi"),
    lambda s: s.cancel_scheduled_message(GENERAL, "Q1"),
    lambda s: s.respond(RESPONSE_URL, "Hi"),
    lambda s: s.list_channels().page(),
    lambda s: s.list_messages(GENERAL).page(),
    lambda s: s.list_replies(GENERAL, TS).page(),
    lambda s: s.open_conversation([ADA]),
    lambda s: s.add_reaction(GENERAL, TS, "eyes"),
    lambda s: s.remove_reaction(GENERAL, TS, "eyes"),
    lambda s: s.find_user("ada@example.com"),
    lambda s: s.get_user(ADA),
    lambda s: s.upload_file(b"x", "x.txt"),
    lambda s: s.check(),
    lambda s: s.request("GET", "/api.test"),
]


class Steps:
    """A wire that answers each request by its method's name, or by the host that it goes to."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.requests: list[httpx2.Request] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        request.read()
        self.requests.append(request)
        name = request.url.path.rsplit("/", 1)[-1].replace(".", "_") if request.url.host == "slack.com" else "hook"
        answer = self.answers[name]
        return answer if isinstance(answer, httpx2.Response) else httpx2.Response(200, json={"ok": True, **answer})

    def service(self, **options: Any) -> Slack:
        return Slack("xoxb-canary", wire=httpx2.MockTransport(self), guards=Guards(), **options)


def answered(body: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Slack:
    """A service that is always answered that."""
    service: Slack = Recorder(status, json.dumps(body).encode(), headers).service(Slack, policy=Policy(retry=None))
    return service


# --- messages


def test_a_message_and_its_thread(box: Box, run: Run):
    """A message is posted with all that it holds, answered in its thread, changed and deleted."""
    slack = box.service(Slack)
    metadata = {"event_type": "build", "event_payload": {"id": 42}}
    posted = run(slack.post_message(GENERAL, "Grüße ⚓", blocks=BLOCKS, metadata=metadata, username="Harbour"))
    assert (posted.channel, posted.text, posted.bot_id, posted.warning) == (GENERAL, "Grüße ⚓", "B0BOT000001", None)
    [held] = box.state("slack")["messages"][GENERAL]
    assert (held["blocks"], held["metadata"], held["username"]) == (BLOCKS, metadata, "Harbour")
    reply = run(slack.post_message(GENERAL, "Log", thread_ts=posted.ts, reply_broadcast=True))
    assert reply.thread_ts == posted.ts
    changed = run(slack.update_message(GENERAL, posted.ts, "Fixed", blocks=[]))
    assert (changed.ts, changed.text) == (posted.ts, "Fixed")
    assert box.state("slack")["messages"][GENERAL][0]["blocks"] == []
    assert [one.ts for one in slack.list_replies(GENERAL, posted.ts)] == [posted.ts, reply.ts]
    assert [(one.ts, one.reply_count) for one in slack.list_messages(GENERAL)] == [(posted.ts, 1)]
    run(slack.delete_message(GENERAL, reply.ts))
    with pytest.raises(errors.NotFound) as gone:
        run(slack.delete_message(GENERAL, reply.ts))
    assert gone.value.code == "message_not_found"


def test_blocks_stay_unless_taken_away(box: Box, run: Run):
    """An update without blocks leaves the blocks that are there."""
    slack = box.service(Slack)
    posted = run(slack.post_message(GENERAL, "x", blocks=BLOCKS))
    run(slack.update_message(GENERAL, posted.ts, "y"))
    assert box.state("slack")["messages"][GENERAL][0]["blocks"] == BLOCKS


def test_for_one_alone_and_for_later(box: Box, run: Run):
    """An ephemeral message is seen by one; a scheduled one is kept until it is called off."""
    slack = box.service(Slack)
    assert run(slack.post_ephemeral(GENERAL, ADA, "psst"))
    [seen] = box.state("slack")["ephemeral"]
    assert (seen["user"], seen["text"]) == (ADA, "psst")
    planned = run(slack.schedule_message(GENERAL, SOON, "later"))
    assert (planned.channel, planned.post_at) == (GENERAL, SOON.replace(microsecond=0))
    run(slack.cancel_scheduled_message(GENERAL, planned.id))
    assert box.state("slack")["scheduled"] == {}
    with pytest.raises(errors.InvalidRequest) as gone:
        run(slack.cancel_scheduled_message(GENERAL, planned.id))
    assert gone.value.code == "invalid_scheduled_message_id"


def test_a_direct_message(box: Box, run: Run):
    """A conversation with one is opened, and the same one again; a group of several too."""
    slack = box.service(Slack)
    opened = run(slack.open_conversation([ADA]))
    assert (opened.id[0], opened.user, opened.name) == ("D", ADA, None)
    assert run(slack.open_conversation([ADA])).id == opened.id
    assert run(slack.post_message(ADA, "Hi")).channel == opened.id
    assert run(slack.open_conversation([ADA, BOB])).id.startswith("G")
    with pytest.raises(errors.NotFound):
        run(slack.open_conversation(["U0NOBODY001"]))


def test_reactions(box: Box, run: Run):
    """A reaction is added and taken back; twice is a conflict either way."""
    slack = box.service(Slack)
    posted = run(slack.post_message(GENERAL, "x"))
    run(slack.add_reaction(GENERAL, posted.ts, ":eyes:"))
    assert box.state("slack")["messages"][GENERAL][0]["reactions"][0]["name"] == "eyes"
    with pytest.raises(errors.Conflict, match="already_reacted"):
        run(slack.add_reaction(GENERAL, posted.ts, "eyes"))
    run(slack.remove_reaction(GENERAL, posted.ts, "eyes"))
    with pytest.raises(errors.Conflict, match="no_reaction"):
        run(slack.remove_reaction(GENERAL, posted.ts, "eyes"))


# --- channels and people


def test_channels_by_cursor(box: Box):
    """Pages that are empty, because all on them are archived, go on; the last cursor is an empty text."""
    slack = box.service(Slack)
    names = [one.name for one in slack.list_channels(page_size=5)]
    assert names == ["general", "random", *(f"berth-{n}" for n in (1, 2, 3, 4, 5, 21, 22, 23, 24, 25))]
    assert len(list(slack.list_channels(page_size=5, exclude_archived=False))) == 28
    [private] = slack.list_channels(types=["private_channel"])
    assert (private.id, private.is_private, private.members) == (PRIVATE, True, 3)


async def test_channels_by_cursor_async(box: Box):
    """The same on an event loop."""
    assert len([one async for one in box.service(Slack).list_channels(page_size=7)]) == 12


def test_messages_between_two_moments(box: Box, run: Run):
    """The newest come first, page after page; *oldest* and *latest* cut it at both ends."""
    slack = box.service(Slack)
    sent = [run(slack.post_message(GENERAL, str(n))).ts for n in range(5)]
    assert [one.text for one in slack.list_messages(GENERAL, page_size=2)] == ["4", "3", "2", "1", "0"]
    assert [one.text for one in slack.list_messages(GENERAL, oldest=sent[0], latest=sent[3])] == ["2", "1"]


def test_people(box: Box, run: Run):
    """Somebody is found by e-mail and by id."""
    slack = box.service(Slack)
    ada = run(slack.find_user("Ada@example.com"))
    assert (ada.id, ada.name, ada.real_name, ada.email) == (ADA, "ada", "Ada Lovelace", "ada@example.com")
    assert run(slack.get_user(ADA)) == ada
    assert "ada@example.com" not in repr(ada)
    assert run(slack.get_user(BOT_USER)).is_bot
    for wrong in (slack.find_user("nobody@example.com"), slack.get_user("U0NOBODY001")):
        with pytest.raises(errors.NotFound):
            run(wrong)


# --- files


def test_a_file_is_shared(box: Box, run: Run, tmp_path: Path):
    """Bytes, a path, or an Upload: the content arrives, with a title and a comment in the channel or thread."""
    slack = box.service(Slack)
    thread = run(slack.post_message(GENERAL, "Logs")).ts
    path = tmp_path / "build.log"
    path.write_bytes(b"line\n" * 100)
    seen: list[tuple[int, int | None]] = []
    first = run(slack.upload_file(b"hello", "a.txt", channel=GENERAL, initial_comment="see", thread_ts=thread))
    second = run(slack.upload_file(path, "build.log", title="Build 42"))
    run(slack.upload_file(Upload(b"abc", progress=lambda *told: seen.append(told)), "c.txt", alt_txt="c"))
    files = box.state("slack")["files"]
    assert [(one["content"][:5], one["title"], one["state"]) for one in files.values()] == [
        ("hello", "a.txt", "complete"),
        ("line\n", "Build 42", "complete"),
        ("abc", "c.txt", "complete"),
    ]
    assert (first.title, second.title, seen) == ("a.txt", "Build 42", [(3, 3)])
    shared = box.state("slack")["messages"][GENERAL][-1]
    assert (shared["text"], shared["thread_ts"], shared["files"]) == ("see", thread, [{"id": first.id}])


def test_the_token_stays_with_slacks_methods(run: Run):
    """The bytes go to files.slack.com without the token, and its address is in no repr."""
    url = "https://files.slack.com/upload/v1/ABC123secret"
    steps = Steps(
        files_getUploadURLExternal={"upload_url": url, "file_id": "F1"},
        hook=httpx2.Response(200, text="OK - 5"),
        files_completeUploadExternal={"files": [{"id": "F1", "title": "a.txt"}]},
    )
    call = steps.service().upload_file(b"hello", "a.txt", channel="C1")
    assert run(call).id == "F1"
    asked, sent, completed = steps.requests
    assert dict(parse_qsl(asked.content.decode())) == {"filename": "a.txt", "length": "5"}
    assert (str(sent.url), sent.method, sent.content) == (url, "POST", b"hello")
    assert "authorization" not in sent.headers
    assert asked.headers["authorization"] == completed.headers["authorization"] == "Bearer xoxb-canary"
    assert dict(parse_qsl(completed.content.decode())) == {
        "files": '[{"id": "F1", "title": "a.txt"}]',
        "channel_id": "C1",
    }
    assert "ABC123secret" not in repr(call) + call.explain()


@pytest.mark.parametrize(
    "url",
    ["https://evil.example/upload/v1/x", "http://files.slack.com/x", "https://files.slack.com.evil.example/x", "/x"],
)
def test_an_upload_goes_nowhere_else(run: Run, url: str):
    """An address that is none of Slack's gets nothing: neither bytes nor token."""
    steps = Steps(files_getUploadURLExternal={"upload_url": url, "file_id": "F1"})
    with pytest.raises(errors.BadAnswer) as caught:
        run(steps.service().upload_file(b"hello", "a.txt"))
    assert (caught.value.outcome, len(steps.requests), caught.value.operation) == ("not_sent", 1, "upload_file")
    assert url not in str(caught.value)
    with pytest.raises(errors.ConfigurationError, match="path must begin"):
        run(steps.service().request("POST", "https://evil.example/x"))


def test_an_upload_that_fails_was_not_shared(run: Run):
    """What goes wrong before the last step was not shared; a last step without an answer may have been."""
    asked = {"upload_url": "https://files.slack.com/upload/v1/x", "file_id": "F1"}
    steps = Steps(files_getUploadURLExternal=asked, hook=httpx2.Response(500, text="no"))
    with pytest.raises(errors.ServiceUnavailable) as caught:
        run(steps.service(policy=Policy(retry=None)).upload_file(b"hello", "a.txt"))
    assert caught.value.outcome == "not_sent"
    lost = Steps(
        files_getUploadURLExternal=asked,
        hook=httpx2.Response(200, text="OK - 5"),
        files_completeUploadExternal=httpx2.Response(200, json={"ok": False, "error": "fatal_error"}),
    )
    with pytest.raises(errors.ServiceUnavailable) as unknown:
        run(lost.service().upload_file(b"hello", "a.txt"))
    assert (unknown.value.outcome, unknown.value.code) == ("unknown", "fatal_error")


# --- answers to commands


def test_a_command_is_answered(box: Box, run: Run):
    """Five times, without a token, for all to see or for one; in the sandbox it stays in the sandbox."""
    slack = box.service(Slack)
    for number in range(4):
        run(slack.respond(RESPONSE_URL, f"step {number}", in_channel=number == 1))
    run(slack.respond(RESPONSE_URL, delete_original=True))
    told = box.state("slack")["responses"]
    assert [one["response_type"] for one in told[:2]] == ["ephemeral", "in_channel"]
    assert told[4] == {
        "path": "/hooks/commands/T0SANDBOX01/1234567890/sandboxsandboxsandbox",
        "response_type": "ephemeral",
        "delete_original": True,
    }
    with pytest.raises(errors.NotFound) as used:
        run(slack.respond(RESPONSE_URL, "once more"))
    assert used.value.code == "used_url"


def test_an_answer_goes_to_slack_without_the_token(run: Run):
    """It is sent to hooks.slack.com as Slack's own client sends it, and nowhere else; its address is in no repr."""
    steps = Steps(hook=httpx2.Response(200, text="ok"))
    slack = steps.service()
    call = slack.respond(RESPONSE_URL, "done", blocks=BLOCKS, replace_original=True)
    run(call)
    [request] = steps.requests
    assert (str(request.url), "authorization" in request.headers) == (RESPONSE_URL, False)
    theirs = inspect.signature(WebhookClient.send).parameters
    assert set(json.loads(request.content)) <= set(theirs)
    assert "sandboxsandbox" not in repr(call) + repr(call.plan)
    for wrong in (
        "https://evil.example/commands/T/1/x",
        "http://hooks.slack.com/commands/T/1/x",
        "https://hooks.slack.com@evil.example/commands/x",
        "https://hooks.slack.com/commands/../x?y",
    ):
        with pytest.raises(errors.InvalidRequest, match="response_url"):
            slack.respond(wrong, "done")


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"ok":false,"error":"expired_url"}', errors.InvalidRequest),
        (b"<html>", errors.BadAnswer),
        (b"", errors.BadAnswer),
    ],
)
def test_an_answer_that_is_not_taken(run: Run, body: bytes, kind: type[errors.CallError]):
    """An error that comes as JSON with a 200 is one, and so is what is neither."""
    steps = Steps(hook=httpx2.Response(200, content=body))
    with pytest.raises(kind) as caught:
        run(steps.service().respond(RESPONSE_URL, "done"))
    assert (caught.value.service, caught.value.operation) == ("slack", "respond")


# --- errors


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("not_authed", errors.AuthenticationFailed),
        ("invalid_auth", errors.AuthenticationFailed),
        ("account_inactive", errors.AuthenticationFailed),
        ("token_revoked", errors.AuthenticationFailed),
        ("token_expired", errors.AuthenticationFailed),
        ("missing_scope", errors.PermissionDenied),
        ("no_permission", errors.PermissionDenied),
        ("channel_not_found", errors.NotFound),
        ("users_not_found", errors.NotFound),
        ("message_not_found", errors.NotFound),
        ("not_in_channel", errors.Conflict),
        ("is_archived", errors.Conflict),
        ("cant_update_message", errors.Conflict),
        ("edit_window_closed", errors.Conflict),
        ("msg_too_long", errors.InvalidRequest),
        ("no_text", errors.InvalidRequest),
        ("invalid_blocks", errors.InvalidRequest),
        ("a_word_of_tomorrow", errors.InvalidRequest),
        ("ratelimited", errors.RateLimited),
        ("rate_limited", errors.RateLimited),
        ("internal_error", errors.ServiceUnavailable),
        ("fatal_error", errors.ServiceUnavailable),
        ("service_unavailable", errors.ServiceUnavailable),
        ("request_timeout", errors.ServiceUnavailable),
    ],
)
def test_a_failure_in_a_200(run: Run, code: str, kind: type[errors.CallError]):
    """``ok: false`` is a typed error with Slack's code."""
    slack = answered({"ok": False, "error": code})
    with pytest.raises(kind) as caught:
        run(slack.post_message(GENERAL, "x"))
    assert (caught.value.code, caught.value.status, type(caught.value)) == (code, 200, kind)
    assert caught.value.outcome == ("unknown" if kind is errors.ServiceUnavailable else "done")


def test_an_error_says_what_is_missing(box: Box, run: Run):
    """The scope that is needed, what was wrong with the blocks, and Slack's id of the request."""
    with pytest.raises(errors.PermissionDenied, match=r"needed: chat:write, provided: channels:read") as caught:
        run(box.service(Slack, "xoxb-read-1").post_message(GENERAL, "x"))
    assert caught.value.request_id
    with pytest.raises(errors.InvalidRequest, match="must be an array of blocks"):
        run(box.service(Slack).post_message(GENERAL, "x", blocks=[{"no": "type"}]))
    for key in ("xoxb-wrong", "xoxb-revoked", "xoxb-expired", "pat-1"):
        with pytest.raises(errors.AuthenticationFailed):
            run(box.service(Slack, key).check())
    for channel, kind in ((RANDOM, errors.Conflict), (ARCHIVED, errors.Conflict), ("C0NOWHERE01", errors.NotFound)):
        with pytest.raises(kind):
            run(box.service(Slack).post_message(channel, "x"))
    assert run(box.service(Slack).check()) is True


def test_a_warning_is_passed_on():
    """What Slack says of a message that it took is in the result."""
    body = {"ok": True, "channel": "C1", "ts": TS, "message": {"text": "x"}, "warning": "superfluous_charset"}
    posted = answered({**body, "response_metadata": {"messages": ["[WARN] cut"]}}).post_message("C1", "x").result()
    assert posted.warning == "superfluous_charset; [WARN] cut"
    assert posted.raw["warning"] == "superfluous_charset"


def test_what_only_reads_is_repeated(run: Run):
    """A failure in a 200 has a read sent again, and a message not: nobody knows whether it is there."""
    recorder = Recorder(200, b'{"ok": false, "error": "internal_error"}')
    slack = recorder.service(Slack, policy=Policy(retry=Retry(retries=2, base=0.001)))
    with pytest.raises(errors.ServiceUnavailable):
        run(slack.check())
    assert len(recorder.requests) == 3
    with pytest.raises(errors.ServiceUnavailable):
        run(slack.post_message(GENERAL, "x"))
    assert len(recorder.requests) == 4


@pytest.mark.parametrize("status", [200, 429])
def test_a_limit_holds_for_its_method_alone(run: Run, status: int):
    """``Retry-After`` is obeyed: the next message is not even sent, and another method passes."""
    recorder = Recorder(status, b'{"ok": false, "error": "ratelimited"}', {"Retry-After": "60"})
    slack = recorder.service(Slack, policy=Policy(deadline=5))
    for _ in range(2):
        with pytest.raises(errors.RateLimited) as caught:
            run(slack.post_message(GENERAL, "x"))
        assert caught.value.retry_at is not None
    assert len(recorder.requests) == 1
    recorder.answer = (200, b'{"ok": true, "user_id": "U1"}', {})
    assert run(slack.check()) is True


def test_a_lost_answer_is_unknown(box: Box, run: Run):
    """Slack honours no keys: a message whose answer was lost is not sent again."""
    box.arm(kind="dropped", processed=True)
    with pytest.raises(errors.OutcomeUnknown):
        run(box.service(Slack).post_message(GENERAL, "x"))
    assert len(box.state("slack")["messages"][GENERAL]) == 1


def test_an_update_is_sent_again(box: Box, run: Run):
    """Its answer may be lost: the second puts the same content there. It is no read, that could be shared or hedged."""
    slack = box.service(Slack)
    posted = run(slack.post_message(GENERAL, "x"))
    box.arm(kind="dropped", processed=True, method="POST")
    call = slack.update_message(GENERAL, posted.ts, "y")
    assert run(call).text == "y"
    assert not call.plan.reads
    assert not slack.open_conversation([ADA]).plan.reads


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda s: s.post_message(GENERAL), "text"),
        (lambda s: s.post_message(GENERAL, "x" * 40_001), "text"),
        (lambda s: s.post_message(GENERAL, blocks=BLOCKS * 51), "blocks"),
        (lambda s: s.post_message(GENERAL, markdown_text="x" * 12_001), "markdown_text"),
        (lambda s: s.post_message(GENERAL, "x", markdown_text="x"), "markdown_text"),
        (lambda s: s.post_message("", "x"), "channel"),
        (lambda s: s.post_message(GENERAL, "x", thread_ts=1785578400.0001), "thread_ts"),
        (lambda s: s.update_message(GENERAL, "now", "x"), "ts"),
        (lambda s: s.schedule_message(GENERAL, datetime.now(UTC), "x"), "post_at"),
        (lambda s: s.schedule_message(GENERAL, datetime.now(UTC) + timedelta(days=121), "x"), "post_at"),
        (lambda s: s.schedule_message(GENERAL, datetime(2030, 1, 1), "x"), "post_at"),  # noqa: DTZ001
        (lambda s: s.schedule_message(GENERAL, SOON, "x", metadata={}), "metadata"),
        (lambda s: s.open_conversation([]), "users"),
        (lambda s: s.open_conversation(ADA), "users"),
        (lambda s: s.open_conversation([ADA] * 9), "users"),
        (lambda s: s.find_user(" "), "email"),
        (lambda s: s.list_channels(page_size=1001), "page_size"),
        (lambda s: s.upload_file(b"", "x"), "file"),
        (lambda s: s.upload_file(Upload(iter([b"x"])), "x"), "file"),
        (lambda s: s.upload_file(b"x", ""), "filename"),
        (lambda s: s.upload_file(b"x", "x", alt_txt="x" * 1001), "alt_txt"),
    ],
)
def test_limits_are_checked_before_sending(make: Callable[[Slack], Any], field: str):
    """By name, and nothing is sent."""
    recorder = Recorder()
    with pytest.raises(errors.InvalidRequest, match=f"^{field}"):
        make(recorder.service(Slack))
    assert recorder.requests == []


# --- the contract, and Slack's own client


@pytest.mark.parametrize(
    "make",
    [
        lambda s: s.post_message("C123ABC456", "Hi", blocks=BLOCKS, thread_ts=TS, reply_broadcast=True),
        lambda s: s.post_message(
            "C123ABC456", "Hi", metadata={"event_type": "x", "event_payload": {}}, unfurl_links=False
        ),
        lambda s: s.update_message("C123ABC456", TS, "Hi", blocks=BLOCKS),
        lambda s: s.find_user("ada@example.com"),
        lambda s: s.list_channels().page(),
        lambda s: s.check(),
    ],
)
def test_requests_fit_the_contract(contracts_dir: Path, make: Callable[[Slack], Any]):
    """Every request that slack.json knows is valid by it: the body, or the names of the query."""
    recorder = Recorder(200, b'{"ok": false, "error": "no_text"}')
    with pytest.raises(errors.InvalidRequest):
        make(recorder.service(Slack)).result()
    [request] = recorder.requests
    contract, path = Contract(contracts_dir, "slack"), request.url.path.removeprefix("/api")
    kind = request.headers.get("content-type", "application/json")
    assert contract.request_problems(request.method, path, request.content, kind) == []
    if request.method == "GET":
        known = {one["name"] for one in contract.document["paths"][path]["get"].get("parameters", [])}
        assert set(request.url.params) <= known
    else:
        assert kind == "application/json; charset=utf-8"


@pytest.mark.parametrize("make", [one for one in CALLS if "upload" not in inspect.getsource(one)][:15])
def test_arguments_are_those_of_slacks_client(make: Callable[[Slack], Any]):
    """Every argument that we send is one that slack_sdk's method of that name takes."""
    recorder = Recorder(200, b'{"ok": false, "error": "no_text"}')
    call = make(recorder.service(Slack))
    if call.operation in ("respond", "request"):
        return
    with pytest.raises(errors.InvalidRequest):
        call.result()
    [request] = recorder.requests
    method = getattr(WebClient, request.url.path.removeprefix("/api/").replace(".", "_"))
    sent = set(request.url.params) | set(json.loads(request.content or b"{}"))
    assert sent <= set(inspect.signature(method).parameters)


def test_answers_fit_the_contract(box: Box, contracts_dir: Path):
    """The stand-in's answers, good ones and errors, are what slack.json describes; that the blocks of an updated message
    were one object is a mistake of its.
    """
    contract, slack = Contract(contracts_dir, "slack"), box.service(Slack)
    posted = slack.post_message(GENERAL, "x", blocks=BLOCKS).result()
    asked: list[tuple[str, str, Any]] = [
        ("POST", "/chat.postMessage", slack.post_message(GENERAL, "x", thread_ts=posted.ts)),
        ("POST", "/chat.update", slack.update_message(GENERAL, posted.ts, "x", blocks=[])),
        ("GET", "/users.lookupByEmail", slack.find_user("bob@example.com")),
        ("GET", "/conversations.list", slack.list_channels().page()),
        ("GET", "/auth.test", slack.check()),
    ]
    for method, path, call in asked:
        body = call.response().result().body
        assert contract.answer_problems(method, path, 200, body) == [], path
    for wrong, code in (
        (slack.post_message("C0", "x"), "channel_not_found"),
        (slack.find_user("x@y.example"), "users_not_found"),
    ):
        with pytest.raises(errors.NotFound) as caught:
            wrong.result()
        body = json.dumps({"ok": False, "error": caught.value.code}).encode()
        assert caught.value.code == code
        assert contract.answer_problems("POST", "/chat.postMessage", 599, body) == []


def test_slacks_own_client_and_the_stand_in(box: Box, tmp_path: Path):
    """slack_sdk's WebClient and WebhookClient post, thread, page, upload and answer through the stand-in."""
    client = WebClient("xoxb-sandbox", base_url=f"{box.url}/slack/")
    assert client.auth_test()["user_id"] == BOT_USER
    posted = client.chat_postMessage(channel="#general", text="Hi", blocks=BLOCKS)
    client.chat_postMessage(channel=GENERAL, text="Log", thread_ts=posted["ts"])
    assert [one["text"] for one in client.conversations_replies(channel=GENERAL, ts=posted["ts"])["messages"]] == [
        "Hi",
        "Log",
    ]
    assert client.chat_update(channel=GENERAL, ts=posted["ts"], text="Ho")["text"] == "Ho"
    client.reactions_add(channel=GENERAL, name="eyes", timestamp=posted["ts"])
    names = [
        one["name"] for page in client.conversations_list(limit=10, exclude_archived=True) for one in page["channels"]
    ]
    assert len(names) == 12
    assert client.users_lookupByEmail(email="ada@example.com")["user"]["id"] == ADA
    assert client.conversations_open(users=[ADA])["channel"]["id"].startswith("D")
    assert client.chat_postEphemeral(channel=GENERAL, user=ADA, text="psst")["message_ts"]
    planned = client.chat_scheduleMessage(channel=GENERAL, post_at=int(SOON.timestamp()), text="later")
    client.chat_deleteScheduledMessage(channel=GENERAL, scheduled_message_id=planned["scheduled_message_id"])
    uploaded = client.files_upload_v2(filename="a.txt", content="hello", channel=GENERAL, initial_comment="see")
    assert uploaded["file"]["id"] in box.state("slack")["files"]
    client.chat_delete(channel=GENERAL, ts=posted["ts"])
    with pytest.raises(SlackApiError) as caught:
        client.api_test(error="foo")
    assert caught.value.response["error"] == "foo"
    hook = WebhookClient(f"{box.url}/slack/hooks/commands/T1/1/x").send(text="done", response_type="in_channel")
    assert (hook.status_code, hook.body) == (200, "ok")


# --- events


def delivered(event: str) -> Event:
    """What the stand-in sends of that event, verified."""
    stand_in = STAND_IN.make(Surroundings())
    emission = Emission(event, stand_in.sample(event), "x")
    signed = stand_in.sign(emission, url="https://shop.example", secrets=("s",), hook_id="1", broken=False)
    stamp, signature = signed.headers["X-Slack-Request-Timestamp"], signed.headers["X-Slack-Signature"]
    assert SignatureVerifier("s").is_valid(emission.body, stamp, signature)
    return verify(Slack, headers=signed.headers, body=emission.body, secrets="s")


def test_messages_and_reactions_are_events():
    """Who said what where, and where a reply belongs; a reaction names its message."""
    said = Slack.read_event(delivered("app_mention"))
    assert isinstance(said, SlackEvent)
    assert (said.type, said.user, said.channel, said.by_bot) == ("app_mention", ADA, GENERAL, False)
    assert said.text.endswith("is it up?")
    assert said.reply_to == said.ts
    assert said.at is not None
    reaction = Slack.read_event(delivered("reaction_added"))
    assert isinstance(reaction, SlackEvent)
    assert (reaction.reaction, reaction.channel, reaction.user) == ("eyes", GENERAL, ADA)
    assert reaction.ts


def test_an_edit_has_the_new_text():
    """The text, the writer and the ts are those of the message as it is now."""
    inner = {
        "type": "message",
        "subtype": "message_changed",
        "channel": "C1",
        "ts": "1785578401.000001",
        "message": {"type": "message", "user": "U1", "text": "new", "ts": TS, "thread_ts": TS, "bot_id": "B1"},
    }
    body = json.dumps({"type": "event_callback", "event_id": "Ev1", "team_id": "T1", "event": inner}).encode()
    found = Slack.read_event(Event("slack", "Ev1", "message", body))
    assert isinstance(found, SlackEvent)
    assert (found.subtype, found.text, found.ts, found.user, found.thread_ts) == (
        "message_changed",
        "new",
        TS,
        "U1",
        TS,
    )
    assert found.by_bot


@pytest.mark.parametrize(
    ("inner", "channel", "user"),
    [
        ({"type": "channel_created", "channel": {"id": "C1", "name": "new", "creator": "U1"}}, "C1", None),
        ({"type": "user_change", "user": {"id": "U1", "name": "ada"}}, None, "U1"),
        ({"type": "file_shared", "channel_id": "C1", "file_id": "F1", "user_id": "U1"}, "C1", "U1"),
        ({"type": "pin_added", "user": "U1", "item": {"type": "message", "channel": "C1", "message": {}}}, "C1", "U1"),
        ({"type": "team_join"}, None, None),
    ],
)
def test_events_name_things_in_their_ways(inner: dict[str, Any], channel: str | None, user: str | None):
    """By an id, by an object that has one, or under another name."""
    body = json.dumps({"type": "event_callback", "event_id": "Ev1", "event": inner}).encode()
    found = Slack.read_event(Event("slack", "Ev1", inner["type"], body))
    assert isinstance(found, SlackEvent)
    assert (found.type, found.channel, found.user) == (inner["type"], channel, user)


def test_a_command_is_read():
    """With its words, who gave it, and where it is answered; that address is a secret."""
    found = Slack.read_event(delivered("command"))
    assert isinstance(found, SlackCommand)
    assert (found.command, found.text, found.user, found.channel) == ("/deploy", "api to production", ADA, GENERAL)
    assert found.response_url == RESPONSE_URL
    assert "sandboxsandbox" not in repr(found)


def test_interactions_are_read():
    """A button's action and message, a dialog's values, a shortcut's name."""
    pressed, sent, chosen = (
        Slack.read_event(delivered(one)) for one in ("block_actions", "view_submission", "shortcut")
    )
    assert isinstance(pressed, SlackInteraction)
    assert isinstance(sent, SlackInteraction)
    assert isinstance(chosen, SlackInteraction)
    assert (pressed.name, pressed.channel, pressed.actions[0]["value"]) == ("approve", GENERAL, "42")
    assert pressed.ts
    assert pressed.response_url
    assert (sent.name, sent.values["reason"]["why"]["value"]) == ("ask", "late")
    assert (chosen.name, chosen.channel, chosen.user) == ("new_ticket", None, ADA)


def test_a_limit_of_events_is_one():
    """``app_rate_limited`` says since when deliveries were dropped."""
    body = b'{"type":"app_rate_limited","team_id":"T1","minute_rate_limited":1518467820,"api_app_id":"A1"}'
    found = Slack.read_event(Event("slack", "1", "app_rate_limited", body))
    assert isinstance(found, SlackEvent)
    assert (found.team_id, found.at) == ("T1", datetime.fromtimestamp(1518467820, UTC))
    assert Slack.read_event(Event("slack", "1", "tokens_revoked", b'{"type":"workflow_step_edit"}')) is None


_words = st.sampled_from(
    ["type", "event", "user", "channel", "item", "message", "ts", "text", "view", "actions", "state"]
)
_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=5)
    | st.sampled_from(["event_callback", "block_actions"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_words, inner, max_size=5),
    max_leaves=12,
)


@given(value=_json, kind=st.sampled_from(["message", "command", "block_actions"]))
def test_odd_events_are_typed_errors(value: Any, kind: str):
    """Whatever was signed, reading it gives a value or BadAnswer."""
    event = Event("slack", "1", kind, json.dumps(value).encode())
    with contextlib.suppress(errors.BadAnswer):
        Slack.read_event(event)


_STAND_IN = STAND_IN.make(Surroundings())
_SAID = {**made.message(TS, {"text": "x", "thread_ts": TS}), "channel": GENERAL, "reply_count": 1, "subtype": "a"}
_READERS: list[tuple[Callable[[Any], Any], Any]] = [
    (objects.message_of, _SAID),
    (objects.channel_of, made.channel(GENERAL, "general")),
    (objects.user_of, made.user(ADA, "ada", "Ada Lovelace")),
    (objects.file_of, {"id": "F1", "title": "a", "name": "b", "mimetype": "c", "permalink": "d"}),
]


@settings(max_examples=40)
@given(data=st.data())
@pytest.mark.parametrize(("reader", "whole"), _READERS, ids=[reader.__name__ for reader, _ in _READERS])
def test_mangled_objects_are_bad_answers(reader: Callable[[Any], Any], whole: Any, data: st.DataObject):
    """A value of the wrong kind, or one less, at whatever depth, gives a value or BadAnswer."""
    assert reader(whole).raw
    with contextlib.suppress(errors.BadAnswer):
        reader(data.draw(mangled(whole)))


@settings(max_examples=40)
@given(data=st.data())
@pytest.mark.parametrize("name", STAND_IN.events)
def test_mangled_events_are_bad_answers(name: str, data: st.DataObject):
    """The same of whole deliveries, forms and JSON."""
    event = Event("slack", "1", name, _STAND_IN.sample(name))
    form = {"content-type": "application/x-www-form-urlencoded"} if name == "command" else {}
    whole = Event("slack", "1", name, event.body, form).payload
    with contextlib.suppress(errors.BadAnswer):
        Slack.read_event(Event("slack", "1", name, json.dumps(data.draw(mangled(whole))).encode()))


async def test_the_stand_in_tells_what_happens():
    """A message of the app's own comes back as an event, which says that a bot wrote it."""
    emitted: list[Emission] = []
    stand_in = STAND_IN.make(Surroundings(emit=emitted.append))
    headers = {"authorization": "Bearer xoxb-1", "content-type": "application/json"}
    body = json.dumps({"channel": GENERAL, "text": "x"}).encode()
    await stand_in.handle(Ask("POST", "/chat.postMessage", "", headers, body, "http://sandbox/slack"))
    [emission] = emitted
    told = Slack.read_event(Event("slack", emission.id, emission.event, emission.body))
    assert isinstance(told, SlackEvent)
    assert (told.type, told.id, told.by_bot, told.text) == ("message", emission.id, True, "x")


def test_text_is_escaped():
    """The three signs that Slack's markup has, and no others."""
    assert Slack.escape('<@U1> & "co"') == '&lt;@U1&gt; &amp; "co"'


def test_it_survives_a_queue(box: Box):
    """A Call comes out of a queue as it went in; an upload of a source that may be gone does not go in."""
    slack = box.service(Slack)
    call = slack.schedule_message(GENERAL, SOON, "Hi", blocks=BLOCKS)
    again = Call.from_payload(json.loads(json.dumps(call.to_payload())), lambda name: slack)
    assert again.result().channel == GENERAL
    with pytest.raises(errors.MoorlineError):
        slack.upload_file(Upload(b"x"), "x").to_payload()
