"""Salesforce: outbound messages.

Facts: services/business/salesforce.md; contract: salesforce.schema.json; the messages' form: Salesforce's SOAP API
developer guide ("Understanding the outbound messaging WSDL", "Understanding notifications").
"""

from __future__ import annotations

from moorline.events.delivery import Delivers, Reply
from moorline.events.schemes.shared_secret import SharedSecret
from moorline.events.sender import Sender

__all__ = ["Salesforce"]


class Salesforce(Sender):
    """Records by Salesforce: its outbound messages (SOAP), which are not signed.

    The secret stands at the end of the endpoint's path (``/webhooks/salesforce/<secret>``). Each Notification is an
    event: its type is the record's (``Opportunity``), its payload ``{"Notification": {"Id": …, "sObject": {…}}}``. What
    stands around them is not kept (the organization's id, and the session id, which is a credential): give each
    organization a secret of its own, which the event's ``secret`` names. What changed before it was sent is not told
    again: the record is as it was when it was sent.
    Facts: services/business/salesforce.md; contract: salesforce.schema.json.
    """

    name, category = "salesforce", "business"
    docs = "services/business/salesforce.md, salesforce.schema.json"
    webhooks = SharedSecret(
        env="SALESFORCE_WEBHOOK_SECRET",  # ours: the sender gives it no name
        each="Envelope.Body.notifications.Notification",
        id="Notification.Id",
        type="Notification.sObject.@type",
        # Without exactly this answer it comes again for 24 h.
        answer=Reply(
            200,
            b'<?xml version="1.0" encoding="UTF-8"?>'
            b'<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/"><soapenv:Body>'
            b'<notificationsResponse xmlns="http://soap.sforce.com/2005/09/outbound"><Ack>true</Ack>'
            b"</notificationsResponse></soapenv:Body></soapenv:Envelope>",
            "text/xml; charset=utf-8",
        ),
        delivers=Delivers(retries="with growing gaps of up to 2 h, for 24 h, in no order"),
    )
