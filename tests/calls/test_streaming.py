from __future__ import annotations

import asyncio
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from tests.calls import fault_server
from tests.calls.fault_server import FaultServer
from tests.calls.ledger import CANARY, Ledger, Mail, both, run

from moorline import Upload, errors
from moorline.calls.guards import Guards
from moorline.clock import ManualClock
from moorline.policies.breaker import Breaker
from moorline.policies.bulkhead import Bulkhead
from moorline.policies.policy import Policy
from moorline.policies.retry import Retry

_PART = bytes(1 << 16)


def _service(server: FaultServer, **policy: Any) -> Ledger:
    return Ledger(CANARY, base_url=server.url, policy=Policy(**policy), guards=Guards())


def _read(colour: str, call: Any, each: Callable[[bytes], None]) -> None:
    if colour == "sync":
        with call.stream() as answer:
            for part in answer:
                each(part)
        return

    async def wait() -> None:
        async with call.stream() as answer:
            async for part in answer:
                each(part)

    asyncio.run(wait())


async def _large(_head, _reader, writer):
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (200 << 20))
    for _ in range(200 << 4):
        writer.write(_PART)
        await writer.drain()


def _slots(service: Ledger) -> int:
    bulkhead = service._guard(service.base_url, service.policy).bulkhead
    assert bulkhead is not None
    ticket = bulkhead.enter()
    free = ticket is not None and ticket.granted
    if ticket is not None:
        ticket.leave()
    return int(free)


@both
def test_a_large_body_is_never_in_memory(colour):
    """200 MB pass through in a few MB of memory."""
    seen = 0

    def count(part: bytes) -> None:
        nonlocal seen
        seen += len(part)

    with FaultServer(_large) as server:
        service = _service(server, deadline=60)
        tracemalloc.start()
        try:
            _read(colour, service.read("1"), count)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert seen == 200 << 20
        assert peak < 8_000_000
        service.close()


@both
@pytest.mark.parametrize("behaviour", [fault_server.drip, fault_server.stalled_body])
def test_the_deadline_includes_the_body(colour, behaviour):
    """A body that drips or stalls ends at the deadline, and the slot is free again."""
    with FaultServer(behaviour) as server:
        service = _service(server, deadline=0.3, bulkhead=Bulkhead(1))
        begun = time.monotonic()
        with pytest.raises(errors.DeadlineExceeded) as caught:
            _read(colour, service.read("1"), lambda _part: None)
        assert time.monotonic() - begun < 0.6
        assert (caught.value.service, _slots(service)) == ("ledger", 1)
        service.close()


@both
def test_the_slot_is_held_until_the_body_is_closed(colour):
    """Between the head and the end of the body the attempt holds its slot; leaving early frees it."""
    with FaultServer(fault_server.drip) as server:
        service = _service(server, deadline=5, bulkhead=Bulkhead(1, queue=0))
        held = []
        if colour == "sync":
            with service.read("1").stream() as answer:
                held.append(_slots(service))
                assert answer.length == 1000
        else:

            async def leave() -> None:
                async with service.read("1").stream():
                    held.append(_slots(service))

            asyncio.run(leave())
        assert (held, _slots(service)) == ([0], 1)
        service.close()


