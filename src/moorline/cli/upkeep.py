"""``moorline events prune``, ``alerts``, ``rejected`` and ``export``: what an operator asks of stored events."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moorline import redaction
from moorline.cli.replays import Actor, user
from moorline.cli.show import AsJson, DatabaseUrl, console, facts, opened_store, print_json, rows, when
from moorline.errors import ConfigurationError, EventNotFound

if TYPE_CHECKING:
    from moorline.events.refusals import Refusal
    from moorline.events.retention import Swept

__all__ = ["alerts", "export", "prune", "rejected"]


def prune(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count what is due, and change nothing.")] = False,
    actor: Actor = None,
    as_json: AsJson = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Do now what workers do every minute: delete, empty and compress what is due by the settings."""
    from rich.console import Console
    from rich.status import Status

    from moorline.events.retention import Retention
    from moorline.settings import load

    config = load(database_url=database_url).webhooks.retention()
    with opened_store(database_url) as store:
        retention = Retention(store, config)
        if dry_run:
            swept = retention.count_sync()
        else:
            with Status("pruning", console=Console(stderr=True)) as status:
                swept = retention.run_once_sync(actor=actor or user(), progress=lambda now: status.update(_said(now)))
    if as_json:
        print_json({**asdict(swept), "dry_run": dry_run})
        return
    console.print(("would be " if dry_run else "") + _said(swept))


def _said(swept: Swept) -> str:
    return f"{swept.deleted:,} events deleted, {swept.emptied:,} emptied, {swept.compressed:,} compressed"


def alerts(as_json: AsJson = False, database_url: DatabaseUrl = None) -> None:
    """Show what fires now, by the settings; exit code 1 if something does."""
    from moorline.events.accepting import EnvironmentSecrets
    from moorline.events.alert_watch import AlertWatch
    from moorline.events.ending import ending_secrets, senders
    from moorline.events.sources import Sources
    from moorline.identity.loading import look_for_secrets
    from moorline.identity.own_secrets import OwnSecrets
    from moorline.secrets.rings import encryption_ring
    from moorline.settings import load

    settings = load(database_url=database_url)
    webhooks = settings.webhooks
    sources = Sources()
    for name, source in webhooks.sources.items():
        sources.add(name, source.build(name))
    secrets = EnvironmentSecrets(sources.scheme)
    with opened_store(database_url) as store:
        look_for_secrets(settings.secrets, lambda: OwnSecrets(store, encryption_ring))
        watch = AlertWatch(store, webhooks.alerts.config(), secrets=lambda: ending_secrets(senders(sources), secrets))
        firing = watch.firing_sync()
    if as_json:
        print_json([alert.to_dict() for alert in firing])
    else:
        rows(
            ("rule", "service", "since (UTC)", "what"),
            ((alert.rule, alert.service or "all", when(alert.since), alert.message) for alert in firing),
            empty="nothing fires",
        )
    if firing:
        raise typer.Exit(1)


def rejected(
    refusal_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="Show this one, with its headers.")] = None,
    service: Annotated[str | None, typer.Option(help="Requests as this service only.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many, newest first.")] = 50,
    as_json: AsJson = False,
    database_url: DatabaseUrl = None,
) -> None:
    """List requests that were refused, newest first, or show one: why a signature does not fit."""
    from moorline.events.refusals import refusal_by_id, refusals

    if refusal_id is not None:
        with opened_store(database_url) as store:
            one = store.read_sync(refusal_by_id, refusal_id)
        if one is None:
            raise EventNotFound(f"no refused request {refusal_id!r} is kept")
        _show_refusal(one, as_json)
        return
    with opened_store(database_url) as store:
        found = store.read_sync(refusals, service, limit)
    if as_json:
        print_json([_refusal(one) for one in found])
        return
    rows(
        ("id", "at (UTC)", "service", "status", "reason", "method", "bytes", "digest"),
        (
            (r.id, when(r.at), r.service, r.status, r.reason, r.method, _or_dash(r.size), _short(r.digest))
            for r in found
        ),
        empty="no refused request",
    )


def _show_refusal(one: Refusal, as_json: bool) -> None:
    if as_json:
        print_json({**_refusal(one), "headers": dict(one.headers)})
        return
    facts((name, when(value) if name == "at" else _or_dash(value)) for name, value in _refusal(one).items())
    facts(redaction.headers(one.headers).items())


def _refusal(one: Refusal) -> dict[str, Any]:
    record = asdict(one)
    del record["headers"]
    return record


def _or_dash(value: object) -> str:
    return "-" if value is None else str(value)


def _short(digest: str | None) -> str:
    return _or_dash(digest if digest is None or len(digest) <= 20 else digest[:19] + "…")


def export(
    event_id: Annotated[str, typer.Argument(metavar="ID", help="The event, by either id.")],
    to: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it there instead of printing it.")] = None,
    redact: Annotated[
        bool, typer.Option("--redact", help="Mask secrets in the body too; it is written anew then.")
    ] = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Write an event as a test fixture, for moorline.testing: JSON, with headers as stored and the body as it came."""
    from moorline.events import Inbox
    from moorline.events.export import exported

    with opened_store(database_url) as store:
        event = Inbox(store).get_sync(event_id)
    text = json.dumps(exported(event, redact=redact), indent=2)
    if to is None:
        typer.echo(text)
        return
    try:
        to.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"--to: {to} cannot be written: {error.strerror or error}") from error
    typer.echo(str(to))
