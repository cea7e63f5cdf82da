"""Webhooks received a second: 7 kB signed GitHub-like bodies, 50 connections, one receiver process, durable.

    python benchmarks/receive.py [--seconds 2] [--rounds 3] [--connections 50] [--database sqlite,postgresql] [--json]

The receiver runs in a process of its own (uvicorn, uvloop, httptools), the load comes from this one. In the same run
and the same process a bare ASGI endpoint is measured, which reads the body and checks the HMAC and does nothing else:
what the receiver reaches of it is the cost of everything that makes an event safe. SQLite runs with synchronous=FULL,
PostgreSQL with its default durability. Each event has a handler, so each makes a job row too.

``--peers`` measures two others in the same run: Fastify + Redis ``SET NX`` + BullMQ, and FastAPI + Redis + arq, over a
Redis that writes its log to the disk each second (so that both may lose a second). The first run installs them. All are
measured in turns. After that the receiver is offered 70 % of what it reached, at a steady rate, for its p99.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hmac
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import uvloop

ROOT = Path(__file__).resolve().parents[1]
SECRET = "benchmark-secret"
PLACE = b"0123abcd-00000000-11ee-9f5a-000000000000"  # in a body, for what makes it another one


# --- the server ------------------------------------------------------------------------------------------------------


def serve(url: str) -> None:
    """Run the receiver and the bare endpoint until killed; the port is printed when it listens."""
    import uvicorn

    from moorline.cli.runner import listen
    from moorline.cli.serving import Server
    from moorline.events import Inbox, Receiver
    from moorline.services import GitHub
    from moorline.store.store import Store

    os.environ["GITHUB_WEBHOOK_SECRET"] = SECRET
    inbox = Inbox(Store(url, auto_migrate=True).open())

    @inbox.handlers.on(GitHub, "push")
    def handler(event: object) -> None: ...

    receiver = Receiver(inbox, schemes={"github": GitHub.webhooks}.get)
    key = SECRET.encode()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] == "/bare":
            await bare(scope, receive, send, key)
        else:
            await receiver(scope, receive, send)

    server = Server(
        uvicorn.Config(app, loop="uvloop", http="httptools", access_log=False, proxy_headers=False, log_level="error")
    )
    listener = listen("127.0.0.1", 0)
    print(listener.getsockname()[1], flush=True)
    if os.environ.get("MOORLINE_PROFILE"):
        import cProfile

        profile = cProfile.Profile()
        profile.runcall(server.run, [listener])
        profile.dump_stats(os.environ["MOORLINE_PROFILE"])
    else:
        server.run([listener])


async def bare(scope: Any, receive: Any, send: Any, key: bytes) -> None:
    """Read the body, check the HMAC, answer."""
    message = await receive()
    body = message["body"]
    while message.get("more_body"):
        message = await receive()
        body += message["body"]
    given = dict(scope["headers"])[b"x-hub-signature-256"]
    expected = b"sha256=" + hmac.digest(key, body, "sha256").hex().encode()
    good = hmac.compare_digest(given, expected)
    await send({"type": "http.response.start", "status": 200 if good else 401, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


# --- the load --------------------------------------------------------------------------------------------------------


def bodies() -> list[bytes]:
    """Eight bodies of some 7 kB, compact JSON as GitHub sends it, of which zstd leaves a fifth, as of GitHub's."""
    rng = random.Random(7)
    user = {
        key: f"https://api.github.com/users/octocat/{key}" for key in ("url", "repos_url", "events_url", "gists_url")
    }
    words = ["fix", "the", "mooring", "line", "of", "a", "buoy", "while", "tide", "turns", "and", "harbour", "lights"]
    made = []
    for _ in range(8):
        commits = [
            {
                "id": f"{rng.getrandbits(160):040x}",
                "tree_id": f"{rng.getrandbits(160):040x}",
                "message": " ".join(rng.choices(words, k=8)),
                "timestamp": f"2026-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}T10:{rng.randint(10, 59)}:00Z",
                "author": user,
                "added": [f"src/{rng.choice(words)}_{rng.randint(0, 999)}.py" for _ in range(2)],
            }
            for _ in range(14)
        ]
        payload = {"ref": "refs/heads/main", "after": PLACE.decode(), "commits": commits, "sender": user}
        made.append(json.dumps(payload, separators=(",", ":")).encode())
    return made


