"""Which secrets count, and when: the environment, a rotation with an end, and the name of the one that had signed."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.events.schemes import NOW, STRIPE

from moorline.clock import ManualClock
from moorline.errors import ConfigurationError
from moorline.events import Inbox, Receiver
from moorline.events.accepting import EnvironmentSecrets, named
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
async def test_an_end_that_is_no_moment_closes_the_address(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, until: str
) -> None:
    """Better nothing than a secret that never ends; the variable is named to the operator alone."""
    monkeypatch.setenv(NAME, "new")
    monkeypatch.setenv(f"{NAME}_PREVIOUS", "old")
    monkeypatch.setenv(f"{NAME}_PREVIOUS_UNTIL", until)
    assert await status(receiver, "new") == 404
    with pytest.raises(ConfigurationError, match=f"{NAME}_PREVIOUS_UNTIL"):
        EnvironmentSecrets({"stripe": STRIPE}.get)("stripe")


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


@pytest.mark.parametrize("more", [b"x", gzip.compress(b"more")])
async def test_what_follows_a_compressed_body_is_refused(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, more: bytes
) -> None:
    """It would be lost, and the delivery acknowledged."""
    monkeypatch.setenv(NAME, "s")
    monkeypatch.setattr(gzip, "compress", lambda body, whole=gzip.compress: whole(body) + more)
    assert await status(receiver, "s", encoding="gzip") == 400
