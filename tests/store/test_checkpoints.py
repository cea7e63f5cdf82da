"""The log of SQLite is copied back while others write, and no commit waits for that."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection
from tests.servers import until

from moorline.store import Store

_INSERT = sa.text("INSERT INTO meta (key, value) VALUES (:key, :value)")
LARGE = "x" * 100_000


def insert(connection: Connection, payloads: list[int]) -> list[None]:
    connection.execute(_INSERT, [{"key": str(key), "value": LARGE} for key in payloads])
    return [None] * len(payloads)


def written(connection: Connection) -> object:
    return connection.exec_driver_sql(f"SELECT count(*) FROM meta WHERE value = '{LARGE}'").scalar()


def running() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "moorline-checkpoints"]


def test_the_log_is_copied_before_sqlite_would(tmp_path: Path) -> None:
    """10 MB, which is less than SQLite waits for, are in the file while the store is open; the thread ends with it."""
    path = tmp_path / "a.db"
    with Store(f"sqlite:///{path}") as store:
        for number in range(100):
            store.write_sync(insert, number)
        until(lambda: path.stat().st_size > 5_000_000)
        assert running()
    assert not running()


def test_a_reader_in_the_way_is_no_failure(tmp_path: Path) -> None:
    """Who reads an old state keeps the log from being begun anew; writing goes on, and so does copying after that."""
    path = tmp_path / "a.db"
    with Store(f"sqlite:///{path}") as store:
        store.write_sync(insert, -1)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            assert reader.execute("SELECT count(*) FROM meta").fetchone()[0] >= 1
            before = path.stat().st_size
            for number in range(60):
                store.write_sync(insert, number)
            reader.execute("COMMIT")
        for number in range(60, 120):
            store.write_sync(insert, number)
        until(lambda: path.stat().st_size > before + 5_000_000)
        assert store.read_sync(written) == 121


def test_a_store_that_is_hardly_written_to_has_no_thread(tmp_path: Path) -> None:
    """Two commits are not worth one."""
    with Store(f"sqlite:///{tmp_path}/a.db") as store:
        for number in range(2):
            store.write_sync(insert, number)
        assert not running()


def test_a_process_may_work_in_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is the one that was opened: it is copied to, other processes are heard of, and no other is made."""
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir()
    monkeypatch.chdir(home)
    with Store("sqlite:///a.db") as store:
        monkeypatch.chdir(elsewhere)
        woken = threading.Event()
        store.listen("anything", woken.set)
        for number in range(100):
            store.write_sync(insert, number)
        until(lambda: (home / "a.db").stat().st_size > 5_000_000)
        until(woken.is_set)
    assert not list(elsewhere.iterdir())


def test_what_fails_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A moment without file descriptors does not end the copying for as long as the store is open."""
    path = tmp_path / "a.db"
    failed = threading.Event()
    connect = sqlite3.connect

    def failing(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        if threading.current_thread().name == "moorline-checkpoints" and not failed.is_set():
            failed.set()
            raise sqlite3.OperationalError("unable to open database file")
        opened: sqlite3.Connection = connect(*args, **kwargs)
        return opened

    monkeypatch.setattr("sqlite3.connect", failing)
    with Store(f"sqlite:///{path}") as store:
        for number in range(10):
            store.write_sync(insert, number)
        until(failed.is_set)
        for number in range(10, 110):
            store.write_sync(insert, number)
        until(lambda: path.stat().st_size > 5_000_000)


def test_a_thread_that_cannot_begin_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that allows no more threads for a while, or a program that is ending, writes as ever."""
    path = tmp_path / "a.db"
    refused: list[str] = []
    start = threading.Thread.start

    def failing(thread: threading.Thread) -> None:
        if thread.name == "moorline-checkpoints" and not refused:
            refused.append(thread.name)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", failing)
    with Store(f"sqlite:///{path}") as store:
        for number in range(100):
            store.submit(insert, number).result(10)
        until(lambda: path.stat().st_size > 5_000_000)
    assert refused
