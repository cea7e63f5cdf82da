"""Microseconds that the redactor takes for a clean line of 200 bytes, by the number of live secrets.

Run: python benchmarks/redactor.py
"""

from __future__ import annotations

import secrets
import timeit

from moorline import redaction

LINES = {
    "key=value": "call service=stripe operation=create_payment status=200 attempts=1 ms=84.2 outcome=done error=None ",
    "json": '{"event": "call", "service": "stripe", "operation": "create_payment", "status": 200, "attempts": 1} ',
    "english": "The service did not answer in time, so the call was tried a second time and it went through then. ",
    "non-ascii": "Der Dienst antwortete nicht rechtzeitig, größere Störung möglich, bald übernimmt ein anderer. ",
}
LENGTH, ROUNDS, CALLS = 200, 40, 500


def micros(line):
    assert redaction.text(line) == line
    return min(timeit.repeat(lambda: redaction.text(line), number=CALLS, repeat=ROUNDS)) / CALLS * 1e6


def main():
    known = 0
    for count in (0, 20, 500, 5_000):
        while known < count:
            redaction.register(f"sk_live_{secrets.token_urlsafe(24)}")
            known += 1
        shown = "   ".join(f"{name} {micros((line * 3)[:LENGTH]):5.1f} µs" for name, line in LINES.items())
        print(f"{count:5} secrets   {shown}")


if __name__ == "__main__":
    main()
