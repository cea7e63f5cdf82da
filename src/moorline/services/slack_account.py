"""What Slack wants of every request: a token, perhaps one that rotates; and to which of its hosts it goes.

Facts: services/business/slack.md; contract: slack.json; slack_sdk 3.47.0 (``oauth/token_rotation``).
"""

from __future__ import annotations

import os
import re
from typing import Final

from moorline.calls.exchange import Exchange
from moorline.calls.service import BearerKey, Endpoints, Parameter, RateLimitHeaders
from moorline.calls.tokens import Grant, RefreshToken, Token, TokenService, token_of
from moorline.secrets.secret import Secret
from moorline.services.slack_rules import ERRORS

__all__ = ["HOOK", "SlackAccount"]

HOOK: Final = re.compile(r"https://hooks\.slack\.com(/(?:commands|actions|app)/[A-Za-z0-9/_-]{1,300})")
_FILES: Final = re.compile(r"https://files\.slack\.com/[!-~]{1,2000}")
_TOKEN, _REFRESH = "SLACK_BOT_TOKEN", "SLACK_REFRESH_TOKEN"
_ROTATES: Final = "xoxe-"  # a refresh token; what is got with it begins with xoxe.xoxb- or xoxe.xoxp-


def _rotated(exchange: Exchange) -> Token:
    error = ERRORS.failure(exchange)
    if error is not None:
        raise error
    return token_of(exchange)


_ROTATION: Final = RefreshToken("/oauth.v2.access", read=_rotated, single_use=True)


class SlackAccount(TokenService):
    """The base of what speaks with Slack's methods."""

    endpoints = Endpoints("https://slack.com/api")
    credentials = BearerKey(env=_TOKEN, sandbox="xoxb-sandbox")
    client_id = Parameter("SLACK_CLIENT_ID", default="")
    client_secret = Parameter("SLACK_CLIENT_SECRET", default="", secret=True)
    limits = RateLimitHeaders(apart=True)
    errors = ERRORS

    def is_own(self, url: str) -> bool:
        """Where files are sent and commands are answered; with another *base_url* what is below that."""
        if self.base_url != self.endpoints.default:
            return url.startswith(f"{self.base_url}/") and url.isprintable()
        return (_FILES.fullmatch(url) or HOOK.fullmatch(url)) is not None

    def authorized(
        self, key: Secret, method: str, url: str, headers: dict[str, str], body: bytes | None
    ) -> dict[str, str]:
        """The token, for methods alone: neither the address of an upload nor a response_url gets it."""
        base = f"{self.base_url}/"
        if url.startswith(base) and "/" not in url.removeprefix(base).partition("?")[0]:
            return super().authorized(key, method, url, headers, body)
        return headers

    def _key_variable(self) -> str:
        return _REFRESH if not os.environ.get(_TOKEN) and os.environ.get(_REFRESH) else _TOKEN

    def _grant(self) -> Grant | None:
        """The refresh of a token that rotates, if the credential is for that. A function is asked for tokens as they
        are, unless it keeps what comes in their place (``rotated``).
        """
        given = self._key
        if callable(given):
            return _ROTATION if hasattr(given, "rotated") else None
        shown = os.environ.get(self._key_variable(), "").strip() if given is None else given.reveal()
        return _ROTATION if shown.startswith(_ROTATES) else None
