"""What all tests share: real servers, the folder of vendors' contracts, and what is left out where those are missing."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from tests import oracle_programs
from tests.databases import migrated_postgres
from tests.firebase_emulator import FirebaseEmulator
from tests.machines import why_no_machines
from tests.openbao import OpenBao
from tests.rabbit import RabbitServer, end_processes, rabbit_program
from tests.servers import RedisServer, RunningPostgres, postgres_binaries, start_postgres, stop_after

from moorline import live_values, telemetry

_SHARED_STATE = "MOORLINE_TEST_STATE"
_OWNER = "MOORLINE_TEST_OWNER"
_ROOT = Path(__file__).resolve().parents[1]
_IN_CI = os.environ.get("CI", "").lower() in {"1", "true"}

# Two busy cores make any deadline a lottery, and so how long the first examples take to be drawn.
settings.register_profile("moorline", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("moorline")


def _shared_folder() -> Path:
    """Contracts and recorded payloads live beside the repository, or where MOORLINE_SHARED says."""
    return Path(os.environ.get("MOORLINE_SHARED") or _ROOT.parent / "shared")


def _contracts_folder() -> Path:
    """The vendors' contracts; MOORLINE_CONTRACTS names another place than the one beside the repository."""
    return Path(os.environ.get("MOORLINE_CONTRACTS") or _shared_folder() / "contracts")


def _payloads_folder() -> Path:
    """Recorded webhook bodies; MOORLINE_PAYLOADS names another place."""
    return Path(os.environ.get("MOORLINE_PAYLOADS") or _shared_folder() / "payloads")


def pytest_configure(config: pytest.Config) -> None:
    """Give all xdist workers one folder in which the first one that needs a server leaves its address."""
    if not hasattr(config, "workerinput"):
        os.environ[_SHARED_STATE] = tempfile.mkdtemp(prefix="moorline-tests-")
        os.environ[_OWNER] = str(os.getpid())
        # Applications of the tests must not be found by `moorline calls` of who runs them, nor the other way round.
        os.environ["MOORLINE_RUN_DIR"] = str(Path(os.environ[_SHARED_STATE]) / "run")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the servers once, at the very end, in the process that outlives the workers."""
    if hasattr(config, "workerinput"):
        return
    state = Path(os.environ.pop(_SHARED_STATE, "/nonexistent"))
    address = state / "postgres.json"
    if address.exists():
        RunningPostgres(**json.loads(address.read_text())).stop()
    address = state / "rabbit.json"
    if address.exists():
        end_processes(json.loads(address.read_text())["mapper"])
    shutil.rmtree(state, ignore_errors=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what cannot run here, with one line for each reason; in CI nothing is left out, and it fails instead."""
    needs = {
        "postgres_server": "postgres",
        "redis_server": "redis",
        "rabbit_url": "rabbitmq",
        "firebase_host": "oracles",
        "contracts_dir": "contracts",
        "payloads_dir": "payloads",
    }
    for item in items:
        for fixture in needs.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker(needs[fixture])
    if not _IN_CI:
        for marker, reason in _missing(items).items():
            _leave_out(config, items, marker, reason)


def _missing(items: list[pytest.Item]) -> dict[str, str]:
    """The markers of what cannot run here, and why."""
    machines = any(item.get_closest_marker("machines") for item in items)
    contracts, payloads = _contracts_folder(), _payloads_folder()
    reasons = {
        "postgres": None if postgres_binaries() else "PostgreSQL is not installed (apt-get install postgresql)",
        "redis": None if shutil.which("redis-server") else "Redis is not installed (apt-get install redis-server)",
        "rabbitmq": None if rabbit_program() else "RabbitMQ is not installed (apt-get install rabbitmq-server)",
        "oracles": oracle_programs.missing(),
        "contracts": None if contracts.is_dir() else f"there is no folder {contracts} (set MOORLINE_CONTRACTS)",
        "payloads": None if payloads.is_dir() else f"there is no folder {payloads} (set MOORLINE_PAYLOADS)",
        "machines": why_no_machines() if machines else None,
    }
    return {marker: reason for marker, reason in reasons.items() if reason is not None}


def _leave_out(config: pytest.Config, items: list[pytest.Item], marker: str, reason: str) -> None:
    out = [item for item in items if item.get_closest_marker(marker)]
    if out:
        items[:] = [item for item in items if item not in set(out)]
        config.hook.pytest_deselected(items=out)
        _left_out[marker] = f"{len(out)} tests marked {marker} left out: {reason}"


