"""``moorline jobs``: look at what waits, runs, is done and is dead; try it again or call it off."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from moorline.cli.commands import Commands
from moorline.cli.show import AsJson, DatabaseUrl, console, facts, opened_store, print_json, rows, say, when
from moorline.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from moorline.jobs.broker import Broker
    from moorline.jobs.brokers.many import Outcome
    from moorline.jobs.groups import Groups
    from moorline.jobs.job import Job
    from moorline.jobs.notes import JobNote

__all__ = ["cli"]

T = TypeVar("T")
PAGE = 500
_TOGETHER = 500  # jobs that something is done to at once
_MOST_RATE = 1_000_000.0  # as of replays

cli = Commands(help="List, show, retry, cancel, stop, skip and move jobs.", no_args_is_help=True)

State = Annotated[str | None, typer.Option(help="ready, running, blocked, done, dead, cancelled or outbox.")]
Name = Annotated[str | None, typer.Option(help="Jobs of this name only.")]
Queue = Annotated[str | None, typer.Option(help="Jobs of this queue only.")]
Limit = Annotated[int, typer.Option(min=1, max=10_000, help="At most so many, newest first.")]
Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="The jobs.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say which jobs, and do nothing.")]


@cli.command("list")
def list_(
    state: State = None,
    name: Name = None,
    queue: Queue = None,
    limit: Limit = 50,
    as_json: AsJson = False,
    database_url: DatabaseUrl = None,
) -> None:
    """List jobs, newest first."""
    which = _filter(state, name, queue, limit)
    found = _with(database_url, lambda broker: broker.list(which))
    if as_json:
        print_json([_record(job) for job in found])
        return
    rows(
        ("id", "name", "queue", "state", "attempts", "due (UTC)", "last error"),
        (
            (j.id, j.name, j.queue, _state(j), f"{j.attempts}/{j.max_attempts}", when(j.run_at), _short(j))
            for j in found
        ),
        empty="no such job",
    )


@cli.command()
def show(job_id: str, as_json: AsJson = False, database_url: DatabaseUrl = None) -> None:
    """Show one job with its arguments and its last errors."""

    async def all_of_it(broker: Broker) -> tuple[Job, JobNote | None, list[Any]]:
        return await broker.get(job_id), await broker.notes.read(job_id), await broker.failures(job_id)

    job, note, failures = _with(database_url, all_of_it)
    told = {} if note is None else _told(note)
    if as_json:
        print_json({**_record(job), **told, "failures": [asdict(one) for one in failures]})
        return
    known = {**_record(job, shown=when), **told}
    facts((name.replace("_", " "), value) for name, value in known.items() if value is not None)
    for one in failures:
        console.print(f"\n[bold red]attempt {one.attempt}[/], {when(one.at)}: {one.type}")
        say(one.message)
        say(one.traceback, style="dim")


@cli.command()
def retry(
    ids: Ids = None,
    state: State = None,
    name: Name = None,
    queue: Queue = None,
    limit: Limit = 1000,
    rate: Annotated[float | None, typer.Option(min=0.01, max=_MOST_RATE, help="At most so many a second.")] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Make jobs due now with all their attempts: those named, or all that fit (--state dead)."""
    chosen = (state, name, queue, limit)
    _each(ids, chosen, dry_run, as_json, database_url, "retried", lambda b, some: b.retry_many(some), rate)


