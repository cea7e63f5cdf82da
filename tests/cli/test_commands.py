"""The commands, run as a user runs them: exit codes, JSON, and what a mistake is told."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.databases import migrated_sqlite
from tests.warm import Warm, run

from moorline.jobs.brokers.sql import SqlBroker
from moorline.jobs.job import JobRow
from moorline.store import Store

SHOP = """
import asyncio, os, pathlib
from moorline import Moorline
from moorline.jobs import current
from moorline.services import GitHub

app = Moorline()

@app.on(GitHub, "*")
async def seen(event):
    with open("seen.txt", "a") as book:
        book.write(event.type + "\\n")

@app.job
def greet(name: str) -> None:
    if not pathlib.Path("mended").exists():
        raise RuntimeError("no greeting card for token sk_live_canary0canary0canary0")
    with open("greeted.txt", "a") as book:
        book.write(name + "\\n")

@app.job(keep_result=True)
async def scan() -> dict[str, int]:
    current().progress(1, of=4, message="a page")
    if not pathlib.Path("mended").exists():
        await asyncio.sleep(3600)
    return {"pages": 4}

@app.job(retries=0)
def hopeless() -> None:
    raise ValueError("never works")
"""
SECRET = "canary-webhook-secret"


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "moorline.toml").write_text('database_url = "sqlite:///shop.db"\n[worker]\nlease = 1.0\ngrace = 2.0\n')
    return tmp_path


def _environment() -> dict[str, str]:
    others = (
        "MOORLINE_",
        "GITHUB_",
        "AWS_",
    )  # the last are those that servers of AWS's kind leave in a process of tests
    kept = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    return {**kept, "GITHUB_WEBHOOK_SECRET": SECRET, "COLUMNS": "300"}


def _moorline(folder: Path, *arguments: str, expect: int = 0) -> str:
    command = [sys.executable, "-m", "moorline.cli", *arguments]
    done = run(command, cwd=folder, env=_environment(), timeout=60, check=False)
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout if expect == 0 else done.stdout + done.stderr


def _json(folder: Path, *arguments: str) -> Any:
    return json.loads(_moorline(folder, *arguments, "--json"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense"], "No such command"),
        (["serve", "not a module"], "module:attribute"),
        (["serve", "nowhere:app"], "nowhere"),
        (["serve", "shop:application"], "it has app"),
        (["serve", "shop:app", "--port", "seventy"], "--port"),
        (["jobs", "list", "--state", "sleepy"], "sleepy"),
        (["jobs", "retry"], "name the jobs"),
        (["jobs", "cancel"], "name the jobs"),
        (["jobs", "cancel", "--limit", "5"], "name the jobs"),
        (["jobs", "stop", "a", "--state", "ready"], "not both"),
        (["jobs", "retry", "--state", "dead", "--rate", "inf"], "--rate"),
        (["events", "replay", "x"], "--app"),
        (["jobs", "list", "--database-url", "mysql://me:canary@host/db"], "database_url"),
        (["jobs", "list", "--database-url", "postgresql://me:canary@host:port/db"], "database_url"),
        (["jobs", "list", "--database-url", "postgresql://me:canary\udcff@host/db"], "--database-url"),
        (["jobs", "show", "\udcff"], "job_id"),
        (["jobs", "cancel", "a", "\udcff"], "[ID]"),
        (["jobs", "list", "--name", "\udcff"], "--name"),
        (["jobs", "retry", "--queue", "\udcff"], "--queue"),
        (["events", "show", "\udcff"], "event_id"),
        (["events", "list", "--service", "\udcff"], "--service"),
        (["events", "replay", "--app", "shop:app", "--where", "a=\udcff"], "--where"),
    ],
)
def test_misuse_exits_with_2_and_names_what_is_wrong(shop: Path, arguments: list[str], said: str) -> None:
    """Exit code 2, one clear line, no traceback, no secret."""
    output = _moorline(shop, *arguments, expect=2)
    assert said in output
    assert "Traceback" not in output
    assert "canary" not in output


@pytest.mark.parametrize("arguments", [["jobs", "show", "nothing"], ["events", "show", "nothing"]])
def test_what_is_not_there_exits_with_1(shop: Path, arguments: list[str]) -> None:
    """A well-formed request that fails is 1, not 2."""
    migrated_sqlite(shop / "shop.db")
    assert "nothing" in _moorline(shop, *arguments, expect=1)


_LOOKING = [
    "jobs list", "jobs show a", "jobs schedules", "jobs retry a", "jobs drain --to sqlite:///moved.db", "events list",
    "events show a", "events export a", "events rejected", "events alerts", "events prune", "events replays",
    "events replay --cancel a", "events replay --app shop:app --all --dry-run", "syncs list", "connections list",
    "keys list", "keys status",
]  # fmt: skip


@pytest.mark.parametrize("command", _LOOKING)
def test_who_looks_for_a_database_that_is_not_there_makes_none(shop: Path, command: str) -> None:
    """A wrong path is said to be one, in full, and nothing is left there."""
    before = {path.name for path in shop.iterdir()}
    assert f"no database of moorline at {shop}/shop.db" in _moorline(shop, *command.split(), expect=2)
    assert {path.name for path in shop.iterdir()} - before <= {"__pycache__"}


def test_doctor_says_that_there_is_no_database_and_makes_none(shop: Path) -> None:
    """That is no failure: a new application has none before it starts."""
    (row,) = _json(shop, "doctor")
    assert row["ok"]
    assert f"there is none yet at {shop}/shop.db" in row["says"]
    assert not (shop / "shop.db").exists()


def test_the_database_of_another_program_is_left_as_it_is(shop: Path) -> None:
    """It has none of moorline's tables, and gets none."""
    with contextlib.closing(sqlite3.connect(shop / "shop.db")) as connection:
        connection.execute("CREATE TABLE theirs (a)")
    before = (shop / "shop.db").read_bytes()
    for command in ("jobs list", "events list"):
        assert "no database of moorline" in _moorline(shop, *command.split(), expect=2)
    _moorline(shop, "doctor")
    assert (shop / "shop.db").read_bytes() == before


