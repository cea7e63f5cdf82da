"""Resumed downloads are retries: within the policy and the deadline, and nothing is left of them when they end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.calls.fault_server import FaultServer
from tests.calls.ledger import Ledger, both, run
from tests.calls.shelf import (
    FIRST,
    SECOND,
    TAG,
    UNFIT,
    Shelf,
    gives,
    left_in,
    says,
    service_at,
    wire_bytes,
)

from moorline import deadline, errors
from moorline.calls import clients
from moorline.calls.saving import Target
from moorline.clock import SYSTEM, ManualClock
from moorline.policies.breaker import Breaker
from moorline.policies.bulkhead import Bulkhead
from moorline.policies.retry import Retry


class TestPolicy:
    @both
    def test_without_progress_the_retries_are_used_up(self, colour, tmp_path):
        """As many resumptions as the Retry says, after its waits; then the failure of the last body is raised."""
        clock = ManualClock()
        with FaultServer(Shelf(gives(FIRST, cut=10))) as server:
            service = service_at(server, clock, retry=Retry(3, jitter="none"))
            call = service.read("1")
            with pytest.raises(errors.BadAnswer, match="after 40 of 1024 bytes") as caught:
                run(colour, call.download(tmp_path / "file"))
            service.close()
        assert (len(server.heads), clock.slept, len(caught.value.attempts)) == (4, [1, 2, 4], 4)
        assert "all 3 retries are used up" in call.explain()
        assert left_in(tmp_path) == []

    @both
    def test_progress_counts_anew(self, colour, tmp_path):
        """With 64 KiB more the count begins again, and the waits with it."""
        clock, content = ManualClock(), FIRST * 400
        with FaultServer(Shelf(gives(content, cut=70_000))) as server:
            service = service_at(server, clock, retry=Retry(1, jitter="none"))
            assert run(colour, service.read("1").download(tmp_path / "file")) == len(content)
            service.close()
        assert (tmp_path / "file").read_bytes() == content
        assert clock.slept == [1] * 5

    @both
    def test_the_same_bytes_again_are_no_progress(self, colour, tmp_path):
        """A service without ranges, whose bodies always break off at the same place, is given up."""
        content = FIRST * 100
        cut = says(200, content[:70_000], Content_Length=str(len(content)), ETag='"1"')
        replies = Shelf(lambda head: (cut(head)[0], "hang up"))
        with FaultServer(replies) as server:
            service = service_at(server, retry=Retry(2, jitter="none"))
            with pytest.raises(errors.BadAnswer):
                run(colour, service.read("1").download(tmp_path / "file"))
            service.close()
        assert len(server.heads) == 3

    @both
    def test_retries_that_are_switched_off(self, colour, tmp_path):
        """Without a Retry nothing is resumed."""
        with FaultServer(Shelf(gives(FIRST, cut=10))) as server:
            service = service_at(server, retry=None)
            with pytest.raises(errors.BadAnswer):
                run(colour, service.read("1").download(tmp_path / "file"))
            service.close()
        assert len(server.heads) == 1

    @both
    @pytest.mark.parametrize("whose", ["the policy's", "the caller's"])
    def test_the_deadline_bounds_all_of_it(self, colour, whose, tmp_path):
        """No resumption begins beyond the deadline, be it the caller's own."""
        clock = ManualClock()
        with FaultServer(Shelf(gives(FIRST, cut=10))) as server:
            service = service_at(server, clock, deadline=5 if whose == "the policy's" else 60)
            call = service.read("1")
            with deadline(5, clock=clock), pytest.raises(errors.BadAnswer):
                run(colour, call.download(tmp_path / "file"))
            service.close()
        assert clock.slept == [1, 2]
        assert "the next attempt would be in 4 s, beyond the deadline" in call.explain()

    @both
    def test_the_deadline_ends_a_body(self, colour, tmp_path):
        """What still comes, or does not, at the deadline is not waited for, and not resumed."""
        replies = Shelf(gives(FIRST, cut=10), gives(FIRST, cut=10, stall=True))
        with FaultServer(replies) as server:
            service = service_at(server, SYSTEM, deadline=0.5, retry=Retry(5, base=0.01), bulkhead=Bulkhead(1))
            with pytest.raises(errors.DeadlineExceeded):
                run(colour, service.read("1").download(tmp_path / "file"))
            bulkhead = service._guard(service.base_url, service.policy).bulkhead
            assert bulkhead
            assert (bulkhead.busy, left_in(tmp_path), len(server.heads)) == (0, [], 2)
            service.close()

    @both
    def test_data_without_end_ends_at_the_deadline(self, colour, tmp_path):
        """A body that always has more ready ends as well."""

        async def endless(_head: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(wire_bytes(200, b"", {"Content-Length": str(1 << 40), **TAG}))
            while len(server.heads) == 1:
                writer.write(bytes(1 << 12))
                await writer.drain()
                await asyncio.sleep(0.001)

        with FaultServer(endless) as server:
            service = service_at(server, SYSTEM, deadline=0.3)
            with pytest.raises(errors.DeadlineExceeded):
                run(colour, service.read("1").download(tmp_path / "file"))
            service.close()
        assert left_in(tmp_path) == []

    @both
    def test_the_budget_is_charged(self, colour, tmp_path):
        """A resumption takes from the retry budget of the service, and is not made where that is spent."""
        with FaultServer(Shelf(gives(FIRST, cut=10))) as server:
            service = service_at(server, retry=Retry(50, base=0.0))
            budget = service._guard(service.base_url, service.policy).budget
            assert budget
            while budget.left > 3:
                budget.take()
            call = service.read("1")
            with pytest.raises(errors.BadAnswer):
                run(colour, call.download(tmp_path / "file"))
            service.close()
        assert len(server.heads) == 4
        assert "the retry budget of the service is spent" in call.explain()

    @both
    def test_the_breaker_is_told_of_each_body(self, colour, tmp_path):
        """Bodies that break off are failures, the last one that is complete is a success."""
        with FaultServer(Shelf(gives(FIRST, cut=10), gives(FIRST, cut=10), gives(FIRST))) as server:
            service = service_at(server, breaker=Breaker(failures=3))
            run(colour, service.read("1").download(tmp_path / "file"))
            breaker = service._guard(service.base_url, service.policy).breaker
            assert breaker
            now = breaker.snapshot()
            assert (now.calls, now.failed, now.failures_in_a_row, now.state) == (3, 2, 0, "closed")
            service.close()

    @both
    def test_a_large_body_is_not_slow(self, colour, tmp_path):
        """How long a body took says nothing of the service, so that the rule of slow calls leaves it out."""
        with FaultServer(Shelf(gives(FIRST))) as server:
            service = service_at(server, SYSTEM, breaker=Breaker(slow=0.000001))
            run(colour, service.read("1").download(tmp_path / "file"))
            breaker = service._guard(service.base_url, service.policy).breaker
            assert breaker
            assert (breaker.snapshot().calls, breaker.snapshot().slow) == (1, 0)
            service.close()

    @both
    def test_an_open_breaker_is_waited_for(self, colour, tmp_path):
        """It opens by the bodies that broke off, and its probe brings the rest."""
        clock = ManualClock()
        with FaultServer(Shelf(gives(FIRST, cut=10), gives(FIRST, cut=10), gives(FIRST))) as server:
            service = service_at(server, clock, breaker=Breaker(failures=2), deadline=60)
            run(colour, service.read("1").download(tmp_path / "file"))
            service.close()
        assert (tmp_path / "file").read_bytes() == FIRST
        assert clock.slept == [1, 30]


class TestNothingIsLeft:
    @pytest.fixture(autouse=True)
    def one_connection(self, monkeypatch):
        clients.tls()
        monkeypatch.setattr(clients, "MAX_CONNECTIONS", 1)

    async def _cancelled(self, service: Ledger, folder: Path, ready: Callable[[], Any], **options: Any) -> None:
        service._wires._clients = clients.Clients()
        task = asyncio.ensure_future(service.read("1").download(folder / "file", **options)._run())
        await ready()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        guard = service._guard(service.base_url, service.policy)
        assert guard.bulkhead
        assert guard.breaker
        assert (guard.bulkhead.busy, guard.breaker.snapshot().calls - guard.breaker.snapshot().failed) == (0, 0)
        pool: Any = (await service._wires._clients.for_loop())._pool
        assert pool._requests == []
        assert all(connection.is_idle() for connection in pool.connections)
        await service.aclose()

    async def test_of_a_body_that_is_cancelled(self, tmp_path):
        """No file, no slot, no connection; and nothing is asked for again."""
        with FaultServer(Shelf(gives(FIRST, cut=10, stall=True))) as server:
            service = service_at(server, bulkhead=Bulkhead(1), breaker=Breaker())
            begun = asyncio.Event()

            async def ready() -> None:
                await asyncio.wait_for(begun.wait(), 10)

            await self._cancelled(service, tmp_path, ready, progress=lambda _done, _total: begun.set())
            assert (len(server.heads), left_in(tmp_path)) == (1, [])

    async def test_of_a_wait_that_is_cancelled(self, tmp_path):
        """Between two attempts nothing is held either, and the retry that is not made is given back."""
        waits = asyncio.Event()

        class Waiting(ManualClock):
            async def asleep(self, seconds: float) -> None:
                waits.set()
                await super().asleep(seconds)

        clock = Waiting(auto=False)
        with FaultServer(Shelf(gives(FIRST, cut=10))) as server:
            service = service_at(server, clock, bulkhead=Bulkhead(1), breaker=Breaker())

            async def ready() -> None:
                await asyncio.wait_for(waits.wait(), 10)

            await self._cancelled(service, tmp_path, ready)
            assert (len(server.heads), left_in(tmp_path)) == (1, [])
            budget = service._guard(service.base_url, service.policy).budget
            assert budget
            assert budget.left == 20

    async def test_of_a_write_that_is_cancelled(self, tmp_path, monkeypatch):
        """The write goes on in its thread; when it is over the file is gone."""
        writing, go_on, over = threading.Event(), threading.Event(), threading.Event()
        plain, leave = Target._write, Target._leave

        def slow(target: Target) -> None:
            writing.set()
            assert go_on.wait(10)
            plain(target)

        def leaving(target: Target) -> None:
            leave(target)
            if go_on.is_set():
                over.set()

        monkeypatch.setattr(Target, "_write", slow)
        monkeypatch.setattr(Target, "_leave", leaving)
        with FaultServer(Shelf(gives(bytes(2 << 20), cut=3 << 19, stall=True))) as server:
            service = service_at(server, bulkhead=Bulkhead(1), breaker=Breaker())

            async def ready() -> None:
                assert await asyncio.to_thread(writing.wait, 10)

            await self._cancelled(service, tmp_path, ready)
            assert len(left_in(tmp_path)) == 1  # still written to
            go_on.set()
            assert await asyncio.to_thread(over.wait, 10)
            assert left_in(tmp_path) == []

    @both
    def test_of_an_answer_that_does_not_fit(self, colour, tmp_path):
        """Its connection is free again though its body was not read: the only one serves the next request."""
        with FaultServer(Shelf(gives(FIRST, cut=300), UNFIT["another tag"], gives(SECOND))) as server:
            service = service_at(server, deadline=5)
            service._wires._clients = clients.Clients()
            run(colour, service.read("1").download(tmp_path / "file"))
            service.close()
        assert (tmp_path / "file").read_bytes() == SECOND

    @both
    @pytest.mark.parametrize("error", [KeyboardInterrupt, TimeoutError, OSError(28, "No space left on device")])
    def test_of_what_our_own_side_raises(self, colour, error, tmp_path):
        """It is raised as it is, and is nothing for the breaker; nothing is asked for again."""

        def full(_done: int, _total: int | None) -> None:
            raise error

        with FaultServer(Shelf(gives(FIRST, cut=300))) as server:
            service = service_at(server, bulkhead=Bulkhead(1), breaker=Breaker())
            with pytest.raises(error if isinstance(error, type) else type(error)) as caught:
                run(colour, service.read("1").download(tmp_path / "file", progress=full))
            assert not isinstance(caught.value, errors.CallError)
            guard = service._guard(service.base_url, service.policy)
            assert guard.bulkhead
            assert guard.breaker
            assert (guard.bulkhead.busy, guard.breaker.snapshot().calls) == (0, 0)
            service.close()
        assert (len(server.heads), left_in(tmp_path)) == (1, [])

    @both
    def test_a_folder_that_is_missing(self, colour, tmp_path):
        """A file that cannot be made is found out before anything is sent."""
        with FaultServer(Shelf(gives(FIRST))) as server:
            service = service_at(server)
            with pytest.raises(FileNotFoundError):
                run(colour, service.read("1").download(tmp_path / "missing" / "file"))
        assert server.heads == []
