"""Real servers for tests, benchmarks and scripts, each on a free loopback port and stopped by its own pid.

::

    with PostgresServer() as server:
        url = server.create_database()
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Interface
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import psycopg

__all__ = [
    "PostgresServer",
    "RedisServer",
    "RunningPostgres",
    "postgres_binaries",
    "start_postgres",
    "stop_after",
    "until",
]

_USER = "moorline"
_START_SECONDS = 30.0


def postgres_binaries() -> Path | None:
    """The folder of ``initdb`` and ``postgres``: the newest of Debian's, or the one on PATH; None if there is neither."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    on_path = shutil.which("initdb")
    if on_path:
        folders.append(Path(on_path).resolve().parent)
    for folder in folders:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    return None


def free_port() -> int:
    """A loopback port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True, slots=True)
class RunningPostgres:
    """A server that runs: ``pid`` of the postmaster, its ``port`` and its ``folder``. Passes between processes as values."""

    pid: int
    port: int
    folder: str

    def create_database(self, template: str = "template0") -> str:
        """A fresh, empty database, or a copy of *template*; its SQLAlchemy URL."""
        name = f"test_{uuid4().hex[:12]}"
        with self._connect() as connection:
            # A template is connected to by nobody, so two workers can copy it at once.
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')  # type: ignore[arg-type, unused-ignore]
        return self._url(name)

    def make_template(self, name: str, fill: Callable[[str], None]) -> None:
        """A database that is never connected to, only copied, made by *fill* from its URL; does nothing if there is it."""
        with self._connect() as connection:
            connection.execute("SELECT pg_advisory_lock(1)")  # other workers wait until it is whole
            if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone():
                return
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')  # type: ignore[arg-type, unused-ignore]
            fill(self._url(name))
            connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')  # type: ignore[arg-type, unused-ignore]

    def _url(self, name: str) -> str:
        return f"postgresql+psycopg://{_USER}@127.0.0.1:{self.port}/{name}"

    def drop_database(self, url: str) -> None:
        """Drop a database made by ``create_database``, with whoever is still connected."""
        name = url.rpartition("/")[2]
        with self._connect() as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')  # type: ignore[arg-type, unused-ignore]

    def _connect(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(f"postgresql://{_USER}@127.0.0.1:{self.port}/postgres", autocommit=True)

    def stop(self) -> None:
        """Stop the server and remove its folder; connections that are still open are cut."""
        for signum, patience in ((signal.SIGINT, 10.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)):
            if _signal_and_wait(self.pid, signum, patience):
                break
        shutil.rmtree(self.folder, ignore_errors=True)


# The tests may be killed outright; then nobody is left to stop the server.
_WATCH = """
while kill -0 "$2"; do
    kill -0 "$1" || kill -INT "$2"
    sleep 1
