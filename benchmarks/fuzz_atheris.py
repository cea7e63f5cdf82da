"""Coverage-guided fuzzing of `moorline.events.verify` over every scheme, with atheris (no dependency of moorline's).

    python -m venv /tmp/atheris && /tmp/atheris/bin/pip install -e . atheris
    /tmp/atheris/bin/python benchmarks/fuzz_atheris.py -max_total_time=60 -max_len=4096

The arguments are libFuzzer's. The first byte chooses the service, the second whether the body is signed anew, the next
two where the input is cut: headers before, one a line, body after. Anything but an Event, InvalidSignature or
UnusableEvent is a crash.
"""

from __future__ import annotations

import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import atheris

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

with atheris.instrument_imports(include=["moorline.events"]):
    from tests.fuzzing import Target, seeds, signed

TARGET = Target()
SEEDS = seeds()


def one(data: bytes) -> None:
    """One input."""
    if len(data) < 4:
        return
    given = SEEDS[data[0] % len(SEEDS)]
    cut = 4 + int.from_bytes(data[2:4], "big") % (len(data) - 3)
    pairs = [line.partition(b":")[::2] for line in data[4:cut].split(b"\n") if b":" in line]
    given = replace(given, body=data[cut:], headers=(*given.headers, *pairs))
    TARGET.verify(signed(given) if data[1] & 1 else given)


def _no_network(*_args: object, **_options: object) -> NoReturn:
    raise OSError("there is no network in a fuzzing run")


if __name__ == "__main__":
    socket.getaddrinfo = socket.create_connection = _no_network
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
