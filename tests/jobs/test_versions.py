"""Arguments that were stored by another version of the program, and those that are too large."""

from __future__ import annotations

from typing import Any

import pytest

from moorline.codec import Codec
from moorline.errors import ConfigurationError, InvalidArguments, PayloadFromNewer
from moorline.jobs.brokers.sql import SqlBroker
from moorline.jobs.registry import Jobs
from moorline.jobs.worker import Worker
from moorline.store import Store


def in_cents(old: dict[str, object]) -> dict[str, object]:
    return {"order": old["order"], "cents": int(str(old["euros"])) * 100}


def with_currency(old: dict[str, object]) -> dict[str, object]:
    return old | {"currency": "eur"}


def first(order: str, euros: int) -> None: ...


def third(order: str, cents: int, currency: str) -> None: ...


class TestCodec:
    def test_each_version_becomes_the_next(self) -> None:
        """From the first to the third, and from the second; what is of the third is left alone."""
        codec = Codec(third, version=3, upgrades={1: in_cents, 2: with_currency})
        expected = {"order": "a", "cents": 500, "currency": "eur"}
        second = b'{"v":1,"of":2,"args":{"order":"a","cents":500}}'
        for stored in (Codec(first).encode(("a", 5), {}), second, codec.encode(("a", 500, "eur"), {})):
            args, kwargs = codec.decode(stored)
            assert dict(zip(expected, args, strict=False)) | kwargs == expected

    def test_a_newer_version_is_left_to_a_newer_program(self) -> None:
        """It is no mistake of the arguments."""
        with pytest.raises(PayloadFromNewer, match="version 2, and this program knows up to 1"):
            Codec(first).decode(b'{"v":1,"of":2,"args":{}}')

    @pytest.mark.parametrize("of", ['"2"', "0", "-1", "null", "[]"])
    def test_a_version_that_is_none(self, of: str) -> None:
        """Told as what it is."""
        with pytest.raises(InvalidArguments, match="which is none"):
            Codec(first).decode(b'{"v":1,"of":%b,"args":{}}' % of.encode())

    @pytest.mark.parametrize(
        ("version", "upgrades"), [(0, {}), (True, {}), (2, {}), (1, {1: in_cents}), (3, {1: in_cents}), (2, {1: "x"})]
    )
    def test_every_step_must_be_there(self, version: int, upgrades: dict[int, Any]) -> None:
        """A missing one is found when the program starts."""
        with pytest.raises(ConfigurationError, match=r"version|upgrades"):
            Codec(first, version=version, upgrades=upgrades)

    def test_an_upgrade_must_give_arguments(self) -> None:
        """Not anything else."""
        codec = Codec(first, version=2, upgrades={1: lambda _: None})  # type: ignore[dict-item,return-value]
        with pytest.raises(InvalidArguments, match="gave no arguments"):
            codec.decode(Codec(first).encode(("a", 1), {}))


async def test_a_job_waits_for_the_program_that_knows_its_version(store: Store) -> None:
    """A worker from before the deployment puts it off, and spends no attempt; the one after runs it."""
    seen: list[tuple[str, int, str]] = []

    def book(order: str, cents: int, currency: str) -> None:
        seen.append((order, cents, currency))

    def before(order: str, euros: int) -> None: ...

    old, new = Jobs(SqlBroker(store)), Jobs(SqlBroker(store))
    upgrades = {1: in_cents, 2: with_currency}
    old_function = old.function(before, name="book")
    new_function = new.function(book, name="book", version=3, upgrades=upgrades)
    early = await old_function.enqueue("a", 5)
    late = await new_function.enqueue("b", 700, "usd")
    assert await Worker(old).drain() == 2
    assert (await early.job()).state == "done"
    waiting = await late.job()
    assert (waiting.state, waiting.attempts) == ("ready", 0)
    assert "version 3" in str(waiting.last_error)
    await old_function.enqueue("c", 6)
    await new.broker.retry(late.id)
    await Worker(new).drain()
    assert sorted(seen) == [("b", 700, "usd"), ("c", 600, "eur")]


async def test_arguments_that_are_too_large(any_jobs: Jobs) -> None:
    """Refused with advice when they are enqueued; dead with their bytes if they are there all the same."""

    def takes(text: str) -> None: ...

    function = any_jobs.function(takes)
    small = Jobs(any_jobs.broker, max_payload=100)
    with pytest.raises(InvalidArguments, match=r"126 bytes, and 100 are allowed \(max_payload\)"):
        small.function(takes).enqueue("x" * 100)
    handle = await function.enqueue("x" * 100)
    await Worker(small).drain()
    job = await handle.job()
    assert (job.state, job.reason, len(job.payload)) == ("dead", "too large", 126)
    assert "max_payload" in str(job.last_error)
    await any_jobs.broker.retry(handle.id)
    await Worker(any_jobs).drain()
    assert (await handle.job()).state == "done"
