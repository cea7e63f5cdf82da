"""Megabytes a second that the redactor reads, by kind and size of body and by the number of live secrets.

Run: python benchmarks/redaction.py [--quick] [--bodies FOLDER]

With ``--bodies`` the JSON files of a folder are measured as well, all together: real bodies, of webhooks for example.

Processor time is what counts, so that what else the machine does matters less.

The peer, measured in the same run, is what a team would write: one alternation of patterns for the names and shapes,
and one of all secrets, given to ``re.sub``. It knows a fifth of the rules, and no encodings. With 10,000 secrets it is
asked for 1 KB only, as it compares each of them at each character.

The last part shows how time grows with the text, for texts that are made to be hard on regular expressions: the time
of twice as much, divided by that of the half, is about two where it is linear.
"""

from __future__ import annotations

import json
import re
import secrets
import sys
import time
import timeit
from pathlib import Path

from moorline import redaction

ORDER = {
    "id": "pi_3MtwBwLkdIwHu7ix28a3tqPa",
    "object": "payment_intent",
    "amount": 2000,
    "currency": "eur",
    "description": "Order 1234 for Ada Lovelace, Baker Street 12",
    "created": 1717000000,
    "metadata": {"order_number": "A-2024-000123", "basket": "9f1c2b7e-7c57-4b52-9a54-0c0c9e5f7a11"},
    "receipt": "https://pay.test/receipts/9f1c2b7e",
    "livemode": False,
}
SPARSE = (json.dumps(ORDER) + ",\n") * 80  # one secret in 32 KB
DIRTY = ORDER | {"client_secret": "pi_3Mtw_secret_YrKJUKribcBjcG8HVhfZluoGH", "card": "4242 4242 4242 4242"}
PAYMENT = ORDER | {  # as of Stripe: one secret among fields without a value
    "latest_charge": [ORDER] * 3,
    "client_secret": "pi_3Mtw_secret_YrKJUKribcBjcG8HVhfZluoGH",
    **dict.fromkeys(("application", "canceled_at", "customer", "invoice", "next_action", "on_behalf_of", "review")),
}
FORM = "amount=2000&currency=eur&metadata%5Border%5D=42&description=Order+1234+for+Ada&confirm=true&"
PROSE = "The service did not answer in time, so the call was tried a second time; größere Störung möglich. "
BODIES = {
    "json": ("application/json", json.dumps(ORDER) + ",\n"),
    "form": ("application/x-www-form-urlencoded", FORM),
    "text": ("text/plain", PROSE),
    "json, dirty": ("application/json", json.dumps(DIRTY) + ",\n"),
    "json, sparse": ("application/json", SPARSE + json.dumps(DIRTY) + ",\n"),
    "form, sparse": (
        "application/x-www-form-urlencoded",
        FORM * 340 + "card%5Bnumber%5D=4242424242424242&api_key=abc123&",
    ),
    "text, sparse": ("text/plain", PROSE * 320 + "Authorization: Bearer abcdef0123456789\n"),
    "payment": ("application/json", json.dumps(PAYMENT, indent=2)),
    "form, dirty": ("application/x-www-form-urlencoded", FORM + "card%5Bnumber%5D=4242424242424242&api_key=abc123&"),
    "text, dirty": ("text/plain", PROSE * 3 + "Authorization: Bearer abcdef0123456789\n"),
}
TIMER = time.process_time
SIZES = (1_000, 32_000, 1_000_000)
NAIVE = re.compile(
    r"(?i)(?:password|passwd|secret|token|api_?key|signature|authorization)[\"']?\s*[:=]\s*[\"']?[^\s\"',&}]+"
    r"|sk_(?:live|test)_\w+|gh[opsu]_\w+|xox[abp]-[\w-]+|AKIA[A-Z0-9]{16}|eyJ[\w-]+\.[\w-]+\.[\w-]+"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
HARD = {
    "quotes": 'token="',
    "words": "token",
    "backslashes": 'secret\\\\":',
    "spaces": "password " + " " * 50,
    "addresses": "http://a:",
    "marks": "://=",
    "pem": "-----BEGIN PRIVATE KEY----- ",
    "digits": "4242 ",
    "brackets": 'secrets=[{"',
    "dots": "eyJhbGciOi.",
    "arguments": "--a-token",
    "elements": "<token>",
    "json keys": '{"token":',
    "attributes": "<token a ",
    "literals": "<token><![CDATA[",
    "lines": "token\n\n",
    "labels": '"key":"a_token"\n',
    "parts": 'name="token"\r\n',
    "blocks": "token: |\n ",
    "lists": "tokens:\n- ",
    "inputs": "token\n input_value=",
}


def measured(work, size):
    rounds = max(1, 200_000 // size)
    return size / (min(timeit.repeat(work, number=rounds, repeat=5, timer=TIMER)) / rounds) / 1e6


def naive(known):
    values = re.compile("|".join(map(re.escape, known))) if known else None

    def redact(content):
        shown = NAIVE.sub("***", content.decode())
        return values.sub("***", shown) if values else shown

    return redact


def recorded(folder, known):
    contents = [path.read_bytes() for path in sorted(Path(folder).rglob("*.json"))]
    shown = [redaction.body(content, "application/json", limit=len(content)) for content in contents]
    changed = sum(one != content.decode() for one, content in zip(shown, contents, strict=True))
    size = sum(map(len, contents))
    ours = measured(lambda: [redaction.body(one, "application/json", limit=len(one)) for one in contents], size)
    print(f"{known:6} secrets  {len(contents)} bodies, {size:,} B, {changed} with secrets  {ours:.0f} MB/s")


def bodies(sizes, folder):
    known = []
    for count in (0, 10, 10_000):
        while len(known) < count:
            known.append(f"sk_live_{secrets.token_urlsafe(24)}")
            redaction.register(known[-1])
        if folder:
            recorded(folder, count)
        peer = naive(known)
        for name, (kind, piece) in BODIES.items():
            for size in sizes:
                content = (piece.encode() * (size // len(piece) + 1))[:size].decode("utf-8", "ignore").encode()
                ours = measured(lambda c=content, k=kind: redaction.body(c, k, limit=len(c)), size)
                assert (
                    name.endswith(("dirty", "sparse", "payment"))
                    or redaction.body(content, kind, limit=size) == content.decode()
                )
                shown = f"{count:6} secrets  {name:12} {size:9,} B  {ours:7.0f} MB/s"
                if count < 1_000 or size == sizes[0]:
                    theirs = measured(lambda c=content, p=peer: p(c), size)
                    shown += f"   naive {theirs:7.1f} MB/s   {ours / theirs:7.1f} times"
                print(shown, flush=True)


def spent(content, kind):
    return min(
        timeit.repeat(lambda: redaction.body(content, kind, limit=len(content)), number=1, repeat=5, timer=TIMER)
    )


def growth(size):
    print(f"\ntime of {2 * size:,} characters, in times of {size:,}")
    for name, piece in HARD.items():
        half, whole = (piece * (2 * size // len(piece)))[:size], (piece * (2 * size // len(piece)))[: 2 * size]
        for kind in ("text/plain", "application/json", "application/x-www-form-urlencoded"):
            times = [spent(part.encode(), kind) for part in (half, whole)]
            print(f"{name:12} {kind:34} {times[1] / times[0]:5.2f}   {2 * size / times[1] / 1e6:7.1f} MB/s")


def main():
    quick = "--quick" in sys.argv
    folder = sys.argv[sys.argv.index("--bodies") + 1] if "--bodies" in sys.argv else None
    bodies(SIZES[:2] if quick else SIZES, folder)
    growth(20_000 if quick else 100_000)


if __name__ == "__main__":
    main()
