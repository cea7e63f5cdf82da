"""How commands print: tables for people, JSON for programs; everything redacted."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from moorline import redaction
from moorline.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from moorline.store import Store

__all__ = [
    "AsJson", "DatabaseUrl", "address", "check_there", "facts", "opened_store", "plain", "print_json", "rows", "safe",
    "say", "when",
]  # fmt: skip

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DatabaseUrl = Annotated[
    str | None, typer.Option(metavar="URL", help="The database (else moorline.toml or MOORLINE_DATABASE_URL).")
]

# Into a pipe nothing is folded or cut: what reads it may look for whole lines.
console = Console(highlight=False, width=None if sys.stdout.isatty() else 1_000)


def opened_store(database_url: str | None) -> Store:
    """The store that the settings name, open; who asked closes it. Raises ConfigurationError where there is none."""
    from moorline.settings import load
    from moorline.store import Store

    settings = load(database_url=database_url)
    store = Store(
        settings.database_url,
        max_waiting=settings.max_waiting,
        auto_migrate=settings.migrate,
        statement_timeout=settings.statement_timeout,
    )
    check_there(store)
    return store.open()


def check_there(store: Store) -> None:
    """Raises ConfigurationError where moorline has no database: who looks into it at a wrong place is to be told."""
    if store.revision() is None:
        advice = "name the right one (--database-url, MOORLINE_DATABASE_URL), or start the application, which makes it"
        raise ConfigurationError(f"there is no database of moorline at {address(store)}: {advice}")


def address(store: Store) -> str:
    """The database's address without its password, a file's in full."""
    if store.dialect == "sqlite":
        return str(Path(str(store.url.database)).absolute())
    return store.url.render_as_string(hide_password=True)


def when(seconds: float | None) -> str:
    """A time for people: UTC, to the second; as the number that it is where there is no such date."""
    if seconds is None:
        return "-"
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return f"{seconds:.15g}"


def print_json(value: Any, *, indent: int | None = 2) -> None:
    """One JSON document on standard output; on one line without *indent*."""
    typer.echo(json.dumps(redaction.data(value), indent=indent, default=str))


def say(words: str, *, style: str = "") -> None:
    """A text for people, redacted and not read as markup; it is not folded."""
    console.print(Text(safe(words), style=style), soft_wrap=True)


def safe(words: object) -> str:
    """Redacted, and without what a terminal would obey."""
    return plain(redaction.text(str(words)))


def rows(columns: Iterable[str], lines: Iterable[Iterable[object]], *, empty: str) -> None:
    """A table, or the words for there being nothing."""
    table = Table(*columns)
    table.columns[0].no_wrap = True  # the id: it is there to be copied whole
    table.columns[0].overflow = "ignore"
    for line in lines:
        table.add_row(*(_cell(cell) for cell in line))
    if table.row_count:
        console.print(table)
    else:
        say(empty)


def facts(pairs: Iterable[tuple[str, object]]) -> None:
    """One thing, a line for each of its facts."""
    table = Table.grid(padding=(0, 2))
    for name, value in pairs:
        table.add_row(Text(plain(name), style="bold"), _cell(value))
    console.print(table)


def plain(text: str) -> str:
    """The text without what a terminal would obey: strangers write what is shown."""
    return "".join([one if one.isprintable() or one in "\n\t" else ascii(one)[1:-1] for one in text])


def _cell(value: object) -> Text:
    """Redacted, and not read as markup."""
    return Text(safe(value))
