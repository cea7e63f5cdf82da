"""OneSignal's stand-in: notifications with their rules, idempotency keys, looking and cancelling.

Facts: services/push/onesignal.md and onesignal.json. The app is ``8250eaf6-1a58-489e-b136-7c74a864b434``, its key
``os_v2_app_sandbox``, the organization's ``os_v2_org_sandbox``: with it alone keys of the app are made, and nothing
else is done; a key that begins with ``os_v2_org`` is refused (403) elsewhere, and unknown ones are (401). The sandbox's
own, by how a subscription's or a user's id begins: ``dead`` is no longer subscribed; all others get what is sent.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable
from typing import Any

from moorline.errors import ConfigurationError
from moorline.sandbox.idempotency import Keys
from moorline.sandbox.services._made_keys import MadeKeys
from moorline.sandbox.standin import Answer, Ask, Emission, Registration, Signed, Surroundings

__all__ = ["STAND_IN"]

_APP = "8250eaf6-1a58-489e-b136-7c74a864b434"
_KEY = "os_v2_app_sandbox"
_ORGANIZATION = "os_v2_org_sandbox"
_FAMILIES = (
    ("include_subscription_ids",),
    ("include_aliases",),
    ("included_segments", "excluded_segments"),
    ("filters",),
)
_MONTH = 30 * 24 * 3600
_UUID = re.compile("[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


class _Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.answer = Answer(status, {"errors": [message]})


class OneSignalStandIn:
    """One app."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._keys = Keys(around.clock, window=_MONTH)
        self._notifications: dict[str, dict[str, Any]] = {}
        self._tokens = MadeKeys()
        tokens = f"/apps/{_APP}/auth/tokens"
        one = r"/notifications/([0-9a-f-]{36})"
        self._routes: list[tuple[str, str, Callable[..., Answer]]] = [
            ("POST", "/notifications", self._create),
            ("GET", "/notifications", self._list),
            ("GET", one, self._fetch),
            ("DELETE", one, self._cancel),
            ("POST", tokens, self._make_key),
            ("GET", tokens, self._list_keys),
            ("DELETE", tokens + "/([^/]+)", self._delete_key),
        ]

    async def handle(self, ask: Ask) -> Answer:
        """Answer one request."""
        try:
            self._authorise(ask)
            await ask.work()
            return self._routed(ask)
        except _Refused as refused:
            return refused.answer

    def snapshot(self) -> dict[str, Any]:
        """The notifications by id, as they came; the keys that were made."""
        return {"notifications": self._notifications, "tokens": self._tokens.shown()}

    def failure(self, status: int) -> Answer:
        """OneSignal's error body for an injected status."""
        if status == 429:
            return Answer(429, {"errors": ["API rate limit exceeded."], "limit": "6000"})
        return Answer(status, {"errors": ["Internal server error"]})

    def sample(self, event: str) -> bytes:
        """OneSignal sends none."""
        raise ConfigurationError("'event': OneSignal sends no webhooks of its own")

    def sign(self, emission: Emission, *, url: str, secrets: tuple[str, ...], hook_id: str, broken: bool) -> Signed:
        """OneSignal sends none."""
        raise ConfigurationError("'service': OneSignal sends no webhooks of its own")

    def _authorise(self, ask: Ask) -> None:
        scheme, _, key = ask.headers.get("authorization", "").partition(" ")
        keys = "/auth/tokens" in ask.path
        good = key == _ORGANIZATION if keys else key == _KEY or self._tokens.is_good(key)
        if scheme.lower() not in ("key", "basic", "bearer") or not good:
            told = "Access denied.  Please include an 'Authorization: ...' header with a valid API key"
            raise _Refused(403 if key.startswith("os_v2_org") or keys else 401, told)

    def _routed(self, ask: Ask) -> Answer:
        for method, pattern, action in self._routes:
            found = re.fullmatch(pattern, ask.path)
            if method == ask.method and found:
                return action(ask, *found.groups())
        raise _Refused(404, "Not found")

    def _make_key(self, ask: Ask) -> Answer:
        try:
            given = json.loads(ask.body)
        except ValueError:
            raise _Refused(400, "Invalid JSON") from None
        if not isinstance(given, dict) or not 1 <= len(str(given.get("name", ""))) <= 128:
            raise _Refused(400, "name is required, and has up to 128 characters")
        name = str(uuid.UUID(int=self._around.random.getrandbits(128), version=4))
        token = self._around.id("os_v2_app_", 40)
        self._tokens.add(name, token, name=given["name"], ip_allowlist_mode=given.get("ip_allowlist_mode", "disabled"))
        return Answer(200, {"token_id": name, "formatted_token": token})

    def _list_keys(self, ask: Ask) -> Answer:
        return Answer(200, {"tokens": [{"token_id": one, **told} for one, told in self._tokens.listed().items()]})

    def _delete_key(self, ask: Ask, id: str) -> Answer:
        if not self._tokens.delete(id):
            raise _Refused(404, "Token not found")
        return Answer(200, {})

    def _create(self, ask: Ask) -> Answer:
        try:
            given = json.loads(ask.body)
        except ValueError:
            raise _Refused(400, "Invalid JSON") from None
        if not isinstance(given, dict):
            raise _Refused(400, "Invalid JSON")
        key = given.get("idempotency_key")
        if key is None:
            return self._made(given)
        if not isinstance(key, str) or not _UUID.fullmatch(key):
            raise _Refused(400, "idempotency_key must be a valid UUID")
        before = self._keys.begin(key, "")  # OneSignal gives the first result whatever else the request says
        if isinstance(before, Answer):
            return Answer(before.status, before.content, {**before.headers, "Idempotent-Replayed": "true"})
        try:
            answer = self._made(given)
        except _Refused:
            self._keys.forget(key)
            raise
        self._keys.finish(key, answer)
        return answer

    def _made(self, given: dict[str, Any]) -> Answer:
        _check(given)
        aliases = given.get("include_aliases", {}).get("external_id", [])
        targets = given.get("include_subscription_ids", []) + aliases
        gone = [one for one in targets if one.startswith("dead")]
        if targets and len(gone) == len(targets):
            return Answer(200, {"id": "", "errors": ["All included players are not subscribed"]})
        name = str(uuid.UUID(int=self._around.random.getrandbits(128), version=4))
        self._notifications[name] = {**given, "id": name, "successful": len(targets) - len(gone), "canceled": False}
        answer: dict[str, Any] = {"id": name, "external_id": None}
        if gone:
            kind: dict[str, Any] = (
                {"invalid_aliases": {"external_id": gone}} if aliases else {"invalid_player_ids": gone}
            )
            answer["errors"] = kind
        return Answer(200, answer)

    def _list(self, ask: Ask) -> Answer:
        asked: dict[str, str] = dict(ask.parameters)
        _check_app(asked.get("app_id"))
        limit, offset = min(int(asked.get("limit", "50")), 50), int(asked.get("offset", "0"))
        held = list(self._notifications.values())[::-1]
        rows = [self._shown(one) for one in held[offset : offset + limit]]
        return Answer(200, {"total_count": len(held), "offset": offset, "limit": limit, "notifications": rows})

    def _found(self, ask: Ask, name: str) -> dict[str, Any]:
        asked: dict[str, str] = dict(ask.parameters)
        _check_app(asked.get("app_id"))
        if name not in self._notifications:
            raise _Refused(404, "No notification with this id found")
        return self._notifications[name]

    def _fetch(self, ask: Ask, name: str) -> Answer:
        return Answer(200, self._shown(self._found(ask, name)))

    def _cancel(self, ask: Ask, name: str) -> Answer:
        held = self._found(ask, name)
        if "send_after" not in held or held["canceled"]:
            raise _Refused(400, "Notification has already been sent to all recipients")
        held["canceled"] = True
        return Answer(200, {"success": True})

    def _shown(self, held: dict[str, Any]) -> dict[str, Any]:
        counts = {"failed": 0, "errored": 0, "converted": 0, "remaining": 0}
        shown = ("id", "app_id", "contents", "headings", "data")
        named: dict[str, Any] = {name: held[name] for name in shown if name in held}
        return {**named, "successful": held["successful"], **counts, "canceled": held["canceled"]}


