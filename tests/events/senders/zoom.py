"""Zoom: the body of its own sample application's page."""

from __future__ import annotations

import hashlib
import hmac
import json

from tests.events.senders.sample import Handshake, Sample

_SECRET = "a secret token"
_BODY = (
    b'{"event":"meeting.started","payload":{"account_id":"abc","object":{"duration":0,'
    b'"start_time":"2021-11-02T20:43:19Z","id":"111","type":4,"uuid":"u=="}},"event_ts":1635885799302}'
)
_TOKEN = "qgg8vlvZRS6UYooatFL8Aw"

SAMPLE = Sample(
    service="zoom",
    body=_BODY,
    secret=_SECRET,
    other="another secret token",
    signature="x-zm-signature",
    id="sha256:" + hashlib.sha256(_BODY).hexdigest(),
    type="meeting.started",
    timed=True,
    handshakes=(
        Handshake(
            body=json.dumps({"payload": {"plainToken": _TOKEN}, "event": "endpoint.url_validation"}).encode(),
            answer=json.dumps(
                {
                    "plainToken": _TOKEN,
                    "encryptedToken": hmac.new(_SECRET.encode(), _TOKEN.encode(), hashlib.sha256).hexdigest(),
                }
            ).encode(),
            media="application/json",
        ),
    ),
)
