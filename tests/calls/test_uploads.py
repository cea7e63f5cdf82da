"""Bodies that are sent in parts: never whole in memory, inside the deadline, and sent again only from their start."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.calls import fault_server
from tests.calls.fault_server import FaultServer
from tests.calls.ledger import CANARY, Ledger, both, run
from tests.servers import until

from moorline import Upload, errors
from moorline.app import Moorline
from moorline.calls.exchange import Plan
from moorline.calls.guards import Guards
from moorline.policies.bulkhead import Bulkhead
from moorline.policies.policy import Policy
from moorline.policies.retry import Retry

LARGE = 200 << 20
SOON = Retry(2, base=0.01)


class Receiver:
    """A server that reads bodies by their framing, and answers with their size and digest, or as told."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.complete = 0

    async def __call__(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        digest, size = hashlib.sha256(), 0
        async for part in _body(head, reader):
            digest.update(part)
            size += len(part)
        self.complete += 1
        status = self.statuses.pop(0) if self.statuses else 200
        body = json.dumps({"size": size, "digest": digest.hexdigest()}).encode()
        writer.write(b"HTTP/1.1 %d Said\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))
        await writer.drain()


async def _body(head: bytes, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    fields = dict(line.lower().split(b": ", 1) for line in head.strip().split(b"\r\n")[1:])
    if fields.get(b"transfer-encoding") == b"chunked":
        while size := int(await reader.readline(), 16):
            yield await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readexactly(2)
        return
    left = int(fields[b"content-length"])
    while left:
        part = await reader.read(min(left, 1 << 18))
        if not part:
            raise asyncio.IncompleteReadError(b"", left)
        left -= len(part)
        yield part


def _service(server: FaultServer, **policy: Any) -> Ledger:
    return Ledger(CANARY, base_url=server.url, policy=Policy(**policy), guards=Guards())


def _put(service: Ledger, source: Any, **upload: Any) -> Any:
    return service.request("PUT", "/files/1", upload=Upload(source, **upload))


def _said(content: bytes) -> dict[str, Any]:
    return {"size": len(content), "digest": hashlib.sha256(content).hexdigest()}


def _blocks(count: int) -> Iterator[bytes]:
    for number in range(count):
        yield bytes([number % 256]) * (1 << 20)


async def _ablocks(count: int) -> AsyncIterator[bytes]:
    for block in _blocks(count):
        yield block


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "report.pdf"
    path.write_bytes(os.urandom(300_000))
    return path


class TestWhatIsSent:
    @both
    def test_a_large_file_is_never_in_memory(self, colour, tmp_path):
        """200 MB pass through in a few MB of memory, and progress is told on the way."""
        path, told = tmp_path / "large", []
        digest = hashlib.sha256()
        with path.open("wb") as file:
            for block in _blocks(200):
                file.write(block)
                digest.update(block)
        with FaultServer(Receiver()) as server:
            service = _service(server, deadline=60)
            call = _put(service, path, progress=lambda sent, size: told.append((sent, size)))
            tracemalloc.start()
            try:
                answer = run(colour, call)
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
            service.close()
        assert answer == {"size": LARGE, "digest": digest.hexdigest()}
        assert peak < 16_000_000
        assert told == sorted(told)
        assert (told[-1], len(told)) == ((LARGE, LARGE), LARGE >> 16)

    @both
    @pytest.mark.parametrize(
        ("source", "framing"),
        [
            (lambda content: content, b"content-length: 300000"),
            (memoryview, b"content-length: 300000"),
            (io.BytesIO, b"content-length: 300000"),
            (lambda content: [content[:7], b"", content[7:]], b"transfer-encoding: chunked"),
            (lambda content: iter([content[:200_000], content[200_000:]]), b"transfer-encoding: chunked"),
        ],
    )
    def test_sources(self, colour, source, framing):
        content = os.urandom(300_000)
        with FaultServer(Receiver()) as server:
            service = _service(server)
            assert run(colour, _put(service, source(content))) == _said(content)
            assert framing in server.heads[0].lower()
            service.close()

    def test_an_async_source(self):
        with FaultServer(Receiver()) as server:
            service = _service(server)
            expected = _said(b"".join(_blocks(3)))
            assert run("async", _put(service, _ablocks(3))) == expected
            assert run("async", _put(service, _ablocks(3), size=3 << 20)) == expected
            assert [b"chunked" in head for head in server.heads] == [True, False]
            service.close()

    @both
    def test_a_file_from_where_it_stands(self, colour, file):
        with FaultServer(Receiver()) as server, file.open("rb") as opened:
            service = _service(server)
            opened.seek(100_000)
            assert run(colour, _put(service, opened)) == _said(file.read_bytes()[100_000:])
            service.close()

    @both
    def test_a_file_that_grows_is_sent_as_it_was(self, colour, file):
        content = file.read_bytes()
        with FaultServer(Receiver()) as server:
            service = _service(server)
            call = _put(service, file)
            with file.open("ab") as more:
                more.write(b"more")
            assert run(colour, call) == _said(content)
            service.close()

    @both
    def test_a_pipe(self, colour, tmp_path):
        """It has no size and is read once; the loop does not wait for its other end."""
        path = tmp_path / "pipe"
        os.mkfifo(path)
        writer = threading.Thread(target=path.write_bytes, args=(b"x" * 100_000,))
        with FaultServer(Receiver()) as server:
            service = _service(server)
            call = _put(service, path)
            writer.start()
            assert run(colour, call) == _said(b"x" * 100_000)
            writer.join()
            service.close()

    def test_the_content_type(self, file):
        """Of the file's name, or as told, and nothing that would end the header."""
        assert Upload(file).content_type == "application/pdf"
        assert Upload(b"x").content_type == "application/octet-stream"
        assert Upload("README.md", content_type="text/plain").content_type == "text/plain"
        with pytest.raises(errors.ConfigurationError, match="content_type"):
            Upload(b"x", content_type="text/plain\r\nX: y")

    async def test_one_upload_in_two_calls_at_once(self, file):
        """Each has its own place in the file."""
        with FaultServer(Receiver()) as server, file.open("rb") as opened:
            service = _service(server)
            upload = Upload(opened)
            calls = [service.request("PUT", f"/files/{number}", upload=upload) for number in range(4)]
            assert await asyncio.gather(*calls) == [_said(file.read_bytes())] * 4
            await service.aclose()

    async def test_a_fast_wire_leaves_it_to_httpx2(self, file):
        with FaultServer(Receiver()) as server:
            service = Ledger(CANARY, base_url=server.url, guards=Guards(), wire="pyreqwest")
            assert await _put(service, file) == _said(file.read_bytes())
            assert await asyncio.to_thread(_put(service, file).result) == _said(file.read_bytes())
            await service.aclose()


class TestAgain:
    @both
    def test_what_can_be_read_again_is_sent_again(self, colour, file):
        with FaultServer(Receiver(503, 500)) as server:
            service = _service(server, retry=SOON)
            assert run(colour, _put(service, file)) == _said(file.read_bytes())
            assert len(server.heads) == 3
            service.close()

    @both
    def test_what_was_read_is_not(self, colour):
        """The service's answer is the error, and the Call cannot be sent a second time."""
        with FaultServer(Receiver(503)) as server:
            service = _service(server, retry=SOON)
            call = _put(service, _blocks(1))
            with pytest.raises(errors.ServiceUnavailable):
                run(colour, call)
            assert "cannot be sent a second time" in call.explain()
            with pytest.raises(errors.Misuse, match="read once"):
                run(colour, call)
            assert len(server.heads) == 1
            service.close()

    @both
    def test_what_was_not_read_yet_is(self, colour):
        """The connection was refused before the first part was asked for."""

        class Refusing(httpx2.BaseTransport, httpx2.AsyncBaseTransport):
            refusals = 1

            def refuse(self) -> None:
                if self.refusals:
                    self.refusals -= 1
                    raise httpx2.ConnectError("refused")

            def handle_request(self, request: httpx2.Request) -> httpx2.Response:
                self.refuse()
                return httpx2.Response(200, json=_said(request.read()))

            async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
                self.refuse()
                return httpx2.Response(200, json=_said(await request.aread()))

        service = Ledger(CANARY, wire=Refusing(), policy=Policy(retry=SOON), guards=Guards())
        assert run(colour, _put(service, _blocks(1))) == _said(b"".join(_blocks(1)))

    @both
    def test_a_write_carries_one_key(self, colour, file):
        with FaultServer(Receiver(503)) as server:
            service = _service(server, retry=SOON)
            call = service.request("POST", "/files", upload=Upload(file))
            assert run(colour, call) == _said(file.read_bytes())
            keys = [head.lower().partition(b"idempotency-key: ")[2].split(b"\r\n")[0] for head in server.heads]
            assert len(keys) == 2
            assert {key.decode() for key in keys} == {call.idempotency_key}
            service.close()


class TestDeadline:
    @both
    def test_a_stalled_upload_ends_at_the_deadline(self, colour):
        """The server reads nothing; a part of the body is in its buffers, so nobody knows what it did."""
        with FaultServer(fault_server.silent) as server:
            service = _service(server, deadline=0.5, bulkhead=Bulkhead(1))
            begun = time.monotonic()
            with pytest.raises(errors.DeadlineExceeded) as caught:
                run(colour, _put(service, _blocks(100)))
            assert time.monotonic() - begun < 0.8
            assert caught.value.outcome == "unknown"
            service.close()

    @both
    def test_nothing_moves_for_the_time_of_an_attempt(self, colour, tmp_path):
        """Then the attempt is over, and another one made."""
        path = tmp_path / "large"
        with path.open("wb") as file:
            file.truncate(100 << 20)
        receiver = Receiver()

        async def stalls_first(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await (fault_server.silent if len(server.heads) == 1 else receiver)(head, reader, writer)

        with FaultServer(stalls_first) as server:
            service = _service(server, deadline=30, attempt_timeout=0.3, retry=SOON)
            call = _put(service, path)
            assert run(colour, call)["size"] == 100 << 20
            assert "nothing moved for 0.3 s" in call.explain()
            service.close()

    @both
    def test_as_long_as_something_moves_an_attempt_goes_on(self, colour):
        """A slow link: the whole takes longer than one attempt may be silent."""

        async def slowly(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            async for _part in _body(head, reader):
                await asyncio.sleep(0.01)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

        with FaultServer(slowly) as server:
            service = _service(server, deadline=30, attempt_timeout=2.0, retry=None)
            begun = time.monotonic()
            assert run(colour, _put(service, _blocks(20))) == {}
            assert time.monotonic() - begun > 2.0
            service.close()

    def test_a_source_that_stalls(self):
        """The time is over while our own side gives nothing."""

        async def stalls() -> AsyncIterator[bytes]:
            yield b"x"
            await asyncio.Event().wait()

        with FaultServer(Receiver()) as server:
            service = _service(server, deadline=0.3)
            with pytest.raises(errors.DeadlineExceeded):
                run("async", _put(service, stalls()))
            service.close()

    @both
    def test_a_refusal_in_the_middle_is_the_answer(self, colour):
        """A server that answers 413 and hangs up has told why."""

        async def too_large(_head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1 << 16)
            writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
            await writer.drain()
            raise ConnectionResetError

        with FaultServer(too_large) as server:
            service = _service(server, retry=SOON)
            with pytest.raises(errors.CallError) as caught:
                run(colour, _put(service, _blocks(20)))
            # The reset that follows may overtake the answer, which no client can help.
            assert isinstance(caught.value, (errors.InvalidRequest, errors.NetworkFault))
            service.close()


class Oops(OSError):
    """What a source of the caller's raises; an OSError as those of the wire are."""


class TestSourcesThatFail:
    @both
    @pytest.mark.parametrize("kind", [Oops, TimeoutError, errors.RateLimited])
    def test_their_exception_is_the_callers(self, colour, kind):
        """It comes out as it is; nothing is counted against the service, and what the attempt held is free."""
        receiver = Receiver()

        def fails() -> Iterator[bytes]:
            yield b"x" * 100_000
            raise kind("the source is gone")

        with FaultServer(receiver) as server:
            service = _service(server, bulkhead=Bulkhead(1, queue=0), retry=SOON)
            for _ in range(3):
                with pytest.raises(kind, match="the source is gone"):
                    run(colour, _put(service, fails()))
            guard = service._guard(service.base_url, service.policy)
            assert guard.breaker is not None
            assert (guard.breaker.snapshot().calls, receiver.complete) == (0, 0)
            assert run(colour, _put(service, b"x")) == _said(b"x")
            service.close()

    @both
    @pytest.mark.parametrize(
        ("source", "size", "said"),
        [
            ([b"xx"], 3, "gave 2 bytes of its size of 3"),
            ([b"xx"], 1, "more than its size of 1"),
            (["text"], None, "gave str, not bytes"),
        ],
    )
    def test_parts_that_are_not_what_was_said(self, colour, source, size, said):
        receiver = Receiver()
        with FaultServer(receiver) as server:
            service = _service(server)
            with pytest.raises(errors.Misuse, match=said):
                run(colour, _put(service, source, size=size))
            assert receiver.complete == 0
            service.close()

    @both
    def test_progress_that_fails(self, colour):
        def progress(_sent: int, _size: int | None) -> None:
            raise Oops("the bar broke")

        with FaultServer(Receiver()) as server:
            service = _service(server)
            with pytest.raises(Oops):
                run(colour, _put(service, b"x", progress=progress))
            service.close()

    @both
    def test_a_file_that_is_gone(self, colour, file):
        with FaultServer(Receiver()) as server:
            service = _service(server)
            call = _put(service, file)
            file.unlink()
            with pytest.raises(FileNotFoundError):
                run(colour, call)
            assert server.heads == []
            service.close()

    @both
    def test_generators_are_closed(self, colour):
        """Also when the service hangs up in the middle of them."""
        closed = []

        def source() -> Iterator[bytes]:
            try:
                yield from _blocks(50)
            finally:
                closed.append(True)

        with FaultServer(fault_server.hang_up) as server:
            service = _service(server, retry=None)
            with pytest.raises(errors.CallError):
                run(colour, _put(service, source()))
            until(lambda: closed == [True])
            service.close()

    async def test_a_cancelled_call_leaves_no_file_open(self, tmp_path):
        path = tmp_path / "large"
        with path.open("wb") as file:
            file.truncate(100 << 20)
        with FaultServer(fault_server.silent) as server:
            service = _service(server)
            task = asyncio.create_task(_put(service, path)._answered_async())
            await server.arrived(1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await service.aclose()
        await asyncio.to_thread(until, lambda: str(path) not in _open_files())


def _open_files() -> set[str]:
    found = set()
    for name in Path("/proc/self/fd").iterdir():
        try:
            found.add(str(name.readlink()))
        except FileNotFoundError:
            continue
    return found


class TestWhatIsRefused:
    def test_an_async_source_that_blocks(self):
        """Before anything is sent or read: the same Call can be awaited."""
        with FaultServer(Receiver()) as server:
            service = _service(server)
            call = _put(service, _ablocks(1))
            with pytest.raises(errors.Misuse, match="await"):
                call.result()
            assert server.heads == []
            assert run("async", call) == _said(b"".join(_blocks(1)))
            service.close()

    @pytest.mark.parametrize("source", [None, 3, {"a": b"b"}, io.StringIO("text"), object()])
    def test_what_is_no_source(self, source):
        with pytest.raises(errors.ConfigurationError, match=r"Upload\.source"):
            Upload(source)

    def test_what_cannot_be_read(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            Upload(tmp_path / "none")
        with pytest.raises(IsADirectoryError):
            Upload(tmp_path)

    def test_two_bodies(self):
        with pytest.raises(errors.ConfigurationError, match="json and upload"):
            Plan("POST", "/", lambda _: None, json={}, upload=Upload(b"x"))
        with pytest.raises(errors.ConfigurationError, match=r"moorline\.Upload"):
            Plan("POST", "/", lambda _: None, upload=b"x")  # type: ignore[arg-type]

    def test_a_queue(self, tmp_path):
        app = Moorline(f"sqlite:///{tmp_path}/moorline.db")
        with pytest.raises(errors.Misuse, match="an upload cannot be enqueued"):
            _put(app.service(Ledger), b"x").enqueue()

    def test_a_hedge(self):
        call = Ledger(CANARY).request("POST", "/search", upload=Upload(b"x"), repeatable=True)
        with pytest.raises(errors.ConfigurationError, match="hedge"):
            call.using(hedge=1)

    def test_its_repr_names_no_file(self, file):
        assert repr(Upload(file)) == "<Upload of 300000 bytes, application/pdf>"
