"""What the receiver answers, called as ASGI servers call it."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.events.schemes import GITHUB, NOW, SENDERS, STRIPE

from moorline.clock import ManualClock
from moorline.errors import ConfigurationError, StoreOverloaded, StoreUnavailable
from moorline.events import Event, Handlers, Inbox, Receiver, Scheme, Stored
from moorline.events.receiver import MAX_BODY
from moorline.services import GitHub
from moorline.store.store import Store

Rows = Callable[[str], list[Any]]
GITHUB_SENDER, STRIPE_SENDER = SENDERS[:2]
SECRETS = {"github": ["new secret", GITHUB_SENDER.secret], "stripe": [STRIPE_SENDER.secret]}


class Answer:
    """What was sent back."""

    def __init__(self, sent: list[Any]) -> None:
        start, body = sent
        self.status: int = start["status"]
        self.headers = {name.decode(): value.decode() for name, value in start["headers"]}
        self.body: bytes = body["body"]


async def post(
    receiver: Receiver,
    body: bytes | Iterable[Any] = b"",
    headers: dict[str, str] | None = None,
    path: str = "/webhooks/github",
    method: str = "POST",
    **scope: Any,
) -> Answer | None:
    """One request; ``body`` may be parts, or messages as the server would give them. None when nothing was answered."""
    parts = [body] if isinstance(body, bytes) else list(body)
    messages = [
        part if isinstance(part, dict) else {"type": "http.request", "body": part, "more_body": index < len(parts) - 1}
        for index, part in enumerate(parts)
    ]
    sent: list[Any] = []

    async def receive() -> Any:
        if not messages:
            await asyncio.Event().wait()
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
    await receiver(
        {"type": "http", "method": method, "path": path, "headers": raw, "query_string": b""} | scope, receive, send
    )
    return Answer(sent) if sent else None


async def status(*arguments: Any, **options: Any) -> int:
    answer = await post(*arguments, **options)
    assert answer is not None
    return answer.status


class FakeInbox(Inbox):
    """Keeps events in a list, or fails as told."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.failure: Exception | None = None

    def admit(self, waited: float = 0.0) -> None:
        """There is always room."""

    async def add(self, event: Event) -> Stored:
        """Keep it."""
        if self.failure:
            raise self.failure
        self.events.append(event)
        return Stored("x", duplicate=False)


def receiver_on(inbox: Inbox, **options: Any) -> Receiver:
    schemes: dict[str, Scheme] = {"github": GITHUB, "stripe": STRIPE, "unset": GITHUB}
    arguments: dict[str, Any] = {"clock": ManualClock(NOW)} | options
    return Receiver(inbox, lambda service: SECRETS.get(service, ()), schemes.get, **arguments)


@pytest.fixture
def fake() -> FakeInbox:
    return FakeInbox()


@pytest.fixture
def receiver(fake: FakeInbox) -> Receiver:
    return receiver_on(fake)


async def test_a_good_delivery_is_stored_and_answered(receiver: Receiver, fake: FakeInbox):
    """200 with JSON; the event has the bytes, the facts, the clock's time and the number of the secret."""
    answer = await post(receiver, GITHUB_SENDER.body, GITHUB_SENDER.signed())
    assert answer is not None
    assert (answer.status, json.loads(answer.body)) == (200, {"status": "stored"})
    assert answer.headers == {"content-type": "application/json", "content-length": str(len(answer.body))}
    (event,) = fake.events
    assert (event.service, event.id, event.name, event.body) == (
        "github",
        "7:0b98",
        "pull_request.opened",
        GITHUB_SENDER.body,
    )
    assert (event.received_at, event.secret_index) == (NOW, 1)


async def test_the_body_may_come_in_parts(receiver: Receiver, fake: FakeInbox):
    """However a server cuts the body, it is verified and stored whole."""
    body = GITHUB_SENDER.body
    for parts in ([body, b""], [b"", body], [body[:5], body[5:6], body[6:]], [bytes([byte]) for byte in body]):
        assert await status(receiver, parts, GITHUB_SENDER.signed()) == 200
    assert {event.body for event in fake.events} == {body}


@pytest.mark.parametrize("headers", [{}, {"Content-Type": "application/json; charset=utf-8"}])
async def test_stripe_is_received_the_same_way(receiver: Receiver, fake: FakeInbox, headers: dict[str, str]):
    """Another scheme, the same road."""
    signed = STRIPE_SENDER.signed() | headers
    assert await status(receiver, STRIPE_SENDER.body, signed, path="/webhooks/stripe") == 200
    assert fake.events[0].timestamp == NOW


