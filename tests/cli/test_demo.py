"""``moorline demo``, run as a user runs it: what it prints, what it says by its exit code, and what it leaves behind."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest
from rich.console import Console
from tests.servers import until

from moorline.cli.demo import stage

DEMO = [sys.executable, "-m", "moorline.cli", "demo"]
_SHARED = Path(os.environ.get("MOORLINE_SHARED") or Path(__file__).resolve().parents[3] / "shared")
PAYLOADS = Path(os.environ.get("MOORLINE_PAYLOADS") or _SHARED / "payloads") / "github"
MARK = "DEMO_TEST_MARK"
HERE = Path(sys.executable).parents[1]

pytestmark = pytest.mark.timeout(240)


class Run:
    """One demonstration with a mark of its own in the environment, and a folder of its own for temporary files."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        self._mark = uuid4().hex
        kept = {"PATH": os.environ["PATH"], "TMPDIR": str(self.temporary), MARK: self._mark}
        # No terminal, no HOME, and a database that must not be touched.
        self.process = subprocess.Popen(
            [*DEMO, *arguments],
            cwd=folder,
            env=kept
            | {"MOORLINE_DATABASE_URL": "postgresql://nobody@192.0.2.1/none", "STRIPE_SECRET_KEY": "sk_test_x"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )

    def marked(self) -> list[int]:
        """The processes of this demonstration that run."""
        wanted = f"{MARK}={self._mark}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if wanted in (entry / "environ").read_bytes().split(b"\0"):
                        found.append(int(entry.name))
                except OSError:
                    continue  # ended while we looked
        return found

    def end(self) -> tuple[str, str]:
        """Wait for it; gives what it printed."""
        return self.process.communicate(timeout=200)

    def left_nothing_running(self) -> None:
        """Assert so; a process that was killed a moment ago has a moment to go."""
        until(lambda: self.marked() == [], seconds=20)


@pytest.mark.parametrize(
    "real",
    [pytest.param(True, id="real payloads", marks=pytest.mark.payloads), pytest.param(False, id="own payloads")],
)
def test_every_promise_is_kept_and_only_json_is_printed(tmp_path: Path, real: bool) -> None:
    """Exit code 0, each line true, one JSON document; no process and no file is left."""
    run = Run(tmp_path, "--json", *(["--github-payloads", str(PAYLOADS)] if real else []))
    printed, said = run.end()
    assert run.process.returncode == 0, printed + said
    assert said == ""
    result = json.loads(printed)
    assert result["kept"] is True
    assert result["seconds"] > 0
    assert [line for line in result["promises"] if line["kept"] is not True] == []
    lines = {line["promised"]: line["happened"] for line in result["promises"]}
    assert len(lines) == len(result["promises"]) >= 25
    assert lines["the customer is charged once"] == "1 charge"
    assert lines["a job that kills 3 workers is dead"] == "dead, crashed"
    bodies = len(list(PAYLOADS.glob("*.json"))) if real else 3
    assert lines[f"{2 * bodies} true deliveries are answered 2xx"] == str(2 * bodies)
    run.left_nothing_running()
    assert list(run.temporary.iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["temporary"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_demonstration_leaves_nothing_running(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C, SIGTERM and even kill -9 take sandbox, receiver and worker down; all but the last clear the folder."""
    run = Run(tmp_path, "--json")
    until(lambda: len(run.marked()) >= 4, seconds=60)
    run.process.send_signal(number)
    printed, said = run.end()
    assert run.process.returncode != 0
    assert printed == ""
    assert "Traceback" not in said
    run.left_nothing_running()
    if number is not signal.SIGKILL:
        assert list(run.temporary.iterdir()) == []


def test_a_broken_promise_is_told_and_makes_the_whole_false() -> None:
    """One false line is enough, and it says what was expected; nothing promised is not good either."""
    page = io.StringIO()
    ledger = stage.Ledger(Console(file=page, width=100, highlight=False))
    assert ledger.kept is False
    ledger.equal("charged once", 1, 1, "charge")
    assert ledger.kept is True
    ledger.equal("charged once", 1, 2, "charge")
    assert ledger.kept is False
    assert ledger.promises[-1] == stage.Promise("charged once", "2 charges, not 1", kept=False)
    assert "charged once: 2 charges, not 1" in page.getvalue()


def test_a_broken_promise_makes_the_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    """The result of play() decides, and is printed all the same."""
    from typer.testing import CliRunner

    from moorline.cli import demo
    from moorline.cli.root import cli

    broken = {"kept": False, "seconds": 1.0, "promises": [{"promised": "a", "happened": "b", "kept": False}]}
    monkeypatch.setattr(demo, "play", lambda *_, **__: broken)
    result = CliRunner().invoke(cli, ["demo", "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout) == broken


def test_a_part_that_does_not_start_is_a_broken_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    """No traceback: the table and the JSON say how far the day went."""
    from moorline.cli import demo
    from moorline.cli.demo.processes import DemoFailed

    def broken(*_: object) -> None:
        raise DemoFailed("the receiver does not start")

    monkeypatch.setattr(demo, "_on_stage", broken)
    result = demo.play(quiet=True)
    assert result["kept"] is False
    assert result["promises"][-1]["happened"] == "DemoFailed: the receiver does not start"


@pytest.mark.parametrize(("encoding", "tick"), [("utf-8", "✓"), ("latin-1", "+"), ("ascii", "+")])
def test_any_terminal_can_print_the_story(encoding: str, tick: str) -> None:
    """No line fails for want of a letter, and a text with brackets is printed as it is."""
    raw = io.BytesIO()
    console = Console(file=io.TextIOWrapper(raw, encoding=encoding, write_through=True), width=80, highlight=False)
    ledger = stage.Ledger(console)
    ledger.chapter("A day", "with [brackets]")
    ledger.promise("kept", "[so it is]", kept=True)
    console.print(ledger.table())
    shown = raw.getvalue().decode(encoding)
    assert f"{tick} kept: [so it is]" in shown
    assert "with [brackets]" in shown
