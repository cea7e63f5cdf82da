"""A replay in a process of its own, to be killed: ``python crash_replay.py URL ID``; prints the count after each page."""

from __future__ import annotations

import sys

from moorline.events import Inbox
from moorline.events.replay import Replays
from moorline.services import GitHub
from moorline.store.store import Store


def main() -> None:
    """Resume it and run it to its end."""
    url, id_ = sys.argv[1:]
    with Store(url, auto_migrate=False) as store:
        inbox = Inbox(store)
        for name in ("one", "two"):
            inbox.handlers.on(GitHub, "*", name=name)(len)
        replays = Replays(store, inbox.handlers, page=7)
        replays.resume_sync(id_, actor="crash test")
        replays.run_sync(id_, progress=lambda replay: print(replay.events, flush=True))  # noqa: T201 -- the parent reads it


if __name__ == "__main__":
    main()
