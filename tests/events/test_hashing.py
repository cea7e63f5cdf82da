"""Hashes that are made in pieces are the library's own."""

from __future__ import annotations

import hashlib
import hmac

from hypothesis import given
from hypothesis import strategies as st

from moorline.events.hashing import hmac_of, sha256_of

bodies = st.one_of(
    st.binary(max_size=5000),
    st.integers(0, 140_000).map(lambda size: bytes(range(256)) * (size // 256) + b"x" * (size % 256)),
)


@given(
    key=st.binary(min_size=1, max_size=200),
    body=bodies,
    algorithm=st.sampled_from(["sha1", "sha256", "sha384", "sha512"]),
)
def test_hmac_is_that_of_the_library(key: bytes, body: bytes, algorithm: str):
    """For any key, long ones too, and bodies on both sides of every limit."""
    assert hmac_of(key, body, algorithm) == hmac.digest(key, body, algorithm)


@given(body=bodies)
def test_sha256_is_that_of_the_library(body: bytes):
    """However long the body."""
    assert sha256_of(body) == hashlib.sha256(body).hexdigest()
