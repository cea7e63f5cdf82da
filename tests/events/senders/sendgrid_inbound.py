"""SendGrid's Inbound Parse: a mail in the fields of SendGrid's page, with the boundary that SendGrid uses."""

from __future__ import annotations

import hashlib

from tests.events.senders.mailgun_inbound import multipart
from tests.events.senders.sample import Sample, with_a_wrong_secret

FIELDS = {
    "headers": "Received: by mx0001\nSubject: Blue?\nFrom: Ada <ada@customer.example>\nTo: help@in.shop.example\n",
    "dkim": "{@customer.example : pass}",
    "to": "help@in.shop.example",
    "from": "Ada <ada@customer.example>",
    "subject": "Größe? ✓",
    "text": "Is it blue?\n",
    "envelope": '{"to":["help@in.shop.example"],"from":"ada@customer.example"}',
    "attachments": "1",
    "charsets": '{"to":"UTF-8","subject":"UTF-8","from":"UTF-8","text":"utf-8"}',
    "SPF": "pass",
}
BODY = multipart(FIELDS, boundary="xYzZY")

SAMPLE = Sample(
    service="sendgrid_inbound",
    body=BODY,
    secret="the secret of the path",
    other="another one",
    signature="Authorization",
    headers={"Content-Type": "multipart/form-data; boundary=xYzZY"},
    id="sha256:" + hashlib.sha256(BODY).hexdigest(),
    type="received",
    timed=False,
    changed=with_a_wrong_secret,
)