async def test_every_refusal_of_a_signature_looks_the_same(receiver: Receiver, fake: FakeInbox):
    """Missing, malformed, of another secret, over another body, stale, future: one answer, byte for byte."""
    stripe, body = STRIPE_SENDER, STRIPE_SENDER.body
    attempts = [
        (body, {}),
        (body, {"Stripe-Signature": "nonsense"}),
        (body, {"Stripe-Signature": "t=1,v1=zz"}),
        (body, stripe.signed(stripe.other)),
        (body + b" ", stripe.signed()),
        (b"not json", stripe.signed()),
        (body, stripe.signed(now=NOW - 301)),
        (body, stripe.signed(now=NOW + 301)),
    ]
    answers = [await post(receiver, sent, headers, path="/webhooks/stripe") for sent, headers in attempts]
    seen = {(one.status, one.body, tuple(sorted(one.headers.items()))) for one in answers if one}
    assert len(seen) == 1
    assert seen.pop()[:2] == (401, b'{"error":"unauthorized"}')
    assert fake.events == []


async def test_unknown_and_unconfigured_services_look_the_same(receiver: Receiver):
    """From outside one cannot tell which services exist, which have a secret, or whether a path means anything."""
    paths = ["unknown", "unset", "", "github/", "github/x", "../github", "GitHub", "x" * 5000, "\x00", "\udcff"]
    answers = [
        await post(receiver, b"", path=f"/webhooks/{path}", method=method)
        for path in paths
        for method in ("POST", "GET")
    ]
    answers += [await post(receiver, b"", path=path) for path in ("/", "/webhooks", "/other/github", "github", "")]
    assert {(one.status, one.body) for one in answers if one} == {(404, b'{"error":"not found"}')}


async def test_a_probe_finds_the_endpoint(receiver: Receiver, fake: FakeInbox):
    """HEAD is answered 200 and empty where a delivery would be taken, 404 elsewhere; nothing is stored."""
    answer = await post(receiver, b"", method="HEAD")
    assert answer is not None
    assert (answer.status, answer.body, fake.events) == (200, b"", [])
    assert await status(receiver, b"", path="/webhooks/unset", method="HEAD") == 404


@pytest.mark.parametrize("method", ["GET", "PUT", "OPTIONS", "DELETE"])
async def test_only_post_is_allowed(receiver: Receiver, method: str):
    """405 says what is allowed."""
    answer = await post(receiver, GITHUB_SENDER.body, GITHUB_SENDER.signed(), method=method)
    assert answer is not None
    assert (answer.status, answer.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON;charset=UTF-8", "text/plain", "\xff"])
async def test_what_the_body_is_called_does_not_matter(receiver: Receiver, kind: str):
    """The signature says whether it is the sender's, and SNS calls its JSON text/plain."""
    assert await status(receiver, GITHUB_SENDER.body, GITHUB_SENDER.signed() | {"Content-Type": kind}) == 200


async def test_a_form_is_taken(receiver: Receiver, fake: FakeInbox):
    """GitHub's form content type carries the JSON in ``payload``."""
    body = b"payload=%7B%22action%22%3A%22opened%22%7D"
    signed = GITHUB_SENDER.signed(body=body) | {"Content-Type": "application/x-www-form-urlencoded"}
    assert await status(receiver, body, signed) == 200
    assert fake.events[0].payload == {"action": "opened"}


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "identity"])
async def test_a_compressed_body_is_checked_as_it_was_before(receiver: Receiver, fake: FakeInbox, encoding: str):
    """What the sender signed is what it had before it was compressed on its way; that is stored."""
    squeeze: Any = {"gzip": gzip.compress, "deflate": zlib.compress, "identity": bytes}[encoding]
    headers = GITHUB_SENDER.signed() | {"Content-Encoding": encoding}
    assert await status(receiver, squeeze(GITHUB_SENDER.body), headers) == 200
    assert fake.events[0].body == GITHUB_SENDER.body


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (gzip.compress(b" " * (MAX_BODY + 1), mtime=0), 413),
        (gzip.compress(b" " * 10**8, mtime=0), 413),
        (gzip.compress(b"{}", mtime=0)[:-9], 400),
        (b"not compressed", 400),
        (b"", 400),
    ],
)
async def test_a_compressed_body_is_bounded_after_inflation(fake: FakeInbox, body: bytes, expected: int):
    """A bomb ends at the limit of a plain body; what cannot be inflated is no event."""
    headers = GITHUB_SENDER.signed() | {"Content-Encoding": "gzip"}
    assert await status(receiver_on(fake, max_body=MAX_BODY), body, headers) == expected


