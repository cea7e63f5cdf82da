from __future__ import annotations

import asyncio
import base64
import io
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.object_servers import ACCESS, SECRET, SeaweedServer
from tests.services.conftest import Box
from tests.services.object_answers import Answers, answer
from tests.services.recorder import Recorder
from tests.services.storage_suite import BIG, PART, QUICK, StorageSuite

from moorline import errors
from moorline.calls.addresses import PublicAddresses
from moorline.calls.guards import Guards
from moorline.clock import ManualClock
from moorline.policies.policy import Policy
from moorline.policies.retry import Retry
from moorline.services.storage.s3 import S3

Run = Callable[[Any], Any]
DATE = "Sat, 28 Nov 2026 13:00:00 GMT"
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


# How requests look ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bucket", "address"),
    [("shop", "https://shop.s3.eu-west-1.amazonaws.com/"), ("my.shop", "https://s3.eu-west-1.amazonaws.com/my.shop/")],
)
def test_the_bucket_is_in_the_host(bucket: str, address: str):
    """By the rules that come with botocore: in the path only where TLS could not name it."""
    recorder = Recorder(204, b"")
    s3 = recorder.service(S3, bucket=bucket, region="eu-west-1", access_key_id="AKID")
    s3.delete("a b/ü").result()
    [request] = recorder.requests
    assert str(request.url) == f"{address}a%20b/%C3%BC"
    s3.list_objects("x").page()
    s3.copy("a", "b", to_bucket="other")  # not sent yet: nothing is refused


class Hosted(S3):
    """With a bucket that the address names already."""

    @property
    def _bucket_in_host(self) -> bool:
        return True


def test_an_address_is_signed_as_aws_has_it():
    """AWS's own example (SigV4 query-string authentication) gives AWS's own signature."""
    s3 = Hosted(
        "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        access_key_id="AKIAIOSFODNN7EXAMPLE",
        bucket="examplebucket",
        region="us-east-1",
        base_url="https://examplebucket.s3.amazonaws.com",
        clock=ManualClock(1_369_353_600.0),
    )
    signed = s3.presign_get("test.txt", 86_400).result()
    expected = "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
    assert signed.reveal().rpartition("X-Amz-Signature=")[2] == expected
    assert signed.expires_at == 1_369_353_600 + 86_400


def test_vendors_extras_pass():
    """Parameters by S3's own names go out as the headers that the model says; what it does not know is refused."""
    recorder = Recorder(200, b"", {"ETag": '"e"'})
    s3 = recorder.service(S3)
    s3.put("a", b"x", StorageClass="STANDARD_IA", ServerSideEncryption="AES256").result()
    [request] = recorder.requests
    assert request.headers["x-amz-storage-class"] == "STANDARD_IA"
    assert request.headers["x-amz-checksum-crc32"] == base64.b64encode(zlib.crc32(b"x").to_bytes(4, "big")).decode()
    with pytest.raises(errors.InvalidRequest, match="NoSuchThing"):
        s3.put("a", b"x", NoSuchThing="1")


def test_a_write_can_be_enqueued():
    """A put of bytes survives a queue: its arguments make the same Call again."""
    s3 = Recorder().service(S3)
    call = s3.put("a", b"\xff\x00", content_type="x/y", if_absent=True)
    again = type(call).from_payload(call.to_payload(), lambda _: s3)
    assert again.plan.content == b"\xff\x00"
    assert again.plan.headers == call.plan.headers


MALFORMED = b"<Error><Code>AuthorizationHeaderMalformed</Code><Message>x</Message>%s</Error>"
CENTRAL = {"x-amz-bucket-region": "eu-central-1"}


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (301, b"<Error><Code>PermanentRedirect</Code><Message>x</Message></Error>", CENTRAL),
        (400, MALFORMED % b"", CENTRAL),
        (400, MALFORMED % b"<Region>eu-central-1</Region>", {}),
    ],
)
def test_a_bucket_that_is_elsewhere(status: int, body: bytes, headers: dict[str, str]):
    """Asked for in another region, S3 says where it is, and so does the error."""
    with pytest.raises(errors.InvalidRequest, match="the bucket is in eu-central-1"):
        Recorder(status, body, headers).service(S3).check().result()


