from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from tests.services.conftest import Box
from tests.services.recorder import Recorder
from tests.services.storage_suite import BIG, PART, QUICK, StorageSuite, Yesterday

from moorline import errors
from moorline.services.storage.r2 import R2

Run = Callable[[Any], Any]
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


@pytest.fixture
def r2(box: Box) -> R2:
    return box.service(R2, policy=QUICK)


def test_where_it_is():
    """The account is in the host, a jurisdiction behind it; the region is auto, whatever AWS's variables say."""
    account = "0123456789abcdef" * 2
    plain = R2("s", access_key_id="a", account_id=account, bucket="bucket")
    european = R2("s", access_key_id="a", account_id=account, bucket="bucket", jurisdiction="eu")
    assert plain.base_url == f"https://{account}.r2.cloudflarestorage.com"
    assert european.base_url == f"https://{account}.eu.r2.cloudflarestorage.com"
    url = plain.presign_get("a b", 60).result().reveal()
    assert "%2Fauto%2Fs3%2Faws4_request" in url
    assert url.startswith(f"{plain.base_url}/bucket/a%20b?")
    with pytest.raises(errors.ConfigurationError):
        R2("s", access_key_id="a", account_id=account, bucket="bucket", region="us-east-1")
    with pytest.raises(errors.ConfigurationError):
        R2("s", access_key_id="a", account_id="no account", bucket="bucket")


def test_keys_are_never_awss(monkeypatch: pytest.MonkeyPatch):
    """AWS's keys in the environment are not sent to Cloudflare."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "aws")
    r2 = R2(account_id="0" * 32, bucket="bucket")
    with pytest.raises(errors.ConfigurationError, match="R2_ACCESS_KEY_ID"):
        r2.check().result()


def test_metadata_is_any_text(r2: R2, run: Run):
    """What is no ASCII goes out by RFC 2047 and comes back as it was, through both ways."""
    run(r2.put("a", b"x", metadata={"owner": "Müller ⚓", "plain": "x"}))
    assert dict(run(r2.head("a")).metadata) == {"owner": "Müller ⚓", "plain": "x"}
    run(r2.copy("a", "b", content_type="x/y"))
    assert dict(run(r2.get("b")).head.metadata) == {"owner": "Müller ⚓", "plain": "x"}


def test_parts_of_one_size(r2: R2, run: Run):
    """R2 wants all parts but the last to have one size: ours have, from whatever pieces they come; others are refused."""
    pieces = [BIG[:5_000_001], BIG[5_000_001:6_000_000], BIG[6_000_000:]]
    stored = run(r2.upload("a", pieces, part_size=PART))
    with r2.stream("a") as content:
        assert b"".join(content) == BIG
        assert content.verified is None or content.verified == "md5 of parts"
    assert stored.size == len(BIG)
    upload = run(r2._begin_parts("b", {}, {}))
    sizes = (PART, PART + 1, 1)
    etags = [run(r2._send_part("b", upload, number, b"x" * size, {})) for number, size in enumerate(sizes, 1)]
    rows = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, 1)]
    with pytest.raises(errors.InvalidRequest) as caught:
        run(r2._end_parts("b", upload, rows, sum(sizes), {}))
    assert caught.value.code == "InvalidPart"
    run(r2._abort_parts("b", upload))


def test_our_own_parts_are_verified(r2: R2, run: Run):
    """An object in parts of the usual size is held against its ETag, of which R2 promises nothing."""
    run(r2.upload("a", b"x" * (r2.part_size + 1)))
    assert run(r2.get("a")).verified == "md5 of parts"


def test_a_condition_is_judged_at_the_beginning(r2: R2, box: Box, run: Run):
    """An upload in parts of what is there already ends before its content is sent."""
    run(r2.put("a", b"x"))
    with pytest.raises(errors.Conflict):
        run(r2.upload("a", BIG, part_size=PART, if_absent=True))
    assert not [one for one in box.seen() if one["method"] == "PUT" and one["path"].endswith("/a")][1:]
    with pytest.raises(errors.Conflict):
        run(r2.copy("a", "a", if_absent=True))


def test_a_limit_of_one_key_of_many(run: Run):
    """What R2 says of a key is read as what it says of a request: it is worth another try."""
    told = b"<DeleteResult><Error><Key>a</Key><Code>TooManyRequests</Code></Error></DeleteResult>"
    [failed] = run(Recorder(200, told).service(R2).delete_many(["a", "b"])).failed
    assert isinstance(failed.error, errors.RateLimited)
    assert (failed.key, failed.error.retryable) == ("a", True)


def test_limits_and_times(r2: R2, run: Run):
    """A limit is a 429; an address whose time is over is answered as R2 does."""
    run(r2.put("limited/a", b"x"))
    with pytest.raises(errors.RateLimited) as caught:
        run(r2.put("limited/a", b"y").using(retry=None))
    assert (caught.value.status, caught.value.code) == (429, "TooManyRequests")
    run(r2.put("a", b"x"))
    old = R2(
        R2.credentials.sandbox,
        access_key_id=R2.access_key_id.sandbox,
        account_id="0" * 32,
        bucket="moorline-sandbox",
        base_url=r2.base_url,
        clock=Yesterday(),
    )
    answer = httpx2.get(run(old.presign_get("a", 60)).reveal(), trust_env=False)
    assert answer.status_code == 400
    assert b"<Code>ExpiredRequest</Code>" in answer.content
