"""Measures what docs/reference/speed.md shows, and keeps it in benchmarks/figures.json.

    python benchmarks/figures.py [receive jobs growth depth]

Each is run as it stands, with its peers, one after the other; those that are not named keep the figures that they had.
Afterwards ``make docs`` draws the page. Take a machine that nothing else uses.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
KEPT = HERE / "figures.json"
COMMANDS = {
    "receive": ["receive.py", "--peers", "--rounds", "5"],
    "jobs": ["jobs.py", "--brokers", "sqlite,postgresql,redis,rabbitmq", "--peers"],
    "growth": ["growth.py", "--seconds", "3"],
    "depth": ["depth.py"],
}


def main() -> None:
    """Measure, keep."""
    chosen = sys.argv[1:] or list(COMMANDS)
    unknown = [name for name in chosen if name not in COMMANDS]
    if unknown:
        sys.exit(f"no figures called {unknown[0]!r}; there are {', '.join(COMMANDS)}")
    kept = json.loads(KEPT.read_text("utf-8")) if KEPT.exists() else {}
    for name in chosen:
        print(f"== {name}", file=sys.stderr, flush=True)
        program, *options = COMMANDS[name]
        done = subprocess.run(
            [sys.executable, str(HERE / program), *options, "--json"], stdout=subprocess.PIPE, text=True, check=True
        )
        kept[name] = {
            "on": dt.datetime.now(dt.UTC).date().isoformat(),
            "machine": f"{os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}",
            "found": json.loads(done.stdout),
        }
        KEPT.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
