"""X: the event of its page of payloads, and its challenge."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

from tests.events.senders.sample import Handshake, Sample

_SECRET = "a consumer secret"
_DIGEST = hmac.new(_SECRET.encode(), b"challenge_string", hashlib.sha256).digest()

SAMPLE = Sample(
    service="x",
    body=b'{"data":{"event_uuid":"2080761390344937796","filter":{"user_id":"1111111111111111111"},'
    b'"event_type":"post.create","tag":"posts","payload":{},"includes":{}}}',
    secret=_SECRET,
    other="another consumer secret",
    signature="x-twitter-webhooks-signature",
    id="post.create:2080761390344937796",
    type="post.create",
    timed=False,
    handshakes=(
        Handshake(
            method="GET",
            query="crc_token=challenge_string",
            answer=json.dumps({"response_token": "sha256=" + base64.b64encode(_DIGEST).decode()}).encode(),
            media="application/json",
        ),
    ),
)
