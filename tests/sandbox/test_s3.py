"""The stand-ins of S3 and R2, asked by botocore's own client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import botocore.session
import httpx2
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from moorline.calls.aws import AwsService

BUCKET = "moorline-sandbox"
PART = 5 << 20


@pytest.fixture(params=["s3", "r2"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def client(name: str, wire: httpx2.Client, sandbox_url: str) -> Any:
    """Botocore's client, as its users make it."""
    return made(f"{sandbox_url}/{name}", "auto" if name == "r2" else "eu-west-1")


def made(url: str, region: str, secret: str = AwsService.credentials.sandbox) -> Any:
    config = Config(signature_version="s3v4", s3={"addressing_style": "path"}, retries={"total_max_attempts": 1})
    return botocore.session.Session().create_client(
        "s3",
        region_name=region,
        endpoint_url=url,
        aws_access_key_id=AwsService.access_key_id.sandbox,
        aws_secret_access_key=secret,
        config=config.merge(Config(request_checksum_calculation="when_required")),
    )


def code_of(call: Callable[..., Any], **arguments: Any) -> tuple[int, str]:
    """The status and the code that a call fails with."""
    with pytest.raises(ClientError) as caught:
        call(**{"Bucket": BUCKET, **arguments})
    told = caught.value.response
    return told["ResponseMetadata"]["HTTPStatusCode"], told["Error"]["Code"]


def test_objects(client: Any):
    """Botocore writes, reads, lists, copies and deletes."""
    client.put_object(Bucket=BUCKET, Key="a/ü b", Body=b"hello", ContentType="text/x", Metadata={"a": "1"})
    got = client.get_object(Bucket=BUCKET, Key="a/ü b", Range="bytes=1-2")
    assert (got["Body"].read(), got["ContentType"], got["Metadata"]) == (b"el", "text/x", {"a": "1"})
    client.copy_object(Bucket=BUCKET, Key="b", CopySource={"Bucket": BUCKET, "Key": "a/ü b"})
    listed = client.list_objects_v2(Bucket=BUCKET, Delimiter="/")
    assert [one["Key"] for one in listed["Contents"]] == ["b"]
    assert [one["Prefix"] for one in listed["CommonPrefixes"]] == ["a/"]
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, PaginationConfig={"PageSize": 1})
    assert [one["Key"] for page in pages for one in page["Contents"]] == ["a/ü b", "b"]
    client.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": "b"}, {"Key": "c"}]})
    client.delete_object(Bucket=BUCKET, Key="a/ü b")
    assert client.list_objects_v2(Bucket=BUCKET)["KeyCount"] == 0


def test_what_is_refused(client: Any, sandbox_url: str, name: str):
    """The errors are S3's, by status and code."""
    client.put_object(Bucket=BUCKET, Key="a", Body=b"x")
    assert code_of(client.get_object, Key="b") == (404, "NoSuchKey")
    assert code_of(client.get_object, Key="a", Bucket="other-bucket") == (404, "NoSuchBucket")
    assert code_of(client.get_object, Key="a", Range="bytes=5-6") == (416, "InvalidRange")
    assert code_of(client.put_object, Key="a", IfNoneMatch="*") == (412, "PreconditionFailed")
    assert code_of(client.put_object, Key="b", IfMatch='"e"') == (404, "NoSuchKey")
    assert code_of(client.put_object, Key="a", Body=b"x", ContentMD5="AAAAAAAAAAAAAAAAAAAAAA==") == (400, "BadDigest")
    assert code_of(client.put_object, Key="a", Metadata={"a": "x" * 9000}) == (400, "MetadataTooLarge")
    wide = code_of(client.put_object, Key="a", IfNoneMatch='"9dd4e461268c8034f5c8564e155c67a6"')
    assert wide == ((412, "PreconditionFailed") if name == "r2" else (501, "NotImplemented"))
    wrong = made(f"{sandbox_url}/{name}", "auto" if name == "r2" else "eu-west-1", "other")
    assert code_of(wrong.list_objects_v2) == (403, "SignatureDoesNotMatch")
    if name == "r2":
        other = made(f"{sandbox_url}/r2", "us-east-1")
        assert code_of(other.list_objects_v2) == (400, "AuthorizationHeaderMalformed")


