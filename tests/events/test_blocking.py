"""What only the blocking driver must see to: what it reads, and what it tells the operator."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from pathlib import Path

import pytest
from tests.events.schemes import GITHUB

from moorline.clock import ManualClock
from moorline.errors import StoreOverloaded
from moorline.events import Event, Inbox, Receiver
from moorline.events.answers import Answers
from moorline.events.blocking import BlockingReceiver
from moorline.store.store import Store


class Asked:
    """A blocking receiver of GitHub's, with a count of what it read of bodies."""

    def __init__(self, inbox: Inbox, max_body: int = 100) -> None:
        intake = Receiver(inbox, lambda _: ["s"], {"github": GITHUB}.get, max_body=max_body).intake
        self.receiver = BlockingReceiver(intake, clock=ManualClock(1000.0))
        self.read = 0

    def status(self, **headers: str) -> int:
        """The answer to a request with these headers."""

        def read(most: int) -> bytes:
            self.read += most
            return b""

        return self.receiver.respond(
            "github", method="POST", headers={name.replace("_", "-"): value for name, value in headers.items()},
            query="", scheme="https", host="h", path="/webhooks/github", client=None, read=read,
        ).status  # fmt: skip


def test_a_body_that_is_announced_too_large_is_not_read(tmp_path: Path):
    """Its length is looked at first."""
    with Store(f"sqlite:///{tmp_path / 'moorline.db'}") as store:
        asked = Asked(Inbox(store))
        assert asked.status(content_length="101") == 413
        assert asked.read == 0
        assert asked.status(content_length="100") == 401
        assert asked.read > 0


def test_an_overload_is_told_once_and_not_noted_for_each_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """As under ASGI: a line a second in the log, and nothing among the refused requests."""
    with Store(f"sqlite:///{tmp_path / 'moorline.db'}") as store:
        inbox = Inbox(store)

        def full(_waited: float = 0.0) -> None:
            raise StoreOverloaded("the queue is full")

        monkeypatch.setattr(inbox, "admit", full)
        asked = Asked(inbox)
        with caplog.at_level(logging.WARNING):
            assert [asked.status() for _ in range(3)] == [503] * 3
        told = [record.getMessage() for record in caplog.records]
        assert len([line for line in told if "receiver_overloaded" in line]) == 1
        assert not [line for line in told if "event_refused" in line]


def test_a_late_answer_is_not_waited_for_whatever_it_has_begun(tmp_path: Path):
    """Neither threads nor tasks of the answering function hold up the sender."""
    ended = threading.Event()
    answers = Answers({"github": "github"}.__getitem__)

    @answers.on("github", within=0.1)
    async def slow(_event: Event) -> str:
        await asyncio.to_thread(ended.wait, 20.0)
        return "late"

    body, headers = b'{"a": 1}', {"x-github-event": "push", "x-github-delivery": "1", "x-github-hook-id": "1"}
    headers |= {name.lower(): value for name, value in GITHUB.sign(body, "s").items()}
    with Store(f"sqlite:///{tmp_path / 'moorline.db'}") as store:
        intake = Receiver(Inbox(store), lambda _: ["s"], {"github": GITHUB}.get, answers=answers).intake
        parts = [b"", body]
        begun = time.monotonic()
        reply = BlockingReceiver(intake).respond(
            "github", method="POST", headers=headers, query="", scheme="https", host="h", path="/webhooks/github",
            client=None, read=lambda _: parts.pop(),
        )  # fmt: skip
        took = time.monotonic() - begun
        ended.set()
    assert (reply.status, reply.body) == (200, b'{"status":"stored"}')
    assert took < 10
