from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from tests.servers import PostgresServer, until


def _ask(url: str, question: str) -> object:
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        row = connection.execute(question).fetchone()  # type: ignore[arg-type, unused-ignore]
        assert row is not None
        return row[0]


def test_fixture_gives_an_empty_database(postgres_url):
    """A test gets a database of its own with no table in it."""
    assert _ask(postgres_url, "select count(*) from pg_tables where schemaname = 'public'") == 0


@pytest.mark.postgres
def test_two_uses_are_two_databases(postgres_server):
    """What one test writes, another does not see."""
    first, second = postgres_server.create_database(), postgres_server.create_database()
    assert _ask(first, "select current_database()") != _ask(second, "select current_database()")
    postgres_server.drop_database(first)
    postgres_server.drop_database(second)


@pytest.mark.postgres
def test_server_of_its_own_stops_with_its_block():
    """A benchmark's server answers inside the block, durable as asked, and is gone after it."""
    with PostgresServer(durable=True) as server:
        url = server.create_database()
        assert _ask(url, "show fsync") == "on"
    try:
        _ask(url, "select 1")
    except psycopg.OperationalError:
        return
    raise AssertionError("the server still answers")


@pytest.mark.postgres
def test_server_dies_with_its_owner():
    """When the process that started a server is killed, the server stops and its folder goes."""
    script = (
        "import os, signal\n"
        "from tests.servers import PostgresServer\n"
        "with PostgresServer() as server:\n"
        "    print(server.pid, server.folder, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    pid, folder = done.stdout.split()
    until(lambda: not Path(folder).exists(), seconds=20)
    assert not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text()
