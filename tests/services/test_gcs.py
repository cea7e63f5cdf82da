from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tests.object_servers import FakeGcsServer
from tests.services.conftest import Box, sandbox_key
from tests.services.storage_suite import BIG, PART, QUICK, Make, Run, StorageSuite
from tests.tcp_proxy import TcpProxy

from moorline import errors
from moorline.calls.guards import Guards
from moorline.services.storage.gcs import GCS

KEY = sandbox_key(GCS, "https://sandbox.example")
SESSION = "/upload/storage/v1/b/moorline-sandbox/o?uploadType=resumable&upload_id=u"
CALLS: list[Callable[[GCS], Any]] = [
    lambda s: s.put("a", b"x", metadata={"a": "b"}),
    lambda s: s.head("a"),
    lambda s: s.list_objects("a").page(),
    lambda s: s.delete("a"),
    lambda s: s.check(),
    lambda s: s._rewrite("a", "b", "moorline-sandbox", "1", None, {}, False),
    lambda s: s._begin_session("a", {"name": "a"}, {}, 5),
    lambda s: s._send_chunk(SESSION, b"x", "bytes 0-0/1"),
    lambda s: s._end_session(SESSION),
]


class TestFakeServer(StorageSuite):
    """fake-gcs-server, which checks no credentials and no signatures."""

    algorithm = big_algorithm = "md5"
    verifies_signatures = tells_state = False
    sender = "_send_chunk"

    def test_an_upload_goes_on(self, make: Make, at: str, run: Run):
        """It takes the question how much is there for the end, and stores the beginning alone: that this is not what was
        sent is found by the MD5, and the wrong object is taken away again.
        """
        with self.proxied(make) as (proxy, storage):
            proxy.cut_after(7 << 20, of_answers=False)
            with pytest.raises(errors.BadAnswer) as caught:
                run(storage.upload(f"{at}/a", BIG, part_size=PART))
            assert (caught.value.code, caught.value.operation) == ("checksum_mismatch", "upload")
            with pytest.raises(errors.NotFound):
                run(storage.head(f"{at}/a"))

    @pytest.fixture
    def make(self, fake_gcs: FakeGcsServer, monkeypatch: pytest.MonkeyPatch) -> Callable[..., GCS]:
        self.proxy = fake_gcs.proxy
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"127.0.0.1:{fake_gcs.proxy.port}")

        def made(**options: Any) -> GCS:
            options.setdefault("guards", Guards())
            return GCS(KEY, bucket="moorline-sandbox", **options)

        return made

    @contextmanager
    def proxied(self, make: Make, **options: Any) -> Iterator[tuple[TcpProxy, Any]]:
        """The proxy that is always there."""
        yield self.proxy, make(**{"policy": QUICK, **options})
        self.proxy.flow()

    def arguments(self, service: Any) -> tuple[list[Any], dict[str, Any]]:
        return [], {"bucket": "moorline-sandbox"}


class TestStandIn(StorageSuite):
    """The sandbox's Google."""

    algorithm = big_algorithm = "md5"
    sender = "_send_chunk"

    @pytest.fixture
    def make(self, box: Box) -> Callable[..., GCS]:
        def made(through: int | None = None, **options: Any) -> GCS:
            if through is not None:
                options["base_url"] = f"http://127.0.0.1:{through}/gcs"
            return box.service(GCS, options.pop("secret", None), **options)

        return made

    def arguments(self, service: Any) -> tuple[list[Any], dict[str, Any]]:
        return [service.secret().reveal()], {"bucket": "moorline-sandbox", "base_url": service.base_url}

    def wrong(self, make: Any) -> GCS:
        account = json.loads(make().secret().reveal())
        account["client_email"] = "WRONG"
        account["private_key_id"] = account["private_key_id"][:-10] + "AAAAAAAAAA"
        return make(secret=json.dumps(account))  # type: ignore[no-any-return]
