"""The page of what was measured, and its picture, from benchmarks/figures.json."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any, Final, NamedTuple

__all__ = ["curves", "speed_page"]

FIGURES: Final = Path(__file__).resolve().parents[1] / "benchmarks" / "figures.json"

WIDTH: Final = 400  # of one chart, its edges included
HEIGHT: Final = 260
LEFT: Final = 58
RIGHT: Final = 20
TOP: Final = 34
BOTTOM: Final = 40
COLOURS: Final = ("#0969da", "#bc4c00")
NAMES: Final = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "redis": "Redis", "rabbitmq": "RabbitMQ"}
ABOUT: Final = """\
Measured by `python benchmarks/figures.py` in a checkout. `moorline bench` measures the queue that you have on the
machine that you have: do that before you believe any of this."""
WEBHOOKS: Final = """\
7 kB bodies, signed as GitHub signs, over 50 connections; one receiving process, on the machine that makes the load.
Each event is stored, deduplicated and enqueued before its answer, and safe from a power cut then. The peers keep theirs
in a Redis that flushes its file each second, and may lose that one. All were measured in turns."""
JOBS: Final = """\
No-op async jobs; one producer and one worker with 50 slots in one process. SQLite has `synchronous=FULL`, PostgreSQL is
as it comes, Redis and its peer have `appendfsync everysec`, RabbitMQ quorum queues and confirms."""
PICTURE: Final = """\
![Two charts, webhooks a second by stored events and jobs a second by waiting jobs, for SQLite and PostgreSQL: the
numbers are in the tables below](speed.svg)"""
STYLE: Final = """
  text { font: 12px system-ui, sans-serif; fill: #59636e }
  .title { font-size: 14px; font-weight: 600; fill: #1f2328 }
  .axis { stroke: #d1d9e0; stroke-width: 1 }
  .line { fill: none; stroke-width: 2 }
  @media (prefers-color-scheme: dark) {
    text { fill: #9198a1 } .title { fill: #f0f6fc } .axis { stroke: #3d444d }
  }
"""


class Curve(NamedTuple):
    """One line of a chart: its name and its points, how many there were and what was reached."""

    name: str
    points: list[tuple[float, float]]


def _figures() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FIGURES.read_text("utf-8"))
    return found


def speed_page() -> str:
    """The tables, and what they were measured with."""
    figures = _figures()
    lines = [
        "# How fast it is",
        "",
        ABOUT,
        "",
        *_webhooks(figures["receive"]),
        *_jobs(figures["jobs"]),
        "## How it goes on as more is kept",
        "",
        "Left, 7 kB webhooks received with so many events stored already; right, jobs drained with so many waiting.",
        "",
        PICTURE,
        "",
        *_grown(figures),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _webhooks(figures: dict[str, Any]) -> Iterator[str]:
    found: dict[str, dict[str, Any]] = figures["found"]
    yield "## Webhooks"
    yield ""
    yield WEBHOOKS
    yield ""
    yield "| | events/s | p50 | p99 |"
    yield "| --- | --- | --- | --- |"
    for name, one in found.items():
        yield (f"| {_name(name)} | {one['events_per_second']:,} | {one['p50_ms']:.1f} ms | {one['p99_ms']:.1f} ms |")
    yield ""
    for name, one in found.items():
        for other, times in one.get("times", {}).items():
            yield f"- {_name(name)} reaches {times:.2f} of {other}."
    yield ""
    yield from _on(figures)


def _jobs(figures: dict[str, Any]) -> Iterator[str]:
    found: dict[str, dict[str, float]] = figures["found"]["brokers"]
    yield "## Jobs"
    yield ""
    yield JOBS
    yield ""
    yield "| | enqueued one by one | in bulk | drained | an idle worker begins after |"
    yield "| --- | --- | --- | --- | --- |"
    for name, one in found.items():
        idle = (
            ""
            if "picked_up_p50_ms" not in one
            else f"{one['picked_up_p50_ms']:.1f} ms, p99 {one['picked_up_p99_ms']:.1f} ms"
        )
        yield (
            f"| {_name(name)} | {one['one_by_one']:,.0f}/s | {one['bulk']:,.0f}/s | {one['drained']:,.0f}/s | {idle} |"
        )
    yield ""
    yield from _on(figures)


def _grown(figures: dict[str, Any]) -> Iterator[str]:
    yield "| stored events | database | events/s | p99 |"
    yield "| --- | --- | --- | --- |"
    for name, rows in _series(figures["growth"]):
        for row in rows:
            yield f"| {row['stored']:,} | {name} | {row['events_per_second']:,} | {row['p99_ms']:.1f} ms |"
    yield ""
    yield from _on(figures["growth"])
    yield "| waiting jobs | database | drained | one is enqueued in |"
    yield "| --- | --- | --- | --- |"
    for name, rows in _series(figures["depth"]):
        for row in rows:
            latency = f"{row['enqueue_p50_ms']:.1f} ms, p99 {row['enqueue_p99_ms']:.1f} ms"
            yield f"| {row['waiting']:,} | {name} | {row['drained']:,}/s | {latency} |"
    yield ""
    yield from _on(figures["depth"])


def _on(figures: dict[str, Any]) -> Iterator[str]:
    yield f"{figures['machine']}, {figures['on']}."
    yield ""


def _series(figures: dict[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    for name, rows in figures["found"].items():
        if isinstance(rows, list):
            yield _name(name), rows


def _name(name: str) -> str:
    first, _, rest = name.partition(" ")
    return f"{NAMES.get(first, first)} {rest}".strip()


# --- the picture


def curves() -> str:
    """Both charts side by side as SVG, for light and dark pages."""
    figures = _figures()
    growth = [
        Curve(name, [(row["stored"], row["events_per_second"]) for row in rows])
        for name, rows in _series(figures["growth"])
    ]
    depth = [
        Curve(name, [(row["waiting"], row["drained"]) for row in rows]) for name, rows in _series(figures["depth"])
    ]
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDTH} {HEIGHT}" role="img">',
        "<title>Webhooks and jobs a second as more is kept</title>",
        f"<style>{STYLE}</style>",
        *_chart(0, "webhooks/s, by stored events", growth),
        *_chart(WIDTH, "jobs/s, by waiting jobs", depth),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _chart(x: int, title: str, drawn: list[Curve]) -> Iterator[str]:
    most = _rounded_up(max(rate for curve in drawn for _, rate in curve.points))
    amounts = sorted({amount for curve in drawn for amount, _ in curve.points})
    low, high = math.log10(amounts[0]), math.log10(amounts[-1])

    def across(amount: float) -> float:
        return x + LEFT + (WIDTH - LEFT - RIGHT) * (math.log10(amount) - low) / (high - low or 1)

    def up(rate: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * rate / most

    yield f'<text class="title" x="{x + LEFT}" y="18">{escape(title)}</text>'
    for part in range(5):
        rate = most * part / 4
        yield f'<path class="axis" d="M{x + LEFT} {up(rate):.1f}H{x + WIDTH - RIGHT}"/>'
        yield f'<text x="{x + LEFT - 6}" y="{up(rate) + 4:.1f}" text-anchor="end">{rate:,.0f}</text>'
    for amount in amounts:
        yield f'<text x="{across(amount):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{_short(amount)}</text>'
    for curve, colour in zip(drawn, COLOURS, strict=True):
        path = "L".join(f"{across(amount):.1f} {up(rate):.1f}" for amount, rate in curve.points)
        yield f'<path class="line" stroke="{colour}" d="M{path}"/>'
        for amount, rate in curve.points:
            yield f'<circle cx="{across(amount):.1f}" cy="{up(rate):.1f}" r="3" fill="{colour}"/>'
        amount, rate = curve.points[-1]
        yield (
            f'<text x="{across(amount):.1f}" y="{up(rate) - 8:.1f}" text-anchor="end" style="fill: {colour}">'
            f"{escape(curve.name)}</text>"
        )


def _rounded_up(most: float) -> float:
    step = 10 ** math.floor(math.log10(most))
    return next(step * part for part in (1, 2, 4, 8, 10) if step * part >= most)


def _short(amount: float) -> str:
    for size, word in ((1_000_000, "M"), (1_000, "k")):
        if amount >= size:
            return f"{amount / size:g}{word}"
    return f"{amount:g}"
