"""Vonage's older SMS API: delivery receipts and inbound messages.

Facts: services/sms/vonage.md; contract: vonage.json; vonage-http-client 1.5 (auth, check_signature).
"""

from __future__ import annotations

from moorline.events.delivery import Delivers
from moorline.events.schemes.signed_fields import SignedFields
from moorline.events.sender import Sender

__all__ = ["VonageSMS"]


class VonageSMS(Sender):
    """Text messages by Vonage's older SMS API: delivery receipts and inbound messages, by GET, form or JSON.

    Their signing is off until Vonage's support turns it on; unsigned ones are refused. Write the account's algorithm
    before the secret: ``VONAGE_SMS_SIGNATURE_SECRET=sha512:…`` (without one it is the account's default, an MD5, which
    is the weakest). Parameters of your own in the address of a GET would have to be signed too: unconfirmed, use none.
    Facts: services/sms/vonage.md; contract: vonage.json.
    """

    name, category = "vonage_sms", "sms"
    docs = "services/sms/vonage.md, vonage.json"
    webhooks = SignedFields(
        env="VONAGE_SMS_SIGNATURE_SECRET",
        id=("status", "messageId"),
        type=("status", "=received"),  # an inbound message has no status
        delivers=Delivers(retries="all but 200 and 204, for 24 h"),
    )
