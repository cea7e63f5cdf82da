"""``moorline events replay`` and ``replays``, run as a user runs them."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.test_commands import SHOP, _environment, _json, _moorline
from tests.databases import migrated_sqlite
from tests.events.stored import add_all, pull
from tests.warm import Warm

from moorline.events import Inbox
from moorline.store.store import Store


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """An application, with 30 stored events that nobody has handled yet."""
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "moorline.toml").write_text('database_url = "sqlite:///shop.db"\n')
    with Store(migrated_sqlite(tmp_path / "shop.db"), auto_migrate=False) as store:
        events = [pull(n, action="opened" if n % 3 else "closed", customer=f"cus_{n % 2}") for n in range(30)]
        add_all(Inbox(store), events)
    return tmp_path


def _jobs(folder: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(folder / "shop.db")) as connection:
        return [row[0] for row in connection.execute("SELECT event_id FROM jobs ORDER BY id")]


REPLAY = ("events", "replay", "--app", "shop:app")


def test_a_dry_run_counts_exactly_and_does_nothing(shop: Path) -> None:
    """The count of events and jobs, the first few, and an untouched queue; for people and for programs."""
    found = _json(shop, *REPLAY, "--type", "pull_request.closed", "--dry-run")
    assert (found["events"], found["jobs"], len(found["first"])) == (10, 10, 5)
    assert found["first"][0]["sender_id"] == "7:0"
    said = _moorline(shop, *REPLAY, "--since", "2026-09-01", "--dry-run")
    assert "30 events" in said
    assert _json(shop, *REPLAY, "--since", "1s", "--dry-run")["events"] == 0
    assert _jobs(shop) == []
    assert _json(shop, "events", "replays") == []


def test_what_fits_is_enqueued_and_listed(shop: Path) -> None:
    """Filters narrow together; the replay is listed with who did it."""
    done = _json(
        shop, *REPLAY, "--service", "github", "--where", "customer=cus_1", "--where", "number=3", "--actor", "ada"
    )
    assert (done["state"], done["total"], done["events"], done["jobs"]) == ("done", 1, 1, 1)
    (listed,) = _json(shop, "events", "replays")
    assert listed == done
    assert listed["actor"] == "ada"
    assert "ada" in _moorline(shop, "events", "replays")
    (shop / "ids.txt").write_text("7:1\n\n7:2\n")
    assert _json(shop, *REPLAY, "--ids-from", "ids.txt", "7:4")["events"] == 3
    assert _json(shop, *REPLAY, "--all")["events"] == 30
    assert len(_jobs(shop)) == 34


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "name events"),
        (["--all", "--service", "github"], 2, "--all"),
        (["--since", "soon"], 2, "--since"),
        (["--where", "x"], 2, "--where"),
        (["--ids-from", "nowhere"], 2, "--ids-from"),
        (["--ended", "sadly"], 2, "ended"),
        (["--all", "--rate", "0"], 2, "rate"),
        (["--all", "--handler", "nobody"], 2, "github.seen"),
        (["--all", "--resume", "x"], 2, "--resume"),
        (["--resume", "x", "--dry-run"], 2, "--dry-run"),
        (["--cancel", "x", "--dry-run"], 2, "--dry-run"),
        (["--resume", "x", "--rate", "2"], 2, "--rate"),
        (["--resume", "x", "--handler", "github.seen"], 2, "--handler"),
        (["--all", "--actor", "  "], 2, "actor"),
        (["--where", "a.b=1", "--where", "a.b=2"], 2, "a.b cannot be both '1' and '2'"),
        (["7:99"], 1, "7:99"),
        (["--resume", "x"], 1, "no replay"),
        (["--cancel", "x"], 1, "no replay"),
    ],
)
def test_a_mistake_is_2_and_what_is_not_there_1(shop: Path, arguments: list[str], code: int, said: str) -> None:
    """One clear line that names the option; nothing is enqueued."""
    assert said in _moorline(shop, *REPLAY, *arguments, expect=code)
    assert _jobs(shop) == []


def _started(folder: Path) -> subprocess.Popen[str]:
    """A slow replay in a process of its own, that has enqueued something."""
    command = [sys.executable, "-m", "moorline.cli", *REPLAY, "--all", "--rate", "2"]
    process = Warm(command, cwd=folder, env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not _jobs(folder):
        assert process.poll() is None
    return process


def test_ctrl_c_leaves_it_to_be_resumed(shop: Path) -> None:
    """It says how, exits with 1, and goes on without repeating anything."""
    process = _started(shop)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 1
    (replay,) = _json(shop, "events", "replays")
    assert replay["state"] == "paused"
    assert f"--resume {replay['id']}" in said
    assert _json(shop, *REPLAY, "--all", "--dry-run")["events"] == 30
    with (
        contextlib.closing(sqlite3.connect(shop / "shop.db")) as connection,
        connection,
    ):  # no need to wait for the rate
        connection.execute("UPDATE replays SET rate = NULL")
    assert _json(shop, *REPLAY, "--resume", replay["id"])["events"] == 30
    jobs = _jobs(shop)
    assert len(jobs) == len(set(jobs)) == 30


def test_another_process_cancels_it(shop: Path) -> None:
    """The running one stops within moments, says so and exits with 1; it cannot be resumed."""
    process = _started(shop)
    (replay,) = _json(shop, "events", "replays")
    assert _json(shop, "events", "replay", "--cancel", replay["id"])["state"] == "cancelled"
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "cancelled" in out
    assert "is cancelled" in _moorline(shop, *REPLAY, "--resume", replay["id"], expect=1)
    assert len(_jobs(shop)) < 30
