"""Each scheme with what is needed to sign and check one delivery, for the tests that hold for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from moorline.events import HMACSignature, Scheme, StandardWebhooks
from moorline.services import GitHub, Stripe

NOW = 1_790_000_000.0

GITHUB = GitHub.webhooks
STRIPE = Stripe.webhooks


class SvixLike:
    """A sender of Standard Webhooks under the older header names, with a type in the body."""

    name = "svix_like"
    webhooks = StandardWebhooks(env="SVIX_SECRET", prefix="svix-", id="header:svix-id")


class Base64Like:
    """A sender that signs with SHA-1 and base64, and numbers its events."""

    name = "base64_like"
    webhooks = HMACSignature(
        header="X-Signature", env="X_SECRET", algorithm="sha1", encoding="base64", id="event.number", type="event.kind"
    )


@dataclass(frozen=True)
class Sender:
    """One scheme: how it is named to ``verify``, a body of its kind, two secrets, the headers beside the signature."""

    name: str
    service: str | type[Any]
    scheme: Scheme
    body: bytes
    secret: str
    other: str
    headers: dict[str, str]
    signature: str
    id: str
    type: str
    timed: bool

    def signed(self, secret: str | None = None, *, now: float = NOW, body: bytes | None = None) -> dict[str, str]:
        """The headers of a delivery."""
        signature = self.scheme.sign(self.body if body is None else body, secret or self.secret, now=now, id="msg_1")
        return self.headers | signature


SENDERS = [
    Sender(
        name="github",
        service=GitHub,
        scheme=GITHUB,
        body=b'{"action":"opened","number":1,"text":"\\u001b \xe2\x99\xa5"}',
        secret="It's a Secret to Everybody",
        other="another secret",
        headers={"X-GitHub-Hook-ID": "7", "X-GitHub-Delivery": "0b98", "X-GitHub-Event": "pull_request"},
        signature="X-Hub-Signature-256",
        id="7:0b98",
        type="pull_request",
        timed=False,
    ),
    Sender(
        name="stripe",
        service=Stripe,
        scheme=STRIPE,
        body=b'{\n  "id": "evt_1",\n  "object": "event",\n  "type": "charge.refunded"\n}',
        secret="whsec_one",
        other="whsec_two",
        headers={"Content-Type": "application/json"},
        signature="Stripe-Signature",
        id="evt_1",
        type="charge.refunded",
        timed=True,
    ),
    Sender(
        name="standard_webhooks",
        service="standard_webhooks",
        scheme=StandardWebhooks(),
        body=b'{"type":"user.created","data":{}}',
        secret="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        other="whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
        headers={},
        signature="webhook-signature",
        id="msg_1",
        type="user.created",
        timed=True,
    ),
    Sender(
        name="svix_like",
        service=SvixLike,
        scheme=SvixLike.webhooks,
        body=b'{"type":"user.created","data":{}}',
        secret="MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        other="whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
        headers={},
        signature="svix-signature",
        id="msg_1",
        type="user.created",
        timed=True,
    ),
    Sender(
        name="base64_like",
        service=Base64Like,
        scheme=Base64Like.webhooks,
        body=b'{"event":{"number":12,"kind":"x"}}',
        secret="plain",
        other="plainer",
        headers={},
        signature="X-Signature",
        id="12",
        type="x",
        timed=False,
    ),
]
