"""A relay in a process of its own, to be killed: ``python crash_relay.py FROM TO``; says when it runs."""

from __future__ import annotations

import asyncio
import sys

from moorline.events import Relay
from moorline.jobs.brokers.sql import SqlBroker
from moorline.store.store import Store


async def main() -> None:
    """Relay until killed; small batches, so that the kills meet every step of many."""
    with Store(sys.argv[1], auto_migrate=False) as store, Store(sys.argv[2], auto_migrate=False) as target:
        print("runs", flush=True)  # noqa: T201 -- the parent reads it
        await Relay(store, SqlBroker(target), batch=5, lease=0.3).run()


if __name__ == "__main__":
    asyncio.run(main())
