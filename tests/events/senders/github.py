"""GitHub, with the headers of its card."""

from __future__ import annotations

from tests.events.senders.sample import Sample

SAMPLE = Sample(
    service="github",
    body=b'{"action":"opened","number":1,"text":"\\u001b \xe2\x99\xa5"}',
    secret="It's a Secret to Everybody",
    other="another secret",
    headers={"X-GitHub-Hook-ID": "7", "X-GitHub-Delivery": "0b98", "X-GitHub-Event": "pull_request"},
    signature="X-Hub-Signature-256",
    id="7:0b98",
    type="pull_request",
    action="opened",
    timed=False,
)