def _check_app(app: object) -> None:
    if app != _APP:
        raise _Refused(400, "app_id not found. You may be missing a Content-Type: application/json header.")


def _check(given: dict[str, Any]) -> None:
    _check_app(given.get("app_id"))
    families = [family for family in _FAMILIES if any(name in given for name in family)]
    if len(families) != 1:
        raise _Refused(400, "You must include which players, segments, or tags you wish to send this notification to.")
    contents = given.get("contents")
    if contents is None and not given.get("template_id") and not given.get("content_available"):
        raise _Refused(400, "Message Notifications must have English language content")
    if contents is not None and (not isinstance(contents, dict) or not contents.get("en")):
        raise _Refused(400, "Message Notifications must have English language content")
    if "include_aliases" in given and given.get("target_channel") not in ("push", "email", "sms"):
        raise _Refused(400, "target_channel must be one of push, email, sms when include_aliases is used")
    if len(given.get("include_subscription_ids", [])) > 2000:
        raise _Refused(400, "include_subscription_ids is limited to 2000 ids")
    if len(json.dumps(given.get("data", {}), ensure_ascii=False).encode()) > 2048:
        raise _Refused(400, "Data must be no more than 2048 bytes long")
    if len(str(given.get("collapse_id", ""))) > 64:
        raise _Refused(400, "collapse_id must be no more than 64 characters")


STAND_IN = Registration(name="onesignal", make=OneSignalStandIn)
