"""A served sandbox for all tests of services, and both ways of sending a Call."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import httpx2
import pytest
from tests.object_servers import FakeGcsServer, SeaweedServer

from moorline.calls.call import Call
from moorline.calls.guards import Guards
from moorline.calls.parameters import parameters_of
from moorline.calls.service import Service
from moorline.policies.policy import Policy
from moorline.sandbox import server

S = TypeVar("S", bound=Service)


def sandbox_key(kind: type[Service], url: str) -> str:
    """The credential that the stand-in takes. ``{sandbox}`` in one stands for the sandbox's address."""
    return kind.credentials.sandbox.replace("{sandbox}", url)


class Box:
    """The control API of the served sandbox, and services that talk to it."""

    def __init__(self, url: str, client: httpx2.Client) -> None:
        self.url = url
        self.client = client

    def service(self, kind: type[S], key: str | None = None, **options: Any) -> S:
        """A service at the sandbox, with guards of its own."""
        options.setdefault("guards", Guards())
        for name, parameter in parameters_of(kind).items():
            options.setdefault(name, parameter.sandbox or None)
        options.setdefault("base_url", f"{self.url}/{kind.name}")
        return kind(key or sandbox_key(kind, self.url), **options)

    def arm(self, **fault: Any) -> None:
        """Arm one fault, for one request unless told otherwise."""
        response = self.client.post("/_sandbox/faults", json={"count": 1, **fault})
        assert response.status_code == 201, response.text

    def state(self, service: str) -> Any:
        """What the stand-in holds."""
        return self.client.get("/_sandbox/state", params={"service": service}).json()[service]

    def seen(self) -> list[dict[str, Any]]:
        """The requests that arrived."""
        found: list[dict[str, Any]] = self.client.get("/_sandbox/requests").json()["requests"]
        return found


@pytest.fixture(scope="package", autouse=True)
def _nobodys_aws() -> Iterator[None]:
    """A region, and no keys, profile or metadata service of who runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [one for one in os.environ if one.startswith("AWS_")]:
            patch.delenv(name)
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            patch.setenv(name, "/nonexistent")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_REGION", "us-east-1")
        yield


@pytest.fixture(scope="package")
def served() -> Iterator[str]:
    """The address of the sandbox."""
    with server.running(seed=3) as url:
        yield url


@pytest.fixture
def box(served: str) -> Iterator[Box]:
    """The sandbox, empty."""
    with httpx2.Client(base_url=served, trust_env=False) as client:
        client.post("/_sandbox/reset")
        yield Box(served, client)


@pytest.fixture(params=["sync", "async"])
def run(request: pytest.FixtureRequest) -> Callable[[Call[Any]], Any]:
    """Send a Call, once blocking and once on an event loop."""

    async def awaited(call: Call[Any]) -> Any:
        return await call

    if request.param == "sync":
        return lambda call: call.result()
    return lambda call: asyncio.run(awaited(call))


@pytest.fixture
def impatient() -> Policy:
    """No retries, no breaker, short attempts."""
    return Policy(deadline=5.0, attempt_timeout=0.3, retry=None, breaker=None)


@pytest.fixture(scope="session")
def seaweed() -> Iterator[SeaweedServer]:
    """SeaweedFS, as S3."""
    with SeaweedServer() as running:
        yield running


@pytest.fixture(scope="session")
def fake_gcs() -> Iterator[FakeGcsServer]:
    """fake-gcs-server."""
    with FakeGcsServer() as running:
        yield running