def test_a_bucket_elsewhere_by_its_head():
    """An answer to HEAD has no body: a 400 that names a region means the same."""
    with pytest.raises(errors.InvalidRequest, match="the bucket is in eu-central-1"):
        Recorder(400, b"", CENTRAL).service(S3).head("a").result()


def test_a_region_that_is_right():
    """A signature that is wrong in another way is not blamed on the region."""
    with pytest.raises(errors.AuthenticationFailed):
        Recorder(400, MALFORMED % b"", CENTRAL).service(S3, region="eu-central-1").check().result()
    with pytest.raises(errors.AuthenticationFailed):
        Recorder(400, MALFORMED % b"", {}).service(S3).check().result()


def test_what_obstore_would_pass_by():
    """A transport of the caller's own, and addresses that alone may be asked, would not hold for contents: both are
    refused, where they are given or when a content is asked for.
    """
    with pytest.raises(errors.ConfigurationError, match=r"s3\.wire"):
        Recorder().service(S3).get_range("a", 0, 1).result()
    with pytest.raises(errors.ConfigurationError, match=r"s3\.addresses"):
        S3("s", access_key_id="a", bucket="bucket", addresses=PublicAddresses())


# What answers mean ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["InternalError", "SlowDown"])
def test_a_200_that_failed_is_sent_again(code: str):
    """The end of an upload may be an error in a 200; it is the error, and another try is made where that may help."""
    failed = f"<?xml version='1.0'?>\n<Error><Code>{code}</Code><Message>x</Message></Error>".encode()
    recorder = Recorder(200, b"   " + failed)
    s3 = recorder.service(S3, policy=Policy(retry=QUICK.retry, breaker=None))
    with pytest.raises(errors.CallError) as caught:
        s3._end_parts("a", "u", [{"PartNumber": 1, "ETag": "e"}], 1, {}).result()
    assert isinstance(caught.value, errors.RateLimited if code == "SlowDown" else errors.ServiceUnavailable)
    assert (caught.value.code, len(caught.value.attempts)) == (code, 6)


def test_an_end_that_was_not_heard(box: Box, run: Run):
    """Where the answer to the end of an upload is lost, the object that is there is found to be ours."""
    s3 = box.service(S3, policy=QUICK)
    box.arm(kind="dropped", processed=True, service="s3", method="POST", after=1)
    stored = run(s3.upload("a", BIG, part_size=PART, if_absent=True))
    assert stored.match == run(s3.head("a")).match
    assert [one["fault"] for one in box.seen() if one["method"] == "POST"] == [None, "dropped", None]


def test_a_condition_that_was_not_answered(box: Box, run: Run):
    """A put with a condition is not sent twice: the second would find what the first did."""
    s3 = box.service(S3, policy=QUICK)
    box.arm(kind="dropped", processed=True, service="s3", method="PUT")
    with pytest.raises(errors.OutcomeUnknown):
        run(s3.put("a", b"x", if_absent=True))
    assert run(s3.get("a")).body == b"x"


def overtake(box: Box, method: str, *, after: int = 0) -> None:
    """Have one request answered as if another write had come between."""
    box.arm(kind="status", status=409, service="s3", method=method, after=after)


def test_a_condition_that_was_overtaken(box: Box, run: Run):
    """A write with a condition that another one came before was not done, and is sent again: now or later."""
    s3 = box.service(S3, policy=QUICK)
    match = run(s3.put("c", b"x")).match
    writes: list[tuple[str, Callable[[], Any]]] = [
        ("PUT", lambda: s3.put("a", b"x", if_absent=True)),
        ("PUT", lambda: s3._copied("b", 1, {"CopySource": "moorline-sandbox/a"}, True)),
        ("DELETE", lambda: s3.delete("c", if_match=match)),
    ]
    for method, write in writes:
        overtake(box, method)
        with pytest.raises(errors.Conflict) as caught:
            run(write().using(retry=None))
        assert (caught.value.code, caught.value.retryable) == ("ConditionalRequestConflict", True)
        overtake(box, method)
        run(write())
    assert list(box.state("s3")["buckets"]["moorline-sandbox"]) == ["a", "b"]


