"""Webhooks received a second: 7 kB signed GitHub-like bodies, 50 connections, one receiver process, durable.

    python benchmarks/receive.py [--seconds 5] [--connections 50] [--database sqlite,postgresql] [--json]

The receiver runs in a process of its own (uvicorn, uvloop, httptools), the load comes from this one. In the same run
and the same process a bare ASGI endpoint is measured, which reads the body and checks the HMAC and does nothing else:
what the receiver reaches of it is the cost of everything that makes an event safe. SQLite runs with synchronous=FULL,
PostgreSQL with its default durability. Each event has a handler, so each makes a job row too.

``--peers`` measures two others in the same run: Fastify + Redis ``SET NX`` + BullMQ, and FastAPI + Redis + arq, over a
Redis that writes its log to the disk each second (so that both may lose a second). The first run installs them. After
that the receiver is offered 70 % of what it reached, at a steady rate, for its p99.
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
    """Eight bodies of some 7 kB, compact JSON as GitHub sends it."""
    user = {
        key: f"https://api.github.com/users/octocat/{key}" for key in ("url", "repos_url", "events_url", "gists_url")
    }
    made = []
    for number in range(8):
        commits = [
            {"id": f"{number}{n}" * 10, "message": 'Fix the "mooring" line\n', "author": user, "added": ["a.py"] * 5}
            for n in range(19)
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


def peers(seconds: float, connections: int) -> dict[str, Any]:
    """What others reach with the same load, one after the other, each over a Redis of its own."""
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
    results = {}
    for name, command in commands.items():
        with redis_with_log() as redis, started([*command, str(redis), SECRET]) as (port, _):
            results[name] = measure(port, "/webhooks/github", seconds, connections)
    return results


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
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--connections", type=int, default=50)
    parser.add_argument("--database", default="sqlite,postgresql", help="sqlite, postgresql, or both with a comma")
    parser.add_argument("--peers", action="store_true", help="measure Fastify + BullMQ and FastAPI + arq too")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", metavar="URL", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    results: dict[str, Any] = {
        "machine": f"{os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}"
    }
    for kind in options.database.split(","):
        with database(kind) as url, running_server(url) as (port, _):
            plain = measure(port, "/bare", options.seconds, options.connections)
            found = measure(port, "/webhooks/github", options.seconds, options.connections)
            steady_result = measure(
                port, "/webhooks/github", options.seconds, options.connections, rate=0.7 * found["events_per_second"]
            )
        found["of_bare"] = round(found["events_per_second"] / plain["events_per_second"], 2)
        results[kind] = {"receiver": found, "bare": plain}
        results[kind]["at 70 %"] = steady_result
    if options.peers:
        results["peers"] = peers(options.seconds, options.connections)
        best = max(results[kind]["receiver"]["events_per_second"] for kind in options.database.split(","))
        for name in list(results["peers"]):
            results["peers"][name]["we_reach"] = round(best / results["peers"][name]["events_per_second"], 2)
    if options.json:
        print(json.dumps(results))
        return
    print(results.pop("machine"), f"{options.connections} connections", sep=", ")
    for kind, pair in results.items():
        for name, found in pair.items():
            print(
                f"{kind:<11}{name:<17}{found['events_per_second']:>7,} events/s   p50 {found['p50_ms']:>6.2f} ms   "
                f"p99 {found['p99_ms']:>6.2f} ms   {found['body_bytes']:,} bytes   failed {found['failed']}"
            )
            if "we_reach" in found:
                print(f"{kind:<11}{name:<17}the better receiver reaches {found['we_reach']:.2f} of it")
        if "receiver" in pair:
            print(f"{kind:<11}receiver / bare endpoint: {pair['receiver']['of_bare']:.2f}")
    if any(found["failed"] for pair in results.values() for found in pair.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
