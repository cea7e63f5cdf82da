"""A sandbox for each test, and the examples as applications that answer on a real port."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx2
import pytest
from tests.serving import served

from moorline.sandbox import server

ROOT = Path(__file__).resolve().parents[2]
KEYS = (
    "STRIPE_SECRET_KEY",
    "SENDGRID_API_KEY",
    "GITHUB_TOKEN",
    "STRIPE_WEBHOOK_SECRET",
    "GITHUB_WEBHOOK_SECRET",
    "GOOGLE_CLIENT_ID",
    "GOOGLE_CLIENT_SECRET",
    "MOORLINE_ENCRYPTION_KEY",
    "MOORLINE_SIGN_IN__PROVIDERS",
)


class Sandbox:
    """The control routes of a served sandbox."""

    def __init__(self, url: str, client: httpx2.Client) -> None:
        self.url = url
        self.client = client

    def arm(self, **fault: Any) -> None:
        """Arm one fault."""
        self.client.post("/_sandbox/faults", json=fault).raise_for_status()

    def calm(self) -> None:
        """Disarm all faults."""
        self.client.delete("/_sandbox/faults").raise_for_status()

    def state(self, service: str) -> dict[str, Any]:
        """What a stand-in holds."""
        held: dict[str, Any] = self.client.get("/_sandbox/state", params={"service": service}).json()[service]
        return held

    def target(self, service: str, url: str, **options: Any) -> str:
        """Send this service's webhooks there; gives the target's id."""
        record = {"service": service, "url": url, "ping": False, **options}
        return str(self.client.post("/_sandbox/webhooks", json=record).raise_for_status().json()["id"])

    def deliver(self, service: str, event: str, **query: Any) -> list[int]:
        """Send one webhook; gives the statuses that came back."""
        params = {"service": service, "event": event, **query}
        answer = self.client.post("/_sandbox/deliver", params=params).raise_for_status().json()
        return [int(one["status"] or 0) for one in answer["deliveries"]]


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """A fresh sandbox, to which the environment points every service; the database lies in a folder of the test's."""
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MOORLINE_DATABASE_URL", f"sqlite:///{tmp_path / 'test.db'}")
    monkeypatch.chdir(tmp_path)
    with server.running(seed=5) as url, httpx2.Client(base_url=url, timeout=20, trust_env=False) as client:
        monkeypatch.setenv("MOORLINE_SANDBOX_URL", url)
        yield Sandbox(url, client)


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Import a file of the repository afresh, under a name of its own."""

    def fresh(path: str) -> ModuleType:
        name = "loaded_" + path.replace("/", "_").removesuffix(".py")
        spec = importlib.util.spec_from_file_location(name, ROOT / path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)  # annotations are looked up there
        spec.loader.exec_module(module)
        return module

    return fresh


@pytest.fixture
def serve() -> Iterator[Callable[[Any], str]]:
    """Serve an ASGI application with its lifespan until the test is over; gives its URL."""
    with contextlib.ExitStack() as stack:
        yield lambda application: stack.enter_context(served(application))
