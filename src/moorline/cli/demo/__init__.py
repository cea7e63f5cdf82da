"""``moorline demo``: one bad day of a small shop, played offline with real processes, and checked line by line."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from moorline.cli.demo.stage import Ledger
from moorline.errors import MoorlineError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["play"]


def play(github_payloads: Path | None = None, *, seed: int = 0, quiet: bool = False) -> dict[str, Any]:
    """Play it and give the result: ``{"kept": bool, "seconds": float, "promises": [{promised, happened, kept}, …]}``.

    Starts the sandbox, a receiver and a worker on a SQLite file in a temporary folder, and stops them again.
    """
    console = Console(quiet=quiet, highlight=False)
    ledger = Ledger(console)
    began = time.monotonic()
    with (
        _terminated_in_order(),
        tempfile.TemporaryDirectory(prefix="moorline-demo-") as name,
        _own_log(Path(name) / "demo.log"),
    ):
        try:
            _on_stage(Path(name), console, ledger, github_payloads, seed)
        except MoorlineError as error:
            ledger.promise("the day is played to its end", f"{type(error).__name__}: {error}", kept=False)
    seconds = time.monotonic() - began
    console.print("\n[bold]What was promised, and what happened[/]")
    console.print(ledger.table())
    true = sum(one.kept for one in ledger.promises)
    console.print(
        f"[bold {'green' if ledger.kept else 'red'}]{true} of {len(ledger.promises)} true[/], {seconds:.1f} s"
    )
    return {"kept": ledger.kept, "seconds": round(seconds, 1), "promises": [asdict(one) for one in ledger.promises]}


def _on_stage(folder: Path, console: Console, ledger: Ledger, github_payloads: Path | None, seed: int) -> None:
    from moorline.cli.demo.processes import Crew, free_port

    sandbox, receiver = free_port(), free_port()
    environment = _environment(folder, f"http://127.0.0.1:{sandbox}")
    with _environ(environment), Crew(environment, folder) as crew:
        console.print("[bold]A bad day for a small shop[/]")
        console.print("Nothing leaves this machine: sandbox, receiver and worker are local processes.")
        target = "moorline.cli.demo.app:app"
        crew.hire("sandbox", "sandbox", "--port", str(sandbox), "--seed", str(seed), port=sandbox)
        crew.hire("receiver", "serve", target, "--port", str(receiver), port=receiver)
        crew.hire("worker", "worker", target)

        import httpx2

        from moorline.cli.demo.app import app
        from moorline.cli.demo.stage import Stage
        from moorline.cli.demo.story import tell

        crew.ready()
        with httpx2.Client(base_url=environment["MOORLINE_SANDBOX_URL"], timeout=20, trust_env=False) as control:
            tell(Stage(app, crew, folder, control, f"http://127.0.0.1:{receiver}", ledger), github_payloads)
    ledger.chapter("Closing time", "The processes are told to stop.")
    exits = [crew.exits["receiver"], crew.exits["worker"], crew.exits["sandbox"]]
    ledger.equal("all processes stop in order", [0, 0, 0], exits)


@contextmanager
def _terminated_in_order() -> Iterator[None]:
    """SIGTERM clears up like Ctrl-C: without this, Python would end on the spot and leave the folder."""

    def stop(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _environment(folder: Path, sandbox: str) -> dict[str, str]:
    # Keys made up for the day: one promise is that none of them is ever written anywhere.
    return {
        "MOORLINE_SANDBOX_URL": sandbox,
        "MOORLINE_DATABASE_URL": f"sqlite:///{folder / 'shop.db'}",
        "MOORLINE_SETTINGS": str(_settings(folder)),
        "MOORLINE_DEMO_FOLDER": str(folder),
        "MOORLINE_RUN_DIR": str(folder / "run"),
        "STRIPE_SECRET_KEY": "sk_test_demo0canary0stripe0key",
        "SENDGRID_API_KEY": "SG.demo0canary0sendgrid.key0key0key0key",
        "RESEND_API_KEY": "re_demo0canary0resend0key",
        "GITHUB_TOKEN": "github_pat_demo0canary0github0token",
        "STRIPE_WEBHOOK_SECRET": "whsec_demo0canary0stripe0webhook",
        "GITHUB_WEBHOOK_SECRET": "demo0canary0github0webhook",
    }


def _settings(folder: Path) -> Path:
    """Short leases: the day has 30 seconds."""
    path = folder / "moorline.toml"
    path.write_text('[worker]\nlease = 1.0\ngrace = 5.0\n\n[log]\nlevel = "DEBUG"\nformat = "json"\n', encoding="utf-8")
    return path


@contextmanager
def _own_log(path: Path) -> Iterator[None]:
    """This process calls services too: its log is kept, and looked through, like those of the others."""
    from moorline import telemetry

    with path.open("w", encoding="utf-8") as file, redirect_stderr(file):
        telemetry.configure("DEBUG", "json")
        yield


@contextmanager
def _environ(values: dict[str, str]) -> Iterator[None]:
    """These, and no setting of moorline besides: the day must not end in somebody's real database."""
    before = dict(os.environ)
    for name in before:
        if name.startswith("MOORLINE_"):
            del os.environ[name]
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
