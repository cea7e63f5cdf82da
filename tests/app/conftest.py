"""Applications on a clean environment, and a sandbox for their services."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from moorline import Moorline
from moorline.clock import ManualClock
from moorline.sandbox import server
from moorline.services import GitHub

SECRET = "app-tests-webhook-secret"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings but a test's own, and a secret for GitHub's webhooks."""
    for name in list(os.environ):
        if name.startswith(("MOORLINE_", "GITHUB_", "STRIPE_", "SENDGRID_")) and not name.startswith("MOORLINE_TEST"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("GITHUB_WEBHOOK_SECRET", SECRET)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def app(tmp_path: Path, clock: ManualClock) -> Moorline:
    """An application on SQLite, not opened, whose time moves when told."""
    return Moorline(f"sqlite:///{tmp_path}/app.db", clock=clock)


@pytest.fixture
def push() -> Callable[..., dict[str, Any]]:
    """``push(id, event, action)``: content and headers of one of GitHub's deliveries, signed."""

    def make(identity: str, event: str = "push", action: str | None = None) -> dict[str, Any]:
        said = '"ref":"main"' if action is None else f'"action":"{action}"'
        body = f'{{{said},"after":"{identity}"}}'.encode()  # the same content again would be the same event
        named = {"X-GitHub-Event": event, "X-GitHub-Delivery": identity, "X-GitHub-Hook-ID": "1"}
        return {
            "content": body,
            "headers": {**GitHub.webhooks.sign(body, SECRET), **named, "Content-Type": "application/json"},
        }

    return make


class Box:
    """The control API of a served sandbox."""

    def __init__(self, client: httpx2.Client) -> None:
        self.client = client

    def arm(self, **fault: Any) -> None:
        """Arm one fault, for one request unless told otherwise."""
        response = self.client.post("/_sandbox/faults", json={"count": 1, **fault})
        assert response.status_code == 201, response.text

    def disarm(self) -> None:
        self.client.delete("/_sandbox/faults")

    def state(self, service: str) -> Any:
        """What the stand-in holds."""
        return self.client.get("/_sandbox/state", params={"service": service}).json()[service]

    def seen(self, service: str, path: str) -> list[dict[str, Any]]:
        """The POSTs that arrived there."""
        requests = self.client.get("/_sandbox/requests").json()["requests"]
        return [one for one in requests if (one["service"], one["path"], one["method"]) == (service, path, "POST")]


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    """The address of a sandbox."""
    with server.running(seed=11) as url:
        yield url


@pytest.fixture
def box(served: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    """The sandbox, empty, with every service pointed at it."""
    monkeypatch.setenv("MOORLINE_SANDBOX_URL", served)
    with httpx2.Client(base_url=served, trust_env=False) as client:
        client.post("/_sandbox/reset")
        yield Box(client)