async def test_an_unknown_content_encoding_is_refused(receiver: Receiver):
    """The answer names those that are known."""
    answer = await post(receiver, GITHUB_SENDER.body, GITHUB_SENDER.signed() | {"Content-Encoding": "br"})
    assert answer is not None
    assert (answer.status, answer.headers["accept-encoding"]) == (415, "gzip, deflate")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"{not json}", b'{"a":1}}', b"payload=%7B", b"[" * 100_000])
async def test_a_signed_body_that_is_no_event_is_unusable(receiver: Receiver, fake: FakeInbox, body: bytes):
    """Signed well and not a JSON object: 400, nothing stored, for senders of either kind."""
    for sender in (GITHUB_SENDER, STRIPE_SENDER):
        path = f"/webhooks/{sender.name}"
        assert await status(receiver, body, sender.signed(body=body), path=path) == 400, sender.name
    assert fake.events == []


@pytest.mark.parametrize("missing", ["X-GitHub-Delivery", "X-GitHub-Event"])
async def test_a_delivery_without_id_or_type_is_unusable(receiver: Receiver, missing: str):
    """What cannot be deduplicated or handed on is refused."""
    headers = GITHUB_SENDER.signed()
    del headers[missing]
    assert await status(receiver, GITHUB_SENDER.body, headers) == 400


async def test_a_thin_event_is_unusable(receiver: Receiver):
    """Stripe's events without data are refused."""
    body = b'{"id":"evt_1","object":"v2.core.event","type":"x"}'
    assert await status(receiver, body, STRIPE_SENDER.signed(body=body), path="/webhooks/stripe") == 400


@pytest.mark.parametrize(
    "body",
    [[b"x" * 101], [b"x" * 60, b"x" * 41], [b"x" * 60, b"x" * 60, b"x" * 60], [b"x"] * 101],
    ids=["one", "two", "three", "many"],
)
async def test_a_body_over_the_limit_is_refused_however_it_comes(fake: FakeInbox, body: list[bytes]):
    """413 and the end of the connection, without a Content-Length too."""
    receiver = receiver_on(fake, max_body=100)
    answer = await post(receiver, body, GITHUB_SENDER.signed(body=b"".join(body)))
    assert answer is not None
    assert (answer.status, answer.headers["connection"]) == (413, "close")
    assert fake.events == []


async def test_a_body_of_the_limit_is_taken(fake: FakeInbox):
    """The limit itself is allowed, one byte more is not; by default it is what GitHub may send, else a mebibyte."""
    body = b'{"a":"' + b"x" * 92 + b'"}'
    assert await status(receiver_on(fake, max_body=100), body, GITHUB_SENDER.signed(body=body)) == 200
    for sender, limit in ((GITHUB_SENDER, 25 * 1024 * 1024), (STRIPE_SENDER, 1024 * 1024)):
        for size, expected in ((limit, 200), (limit + 1, 413)):
            body = b'{"id":"1","a":"' + b"x" * (size - 17) + b'"}'
            path = f"/webhooks/{sender.name}"
            assert await status(receiver_on(fake), body, sender.signed(body=body), path) == expected


async def test_an_announced_giant_is_refused_before_it_is_sent(receiver: Receiver):
    """Nobody reads gigabytes to say no, nor invites a client that asks first."""
    never: list[Any] = []
    assert await status(receiver, never, {"Content-Length": str(10**12)}) == 413
    assert await status(receiver, never, {"Content-Length": str(3 * 10**7), "Expect": "100-continue"}) == 413
    assert await status(receiver, GITHUB_SENDER.body, GITHUB_SENDER.signed() | {"Content-Length": "\xb2"}) == 200


async def test_a_slow_body_is_cut(fake: FakeInbox):
    """A body that does not come, or comes in drops, is given up: 408 and the end of the connection."""
    receiver = receiver_on(fake, body_timeout=0.05)
    started: list[Any] = [{"type": "http.request", "body": b"{", "more_body": True}]
    for messages in ([], started):
        answer = await post(receiver, messages, GITHUB_SENDER.signed())
        assert answer is not None
        assert (answer.status, answer.headers["connection"]) == (408, "close")


