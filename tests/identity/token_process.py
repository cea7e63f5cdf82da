"""A process of an application with a service that needs tokens: ``python … DATABASE ADDRESS READY GO``.

It says that it is ready, waits for the sign to go, has 500 callers at once for each of two objects, and prints which
tokens they had.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # run as a script, it finds its own folder alone

from tests.identity.test_service_tokens import Spent

from moorline import Moorline
from moorline.errors import MoorlineError
from moorline.identity import refreshing


def wait(ready: Path, go: Path) -> None:
    """Until it is told to go."""
    ready.touch()
    while not go.exists():
        time.sleep(0.005)


async def main(database: str, address: str, ready: Path, go: Path) -> None:
    """Run it."""
    app = Moorline(database)
    async with app:
        options: dict[str, Any] = {"api_key": "refresh-0-canary", "client_id": "shop", "base_url": address}
        services = [app.service(Spent, **options) for _ in range(2)]
        await asyncio.to_thread(wait, ready, go)

        async def read(number: int) -> str:
            service = services[number % 2]
            assert service.fetched is not None
            try:
                await service.fetched.ready_async()
                return service.key().reveal()
            except MoorlineError as error:
                return f"{type(error).__name__}: {error}"

        found = await asyncio.gather(*(read(number) for number in range(1000)))
    sys.stdout.write("\n".join(sorted(set(found))) + "\n")


if __name__ == "__main__":
    refreshing._LEASE = 1.0  # type: ignore[misc]  # others need not wait long for one that was killed
    asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])))
