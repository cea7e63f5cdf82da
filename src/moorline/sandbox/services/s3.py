"""Amazon S3's stand-in: signatures in headers and addresses, conditions, checksums, listings, uploads in parts, copies.

Facts: services/storage/s3.md. See ``_s3_api`` for what is the sandbox's own; there a limit is 503 ``SlowDown``.
"""

from __future__ import annotations

from moorline.sandbox.services._s3_api import Rules, S3StandIn
from moorline.sandbox.standin import Registration

__all__ = ["STAND_IN"]

_RULES = Rules(
    name="S3",
    region=None,
    limited=(503, "SlowDown"),
    expired=(403, "AccessDenied", "Request has expired"),
    equal_parts=False,
    metadata_bytes=2048,
    wide_conditions=False,
    part_numbers=True,
    request_ids=True,
)

STAND_IN = Registration(name="s3", make=lambda around: S3StandIn(around, _RULES))
