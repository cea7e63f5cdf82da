from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.object_servers import ACCESS, SECRET, SeaweedServer
from tests.services.conftest import Box
from tests.services.storage_suite import StorageSuite

from moorline.calls.guards import Guards
from moorline.services.storage.s3 import S3

CALLS: list[Callable[[S3], Any]] = [
    lambda s: s.put("a", b"x", metadata={"a": "b"}),
    lambda s: s.head("a"),
    lambda s: s.list_objects("a").page(),
    lambda s: s.delete("a"),
    lambda s: s.check(),
    lambda s: s._delete_batch(["a"]),
    lambda s: s._begin_parts("a", {}, {}),
    lambda s: s._send_part("a", "u", 1, b"x", {}),
    lambda s: s._list_parts("a", "u").page(),
    lambda s: s._end_parts("a", "u", [{"PartNumber": 1, "ETag": "e"}], 1, {}),
    lambda s: s._abort_parts("a", "u"),
    lambda s: s._copy_part("a", "u", 1, {"CopySource": "b/a"}),
    lambda s: s._first_part("a", '"e"'),
    lambda s: s._copied("a", 1, {"CopySource": "b/a"}, False),
]


class TestSeaweed(StorageSuite):
    """SeaweedFS, which is a real store and checks signatures."""

    @pytest.fixture
    def make(self, seaweed: SeaweedServer) -> Callable[..., S3]:
        self.port = seaweed.port

        def made(through: int | None = None, secret: str = SECRET, **options: Any) -> S3:
            base = f"http://127.0.0.1:{through or seaweed.port}"
            options.setdefault("guards", Guards())
            return S3(secret, access_key_id=ACCESS, bucket="moorline-sandbox", base_url=base, **options)

        return made

    def arguments(self, service: Any) -> tuple[list[Any], dict[str, Any]]:
        given = {"access_key_id": ACCESS, "bucket": "moorline-sandbox", "base_url": service.base_url}
        return [SECRET], given

    def wrong(self, make: Any) -> S3:
        return make(secret="WRONG/SECRET+KEY")  # type: ignore[no-any-return]


class TestStandIn(StorageSuite):
    """The sandbox's S3."""

    @pytest.fixture
    def make(self, box: Box) -> Callable[..., S3]:
        def made(through: int | None = None, **options: Any) -> S3:
            if through is not None:
                options["base_url"] = f"http://127.0.0.1:{through}/s3"
            return box.service(S3, options.pop("secret", None), **options)

        return made

    def arguments(self, service: Any) -> tuple[list[Any], dict[str, Any]]:
        given = {
            "access_key_id": S3.access_key_id.sandbox,
            "bucket": "moorline-sandbox",
            "base_url": service.base_url,
        }
        return [S3.credentials.sandbox], given

    def wrong(self, make: Any) -> S3:
        return make(secret="WRONG/SECRET+KEY")  # type: ignore[no-any-return]