async def test_a_sender_that_leaves_gets_nothing_and_leaves_nothing(receiver: Receiver, fake: FakeInbox):
    """Half a body is no event, even if half of it was signed."""
    body = GITHUB_SENDER.body
    left = {"type": "http.disconnect"}
    half = {"type": "http.request", "body": body, "more_body": True}
    for messages in ([left], [half, left]):
        assert await post(receiver, messages, GITHUB_SENDER.signed()) is None
    assert fake.events == []


async def test_a_store_that_is_down_or_full_asks_the_sender_to_come_again(receiver: Receiver, fake: FakeInbox):
    """503 with Retry-After, in whole seconds."""
    for failure, seconds in [
        (StoreUnavailable("down: password=hunter2"), "5"),
        (StoreOverloaded("full", retry_after=2.2), "3"),
        (StoreOverloaded("full", retry_after=0), "1"),
    ]:
        fake.failure = failure
        answer = await post(receiver, GITHUB_SENDER.body, GITHUB_SENDER.signed())
        assert answer is not None
        assert (answer.status, answer.headers["retry-after"]) == (503, seconds)
        assert b"hunter2" not in answer.body


async def test_a_closed_store_is_a_store_that_is_down(tmp_path: Any):
    """Before the start and after the end of the application senders are asked to come again."""
    store = Store(f"sqlite:///{tmp_path / 'x.db'}")
    receiver = receiver_on(Inbox(store))
    assert await status(receiver, GITHUB_SENDER.body, GITHUB_SENDER.signed()) == 503
    store.open()
    assert await status(receiver, GITHUB_SENDER.body, GITHUB_SENDER.signed()) == 200
    store.close()
    assert await status(receiver, GITHUB_SENDER.body, GITHUB_SENDER.signed()) == 503


async def test_secrets_are_asked_for_at_each_request(fake: FakeInbox):
    """A rotation needs no restart, and a secret that cannot be loaded closes the route."""
    secrets: list[Any] = ["old"]

    def load(_service: str) -> list[Any]:
        if not secrets:
            raise ConfigurationError("GITHUB_WEBHOOK_SECRET is not valid UTF-8")
        return secrets

    receiver = Receiver(fake, load, {"github": GITHUB}.get)
    headers = GITHUB_SENDER.signed("new")
    assert await status(receiver, GITHUB_SENDER.body, headers) == 401
    secrets.append("new")
    assert await status(receiver, GITHUB_SENDER.body, headers) == 200
    for broken in ([], [""]):
        secrets[:] = broken
        assert await status(receiver, GITHUB_SENDER.body, headers) == 503


async def test_secrets_come_from_the_environment_by_default(fake: FakeInbox, monkeypatch: pytest.MonkeyPatch):
    """The scheme's variable and its _PREVIOUS, looked at each time."""
    receiver = Receiver(fake, schemes={"github": GITHUB}.get)
    monkeypatch.delenv("GITHUB_WEBHOOK_SECRET", raising=False)
    deliver = [GITHUB_SENDER.body, GITHUB_SENDER.signed("first")]
    assert await status(receiver, *deliver) == 404
    monkeypatch.setenv("GITHUB_WEBHOOK_SECRET", "other")
    assert await status(receiver, *deliver) == 401
    monkeypatch.setenv("GITHUB_WEBHOOK_SECRET_PREVIOUS", "first")
    assert await status(receiver, *deliver) == 200
    assert fake.events[0].secret_index == 1


async def test_it_can_be_mounted_anywhere(fake: FakeInbox):
    """Below a mount, with the path given whole or without the mount, and under another prefix."""
    deliver = [GITHUB_SENDER.body, GITHUB_SENDER.signed()]
    receiver = receiver_on(fake)
    assert await status(receiver, *deliver, path="/in/webhooks/github", root_path="/in") == 200
    assert await status(receiver, *deliver, path="/webhooks/github", root_path="/in") == 200
    assert await status(receiver, *deliver, path="/webhooks/github", root_path="/web") == 200
    assert await status(receiver, *deliver, path="/in/webhooks/github", root_path="/in/") == 200
    assert await status(receiver_on(fake, prefix="/hooks/"), *deliver, path="/hooks/github") == 200


