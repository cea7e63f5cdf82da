"""Twilio: a status callback, with the fields of its card."""

from __future__ import annotations

from tests.events.senders.sample import Sample

SAMPLE = Sample(
    service="twilio",
    body=b"ApiVersion=2010-04-01&AccountSid=AC0123&MessageSid=SM0123&SmsSid=SM0123&MessageStatus=delivered&"
    b"SmsStatus=delivered&To=%2B15558675310&From=%2B15017122661&Body=&Body=caf%C3%A9+%26+more",
    secret="12345",
    other="67890",
    headers={"Content-Type": "application/x-www-form-urlencoded; charset=UTF-8"},
    signature="X-Twilio-Signature",
    id="delivered:SM0123",
    type="delivered",
    timed=False,
    answer=b"<Response/>",
)
