"""What all storage services have in common: objects and what is known of them, what a write gives, signed addresses."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import IO, TYPE_CHECKING, Any, NoReturn, Protocol

from moorline.errors import CallError, Misuse
from moorline.services.limits import as_text, at_most, encodable, plain, refused

if TYPE_CHECKING:
    from moorline.calls.call import Call
    from moorline.calls.paging import Pages
    from moorline.calls.work import Progress, Work

__all__ = [
    "Deleted",
    "DeletedMany",
    "Entry",
    "Head",
    "Obj",
    "SignedUrl",
    "Source",
    "StorageService",
    "Stored",
    "check_expiry",
    "check_key",
    "check_metadata",
    "check_readable",
]

Source = str | os.PathLike[str] | bytes | IO[bytes] | Iterable[bytes] | AsyncIterable[bytes]
"""What an upload reads: a path, a file opened for bytes, bytes, or what gives bytes."""

WEEK = 604_800
_KEY_BYTES = 1024
_NO_PARTS = frozenset({"", ".", ".."})


@dataclass(frozen=True, slots=True)
class Stored:
    """What a write made. *etag* is as the service writes it, with its quotes; *version* is S3's version or Google's
    generation, where there is one. *match* is what ``if_match`` takes, of any service.
    """

    key: str
    etag: str | None = None
    version: str | None = None
    size: int | None = None
    match: str | None = None
    raw: Any = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Head:
    """What is known of an object without its content. *checksums* are what the service knows of the whole content, by
    algorithm (``crc32``, ``crc32c``, ``sha256``, ``md5``, …), as bytes. *parts* is how many it was uploaded in, where
    the service says so; *match* what ``if_match`` takes.
    """

    key: str
    size: int
    etag: str | None = None
    version: str | None = None
    modified: datetime | None = None
    content_type: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    checksums: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    parts: int | None = None
    match: str | None = None
    raw: Any = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Obj:
    """An object, or a part of one, with its *body*. *verified* names the checksum that the whole content was held
    against; None where the service knows none that could be computed, and for a part.
    """

    head: Head
    body: bytes = field(repr=False)
    start: int = 0
    verified: str | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a listing: an object, or (*is_prefix*) what many keys have in common up to the delimiter."""

    key: str
    size: int = 0
    etag: str | None = None
    modified: datetime | None = None
    is_prefix: bool = False
    raw: Any = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Deleted:
    """What became of one key. *error* is the typed failure; None for one that is gone, or was not there."""

    key: str
    error: CallError | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class DeletedMany:
    """One result for each key, in their order."""

    results: tuple[Deleted, ...]

    @property
    def failed(self) -> tuple[Deleted, ...]:
        """Those that are still there."""
        return tuple(one for one in self.results if one.error is not None)


class SignedUrl:
    """An address that lets whoever has it do one thing, by *method*, until *expires_at* (seconds since the epoch).

    ``reveal()`` gives it; ``repr`` and ``str`` show nothing of its signature. *headers* have to be sent exactly as they
    stand. It is no Secret: these are remembered to be masked, and addresses are made by the thousand; where one
    gets into a log line its query is masked all the same.
    """

    __slots__ = ("__url", "expires_at", "headers", "method")

    def __init__(self, method: str, url: str, expires_at: float, headers: Mapping[str, str]) -> None:
        self.method = method
        self.__url = url
        self.expires_at = expires_at
        self.headers = dict(headers)

    def reveal(self) -> str:
        """The address itself. Whoever has it needs no other credential."""
        return self.__url

    def __str__(self) -> str:
        return f"{self.method} {self.__url.partition('?')[0]}?***"

    def __repr__(self) -> str:
        return f"<SignedUrl {self}>"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise Misuse(
            "a SignedUrl cannot be pickled, as it would be written in the clear; make another where it is needed"
        )