class Load:
    """Requests that are ready to be sent, and what came of them."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.latencies: list[float] = []
        self.failed = 0
        self._number = 0
        self._run = os.urandom(4).hex()
        self._requests = []
        for body in bodies():
            head = (
                f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: GitHub-Hookshot/044aadd\r\nAccept: */*\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nX-GitHub-Hook-ID: 292430182\r\n"
                "X-GitHub-Event: push\r\nX-GitHub-Hook-Installation-Target-ID: 79929171\r\n"
                "X-GitHub-Hook-Installation-Target-Type: repository\r\n"
                "X-Hub-Signature-256: sha256="
            )
            self._requests.append((head.encode(), body))
        self.size = sum(len(body) for body in bodies()) // 8

    def next(self) -> tuple[bytes, bytes, bytes]:
        """The parts of the next request; each has a body and a delivery id of its own."""
        self._number += 1
        head, body = self._requests[self._number & 7]
        identity = f"{self._run}-{self._number:08x}-11ee-9f5a-000000000000".encode()
        body = body.replace(PLACE, identity, 1)
        signature = hmac.digest(SECRET.encode(), body, "sha256").hex().encode()
        return head + signature + b"\r\nX-GitHub-Delivery: ", identity, b"\r\n\r\n" + body


class Client(asyncio.Protocol):
    """One keep-alive connection that sends the next request when the answer to the last one is complete."""

    def __init__(self, load: Load, until: float, ended: asyncio.Future[None], gap: float | None) -> None:
        self.load, self.until, self.ended, self.gap = load, until, ended, gap
        self.due = 0.0
        self.buffer = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        if self.gap is None:
            self.send()
        else:
            self.due = time.perf_counter() + random.uniform(0, self.gap)
            self.later()

    def later(self) -> None:
        """At the next due time; what is late already counts from when it was due."""
        wait = self.due - time.perf_counter()
        asyncio.get_running_loop().call_later(max(wait, 0.0), self.send)

    def send(self) -> None:
        self.started = time.perf_counter()
        if self.gap is not None:
            self.started, self.due = self.due, self.due + self.gap
        if self.started > self.until:
            self.transport.close()
            return
        self.transport.writelines(self.load.next())

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self.buffer[:end].lower()
        length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        if len(self.buffer) < end + 4 + length:
            return
        self.load.latencies.append(time.perf_counter() - self.started)
        if head[9:12] != b"200":
            self.load.failed += 1
        self.buffer = b""
        if self.gap is None:
            self.send()
        else:
            self.later()

    def connection_lost(self, error: Exception | None) -> None:
        if error is not None:
            self.load.failed += 1
        if not self.ended.done():
            self.ended.set_result(None)


async def drive(port: int, load: Load, seconds: float, connections: int, rate: float | None = None) -> float:
    """Send for *seconds* over so many connections; the seconds that it really took.

    With *rate* each connection sends at its own steady times, whenever the answer before came.
    """
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    ends = [loop.create_future() for _ in range(connections)]
    gap = None if rate is None else connections / rate
    for ended in ends:
        await loop.create_connection(partial(Client, load, started + seconds, ended, gap), "127.0.0.1", port)
    await asyncio.gather(*ends)
    return time.perf_counter() - started


def measure(port: int, path: str, seconds: float, connections: int, rate: float | None = None) -> dict[str, Any]:
    """One run, after a short one to warm up."""
    uvloop.run(drive(port, Load(path), min(1.0, seconds / 4), connections))
    load = Load(path)
    took = uvloop.run(drive(port, load, seconds, connections, rate))
    ordered = sorted(load.latencies)
    return {
        "events_per_second": round(len(ordered) / took),
        "p50_ms": round(ordered[len(ordered) // 2] * 1000, 2),
        "p99_ms": round(ordered[len(ordered) * 99 // 100] * 1000, 2),
        "requests": len(ordered),
        "failed": load.failed,
        "body_bytes": load.size,
    }


# --- the peers -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def peers() -> Iterator[dict[str, int]]:
    """The ports of others that do the same, each over a Redis of its own."""
    here = Path(__file__).resolve().parent
    if not (here / "node" / "node_modules" / "bullmq").exists():
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=here / "node", check=True, stdout=sys.stderr)
    python = here / ".peers" / "bin" / "python"  # arq wants an older redis than ours
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(here / ".peers")], check=True)
        wanted = ["arq", "fastapi", "httptools", "uvicorn", "uvloop"]
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *wanted], check=True, stdout=sys.stderr)
    commands = {
        "Fastify + BullMQ": ["node", str(here / "node" / "receive.mjs")],
        "FastAPI + arq": [str(python), str(here / "receive_arq.py")],
    }
    with contextlib.ExitStack() as stack:
        ports = {}
        for name, command in commands.items():
            redis = stack.enter_context(redis_with_log())
            ports[name], _ = stack.enter_context(started([*command, str(redis), SECRET]))
        yield ports


@contextlib.contextmanager
def redis_with_log() -> Iterator[int]:
    """The port of an empty Redis with ``appendfsync everysec``."""
    if shutil.which("redis-server") is None:
        sys.exit("redis-server is not installed: there are no peers to measure")
    sys.path.insert(0, str(ROOT))
    from tests.servers import free_port, until

    port = free_port()
    with tempfile.TemporaryDirectory(prefix="moorline-bench-") as folder:
        options = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--appendfsync", "everysec"]
        process = subprocess.Popen(
            ["redis-server", "--port", str(port), "--dir", folder, *options], stdout=subprocess.DEVNULL
        )
        try:
            until(
                lambda: (
                    subprocess.run(["redis-cli", "-p", str(port), "ping"], capture_output=True, check=False).returncode
                    == 0
                )
            )
            yield port
        finally:
            process.kill()
            process.wait()


# --- both ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def running_server(url: str) -> Iterator[tuple[int, int]]:
    """The server process: its port and its process id."""
    with started([sys.executable, __file__, "--serve", url]) as found:
        yield found


@contextlib.contextmanager
def started(command: list[str]) -> Iterator[tuple[int, int]]:
    """The process of that command: the port that it prints, and its process id."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline()), process.pid
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


