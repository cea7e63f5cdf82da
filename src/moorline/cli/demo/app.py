"""The application of the demonstration: what a small shop would write. The receiver and the worker run it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from moorline import Moorline
from moorline.services import GitHub, Resend, SendGrid, Stripe
from moorline.services.email.protocol import Email

if TYPE_CHECKING:
    from moorline import Event

FOLDER = Path(os.environ.get("MOORLINE_DEMO_FOLDER", "."))
"""Where handlers note what they did, and where the cause of the poison lies."""

app = Moorline()
email = app.failover(SendGrid, Resend)


def note(book: str, line: str) -> None:
    """Append one line; the kernel keeps lines of several processes apart."""
    with (FOLDER / book).open("a", encoding="utf-8") as file:
        file.write(line + "\n")


@app.job(retries=5)
async def send_welcome(user_id: str) -> None:
    """Greet a new customer."""
    await email.send(
        Email(
            sender="shop@example.com",
            to=[f"{user_id}@customers.example"],
            subject="Welcome!",
            text="Good to have you aboard.",
            metadata={"user": user_id},
        )
    )
    note("welcomed", user_id)


@app.on(Stripe, "payment_intent.succeeded")
async def book_payment(event: Event) -> None:
    """Book what was paid."""
    note("booked", event.payload["data"]["object"]["id"])


@app.on(GitHub, "*")
def follow_github(event: Event) -> None:
    """A plain function works too: it runs in a thread."""
    note("followed", f"{event.id} {event.name}")


@app.job(retries=5)
def import_ledger() -> None:
    """Kills its worker, as a bug in a native library would, until the cause is mended."""
    if not (FOLDER / "mended").exists():
        note("killed", str(os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)
    note("imported", "ledger")
