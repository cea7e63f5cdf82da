"""A receiver in a process of its own, to be killed: ``python crash_receiver.py URL``; prints its port when it listens."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import uvicorn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.events.schemes import GITHUB

from moorline.events import Inbox, Receiver
from moorline.services import GitHub
from moorline.store.store import Store


class Server(uvicorn.Server):
    """Says where it listens."""

    async def startup(self, sockets: Any = None) -> None:
        """Start, then print the port."""
        await super().startup(sockets)
        print(self.servers[0].sockets[0].getsockname()[1], flush=True)  # noqa: T201 -- the parent reads it


def main() -> None:
    """Serve until killed; two handlers, so two jobs an event."""
    os.environ["GITHUB_WEBHOOK_SECRET"] = "crash"
    inbox = Inbox(Store(sys.argv[1], auto_migrate=True).open())
    for name in ("one", "two"):
        inbox.handlers.on(GitHub, "*", name=name)(len)
    app = Receiver(inbox, schemes={"github": GITHUB}.get)
    Server(uvicorn.Config(app, port=0, access_log=False, log_level="error")).run()


if __name__ == "__main__":
    main()
