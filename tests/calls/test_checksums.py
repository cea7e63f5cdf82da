from __future__ import annotations

import hashlib
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorline import errors
from moorline.calls.checksums import Checker, combined_crc32, crc32, crc32c, decoded, encoded, md5

_parts = st.lists(st.binary(max_size=300), max_size=12)


@given(_parts)
def test_the_sum_of_parts_is_that_of_the_whole(parts: list[bytes]):
    """CRC-32s of parts are put together without their contents."""
    whole = b"".join(parts)
    assert combined_crc32([(crc32(part), len(part)) for part in parts]) == crc32(whole)
    assert int.from_bytes(crc32(whole), "big") == zlib.crc32(whole)


@pytest.mark.parametrize(("text", "sum_"), [(b"", "00000000"), (b"123456789", "e3069283"), (b"\0" * 32, "8a9136aa")])
def test_crc32c(text: bytes, sum_: str):
    """The vectors of RFC 3720, appendix B.4 (whose bytes stand in the other order there), and of the CRC catalogue."""
    assert crc32c(text).hex() == sum_


@given(_parts, st.sampled_from(["crc32", "crc32c", "md5", "sha1", "sha256"]))
def test_a_content_fits_or_not(parts: list[bytes], algorithm: str):
    """What comes in any pieces is proved by its checksum; one byte more is not."""
    whole = b"".join(parts)
    known = {"crc32": crc32, "crc32c": crc32c, "md5": md5}.get(
        algorithm, lambda data: hashlib.new(algorithm, data).digest()
    )
    for extra in (b"", b"x"):
        checker = Checker("a", len(whole), {algorithm: known(whole)})
        for part in [*parts, extra]:
            checker.update(part)
        if extra:
            with pytest.raises(errors.BadAnswer) as caught:
                checker.finish()
            assert caught.value.code == "checksum_mismatch"
        else:
            assert checker.finish() == algorithm


@given(st.binary(min_size=1, max_size=500), st.integers(1, 100), st.integers(1, 70))
def test_the_etag_of_parts(whole: bytes, part_size: int, piece: int):
    """Where it is the MD5 of the parts' MD5s it proves the content; where not, that says nothing."""
    sums = [md5(whole[at : at + part_size]) for at in range(0, len(whole), part_size)]
    etag = f'"{md5(b"".join(sums)).hex()}-{len(sums)}"'
    for told, found in ((etag, "md5 of parts"), (f'"{"0" * 32}-{len(sums)}"', None)):
        checker = Checker("a", len(whole), {}, etag=told, part_size=part_size)
        for at in range(0, len(whole), piece):
            checker.update(whole[at : at + piece])
        assert checker.finish() == found


def test_what_cannot_be_known():
    """Without a checksum, or of a content too long for a slow one, nothing is claimed."""
    assert Checker("a", 5, {}).finish() is None
    assert Checker("a", 5, {}, etag='"abc"', part_size=5).finish() is None
    assert Checker("a", 5, {}, etag=f'"{"0" * 32}-2"', part_size=5).finish() is None


@given(st.binary(max_size=40))
def test_base64(raw: bytes):
    """A checksum goes there and back; the sum of parts' sums, and what is none, is no checksum."""
    assert decoded(encoded(raw)) == (raw or None)
    assert decoded(encoded(raw) + "-3") is None
    assert decoded(None) is None
