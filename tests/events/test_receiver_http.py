"""The receiver behind a real server: what a sender sees on the wire."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from tests.events.schemes import GITHUB

from moorline.events import Inbox, Receiver
from moorline.store import Store

BODY = b'{"zen":"Responsive is better than fast."}'
LIMIT = 64 * 1024


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """The port of a receiver of GitHub's webhooks with a small limit and little patience."""
    ready = threading.Event()

    class Server(uvicorn.Server):
        async def startup(self, sockets: object = None) -> None:
            await super().startup(sockets)  # type: ignore[arg-type]
            ready.set()

    with Store(f"sqlite:///{tmp_path / 'inbox.db'}") as store:
        receiver = Receiver(
            Inbox(store),
            lambda _: ["s3cret"],
            {"github": GITHUB}.get,
            max_body=LIMIT,
            body_timeout=0.3,
        )
        server = Server(uvicorn.Config(receiver, port=0, log_level="critical", http="httptools", lifespan="off"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        assert ready.wait(10)
        try:
            yield server.servers[0].sockets[0].getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(10)


def _head(path: str = "/webhooks/github", *, method: str = "POST", body: bytes = BODY, **more: str) -> bytes:
    signed = GITHUB.sign(body, "s3cret")
    headers = {
        "Host": "localhost",
        "Content-Type": "application/json",
        "X-GitHub-Event": "ping",
        "X-GitHub-Delivery": "d-1",
        **signed,
        **{name.replace("_", "-"): value for name, value in more.items()},
    }
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def _answer(port: int, *parts: bytes) -> tuple[int, str]:
    """Send the parts, read the answer's head and body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        async with asyncio.timeout(10):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
        return int(head.split()[1]), head.lower()
    finally:
        writer.close()


async def test_a_signed_delivery_is_stored(port: int):
    """200, and 200 again for its duplicate."""
    for _ in range(2):
        assert (await _answer(port, _head(Content_Length=str(len(BODY))), BODY))[0] == 200


async def test_a_chunked_body_past_the_limit_is_413(port: int):
    """The limit counts what arrives: no Content-Length announces it."""
    chunk = b"%x\r\n%s\r\n" % (16_384, b"x" * 16_384)
    status, _ = await _answer(port, _head(Transfer_Encoding="chunked"), *([chunk] * 5), b"0\r\n\r\n")
    assert status == 413


async def test_an_announced_body_past_the_limit_is_413(port: int):
    """A body that is announced too large is refused, and the sender sees why."""
    body = b"x" * (LIMIT + 1)
    assert (await _answer(port, _head(Content_Length=str(len(body))), body))[0] == 413


async def test_a_chunked_body_within_the_limit_is_stored(port: int):
    """Chunks are joined before the signature is checked."""
    chunks = [b"%x\r\n%s\r\n" % (len(part), part) for part in (BODY[:10], BODY[10:])]
    assert (await _answer(port, _head(Transfer_Encoding="chunked"), *chunks, b"0\r\n\r\n"))[0] == 200


async def test_a_body_that_does_not_come_is_cut(port: int):
    """408 after the body's time, and the connection is closed: a slow sender holds nothing."""
    status, head = await _answer(port, _head(Content_Length=str(len(BODY))), BODY[:5])
    assert status == 408
    assert "connection: close" in head


@pytest.mark.parametrize(
    ("head", "status", "said"),
    [
        (_head(method="PUT", Content_Length=str(len(BODY))), 405, "allow: post"),
        (_head(Content_Length=str(len(BODY)), Content_Encoding="br"), 415, "accept-encoding: gzip, deflate"),
        (_head("/webhooks/nobody", Content_Length=str(len(BODY))), 404, ""),
        (_head("/", Content_Length=str(len(BODY))), 404, ""),
        (_head(Content_Length=str(len(BODY)), X_Hub_Signature_256="sha256=00"), 401, ""),
    ],
)
async def test_what_is_refused_on_the_wire(port: int, head: bytes, status: int, said: str):
    """Method, media type, encoding, service and signature each have their status, and the header that goes with it."""
    seen, answered = await _answer(port, head, BODY)
    assert seen == status
    assert said in answered