class StorageService(Protocol):
    """The operations that every storage service has, for the bucket that it was made with.

    Each is awaited, or asked for its ``result()``. Those that are one request are Calls; the others are Works.
    """

    def put(
        self,
        key: str,
        body: bytes,
        *,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        if_absent: bool = False,
        if_match: str | None = None,
    ) -> Call[Stored]:
        """Write an object in one request. *if_absent* and *if_match* (``match`` of a Stored or a Head) make
        it a compare-and-set: Conflict where they do not hold.
        """
        ...

    def get(self, key: str) -> Work[Obj]:
        """The whole object in memory, its checksum verified. Raises NotFound."""
        ...

    def get_range(self, key: str, start: int, length: int) -> Work[Obj]:
        """*length* bytes from *start* on; fewer at the end of the object."""
        ...

    def head(self, key: str) -> Call[Head]:
        """What is known of an object. Raises NotFound."""
        ...

    def list_objects(self, prefix: str = "", *, delimiter: str = "") -> Pages[Entry]:
        """The keys that begin with *prefix*; with a *delimiter* those beyond it are one entry each."""
        ...

    def delete(self, key: str) -> Call[Deleted]:
        """Delete an object. One that is not there is no error."""
        ...

    def delete_many(self, keys: Iterable[str]) -> Work[DeletedMany]:
        """Delete many, each with its own result."""
        ...

    def copy(
        self, source: str, target: str, *, to_bucket: str | None = None, metadata: Mapping[str, str] | None = None
    ) -> Work[Stored]:
        """Copy an object at the service, of any size; *metadata* replaces the source's."""
        ...

    def upload(self, key: str, source: Source, *, progress: Progress | None = None) -> Work[Stored]:
        """Write an object of any size in constant memory."""
        ...

    def download(self, key: str, path: str | os.PathLike[str], *, progress: Progress | None = None) -> Work[Head]:
        """Write an object of any size to a file, which appears when it is complete and verified."""
        ...

    def stream(self, key: str) -> AbstractContextManager[Any] | AbstractAsyncContextManager[Any]:
        """Read an object of any size in parts."""
        ...

    def presign_get(self, key: str, expires: int = 3600) -> Work[SignedUrl]:
        """An address from which anybody may read the object."""
        ...

    def presign_put(self, key: str, expires: int = 3600) -> Work[SignedUrl]:
        """An address to which anybody may write the object."""
        ...


def check_key(key: str, field: str = "key") -> str:
    """*key* itself. Raises InvalidRequest for one that no storage service takes: empty, or beyond 1024 bytes."""
    size = len(encodable(field, key).encode())
    if not size:
        raise refused(field, "must not be empty")
    if size > _KEY_BYTES:
        raise refused(field, f"has {size} bytes; the limit is {_KEY_BYTES}")
    return plain(field, key)


def check_readable(key: str) -> str:
    """*key* itself, if obstore can read what is written there.

    It takes a key for a path, and ``a//b``, ``/a``, ``a/`` and ``a/../b`` for another one or for none. Raises
    InvalidRequest for those: reading another object than was asked for must not happen.
    """
    if not _NO_PARTS.isdisjoint(check_key(key).split("/")):
        raise refused(
            "key", "has a part that is empty or only dots, whose content cannot be read; copy it to another key first"
        )
    return key


def check_metadata(metadata: Mapping[str, str] | None, most: int, *, ascii_only: bool = True) -> dict[str, str]:
    """Metadata with its names in lower case, as it comes back. Raises InvalidRequest, naming the entry or the limit
    of *most* bytes in all.
    """
    found: dict[str, str] = {}
    for name, value in (metadata or {}).items():
        where = f"metadata[{str(name)[:40]}]"
        if not as_text(where, name) or not name.isascii() or not name.replace("-", "").replace("_", "").isalnum():
            raise refused(where, "a name is ASCII letters, digits, - and _")
        if not plain(where, value).isascii() and ascii_only:
            raise refused(where, "must be ASCII")
        if value != value.strip():
            raise refused(where, "must not begin or end with a space, which would be lost")
        found[name.lower()] = value
    size = sum(len(name) + len(value.encode()) for name, value in found.items())
    if size > most:
        raise refused("metadata", f"has {size} bytes; the limit is {most}")
    return found


def check_expiry(expires: int) -> int:
    """*expires* itself, from 1 second to 7 days. Raises InvalidRequest."""
    whole: object = expires
    if isinstance(whole, bool) or not isinstance(whole, int) or not 1 <= expires <= WEEK:
        raise refused("expires", f"must be a whole number of seconds from 1 to {WEEK} (7 days)")
    return expires


def one_each(keys: Iterable[str], most: int | None = None) -> tuple[str, ...]:
    """The keys in their order, each once. Raises InvalidRequest for a text in their place."""
    if isinstance(keys, str):
        raise refused("keys", "must be several, not one text")
    found = tuple(dict.fromkeys(check_key(one, "keys") for one in keys))
    if most is not None:
        at_most("keys", found, most, "entries")
    return found
