"""Which secrets count, and when: the environment, a rotation with an end, and the name of the one that had signed."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.events.schemes import NOW, STRIPE

from moorline.clock import ManualClock
from moorline.errors import ConfigurationError
from moorline.events import Inbox, Receiver, Scheme
from moorline.events.accepting import EnvironmentSecrets, named
from moorline.events.delivery import Delivery
from moorline.events.schemes.hmac_signature import HMACSignature
from moorline.events.schemes.standard_webhooks import StandardWebhooks
from moorline.secrets import Secret
from moorline.store.store import Store

NAME = "STRIPE_WEBHOOK_SECRET"
BODY = b'{"id":"evt_1","object":"event","type":"charge.refunded"}'


@pytest.fixture
def clock() -> ManualClock:
    """Time that moves when told."""
    return ManualClock(NOW)


@pytest.fixture
def inbox(tmp_path: Path) -> Iterator[Inbox]:
    """An inbox over SQLite."""
    with Store(f"sqlite:///{tmp_path / 'moorline.db'}") as store:
        yield Inbox(store)


@pytest.fixture
def receiver(inbox: Inbox, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> Receiver:
    """One that reads its secrets from the environment, which is empty."""
    for name in (NAME, f"{NAME}_PREVIOUS", f"{NAME}_PREVIOUS_UNTIL"):
        monkeypatch.delenv(name, raising=False)
    return Receiver(inbox, schemes={"stripe": STRIPE}.get, clock=clock)


async def status(receiver: Receiver, secret: str, now: float = NOW, number: int = 1, encoding: str = "") -> int:
    """What a delivery that this secret signed is answered."""
    body = BODY.replace(b"evt_1", b"evt_%d" % number)
    signed = STRIPE.sign(body, secret, now=now)
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": gzip.compress(body) if encoding else body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    raw = [(name.lower().encode(), value.encode()) for name, value in {**signed, "Content-Encoding": encoding}.items()]
    scope = {"type": "http", "method": "POST", "path": "/webhooks/stripe", "headers": raw}
    await receiver(scope, receive, send)
    code: int = sent[0]["status"]
    return code


@pytest.mark.parametrize("until", [str(int(NOW) + 100), "2026-09-21T14:15:00Z", "2026-09-21T16:15:00+02:00"])
async def test_a_previous_secret_counts_until_its_end(
    receiver: Receiver, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, until: str
) -> None:
    """To the second, by our clock, without a restart; the current one goes on."""
    monkeypatch.setenv(NAME, "new")
    monkeypatch.setenv(f"{NAME}_PREVIOUS", "old")
    monkeypatch.setenv(f"{NAME}_PREVIOUS_UNTIL", until)
    assert await status(receiver, "old") == 200
    clock.advance(99)
    assert await status(receiver, "old", NOW + 99) == 200
    clock.advance(1)
    assert await status(receiver, "old", NOW + 100) == 401
    assert await status(receiver, "new", NOW + 100) == 200


@pytest.mark.parametrize("until", ["tomorrow", "2026-09-21", "2026-09-21T14:15:00", "-5"])
async def test_an_end_that_is_no_moment_drops_the_previous_secret_alone(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, until: str
) -> None:
    """Better none than a secret that never ends; the current one goes on, and the variable is logged once."""
    monkeypatch.setenv(NAME, "new")
    monkeypatch.setenv(f"{NAME}_PREVIOUS", "old")
    monkeypatch.setenv(f"{NAME}_PREVIOUS_UNTIL", until)
    with caplog.at_level("WARNING"):
        assert await status(receiver, "new") == 200
        assert await status(receiver, "new", number=2) == 200
        assert await status(receiver, "old") == 401
    assert len([one for one in caplog.records if "secret_unusable" in one.getMessage()]) == 1
    monkeypatch.delenv(NAME)
    assert await status(receiver, "old") == 503  # set, and of no use: the sender comes again
    with pytest.raises(ConfigurationError, match=f"{NAME}_PREVIOUS_UNTIL"):
        EnvironmentSecrets({"stripe": STRIPE}.get)("stripe")


GOOD = base64.b64encode(b"k" * 24).decode()


@pytest.mark.parametrize(
    ("scheme", "bad", "good"),
    [
        (StandardWebhooks(), "whsec_!", GOOD),
        (HMACSignature(env="X", header="x", type="t", key="hex"), "no hex", "00ff"),
    ],
)
def test_one_malformed_key_of_several_does_not_stop_the_others(scheme: Scheme, bad: str, good: str) -> None:
    """It is left out; alone it is an error of configuration, which says what is wrong with it."""
    delivery = Delivery({name.lower(): value for name, value in scheme.sign(b"{}", good, id="m").items()}, b"{}")
    for secrets in ([bad, good], [good, bad]):
        assert scheme.check(delivery, secrets).secret_index == secrets.index(good)
    with pytest.raises(ConfigurationError, match="secrets: "):
        scheme.check(delivery, [bad])


async def test_the_secret_that_had_signed_is_named(
    receiver: Receiver, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its variable, and which of several in it, so that an operator sees when the old one can go; never itself."""
    monkeypatch.setenv(NAME, "first,second")
    monkeypatch.setenv(f"{NAME}_PREVIOUS", "third")
    for number, secret in enumerate(["first", "second", "third"], 1):
        assert await status(receiver, secret, number=number) == 200
    stored = {event.id: event for event in await inbox.recent()}
    assert [(event.secret, event.secret_index) for _, event in sorted(stored.items())] == [
        (NAME, 0),
        (f"{NAME}#2", 1),
        (f"{NAME}_PREVIOUS", 2),
    ]
    assert not {"first", "second", "third"} & {text for event in stored.values() for text in repr(event).split()}


