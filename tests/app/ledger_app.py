"""An application that books each event once: the id of the event and its effect in one transaction of the ledger.

The ledger is a SQLite file of its own, LEDGER, and stands for the system that a handler acts upon. Who did anything
leaves a file named for its process in the folder JOURNALS.
"""

from __future__ import annotations

import os
import sqlite3
from functools import cache
from pathlib import Path

from moorline import Moorline
from moorline.events import Event
from moorline.services import GitHub

app = Moorline()
ledger = sqlite3.connect(os.environ["LEDGER"], isolation_level=None, timeout=30, check_same_thread=False)
ledger.execute("PRAGMA synchronous = OFF")  # what the kernel was given outlives the process


@cache
def show_life() -> None:
    """Leave the file, once."""
    Path(os.environ["JOURNALS"], str(os.getpid())).touch()


@app.on(GitHub, "push", name="booked")
async def booked(event: Event) -> None:
    """Add the amount to the account, unless that event was booked before; how often it ran is kept."""
    ledger.execute("BEGIN IMMEDIATE")
    new = ledger.execute("INSERT OR IGNORE INTO booked VALUES (?, 0)", (event.payload["delivery"],)).rowcount
    ledger.execute("UPDATE booked SET runs = runs + 1 WHERE delivery = ?", (event.payload["delivery"],))
    if new:
        ledger.execute("UPDATE account SET total = total + ?, entries = entries + 1", (event.payload["amount"],))
    ledger.execute("COMMIT")
    show_life()
