"""The books of a shop: every payment at Stripe is copied into the accountant's database, each once, in order.

Start it against the sandbox, in this folder, with the project's ``.venv/bin`` on the path::

    moorline sandbox -- moorline worker main:moor

Each minute ``pull`` asks Stripe for what is new since the cursor, and moves the cursor in the same transaction in which
it enqueues a job for each payment. Stripe down: the cursor stays where it is. The books locked: the jobs wait and are
tried again. A crash anywhere: what was not moved is read again, and what was is in the queue.

Against the real Stripe set STRIPE_SECRET_KEY, and BOOKS_URL for the accountant's database.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Final

import sqlalchemy as sa
from sqlalchemy.schema import CreateTable

from moorline import Money, Moorline
from moorline.services import Stripe

moor = Moorline()
stripe = moor.service(Stripe)
cursor = moor.cursor("stripe-payments")

_OVERLAP: Final = 5  # seconds that are read again: a payment may show up a little later than its time says
_books = sa.create_engine(os.environ.get("BOOKS_URL", "sqlite:///books.db"))
entries = sa.Table(
    "entries",
    sa.MetaData(),
    sa.Column("payment", sa.Text, primary_key=True),
    sa.Column("day", sa.Text, nullable=False),
    sa.Column("amount", sa.BigInteger, nullable=False),
    sa.Column("currency", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
)


@moor.job(retries=3, timeout=300)
async def pull() -> int:
    """What is new at Stripe since the last time; how many payments that were."""
    place = await cursor.read()
    since = int(place or 0)
    newest, calls = since, []
    async for payment in stripe.list_payments(created={"gte": max(0, since - _OVERLAP)}):
        created = payment.created_at or datetime.now(UTC)
        newest = max(newest, int(created.timestamp()))
        # Of one payment, one after the other: what came later must win.
        calls.append(book.using(key=payment.id).call(payment.id, created, payment.amount, payment.vendor_status))
    calls.reverse()  # Stripe lists the newest first
    if calls and not await cursor.move(place, str(newest), calls):
        return 0  # another worker was faster, and has enqueued the same
    return len(calls)


@moor.job(retries=10)
def book(payment: str, created: datetime, amount: Money, status: str) -> None:
    """Write one entry. Twice is once, so it may run again."""
    entry = {
        "payment": payment,
        "day": created.astimezone(UTC).date().isoformat(),
        "amount": amount.minor,
        "currency": amount.currency,
        "status": status,
    }
    with _books.begin() as connection:
        connection.execute(CreateTable(entries, if_not_exists=True))
        changed = sa.update(entries).where(entries.c.payment == payment).values(entry)
        if not connection.execute(changed).rowcount:
            connection.execute(sa.insert(entries).values(entry))


moor.schedule(60, pull)
