"""Compressed bodies come back as they were, within a bound."""

from __future__ import annotations

import os

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from moorline.errors import StoreError
from moorline.events.compression import PRUNED, ZSTD, compressed, opened


@given(st.lists(st.tuples(st.binary(max_size=2000), st.integers(1, 200)), max_size=5))
def test_any_bodies_come_back_byte_for_byte(parts: list[tuple[bytes, int]]):
    """What was compressed inflates to the very bytes; what is not worth it is left alone."""
    bodies = [part * times for part, times in parts]
    for body, smaller in zip(bodies, compressed(bodies), strict=True):
        assert opened(body, None) == body
        if smaller is not None:
            assert len(smaller) < len(body)
            assert opened(smaller, ZSTD) == body
            assert opened(memoryview(smaller), ZSTD, limit=len(body)) == body


def test_many_megabytes_are_compressed_in_order():
    bodies = [bytes([number]) * 1_000_000 for number in range(20)]
    assert [opened(smaller or b"", ZSTD) for smaller in compressed(bodies)] == bodies


def test_what_does_not_shrink_is_left_as_it_is():
    """Random bytes are not stored larger than they came."""
    noise = os.urandom(10_000)
    assert compressed([noise, b""]) == [None, None]
    assert compressed([b""]) == [None]
    assert compressed([]) == []


def test_what_earlier_versions_stored_is_read():
    """Frames of another level, with a checksum or without."""
    body = b"moorline" * 1000
    for checksum in (False, True):
        stored = zstandard.ZstdCompressor(level=3, write_checksum=checksum).compress(body)
        assert opened(stored, ZSTD) == body


def test_a_bomb_inflates_to_its_bound_and_no_further():
    """A few kilobytes that stand for a gigabyte are refused, with or without their size in the frame."""
    bomb = zstandard.compress(b"\0" * 50_000_000)
    assert len(bomb) < 10_000
    with pytest.raises(StoreError, match="more than 1,000,000 bytes"):
        opened(bomb, ZSTD, limit=1_000_000)
    writer = zstandard.ZstdCompressor().compressobj()
    unsized = writer.compress(b"\0" * 5_000_000) + writer.flush()
    with pytest.raises(StoreError, match="does not say how long"):
        opened(unsized, ZSTD, limit=1_000_000)


@given(st.binary(max_size=200))
def test_damaged_bytes_are_a_store_error(noise: bytes):
    """Cut off, followed by something, or not zstd at all: one kind of error, never other bytes."""
    whole = zstandard.compress(b"moorline" * 100)
    for bad in (whole[: len(whole) // 2], whole + b"x", whole + whole, b"\x00" + noise, b""):
        with pytest.raises(StoreError):
            opened(bad, ZSTD)


def test_a_pruned_body_is_empty_and_an_unknown_encoding_is_an_error():
    """A newer program's encoding is not handed out as if it were the body."""
    assert opened(b"", PRUNED) == b""
    with pytest.raises(StoreError, match="'brotli'"):
        opened(b"x", "brotli")
