"""Headers as they are kept."""

from __future__ import annotations

import json
import tracemalloc

from moorline.events.stored_headers import kept
from moorline.redaction import MASK


def test_credentials_are_masked_however_many_headers_there_are() -> None:
    """Of a few, and of more than any sender has; signatures stay."""
    for more in (0, 200):
        headers = {f"x-{number}": "seen" for number in range(more)}
        told = json.loads(kept({"authorization": "Bearer abc", "x-signature": "abc", **headers}))
        assert told == {"authorization": MASK, "x-signature": "abc", **headers}


def test_what_is_remembered_of_names_is_bounded() -> None:
    """Who sends other names each time, and very many, does not fill the memory with them."""
    kept({"a": "b"})
    tracemalloc.start()
    try:
        for number in range(60):
            kept({f"x-{number}-{name}": "" for name in range(1_000)})
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown < 1_000_000
