"""``moorline bench``: what the database or queue of the reader does with jobs, on the reader's machine."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moorline.cli.machine import machine
from moorline.cli.runner import loop_run
from moorline.cli.show import AsJson, console, print_json
from moorline.errors import StoreNotMigrated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moorline.jobs.bench import Figures, Progress
    from moorline.jobs.brokers.trial import Trial

__all__ = ["bench"]

_UNITS = {
    "one_by_one": ("enqueued one by one, {concurrency:,} at a time", "jobs/s"),
    "bulk": ("enqueued in bulk, {bulk:,} at a time", "jobs/s"),
    "drained": ("drained by one worker, concurrency {concurrency:,}", "jobs/s"),
    "enqueue_p50_ms": ("one enqueue alone, until it is durable, p50", "ms"),
    "enqueue_p99_ms": ("the same, p99", "ms"),
    "picked_up_p50_ms": ("from enqueue to the job's first line, worker idle, p50", "ms"),
    "picked_up_p99_ms": ("the same, p99", "ms"),
}


def bench(
    database_url: Annotated[
        str | None, typer.Option(metavar="URL", help="A database to measure; its schema must be there.")
    ] = None,
    queue_url: Annotated[
        str | None, typer.Option(metavar="URL", help="A queue to measure: a URL as of queue_url.")
    ] = None,
    jobs: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="Jobs enqueued one by one, and as many in bulk.")
    ] = 5_000,
    concurrency: Annotated[
        int, typer.Option(min=1, max=10_000, help="Enqueues at a time, and jobs that the worker runs at a time.")
    ] = 50,
    migrate: Annotated[
        bool, typer.Option("--migrate", help="Make moorline's tables if there are none; they stay.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Measure jobs enqueued and run a second, and how soon an idle worker picks one up, with no-op jobs.

    Without a URL: a SQLite file in a temporary folder, whatever moorline.toml says. With one:
    a queue of its own on that server, from which nobody else takes, and which is removed
    afterwards, after Ctrl-C too. The load is real: whoever uses the server meanwhile feels it.
    """
    with _trial(database_url, queue_url, migrate=migrate) as one, _bars(jobs) as progress:
        try:
            figures = loop_run(_measured(one, jobs, concurrency, progress))
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
    report = {
        "machine": machine(),
        "broker": {"kind": one.kind, "where": one.where, **one.about},
        "batches": _batches(jobs, concurrency),
        "figures": {name: round(value, 3) for name, value in asdict(figures).items()},
    }
    if as_json:
        print_json(report)
    else:
        _show(report)


@contextlib.contextmanager
def _trial(database_url: str | None, queue_url: str | None, *, migrate: bool) -> Iterator[Trial]:
    from moorline.jobs.brokers.trial import trial

    with contextlib.ExitStack() as stack:
        try:
            one = stack.enter_context(trial(database_url=database_url, queue_url=queue_url, migrate=migrate))
        except StoreNotMigrated as error:
            raise StoreNotMigrated(f"{error}, or give --migrate") from error
        yield one


async def _measured(one: Trial, jobs: int, concurrency: int, progress: Progress) -> Figures:
    """SIGTERM ends it as Ctrl-C does: what was made is removed."""
    from moorline.jobs.bench import measure
    from moorline.jobs.signals import handled

    task = asyncio.ensure_future(
        measure(one.broker, jobs=jobs, concurrency=concurrency, queue=one.queue, progress=progress)
    )

    def stop() -> None:
        task.cancel()

    with handled(stop):
        return await task


@contextlib.contextmanager
def _bars(jobs: int) -> Iterator[Progress]:
    """For people, on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from moorline.jobs.bench import STEPS

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    out = Console(stderr=True)
    with Progress(*columns, console=out, disable=not sys.stderr.isatty(), refresh_per_second=4, transient=True) as bars:
        tasks = {step: bars.add_task(step, total=jobs, visible=False) for step in STEPS}
        yield lambda step, done, total: bars.update(tasks[step], completed=done, total=total, visible=True)


def _batches(jobs: int, concurrency: int) -> dict[str, int]:
    from moorline.jobs.appetite import MAX_AHEAD
    from moorline.jobs.bench import BULK
    from moorline.jobs.completions import BATCH
    from moorline.store.writer import MAX_GROUP

    return {
        "jobs": jobs,
        "concurrency": concurrency,
        "bulk": min(BULK, jobs),
        "most claimed ahead": MAX_AHEAD,
        "most results stored together": BATCH,
        "most enqueues committed together": MAX_GROUP,
    }


def _show(report: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    from moorline.cli.show import plain

    table = Table("what", "", "", show_header=False)
    table.columns[1].justify = "right"
    for part in ("machine", "broker", "batches"):
        for name, value in report[part].items():
            table.add_row(name, Text(plain(f"{value:,}" if isinstance(value, int) else str(value))), "")
        table.add_section()
    for name, value in report["figures"].items():
        said, unit = _UNITS[name]
        shown = f"{value:,.0f}" if unit == "jobs/s" else f"{value:,.2f}"
        table.add_row(said.format(**report["batches"]), Text(shown, style="bold"), unit)
    console.print(table)
