"""``moorline syncs``: look at what is kept in step, run one here, or let it begin anew."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moorline.cli.commands import Commands
from moorline.cli.show import AsJson, DatabaseUrl, console, opened_store, plain, print_json, rows, say, when
from moorline.cli.target import find
from moorline.errors import CallError, ConfigurationError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from moorline.app import Moorline
    from moorline.jobs.sync import Sync
    from moorline.jobs.sync_state import SyncRun, SyncState

__all__ = ["cli"]

cli = Commands(help="List, run and reset what is kept in step with a source.", no_args_is_help=True)

Target = Annotated[str, typer.Argument(metavar="MODULE:APP", help="The application, such as shop.main:app.")]


@cli.command("list")
def list_(as_json: AsJson = False, database_url: DatabaseUrl = None) -> None:
    """List those that have run at least once, with their place and their last run."""
    from moorline.jobs.sync import states

    with opened_store(database_url) as store:
        found = states(store)
    if as_json:
        print_json({name: asdict(state) for name, state in found.items()})
        return
    rows(
        ("name", "state", "run", "items", "failed", "place", "began (UTC)", "ended (UTC)", "error"),
        (_line(name, state) for name, state in found.items()),
        empty="nothing was ever kept in step",
    )


def _line(name: str, state: SyncState) -> tuple[object, ...]:
    run = state.run or state.last
    if run is None:
        return name, "new", "-", 0, 0, "-", "-", "-", "-"
    under_way = state.run is not None
    word = ("stopped" if run.error else "running") if under_way else "in step"
    place = (run.place if under_way else state.place) or "-"
    kind = "full" if run.full else "changes"
    return name, word, kind, run.items, run.failed, place, when(run.began), when(run.ended), run.error or "-"


@cli.command()
def run(
    target: Target,
    name: Annotated[str, typer.Argument(help="The sync.")],
    full: Annotated[bool, typer.Option("--full", help="Everything, not only what has changed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run one here, to its end, and show how far it is. One that broke off goes on from its last checkpoint."""
    app = find(target)
    sync = _named(app, target, name)

    async def running() -> SyncRun:
        async with app:
            with _shown(None if as_json else name) as tell:
                return await sync.run(full=full, tell=tell)

    try:
        done = asyncio.run(running())
    except (CallError, StoreError) as error:
        say(f"stopped: {error}; the next run goes on from the last checkpoint")
        raise typer.Exit(1) from None
    if as_json:
        print_json(asdict(done))
    elif done.overtaken:
        console.print("another run has moved on meanwhile; this one gave way")
    else:
        kind = "everything" if done.full else "what has changed"
        console.print(f"{kind}: {done.applied:,} applied, {done.removed:,} removed, {done.failed:,} left to jobs")
    raise typer.Exit(1 if done.overtaken else 0)


@contextlib.contextmanager
def _shown(name: str | None) -> Iterator[Callable[[SyncRun], object] | None]:
    """A line that says how far it is, where somebody looks."""
    if name is None or not console.is_terminal:
        yield None
        return
    with console.status(f"{name} …") as status:
        yield lambda run: status.update(f"{name}: {run.items:,} items, {run.failed:,} failed, up to {run.place or '-'}")


@cli.command()
def reset(
    target: Target,
    name: Annotated[str, typer.Argument(help="The sync.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Forget how far a sync is: its next run is a full one. Nothing that was applied is undone."""
    app = find(target)
    sync = _named(app, target, name)
    if not yes:
        typer.confirm(f"Forget the place of {name}?", abort=True)

    async def forgetting() -> None:
        async with app:
            await sync.reset()

    asyncio.run(forgetting())
    console.print(f"{plain(name)}: the next run is a full one", markup=False)


def _named(app: Moorline, target: str, name: str) -> Sync[Any]:
    found = app.syncs.get(name)
    if found is None:
        known = ", ".join(sorted(app.syncs)) or "none"
        raise ConfigurationError(f"{target} has no sync {name!r}; it has {known}")
    return found