done
rm -rf "$3"
"""


def stop_after(owner: int, server: RunningPostgres) -> None:
    """Let a small process stop *server* when the process *owner* is gone, however it went."""
    command = ["/bin/sh", "-c", _WATCH, "watch", str(owner), str(server.pid), server.folder]
    quiet = subprocess.DEVNULL
    _watchers.append(subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True))


_watchers: list[subprocess.Popen[bytes]] = []


class PostgresServer:
    """A server for one ``with`` block. ``durable`` keeps fsync on, as a benchmark wants it and a test does not."""

    def __init__(self, *, durable: bool = False, network: IPv4Interface | None = None) -> None:
        self._durable = durable
        self._network = network
        self._running: RunningPostgres | None = None

    def __enter__(self) -> RunningPostgres:
        self._running = start_postgres(durable=self._durable, network=self._network)
        stop_after(os.getpid(), self._running)
        return self._running

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._running is not None:
            self._running.stop()
            _watchers.pop().wait()


def start_postgres(*, durable: bool = False, network: IPv4Interface | None = None) -> RunningPostgres:
    """Start a server in a temporary folder. The caller stops it.

    With ``network`` it listens on that address too, and believes whoever calls from the network of it.

    Raises RuntimeError when PostgreSQL is not installed or does not come up, with what it said.
    """
    binaries = postgres_binaries()
    if binaries is None:
        raise RuntimeError("PostgreSQL is not installed: no initdb on PATH or in /usr/lib/postgresql/*/bin")
    folder = Path(tempfile.mkdtemp(prefix="moorline-postgres-"))
    user = _unprivileged_user()
    if user is not None:
        os.chown(folder, user.pw_uid, user.pw_gid)
    data = folder / "data"
    _run_as(
        user, [binaries / "initdb", "-D", data, "-U", _USER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
    )
    port = free_port()
    if network is not None:
        with (data / "pg_hba.conf").open("a") as rules:
            rules.write(f"host all all {network.network} trust\n")
    settings = {
        "listen_addresses": "127.0.0.1" if network is None else f"127.0.0.1,{network.ip}",
        "port": port,
        "unix_socket_directories": folder,
        "max_connections": 300,
        "fsync": "on" if durable else "off",
        "synchronous_commit": "on" if durable else "off",
        "full_page_writes": "on" if durable else "off",
        "autovacuum_naptime": "5s",
        "timezone": "UTC",
    }
    command = [binaries / "postgres", "-D", data, *(f"--{name}={value}" for name, value in settings.items())]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
            start_new_session=True,  # Ctrl-C in the terminal is for the tests, which then stop it in order
            **_credentials(user),
        )
    running = RunningPostgres(process.pid, port, str(folder))
    try:
        _wait_until_up(process, running)
    except BaseException:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)
        raise
    _children[process.pid] = process
    return running


_children: dict[int, subprocess.Popen[bytes]] = {}


def _wait_until_up(process: subprocess.Popen[bytes], running: RunningPostgres) -> None:
    give_up = time.monotonic() + _START_SECONDS
    while True:
        try:
            running._connect().close()
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > give_up:
                said = Path(running.folder, "log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"PostgreSQL did not start:\n{said}") from None
            time.sleep(0.05)
        else:
            return


def _unprivileged_user() -> pwd.struct_passwd | None:
    """Whom to run as: PostgreSQL refuses to run as root. None means as ourselves."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise RuntimeError("PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody")


