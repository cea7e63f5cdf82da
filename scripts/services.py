"""Writes ``src/moorline/services/__init__.pyi`` and prints the table of services, both from the service classes.

``python scripts/services.py`` writes and prints; with ``--check`` it writes nothing, and exits 1 if the file is old.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from moorline import registry
from moorline.calls.operations import Operation

STUB = Path(__file__).resolve().parents[1] / "src" / "moorline" / "services" / "__init__.pyi"
_HEAD = "# Written by scripts/services.py (`make services`); change the services, not this file.\n"


def built_in() -> list[type[Any]]:
    """The service classes of moorline itself, by class name."""
    found = [registry.service(name) for name in registry.names()]
    return sorted((one for one in found if one.__module__.startswith("moorline.")), key=lambda one: one.__name__)


def stub() -> str:
    """The text of the stub."""
    lines = [f"from {one.__module__} import {one.__name__} as {one.__name__}" for one in built_in()]
    # As the formatter and the linter leave it: one on each line, capitals first.
    found = sorted((one.__name__ for one in built_in()), key=lambda name: (len(name) == 1 or not name.isupper(), name))
    names = [f'    "{name}",' for name in found]
    return "\n".join([_HEAD, *sorted(lines), "", "__all__ = [", *names, "]", ""])


def operations(service: type[Any]) -> list[str]:
    """The names of a service's operations, those of its bases first, in the order of their files."""
    members = {name: one for kind in reversed(service.__mro__) for name, one in vars(kind).items() if name[0] != "_"}
    return [name for name, one in members.items() if is_operation(one)]


def is_operation(member: Any) -> bool:
    """Whether it is one request, or something that takes several."""
    several = str(getattr(member, "__annotations__", {}).get("return", "")).startswith(("Content", "Work["))
    return several or isinstance(getattr(member, "operation", None), Operation)


def table() -> str:
    """The services as a Markdown table."""
    rows = ["| service | category | operations | webhooks | key | facts |", "| --- | --- | --- | --- | --- | --- |"]
    for one in built_in():
        webhooks = "-" if one.webhooks is None else f"{type(one.webhooks).__name__} (`{one.webhooks.env}`)"
        done = ", ".join(f"`{name}`" for name in operations(one)) or "-"
        key = f"`{one.credentials.env}`" if one.credentials is not None and one.credentials.env else "-"
        rows.append(f"| {one.__name__} | {one.category} | {done} | {webhooks} | {key} | {one.docs} |")
    return "\n".join(rows)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="Write the stub of moorline.services and print the table of services.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the stub is not current")
    current = STUB.exists() and STUB.read_text() == stub()
    if parser.parse_args().check:
        if not current:
            print(f"{STUB} is not current: run `make services`", file=sys.stderr)
        return 0 if current else 1
    if not current:
        STUB.write_text(stub())
    print(table())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
