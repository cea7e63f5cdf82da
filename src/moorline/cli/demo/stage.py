"""What the chapters of the demonstration have at hand: the sandbox's controls, the handlers' notebooks, a narrator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich import box
from rich.markup import escape
from rich.padding import Padding
from rich.table import Column, Table

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx2
    from rich.console import Console

    from moorline.app import Moorline
    from moorline.cli.demo.processes import Crew

__all__ = ["Ledger", "Promise", "Stage"]


@dataclass(frozen=True, slots=True)
class Promise:
    """One line of the closing table."""

    promised: str
    happened: str
    kept: bool


class Ledger:
    """Collects what was promised against what happened, and tells it as it goes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.promises: list[Promise] = []

    @property
    def kept(self) -> bool:
        """Whether there is something to show, and all of it is true."""
        return bool(self.promises) and all(one.kept for one in self.promises)

    def chapter(self, title: str, what: str) -> None:
        """A new part of the day."""
        self._console.print(f"\n[bold cyan]{escape(title)}[/]")
        self._console.print(Padding(f"[dim]{escape(what)}[/]", (0, 0, 0, 3)))

    def note(self, text: str) -> None:
        """Something that happened on the way."""
        self._console.print(Padding(escape(text), (0, 0, 0, 3)))

    def promise(self, promised: str, happened: object, kept: bool) -> None:
        """Write one line down."""
        one = Promise(promised, str(happened), kept)
        self.promises.append(one)
        line = Table.grid(padding=(0, 1))
        line.add_row(
            "  ", self._mark(kept), f"{escape(promised)}: [{'bold' if kept else 'bold red'}]{escape(one.happened)}"
        )
        self._console.print(line)

    def equal(self, promised: str, expected: object, happened: object, unit: str = "") -> None:
        """Kept when both are the same. ``unit`` is the word for one of what is counted."""
        shown = _plainly(happened, unit)
        kept = expected == happened
        self.promise(promised, shown if kept else f"{shown}, not {_plainly(expected)}", kept)

    def table(self) -> Table:
        """All lines, for the end."""
        table = Table(
            "", Column("promised", no_wrap=True), "what happened", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1)
        )
        for one in self.promises:
            style = "" if one.kept else "bold red"
            table.add_row(self._mark(one.kept, words=True), escape(one.promised), escape(one.happened), style=style)
        return table

    def _mark(self, kept: bool, *, words: bool = False) -> str:
        if words:
            return "[green]true[/]" if kept else "FALSE"
        utf = self._console.encoding.lower().startswith("utf")
        return f"[green]{'✓' if utf else '+'}[/]" if kept else f"[bold red]{'✗' if utf else 'X'}[/]"


def _plainly(value: object, unit: str = "") -> str:
    words = ", ".join(str(part) for part in value) if isinstance(value, list | tuple) else str(value)
    return f"{words} {unit}{'' if value == 1 else 's'}" if unit else words


@dataclass(frozen=True, slots=True)
class Stage:
    """The running parts, as the chapters see them."""

    app: Moorline
    crew: Crew
    folder: Path
    sandbox: httpx2.Client
    """Speaks to the sandbox's own control routes."""
    receiver: str
    """The receiver's URL."""
    ledger: Ledger

    def fault(self, **fault: Any) -> None:
        """Arm one fault."""
        self.sandbox.post("/_sandbox/faults", json=fault).raise_for_status()

    def calm(self) -> None:
        """Disarm all faults."""
        self.sandbox.delete("/_sandbox/faults").raise_for_status()

    def target(self, service: str, **options: Any) -> str:
        """Send this service's webhooks to our receiver; gives the target's id."""
        record = {"service": service, "url": f"{self.receiver}/webhooks/{service}", "ping": False, **options}
        answer: dict[str, Any] = self.sandbox.post("/_sandbox/webhooks", json=record).raise_for_status().json()
        return str(answer["id"])

    def deliver(self, service: str, event: str, body: bytes = b"", **query: Any) -> list[int]:
        """Send one webhook; gives the statuses that the receiver answered."""
        params = {"service": service, "event": event, **query}
        answer = self.sandbox.post("/_sandbox/deliver", params=params, content=body).raise_for_status().json()
        return [int(entry["status"] or 0) for entry in answer["deliveries"]]

    def deliveries(self, service: str) -> list[dict[str, Any]]:
        """The webhooks sent so far, once none is under way."""
        answer = self.sandbox.get("/_sandbox/deliveries", params={"settle": "true", "service": service})
        found: list[dict[str, Any]] = answer.raise_for_status().json()["deliveries"]
        return found

    def requests(self, service: str, method: str | None = None) -> list[dict[str, Any]]:
        """The requests that the sandbox saw."""
        seen: list[dict[str, Any]] = self.sandbox.get("/_sandbox/requests").raise_for_status().json()["requests"]
        return [one for one in seen if one["service"] == service and method in (None, one["method"])]

    def state(self, service: str) -> dict[str, Any]:
        """What a stand-in holds."""
        answer: dict[str, Any] = self.sandbox.get("/_sandbox/state").raise_for_status().json()
        held: dict[str, Any] = answer["services"][service] if "services" in answer else answer[service]
        return held

    def book(self, name: str) -> list[str]:
        """The lines that a handler has noted."""
        path = self.folder / name
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    def outputs(self) -> Iterator[tuple[str, str]]:
        """Every log that the processes wrote, by name."""
        for path in sorted(self.folder.glob("*.log")):
            yield path.name, path.read_text(errors="replace")