_left_out: dict[str, str] = {}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was left out (with xdist, where the workers collect, ask again here)."""
    if not _IN_CI and postgres_binaries() is None:
        _left_out.setdefault("postgres", "tests marked postgres left out: PostgreSQL is not installed")
    for line in _left_out.values():
        terminalreporter.write_line(line, yellow=True)


@pytest.fixture(autouse=True)
def _nothing_is_sent_later() -> Iterator[None]:
    """What still waits in a batcher when a test ends must not be sent to where the next one's environment points."""
    yield
    module = sys.modules.get("moorline.calls.batcher")
    for one in () if module is None else list(module._live):
        if one.counts.waiting:
            one.close(0)


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """What a test configures of the logs ends with it: the next one's lines must not depend on the order."""
    root, output = logging.getLogger(), telemetry._Output.current
    level = root.level
    levels = {name: logging.getLogger(name).level for name in (*telemetry._TALKATIVE, *telemetry._ALARMED)}
    yield
    telemetry._Output.current = output
    root.setLevel(level)
    for handler in [known for known in root.handlers if isinstance(known, telemetry._Handler)]:
        root.removeHandler(handler)
    for name, old in levels.items():
        logging.getLogger(name).setLevel(old)


@pytest.fixture(autouse=True)
def _live_values_as_before() -> Iterator[None]:
    """A secret of one test (``Secret("token")``) must not mask the words of those that run after it."""
    tables: list[Any] = [live_values._values, live_values._anchors, live_values._keys, live_values._odd]
    kept = [(table, table.copy()) for table in tables]
    yield
    with live_values._lock:
        live_values._Quick.forget()
        for table, before in kept:
            table.clear()
            table.update(before)


@pytest.fixture(scope="session")
def postgres_server() -> RunningPostgres:
    """One PostgreSQL for the whole run, all workers included."""
    state = Path(os.environ[_SHARED_STATE])
    address = state / "postgres.json"
    with (state / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not address.exists():
            server = start_postgres()
            stop_after(int(os.environ[_OWNER]), server)
            address.write_text(json.dumps(dataclasses.asdict(server)))
        return RunningPostgres(**json.loads(address.read_text()))


@pytest.fixture
def postgres_url(postgres_server: RunningPostgres) -> Iterator[str]:
    """The URL of a fresh, empty database: ``postgresql+psycopg://…``."""
    url = postgres_server.create_database()
    yield url
    postgres_server.drop_database(url)


@pytest.fixture
def migrated_postgres_url(postgres_server: RunningPostgres) -> Iterator[str]:
    """The same of a database that was migrated: for whoever does not test how that comes about."""
    url = migrated_postgres(postgres_server)
    yield url
    postgres_server.drop_database(url)


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """A Redis of the test's own, which it may kill."""
    with RedisServer() as server:
        yield server


_outlives_us: list[RabbitServer | FirebaseEmulator] = []


@pytest.fixture(scope="session")
def rabbit_url() -> str:
    """The URL of one RabbitMQ for the whole run, all workers included: tests keep apart by their prefixes."""
    state = Path(os.environ[_SHARED_STATE])
    address = state / "rabbit.json"
    with (state / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not address.exists():
            server = RabbitServer(int(os.environ[_OWNER]))
            _outlives_us.append(server.__enter__())
            address.write_text(json.dumps({"url": server.url, "mapper": server.mapper}))
        url: str = json.loads(address.read_text())["url"]
        return url


@pytest.fixture(scope="session")
def firebase_host() -> str:
    """Where one emulator of Firebase is (host and port) for the whole run, all workers included."""
    state = Path(os.environ[_SHARED_STATE])
    address = state / "firebase"
    with (state / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not address.exists():
            emulator = FirebaseEmulator(int(os.environ[_OWNER]))
            _outlives_us.append(emulator.__enter__())
            address.write_text(emulator.host)
        return address.read_text()


@pytest.fixture(scope="session")
def openbao() -> Iterator[OpenBao]:
    """A server with Vault's API, in memory: tests keep apart by their mounts and paths."""
    with OpenBao() as server:
        yield server


@pytest.fixture(scope="session")
def contracts_dir() -> Path:
    """The vendors' published contracts (OpenAPI and JSON Schema files)."""
    folder = _contracts_folder()
    if not folder.is_dir():
        pytest.fail(f"there is no folder {folder}; set MOORLINE_CONTRACTS")
    return folder


@pytest.fixture(scope="session")
def payloads_dir() -> Path:
    """Recorded deliveries of real services."""
    folder = _payloads_folder()
    if not folder.is_dir():
        pytest.fail(f"there is no folder {folder}; set MOORLINE_PAYLOADS")
    return folder
