"""``moorline events``: look at what services have told us, and handle it again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moorline import redaction
from moorline.cli import replays, upkeep
from moorline.cli.commands import Commands
from moorline.cli.show import AsJson, DatabaseUrl, console, facts, opened_store, plain, print_json, rows, when
from moorline.errors import UnusableEvent

if TYPE_CHECKING:
    from moorline.events import Event

__all__ = ["cli"]

cli = Commands(
    help="List, show, replay, export and prune stored events; alerts and refused requests.", no_args_is_help=True
)

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
        ((e.inbox_id, e.service, e.name, e.id, when(e.received_at), _size(e), e.duplicates) for e in found),
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
    facts(redaction.headers(event.headers).items())
    shown = redaction.data(payload)
    console.print(plain(shown) if isinstance(shown, str) else json.dumps(shown, indent=2), markup=False)


cli.command()(replays.replay)
cli.command("replays")(replays.list_)
for _command in (upkeep.export, upkeep.rejected, upkeep.alerts, upkeep.prune):
    cli.command()(_command)


def _size(event: Event) -> str:
    return "pruned" if event.pruned else str(len(event.body))


def _record(event: Event, *, people: bool = False) -> dict[str, Any]:
    return {
        "id": event.inbox_id,
        "service": event.service,
        "type": event.name,
        "sender_id": event.id,
        "received_at": when(event.received_at) if people else event.received_at,
        "signed_at": when(event.timestamp) if people else event.timestamp,
        "secret_index": event.secret_index,
        "signed_with": event.secret or None,
        "duplicates": event.duplicates,
        "bytes": None if event.pruned else len(event.body),
        "pruned": event.pruned,
    }
