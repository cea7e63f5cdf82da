from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import Any

import pytest
from slack_sdk.webhook import WebhookClient
from tests.services.conftest import Box
from tests.services.recorder import Recorder

from moorline import errors
from moorline.calls.call import Call
from moorline.policies.policy import Policy
from moorline.services.business.slack_webhook import SlackWebhook

Run = Callable[[Any], Any]
BASE = "https://hooks.slack.com/services/T0SANDBOX01/B0SANDBOX01/"
KEY = BASE + "canarycanarycanary"
BLOCKS = [{"type": "divider"}]
CALLS: list[Callable[[SlackWebhook], Any]] = [
    lambda s: s.send("Hi"),
    lambda s: s.check(),
]


def test_a_message_is_posted(box: Box, run: Run):
    """With its blocks and whatever else was given; Slack's own client posts to the same stand-in."""
    hook = box.service(SlackWebhook)
    assert run(hook.send("Grüße", blocks=BLOCKS, unfurl_links=False, attachments=[{"text": "x"}])) is None
    assert (
        WebhookClient(f"{box.url}/slack_webhook/services/T0SANDBOX01/B0SANDBOX01/x1234567").send(text="Hi").body == "ok"
    )
    assert box.state("slack_webhook")["messages"] == [
        {"text": "Grüße", "blocks": BLOCKS, "unfurl_links": False, "attachments": [{"text": "x"}]},
        {"text": "Hi"},
    ]


def test_the_address_is_a_secret(run: Run):
    """It is where the message goes, and shows in no repr, error or story."""
    recorder = Recorder(500, b"rollup_error")
    hook = recorder.service(SlackWebhook, key=KEY, policy=Policy(retry=None))
    call = hook.send("Hi")
    with pytest.raises(errors.ServiceUnavailable) as caught:
        run(call)
    [request] = recorder.requests
    assert str(request.url) == KEY
    assert set(json.loads(request.content)) <= set(inspect.signature(WebhookClient.send).parameters)
    assert "authorization" not in request.headers
    assert "canary" not in repr(hook) + repr(call) + repr(call.plan) + str(caught.value) + call.explain()


@pytest.mark.parametrize(
    "key", ["https://evil.example/services/T1/B1/x", "xoxb-1", "http://hooks.slack.com/services/T/B/x"]
)
def test_only_slacks_addresses_are_posted_to(key: str):
    """Another one is refused, without being shown."""
    recorder = Recorder()
    with pytest.raises(errors.ConfigurationError, match="the key must be") as caught:
        recorder.service(SlackWebhook, key=key).send("Hi")
    assert key not in str(caught.value)
    assert recorder.requests == []


@pytest.mark.parametrize(
    ("address", "kind", "code"),
    [
        ("gone1234", errors.AuthenticationFailed, "no_service"),
        ("wrong123", errors.AuthenticationFailed, "invalid_token"),
        ("archived", errors.Conflict, "channel_is_archived"),
        ("busy1234", errors.ServiceUnavailable, "rollup_error"),
    ],
)
def test_refusals_are_typed(
    box: Box, run: Run, impatient: Policy, address: str, kind: type[errors.CallError], code: str
):
    """By their plain words: a dead address is the credential's fault; the health check says so too."""
    hook = box.service(SlackWebhook, BASE + address, policy=impatient)
    for call in (hook.send("Hi"), hook.check()):
        with pytest.raises(kind) as caught:
            run(call)
        assert caught.value.code == code


def test_the_check_posts_nothing(box: Box, run: Run):
    """A good address refuses a message without content, and that is the proof."""
    assert run(box.service(SlackWebhook).check()) is True
    assert box.state("slack_webhook")["messages"] == []


def test_a_limit_is_waited_for(run: Run):
    """``Retry-After`` is obeyed."""
    recorder = Recorder(429, b"rate_limited", {"Retry-After": "30"})
    with pytest.raises(errors.RateLimited) as caught:
        run(recorder.service(SlackWebhook, key=KEY, policy=Policy(deadline=5)).send("Hi"))
    assert caught.value.retry_at is not None
    assert len(recorder.requests) == 1


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"maybe", errors.BadAnswer),
        (b'{"ok":false,"error":"invalid_auth"}', errors.AuthenticationFailed),
        (b'{"ok":true}', None),
        (b"ok\n", None),
    ],
)
def test_what_a_200_says(run: Run, body: bytes, kind: type[errors.CallError] | None):
    """``ok`` is one, as is a workflow's JSON; anything else is none."""
    call = Recorder(200, body).service(SlackWebhook, key=KEY).send("Hi")
    if kind is None:
        assert run(call) is None
        return
    with pytest.raises(kind):
        run(call)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda s: s.send(), "text"),
        (lambda s: s.send("x" * 40_001), "text"),
        (lambda s: s.send(blocks=BLOCKS * 51), "blocks"),
        (lambda s: s.send("x", thread_ts="now"), "thread_ts"),
    ],
)
def test_limits_are_checked_before_sending(make: Callable[[SlackWebhook], Any], field: str):
    """By name, and nothing is sent."""
    recorder = Recorder()
    with pytest.raises(errors.InvalidRequest, match=f"^{field}"):
        make(recorder.service(SlackWebhook, key=KEY))
    assert recorder.requests == []


def test_it_survives_a_queue(box: Box):
    """A Call comes out of a queue as it went in, and the address is not in it."""
    hook = box.service(SlackWebhook)
    payload = json.dumps(hook.send("Hi", blocks=BLOCKS).to_payload())
    assert "sandboxsandbox" not in payload
    assert Call.from_payload(json.loads(payload), lambda name: hook).result() is None
