"""Slack, by the example of its card and the envelope of its Events API."""

from __future__ import annotations

from tests.events.senders.sample import Handshake, Sample

SAMPLE = Sample(
    service="slack",
    body=b'{"token":"z","team_id":"T1","api_app_id":"A1","event":{"type":"message","subtype":"bot_message",'
    b'"channel":"C1","ts":"1785578400.000100"},"type":"event_callback","event_id":"Ev08MFMKH6","event_time":1785578400}',
    secret="8f742231b10e8888abcd99yyyzzz85a5",
    other="another signing secret",
    signature="X-Slack-Signature",
    id="Ev08MFMKH6",
    type="message",
    action="bot_message",
    timed=True,
    answer=b"",
    handshakes=(
        Handshake(
            body=b'{"token":"z","challenge":"3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P",'
            b'"type":"url_verification"}',
            answer=b"3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P",
        ),
    ),
)
