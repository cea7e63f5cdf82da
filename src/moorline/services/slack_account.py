"""What Slack wants of every request: a token, perhaps one that rotates; and to which of its hosts it goes.

Facts: services/business/slack.md; contract: slack.json; slack_sdk 3.47.0 (``oauth/token_rotation``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from moorline.calls.exchange import Exchange
from moorline.calls.service import BearerKey, Endpoints, Parameter, RateLimitHeaders
from moorline.calls.tokens import Grant, RefreshToken, Token, TokenService, token_of
from moorline.identity.connection import Tokens
from moorline.identity.oauth import Client, OAuth, Revocation
from moorline.secrets.locker import secrets
from moorline.secrets.secret import Secret
from moorline.services.slack_rules import ERRORS

__all__ = ["HOOK", "USER_OAUTH", "SlackAccount"]

HOOK: Final = re.compile(r"https://hooks\.slack\.com(/(?:commands|actions|app)/[A-Za-z0-9/_-]{1,300})")
_FILES: Final = re.compile(r"https://files\.slack\.com/[!-~]{1,2000}")
_TOKEN, _REFRESH = "SLACK_BOT_TOKEN", "SLACK_REFRESH_TOKEN"
_ROTATES: Final = "xoxe-"  # a refresh token; what is got with it begins with xoxe.xoxb- or xoxe.xoxp-


def _rotated(exchange: Exchange) -> Token:
    error = ERRORS.failure(exchange)
    if error is not None:
        raise error
    return token_of(exchange)


def _revocation(_: Client, tokens: Tokens) -> Revocation:
    return Revocation("POST", "/auth.revoke", {}, bearer=tokens.access)


def _of_user(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """The tokens of a user, which stand apart in the answer to a code, and at its top in that to a refresh."""
    own = answer.get("authed_user")
    return {**answer, **own} if isinstance(own, Mapping) and "access_token" in own else answer


_GRANTED: Final[Mapping[str, Any]] = {
    "authorize": "https://slack.com/oauth/v2/authorize",
    "token": "/oauth.v2.access",
    "revoke": _revocation,
    "separator": ",",
    # An app has to be switched over to it, and is a public client from then on (unconfirmed).
    "pkce": False,
    "rotates": True,  # where an app's tokens rotate; those of others never end
    "account": "team.id",
    "ended": ("invalid_refresh_token", "token_revoked", "token_expired", "account_inactive"),
}
_BOT: Final = OAuth(
    **_GRANTED,
    token_types=("bot",),
    keeps=("team.id", "team.name", "enterprise.id", "bot_user_id", "app_id", "authed_user.id"),
)
USER_OAUTH: Final = OAuth(
    **_GRANTED, token_types=("user", "bearer"), scope="user_scope", reads=_of_user, keeps=("team.id", "team.name", "id")
)
"""For a service's class that acts for users, in place of a bot: ``class Person(Slack): oauth = USER_OAUTH``."""

_ROTATION: Final = RefreshToken("/oauth.v2.access", read=_rotated, single_use=True)


class SlackAccount(TokenService):
    """The base of what speaks with Slack's methods."""

    endpoints = Endpoints("https://slack.com/api")
    credentials = BearerKey(env=_TOKEN, sandbox="xoxb-sandbox")
    client_id = Parameter("SLACK_CLIENT_ID", default="")
    client_secret = Parameter("SLACK_CLIENT_SECRET", default="", secret=True)
    oauth = _BOT
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
        held = secrets()
        return _REFRESH if held.load(_TOKEN) is None and held.load(_REFRESH) is not None else _TOKEN

    def _grant(self) -> Grant | None:
        """The refresh of a token that rotates, if the credential is for that. A function is asked for tokens as they
        are, unless it keeps what comes in their place (``rotated``).
        """
        given = self._key
        if callable(given):
            return _ROTATION if hasattr(given, "rotated") else None
        found = secrets().load(self._key_variable()) if given is None else given
        shown = "" if found is None else found.reveal()
        return _ROTATION if shown.startswith(_ROTATES) else None
