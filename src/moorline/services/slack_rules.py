"""What Slack documents of errors and of a message's content, for all that sends to it.

Facts: services/business/slack.md; slack.json; docs.slack.dev (chat.postMessage, Block Kit) for the limits of content.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from moorline.calls.exchange import Exchange
from moorline.calls.faults import ErrorMap
from moorline.errors import (
    AuthenticationFailed,
    BadAnswer,
    CallError,
    Conflict,
    NotFound,
    PermissionDenied,
    ServiceUnavailable,
)
from moorline.services.limits import as_text, at_most, refused

__all__ = ["ERRORS", "JSON", "content_of", "given_id", "given_ts", "notes", "present"]

_TEXT: Final = 40_000  # characters; more are cut off by Slack, with no more than a warning
_MARKDOWN: Final = 12_000
_BLOCKS: Final = 50
_TS: Final = re.compile(r"\d{1,20}\.\d{1,10}")
JSON: Final = {"Content-Type": "application/json; charset=utf-8"}  # without the charset Slack warns
_WORD: Final = re.compile(rb"[a-z][a-z_]{2,60}")
_FAILED: Final = ("internal_error", "fatal_error", "service_unavailable", "request_timeout")
_KINDS: Final[Mapping[str, type[CallError]]] = {
    **dict.fromkeys(
        (
            "not_authed",
            "invalid_auth",
            "account_inactive",
            "token_revoked",
            "token_expired",
            "invalid_refresh_token",
            "invalid_client_id",
            "bad_client_secret",
        ),
        AuthenticationFailed,
    ),
    **dict.fromkeys(
        ("missing_scope", "no_permission", "access_denied", "not_allowed_token_type", "ekm_access_denied"),
        PermissionDenied,
    ),
    **dict.fromkeys(
        ("channel_not_found", "user_not_found", "users_not_found", "message_not_found", "thread_not_found"), NotFound
    ),
    **dict.fromkeys(
        (
            "not_in_channel",
            "is_archived",
            "cant_update_message",
            "cant_delete_message",
            "edit_window_closed",
            "already_reacted",
            "no_reaction",
        ),
        Conflict,
    ),
    **dict.fromkeys(_FAILED, ServiceUnavailable),
}


@dataclass(frozen=True, slots=True)
class _Errors(ErrorMap):
    """``ok: false`` comes with a code and seldom a word more; the addresses of hooks answer a bare code."""

    def data(self, exchange: Exchange) -> Any:
        """The answer, with a ``message`` that says what there is to know."""
        found = ErrorMap.data(self, exchange)
        if not isinstance(found, dict):
            code = exchange.body[:100].strip()
            return {"error": code.decode()} if _WORD.fullmatch(code) else None
        words = [found.get("error"), *notes(found)]
        if isinstance(found.get("needed"), str):
            words.append(f"needed: {found['needed']}, provided: {found.get('provided')}")
        return {**found, "message": "; ".join(word for word in words if isinstance(word, str))}

    def failure(self, exchange: Exchange) -> CallError | None:
        """As ever; of what failed inside of Slack nobody knows how much was done."""
        error = ErrorMap.failure(self, exchange)
        if error is not None and error.code in _FAILED:
            error.outcome = "unknown"
        return error


def notes(answer: Mapping[str, Any]) -> list[Any]:
    """What Slack explains beside its code."""
    metadata = answer.get("response_metadata")
    found = metadata.get("messages") if isinstance(metadata, dict) else None
    return found[:5] if isinstance(found, list) else []


def _failed(exchange: Exchange) -> str | None:
    try:
        answer = exchange.data
    except BadAnswer:  # a hook's plain word
        return None
    if isinstance(answer, dict) and answer.get("ok") is False:
        return str(answer.get("error") or "unknown_error")
    return None


ERRORS: Final = _Errors(
    code="error",
    message="message",
    request_id="header:X-Slack-Req-Id",  # unconfirmed: seen in answers, on no page
    limited=frozenset({"ratelimited", "rate_limited"}),
    kinds=_KINDS,
    retry=frozenset(_FAILED),
    failed=_failed,
)


def present(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Without what was not given: Slack takes no null."""
    return {name: value for name, value in fields.items() if value is not None}


def given_id(field: str, value: str) -> str:
    """*value* itself. Raises InvalidRequest for none."""
    if not as_text(field, value).strip():
        raise refused(field, "must not be empty")
    return value


def given_ts(field: str, value: str) -> str:
    """*value* itself. Raises InvalidRequest for what is no ts, such as a number made of one."""
    if not _TS.fullmatch(as_text(field, value)):
        raise refused(field, "must be a ts as Slack gave it, such as '1785578400.000100'")
    return value


def content_of(
    words: str | None,
    blocks: Sequence[Mapping[str, Any]],
    extra: Mapping[str, object],
    *,
    markdown_text: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What a message holds. Raises InvalidRequest."""
    if not (words or blocks or markdown_text or extra.get("attachments")):
        raise refused("text", "or blocks, markdown_text or attachments are needed")
    if markdown_text is not None and (words or blocks):
        raise refused("markdown_text", "is not taken together with text or blocks")
    at_most("text", as_text("text", words or ""), _TEXT, "characters")
    at_most("markdown_text", as_text("markdown_text", markdown_text or ""), _MARKDOWN, "characters")
    at_most("blocks", blocks, _BLOCKS, "blocks")
    given = {"text": words, "markdown_text": markdown_text, "metadata": None if metadata is None else dict(metadata)}
    return {**given, "blocks": [dict(one) for one in blocks] or None, **extra}