def test_uploads_in_parts(client: Any, name: str):
    """Parts are listed, checked and put together; R2 wants them of one size."""
    client.put_object(Bucket=BUCKET, Key="source", Body=b"y" * PART)
    upload = client.create_multipart_upload(Bucket=BUCKET, Key="a")["UploadId"]
    known = {"Bucket": BUCKET, "Key": "a", "UploadId": upload}
    first = client.upload_part(**known, PartNumber=1, Body=b"x" * (PART + 1))["ETag"]
    second = client.upload_part_copy(**known, PartNumber=2, CopySource={"Bucket": BUCKET, "Key": "source"})
    third = client.upload_part(**known, PartNumber=3, Body=b"z")["ETag"]
    assert [one["Size"] for one in client.list_parts(**known)["Parts"]] == [PART + 1, PART, 1]
    etags = [first, second["CopyPartResult"]["ETag"], third]
    parts = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, 1)]
    wrong = {"Parts": [{"PartNumber": 1, "ETag": '"e"'}]}
    assert code_of(client.complete_multipart_upload, **known, MultipartUpload=wrong)[1] == "InvalidPart"
    if name == "r2":
        assert code_of(client.complete_multipart_upload, **known, MultipartUpload={"Parts": parts})[1] == "InvalidPart"
        client.abort_multipart_upload(**known)
        assert code_of(client.list_parts, Key="a", UploadId=upload)[1] == "NoSuchUpload"
        return
    done = client.complete_multipart_upload(**known, MultipartUpload={"Parts": parts})
    assert done["ETag"].endswith('-3"')
    assert client.head_object(Bucket=BUCKET, Key="a")["ContentLength"] == 2 * PART + 2


def test_small_parts(client: Any):
    """All but the last need 5 MiB."""
    upload = client.create_multipart_upload(Bucket=BUCKET, Key="a")["UploadId"]
    known = {"Bucket": BUCKET, "Key": "a", "UploadId": upload}
    etags = [client.upload_part(**known, PartNumber=number, Body=b"x")["ETag"] for number in (1, 2)]
    parts = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, 1)]
    assert code_of(client.complete_multipart_upload, **known, MultipartUpload={"Parts": parts})[1] == "EntityTooSmall"


def test_addresses(client: Any, wire: httpx2.Client):
    """An address that botocore signed opens what it says, and nothing else."""
    client.put_object(Bucket=BUCKET, Key="a", Body=b"hello")
    arguments = {"Bucket": BUCKET, "Key": "a", "ResponseContentType": "x/y"}
    url = client.generate_presigned_url("get_object", Params=arguments, ExpiresIn=60)
    answer = wire.get(url)
    assert (answer.content, answer.headers["content-type"]) == (b"hello", "x/y")
    assert wire.get(url.replace("x%2Fy", "x%2Fz")).status_code == 403
    assert wire.get(url.replace("/a?", "/b?")).status_code == 403
    assert wire.get(f"{url.partition('?')[0]}").status_code == 403


def test_a_limited_key(client: Any, name: str):
    """The sandbox's own: these keys may be written once a second."""
    client.put_object(Bucket=BUCKET, Key="limited/a", Body=b"x")
    limited = (429, "TooManyRequests") if name == "r2" else (503, "SlowDown")
    assert code_of(client.put_object, Key="limited/a", Body=b"x") == limited


def test_it_does_not_hold_everything(client: Any, monkeypatch: pytest.MonkeyPatch):
    """What is more than it may hold is refused, and counted no longer once it is gone."""
    monkeypatch.setattr("moorline.sandbox.services._objects._MOST", 1000)
    client.put_object(Bucket=BUCKET, Key="a", Body=b"x" * 900)
    assert code_of(client.put_object, Key="b", Body=b"x" * 200)[0] == 507
    client.put_object(Bucket=BUCKET, Key="a", Body=b"x" * 100)
    client.put_object(Bucket=BUCKET, Key="b", Body=b"x" * 200)


def test_its_state(client: Any, wire: httpx2.Client, name: str):
    """What it holds is seen, without the contents."""
    client.put_object(Bucket=BUCKET, Key="a", Body=b"hello")
    client.create_multipart_upload(Bucket=BUCKET, Key="b")
    state = wire.get("/_sandbox/state", params={"service": name}).json()[name]
    assert state["buckets"][BUCKET]["a"]["size"] == 5
    assert [one["key"] for one in state["uploads"].values()] == ["b"]
