from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.services.conftest import Box
from tests.services.storage_suite import StorageSuite

from moorline.services.storage.r2 import R2

CALLS: list[Callable[[R2], Any]] = [
    lambda s: s.put("a", b"x", metadata={"a": "ü"}),
    lambda s: s.head("a"),
    lambda s: s.list_objects("a").page(),
    lambda s: s.delete("a"),
    lambda s: s.check(),
    lambda s: s._delete_batch(["a"]),
    lambda s: s._begin_parts("a", {}, {"IfNoneMatch": "*"}),
    lambda s: s._send_part("a", "u", 1, b"x", {}),
    lambda s: s._list_parts("a", "u").page(),
    lambda s: s._end_parts("a", "u", [{"PartNumber": 1, "ETag": "e"}], 1, {}),
    lambda s: s._abort_parts("a", "u"),
    lambda s: s._copy_part("a", "u", 1, {"CopySource": "b/a"}),
    lambda s: s._first_part("a", '"e"'),
    lambda s: s._copied("a", 1, {"CopySource": "b/a"}, True),
]


class TestStandIn(StorageSuite):
    """The sandbox's R2, with its own rules."""

    algorithm = "md5"
    big_algorithm = None

    @pytest.fixture
    def make(self, box: Box) -> Callable[..., R2]:
        def made(through: int | None = None, **options: Any) -> R2:
            if through is not None:
                options["base_url"] = f"http://127.0.0.1:{through}/r2"
            return box.service(R2, options.pop("secret", None), **options)

        return made

    def arguments(self, service: Any) -> tuple[list[Any], dict[str, Any]]:
        given = {
            "access_key_id": R2.access_key_id.sandbox,
            "account_id": "0" * 32,
            "bucket": "moorline-sandbox",
            "base_url": service.base_url,
        }
        return [R2.credentials.sandbox], given

    def wrong(self, make: Any) -> R2:
        return make(secret="WRONG/SECRET+KEY")  # type: ignore[no-any-return]
