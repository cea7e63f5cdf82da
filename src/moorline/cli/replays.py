"""``moorline events replay`` and ``replays``: handle stored events again, and look at how that goes."""

from __future__ import annotations

import contextlib
import getpass
import re
import socket
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from moorline.cli.show import AsJson, DatabaseUrl, check_there, console, facts, opened_store, print_json, rows, when
from moorline.clock import SYSTEM
from moorline.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from moorline.events import Inbox, Replay, Selection
    from moorline.events.selection_sql import Head

__all__ = ["Actor", "list_", "replay", "user"]

_AGO: Final = re.compile(r"([0-9]{1,6})([smhd])")
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

Actor = Annotated[str | None, typer.Option(help="Who does it, for the audit; by default USER@HOST.")]


def _time(word: str) -> Any:
    return typer.Option(
        metavar="TIME", help=f"Received {word} then: 2026-11-01T12:00 (UTC if it names no zone), 2h, 3d."
    )


def replay(
    event_ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Events, by either id.")] = None,
    app: Annotated[
        str | None, typer.Option(metavar="MODULE:APP", envvar="MOORLINE_APP", help="Whose handlers are to run.")
    ] = None,
    service: Annotated[str | None, typer.Option(help="Events of this service only.")] = None,
    type: Annotated[str | None, typer.Option(help="Of this type, such as push or pull_request.closed.")] = None,
    since: Annotated[str | None, _time("since")] = None,
    until: Annotated[str | None, _time("before")] = None,
    from_id: Annotated[str | None, typer.Option(metavar="ID", help="From this id in the inbox on.")] = None,
    to_id: Annotated[str | None, typer.Option(metavar="ID", help="Up to this id in the inbox.")] = None,
    ids_from: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Events by either id, one a line; - is standard input.")
    ] = None,
    ended: Annotated[
        str | None, typer.Option(help="dead: only handlers whose last job is dead; failed: or failed and waits.")
    ] = None,
    where: Annotated[
        list[str] | None, typer.Option(metavar="PLACE=VALUE", help="A value in the payload: data.object.id=pi_1.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every event that is kept.")] = False,
    handler: Annotated[str | None, typer.Option(help="This handler only.")] = None,
    rate: Annotated[float | None, typer.Option(help="At most so many events a second.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count them exactly, and do nothing.")] = False,
    resume: Annotated[str | None, typer.Option(metavar="REPLAY", help="Go on with one that stopped.")] = None,
    cancel: Annotated[str | None, typer.Option(metavar="REPLAY", help="End one, wherever it runs.")] = None,
    actor: Actor = None,
    as_json: AsJson = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Enqueue the handlers of stored events again: of those named, or of all that fit.

    Ctrl-C stops it, and so does a crash: --resume goes on, and enqueues nothing twice.
    """
    given = {"service": service, "type": type, "first": from_id, "last": to_id, "ended": ended}
    chosen = any(value is not None for value in (*given.values(), since, until, where))
    named = bool(event_ids or ids_from)
    if sum((named or chosen or everything, resume is not None, cancel is not None)) != 1:
        raise ConfigurationError(
            "name events, say which by --service, --since, --where, …, or --all; or --resume, --cancel"
        )
    if everything and (named or chosen):
        raise ConfigurationError("--all: every event, or only some of them, not both")
    if not (named or chosen or everything) and (dry_run or handler is not None or rate is not None):
        raise ConfigurationError("--dry-run, --handler, --rate: a replay has them from its start; leave them out here")
    who = actor or user()
    if cancel is not None:
        with _inbox(app, database_url) as inbox:
            _show(inbox.replays.cancel_sync(cancel, actor=who, reason="by an operator"), as_json)
        return
    if app is None:
        raise ConfigurationError("--app MODULE:APP is needed: the handlers are the application's (or set MOORLINE_APP)")
    with _inbox(app, database_url) as inbox:
        if resume is not None:
            _run(inbox, inbox.replays.resume_sync(resume, actor=who), who, as_json)
            return
        ids = [*(event_ids or ()), *_listed(ids_from)]
        selection = _selection(ids, since, until, where or [], given)
        if dry_run:
            _count(inbox, selection, handler, as_json)
            return
        _run(inbox, inbox.replays.start_sync(selection, actor=who, handler=handler, rate=rate), who, as_json)


def list_(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many, newest first.")] = 50,
    as_json: AsJson = False,
    database_url: DatabaseUrl = None,
) -> None:
    """List replays, newest first: who wanted them, and how far they are."""
    with _inbox(None, database_url) as inbox:
        found = inbox.replays.list_sync(limit=limit)
    if as_json:
        print_json([_record(one) for one in found])
        return
    rows(
        ("id", "started (UTC)", "by", "state", "events", "jobs", "which"),
        (
            (r.id, when(r.created_at), r.actor, r.state, f"{r.events}/{r.total}", r.jobs, _short(r.selection.to_json()))
            for r in found
        ),
        empty="no replay",
    )


def _run(inbox: Inbox, started: Replay, who: str, as_json: bool) -> None:
    try:
        with _progress(started) as progress:
            ended = inbox.replays.run_sync(started.id, progress=progress)
    except KeyboardInterrupt:
        ended = inbox.replays.pause_sync(started.id, actor=who)
        typer.echo(f"stopped; go on with: moorline events replay --resume {started.id}", err=True)
    _show(ended, as_json)
    if ended.state != "done":
        raise typer.Exit(1)


@contextlib.contextmanager
def _progress(started: Replay) -> Iterator[Callable[[Replay], None]]:
    """A bar for people, on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(started.id, total=started.total, completed=started.events)
        yield lambda replay: bar.update(task, completed=replay.events)


