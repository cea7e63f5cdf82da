"""Clerk, by the example of its card."""

from __future__ import annotations

from tests.events.senders.sample import Sample

SAMPLE = Sample(
    service="clerk",
    body=b'{"data":{"id":"user_29w83sxmDNGwOuEthce5gg56FcC","object":"user"},"instance_id":"ins_1","object":"event",'
    b'"timestamp":1654012591835,"type":"user.created"}',
    secret="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    other="whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7o",
    signature="svix-signature",
    id="msg_1",
    type="user.created",
    timed=True,
)