def test_an_upload_that_was_overtaken(box: Box, run: Run, tmp_path: Path):
    """Where another write came before the end of an upload, nothing of it is of use: all of it is sent again."""
    s3, body = box.service(S3, policy=QUICK), BIG[: PART + 1]
    (tmp_path / "in.bin").write_bytes(body)
    file = io.BytesIO(b"before" + body)
    file.seek(6)
    for key, source, resume in (("a", tmp_path / "in.bin", True), ("b", file, False), ("c", body, False)):
        overtake(box, "POST", after=1)
        run(s3.upload(key, source, part_size=PART, if_absent=True, resume=resume))
        assert run(s3.get(key)).body == body
    assert box.state("s3")["uploads"] == {}
    assert [path.name for path in tmp_path.iterdir()] == ["in.bin"]


def test_an_upload_that_is_overtaken_again_and_again(box: Box, run: Run):
    """A source that can be read once ends it, as does the number of retries; nothing stays, and it may be tried later."""
    s3, body = box.service(S3, policy=Policy(retry=Retry(retries=1, base=0.01))), BIG[: PART + 1]
    for source, begun in ((iter([body]), 1), (body, 2)):
        for number in range(begun):
            overtake(box, "POST", after=1 + number)
        before = len(box.seen())
        with pytest.raises(errors.Conflict) as caught:
            run(s3.upload("a", source, part_size=PART, if_absent=True))
        assert (caught.value.retryable, caught.value.operation) == (True, "upload")
        sent = [one for one in box.seen()[before:] if one["method"] == "POST"]
        assert len(sent) == 2 * begun
    assert box.state("s3")["uploads"] == {}


def test_an_end_that_was_overtaken_is_asked_once():
    """The same end would find no upload any more, also where the failure is in a 200."""
    for status in (409, 200):
        told = b"<Error><Code>ConditionalRequestConflict</Code><Message>x</Message></Error>"
        recorder = Recorder(status, b"<?xml version='1.0'?>\n" + told)
        with pytest.raises(errors.Conflict) as caught:
            recorder.service(S3, policy=QUICK)._end_parts("a", "u", [{"PartNumber": 1, "ETag": "e"}], 1, {}).result()
        assert (caught.value.code, len(recorder.requests)) == ("ConditionalRequestConflict", 1)


async def test_an_upload_that_is_cancelled(box: Box):
    """What was sent of an upload that nobody waits for any longer is taken back: it would cost money for ever."""
    s3, told = box.service(S3, policy=QUICK), asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        yield BIG[: PART + 1]
        told.set()
        await asyncio.Event().wait()

    async def upload() -> None:
        await s3.upload("a", pieces(), part_size=PART)

    task = asyncio.create_task(upload())
    await told.wait()
    assert len(box.state("s3")["uploads"]) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert box.state("s3")["uploads"] == {}
    await s3.aclose()


@pytest.mark.parametrize(("status", "kind"), [(503, errors.RateLimited), (500, errors.ServiceUnavailable)])
def test_failures_of_reading_are_typed(box: Box, run: Run, status: int, kind: type[errors.CallError]):
    """What obstore was answered means what it means for our own requests, and is tried again in the same way."""
    s3 = box.service(S3, policy=QUICK)
    run(s3.put("a", b"hello"))
    for _ in range(2):
        box.arm(kind="status", status=status, service="s3", method="GET")
    assert run(s3.get_range("a", 0, 5)).body == b"hello"
    once = box.service(S3, policy=Policy(retry=None))
    box.arm(kind="status", status=status, service="s3", method="GET")
    with pytest.raises(kind) as caught:
        run(once.get_range("a", 0, 5))
    assert (caught.value.status, caught.value.operation, caught.value.retryable) == (status, "get_range", True)


def test_each_of_many_has_its_result(box: Box, run: Run):
    """What one key of many is refused for is that key's alone."""
    s3 = box.service(S3, policy=QUICK)
    run(s3.put("limited/a", b"x"))
    report = run(s3.delete_many(["b", "limited/a"]))
    [failed] = report.failed
    assert (failed.key, report.results[0].error) == ("limited/a", None)
    assert isinstance(failed.error, errors.RateLimited)
    assert (failed.error.code, failed.error.retryable, failed.error.operation) == ("SlowDown", True, "delete_many")