@both
def test_failures_before_the_body_are_retried(colour, tmp_path):
    """A 503 is repeated as for any call; the file appears complete, and progress was told."""
    answers = [
        b"HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    ]

    async def answer(_head, _reader, writer):
        writer.write(answers.pop(0))
        await writer.drain()

    told = []
    with FaultServer(answer) as server:
        service = _service(server, retry=Retry(2, base=0.01))
        path = tmp_path / "file"
        call = service.read("1").download(path, progress=lambda done, total: told.append((done, total)))
        assert run(colour, call) == 5
        assert (path.read_bytes(), told[-1], len(server.heads)) == (b"hello", (5, 5), 2)
        assert [each.name for each in tmp_path.iterdir()] == ["file"]
        service.close()


@both
def test_a_broken_download_leaves_no_file(colour, tmp_path):
    """A truncated body is an error, the old file stays, and nothing lies beside it."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with FaultServer(fault_server.truncated) as server:
        service = _service(server, retry=None)
        with pytest.raises(errors.BadAnswer, match="truncated"):
            run(colour, service.read("1").download(path))
        service.close()
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


@both
def test_statuses_are_errors_as_ever(colour):
    """A 404 is NotFound before any part is handed out."""

    async def missing(_head, _reader, writer):
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}")
        await writer.drain()

    with FaultServer(missing) as server:
        service = _service(server)
        with pytest.raises(errors.NotFound):
            _read(colour, service.read("1"), lambda _part: None)
        service.close()


def _counted(service: Ledger) -> tuple[int, int]:
    breaker = service._guard(service.base_url, service.policy).breaker
    assert breaker is not None
    now = breaker.snapshot()
    return now.calls, now.failed


@both
@pytest.mark.parametrize("behaviour", [fault_server.truncated, fault_server.stalled_body])
def test_a_body_that_fails_is_a_failure_for_the_breaker(colour, behaviour):
    """The head was good, the body broke off or stalled: that counts once, as a failure."""
    with FaultServer(behaviour) as server:
        service = _service(server, deadline=0.5, retry=None)
        with pytest.raises((errors.BadAnswer, errors.DeadlineExceeded, errors.OutcomeUnknown)):
            _read(colour, service.read("x"), lambda _part: None)
        assert _counted(service) == (1, 1)


async def test_a_body_that_nobody_wants_is_nothing_for_the_breaker():
    """The task that reads is cancelled: neither a success nor a failure."""
    with FaultServer(fault_server.stalled_body) as server:
        service = _service(server, retry=None)
        opened = asyncio.Event()

        async def read() -> None:
            async with service.read("x").stream() as answer:
                opened.set()
                async for _part in answer:
                    pass

        task = asyncio.create_task(read())
        await asyncio.wait_for(opened.wait(), 10)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert _counted(service) == (0, 0)
        await service.aclose()


@both
def test_a_slow_head_is_a_slow_call(colour):
    """Services that take long to begin their answers open the breaker, also where the body is read in parts."""
    clock = ManualClock()

    def late(_request: httpx2.Request) -> httpx2.Response:
        clock.advance(5)
        return httpx2.Response(200, content=b"{}")

    policy = Policy(deadline=60, attempt_timeout=30, retry=None, breaker=Breaker(slow=4, minimum=10))
    service = Ledger(CANARY, wire=httpx2.MockTransport(late), policy=policy, guards=Guards(clock))
    for _ in range(10):
        _read(colour, service.read("1"), lambda _part: None)
    with pytest.raises(errors.CircuitOpen, match="slow"):
        _read(colour, service.read("1"), lambda _part: None)


@both
def test_a_long_upload_is_no_slow_call(colour):
    """How long a body takes to be sent says nothing of the service; a call without one that takes as long does."""
    clock = ManualClock()

    def late(_request: httpx2.Request) -> httpx2.Response:
        clock.advance(5)
        return httpx2.Response(200, content=b"{}")

    policy = Policy(deadline=60, attempt_timeout=30, retry=None, breaker=Breaker(slow=4, minimum=10))
    service = Ledger(CANARY, wire=httpx2.MockTransport(late), policy=policy, guards=Guards(clock))
    for _ in range(11):
        run(colour, service.request("PUT", "/bookings/1", upload=Upload(b"1")))
    for _ in range(6):
        run(colour, service.request("PUT", "/bookings/1", json={}))
    with pytest.raises(errors.CircuitOpen, match="slow"):
        run(colour, service.request("PUT", "/bookings/1", json={}))


@both
@pytest.mark.parametrize(
    ("behaviour", "outcome"),
    [(fault_server.truncated, "done"), (fault_server.stalled_body, "unknown"), (fault_server.drip, "unknown")],
)
def test_a_write_whose_body_fails(colour, behaviour, outcome):
    """A write without a key whose answer breaks off may have acted: nobody is told that it failed, or to repeat it."""
    with FaultServer(behaviour) as server:
        policy = Policy(deadline=1.0, attempt_timeout=0.4, retry=None)
        service = Mail(CANARY, base_url=server.url, policy=policy, guards=Guards())
        with pytest.raises(errors.CallError) as caught:
            _read(colour, service.book(1), lambda _part: None)
    error = caught.value
    assert (error.outcome, error.retryable, error.status) == (outcome, False, 200)
    assert (error.service, error.operation, len(error.attempts)) == ("mail", "book", 1)


@both
def test_each_wait_for_a_part_is_bounded(colour):
    """A body may take longer than an attempt as long as something comes, without any deadline too; silence ends it."""

    async def pausing(_head: bytes, _reader: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
        for _ in range(4):
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.25)
        await asyncio.sleep(30)

    parts: list[bytes] = []
    with FaultServer(pausing) as server:
        service = _service(server, deadline=None, attempt_timeout=0.5, retry=None)
        begun = time.monotonic()
        with pytest.raises(errors.AttemptTimeout, match=r"nothing moved for 0\.5 s"):
            _read(colour, service.read("1"), parts.append)
        assert b"".join(parts) == b"xxxx"
        assert 1.0 < time.monotonic() - begun < 5
