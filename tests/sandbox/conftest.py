"""A sandbox in this process, and one on a real port."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import httpx2
import pytest

from moorline.sandbox import server


@pytest.fixture(scope="package")
def sandbox_url() -> Iterator[str]:
    """The address of a sandbox served by uvicorn, for what can only be seen on the wire."""
    with server.running(seed=7) as url:
        yield url


@pytest.fixture
def wire(sandbox_url: str) -> Iterator[httpx2.Client]:
    """A client of the served sandbox, which starts empty."""
    with httpx2.Client(base_url=sandbox_url, trust_env=False) as client:
        client.post("/_sandbox/reset")
        yield client


@pytest.fixture
async def box() -> AsyncIterator[httpx2.AsyncClient]:
    """A client of a fresh sandbox in this process."""
    transport = httpx2.ASGITransport(app=server.create_app(seed=7))
    async with httpx2.AsyncClient(transport=transport, base_url="http://sandbox") as client:
        yield client
