"""Cloudflare R2's stand-in: S3's API with R2's rules. The region is ``auto``, all parts but the last have one size, a
limit is a 429, an address whose time is over is 400 ``ExpiredRequest``, writes take lists of ETags and dates as
conditions, errors name no request.

Facts: services/storage/r2.md. See ``_s3_api`` for what is the sandbox's own.
"""

from __future__ import annotations

from moorline.sandbox.services._s3_api import Rules, S3StandIn
from moorline.sandbox.standin import Registration

__all__ = ["STAND_IN"]

_RULES = Rules(
    name="R2",
    region="auto",
    limited=(429, "TooManyRequests"),
    expired=(400, "ExpiredRequest", "Request has expired"),
    equal_parts=True,
    metadata_bytes=8192,
    wide_conditions=True,
    part_numbers=False,
    request_ids=False,
)

STAND_IN = Registration(name="r2", make=lambda around: S3StandIn(around, _RULES))