def test_a_secret_without_a_name_has_none():
    """What is given as plain text, or is beyond the list, is called nothing."""
    assert named(["plain", Secret("x")], 0) == named(["plain", Secret("x")], 1) == named([], 3) == ""


def test_secrets_are_made_again_only_when_the_environment_changes(monkeypatch: pytest.MonkeyPatch):
    """A rotation is seen at the next delivery; until then the same objects are given."""
    monkeypatch.delenv(f"{NAME}_PREVIOUS", raising=False)
    secrets = EnvironmentSecrets({"stripe": STRIPE}.get, lambda _: ["sandbox"])
    monkeypatch.delenv(NAME, raising=False)
    assert secrets("stripe") == ["sandbox"]
    assert secrets("nobody") == ()
    monkeypatch.setenv(NAME, "a")
    first = secrets("stripe")
    assert secrets("stripe") is first
    monkeypatch.setenv(NAME, "b")
    assert [one.reveal() for one in secrets("stripe") if isinstance(one, Secret)] == ["b"]


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", " gzip ", "X-Gzip"])
async def test_a_content_encoding_is_named_in_any_case(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    """As HTTP has it."""
    monkeypatch.setenv(NAME, "s")
    assert await status(receiver, "s", encoding=encoding) == 200


@pytest.mark.parametrize("more", [b"x", gzip.compress(b"more", mtime=0)])
async def test_what_follows_a_compressed_body_is_refused(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, more: bytes
) -> None:
    """It would be lost, and the delivery acknowledged."""
    monkeypatch.setenv(NAME, "s")
    monkeypatch.setattr(gzip, "compress", lambda body, whole=gzip.compress: whole(body) + more)
    assert await status(receiver, "s", encoding="gzip") == 400


async def test_what_is_not_set_is_named_to_the_operator(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    """The redactor leaves the variable's name in the line."""
    with caplog.at_level("WARNING"):
        assert await status(receiver, "s") == 404
    assert f"{NAME} is not set" in caplog.text
