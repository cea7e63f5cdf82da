"""The stand-in of Slack's incoming webhooks: plain words with a status.

Facts: services/business/slack.md. Addresses are ``/services/T…/B…/…``. The sandbox's own: one whose last part begins
with ``gone`` is no webhook any more (404), ``wrong`` has a bad token (403), ``archived`` posts into an archived channel
(410), ``busy`` fails inside (500). What was posted is in the state.
"""

from __future__ import annotations

import json
import re
from typing import Any

from moorline.errors import ConfigurationError
from moorline.sandbox.standin import Answer, Ask, Emission, Registration, Signed, Surroundings

__all__ = ["STAND_IN"]

_ADDRESS = re.compile(r"/services/T[A-Z0-9]{8,}/B[A-Z0-9]{8,}/([A-Za-z0-9]{8,})")
_FATES = {
    "gone": (404, b"no_service"),
    "wrong": (403, b"invalid_token"),
    "archived": (410, b"channel_is_archived"),
    "busy": (500, b"rollup_error"),
}


class SlackWebhookStandIn:
    """Any number of addresses."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._messages: list[dict[str, Any]] = []

    async def handle(self, ask: Ask) -> Answer:
        """Answer one request."""
        found = _ADDRESS.fullmatch(ask.path)
        if found is None or ask.method != "POST":
            return Answer(404, b"no_service")
        fate = next((fate for word, fate in _FATES.items() if found[1].startswith(word)), None)
        if fate is not None:
            return Answer(*fate)
        await ask.work()
        try:
            given = json.loads(ask.body)
        except ValueError:
            return Answer(400, b"invalid_payload")
        if not isinstance(given, dict):
            return Answer(400, b"invalid_payload")
        blocks = given.get("blocks", [])
        if not isinstance(blocks, list) or len(blocks) > 50 or not all(isinstance(one, dict) for one in blocks):
            return Answer(400, b"invalid_blocks")
        if not (str(given.get("text") or "").strip() or blocks or given.get("attachments")):
            return Answer(400, b"no_text")
        self._messages.append(given)
        return Answer(200, b"ok")

    def snapshot(self) -> dict[str, Any]:
        """The messages, oldest first."""
        return {"messages": self._messages}

    def failure(self, status: int) -> Answer:
        """The word for an injected status."""
        return Answer(status, b"rate_limited" if status == 429 else b"rollup_error")

    def sample(self, event: str) -> bytes:
        """It sends none."""
        raise ConfigurationError("'event': incoming webhooks send no events; Slack does")

    def sign(self, emission: Emission, *, url: str, secrets: tuple[str, ...], hook_id: str, broken: bool) -> Signed:
        """It sends none."""
        raise ConfigurationError("'service': incoming webhooks send no events; Slack does")


STAND_IN = Registration(name="slack_webhook", make=SlackWebhookStandIn)