@cli.command()
def cancel(
    ids: Ids = None,
    state: State = None,
    name: Name = None,
    queue: Queue = None,
    limit: Limit = 1000,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Call off jobs that wait: those named, or all that fit (--name import_ledger)."""
    if state is None and (name or queue):
        state = "ready"
    _each(ids, (state, name, queue, limit), dry_run, as_json, database_url, "cancelled", _cancelled)


@cli.command()
def stop(
    ids: Ids = None,
    state: State = None,
    name: Name = None,
    queue: Queue = None,
    limit: Limit = 1000,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Call off jobs that wait, and ask those that run to stop: those named, or all that fit (--state running).

    An async function is cancelled within some seconds; a plain one ends when it looks at current().stopping.
    """
    _each(ids, (state, name, queue, limit), dry_run, as_json, database_url, "stopped", _stopped)


def _stopped(broker: Broker, some: Sequence[str]) -> Awaitable[list[Outcome]]:
    from moorline.jobs.brokers.many import to_each
    from moorline.jobs.watch import stop as stop_one

    return to_each(some, lambda one: stop_one(broker, one, "by an operator"))


def _cancelled(broker: Broker, some: Sequence[str]) -> Awaitable[list[Outcome]]:
    from moorline.jobs.brokers.many import to_each

    return to_each(some, lambda one: broker.cancel(one, reason="by an operator"))


@cli.command()
def skip(
    ids: Ids = None,
    state: State = None,
    name: Name = None,
    queue: Queue = None,
    limit: Limit = 1000,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Let order keys go on without these jobs, waiting or dead: those named, or all that fit (--state dead)."""
    _each(ids, (state, name, queue, limit), dry_run, as_json, database_url, "skipped", _skipped)


def _skipped(broker: Broker, some: Sequence[str]) -> Awaitable[list[Outcome]]:
    from moorline.jobs.brokers.many import to_each

    return to_each(some, broker.skip)


def _each(
    ids: list[str] | None,
    chosen: tuple[str | None, str | None, str | None, int],
    dry_run: bool,
    as_json: bool,
    database_url: str | None,
    done: str,
    act: Callable[[Broker, Sequence[str]], Awaitable[Sequence[Outcome]]],
    rate: float | None = None,
) -> None:
    """Do it to each; one that cannot be done does not keep the others from it, and makes the exit code 1."""
    if not ids and not any(chosen[:3]):
        raise ConfigurationError("name the jobs, or say which by --state, --name or --queue")
    if ids and any(chosen[:3]):
        raise ConfigurationError("give ids, or --state, --name and --queue, not both")

    async def all_of_them(broker: Broker, groups: Groups) -> list[dict[str, str]]:
        from moorline.jobs.brokers.many import to_each

        names = ids or await _fitting(broker, chosen)
        size = _TOGETHER if rate is None else max(1, min(_TOGETHER, int(rate)))
        results = []
        for start in range(0, len(names), size):
            if start and rate is not None and not dry_run:
                await asyncio.sleep(size / rate)
            some = names[start : start + size]
            outcomes: Sequence[object] = some  # as listed
            if not dry_run:
                outcomes = await act(broker, some)
                await groups.called_off(outcomes)
            elif ids:
                outcomes = await to_each(some, broker.get)
            for one, outcome in zip(some, outcomes, strict=True):
                fine = "would be " + done if dry_run else done
                results.append({"id": one, "result": f"failed: {outcome}" if isinstance(outcome, Exception) else fine})
        return results

    results = _with_groups(database_url, all_of_them)
    if as_json:
        print_json(results)
    else:
        rows(("id", "result"), ((one["id"], one["result"]) for one in results), empty="no such job")
    if any(one["result"].startswith("failed") for one in results):
        raise typer.Exit(1)


async def _fitting(broker: Broker, chosen: tuple[str | None, str | None, str | None, int]) -> list[str]:
    """The newest that fit, up to the limit; that there are more is told."""
    state, name, queue, limit = chosen
    found = [job.id for job in await broker.list(_filter(state, name, queue, limit + 1))]
    if len(found) > limit:
        typer.echo(f"more jobs fit: only the newest {limit:,} are taken (--limit, up to 10,000)", err=True)
    return found[:limit]


@cli.command()
def drain(
    to: Annotated[str, typer.Option(help="Where they go: a URL as of queue_url, or of a database.")],
    queue: Annotated[
        list[str] | None, typer.Option(help="This queue, or several; by default those of the worker.")
    ] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Move what waits to another broker, both in use: change queue_url first, then drain the old one.

    MOORLINE_QUEUE_URL (or none) names the old one here. What is dead stays. Ctrl-C stops it, and nothing is lost.
    To another database jobs of events and of groups do not move: those are in this one. Let its worker finish them.
    """
    from moorline.jobs.moving import Moved, move
    from moorline.settings import load

    queues = queue or load(database_url=database_url).worker.queues

    async def moved(source: Broker) -> dict[str, Any]:
        result = Moved(0)
        if not dry_run:
            with _target(to, database_url) as (target, same_database), console.status("moving") as status:
                result = await move(
                    source,
                    target,
                    queues=queues,
                    same_database=same_database,
                    progress=lambda n: status.update(f"{n:,} moved"),
                )
        left = await source.counts()
        waits = {"ready", "blocked", "running", "dead"}
        return asdict(result) | {"left": {f"{name} {state}": n for (name, state), n in left.items() if state in waits}}

    result = _with(database_url, moved)
    if as_json:
        print_json(result)
    else:
        stayed = {"kept in the database": result["kept"], "kept with their event or group": result["tied"]}
        facts({"moved": result["jobs"], **stayed, **result["left"]}.items())


@contextlib.contextmanager
def _target(url: str, database_url: str | None) -> Iterator[tuple[Broker, bool]]:
    """The broker there, and whether its workers have the database that those here have."""
    from moorline.jobs.brokers.choice import SCHEMES, broker_at
    from moorline.store import Store

    queue = url.partition("://")[0] in SCHEMES
    with opened_store(database_url) as here, here if queue else Store(url, auto_migrate=True) as store:
        broker = broker_at(url if queue else None, store)
        try:
            yield broker, queue or broker.home() == broker_at(None, here).home()
        finally:
            broker.close()


@cli.command()
def schedules(database_url: DatabaseUrl = None, as_json: AsJson = False) -> None:
    """List the schedules that a worker has looked at: up to when their jobs were made, and when the next one is due."""
    from moorline.jobs.schedules import known_schedules

    store = opened_store(database_url)
    try:
        known = store.read_sync(known_schedules)
    finally:
        store.close()
    if as_json:
        print_json([one._asdict() for one in known])
        return
    lines = ((one.name, one.job, _often(one.when), one.tz, when(one.last), when(one.next)) for one in known)
    rows(("name", "job", "when", "time zone", "made up to", "next"), lines, empty="no schedule")


def _often(schedule: str | float) -> str:
    return schedule if isinstance(schedule, str) else f"every {schedule:g} s"


def _with(database_url: str | None, use: Callable[[Broker], Awaitable[T]]) -> T:
    return _with_groups(database_url, lambda broker, _: use(broker))


def _with_groups(database_url: str | None, use: Callable[[Broker, Groups], Awaitable[T]]) -> T:
    from moorline.jobs.brokers.choice import broker_at
    from moorline.jobs.groups import Groups
    from moorline.settings import load

    store = opened_store(database_url)
    settings = load(database_url=database_url)
    broker = broker_at(settings.queue_url, store, queues=settings.worker.queues)

    async def main() -> T:
        return await use(broker, Groups(store, broker))

    try:
        return asyncio.run(main())
    finally:
        broker.close()
        store.close()


def _filter(state: str | None, name: str | None, queue: str | None, limit: int) -> Any:
    from moorline.jobs.broker import JobFilter
    from moorline.jobs.job import STATES

    if state is not None and state not in STATES:
        raise ConfigurationError(f"--state: {state!r} is none of {', '.join(STATES)}")
    return JobFilter(state=state, name=name, queue=queue, limit=limit)


def _record(job: Job, shown: Callable[[float | None], Any] = lambda seconds: seconds) -> dict[str, Any]:
    from moorline.jobs.order import shown as in_words

    record = asdict(job)
    record["payload"] = job.payload.decode("utf-8", "replace")
    del record["order_key"]  # what is called a key is masked, and this one says whose turn it is
    record["order"] = None if job.order_key is None else in_words(job.order_key)
    for name in ("run_at", "created_at", "started_at", "finished_at"):
        record[name] = shown(record[name])
    return record


def _told(note: JobNote) -> dict[str, Any]:
    return {
        "progress": None if note.done is None else f"{note.done:.0%} {note.message or ''}".strip(),
        "result": None if note.result is None else note.result.decode("utf-8", "replace"),
        "asked_to_stop": note.stop,
    }


def _state(job: Job) -> str:
    if job.blocked_behind is not None:
        return f"{job.state} (behind {job.blocked_behind})"
    return f"{job.state} ({job.reason})" if job.reason else job.state


def _short(job: Job) -> str:
    line = (job.last_error or "").partition("\n")[0]
    return line if len(line) <= 60 else line[:59] + "…"
