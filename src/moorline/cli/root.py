"""The commands, one function each; larger ones, and groups of them such as ``calls`` and ``jobs``, lie beside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moorline.cli import calls, connections, events, jobs, keys, syncs
from moorline.cli.bench import bench
from moorline.cli.commands import Commands
from moorline.cli.services import doctor, services

if TYPE_CHECKING:
    from moorline.app import Moorline

__all__ = ["cli"]

cli = Commands(
    name="moorline",
    help="Calls, webhooks and jobs that hold when third-party APIs do not.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
cli.add_typer(calls.cli, name="calls")
cli.add_typer(connections.cli, name="connections")
cli.add_typer(events.cli, name="events")
cli.add_typer(jobs.cli, name="jobs")
cli.add_typer(keys.cli, name="keys")
cli.add_typer(syncs.cli, name="syncs")

_MORE_GRACE = 10.0  # seconds that a worker may take beyond its own grace, to store what was done

Target = Annotated[str, typer.Argument(metavar="MODULE:APP", help="The application, such as shop.main:app.")]
Host = Annotated[str, typer.Option(help="The address to listen on.")]
Port = Annotated[int, typer.Option(min=0, max=65_535, help="The port to listen on; 0 takes a free one.")]
Concurrency = Annotated[int | None, typer.Option(min=1, help="Jobs in flight (setting worker.concurrency).")]
Queue = Annotated[list[str] | None, typer.Option(help="A queue to work; may be given several times.")]


def _version(wanted: bool) -> None:
    if wanted:
        from moorline import __version__

        typer.echo(f"moorline {__version__}")
        raise typer.Exit


@cli.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    del version


@cli.command()
def serve(target: Target, host: Host = "127.0.0.1", port: Port = 8000) -> None:
    """Serve the application's routes (webhooks, health) over HTTP."""
    _start(target, address=(host, port))


@cli.command()
def worker(
    target: Target,
    concurrency: Concurrency = None,
    queue: Queue = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=1_000, help="So many processes, each started again when it crashes.")
    ] = None,
) -> None:
    """Run the application's jobs and event handlers.

    With --workers a supervisor keeps that many processes alive; SIGHUP replaces them one after the other.
    """
    if workers is None:
        _start(target, work=True, concurrency=concurrency, queue=queue)
        return
    options = [] if concurrency is None else ["--concurrency", str(concurrency)]
    options += [part for name in queue or () for part in ("--queue", name)]
    raise typer.Exit(_supervise([target, *options], workers))


def _supervise(arguments: list[str], workers: int) -> int:
    import asyncio
    import sys

    from moorline import telemetry
    from moorline.cli.supervisor import Supervisor
    from moorline.cli.target import find

    settings = find(arguments[0]).settings  # a wrong one is told once, by us
    telemetry.configure(level=settings.log.level, format=settings.log.format)
    command = [sys.executable, "-m", "moorline.cli", "worker", *arguments]

    async def main() -> int:
        return await Supervisor(command, workers, grace=settings.worker.grace + _MORE_GRACE).run()

    return asyncio.run(main())


@cli.command()
def run(
    target: Target, host: Host = "127.0.0.1", port: Port = 8000, concurrency: Concurrency = None, queue: Queue = None
) -> None:
    """Serve and work in one process."""
    _start(target, address=(host, port), work=True, concurrency=concurrency, queue=queue)


def _start(
    target: str,
    *,
    address: tuple[str, int] | None = None,
    work: bool = False,
    concurrency: int | None = None,
    queue: list[str] | None = None,
) -> None:
    from moorline import telemetry
    from moorline.cli import runner
    from moorline.cli.supervisor import end_with_parent
    from moorline.cli.target import find

    end_with_parent()
    app = find(target)
    telemetry.configure(level=app.settings.log.level, format=app.settings.log.format)
    log = telemetry.logger("cli")
    listener = None
    if address is not None:
        listener = runner.listen(*address)
        host, port = listener.getsockname()[:2]
        url = f"http://{host}:{port}"
        log.info("serving", url=url, webhooks=app.webhook_paths(), dashboard=_dashboard(app, url))
    if work:
        log.info("working", queues=queue or list(app.settings.worker.queues), jobs=sorted(app.jobs.names()))
    runner.run(app, listener=listener, worker=app.worker(concurrency=concurrency, queues=queue) if work else None)


def _dashboard(app: Moorline, url: str) -> str:
    """Where it is, or how it is opened."""
    from moorline.dashboard.drawing import check_installed
    from moorline.errors import ConfigurationError

    if not app.dashboard_open():
        return "closed: set MOORLINE_DASHBOARD_TOKEN, or [dashboard] users"
    try:
        check_installed()
    except ConfigurationError as error:
        return str(error)
    return f"{app.settings.webhooks.public_url or url}/dashboard"


@cli.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": False})
def sandbox(
    context: typer.Context,
    host: Host = "127.0.0.1",
    port: Port = 4010,
    seed: Annotated[int, typer.Option(help="Seed of the faults that come by chance.")] = 0,
    webhooks_to: Annotated[
        str | None, typer.Option(metavar="URL", help="Send every service's webhooks to URL/webhooks/{service}.")
    ] = None,
) -> None:
    """Serve offline stand-ins for the services, with faults on demand.

    With a command behind "--" it is run with every service pointed at the sandbox, and the sandbox ends with it:
    moorline sandbox -- uvicorn main:api
    """
    from moorline.cli import offline

    raise typer.Exit(offline.run(list(context.args), host=host, port=port, seed=seed, webhooks_to=webhooks_to))


@cli.command()
def demo(
    github_payloads: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="A folder of GitHub's webhook bodies, EVENT.action.json each."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON and nothing else.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the sandbox.")] = 0,
) -> None:
    """Play a bad day offline: outages, duplicates, forgeries, poison; and check what was promised."""
    from moorline.cli.demo import play

    result: dict[str, Any] = play(github_payloads, seed=seed, quiet=as_json)
    if as_json:
        typer.echo(json.dumps(result, indent=2))
    raise typer.Exit(0 if result["kept"] else 1)


cli.command()(bench)
cli.command()(services)
cli.command()(doctor)
