"""Twilio: status callbacks and inbound messages.

Facts: services/sms/twilio.md; contract: twilio.json; twilio 9.13 (request_validator).
"""

from __future__ import annotations

from moorline.events.delivery import Delivers, Reply
from moorline.events.schemes.signed_form import SignedForm
from moorline.events.sender import Sender

__all__ = ["Twilio"]


class Twilio(Sender):
    """Messages by Twilio: its status callbacks and inbound messages.

    The address is signed as Twilio calls it: behind a proxy set ``webhooks.public_url``. The secret is the account's
    primary Auth Token (while it is promoted, list the old and the new), or a shared key's, whose algorithm the headers
    name. The type is the status (``delivered``, ``failed``), for an inbound message ``received``. The answer is an
    empty ``<Response/>``: no reply, so calls, which want TwiML that depends on them, are not for this.
    Facts: services/sms/twilio.md; contract: twilio.json.
    """

    name, category = "twilio", "sms"
    docs = "services/sms/twilio.md, twilio.json"
    webhooks = SignedForm(
        header="X-Twilio-Signature",
        settings="X-Twilio-Webhooks-Signature-Settings",  # twilio 9.13; not in the card
        env="TWILIO_AUTH_TOKEN",
        id=("MessageStatus|SmsStatus|=received", "MessageSid"),
        lacking="digest",  # what is no message has no MessageSid
        type=("MessageStatus", "SmsStatus", "CallStatus", "=received"),  # SmsStatus of inbound messages: unconfirmed
        answer=Reply(200, b"<Response/>", "text/xml"),
        # That a fragment (#rc=3, which sets the retries) is left out of the signed address is unconfirmed.
        delivers=Delivers(within=15, retries="once, when the connection fails (#rc=… in the address: up to 5)"),
    )
