"""Slack: what it tells us of a workspace, and what people do there: events, commands, buttons, dialogs.

Facts: services/business/slack.md; contract: slack.json.
"""

from __future__ import annotations

from moorline.events.delivery import Delivers, Reply
from moorline.events.handshakes import BodyEcho
from moorline.events.schemes.hmac_signature import HMACSignature
from moorline.events.sender import Sender

__all__ = ["Slack"]


class Slack(Sender):
    """Slack: Events API, slash commands and interactivity, all at one address.

    An event's type is that of the inner event (``message``, with ``subtype`` for its action), ``command`` with the
    command for its action (``command./deploy``), or the interaction's (``block_actions``, ``view_submission``) with the
    ``action_id`` or ``callback_id``. Every answer is an empty 200: Slack shows any text to whoever gave the command.
    What must be answered with a content (``block_suggestion``, errors in a dialog) is not served by that.
    Facts: services/business/slack.md; contract: slack.json.
    """

    name, category = "slack", "business"
    docs = "services/business/slack.md, slack.json"
    webhooks = HMACSignature(
        header="X-Slack-Signature",
        signed="v0:{timestamp}:{body}",
        prefix="v0=",
        timestamp="header:X-Slack-Request-Timestamp",
        env="SLACK_SIGNING_SECRET",  # whether the old one holds on for a while after it is regenerated is unconfirmed
        id="event_id|trigger_id|form:trigger_id",
        lacking="digest",  # app_rate_limited, view_closed and block_suggestion have neither
        type=("event.type", "type", "has:form:command"),
        action="form:command|event.subtype|actions.0.action_id|callback_id|view.callback_id",
        answer=Reply(200, b""),
        handshakes=(BodyEcho(field="type", value="url_verification", echo="challenge"),),
        delivers=Delivers(within=3, retries="events 3 times: at once, after 1 min, after 5 min; commands never"),
    )