@contextlib.contextmanager
def database(kind: str) -> Iterator[str]:
    """The URL of an empty database on this machine's disk."""
    if kind == "sqlite":
        with tempfile.TemporaryDirectory(prefix="moorline-bench-") as folder:
            yield f"sqlite:///{folder}/moorline.db"
        return
    sys.path.insert(0, str(ROOT))
    from tests.servers import PostgresServer

    with PostgresServer(durable=True) as server:
        yield server.create_database()


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each, in turn")
    parser.add_argument("--connections", type=int, default=50)
    parser.add_argument("--database", default="sqlite,postgresql", help="sqlite, postgresql, or both with a comma")
    parser.add_argument("--peers", action="store_true", help="measure Fastify + BullMQ and FastAPI + arq too")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", metavar="URL", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    found = contenders(options)
    if options.json:
        print(json.dumps(found))
    else:
        shown(found, options)
    if any(one["failed"] for one in found.values()):
        raise SystemExit(1)


def contenders(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """What each reached: all of them run, and each is measured in turn, as many rounds as are wanted.

    A machine that others use too is slower at one moment than at another: what is compared was measured side by side.
    """
    rounds: dict[str, list[dict[str, Any]]] = {}
    with contextlib.ExitStack() as stack:
        addresses: dict[str, tuple[int, str]] = {}
        for kind in options.database.split(","):
            port, _ = stack.enter_context(running_server(stack.enter_context(database(kind))))
            addresses[kind] = (port, "/webhooks/github")
            addresses.setdefault("bare endpoint", (port, "/bare"))
        if options.peers:
            for name, port in stack.enter_context(peers()).items():
                addresses[name] = (port, "/webhooks/github")
        for _ in range(options.rounds):
            for name, (port, path) in addresses.items():
                rounds.setdefault(name, []).append(measure(port, path, options.seconds, options.connections))
        for kind in options.database.split(","):
            rate = 0.7 * middle(rounds[kind])["events_per_second"]
            port, path = addresses[kind]
            steady = [measure(port, path, options.seconds, options.connections, rate) for _ in range(options.rounds)]
            rounds[f"{kind} at 70 %"] = steady
    found = {name: middle(each) for name, each in rounds.items()}
    for kind in options.database.split(","):
        found[kind]["times"] = {
            name: round(
                statistics.median(ours / theirs for ours, theirs in zip(*_speeds(rounds, kind, name), strict=True)), 2
            )
            for name in addresses
            if name not in options.database.split(",")
        }
    return found


def middle(each: list[dict[str, Any]]) -> dict[str, Any]:
    """The round of middle speed, with the failures of all."""
    ordered = sorted(each, key=lambda one: one["events_per_second"])
    return {**ordered[len(ordered) // 2], "failed": sum(one["failed"] for one in each)}


def _speeds(rounds: dict[str, list[dict[str, Any]]], *names: str) -> list[list[float]]:
    return [[one["events_per_second"] for one in rounds[name]] for name in names]


def shown(found: dict[str, dict[str, Any]], options: argparse.Namespace) -> None:
    """Print it as a table."""
    print(
        f"{os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}, {options.connections}"
        f" connections, the middle of {options.rounds} rounds of {options.seconds:g} s"
    )
    for name, one in found.items():
        print(
            f"{name:<20}{one['events_per_second']:>7,} events/s   p50 {one['p50_ms']:>6.2f} ms   "
            f"p99 {one['p99_ms']:>6.2f} ms   {one['body_bytes']:,} bytes   failed {one['failed']}"
        )
    for name, one in found.items():
        for other, times in one.get("times", {}).items():
            print(f"{name} reaches {times:.2f} of {other}")


if __name__ == "__main__":
    main()
