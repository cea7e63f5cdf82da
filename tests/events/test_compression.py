"""Compressed bodies come back as they were, within a bound."""

from __future__ import annotations

import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorline.errors import StoreError
from moorline.events.compression import PRUNED, ZSTD, compressed, opened

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


@given(st.binary(max_size=2000), st.integers(1, 200))
def test_any_body_comes_back_byte_for_byte(part: bytes, times: int):
    """What was compressed inflates to the very bytes; what is not worth it is left alone."""
    body = part * times
    smaller = compressed(body)
    assert opened(body, None) == body
    if smaller is not None:
        assert len(smaller) < len(body)
        assert opened(smaller, ZSTD) == body
        assert opened(memoryview(smaller), ZSTD, limit=len(body)) == body


def test_what_does_not_shrink_is_left_as_it_is():
    """Random bytes are not stored larger than they came."""
    assert compressed(os.urandom(10_000)) is None
    assert compressed(b"") is None


def test_a_bomb_inflates_to_its_bound_and_no_further():
    """A few kilobytes that stand for a gigabyte are refused, with or without their size in the frame."""
    bomb = zstd.compress(b"\0" * 50_000_000)
    assert len(bomb) < 10_000
    with pytest.raises(StoreError, match="more than 1,000,000 bytes"):
        opened(bomb, ZSTD, limit=1_000_000)
    writer = zstd.ZstdCompressor()
    unsized = writer.compress(b"\0" * 5_000_000) + writer.flush()
    with pytest.raises(StoreError, match="more than 1,000,000 bytes"):
        opened(unsized, ZSTD, limit=1_000_000)


@given(st.binary(max_size=200))
def test_damaged_bytes_are_a_store_error(noise: bytes):
    """Cut off, followed by something, or not zstd at all: one kind of error, never other bytes."""
    whole = zstd.compress(b"moorline" * 100)
    for bad in (whole[: len(whole) // 2], whole + b"x", b"\x00" + noise):
        with pytest.raises(StoreError):
            opened(bad, ZSTD)


def test_a_pruned_body_is_empty_and_an_unknown_encoding_is_an_error():
    """A newer program's encoding is not handed out as if it were the body."""
    assert opened(b"", PRUNED) == b""
    with pytest.raises(StoreError, match="'brotli'"):
        opened(b"x", "brotli")
