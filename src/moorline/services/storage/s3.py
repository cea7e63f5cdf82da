"""Amazon S3: objects in a bucket.

Facts: services/storage/s3.md; contract: none, it is botocore's model of s3.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import ClassVar, Final

from moorline.calls.service import Endpoints, Parameter
from moorline.errors import ConfigurationError
from moorline.services.aws_access_keys import AccessKeys
from moorline.services.s3_api import S3Api

__all__ = ["S3"]

_BUCKET: Final = r"[a-z0-9][a-z0-9.\-]{1,61}[a-z0-9]"


class S3(S3Api, AccessKeys):
    """Objects by Amazon S3, in one *bucket*. The key pair is AWS's: the argument, the environment, or where AWS's own
    tools look; an IAM user can have two at once, so that one is rotated without a gap.

    The bucket is named in the host (``bucket.s3.region.amazonaws.com``), in the path where its name has dots or another
    address is given: any server that speaks S3's API is reached with *base_url*. Objects have an ETag, which is the MD5
    of those that were not written in parts and are not encrypted with a key of KMS; a CRC-32 of the whole is kept
    beside it. S3 has no idempotency keys: a PUT is repeatable by itself, one with a condition is not, unless S3 says
    that another write came between. An upload in parts is over then, and sent again from the beginning of a source that
    can be read again.

    Facts: services/storage/s3.md
    """

    name = "s3"
    docs = "services/storage/s3.md"
    endpoints = Endpoints("https://s3.us-east-1.amazonaws.com")
    bucket = Parameter("AWS_S3_BUCKET", sandbox="moorline-sandbox", like=_BUCKET)
    lacks: ClassVar[Mapping[str, str]] = {
        "webhooks": "events of a bucket go to SNS, SQS, Lambda and EventBridge, and not over HTTP"
    }
    usage: ClassVar[str] = """
from moorline.services import S3

s3 = S3()
s3.put("reports/a.json", b"{}", content_type="application/json", metadata={"owner": "42"}).result()
print(s3.get("reports/a.json").result().verified, [one.key for one in s3.list_objects("reports/")])
print(s3.presign_get("reports/a.json", 600, filename="report.json").result())
"""

    def _endpoint(self) -> str:
        return _address(self.bucket, self.region)

    @property
    def _bucket_in_host(self) -> bool:
        return self._base_url is None and not self.in_sandbox


@cache
def _address(bucket: str, region: str) -> str:
    """By the rules that come with the model."""
    from botocore.endpoint_provider import EndpointProvider
    from botocore.exceptions import BotoCoreError
    from botocore.loaders import Loader

    from moorline.calls.aws_keys import need_botocore

    need_botocore("s3")
    rules = Loader().load_service_model("s3", "endpoint-rule-set-1")
    try:
        found = EndpointProvider(rules, Loader().load_data("partitions")).resolve_endpoint(Bucket=bucket, Region=region)
    except BotoCoreError as error:
        raise ConfigurationError(f"s3 has no endpoint for that bucket in {region}: {error}") from None
    return str(found.url)
