"""Secrets in a directory of files, as Docker and Kubernetes mount them: one file for each name.

``file:/run/secrets`` holds ``STRIPE_SECRET_KEY`` in the file of that name, or of that name in lower case, as Docker's
have it; ``STRIPE_SECRET_KEY_FILE`` in the environment names another one. The file is the value, without one newline at
its end, nor a byte order mark before it. ``…_PREVIOUS`` beside it is the older value, accepted until
``…_PREVIOUS_UNTIL``, as in the environment. The files are looked at each second, so that what Kubernetes swaps (its
link ``..data``) is seen.
"""

from __future__ import annotations

import os
import stat
from codecs import BOM_UTF8
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Final

from moorline.errors import ConfigurationError, SecretUnavailable
from moorline.secrets.sources.base import LARGEST, Address, Content, Source
from moorline.secrets.sources.environment import PREVIOUS, UNTIL, moment
from moorline.telemetry import logger

__all__ = ["Files", "read_file"]

_FILE: Final = "_FILE"
_TRIES: Final = 5
_END: Final = (b"\r\n", b"\n")
_warned: set[str] = set()

log = logger("secrets")


class Files(Source):
    """A directory of files, or where the URL names one credential, one file."""

    scheme: ClassVar[str] = "file"
    ttl: ClassVar[float] = 60.0
    look: ClassVar[float | None] = 1.0

    def __init__(self, address: Address, *, whole: bool = False) -> None:
        super().__init__(address, whole=whole)
        if address.path and not Path(address.path).is_absolute():
            raise ConfigurationError(f"{self.address}: the path must begin with /")

    def where(self, name: str) -> str:
        """The file."""
        return f"file:{Path(self.address.path) / name}" if self.address.path and not self.whole else str(self.address)

    def fetch(self, unit: str) -> Sequence[Content]:
        """The file's value, and the one before it; those of one moment."""
        for _ in range(_TRIES):
            before = self.stamp(unit)
            found = self._read(unit)
            if self.stamp(unit) == before:
                return found
        raise SecretUnavailable(f"{self.where(unit)}: it changes all the time")

    def stamp(self, unit: str) -> object:
        """Which files there are, of which time and size: a file that is replaced is another one."""
        return tuple(_facts(path) for name in _names(unit) for path in self._paths(unit, name))

    def _read(self, unit: str) -> list[Content]:
        current, previous, until = (self._value(unit, name) for name in _names(unit))
        found = [] if current is None else [Content(text=current)]
        if previous is not None:
            named = unit + UNTIL
            end = None if until is None else moment(named, {named: until})
            found.append(Content(stage="previous", text=previous, not_after=end))
        return found

    def _value(self, unit: str, name: str) -> str | None:
        for path in self._paths(unit, name):
            try:
                held = read_file(path, LARGEST)
            except (FileNotFoundError, NotADirectoryError):
                continue
            return _text(path, held)
        return None

    def _paths(self, unit: str, name: str) -> Iterator[Path]:
        """Where the value of *name* may stand: the unit's own, or the unit's with an ending."""
        if (named := os.environ.get(name + _FILE)) and not self.whole:
            yield Path(named)
            return
        if not self.address.path or "/" in name or name.startswith("."):
            return
        folder = Path(self.address.path)
        if self.whole and not folder.is_dir():
            end = name.removeprefix(unit)
            yield folder.with_name(folder.name + end)
            if end:
                yield folder.with_name(folder.name + end.lower())
            return
        yield folder / name
        if name.lower() != name:
            yield folder / name.lower()


def _names(unit: str) -> tuple[str, str, str]:
    return unit, unit + PREVIOUS, unit + UNTIL


def _facts(path: Path) -> tuple[object, ...]:
    try:
        found = path.stat()
    except OSError as error:
        return str(path), error.errno
    return str(path), found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def _text(path: Path, held: bytes) -> str:
    held = held.removeprefix(BOM_UTF8)  # the mark that editors of Windows put there is no part of the value
    for end in _END:
        if held.endswith(end):
            held = held[: -len(end)]
            break
    if not held.strip():
        # It may be on the way of being written: what was there before goes on.
        raise ConfigurationError(f"file:{path} is empty")
    try:
        return held.decode()
    except UnicodeDecodeError:
        raise ConfigurationError(f"file:{path} is not valid UTF-8") from None


def read_file(path: Path, most: int, *, shy: bool = False) -> bytes:
    """The bytes of a file of at most *most*. Who else may read it is warned of once where it is *shy*.

    Raises OSError, ConfigurationError for what is no file or too large.
    """
    # Opening a pipe would wait for its other end.
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(handle, "rb") as file:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode):
            raise ConfigurationError(f"{path} is no file")
        if shy and facts.st_mode & stat.S_IROTH and str(path) not in _warned:
            _warned.add(str(path))
            log.warning("secret_file_open_to_all", path=str(path), advice="chmod 600")
        held = file.read(most + 1)
    if len(held) > most:
        raise ConfigurationError(f"{path} is larger than {most} bytes")
    return held