def test_large_copies_go_in_parts(box: Box, run: Run):
    """Beyond what one request may copy it is copied in parts, with its type and metadata; again where it is overtaken."""
    s3 = box.service(S3, policy=QUICK)
    run(s3.upload("a", BIG, part_size=PART, content_type="x/y", metadata={"a": "1"}))
    s3.copied_at_once, s3.copied_part = PART, PART
    overtake(box, "POST", after=1)
    run(s3.copy("a", "b", to_bucket="moorline-sandbox-2", if_absent=True))
    there = box.service(S3, bucket="moorline-sandbox-2")
    head = run(there.head("b"))
    assert (head.size, head.parts, head.content_type, dict(head.metadata)) == (len(BIG), 3, "x/y", {"a": "1"})
    with there.stream("b") as content:  # which has no checksum of its own: the ETag is that of its parts
        assert b"".join(content) == BIG
        assert content.verified == "md5 of parts"


# Contents that are not what they should be ------------------------------------------------------------------------------


def at(answers: Answers, **options: Any) -> S3:
    """A service that asks these."""
    options.setdefault("policy", QUICK)
    return S3("s", access_key_id="a", bucket="bucket", base_url=answers.url, guards=Guards(), **options)


def head(body: bytes, etag: str = '"e"', **more: str) -> bytes:
    return answer(200, b"", Content_Length=str(len(body)), ETag=etag, Last_Modified=DATE, **more)


def content(body: bytes, etag: str = '"e"', status: int = 200, **more: str) -> bytes:
    return answer(status, body, ETag=etag, Last_Modified=DATE, **more)


def test_spoilt_bytes_are_found(run: Run, tmp_path: Path):
    """Bytes whose checksum does not fit are an error of every way to read them; a file of them never appears."""
    wrong = base64.b64encode(zlib.crc32(b"world").to_bytes(4, "big")).decode()
    told = {"x_amz_checksum_crc32": wrong}
    with Answers(HEAD=[head(b"hello", **told)], GET=[content(b"hello")]) as answers:
        s3 = at(answers)
        for work in (s3.get("a"), s3.download("a", tmp_path / "out")):
            with pytest.raises(errors.BadAnswer) as caught:
                run(work)
            assert (caught.value.code, caught.value.service) == ("checksum_mismatch", "s3")
        assert list(tmp_path.iterdir()) == []
        with pytest.raises(errors.BadAnswer), s3.stream("a") as read:
            assert b"".join(read) == b"hello"
        s3.close()


def test_an_object_that_changes_meanwhile(run: Run):
    """What changes between the head and the content is read anew; what never rests is a Conflict."""
    changed = answer(412, b"<Error><Code>PreconditionFailed</Code><Message>x</Message></Error>")
    with Answers(HEAD=[head(b"old"), head(b"newer", '"n"')], GET=[changed, content(b"newer", '"n"')]) as answers:
        assert run(at(answers).get("a")).body == b"newer"
        answers.say(HEAD=[head(b"old")], GET=[changed])
        with pytest.raises(errors.Conflict, match="changed 3 times"):
            run(at(answers).get("a"))


@pytest.mark.parametrize(
    "wrong",
    [
        content(b"hell", Content_Length="4"),
        content(b"ello", status=206, Content_Range="bytes 1-4/5"),
        content(b"hello!", '"other"'),
        answer(200, b"hello"),
        b'HTTP/1.1 200 X\r\nContent-Length: 5\r\nETag: "e"\r\nLast-Modified: never\r\n\r\nhello',
        b"nonsense",
        b"",
    ],
)
def test_a_content_that_does_not_fit_its_head(run: Run, wrong: bytes):
    """Fewer bytes, others, or another object than the head told of never pass for the content."""
    with Answers(HEAD=[head(b"hello")], GET=[wrong]) as answers, pytest.raises(errors.CallError) as caught:
        run(at(answers, policy=Policy(retry=None)).get("a"))
    assert isinstance(caught.value, (errors.BadAnswer, errors.NetworkFault))
    assert (caught.value.service, caught.value.operation) == ("s3", "get")


