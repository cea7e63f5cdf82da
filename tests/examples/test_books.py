"""The books of examples/books: what is at Stripe ends up there, once, whatever is down for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import sqlalchemy as sa
from tests.examples.conftest import Sandbox

from moorline import Money
from moorline.jobs.worker import Worker

Load = Callable[[str], ModuleType]


@pytest.fixture
def books(sandbox: Sandbox, load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, with books of the test's own; retries are due at once."""
    (tmp_path / "moorline.toml").write_text("[services.stripe]\nretries = 0\n")
    monkeypatch.setenv("MOORLINE_SETTINGS", str(tmp_path / "moorline.toml"))
    monkeypatch.setenv("BOOKS_URL", f"sqlite:///{tmp_path / 'books.db'}")
    return load("examples/books/main.py")


async def _pay(books: Any, *cents: int) -> None:
    for amount in cents:
        await books.stripe.create_payment(Money(amount, "usd"), payment_method="pm_card_visa")


def _entries(books: Any) -> list[int]:
    with books._books.connect() as connection:
        if not sa.inspect(connection).has_table("entries"):
            return []
        return sorted(connection.execute(sa.select(books.entries.c.amount)).scalars())


def test_payments_are_copied_once_and_in_order(books: Any, sandbox: Sandbox) -> None:
    """What is new since the cursor, over several pages; read again, nothing is doubled."""

    async def main() -> None:
        async with books.moor:
            assert await books.pull() == 0
            await _pay(books, 100, 200, 300)
            assert await books.pull() == 3
            place = await books.cursor.read()
            await Worker(books.moor.jobs).drain()
            assert _entries(books) == [100, 200, 300]
            await _pay(books, 400)
            assert await books.pull() == 4  # the overlap is read again
            await Worker(books.moor.jobs).drain()
            assert _entries(books) == [100, 200, 300, 400]
            assert int(await books.cursor.read()) >= int(place)

    asyncio.run(main())


def test_an_outage_moves_nothing(books: Any, sandbox: Sandbox) -> None:
    """Stripe is down: the job is tried again, the cursor stays; afterwards all is there."""

    async def main() -> None:
        async with books.moor:
            await _pay(books, 100)
            sandbox.arm(kind="status", service="stripe", status=503)
            handle = await books.pull.enqueue()
            await Worker(books.moor.jobs, seed=1).run_once()
            job = await handle.job()
            assert (job.state, await books.cursor.read()) == ("ready", None)
            sandbox.calm()
            await books.moor.jobs.broker.retry(handle.id)
            await Worker(books.moor.jobs).drain()
            assert _entries(books) == [100]

    asyncio.run(main())


def test_of_two_workers_that_pull_at_once_one_enqueues(
    books: Any, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one sees that the cursor has moved."""

    async def main() -> None:
        async with books.moor:
            await _pay(books, 100, 200)
            read = books.cursor.read
            both = asyncio.Barrier(2)

            async def together() -> str | None:
                place: str | None = await read()
                await both.wait()
                return place

            monkeypatch.setattr(books.cursor, "read", together)
            assert sorted(await asyncio.gather(books.pull(), books.pull())) == [0, 2]
            await Worker(books.moor.jobs).drain()
            assert _entries(books) == [100, 200]

    asyncio.run(main())
