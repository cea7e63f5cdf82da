"""Meta: the sample notification of its page, with a second entry."""

from __future__ import annotations

import hashlib

from tests.events.senders.sample import Handshake, Sample

_BODY = (
    b'{"entry":[{"time":1520383571,"changes":[{"field":"photos","value":{"verb":"update","object_id":"10211885"}}],'
    b'"id":"10210299214172187","uid":"10210299214172187"},'
    b' {"time":1520383572,"messaging":[{"message":{"mid":"m_1","text":"\\u00e9"}}],"id":"7"}],"object":"user"}'
)

SAMPLE = Sample(
    service="meta",
    body=_BODY,
    secret="an app secret",
    other="another app secret",
    signature="X-Hub-Signature-256",
    id="sha256:" + hashlib.sha256(_BODY).hexdigest(),
    type="user",
    timed=False,
    events=2,
    handshakes=(
        Handshake(
            method="GET",
            query="hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token=meatyhamhock",
            answer=b"1158201444",
            environment={"META_VERIFY_TOKEN": "meatyhamhock"},
        ),
    ),
)
