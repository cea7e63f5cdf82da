"""Two receivers and two workers on machines of their own, one database: machines die, links are cut, nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from tests.campaign import APP_FOLDER, Crowd, Ledger, compared
from tests.machines import Machine, Network
from tests.processes import Kept, moorline_command, so
from tests.servers import PostgresServer, listens

from moorline.store import Store

pytestmark = [pytest.mark.crash, pytest.mark.machines, pytest.mark.postgres, pytest.mark.timeout(170)]

EVENTS = 900
PORT = 8000


@pytest.fixture
def network() -> Iterator[Network]:
    with Network() as network:
        yield network


@pytest.fixture
def database_url(network: Network) -> Iterator[str]:
    """A database that the machines reach over the bridge."""
    with PostgresServer(network=network.address) as server:
        url = server.create_database().replace("127.0.0.1", str(network.address.ip))
        Store(url, auto_migrate=True).open().close()
        yield url


def kept(machine: Machine, ledger: Ledger, url: str, *arguments: str) -> Kept:
    """``moorline`` on that machine."""
    command = machine.command(*moorline_command(*arguments))
    return Kept(command, cwd=APP_FOLDER, environment=ledger.environment(url))


def receiver(machine: Machine, ledger: Ledger, url: str) -> Kept:
    return kept(machine, ledger, url, "serve", "ledger_app:app", "--host", machine.address, "--port", str(PORT))


async def test_machines_die_and_links_are_cut(network: Network, database_url: str, tmp_path: Path) -> None:
    """A receiver and a worker are killed, then the others' links are cut for seconds: nothing lost, nothing twice."""
    ledger = Ledger(tmp_path)
    machines = [network.machine(name) for name in ("r1", "r2", "w1", "w2")]
    addresses = [(machine.address, PORT) for machine in machines[:2]]
    crowd = Crowd(EVENTS, addresses, senders=12, seed=20261127, patience=2.0)
    async with contextlib.AsyncExitStack() as stack:
        receivers = [
            await stack.enter_async_context(receiver(machine, ledger, database_url)) for machine in machines[:2]
        ]
        workers = [
            await stack.enter_async_context(kept(machine, ledger, database_url, "worker", "ledger_app:app"))
            for machine in machines[2:]
        ]
        for address in addresses:  # else the one that is ready first may get all that is allowed
            await so(partial(listens, address))
        async with asyncio.TaskGroup() as group:
            crowd.allowed = EVENTS // 3
            group.create_task(crowd.send())
            await so(lambda: all(crowd.by_address[address] for address in addresses))
            await so(lambda: all(ledger.worked(worker.pid) for worker in workers))
            for victim in (receivers[0], workers[0]):
                assert victim.kill(victim.pid)
            crowd.allowed = 2 * EVENTS // 3
            await so(lambda: len(crowd.answered) > EVENTS // 3 and receivers[0].pid and workers[0].pid)
            before = {address: crowd.by_address[address] for address in addresses}
            for machine in (machines[1], machines[3]):
                network.cut(machine)
            # Longer than the lease: the worker that is cut off is taken for dead, while it runs what it had.
            await asyncio.sleep(4.0)
            await so(lambda: crowd.by_address[addresses[0]] > before[addresses[0]])
            for machine in (machines[1], machines[3]):
                network.mend(machine)
            crowd.allowed = EVENTS
        await so(lambda: ledger.account()[1] == EVENTS)
        await so(lambda: compared(database_url, ledger, crowd.answered).problems == (), seconds=20)
    books = compared(database_url, ledger, crowd.answered)
    assert books.problems == ()
    assert (books.answered, books.stored, books.booked) == (EVENTS, EVENTS, EVENTS)
    assert set(crowd.statuses) <= {0, 200, 503}
    assert all(count > EVENTS // 10 for count in crowd.by_address.values())
