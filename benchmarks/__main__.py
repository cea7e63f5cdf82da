"""``make bench``: all measurements, one after the other, each in a process of its own.

Arguments choose some by name: ``python -m benchmarks calls jobs``; those that take long run only when they are named.
"""

import subprocess
import sys
from pathlib import Path

ALL = ("calls", "fanout", "jobs", "receive", "redaction", "storage")
LONG = ("crash", "depth", "fuzz", "growth", "overload")


def main() -> int:
    chosen = sys.argv[1:] or ALL
    unknown = [name for name in chosen if name not in (*ALL, *LONG)]
    if unknown:
        print(f"no benchmark {unknown[0]!r}; there are {', '.join(ALL + LONG)}", file=sys.stderr)
        return 2
    failed = 0
    for name in chosen:
        print(f"\n== {name}", flush=True)
        failed += subprocess.call([sys.executable, str(Path(__file__).with_name(f"{name}.py"))]) != 0
    return 1 if failed else 0


sys.exit(main())