_lines = st.sampled_from(
    [
        "Content-Length: 5",
        "Content-Length: 99999999999999999999",
        "Transfer-Encoding: chunked",
        'ETag: "e"',
        f"Last-Modified: {DATE}",
        "Content-Range: bytes 0-4/5",
        "Content-Range: bytes 3-1/2",
        "Content-Encoding: gzip",
        "x-amz-meta-a: b",
        "Location: http://127.0.0.1:1/x",
    ]
)
_bodies = st.binary(max_size=40) | st.sampled_from(
    [b"hello", b"<Error><Code>NoSuchKey</Code>", b"<Error><Code>SlowDown</Code><Message>\xff</Message></Error>", b"{}"]
)


@settings(max_examples=60)
@given(
    status=st.sampled_from([200, 206, 204, 301, 304, 400, 401, 403, 404, 412, 416, 429, 500, 503])
    | st.integers(100, 999),
    lines=st.lists(_lines, max_size=5),
    body=_bodies,
    cut=st.floats(0, 1),
)
def test_random_answers_to_reading(status: int, lines: list[str], body: bytes, cut: float):
    """Whatever comes, whole or cut off, obstore's words for it become one of our errors, or it is the content."""
    whole = "\r\n".join([f"HTTP/1.1 {status} X", *lines, "Connection: close", "", ""]).encode() + body
    with Answers(GET=[whole[: int(len(whole) * (1 - cut / 4))]]) as answers:
        s3 = at(answers, policy=Policy(retry=None, breaker=None, attempt_timeout=2.0))
        try:
            found = s3.get_range("a", 0, 5).result()
        except errors.CallError as error:
            assert error.service == "s3"  # noqa: PT017 (most raise, some do not)
            assert str(error).isprintable()  # noqa: PT017
            assert answers.url not in str(error)  # noqa: PT017
        else:
            assert len(found.body) == min(5, found.head.size)


# Where it runs --------------------------------------------------------------------------------------------------------


def test_nothing_of_the_environment_gets_between(seaweed: SeaweedServer, monkeypatch: pytest.MonkeyPatch):
    """Obstore takes the keys, the address and the rest from us, whatever stands in AWS's variables."""
    told = {
        "AWS_ACCESS_KEY_ID": "OTHER",
        "AWS_SECRET_ACCESS_KEY": "other",
        "AWS_SESSION_TOKEN": "other",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1",
        "AWS_SKIP_SIGNATURE": "true",
        "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true",
        "AWS_REGION": "eu-central-1",
        "AWS_CHECKSUM_ALGORITHM": "sha256",
    }
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    s3 = S3(SECRET, access_key_id=ACCESS, bucket="moorline-sandbox", base_url=seaweed.endpoint, guards=Guards())
    s3.put("environment", b"x").result()
    assert s3.get("environment").result().body == b"x"
    s3.close()


def test_memory_does_not_grow_with_the_object(seaweed: SeaweedServer):
    """192 MiB there and back, in a process that never has 150 MB."""
    script = f"""
import os
from moorline.services.storage.s3 import S3
s3 = S3({SECRET!r}, access_key_id={ACCESS!r}, bucket="moorline-sandbox", base_url={seaweed.endpoint!r})
block = os.urandom(1 << 20)
s3.upload("large", (block for _ in range(192))).result()
head = s3.download("large", "large.bin").result()
with s3.stream("large") as content:
    assert sum(map(len, content)) == head.size == 192 << 20
    assert content.verified == "crc32"
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
    folder = seaweed._folder
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) * 1024 < 150_000_000
    (folder / "large.bin").unlink()


def test_a_usual_user_needs_no_obstore(monkeypatch: pytest.MonkeyPatch):
    """Without the extra the error names it, and nothing was sent."""
    monkeypatch.setitem(sys.modules, "obstore", None)
    s3 = S3("s", access_key_id="a", bucket="bucket", base_url="http://127.0.0.1:1", guards=Guards())
    with pytest.raises(errors.ConfigurationError, match="moorline\\[storage\\]"):
        s3.get_range("a", 0, 1).result()


def test_the_base_address_of_a_sandbox(box: Box, monkeypatch: pytest.MonkeyPatch):
    """The environment alone leads a service to the sandbox, with its own keys and bucket."""
    monkeypatch.setenv("MOORLINE_SANDBOX_URL", box.url)
    s3 = S3(guards=Guards())
    assert s3.check().result()
    assert httpx2.get(s3.presign_get("a").result().reveal(), trust_env=False).status_code == 404
