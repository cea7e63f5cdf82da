"""Offer twice what the receiver can take, and see what it answers: 503 with Retry-After, soon, and nothing lost.

    python benchmarks/overload.py [--seconds 10] [--times 2] [--database sqlite,postgresql] [--json]

First the sustainable rate is measured (50 connections that each wait for their answer). Then events arrive at that rate
times ``--times``, whether or not the ones before were answered (open loop): each takes a free connection or opens one,
and its latency counts from the moment at which it was due. Then half the sustainable rate arrives, and it is measured
how long it takes until latencies are as they were. Exit code 1 when an acknowledged event is not stored, or anything is
answered but 200 and 503, or not at all.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import time
from collections import Counter, deque
from pathlib import Path
from typing import Any

import uvloop

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.receive import Load, database, measure, running_server  # noqa: E402

from moorline.store import Store  # noqa: E402

PATH = "/webhooks/github"
TICK = 0.002
PATIENCE = 10.0
"""Seconds after which a sender gives up, as GitHub does."""
MOST_CONNECTIONS = 2_000
IDLE = 2.0
"""Seconds after which an idle connection is closed: before the server does so, which would meet the next request."""
WINDOW = 0.25
"""Seconds over which recovery is judged."""


class Connection(asyncio.Protocol):
    """A keep-alive connection that carries one request at a time."""

    def __init__(self, arrivals: Arrivals) -> None:
        self.arrivals = arrivals
        self.due = 0.0
        self.since = 0.0
        self.identity = b""
        self.buffer = b""
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.arrivals.free(self)

    def send(self, due: float) -> None:
        """Send the next request, which was due then."""
        self.due = due
        head, self.identity, body = self.arrivals.load.next()
        self.transport.writelines((head, self.identity, body))

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self.buffer[:end].lower()
        length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        if len(self.buffer) < end + 4 + length:
            return
        self.buffer = b""
        self.arrivals.answered(self, int(head[9:12]), retry_after=b"\r\nretry-after:" in head)
        self.arrivals.free(self)

    def connection_lost(self, _error: Exception | None) -> None:
        self.arrivals.gone(self)


class Arrivals:
    """Events that arrive at a rate, and what came of each."""

    def __init__(self, port: int, rate: float, seconds: float) -> None:
        self.load = Load(PATH)
        self.answers: list[tuple[float, int, float]] = []
        """(when it was due, since the start; status; seconds until the answer)."""
        self.acknowledged: set[bytes] = set()
        self.without_retry_after = 0
        self.unanswered = 0
        self.connections = 0
        self.late = 0.0
        """Seconds by which we were late ourselves, at worst."""
        self.most = 0
        self._port, self._rate, self._seconds = port, rate, seconds
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self._waiting: deque[float] = deque()
        self._opening: set[asyncio.Task[Any]] = set()

    async def run(self) -> None:
        """All of them, and as long after that as senders have patience."""
        loop = asyncio.get_running_loop()
        self._began = began = time.perf_counter()
        sent, total = 0, int(self._rate * self._seconds)
        while sent < total:
            now = time.perf_counter()
            while sent < total and sent / self._rate <= now - began:
                self.late = max(self.late, now - began - sent / self._rate)
                self._arrive(loop, began + sent / self._rate)
                sent += 1
            while self._idle and self._idle[0].since < now - IDLE:
                self._idle.pop(0).transport.abort()
            await asyncio.sleep(TICK)
        end = time.perf_counter() + PATIENCE
        while (self._busy or self._waiting) and time.perf_counter() < end:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        self.unanswered += len(self._busy) + len(self._waiting)
        for connection in [*self._idle, *self._busy]:
            connection.transport.abort()

    def _arrive(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        if self._idle:
            connection = self._idle.pop()
            self._busy.add(connection)
            connection.send(due)
            return
        self._waiting.append(due)
        if self.connections < MOST_CONNECTIONS:
            self.connections += 1
            self.most = max(self.most, self.connections)
            task = loop.create_task(loop.create_connection(lambda: Connection(self), "127.0.0.1", self._port))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    def free(self, connection: Connection) -> None:
        """It can carry the next one."""
        if self._waiting:
            self._busy.add(connection)
            connection.send(self._waiting.popleft())
        else:
            self._busy.discard(connection)
            connection.since = time.perf_counter()
            self._idle.append(connection)

    def answered(self, connection: Connection, status: int, *, retry_after: bool) -> None:
        """Its request was."""
        self.answers.append((connection.due - self._began, status, time.perf_counter() - connection.due))
        if status == 200:
            self.acknowledged.add(connection.identity)
        elif status == 503 and not retry_after:
            self.without_retry_after += 1

    def gone(self, connection: Connection) -> None:
        """The connection is closed."""
        self.connections -= 1
        if connection in self._busy:
            self._busy.discard(connection)
            self.unanswered += 1
        elif connection in self._idle:
            self._idle.remove(connection)


def quantiles(latencies: list[float]) -> dict[str, float]:
    """In milliseconds."""
    if not latencies:
        return {}
    ordered = sorted(latencies)
    picked = {"p50_ms": len(ordered) // 2, "p99_ms": len(ordered) * 99 // 100, "max_ms": len(ordered) - 1}
    return {name: round(ordered[place] * 1000, 1) for name, place in picked.items()}


def resident(pid: int) -> dict[str, float]:
    """Megabytes that the process holds now, and the most that it held."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return {name: round(int(fields[key].split()[0]) / 1024, 1) for name, key in (("now", "VmRSS"), ("peak", "VmHWM"))}