def _count(inbox: Inbox, selection: Selection, handler: str | None, as_json: bool) -> None:
    found = inbox.replays.count_sync(selection, handler=handler)
    if as_json:
        print_json({"events": found.events, "jobs": found.jobs, "first": [_head(one) for one in found.first]})
        return
    console.print(f"{found.events:,} events would be handled again, in {found.jobs:,} jobs")
    if found.first:
        rows(
            ("first of them", "service", "type", "sender's id", "received (UTC)"),
            (
                (
                    one.id,
                    one.service,
                    f"{one.type}.{one.action}" if one.action else one.type,
                    one.key,
                    when(one.received_at),
                )
                for one in found.first
            ),
            empty="",
        )


def _head(head: Head) -> dict[str, Any]:
    record = head._asdict()
    return {"sender_id": record.pop("key"), **record}


def _show(replay: Replay, as_json: bool) -> None:
    record = _record(replay)
    if as_json:
        print_json(record)
        return
    record |= {"selection": replay.selection.to_json()}
    record |= {name: when(record[name]) for name in ("created_at", "finished_at")}
    facts((name.replace("_", " "), value) for name, value in record.items() if value is not None)


def _record(replay: Replay) -> dict[str, Any]:
    import json

    return {**asdict(replay), "selection": json.loads(replay.selection.to_json())}


@contextlib.contextmanager
def _inbox(app: str | None, database_url: str | None) -> Iterator[Inbox]:
    """The application's inbox; one without handlers where no application is named."""
    from moorline.cli.target import find
    from moorline.events import Inbox

    if app is None:
        with opened_store(database_url) as store:
            yield Inbox(store)
        return
    if database_url is not None:
        raise ConfigurationError("--database-url: the application's own database is used; leave it out, or --app")
    application = find(app)
    check_there(application.store)
    with application.opened() as inbox:
        yield inbox


def _selection(
    ids: list[str], since: str | None, until: str | None, where: list[str], given: dict[str, Any]
) -> Selection:
    from moorline.events import Selection

    return Selection(
        ids=tuple(ids),
        since=_moment("--since", since),
        until=_moment("--until", until),
        where=_places(where),
        **given,
    )


def _moment(option: str, text: str | None) -> float | None:
    """Seconds since the epoch of a time as people write it."""
    if text is None:
        return None
    ago = _AGO.fullmatch(text)
    if ago is not None:
        return SYSTEM.wall() - int(ago[1]) * _UNITS[ago[2]]
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(f"{option}: write 2026-11-01, 2026-11-01T12:00, 30m, 2h or 3d, not {text!r}") from None
    return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()


def _places(where: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for place, value in map(_place, where):
        if found.setdefault(place, value) != value:
            raise ConfigurationError(f"--where: {place} cannot be both {found[place]!r} and {value!r}")
    return found


def _place(text: str) -> tuple[str, str]:
    place, equals, value = text.partition("=")
    if not equals:
        raise ConfigurationError(f"--where: write PLACE=VALUE, such as data.object.customer=cus_1, not {text!r}")
    return place, value


def _listed(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        read = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        text = read.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"--ids-from: {path} cannot be read: {error}") from error
    found = [line.strip() for line in text.splitlines() if line.strip()]
    if not found:
        raise ConfigurationError(f"--ids-from: {path} names no event")
    return found


def user() -> str:
    """Who runs the command: USER@HOST."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        name = "somebody"
    return f"{name}@{socket.gethostname()}"


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"
