"""``moorline bench``, run as a user runs it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.test_commands import _environment, _json, _moorline
from typer.testing import CliRunner

from moorline.cli.root import cli
from moorline.errors import StoreNotMigrated
from moorline.store import Store


def test_it_prints_the_machine_the_settings_and_the_figures(tmp_path: Path) -> None:
    """Without a URL on a file of its own, whatever the settings say; nothing is left."""
    (tmp_path / "moorline.toml").write_text('database_url = "sqlite:///shop.db"\n')
    shown = _moorline(tmp_path, "bench", "--jobs", "200", "--concurrency", "20")
    for word in ("cores", "SQLite 3", "FULL", "concurrency 20", "jobs/s", "in bulk, 200 at a time"):
        assert word in shown
    assert [path.name for path in tmp_path.iterdir()] == ["moorline.toml"]


@pytest.mark.postgres
def test_programs_get_json(tmp_path: Path, postgres_url: str) -> None:
    """With the server's own settings, and every figure a number; tables are made only when that is asked for."""
    asked = ("bench", "--database-url", postgres_url, "--jobs", "200")
    refused = CliRunner().invoke(cli, asked).exception
    assert isinstance(refused, StoreNotMigrated)
    assert "--migrate" in str(refused)
    report = _json(tmp_path, *asked, "--migrate")
    assert set(report) == {"machine", "broker", "batches", "figures"}
    assert report["broker"]["kind"] == "postgresql"
    assert report["broker"]["fsync"] in {"on", "off"}
    assert report["batches"]["jobs"] == 200
    assert all(value > 0 for value in report["figures"].values())


def test_a_server_that_is_away_is_named_without_a_password(tmp_path: Path) -> None:
    """Exit code 1, and no traceback."""
    shown = _moorline(tmp_path, "bench", "--queue-url", "redis://:canary@127.0.0.1:1/0", expect=1)
    assert "did not answer" in shown
    assert "canary" not in shown
    assert "Traceback" not in shown


def test_ctrl_c_ends_it_and_nothing_is_left(tmp_path: Path) -> None:
    """In the middle of a long run: no row of it stays in the database."""
    with Store(f"sqlite:///{tmp_path}/shop.db") as store:
        command = [sys.executable, "-m", "moorline.cli", "bench", "--database-url", "sqlite:///shop.db", "--json"]
        process = subprocess.Popen(
            [*command, "--jobs", "1000000"], cwd=tmp_path, env=_environment(), stdout=-1, stderr=-1, text=True
        )
        while not _count(store):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, said = process.communicate(timeout=30)
        assert process.returncode not in {0, -signal.SIGINT}
        assert (out, "Traceback" in said) == ("", False)
        assert _count(store) == 0


def _count(store: Store) -> int:
    return store.read_sync(lambda connection: int(connection.exec_driver_sql("SELECT count(*) FROM jobs").scalar_one()))
