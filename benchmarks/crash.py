"""Kill receivers and workers with -9 at random moments under load, and prove that nothing acknowledged is lost.

    python benchmarks/crash.py [--events 50000] [--kills 200] [--database sqlite,postgresql] [--seed N] [--json]

Two receivers and two workers (`moorline serve`, `moorline worker`) are started anew whenever they die. Senders send
each event until it is answered 2xx, with the same id and the same bytes. The handler adds the event's amount to an
account, in one transaction with the event's id. At the end each acknowledged event must be stored once and booked
once, and the account must hold exactly the sum. SQLite runs with synchronous=FULL, PostgreSQL with its default
durability. Exit code 1 when anything is lost, stored twice or booked twice.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.receive import database  # noqa: E402
from tests.campaign import Campaign, Plan  # noqa: E402


def measure(kind: str, plan: Plan, *, quiet: bool) -> dict[str, Any]:
    """One campaign; what came of it."""
    with database(kind) as url, tempfile.TemporaryDirectory(prefix="moorline-crash-") as folder:
        say = (lambda _: None) if quiet else (lambda line: print(line, flush=True))
        campaign = Campaign(url, plan, Path(folder), say)
        books = asyncio.run(campaign.run())
    statuses = campaign.crowd.statuses
    return {
        "events acknowledged": books.answered,
        "events stored": books.stored,
        "events booked": books.booked,
        "receiver kills": campaign.kills["receiver"],
        "worker kills": campaign.kills["worker"],
        "deliveries without an answer": statuses[0],
        "answers 503": statuses[503],
        "other answers than 200 and 503": sum(n for status, n in statuses.items() if status not in {0, 200, 503}),
        "duplicates recognised": books.duplicates,
        "handlers run again after a crash": books.runs - books.booked,
        "seconds": round(campaign.seconds, 1),
        "acknowledged a second, kills included": round(books.answered / campaign.sent_in),
        "problems": list(books.problems),
    }


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=Plan().events)
    parser.add_argument("--kills", type=int, default=Plan().kills)
    parser.add_argument("--seed", type=int, default=Plan().seed)
    parser.add_argument("--database", default="sqlite,postgresql", help="sqlite, postgresql, or both with a comma")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    plan = Plan(options.events, options.kills, options.seed)
    results: dict[str, Any] = {}
    for kind in options.database.split(","):
        if not options.json:
            print(f"{kind}: {plan.events:,} events, {plan.kills} kills, seed {plan.seed}", flush=True)
        results[kind] = measure(kind, plan, quiet=options.json)
        if not options.json:
            for name, value in results[kind].items():
                print(f"  {name:<40}{value if value != [] else 'none'!s:>12}", flush=True)
    if options.json:
        machine = f"{os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}"
        print(json.dumps({"machine": machine, "events": plan.events, "kills": plan.kills, **results}))
    if any(found["problems"] or found["other answers than 200 and 503"] for found in results.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
