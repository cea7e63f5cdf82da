"""Auth0: a log stream that sends an array."""

from __future__ import annotations

import hashlib

from tests.events.senders.sample import Sample, with_a_wrong_secret

BODY = (
    b'[{"log_id":"90020251120100000000000000000000000001223372036854775807","data":{"type":"ss","user_id":"auth0|1"}},'
    b'\n {"log_id":"90020251120100000000000000000000000001223372036854775808","data":{"type":"s","user_id":"auth0|1"}}]'
)
SAMPLE = Sample(
    service="auth0",
    body=BODY,
    secret="the token of the stream",
    other="another token",
    signature="Authorization",
    id="sha256:" + hashlib.sha256(BODY).hexdigest(),
    type="batch",
    timed=False,
    events=2,
    changed=with_a_wrong_secret,
)