async def test_a_path_of_the_host_is_no_refused_webhook(receiver: Receiver, caplog: pytest.LogCaptureFixture):
    """Mounted at the root it gets whatever the host does not know: that looks as before, and is not told."""
    with caplog.at_level(logging.INFO, logger="moorline"):
        for path in ("/favicon.ico", "/", "/webhooks", "/webhooks/no"):
            assert await status(receiver, b"{}", path=path) == 404
    assert [one.getMessage() for one in caplog.records if "event_refused" in one.getMessage()] == [
        "event_refused service='no' status=404 reason='no such service'"
    ]


async def test_the_operator_reads_why_and_no_secret(receiver: Receiver, caplog: pytest.LogCaptureFixture):
    """The log names the reason of a refusal, and holds neither secret nor signature nor body."""
    headers = GITHUB_SENDER.signed("wrong")
    with caplog.at_level(logging.INFO, logger="moorline"):
        await post(receiver, GITHUB_SENDER.body, headers)
    assert "mismatch" in caplog.text
    assert "event_refused" in caplog.text
    for hidden in (*SECRETS["github"], "wrong", headers["X-Hub-Signature-256"][7:], "opened"):
        assert hidden not in caplog.text


@pytest.mark.parametrize(("argument", "value"), [("max_body", 0), ("body_timeout", 0), ("body_timeout", float("nan"))])
def test_limits_that_make_no_sense_are_named(fake: FakeInbox, argument: str, value: float):
    """A receiver that could never answer 200 is not made."""
    with pytest.raises(ConfigurationError, match=argument):
        receiver_on(fake, **{argument: value})


async def test_served_alone_it_starts_and_stops(receiver: Receiver):
    """It answers the server's lifespan messages, and closes a WebSocket."""
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await receiver({"type": "lifespan"}, receive, send)
    await receiver({"type": "websocket"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete", "websocket.close"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    headers=st.dictionaries(
        st.sampled_from(["stripe-signature", "x-hub-signature-256", "content-length", "content-type", "expect", "x"]),
        st.text(st.characters(max_codepoint=255), max_size=60),
    ),
    parts=st.lists(st.binary(max_size=80), min_size=1, max_size=4),
    service=st.sampled_from(["stripe", "github", "unset", "x"]) | st.text(max_size=20),
)
async def test_no_request_breaks_it(
    receiver: Receiver, fake: FakeInbox, headers: dict[str, str], parts: list[bytes], service: str
):
    """Whatever comes, the answer is a refusal of the table, and nothing is stored."""
    answered = await status(receiver, parts, headers, path=f"/webhooks/{service}")
    assert answered in {401, 404, 413, 415}
    assert fake.events == []


async def test_three_deliveries_at_once_are_one_event(store: Store, rows: Rows):
    """Concurrent duplicates are all answered 200; one event, one job for each handler, two duplicates counted."""
    handlers = Handlers()
    handlers.on(GitHub, "pull_request", name="a")(len)
    handlers.on(GitHub, "pull_request.opened", name="b")(len)
    inbox = Inbox(store, handlers)
    receiver = receiver_on(inbox)
    answers = await asyncio.gather(*[post(receiver, GITHUB_SENDER.body, GITHUB_SENDER.signed()) for _ in range(3)])
    assert sorted(one.body for one in answers if one) == [
        b'{"status":"duplicate"}',
        b'{"status":"duplicate"}',
        b'{"status":"stored"}',
    ]
    assert rows("SELECT count(*), max(duplicates) FROM events") == [(1, 2)]
    assert rows("SELECT name FROM jobs ORDER BY name") == [("event:a",), ("event:b",)]
    assert await status(receiver, GITHUB_SENDER.body, GITHUB_SENDER.signed()) == 200
    assert rows("SELECT count(*) FROM jobs") == [(2,)]


async def test_an_answer_waits_for_the_commit(fake: FakeInbox):
    """As long as the inbox has not answered, neither has the receiver."""
    committed = asyncio.Event()

    class Slow(FakeInbox):
        async def add(self, event: Event) -> Stored:
            await committed.wait()
            return await super().add(event)

    task = asyncio.ensure_future(post(receiver_on(Slow()), GITHUB_SENDER.body, GITHUB_SENDER.signed()))
    done, _ = await asyncio.wait([task], timeout=0.05)
    assert not done
    committed.set()
    answer = await task
    assert answer is not None
    assert answer.status == 200
