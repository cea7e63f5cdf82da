"""What the services of storage share: contents read through obstore and written in parts, in constant memory.

Which way each operation goes, and why there is no second one for any:

- *Contents are read through obstore* (``get``, ``get_range``, ``stream``, ``download``): in Rust, beside Python's lock,
  half as fast again as by our own wire, the checksum included (``benchmarks/storage.py``, 2 GiB). See
  ``object_reading.py``
  for how that stays within the service's pipeline.
- *All else are requests of our own*, Calls where one request is enough. Listings, as obstore has no token of a page;
  ``head``, as it shows no checksums; ``put`` and ``upload``, as it sends none but SHA-256 to S3 and none at all to
  Google, takes no vendor's extras, cannot name the parts of an upload to go on with, and writes to Google by the XML
  API; ``copy``, as it knows no other bucket and no new metadata; ``delete``, as it knows no condition; signed
  addresses, as it signs neither headers nor what the answer's headers shall be. A write is bound by the network, so
  that nothing is lost by that.
- A whole content is read after a ``head``, which tells its checksums and its version: that one is read, and none that
  takes its place meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar
from urllib.parse import quote

from moorline.calls.checksums import Checker
from moorline.calls.saving import Target
from moorline.calls.service import Service
from moorline.calls.work import Home, Progress, Work, has_shared_loop, on_shared_loop
from moorline.errors import CallError, ConfigurationError, Conflict
from moorline.policies.checks import check_count, check_seconds
from moorline.services.limits import plain, refused
from moorline.services.object_reading import Wanted, read
from moorline.services.object_sources import PartsOf, UploadTask, memory_path
from moorline.services.object_streams import Content
from moorline.services.storage.protocol import Head, Obj, SignedUrl, Source, Stored, check_readable

if TYPE_CHECKING:
    from moorline.calls.call import Call
    from moorline.policies.policy import Policy
    from moorline.secrets.secret import Secret

__all__ = ["Objects", "attachment", "content_of"]

T = TypeVar("T")
_VERSIONS: Final = 3  # of an object that changes while it is read


class Objects(Service):
    """The base of a service of storage, for one bucket. Subclasses say how their requests look.

    ``get`` holds an object of at most *max_body* bytes in memory. A transfer of a large one (``download``, ``stream``,
    ``upload``, ``copy``) is bounded by its *timeout* alone, if one is given, and by the caller's deadline; each of its
    requests, and each wait in which nothing moves, is bounded by the service's policy.
    """

    category = "storage"
    bucket: Any
    part_size: ClassVar[int] = 8 << 20
    least_part: ClassVar[int] = 5 << 20
    _stored: tuple[Any, Any] | None = None

    # What a service of storage says of itself -------------------------------------------------------------------------

    def head(self, key: str) -> Call[Head]:
        """What is known of an object, with its checksums. Raises NotFound."""
        raise NotImplementedError

    def match_of(self, etag: str | None, version: str | None) -> str | None:
        """What ``if_match`` takes."""
        raise NotImplementedError

    def same_version(self, etag: str | None, version: str | None) -> dict[str, Any]:
        """The options of obstore's ``get`` that ask for this version and no other."""
        raise NotImplementedError

    def client_options(self) -> Any:
        """How obstore speaks HTTP: no limit of its own on how long a body may take, and ours on each wait for more of
        it; plain HTTP where the address is one.
        """
        patience = self.policy.attempt_timeout
        bound = {} if patience is None else {"read_timeout": timedelta(seconds=patience)}
        return {
            "allow_http": self.base_url.startswith("http://"),
            "timeout": timedelta(days=30),
            "connect_timeout": timedelta(seconds=10.0 if patience is None else patience),
            "user_agent": "moorline/0.1",
            **bound,
        }

    def _store(self, key: Secret) -> Any:
        """Obstore's store for the bucket, with *key*."""
        raise NotImplementedError

    async def checker(self, head: Head) -> Checker:
        """What the content of *head* is held against."""
        return Checker(head.key, head.size, head.checksums)

    async def _upload(self, parts: PartsOf, task: UploadTask) -> Stored:
        raise NotImplementedError

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if self.addresses is not None:
            raise ConfigurationError(
                f"{self.name}.addresses: contents are read by obstore, which cannot be held to them"
            )

    def store(self, key: Secret) -> Any:
        """Obstore's store, made anew when the key or the address is another than before. For reading.

        Raises ConfigurationError where a wire was given, past which obstore would read.
        """
        if self.wire is not None and not isinstance(self.wire, str):
            raise ConfigurationError(f"{self.name}.wire: contents are read by obstore, which knows no other wire")
        known = (key, self.base_url, self.bucket)
        if self._stored is None or self._stored[0] != known:
            self._stored = known, self._store(key)
        return self._stored[1]

    # Reading ----------------------------------------------------------------------------------------------------------

    def get(self, key: str) -> Work[Obj]:  # type: ignore[override]  # the base's maker of GETs, which is not for users
        """The whole object in memory, its checksum verified: ``body``, ``head``, ``verified``.

        Raises NotFound; InvalidRequest for one beyond *max_body* bytes (``download`` and ``stream`` know no limit), and
        for a key that obstore cannot read; Conflict where it changes again and again meanwhile; BadAnswer, with the
        code ``checksum_mismatch``, for bytes that are not those that were stored.
        """
        check_readable(key)

        async def begin(_home: Home) -> Obj:
            async def whole(head: Head, checker: Checker) -> Obj:
                if head.size > self.max_body:
                    raise self._refused(
                        "get", "key", f"has {head.size} bytes; max_body is {self.max_body}: use download or stream"
                    )
                body = bytearray()

                async def take(part: bytes) -> None:
                    body.extend(part)

                await self.read_into("get", self.wanted(head), take, self.policy)
                content = bytes(body)
                verified = await asyncio.to_thread(self.placed, lambda: _checked(checker, content), "get")
                return Obj(head, content, verified=verified)

            return await self._whole("get", key, whole)

        return Work(self.name, "get", begin)

    def get_range(self, key: str, start: int, length: int) -> Work[Obj]:
        """*length* bytes from *start* on, in memory; fewer where the object ends before. A part has no checksum.

        Raises NotFound; InvalidRequest for a start beyond the end, and for more than *max_body* bytes.
        """
        check_readable(key)
        for name, value, least in (("start", start, 0), ("length", length, 1)):
            whole: object = value
            if isinstance(whole, bool) or not isinstance(whole, int) or value < least:
                raise refused(name, f"must be a whole number, {least} or more")
        if length > self.max_body:
            raise refused("length", f"is {length} bytes; max_body is {self.max_body}: use stream")

        async def begin(_home: Home) -> Obj:
            body = bytearray()

            async def take(part: bytes) -> None:
                body.extend(part)

            head = await self.read_into("get_range", Wanted(key, start, start + length), take, self.policy)
            return Obj(head, bytes(body), start=start)

        return Work(self.name, "get_range", begin)

    def download(
        self,
        key: str,
        path: str | os.PathLike[str],
        *,
        progress: Progress | None = None,
        timeout: float | None = None,
    ) -> Work[Head]:
        """Write the object to the file *path*, which appears when it is complete and its checksum fits; until then it
        is a hidden one beside. *progress* is told the bytes so far, and all of them.

        A connection that breaks off is a failed attempt: the next one asks for the rest of the same version. Where the
        object has changed, all is read again. Raises as ``get``, and OSError for a file that cannot be written.
        """
        check_readable(key)
        policy = self._patient(timeout)

        async def begin(home: Home) -> Head:
            async def whole(head: Head, checker: Checker) -> Head:
                with Target(Path(path)) as target:
                    await self._save(head, checker, target, progress, home, policy)
                return head

            return await self._whole("download", key, whole)

        return Work(self.name, "download", begin)

    async def _save(
        self, head: Head, checker: Checker, target: Target, progress: Progress | None, home: Home, policy: Policy
    ) -> None:
        size = written = 0
        waiting: list[bytes] = []
        writing: asyncio.Future[None] | None = None  # what came before, while the next comes

        def write(parts: list[bytes]) -> None:
            target.write(parts)
            for part in parts:
                checker.update(part)

        async def take(part: bytes) -> None:
            nonlocal size, written, waiting, writing
            waiting.append(part)
            size += len(part)
            if size - written >= _WRITE or size == head.size:
                parts, waiting, written = waiting, [], size
                if writing is not None:
                    await writing
                writing = asyncio.ensure_future(asyncio.to_thread(write, parts))
            if progress is not None:
                await home.tell(progress, size, head.size)

        try:
            await self.read_into("download", self.wanted(head), take, policy)
            if writing is not None:
                await writing
        finally:
            if writing is not None:
                await asyncio.gather(writing, return_exceptions=True)
        self.placed(checker.finish, "download")
        await asyncio.to_thread(target.finish)

    def stream(self, key: str, *, timeout: float | None = None) -> Content:
        """Read the object in parts: ``async with s3.stream(key) as content: async for part in content: …``, or both
        without ``async`` to block. ``content.head`` tells of the object.

        At most a few parts are in memory. A connection that breaks off is taken up again where it did. The checksum is
        verified at the end: what is wrong is raised after the last part. Raises as ``get``.
        """
        return Content(self, check_readable(key), self._patient(timeout))

    # Writing ----------------------------------------------------------------------------------------------------------

    def upload(
        self,
        key: str,
        source: Source,
        *,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        if_absent: bool = False,
        if_match: str | None = None,
        progress: Progress | None = None,
        part_size: int | None = None,
        width: int = 4,
        resume: bool | str | os.PathLike[str] = False,
        timeout: float | None = None,
        **extra: object,
    ) -> Work[Stored]:
        """Write an object of any size: a path, a file opened for bytes, bytes, or an iterable (or async one) of them.

        What is larger than a part (*part_size* bytes) is sent in parts, *width* of them at a time where the service
        allows that, each with its checksum; at most *width* + 1 are in memory. *progress* is told the bytes that the
        service has, and all of them (None: unknown). *extra* are further parameters by the service's own names.

        With *resume* what was done is remembered in a file (``True``: a hidden one beside a *source* that is a path;
        else the one that it names), so that the same upload goes on after the process died: parts whose checksum
        is as it was are not sent again. Without it an upload that fails is taken back. The *content_type* is guessed
        from a path's name.

        Raises InvalidRequest for what the service's limits do not allow, Conflict where a condition does not hold,
        OSError and what the source raises.
        """
        check_readable(key)
        size = self.part_size if part_size is None else part_size
        check_count("upload", "width", width)
        check_count("upload", "part_size", size, least=self.least_part)
        if if_absent and if_match is not None:
            raise refused("if_match", "is of an object that is there, and if_absent is not")
        memory = memory_path(resume, source)
        policy = self._patient(timeout)

        async def begin(home: Home) -> Stored:
            parts = PartsOf(source, home)
            kind = content_type or _guessed(parts.path)
            conditions = {"if_absent": if_absent, "if_match": if_match}
            task = UploadTask(key, size, width, memory, kind, dict(metadata or {}), conditions, extra, progress, home)
            with _within(policy.deadline):
                try:
                    return await self._upload(parts, task)
                finally:
                    await parts.close()

        return Work(self.name, "upload", begin)

    # Signed addresses -------------------------------------------------------------------------------------------------

    def _signing(self, operation: str, make: Callable[[], SignedUrl]) -> Work[SignedUrl]:
        """*make*, once there is a key to sign with."""

        async def begin(_home: Home) -> SignedUrl:
            if self.fetched is not None and self._signs_with_fetched:
                await self.fetched.ready_async()
            return make()

        return Work(self.name, operation, begin)

    _signs_with_fetched: ClassVar[bool] = True

    # The parts of all that --------------------------------------------------------------------------------------------

    async def _whole(self, operation: str, key: str, use: Callable[[Head, Checker], Awaitable[T]]) -> T:
        """What *use* makes of the object, of one version of it."""
        for number in range(_VERSIONS):
            head = await self.named(operation, self.head(key))
            checker = await self.checker(head)
            try:
                return await use(head, checker)
            except Conflict as error:
                if number + 1 == _VERSIONS:
                    error.message = f"it changed {_VERSIONS} times while it was read"
                    raise
        raise AssertionError

    async def named(self, operation: str, call: Awaitable[T]) -> T:
        """What a Call gives, its failure being one of *operation*."""
        try:
            return await call
        except CallError as error:
            error.operation = operation
            raise

    def placed(self, check: Callable[[], T], operation: str) -> T:
        """What *check* gives, its failure being one of *operation* of this service."""
        try:
            return check()
        except CallError as error:
            error.service, error.operation = self.name, operation
            raise

    def _refused(self, operation: str, field: str, why: str) -> CallError:
        error = refused(field, why)
        error.service, error.operation = self.name, operation
        return error

    async def read_into(
        self, operation: str, wanted: Wanted, sink: Callable[[bytes], Awaitable[None]], policy: Policy
    ) -> Head:
        """Give *sink* what is wanted; see ``object_reading``."""
        return await read(self, operation, wanted, sink, policy)

    def wanted(self, head: Head) -> Wanted:
        """All of the version that *head* tells of."""
        return Wanted(head.key, etag=head.etag, version=head.version, size=head.size)

    def _patient(self, timeout: float | None) -> Policy:
        if timeout is not None:
            check_seconds(self.name, "timeout", timeout)
        return replace(self.policy, deadline=timeout)

    def close(self) -> None:
        """As ``Service.close``; the connections of ``result()`` of what takes several requests as well."""
        if has_shared_loop():
            with contextlib.suppress(RuntimeError):
                on_shared_loop(self.aclose()).result()
        super().close()


_WRITE: Final = 4 << 20


def content_of(body: Any) -> bytes:
    """*body* itself, if that is bytes. Raises InvalidRequest."""
    if isinstance(body, (bytearray, memoryview)):
        return bytes(body)
    if not isinstance(body, bytes):
        raise refused("body", f"must be bytes, not {type(body).__name__}; upload takes paths, files and iterables")
    return body


def attachment(filename: str) -> str:
    """A Content-Disposition (RFC 6266): the name in ASCII for old clients, and as it is."""
    plain("filename", filename)
    simple = "".join(letter if letter.isascii() and letter not in '"\\%' else "_" for letter in filename)
    return f"attachment; filename=\"{simple}\"; filename*=UTF-8''{quote(filename, safe='')}"


def _checked(checker: Checker, content: bytes) -> str | None:
    checker.update(content)
    return checker.finish()


def _guessed(path: Path | None) -> str | None:
    if path is None:
        return None
    import mimetypes

    kind, encoding = mimetypes.guess_type(path.name)
    return kind if encoding is None else None


def _within(seconds: float | None) -> Any:
    from moorline.policies.deadline import deadline

    return contextlib.nullcontext() if seconds is None else deadline(seconds)