def _credentials(user: pwd.struct_passwd | None) -> dict[str, Any]:
    return {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _run_as(user: pwd.struct_passwd | None, command: list[object]) -> None:
    done = subprocess.run(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        **_credentials(user),
    )
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed:\n{done.stdout[-1000:]}{done.stderr[-1000:]}")


def _signal_and_wait(pid: int, signum: signal.Signals, patience: float) -> bool:
    """Send a signal and wait; True when the process is gone."""
    child = _children.get(pid)
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        return True
    for _ in _until(patience):
        if child is not None:
            if child.poll() is not None:
                del _children[pid]
                return True
        elif not _exists(pid):
            return True
    return False


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # Whoever started it may not have collected it yet.
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def _until(seconds: float) -> Iterator[None]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield
        time.sleep(0.02)


def listens(address: tuple[str, int]) -> bool:
    """Whether somebody does at that address."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(address) == 0


def until(condition: Callable[[], bool], *, seconds: float = 10.0) -> None:
    """Wait for a fact about another process, which can be seen only by looking. Raises AssertionError after *seconds*."""
    for _ in _until(seconds):
        if condition():
            return
    raise AssertionError(f"still not so after {seconds} s")


class RedisServer:
    """A Redis for one ``with`` block, that a test may freeze, kill and start again on the same port.

    With a *folder* it keeps there what it acknowledged, and has it again after a ``kill -9``.
    """

    def __init__(
        self,
        *,
        folder: Path | None = None,
        options: Sequence[str] = (),
        port: int | None = None,
        configuration: Path | None = None,
    ) -> None:
        self._folder = folder
        self._options = options
        self._configuration = configuration
        self.port = free_port() if port is None else port
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        if self._folder is None:
            command += ["--appendonly", "no"]
        else:
            command += ["--appendonly", "yes", "--appendfsync", "always", "--dir", str(self._folder)]
        if self._configuration is not None:  # of a sentinel
            command = ["redis-server", str(self._configuration), "--port", str(self.port), "--sentinel"]
        command += self._options
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, cwd=tempfile.gettempdir())
        until(self._listens)
        script = 'while kill -0 "$1" && kill -0 "$2"; do sleep 1; done; kill -9 "$2"'
        ends = ["/bin/sh", "-c", script, "watch", str(os.getpid()), str(self._process.pid)]
        self._watcher = subprocess.Popen(ends, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)

    def kill(self) -> None:
        """``kill -9``."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self._watcher.kill()
            self._watcher.wait()

    def signal(self, number: signal.Signals) -> None:
        """SIGSTOP freezes it, SIGCONT lets it go on."""
        assert self._process is not None
        self._process.send_signal(number)

    def ask(self, *words: str) -> str:
        """What redis-cli prints."""
        command = ["redis-cli", "-p", str(self.port), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout

    def _listens(self) -> bool:
        return listens(("127.0.0.1", self.port))


class RedisCluster:
    """Three Redis nodes that are a cluster, for one ``with`` block."""

    def __init__(self, folder: Path) -> None:
        self._nodes: list[RedisServer] = []
        for number in range(3):
            (folder / str(number)).mkdir()
            options = ["--cluster-enabled", "yes", "--dir", str(folder / str(number))]
            self._nodes.append(RedisServer(options=options, port=_port_for_a_node()))
        self.url = f"redis+cluster://127.0.0.1:{self._nodes[0].port}"

    def __enter__(self) -> Self:
        slots = [0, 5461, 10_923, 16_384]
        for node, first, after in zip(self._nodes, slots, slots[1:], strict=False):
            node.start()
            node.ask("CLUSTER", "ADDSLOTSRANGE", str(first), str(after - 1))
        for node in self._nodes[1:]:
            self._nodes[0].ask("CLUSTER", "MEET", "127.0.0.1", str(node.port))
        for node in self._nodes:
            until(lambda node=node: _agrees(node.ask("CLUSTER", "INFO")))  # type: ignore[misc]
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()

    def kill(self) -> None:
        """``kill -9`` for all of them."""
        for node in self._nodes:
            node.kill()

    def empty(self) -> None:
        """Forget every key."""
        for node in self._nodes:
            node.ask("FLUSHALL")


def _agrees(told: str) -> bool:
    return "cluster_state:ok" in told and "cluster_known_nodes:3" in told and "cluster_slots_ok:16384" in told


def _port_for_a_node() -> int:
    """Nodes talk to each other 10,000 ports higher."""
    while True:
        port = free_port()
        if port < 55_000:
            return port


class Sentinels:
    """A Redis, its replica, and a sentinel that lets the one take the other's place, for one ``with`` block."""

    def __init__(self, folder: Path) -> None:
        self._server = RedisServer()
        self._replica = RedisServer(options=["--replicaof", "127.0.0.1", str(self._server.port)])
        configuration = folder / "sentinel.conf"
        configuration.write_text(
            f"sentinel monitor jobs 127.0.0.1 {self._server.port} 1\n"
            "sentinel down-after-milliseconds jobs 300\nsentinel failover-timeout jobs 2000\n"
        )
        self._sentinel = RedisServer(configuration=configuration)
        self.url = f"redis+sentinel://127.0.0.1:{self._sentinel.port}/jobs"

    def __enter__(self) -> Self:
        for one in (self._server, self._replica):
            one.start()
        until(lambda: "master_link_status:up" in self._replica.ask("INFO", "replication"))
        self._sentinel.start()
        until(lambda: str(self._replica.port) in self._sentinel.ask("SENTINEL", "REPLICAS", "jobs"))
        return self

    def __exit__(self, *exception: object) -> None:
        for one in (self._sentinel, self._replica, self._server):
            one.kill()

    def wait_for_replica(self) -> None:
        """Until the replica has all that the server has."""
        until(lambda: self._server.ask("WAIT", "1", "1000").strip() == "1")

    def kill_server(self) -> None:
        """``kill -9``."""
        self._server.kill()
