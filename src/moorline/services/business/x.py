"""X (Twitter): what happens on accounts, and posts that match a rule.

Facts: docs.x.com/x-api/webhooks/quickstart (CRC, signature, duplicates),
docs.x.com/x-api/webhooks/introduction (answers), docs.x.com/x-api/activity/event-payloads (bodies); the first two
were read in xdevplatform/docs; there is no contract.
"""

from __future__ import annotations

from typing import Final

from moorline.events.delivery import Delivers
from moorline.events.handshakes import QueryDigest
from moorline.events.schemes.hmac_signature import HMACSignature
from moorline.events.sender import Sender

__all__ = ["X"]

_ACCOUNT_ACTIVITY: Final = (  # what the older API names its bodies' only interesting field; the list is unconfirmed
    "tweet_create_events",
    "tweet_delete_events",
    "favorite_events",
    "follow_events",
    "unfollow_events",
    "block_events",
    "unblock_events",
    "mute_events",
    "unmute_events",
    "direct_message_events",
    "direct_message_indicate_typing_events",
    "direct_message_mark_read_events",
    "user_event",
)


class X(Sender):
    """Webhooks of X: the X Activity API, the Account Activity API, filtered streams.

    A type is the body's ``event_type`` (``post.create``), or the name of the list in it (``tweet_create_events``,
    ``matching_rules`` for a filtered stream). The secret is the app's consumer secret. With several, the first answers
    X's hourly challenge. Events are known by their content: whether one ``event_uuid`` may come by two
    subscriptions is not said.
    Facts: docs.x.com/x-api/webhooks/quickstart, docs.x.com/x-api/webhooks/introduction,
    docs.x.com/x-api/activity/event-payloads
    """

    name, category = "x", "business"
    docs = (
        "docs.x.com/x-api/webhooks/quickstart, docs.x.com/x-api/webhooks/introduction, "
        "docs.x.com/x-api/activity/event-payloads"
    )
    webhooks = HMACSignature(
        header="x-twitter-webhooks-signature",
        prefix="sha256=",
        encoding="base64",
        env="X_CONSUMER_SECRET",
        id=("data.event_type", "data.event_uuid"),
        lacking="digest",  # the older APIs give none
        dedup="content",
        type=("data.event_type", *(f"has:{name}" for name in _ACCOUNT_ACTIVITY), "has:matching_rules"),
        typed=False,
        handshakes=(QueryDigest(token="crc_token", field="response_token"),),  # noqa: S106 -- names of fields
        delivers=Delivers(within=10),
    )
