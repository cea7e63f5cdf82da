from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorline import errors
from moorline.services.object_sources import Memory, PartsOf, memory_path


class Home:
    """The caller, here."""

    async def run(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    tell = run


async def parts_of(source: Any, size: int) -> list[bytes]:
    parts = PartsOf(source, Home())
    found = []
    while part := await parts.take(size):
        found.append(part)
    await parts.close()
    return found


@given(st.lists(st.binary(max_size=20), max_size=10), st.integers(1, 30))
def test_parts_have_one_size(pieces: list[bytes], size: int):
    """However a source gives its bytes, all parts but the last have the size that was asked for."""
    whole = b"".join(pieces)

    class Slow(io.RawIOBase):
        """A file that gives less than was asked for."""

        def __init__(self) -> None:
            self._rest = list(pieces)

        def read(self, size: int = -1) -> bytes:
            while self._rest and not self._rest[0]:
                self._rest.pop(0)
            if not self._rest:
                return b""
            part, self._rest[0] = self._rest[0][:size], self._rest[0][size:]
            return part

    async def later() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    for source in (whole, bytearray(whole), pieces, iter(pieces), later(), io.BytesIO(whole), Slow()):
        found = asyncio.run(parts_of(source, size))
        assert b"".join(found) == whole
        assert all(len(part) == size for part in found[:-1])


async def test_what_can_be_read_again(tmp_path: Path):
    """Bytes, a path and a file that can be sought begin again where they began; a pipe and an iterable do not."""
    (tmp_path / "a").write_bytes(b"abcdef")
    file = io.BytesIO(b"before abcdef")
    file.seek(7)
    for source in (b"abcdef", tmp_path / "a", file):
        parts = PartsOf(source, Home())
        assert [await parts.take(4), await parts.rewind(), await parts.take(4)] == [b"abcd", True, b"abcd"]
        await parts.close()

    class Pipe(io.RawIOBase):
        """A file that cannot be sought."""

        def read(self, _size: int = -1) -> bytes:
            return b""

    for once in (Pipe(), iter([b"abcdef"])):
        assert await PartsOf(once, Home()).rewind() is False


def test_sources_that_are_none(tmp_path: Path):
    """What gives no bytes is refused by its name, before or when it comes."""

    async def async_read(_size: int) -> bytes:
        return b""

    asynchronous = type("File", (), {"read": staticmethod(async_read)})()
    for source in (7, None, {"a": b"b"}, io.StringIO("x"), asynchronous):
        with pytest.raises(errors.ConfigurationError, match=r"upload\.source"):
            PartsOf(source, Home())
    for given_ in (["text"], iter([1])):
        with pytest.raises(errors.Misuse, match="not bytes"):
            asyncio.run(parts_of(given_, 5))
    with pytest.raises(FileNotFoundError):
        PartsOf(tmp_path / "nothing", Home())


def test_a_generator_that_is_left_is_closed():
    """What a source holds open is freed when the upload ends before it."""
    closed = []

    def pieces() -> Iterator[bytes]:
        try:
            yield b"x"
            yield b"y"
        finally:
            closed.append(True)

    async def some() -> None:
        parts = PartsOf(pieces(), Home())
        await parts.take(1)
        await parts.close()

    asyncio.run(some())
    assert closed


def memory(**changes: Any) -> Memory:
    return Memory(
        **{"service": "s3", "bucket": "b", "key": "k", "part_size": 5, "size": 9, "upload_id": "u", **changes}
    )


def test_what_is_remembered(tmp_path: Path):
    """It comes back from its file, which is its owner's only, and nothing else lies beside."""
    path = tmp_path / "state"
    one = memory(parts={"1": ["ff", '"e"']})
    one.write(path)
    assert Memory.read(path) == one
    assert path.stat().st_mode & 0o077 == 0
    assert list(tmp_path.iterdir()) == [path]
    assert one.goes_on(Memory.read(path))
    for name, value in (
        ("service", "r2"),
        ("bucket", "c"),
        ("key", "l"),
        ("part_size", 6),
        ("size", None),
        ("upload_id", ""),
    ):
        assert not one.goes_on(memory(**{name: value}))
    assert not one.goes_on(None)


@given(
    st.binary(max_size=60)
    | st.recursive(st.none() | st.integers() | st.text(max_size=5), st.lists).map(
        lambda value: json.dumps({"parts": value, "service": value}).encode()
    )
)
def test_a_memory_that_is_none(tmp_path_factory: pytest.TempPathFactory, content: bytes):
    """A file that is something else is as good as none."""
    path = tmp_path_factory.getbasetemp() / "state"
    path.write_bytes(content)
    assert Memory.read(path) is None


def test_where_it_is_remembered(tmp_path: Path):
    """Beside a path, or where the caller says; for other sources it must say so."""
    assert memory_path(False, b"") is None
    assert memory_path(True, tmp_path / "a.bin") == tmp_path / ".a.bin.moorline-upload"
    assert memory_path(tmp_path / "state", iter(())) == tmp_path / "state"
    with pytest.raises(errors.ConfigurationError, match=r"upload\.resume"):
        memory_path(True, b"")
