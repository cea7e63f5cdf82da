"""The application whose processes the crash tests kill. What it did is noted in a file of the folder JOURNALS."""

from __future__ import annotations

import os
import signal

from moorline import Moorline
from moorline.events import Event
from moorline.services import GitHub

app = Moorline()
journal = os.open(f"{os.environ['JOURNALS']}/{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)


@app.on(GitHub, "push", name="handled")
async def handled(event: Event) -> None:
    """Note the delivery; a write to the kernel outlives the process."""
    os.write(journal, f"event {event.payload['delivery']}\n".encode())


@app.job(name="innocent")
def innocent(number: int) -> None:
    """Note the number."""
    os.write(journal, f"job {number}\n".encode())


@app.job(name="poison")
async def poison(number: int) -> None:
    """Kill the process that runs it."""
    os.kill(os.getpid(), signal.SIGKILL)
