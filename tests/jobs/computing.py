"""Functions at the top of a module, which the tests' processes find by their names."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

from moorline.clock import SYSTEM
from moorline.jobs import Snooze, current


class Unpicklable(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def where() -> int:
    current().progress(0.5, message=current().name)
    return os.getpid()


async def on_a_loop(word: str) -> str:
    return f"{word} in {current().attempt} of {current().max_attempts}"


def spins(mark: str) -> None:
    """Computes for ever, without giving the interpreter up for long."""
    Path(mark).write_text(str(os.getpid()))
    while True:
        time.time()


def dies() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fails() -> None:
    raise Unpicklable(1, 2)


def snoozes() -> Snooze:
    return Snooze(3600)


def ends_late(mark: str) -> None:
    """Goes on when its group is told to end."""
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    threading.Event().wait(0.01)
    Path(mark).write_text("whole")


def outlives(mark: str) -> None:
    """Goes on for a minute, if it is let."""
    Path(mark).write_text(str(os.getpid()))
    SYSTEM.sleep(60)
