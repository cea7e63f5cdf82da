"""``moorline events``: look at what services have told us, and handle it again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moorline import redaction
from moorline.cli.show import AsJson, DatabaseUrl, console, facts, opened_store, print_json, rows, when
from moorline.errors import ConfigurationError, UnusableEvent

if TYPE_CHECKING:
    from moorline.events import Event

__all__ = ["cli"]

cli = typer.Typer(help="List, show and replay stored events.", no_args_is_help=True)

Service = Annotated[str | None, typer.Option(help="Events of this service only.")]
Type = Annotated[str | None, typer.Option(help="Events of this type only, such as payment_intent.succeeded.")]
Limit = Annotated[int, typer.Option(min=1, max=10_000, help="At most so many, newest first.")]


@cli.command("list")
def list_(
    service: Service = None,
    type: Type = None,
    limit: Limit = 50,
    as_json: AsJson = False,
    database_url: DatabaseUrl = None,
) -> None:
    """List events, newest first."""
    from moorline.events import Inbox

    with opened_store(database_url) as store:
        found = Inbox(store).recent_sync(service=service, type=type, limit=limit)
    if as_json:
        print_json([_record(event) for event in found])
        return
    rows(
        ("id", "service", "type", "sender's id", "received (UTC)", "bytes", "duplicates"),
        ((e.inbox_id, e.service, e.name, e.id, when(e.received_at), len(e.body), e.duplicates) for e in found),
        empty="no event",
    )


@cli.command()
def show(event_id: str, as_json: AsJson = False, database_url: DatabaseUrl = None) -> None:
    """Show one event, by its id here or its sender's: headers and body, secrets masked."""
    from moorline.events import Inbox

    with opened_store(database_url) as store:
        event = Inbox(store).get_sync(event_id)
    try:
        payload = event.payload
    except UnusableEvent:
        payload = event.body.decode("utf-8", "replace")
    if as_json:
        print_json({**_record(event), "headers": dict(event.headers), "payload": payload})
        return
    facts((name.replace("_", " "), value) for name, value in _record(event, people=True).items())
    facts((name, value) for name, value in event.headers.items())
    shown = redaction.data(payload)
    console.print(shown if isinstance(shown, str) else json.dumps(shown, indent=2), markup=False)


@cli.command()
def replay(
    event_ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="The events.")] = None,
    app: Annotated[
        str | None, typer.Option(metavar="MODULE:APP", envvar="MOORLINE_APP", help="Whose handlers are to run.")
    ] = None,
    service: Service = None,
    type: Type = None,
    handler: Annotated[str | None, typer.Option(help="This handler only.")] = None,
    limit: Limit = 1000,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say which events, and do nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Enqueue the handlers of events again: of those named, or of all that fit (--service github --type push)."""
    from moorline.cli.target import find

    if app is None:
        raise ConfigurationError("--app MODULE:APP is needed: the handlers are the application's (or set MOORLINE_APP)")
    if bool(event_ids) == bool(service or type):
        raise ConfigurationError("name the events, or say which by --service and --type; not both")
    with find(app).opened() as inbox:
        found = (
            [inbox.get_sync(one) for one in event_ids]
            if event_ids
            else inbox.recent_sync(service=service, type=type, limit=limit)
        )
        lines: list[dict[str, Any]] = []
        for event in reversed(found):  # in the order of their coming
            jobs = [] if dry_run else inbox.replay_sync(str(event.inbox_id), handler=handler)
            lines.append({"event": event.inbox_id, "service": event.service, "type": event.name, "jobs": jobs})
    if as_json:
        print_json(lines)
        return
    enqueued = "would be handled again" if dry_run else "jobs"
    rows(
        ("event", "service", "type", enqueued),
        ((one["event"], one["service"], one["type"], len(one["jobs"]) or ("yes" if dry_run else 0)) for one in lines),
        empty="no such event",
    )


def _record(event: Event, *, people: bool = False) -> dict[str, Any]:
    return {
        "id": event.inbox_id,
        "service": event.service,
        "type": event.name,
        "sender_id": event.id,
        "received_at": when(event.received_at) if people else event.received_at,
        "signed_at": when(event.timestamp) if people else event.timestamp,
        "secret_index": event.secret_index,
        "duplicates": event.duplicates,
        "bytes": len(event.body),
    }