def test_who_does_something_to_many_jobs_is_told_that_there_are_more(shop: Path) -> None:
    """On standard error, beside the JSON; what is done is done to the newest."""
    with Store(f"sqlite:///{shop}/shop.db") as store:
        SqlBroker(store).enqueue_sync([JobRow(f"j{n}", "greet", b"{}", 0.0, 0.0) for n in range(5)])

    def cancelled(*arguments: str) -> tuple[list[str], str]:
        command = [sys.executable, "-m", "moorline.cli", "jobs", "cancel", "--name", "greet", "--json", *arguments]
        done = run(command, cwd=shop, env=_environment(), check=True)
        return [one["id"] for one in json.loads(done.stdout)], done.stderr

    assert cancelled("--limit", "3", "--dry-run") == (
        ["j4", "j3", "j2"],
        "more jobs fit: only the newest 3 are taken (--limit, up to 10,000)\n",
    )
    assert cancelled("--limit", "3")[0] == ["j4", "j3", "j2"]
    assert cancelled("--limit", "2") == (["j1", "j0"], "")


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_a_standard_stream_that_is_closed_goes_nowhere(shop: Path, closed: int) -> None:
    """As some supervisors start programs: it is no reason to end, nor for another file to take its place."""
    migrated_sqlite(shop / "shop.db")
    for arguments, code in (
        (["jobs", "list"], 0),
        (["jobs", "list", "--json"], 0),
        (["jobs", "show", "nothing"], 1),
        (["events", "replay", "--app", "shop:app", "--ids-from", "-"], 2),
    ):
        command = [sys.executable, "-m", "moorline.cli", *arguments]
        done = subprocess.run(
            ["sh", "-c", f'exec "$@" {closed}>&-', "sh", *command],
            cwd=shop,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, done.stderr
        assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_what_the_output_cannot_write_is_escaped(shop: Path, encoding: str) -> None:
    """A terminal or a pipe of another encoding is told all the same, and nothing ends in a traceback."""
    name = "grüße→日本"
    with Store(f"sqlite:///{shop}/shop.db") as store:
        SqlBroker(store).enqueue_sync([JobRow("j1", name, b"{}", 0.0, 0.0)])
    environment = {**_environment(), "PYTHONIOENCODING": encoding}
    for arguments in (["list"], ["show", "j1"]):
        command = [sys.executable, "-m", "moorline.cli", "jobs", *arguments]
        done = subprocess.run(command, cwd=shop, env=environment, capture_output=True, timeout=60, check=True)
        assert name.encode(encoding, "backslashreplace") in done.stdout


@pytest.mark.parametrize("command", ["", "serve", "worker", "run", "sandbox", "demo", "services", "events", "jobs"])
def test_each_command_explains_itself(shop: Path, command: str) -> None:
    """--help works everywhere."""
    assert "Usage" in _moorline(shop, *command.split(), "--help")


def test_services_are_listed_with_what_they_can_do(shop: Path) -> None:
    """One row a service, with its operations and whether it is configured."""
    rows = {row["name"]: row for row in _json(shop, "services")}
    assert {"stripe", "sendgrid", "github"} <= set(rows)
    assert "create_payment" in rows["stripe"]["operations"]
    assert rows["stripe"]["configured"] is False


def test_a_taken_port_is_a_clear_misuse(shop: Path) -> None:
    """Not a traceback out of the server."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"127.0.0.1:{port}" in _moorline(shop, "serve", "shop:app", "--port", port, expect=2)


def _enqueue(folder: Path, statement: str) -> str:
    script = f"import shop\nwith shop.app.opened():\n    print({statement}.result().id)"
    done = run([sys.executable, "-c", script], cwd=folder, env=_environment(), check=True)
    return done.stdout.strip()


@pytest.fixture
def running(shop: Path) -> Iterator[int]:
    """``moorline run`` on a free port, until the test is over."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    command = [sys.executable, "-m", "moorline.cli", "run", "shop:app", "--port", str(port)]
    process = Warm(command, cwd=shop, env=_environment(), stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if "worker_started" in line:
                break
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=20)
        assert process.returncode == 0, rest
        assert "canary" not in rest


def _until(folder: Path, job: str, state: str) -> dict[str, Any]:
    for _ in range(200):
        found: dict[str, Any] = _json(folder, "jobs", "show", job)
        if found["state"] == state:
            return found
    raise AssertionError(found)


def test_a_dead_job_is_shown_mended_and_retried(shop: Path, running: int) -> None:
    """The operator's road: list the dead, look at one, mend the cause, retry, see it done."""
    dead = _enqueue(shop, "shop.hopeless.enqueue()")
    shown = _until(shop, dead, "dead")
    assert shown["reason"] == "failed"
    assert shown["failures"][0]["type"].endswith("ValueError")
    assert [job["id"] for job in _json(shop, "jobs", "list", "--state", "dead")] == [dead]
    assert _json(shop, "jobs", "retry", "--state", "dead", "--dry-run") == [{"id": dead, "result": "would be retried"}]
    waiting = _enqueue(shop, "shop.greet.using(delay=3600).enqueue('Ada')")
    assert _json(shop, "jobs", "cancel", waiting)[0]["result"] == "cancelled"
    assert _until(shop, waiting, "cancelled")["reason"]
    (shop / "mended").touch()
    assert _json(shop, "jobs", "retry", waiting, "--rate", "100")[0]["result"] == "retried"
    _until(shop, waiting, "done")
    assert (shop / "greeted.txt").read_text() == "Ada\n"


def test_a_running_job_is_watched_and_stopped(shop: Path, running: int) -> None:
    """The operator sees how far it is, stops it, and sees what it came to when it is tried again."""
    job = _enqueue(shop, "shop.scan.enqueue()")
    for _ in range(200):
        if (shown := _json(shop, "jobs", "show", job)).get("progress") == "25% a page":
            break
    assert (shown["state"], shown["result"]) == ("running", None)
    assert _json(shop, "jobs", "stop", job) == [{"id": job, "result": "stopped"}]
    assert _until(shop, job, "cancelled")["reason"] == "by an operator"
    (shop / "mended").touch()
    assert _json(shop, "jobs", "retry", job)[0]["result"] == "retried"
    assert _until(shop, job, "done")["result"] == '{"pages":4}'


def test_a_dead_job_that_blocks_others_is_seen_and_skipped(shop: Path, running: int) -> None:
    """The operator sees behind what a job is blocked, and lets its key go on."""
    head = _enqueue(shop, "shop.hopeless.using(key='k').enqueue()")
    _until(shop, head, "dead")
    behind = _enqueue(shop, "shop.hopeless.using(key='k').enqueue()")
    shown = _json(shop, "jobs", "show", behind)
    assert (shown["state"], shown["blocked_behind"], shown["order"]) == ("blocked", head, "hopeless k")
    assert f"blocked (behind {head})" in _moorline(shop, "jobs", "list", "--state", "blocked")
    assert _json(shop, "jobs", "skip", head, "--dry-run") == [{"id": head, "result": "would be skipped"}]
    assert _json(shop, "jobs", "skip", head) == [{"id": head, "result": "skipped"}]
    assert _until(shop, head, "cancelled")["reason"] == "skipped"
    _until(shop, behind, "dead")


def test_a_job_whose_time_is_no_date_is_shown(shop: Path) -> None:
    """As the number that it is: of an older release, or of another program."""
    with Store(f"sqlite:///{shop}/shop.db", auto_migrate=True) as store:
        SqlBroker(store).enqueue_sync([JobRow("a" * 32, "greet", b"{}", 1.8e12, 1.8e9)])
    assert "1800000000000" in _moorline(shop, "jobs", "list")
    assert "1800000000000" in _moorline(shop, "jobs", "show", "a" * 32)


def test_a_name_in_brackets_is_no_markup(shop: Path) -> None:
    """Nobody knows the credential, and it is named as it was given."""
    migrated_sqlite(shop / "shop.db")
    assert "no version of [/PAY] is known" in _moorline(shop, "keys", "status", "[/PAY]")


def test_no_error_text_shows_a_secret(shop: Path, running: int) -> None:
    """A key in an exception's message is masked in the store, so also in every command."""
    job = _enqueue(shop, "shop.greet.enqueue('Ada')")
    for _ in range(200):
        if _json(shop, "jobs", "show", job)["failures"]:
            break
    for arguments in (["jobs", "show", job], ["jobs", "list"], ["jobs", "show", job, "--json"]):
        text = _moorline(shop, *arguments)
        assert "sk_live_canary" not in text
        assert "no greeting card" in text


def test_a_webhook_is_received_shown_and_replayed(shop: Path, running: int) -> None:
    """From GitHub's POST to the handler, then `events list`, `show` and `replay`."""
    import httpx2

    from moorline.services import GitHub

    body = b'{"zen":"Keep it logically awesome.","hook_id":1}'
    signed = GitHub.webhooks.sign(body, SECRET)
    headers = {**signed, "X-GitHub-Event": "ping", "X-GitHub-Delivery": "d-1", "X-GitHub-Hook-ID": "7"}
    url = f"http://127.0.0.1:{running}"
    with httpx2.Client(trust_env=False) as client:
        for _ in range(2):
            answer = client.post(
                f"{url}/webhooks/github", content=body, headers={**headers, "Content-Type": "application/json"}
            )
            assert answer.status_code == 200
        assert client.post(f"{url}/webhooks/github", content=body + b" ", headers=headers).status_code == 401
        assert client.get(f"{url}/healthz").status_code == 200
        assert client.get(f"{url}/readyz").status_code == 200
        assert client.get(f"{url}/").status_code == 404
    (event,) = _json(shop, "events", "list")
    assert (event["type"], event["duplicates"]) == ("ping", 1)
    shown = _json(shop, "events", "show", event["id"])
    assert shown["payload"]["zen"] == "Keep it logically awesome."
    assert SECRET not in json.dumps(shown)
    replayed = _json(shop, "events", "replay", event["id"], "--app", "shop:app")
    assert (replayed["state"], replayed["events"], replayed["jobs"]) == ("done", 1, 1)
    newest, _ = _json(shop, "jobs", "list")
    _until(shop, newest["id"], "done")
    assert (shop / "seen.txt").read_text().split() == ["ping", "ping"]
