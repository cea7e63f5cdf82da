"""``moorline demo``: one bad day of a small shop, played offline with real processes, and checked line by line."""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["play"]


def play(github_payloads: Path | None = None, *, seed: int = 0, quiet: bool = False) -> dict[str, Any]:
    """Play it and give the result: ``{"kept": bool, "seconds": float, "promises": [{promised, happened, kept}, …]}``.

    Starts the sandbox, a receiver and a worker on a SQLite file in a temporary folder, and stops them again.
    """
    console = Console(quiet=quiet)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="moorline-demo-") as name, _own_log(Path(name) / "demo.log"):
        promises = _on_stage(Path(name), console, github_payloads, seed)
    seconds = time.monotonic() - began
    kept = bool(promises) and all(one.kept for one in promises)
    table = Table("", "promised", "what happened", title="\nWhat was promised, and what happened", title_justify="left")
    for one in promises:
        table.add_row("[green]true[/]" if one.kept else "[red]FALSE[/]", one.promised, one.happened)
    console.print(table)
    console.print(f"{sum(one.kept for one in promises)} of {len(promises)} lines true, {seconds:.1f} s")
    listed = [{"promised": one.promised, "happened": one.happened, "kept": one.kept} for one in promises]
    return {"kept": kept, "seconds": round(seconds, 1), "promises": listed}


def _on_stage(folder: Path, console: Console, github_payloads: Path | None, seed: int) -> list[Any]:
    from moorline.cli.demo.processes import Crew, free_port

    sandbox, receiver = free_port(), free_port()
    environment = _environment(folder, f"http://127.0.0.1:{sandbox}")
    with _environ(environment), Crew(environment, folder) as crew:
        console.print("[bold]A bad day for a small shop.[/] Everything is local: sandbox, receiver, worker, SQLite.")
        target = "moorline.cli.demo.app:app"
        crew.hire("sandbox", "sandbox", "--port", str(sandbox), "--seed", str(seed), port=sandbox)
        crew.hire("receiver", "serve", target, "--port", str(receiver), port=receiver)
        crew.hire("worker", "worker", target)

        import httpx2

        from moorline.cli.demo.app import app
        from moorline.cli.demo.stage import Ledger, Stage
        from moorline.cli.demo.story import tell

        with httpx2.Client(base_url=environment["MOORLINE_SANDBOX_URL"], timeout=20, trust_env=False) as control:
            url = f"http://127.0.0.1:{receiver}"
            ledger = Ledger(console.print)
            tell(Stage(app, crew, folder, control, url, ledger), github_payloads)
    ledger.chapter("Closing time", "the processes are told to stop")
    ledger.equal(
        "receiver and worker stop in order when told to", [0, 0], [crew.exits["receiver"], crew.exits["worker"]]
    )
    return ledger.promises


def _environment(folder: Path, sandbox: str) -> dict[str, str]:
    # Keys made up for the day: one promise is that none of them is ever written anywhere.
    return {
        "MOORLINE_SANDBOX_URL": sandbox,
        "MOORLINE_DATABASE_URL": f"sqlite:///{folder / 'shop.db'}",
        "MOORLINE_SETTINGS": str(_settings(folder)),
        "MOORLINE_DEMO_FOLDER": str(folder),
        "STRIPE_SECRET_KEY": "sk_test_demo0canary0stripe0key",
        "SENDGRID_API_KEY": "SG.demo0canary0sendgrid.key0key0key0key",
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
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
