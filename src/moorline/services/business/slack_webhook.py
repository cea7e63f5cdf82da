"""Slack's incoming webhooks: messages into one channel, by an address that is the credential.

Facts: services/business/slack.md; slack_sdk 3.47.0 (``webhook/client.py``: the fields of a message); they are not in
slack.json. No idempotency keys: a message that was sent and not answered is OutcomeUnknown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final

from moorline.calls.service import Endpoints, Exchange, Plan, RateLimitHeaders, Service, operation
from moorline.errors import (
    AuthenticationFailed,
    CallError,
    ConfigurationError,
    Conflict,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    ServiceUnavailable,
)
from moorline.secrets.secret import Secret
from moorline.services.answers import record
from moorline.services.slack_objects import Hidden
from moorline.services.slack_rules import ERRORS, JSON, content_of, given_ts, present

__all__ = ["SlackWebhook"]

_ADDRESS: Final = re.compile(r"https://hooks\.slack\.com(/(?:services|workflows|triggers)/[A-Za-z0-9/_-]{1,300})")
_EMPTY: Final = frozenset({"no_text", "invalid_payload"})


@dataclass(frozen=True, slots=True)
class _Address:
    """The credential is the address: no header carries it."""

    env: str
    sandbox: str

    def headers(self, secret: Secret) -> dict[str, str]:  # noqa: ARG002
        """None."""
        return {}


class SlackWebhook(Service):
    """Messages into the channel of an incoming webhook, whose address (``https://hooks.slack.com/services/…``) is the
    key. It can neither change nor delete what it posted, nor answer: ``Slack``, with a token, can.

    One message a second. With another *base_url* (a sandbox, a proxy) the path of the address is asked for there.

    Facts: services/business/slack.md.
    """

    name, category = "slack_webhook", "business"
    docs = "services/business/slack.md"
    endpoints = Endpoints("https://hooks.slack.com")
    credentials = _Address(
        env="SLACK_WEBHOOK_URL",
        sandbox="https://hooks.slack.com/services/T0SANDBOX01/B0SANDBOX01/sandboxsandboxsandbox",
    )
    limits = RateLimitHeaders()
    errors = replace(
        ERRORS,
        # Plain words with a status (the card's list, unconfirmed).
        kinds={
            "channel_not_found": NotFound,
            "rollup_error": ServiceUnavailable,
            "invalid_token": AuthenticationFailed,
            "no_service": AuthenticationFailed,  # 404: there is no such webhook, or not any more
            "no_team": AuthenticationFailed,
            "action_prohibited": PermissionDenied,
            "channel_is_archived": Conflict,
            "invalid_payload": InvalidRequest,
        },
        failed=None,
    )
    lacks: ClassVar[Mapping[str, str]] = {"webhooks": "what Slack tells comes to the service Slack"}
    usage = """
from moorline.services import SlackWebhook

alerts = SlackWebhook()
alerts.send("Build 42 failed", blocks=[{"type": "divider"}]).result()
"""

    @operation
    def send(
        self,
        /,
        text: str | None = None,
        *,
        blocks: Sequence[Mapping[str, Any]] = (),
        thread_ts: str | None = None,
        unfurl_links: bool | None = None,
        unfurl_media: bool | None = None,
        **extra: object,
    ) -> Plan[None]:
        """Post a message. *blocks* are Block Kit's, passed through, *extra* further fields by their names. The webhook
        of a workflow takes the variables that it declares, as *extra*.

        Raises InvalidRequest, naming field and limit, before anything is sent: no content, more than 40,000 characters,
        50 blocks. Raises AuthenticationFailed for an address that is not known any more, Conflict for a channel that
        was archived, OutcomeUnknown.
        """
        content: Mapping[str, Any] = extra
        if text or blocks or not extra:
            content = content_of(text, blocks, extra)
        options = {
            "thread_ts": None if thread_ts is None else given_ts("thread_ts", thread_ts),
            "unfurl_links": unfurl_links,
            "unfurl_media": unfurl_media,
        }
        return self.post(self._path(), json=present({**content, **options}), headers=JSON, parse=_taken, text=True)

    @operation
    def check(self) -> Plan[bool]:
        """True if the address is known: sends a message without content, which is refused for that and not shown (that
        it is refused so is unconfirmed). Raises AuthenticationFailed if not.
        """
        return self.post(
            self._path(), json={}, headers=JSON, parse=lambda _: False, text=True, accept=_known, repeatable=True
        )

    def _path(self) -> Hidden:
        found = _ADDRESS.fullmatch(self.secret().reveal().strip())
        if found is None:
            # The value stays out of it: it is the credential.
            raise ConfigurationError(
                f"{self.name}: the key must be an address such as https://hooks.slack.com/services/…"
            )
        return Hidden(found[1])


def _taken(exchange: Exchange) -> None:
    if exchange.body.strip() == b"ok":
        return
    error = ERRORS.failure(exchange)  # workflows answer by JSON
    if error is not None:
        raise error
    record(exchange.data)


def _known(error: CallError) -> bool | None:
    return True if error.code in _EMPTY else None
