"""What every service of storage does, against every server that stands in for it: a class inherits the whole suite by
giving ``make`` a server.
"""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit
from uuid import uuid4

import httpx2
import pytest
from tests.tcp_proxy import TcpProxy

from moorline import errors
from moorline.calls.guards import Guards
from moorline.clock import SYSTEM
from moorline.policies.breaker import Breaker
from moorline.policies.deadline import deadline
from moorline.policies.policy import Policy
from moorline.policies.retry import Retry
from moorline.services.storage.protocol import SignedUrl

Run = Callable[[Any], Any]
Make = Callable[..., Any]

PART = 5 << 20
BIG = os.urandom(1 << 20) * 12 + b"the end"  # three parts
QUICK = Policy(retry=Retry(base=0.01, cap=0.05))


class Yesterday:
    """A clock that is a day behind."""

    def wall(self) -> float:
        return SYSTEM.wall() - 86_400

    def __getattr__(self, name: str) -> Any:
        return getattr(SYSTEM, name)


class StorageSuite:
    """Inherit it, and give ``make``: a service at the server, with further arguments of its class."""

    verifies_signatures: ClassVar[bool] = True
    algorithm: ClassVar[str] = "crc32"
    big_algorithm: ClassVar[str | None] = "crc32"

    @pytest.fixture
    def make(self) -> Make:
        raise NotImplementedError

    @pytest.fixture
    def storage(self, make: Make) -> Iterator[Any]:
        service = make(policy=QUICK)
        yield service
        service.close()

    @pytest.fixture
    def at(self) -> str:
        """A prefix that nobody else has."""
        return f"t{uuid4().hex[:12]}"

    @contextmanager
    def proxied(self, make: Make, **options: Any) -> Iterator[tuple[TcpProxy, Any]]:
        """A proxy before the server, and a service that goes through it."""
        direct = urlsplit(make().base_url)
        assert direct.port is not None
        with TcpProxy(direct.port) as proxy:
            yield proxy, make(through=proxy.port, **{"policy": QUICK, "guards": Guards(), **options})

    # Single objects ---------------------------------------------------------------------------------------------------

    def test_what_is_put_is_there(self, storage: Any, at: str, run: Run):
        """An object comes back as it was written, with its type and metadata, and its checksum is verified."""
        put = run(storage.put(f"{at}/a", b"hello", content_type="text/plain", metadata={"Owner": "42"}))
        head = run(storage.head(f"{at}/a"))
        found = run(storage.get(f"{at}/a"))
        assert (found.body, found.verified, found.head) == (b"hello", self.algorithm, head)
        assert (head.size, head.content_type, dict(head.metadata)) == (5, "text/plain", {"owner": "42"})
        assert (put.key, put.size, put.match) == (f"{at}/a", 5, head.match)
        assert head.modified is not None
        assert abs(head.modified.timestamp() - time.time()) < 60

    @pytest.mark.parametrize("key", ["a b", "ü/⚓.txt", "a+b&c=d?e#f", "100%25", "it's (a) *key*!", "~x;y:z@,$"])
    def test_any_key(self, storage: Any, at: str, key: str):
        """A key may have any letters: it is written, read, listed, signed and deleted under its own name."""
        name = f"{at}/{key}"
        storage.put(name, b"x").result()
        assert storage.get(name).result().body == b"x"
        assert [one.key for one in storage.list_objects(f"{at}/")] == [name]
        assert httpx2.get(storage.presign_get(name).result().reveal(), trust_env=False).content == b"x"
        storage.copy(name, f"{at}/copy").result()
        assert [one.error for one in storage.delete_many([name]).result().results] == [None]
        assert [one.key for one in storage.list_objects(f"{at}/")] == [f"{at}/copy"]

    def test_an_empty_object(self, storage: Any, at: str, run: Run, tmp_path: Path):
        """Nothing is a content too."""
        run(storage.put(f"{at}/a", b""))
        run(storage.upload(f"{at}/b", b""))
        run(storage.download(f"{at}/b", tmp_path / "b"))
        assert (run(storage.get(f"{at}/a")).body, (tmp_path / "b").read_bytes()) == (b"", b"")

    def test_ranges(self, storage: Any, at: str, run: Run):
        """A range is what was asked for, shorter at the end, and refused beyond it."""
        run(storage.put(f"{at}/a", b"0123456789"))
        assert run(storage.get_range(f"{at}/a", 2, 3)).body == b"234"
        end = run(storage.get_range(f"{at}/a", 8, 100))
        assert (end.body, end.start, end.head.size, end.verified) == (b"89", 8, 10, None)
        with pytest.raises(errors.InvalidRequest) as caught:
            run(storage.get_range(f"{at}/a", 10, 1))
        assert (caught.value.status, caught.value.operation) == (416, "get_range")

    def test_what_is_missing(self, storage: Any, at: str, run: Run, tmp_path: Path):
        """Each way of reading says so in the same words, and no file is left behind."""
        key = f"{at}/nothing"
        works = {
            "head": storage.head(key),
            "get": storage.get(key),
            "get_range": storage.get_range(key, 0, 1),
            "download": storage.download(key, tmp_path / "x"),
            "copy": storage.copy(key, f"{at}/b"),
        }
        for name, work in works.items():
            with pytest.raises(errors.NotFound) as caught:
                run(work)
            assert (caught.value.service, caught.value.operation) == (storage.name, name)
            assert (caught.value.status, caught.value.outcome, len(caught.value.attempts)) == (404, "done", 1)
        with pytest.raises(errors.NotFound), storage.stream(key):
            pass
        assert list(tmp_path.iterdir()) == []

    def test_conditions(self, storage: Any, at: str, run: Run):
        """Create-only and compare-and-set hold, and say Conflict where they do not."""
        first = run(storage.put(f"{at}/a", b"1", if_absent=True))
        with pytest.raises(errors.Conflict) as caught:
            run(storage.put(f"{at}/a", b"2", if_absent=True))
        assert (caught.value.status, caught.value.fault) == (412, "caller")
        second = run(storage.put(f"{at}/a", b"22", if_match=first.match))
        with pytest.raises(errors.Conflict):
            run(storage.put(f"{at}/a", b"333", if_match=first.match))
        with pytest.raises(errors.Conflict):
            run(storage.upload(f"{at}/a", b"4", if_absent=True))
        assert run(storage.get(f"{at}/a")).head.match == second.match

    def test_one_of_many_wins(self, storage: Any, at: str):
        """Of eight who make the same object at once one does, and seven learn that it is there."""

        async def race() -> list[Any]:
            puts = [storage.put(f"{at}/a", str(number).encode(), if_absent=True) for number in range(8)]
            return await asyncio.gather(*(_awaited(one) for one in puts), return_exceptions=True)

        found = asyncio.run(race())
        [won] = [number for number, one in enumerate(found) if not isinstance(one, BaseException)]
        assert all(isinstance(one, errors.Conflict) for number, one in enumerate(found) if number != won)
        assert storage.get(f"{at}/a").result().body == str(won).encode()

    def test_deleting(self, storage: Any, at: str, run: Run):
        """What is deleted is gone; what is not there is no error; each of many has its result."""
        run(storage.put(f"{at}/a", b"1"))
        run(storage.put(f"{at}/b", b"1"))
        assert run(storage.delete(f"{at}/a")).error is None
        assert run(storage.delete(f"{at}/a")).error is None
        many = run(storage.delete_many([f"{at}/b", f"{at}/c", f"{at}/b"]))
        assert [(one.key, one.error) for one in many.results] == [(f"{at}/b", None), (f"{at}/c", None)]
        assert list(storage.list_objects(f"{at}/")) == []

    def test_listing(self, storage: Any, at: str):
        """All pages come, in the order of bytes; a delimiter makes prefixes; it begins after a key."""
        names = [f"{at}/{name}" for name in ("a", "b/1", "b/2", "c d", "e+f", "z", "ä")]
        for name in names:
            storage.put(name, b"x").result()
        assert [one.key for one in storage.list_objects(f"{at}/", page_size=2)] == names
        grouped = [(one.key, one.is_prefix) for one in storage.list_objects(f"{at}/", delimiter="/")]
        assert grouped == [(names[0], False), (f"{at}/b/", True), *((name, False) for name in names[3:])]
        assert [one.key for one in storage.list_objects(f"{at}/", after=names[2])] == names[3:]

        async def listed() -> list[str]:
            return [one.key async for one in storage.list_objects(f"{at}/", page_size=3)]

        assert asyncio.run(listed()) == names
        [one] = storage.list_objects(names[0])
        assert (one.size, one.etag is not None, one.modified is not None) == (1, True, True)

    def test_copies(self, storage: Any, at: str, run: Run):
        """A copy has the content; its metadata is the source's or what was given; the target may be another bucket."""
        run(storage.put(f"{at}/a", b"hello", content_type="text/plain", metadata={"owner": "42"}))
        run(storage.copy(f"{at}/a", f"{at}/b"))
        run(storage.copy(f"{at}/a", f"{at}/c", metadata={"other": "1"}))
        kept, replaced = run(storage.get(f"{at}/b")), run(storage.get(f"{at}/c"))
        assert (kept.body, kept.head.content_type, dict(kept.head.metadata)) == (
            b"hello",
            "text/plain",
            {"owner": "42"},
        )
        assert (replaced.body, replaced.head.content_type) == (b"hello", "text/plain")
        assert dict(replaced.head.metadata) == {"other": "1"}
        run(storage.copy(f"{at}/a", f"{at}/d", to_bucket="moorline-sandbox-2"))
        with pytest.raises(errors.NotFound):
            run(storage.head(f"{at}/d"))

    # Large ones -------------------------------------------------------------------------------------------------------

    def test_an_upload_in_parts(self, storage: Any, at: str, run: Run, tmp_path: Path):
        """A file goes in parts and comes back whole; both tell of their progress, which only grows."""
        (tmp_path / "in.bin").write_bytes(BIG)
        sent: list[tuple[int, int | None]] = []
        came: list[tuple[int, int | None]] = []
        run(
            storage.upload(
                f"{at}/a",
                tmp_path / "in.bin",
                part_size=PART,
                metadata={"a": "1"},
                progress=lambda *of: sent.append(of),
            )
        )
        head = run(storage.download(f"{at}/a", tmp_path / "out", progress=lambda *of: came.append(of)))
        assert (tmp_path / "out").read_bytes() == BIG
        assert (head.size, dict(head.metadata)) == (len(BIG), {"a": "1"})
        for told in (sent, came):
            assert told == sorted(told)
            assert told[-1] == (len(BIG), len(BIG))
        assert len(sent) == 3
        assert sorted(path.name for path in tmp_path.iterdir()) == ["in.bin", "out"]

    def test_all_kinds_of_sources(self, storage: Any, at: str, run: Run):
        """A file, bytes and an iterable are read in the caller's thread, or in one of the loop's."""
        threads = set()

        def pieces() -> Iterator[bytes]:
            for start in range(0, len(BIG), 700_001):
                threads.add(threading.get_ident())
                yield BIG[start : start + 700_001]

        file = io.BytesIO(b"before" + BIG)
        file.seek(6)
        whole = BIG[: 2 * PART]  # the end is seen only behind it
        for name, source, expected in (("file", file, BIG), ("pieces", pieces(), BIG), ("whole", iter([whole]), whole)):
            stored = run(storage.upload(f"{at}/{name}", source, part_size=PART))
            assert stored.size == len(expected)
            with storage.stream(f"{at}/{name}") as content:
                assert b"".join(content) == expected
                assert content.verified in (self.algorithm, self.big_algorithm)
        assert threads

    async def test_an_async_source(self, storage: Any, at: str):
        """What is awaited is read as it comes, and goes out in parts; a stream is read in the same way."""

        async def pieces() -> AsyncIterator[bytes]:
            for start in range(0, len(BIG), 1_000_003):
                yield BIG[start : start + 1_000_003]

        await storage.upload(f"{at}/a", pieces(), part_size=PART)
        async with storage.stream(f"{at}/a") as content:
            assert b"".join([part async for part in content]) == BIG
        await storage.aclose()

    def test_a_stream_that_is_left(self, storage: Any, at: str):
        """Who stops reading frees the connection; the next one reads from the beginning."""
        storage.upload(f"{at}/a", BIG, part_size=PART).result()
        with storage.stream(f"{at}/a") as content:
            assert next(iter(content))
        with storage.stream(f"{at}/a") as content:
            assert b"".join(content) == BIG

    def test_a_source_that_fails(self, storage: Any, at: str, run: Run):
        """What the source raises is raised as it is, nothing is stored, and the service is not blamed."""

        def pieces() -> Iterator[bytes]:
            yield BIG[: PART + 1]
            raise RuntimeError("the disk is gone")

        with pytest.raises(RuntimeError, match="the disk is gone"):
            run(storage.upload(f"{at}/a", pieces(), part_size=PART))
        with pytest.raises(errors.NotFound):
            run(storage.head(f"{at}/a"))

    # What goes wrong --------------------------------------------------------------------------------------------------

    def test_a_download_goes_on(self, make: Make, at: str, run: Run, tmp_path: Path):
        """A connection that is cut in the middle costs one attempt: the rest is asked for, and the whole fits."""
        make().upload(f"{at}/a", BIG, part_size=PART).result()
        came: list[int] = []
        with self.proxied(make) as (proxy, storage):
            proxy.cut_after(4 << 20, of_answers=True)
            run(storage.download(f"{at}/a", tmp_path / "out", progress=lambda done, _: came.append(done)))
            assert (tmp_path / "out").read_bytes() == BIG
            assert came == sorted(came)  # nothing came twice
            proxy.cut_after(4 << 20, of_answers=True)
            with storage.stream(f"{at}/a") as content:
                assert b"".join(content) == BIG
            storage.close()

    def test_an_upload_goes_on(self, make: Make, at: str, run: Run):
        """A connection that is cut in the middle of an upload costs a part that is sent again."""
        with self.proxied(make) as (proxy, storage):
            proxy.cut_after(7 << 20, of_answers=False)
            run(storage.upload(f"{at}/a", BIG, part_size=PART))
            storage.close()
        with make().stream(f"{at}/a") as content:
            assert b"".join(content) == BIG

    def test_a_service_that_says_nothing(self, make: Make, at: str, run: Run):
        """Each wait ends when the attempt must, and the deadline of the caller ends all of it."""
        patience = Policy(deadline=5.0, attempt_timeout=0.2, retry=None)
        with self.proxied(make, policy=patience) as (proxy, storage):
            run(storage.put(f"{at}/a", b"x").using(attempt_timeout=10.0))  # whatever it takes to be there
            proxy.stall()
            with pytest.raises(errors.AttemptTimeout):
                run(storage.get_range(f"{at}/a", 0, 1))
            proxy.flow()
            storage.close()

    def test_the_callers_deadline_holds(self, make: Make, at: str):
        """What surrounds a reading ends it, whatever the attempt could still take."""
        with self.proxied(make) as (proxy, storage):
            storage.put(f"{at}/a", b"x").result()
            proxy.stall()
            with deadline(0.3), pytest.raises(errors.DeadlineExceeded):
                storage.get_range(f"{at}/a", 0, 1).result()
            proxy.flow()
            storage.close()

    def test_one_breaker_for_both_ways(self, make: Make, at: str, run: Run):
        """What fails through obstore opens the breaker of the service's own requests too."""
        policy = Policy(retry=None, breaker=Breaker(failures=2))
        with self.proxied(make, policy=policy) as (proxy, storage):
            run(storage.put(f"{at}/a", b"x"))
            proxy.cut(refuse=True)
            for _ in range(2):
                with pytest.raises(errors.NetworkFault):
                    run(storage.get_range(f"{at}/a", 0, 1))
            with pytest.raises(errors.CircuitOpen):
                run(storage.head(f"{at}/a"))
            with pytest.raises(errors.CircuitOpen):
                run(storage.get_range(f"{at}/a", 0, 1))
            storage.close()

    def test_an_upload_outlives_its_process(self, make: Make, at: str, tmp_path: Path):
        """After ``kill -9`` another process goes on where the first one was, and sends no part twice."""
        path, told = tmp_path / "in.bin", []
        path.write_bytes(BIG)
        script = (
            "import os, signal, sys\n"
            f"from moorline.services.storage.{make().name} import {type(make()).__name__} as Service\n"
            f"service = Service(*{self.arguments(make())!r}[0], **{self.arguments(make())!r}[1])\n"
            f"service.upload({at + '/a'!r}, {str(path)!r}, part_size={PART}, width=1, resume=True,\n"
            "    progress=lambda done, total: os.kill(os.getpid(), signal.SIGKILL)).result()\n"
        )
        done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=60)
        assert done.returncode == -signal.SIGKILL, done.stderr
        state = tmp_path / ".in.bin.moorline-upload"
        assert state.stat().st_mode & 0o077 == 0
        second, sent = make(), list[int]()
        setattr(second, self.sender, _watched(getattr(second, self.sender), sent))
        progress = lambda done, _: told.append(done)  # noqa: E731
        second.upload(f"{at}/a", path, part_size=PART, width=1, resume=True, progress=progress).result()
        assert sum(sent) == len(BIG) - (PART if self.tells_state else 0)
        assert not state.exists()
        with make().stream(f"{at}/a") as content:
            assert b"".join(content) == BIG
        assert told == [PART, 2 * PART, len(BIG)]

    sender: ClassVar[str] = "_send_part"
    tells_state: ClassVar[bool] = True  # whether it says how much of an upload is there

    def arguments(self, service: Any) -> tuple[list[Any], dict[str, Any]]:
        """What makes the same service in another process."""
        raise NotImplementedError

    # Signed addresses -------------------------------------------------------------------------------------------------

    def test_signed_addresses_are_used_by_anybody(self, storage: Any, at: str, run: Run):
        """Who has the address reads or writes, with the headers that it names; it shows itself to nobody."""
        run(storage.check())
        run(storage.put(f"{at}/a", b"hello"))
        get = run(storage.presign_get(f"{at}/a", 60, filename="Übung 1.txt", content_type="text/x"))
        answer = httpx2.get(get.reveal(), trust_env=False)
        assert answer.content == b"hello"
        if self.verifies_signatures:
            assert answer.headers["content-type"] == "text/x"
            assert "UTF-8''%C3%9Cbung%201.txt" in answer.headers["content-disposition"]
        put = run(storage.presign_put(f"{at}/b", 60, content_type="text/x", if_absent=self.verifies_signatures))
        assert put.method == "PUT"
        if self.verifies_signatures:
            assert httpx2.put(put.reveal(), content=b"new", headers=put.headers, trust_env=False).status_code == 200
            assert run(storage.get(f"{at}/b")).head.content_type == "text/x"
            again = httpx2.put(put.reveal(), content=b"newer", headers=put.headers, trust_env=False)
            assert again.status_code == 412
        signature = get.reveal().rpartition("Signature=")[2]
        assert signature not in f"{get} {get!r} {vars(SignedUrl)}"
        with pytest.raises(errors.Misuse):
            __import__("pickle").dumps(get)

    def test_signed_addresses_are_refused(self, make: Make, storage: Any, at: str):
        """One that was changed, is used otherwise, or is over, opens nothing."""
        if not self.verifies_signatures:
            return  # proved by the stand-in and by the official signer
        storage.check().result()
        storage.put(f"{at}/a", b"hello").result()
        url = storage.presign_get(f"{at}/a", 60).result().reveal()
        put = storage.presign_put(f"{at}/a", 60, content_type="text/x").result()
        assert httpx2.get(url.replace("/a?", "/b?"), trust_env=False).status_code == 403
        assert httpx2.get(url.replace("Expires=60", "Expires=600"), trust_env=False).status_code == 403
        assert httpx2.delete(url, trust_env=False).status_code in (400, 403)
        assert (
            httpx2.put(put.reveal(), content=b"x", headers={"content-type": "x/y"}, trust_env=False).status_code == 403
        )
        old = make(clock=Yesterday()).presign_get(f"{at}/a", 3600).result()
        assert httpx2.get(old.reveal(), trust_env=False).status_code in (400, 403)
        assert storage.get(f"{at}/a").result().body == b"hello"

    def test_a_wrong_secret(self, make: Make, at: str, run: Run):
        """Both ways say AuthenticationFailed, and neither the secret nor a signature is in what they say."""
        if not self.verifies_signatures:
            return  # an emulator asks for none
        make().put(f"{at}/a", b"x").result()
        wrong = self.wrong(make)
        for work in (wrong.check(), wrong.get_range(f"{at}/a", 0, 1), wrong.put(f"{at}/a", b"x")):
            with pytest.raises(errors.AuthenticationFailed) as caught:
                run(work)
            said = f"{caught.value} {caught.value!r} {caught.value.detail}"
            assert "WRONG" not in said
            assert "Signature=" not in said
            assert caught.value.service == wrong.name

    def wrong(self, make: Make) -> Any:
        """A service with a credential that is none."""
        raise NotImplementedError

    # Before anything is sent ------------------------------------------------------------------------------------------

    def test_limits_are_checked_before(self, storage: Any):
        """What no service takes is refused here, and names its field."""
        for key in ("", "a" * 1025, "ü" * 513, "a\nb", "\ud800"):
            for make in (storage.head, storage.get, storage.delete, lambda one: storage.put(one, b"")):
                with pytest.raises(errors.InvalidRequest) as caught:
                    make(key)
                assert (caught.value.code, caught.value.outcome) == ("key", "not_sent")
        for key in ("a//b", "/a", "a/", "a/../b", ".", "a/./b"):  # obstore would read another object
            for make in (storage.get, lambda one: storage.put(one, b""), lambda one: storage.upload(one, b"")):
                with pytest.raises(errors.InvalidRequest):
                    make(key)
        for metadata in ({"a": "x" * 10_000}, {"a b": "x"}, {"a": "x\r\ny: z"}, {"a": " x"}):
            with pytest.raises(errors.InvalidRequest) as caught:
                storage.put("a", b"", metadata=metadata)
            assert str(caught.value.code).startswith("metadata")
        for expires in (0, 604_801, True, 1.5):
            with pytest.raises(errors.InvalidRequest):
                storage.presign_get("a", expires)
        for arguments in ((-1, 1), (0, 0), (0, storage.max_body + 1)):
            with pytest.raises(errors.InvalidRequest):
                storage.get_range("a", *arguments)
        with pytest.raises(errors.InvalidRequest):
            storage.put("a", "text")
        with pytest.raises(errors.InvalidRequest):
            storage.put("a", b"", if_absent=True, if_match="1")
        with pytest.raises(errors.ConfigurationError):
            storage.upload("a", b"", part_size=1)
        with pytest.raises(errors.ConfigurationError):
            storage.upload("a", iter(()), resume=True)
        with pytest.raises(errors.InvalidRequest):
            storage.delete_many("a")

    def test_a_content_beyond_memory(self, make: Make, at: str, run: Run):
        """``get`` holds no more than *max_body*, and names what does."""
        storage = make(max_body=1000)
        run(storage.put(f"{at}/a", b"x" * 1001))
        with pytest.raises(errors.InvalidRequest, match="download or stream"):
            run(storage.get(f"{at}/a"))

    async def test_blocking_a_loop_is_misuse(self, storage: Any):
        """``result()`` inside of a running loop would stop it."""
        with pytest.raises(errors.Misuse):
            storage.get("a").result()
        with pytest.raises(errors.Misuse), storage.stream("a"):
            pass


def _watched(send: Callable[..., Any], sent: list[int]) -> Callable[..., Any]:
    """*send*, with the sizes of what it sent."""

    def watched(*args: Any) -> Any:
        sent.extend(len(one) for one in args if isinstance(one, bytes))
        return send(*args)

    return watched


async def _awaited(call: Any) -> Any:
    return await call
