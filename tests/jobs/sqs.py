"""What the tests of the SQS broker share: brokers on an emulator, and a look at their requests."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.jobs.conformance import row

from moorline.clock import SYSTEM, Clock
from moorline.jobs.broker import WorkerInfo
from moorline.jobs.brokers.sqs import SqsBroker, SqsCarrier
from moorline.store import Store
from moorline.store.ids import new_id

__all__ = ["carrier_of", "changed", "claimed_by", "jobs", "living", "opened_at", "recorded"]


@contextlib.contextmanager
def opened_at(url: str, folder: Path, clock: Clock, migrated: Path) -> Iterator[SqsBroker]:
    """With a database of its own, a copy of that one."""
    shutil.copyfile(migrated, folder / "m.db")
    with (
        Store(f"sqlite:///{folder}/m.db", clock=clock) as store,
        SqsBroker(url, outbox=store, clock=clock) as broker,
    ):
        yield broker


def carrier_of(broker: SqsBroker) -> SqsCarrier:
    assert isinstance(broker.carrier, SqsCarrier)
    return broker.carrier


def recorded(carrier: SqsCarrier) -> list[tuple[str, dict[str, Any]]]:
    requests: list[tuple[str, dict[str, Any]]] = []
    ask = carrier.link.ask

    def record(operation: str, /, **parameters: Any) -> dict[str, Any]:
        requests.append((operation, parameters))
        return ask(operation, **parameters)

    carrier.link.ask = record  # type: ignore[method-assign]
    return requests


def changed(carrier: SqsCarrier, operation: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Let *change* see the requests of that kind, and answer them or send them on (``carrier.link.ask`` is as before)."""
    ask = carrier.link.ask

    def other(name: str, /, **parameters: Any) -> dict[str, Any]:
        return change(parameters) if name == operation else ask(name, **parameters)

    carrier.link.ask = other  # type: ignore[method-assign]


def living(lease: float = 30.0) -> WorkerInfo:
    now = SYSTEM.wall()
    return WorkerInfo(new_id(now), "host", 1, ("default",), now, lease)


def jobs(count: int = 1, **changes: Any) -> list[Any]:
    return [row(SYSTEM, **changes) for _ in range(count)]


async def claimed_by(broker: SqsBroker, me: WorkerInfo, count: int, *, alone: bool = False) -> list[Any]:
    claims: list[Any] = []
    async with asyncio.timeout(20):
        while len(claims) < count:
            claims += (await broker.claim(me, count - len(claims), alone=alone)).jobs
    return claims
