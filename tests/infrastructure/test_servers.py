from __future__ import annotations

import psycopg
import pytest
from tests.servers import PostgresServer


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