def recovery(answers: list[tuple[float, int, float]], normal: float) -> float:
    """Seconds until whole windows are answered 200 only, the 99th percentile within *normal* seconds, to the end."""
    worst = 0.0
    windows: dict[int, list[tuple[float, int, float]]] = {}
    for answer in answers:
        windows.setdefault(int(answer[0] / WINDOW), []).append(answer)
    for number, members in windows.items():
        ordered = sorted(latency for _, _, latency in members)
        if any(status != 200 for _, status, _ in members) or ordered[len(ordered) * 99 // 100] > normal:
            worst = max(worst, (number + 1) * WINDOW)
    return worst


def overloaded(url: str, *, seconds: float, times: float, warm: float = 3.0) -> dict[str, Any]:
    """The three phases against a receiver of its own over the database at *url*."""
    with running_server(url) as server:
        port, pid = server
        closed = measure(port, PATH, warm, 50)
        rate = closed["events_per_second"]
        before = resident(pid)
        flood = Arrivals(port, rate * times, seconds)
        uvloop.run(flood.run())
        after = Arrivals(port, rate / 2, max(4.0, seconds / 2))
        uvloop.run(after.run())
        memory = resident(pid)
    kept = stored(url)
    statuses = Counter(status for _, status, _ in flood.answers)
    return {
        "sustainable_per_second": rate,
        "offered_per_second": round(rate * times),
        "acknowledged_per_second": round(statuses[200] / seconds),
        "refused_503": statuses[503],
        "acknowledged_200": statuses[200],
        "other_answers": flood_others(statuses) + flood_others(Counter(status for _, status, _ in after.answers)),
        "unanswered": flood.unanswered + after.unanswered,
        "503_without_retry_after": flood.without_retry_after,
        "connections": flood.most,
        "load_late_by_ms": round(flood.late * 1000, 1),
        "normal": {name: closed[name] for name in ("p50_ms", "p99_ms")},
        "latency_200": quantiles([latency for _, status, latency in flood.answers if status == 200]),
        "latency_503": quantiles([latency for _, status, latency in flood.answers if status == 503]),
        "latency_all": quantiles([latency for _, _, latency in flood.answers]),
        "lost": len(flood.acknowledged - kept) + len(after.acknowledged - kept),
        "resident_mb": {"before": before["now"], "peak": memory["peak"], "after": memory["now"]},
        "seconds_to_recover": recovery(after.answers, max(0.1, 2 * closed["p99_ms"] / 1000)),
    }


def flood_others(statuses: Counter[int]) -> int:
    """How many were answered anything but 200 and 503."""
    return sum(count for status, count in statuses.items() if status not in {200, 503})


def stored(url: str) -> set[bytes]:
    """The delivery ids that the database holds."""
    with Store(url, auto_migrate=False) as store:
        rows = store.read_sync(lambda c: c.exec_driver_sql("SELECT sender_id FROM events").fetchall())
    return {str(key).partition(":")[2].encode() for (key,) in rows}


def failed(found: dict[str, Any]) -> bool:
    """Whether what must not be was."""
    return bool(found["lost"] or found["other_answers"] or found["unanswered"] or found["503_without_retry_after"])


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--times", type=float, default=2.0)
    parser.add_argument("--database", default="sqlite,postgresql", help="sqlite, postgresql, or both with a comma")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = {}
    for kind in options.database.split(","):
        with database(kind) as url:
            results[kind] = overloaded(url, seconds=options.seconds, times=options.times)
        if not options.json:
            print(kind, flush=True)
            for name, value in results[kind].items():
                print(f"  {name:<26}{value}", flush=True)
    if options.json:
        machine = f"{os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}"
        print(json.dumps({"machine": machine, **results}))
    if any(failed(found) for found in results.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
