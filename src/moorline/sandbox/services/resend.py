"""Resend's stand-in: single mails, batches, idempotency, scheduled mails, the recipients of resend.dev, signed events.

Facts: services/email/resend.md and resend.json. Keys begin with ``re_``; those that end in ``wrong`` are refused (403),
those that begin with ``re_send`` may only send (401 for all else), and for ``re_daily`` and ``re_monthly`` the quota of
that time is spent (429). Mail to ``bounced@``, ``complained@`` and ``suppressed@resend.dev`` ends so, with labels too;
all other mail is delivered. The sandbox's own: senders at ``unverified.example`` are not verified (403), the account's
own address is ``owner@account.example``, 100 requests a second, and the words of most errors.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import uuid
from datetime import UTC, datetime
from email.utils import parseaddr
from typing import Any

from moorline.errors import ConfigurationError
from moorline.sandbox import signing
from moorline.sandbox.idempotency import Keys
from moorline.sandbox.services._made_keys import MadeKeys
from moorline.sandbox.standin import Answer, Ask, Emission, Registration, Signed, Surroundings

__all__ = ["STAND_IN"]

_ADDRESS = re.compile(r"[^@\s<>,;\"]+@[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9-]+)+")
_TAG = re.compile(r"[A-Za-z0-9_-]{1,256}")
_KINDS = {
    "from": str,
    "subject": str,
    "html": str,
    "text": str,
    "headers": dict,
    "attachments": list,
    "tags": list,
    "template": dict,
    "scheduled_at": str,
}
_OWNER = "owner@account.example"
_FATES = {
    "bounced": ("sent", "bounced"),
    "complained": ("sent", "delivered", "complained"),
    "suppressed": ("suppressed",),
}
_EVENTS = (
    "email.sent", "email.scheduled", "email.delivered", "email.delivery_delayed", "email.bounced", "email.failed",
    "email.suppressed", "email.complained", "email.opened", "email.clicked", "email.received",
)  # fmt: skip
_DETAILS: dict[str, dict[str, Any]] = {
    "bounced": {"bounce": {"type": "Permanent", "subType": "General", "message": "550 5.1.1 unknown user"}},
    "failed": {"failed": {"reason": "reached_daily_quota"}},
    "suppressed": {"suppressed": {"type": "OnAccountSuppressionList", "message": "The recipient is suppressed"}},
    "clicked": {
        "click": {
            "link": "https://shop.example/",
            "ipAddress": "192.0.2.1",
            "timestamp": "2026-11-20T10:00:00.000Z",
            "userAgent": "Mozilla/5.0",
        }
    },
}
_WINDOW = 24 * 3600.0
_LIMIT = 100


class _Refused(Exception):
    def __init__(self, status: int, name: str, message: str) -> None:
        super().__init__(message)
        self.answer = Answer(status, {"statusCode": status, "name": name, "message": message})


def _unfit(message: str, name: str = "validation_error") -> _Refused:
    return _Refused(422, name, message)


class ResendStandIn:
    """One team with a verified domain."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._keys = Keys(around.clock, _WINDOW)
        self._emails: dict[str, dict[str, Any]] = {}
        self._made = MadeKeys()
        self._second = (0, _LIMIT)

    async def handle(self, ask: Ask) -> Answer:
        """Answer one request."""
        try:
            self._authorise(ask)
            answer = await self._routed(ask)
        except _Refused as refused:
            answer = refused.answer
        return Answer(answer.status, answer.content, {**self._limits(), **answer.headers})

    def snapshot(self) -> dict[str, Any]:
        """The mails that were taken, oldest first, each with its id and last event, and as it was sent; the keys that
        were made.
        """
        return {"emails": list(self._emails.values()), "api_keys": self._made.shown()}

    def failure(self, status: int) -> Answer:
        """Resend's error body for an injected status."""
        name, message, more = "application_error", "An unexpected error occurred.", {}
        if status == 429:
            name, message = "rate_limit_exceeded", "Too many requests."
            more = {"ratelimit-remaining": "0", "retry-after": "1"}
        return Answer(status, {"statusCode": status, "name": name, "message": message}, {**self._limits(), **more})

    def sample(self, event: str) -> bytes:
        """An event about a mail that the team does not have."""
        if event not in _EVENTS:
            raise ConfigurationError(f"'event': the sandbox knows {', '.join(_EVENTS)} of Resend")
        mail = {"from": "Shop <shop@shop.example>", "to": ["ada@customer.example"], "subject": "Receipt"}
        if event == "email.received":
            head = {"email_id": self._id(), "created_at": self._now(), "message_id": "<1@customer.example>"}
            file = {"id": self._id(), "filename": "r.pdf", "content_type": "application/pdf"}
            more = {"cc": [], "bcc": [], "received_for": mail["to"], "attachments": [file]}
            return self._body(event, {**head, **mail, **more})
        return self._event(event.removeprefix("email."), self._id(), {**mail, "tags": [_pair("order", "42")]})

    def sign(self, emission: Emission, *, url: str, secrets: tuple[str, ...], hook_id: str, broken: bool) -> Signed:
        """Signed as Svix does."""
        return signing.signed(
            "resend",
            emission,
            url=url,
            secrets=secrets,
            broken=broken,
            now=self._around.clock.wall(),
            headers={"Content-Type": "application/json", "User-Agent": "Svix-Webhooks/1.0"},
        )

    def _authorise(self, ask: Ask) -> None:
        scheme, _, key = ask.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise _Refused(401, "missing_api_key", "Missing API Key")
        if not key.startswith("re_") or key.endswith("wrong") or self._made.is_gone(key):
            raise _Refused(403, "invalid_api_key", "API key is invalid")
        sends = ask.method == "POST" and ask.path in ("/emails", "/emails/batch")
        if key.startswith("re_send") and not sends:
            raise _Refused(401, "restricted_api_key", "This API key is restricted to only send emails")
        for word in ("daily", "monthly"):
            if key.startswith(f"re_{word}") and sends:
                raise _Refused(429, f"{word}_quota_exceeded", f"You have reached your {word} email quota.")

    async def _routed(self, ask: Ask) -> Answer:
        sends = {"/emails": self._one, "/emails/batch": self._batch}.get(ask.path)
        found = re.fullmatch(r"/emails/([^/]+)(/cancel)?", ask.path)
        if sends is not None and ask.method == "POST":
            return await self._once(ask, sends)
        await ask.work()
        if ask.path.partition("/api-keys")[:2] == ("", "/api-keys"):
            return self._api_keys(ask)
        if sends is None and found is None:
            raise _Refused(404, "not_found", "The requested endpoint does not exist")
        if found is None or ask.method != ("POST" if found[2] else "GET"):
            raise _Refused(405, "method_not_allowed", "This endpoint does not support the specified HTTP method")
        mail = self._emails.get(found[1])
        if mail is None:
            raise _Refused(404, "not_found", "Email not found")
        return self._cancelled(mail) if found[2] else Answer(200, _shown(mail))

    def _api_keys(self, ask: Ask) -> Answer:
        if ask.path == "/api-keys" and ask.method == "GET":
            found = [{"id": name, **told} for name, told in self._made.listed().items()]
            return Answer(200, {"object": "list", "has_more": False, "data": found})
        if ask.path == "/api-keys" and ask.method == "POST":
            given = _json(ask)
            if not isinstance(given, dict) or not given.get("name"):
                raise _unfit("Missing `name` field.", "missing_required_field")
            if given.get("permission", "full_access") not in ("full_access", "sending_access"):
                raise _unfit("The `permission` must be full_access or sending_access.")
            start = "re_send_" if given.get("permission") == "sending_access" else "re_"
            name, token = self._id(), self._around.id(start, 24)
            self._made.add(name, token, name=given["name"], created_at=self._now())
            return Answer(201, {"id": name, "token": token})
        if ask.method != "DELETE":
            raise _Refused(405, "method_not_allowed", "This endpoint does not support the specified HTTP method")
        if not self._made.delete(ask.path.removeprefix("/api-keys/")):
            raise _Refused(404, "not_found", "API key not found")
        return Answer(200)

    async def _once(self, ask: Ask, send: Any) -> Answer:
        """Send, or answer again what was answered to the same key."""
        key = ask.headers.get("idempotency-key")
        if key is None:
            await ask.work()
            return Answer(200, send(ask))
        if not 1 <= len(key) <= 256:
            raise _Refused(400, "invalid_idempotency_key", "The key must be between 1 and 256 characters.")
        before = self._keys.begin(key, hashlib.sha256(ask.path.encode() + b"\n" + ask.body).hexdigest())
        if before == "other":
            raise _Refused(409, "invalid_idempotent_request", "This key was used with another request body.")
        if before == "running":
            raise _Refused(409, "concurrent_idempotent_requests", "The same key is in use by a request under way.")
        if before is not None:
            return before
        try:
            await ask.work()
            answer = Answer(200, send(ask))
        except BaseException:
            self._keys.forget(key)
            raise
        self._keys.finish(key, answer)
        return answer

    def _one(self, ask: Ask) -> dict[str, Any]:
        mail = _json(ask)
        _check(mail, now=self._around.now())
        return {"id": self._taken(mail)}

    def _batch(self, ask: Ask) -> dict[str, Any]:
        """All or none, or in permissive mode those that are good."""
        mails = _json(ask)
        if not isinstance(mails, list) or not 1 <= len(mails) <= 100:
            raise _unfit("The body must be an array of 1 to 100 emails.")
        faults, good = [], []
        permissive = ask.headers.get("x-batch-validation", "strict") == "permissive"
        for index, mail in enumerate(mails):
            try:
                _check(mail, now=self._around.now(), batch=True)
                good.append(mail)
            except _Refused as refused:
                if not permissive:
                    raise
                faults.append({"index": index, "message": str(refused)})
        answer: dict[str, Any] = {"data": [{"id": self._taken(mail)} for mail in good]}
        return {**answer, "errors": faults} if permissive else answer

    def _taken(self, mail: dict[str, Any]) -> str:
        """Keep a good mail and tell what becomes of it; a scheduled one stays so."""
        name = self._id()
        local, _, domain = parseaddr(_listed(mail["to"])[0])[1].partition("@")
        fate = _FATES.get(local.partition("+")[0]) if domain == "resend.dev" else None
        steps = ("scheduled",) if "scheduled_at" in mail else fate or ("sent", "delivered")
        self._emails[name] = {"id": name, "created_at": self._now(), "last_event": steps[-1], "message": mail}
        for step in steps:
            emission = Emission(f"email.{step}", self._event(step, name, mail), self._around.id("msg_", 27))
            self._around.emit(emission)
        return name

    def _cancelled(self, mail: dict[str, Any]) -> Answer:
        if mail["last_event"] != "scheduled":
            raise _unfit("The email is not scheduled, or was sent already.")
        mail["last_event"] = "canceled"
        return Answer(200, {"object": "email", "id": mail["id"]})

    def _event(self, step: str, name: str, mail: dict[str, Any]) -> bytes:
        data = {
            "email_id": name,
            "message_id": f"<{name}@resend.example>",
            "created_at": self._now(),
            "from": mail.get("from", "Template <template@shop.example>"),
            "to": _listed(mail["to"]),
            "subject": mail.get("subject", ""),
            **_DETAILS.get(step, {}),
        }
        if mail.get("tags"):
            data["tags"] = {one["name"]: one.get("value", "") for one in mail["tags"]}
        return self._body(f"email.{step}", data)

    def _body(self, event: str, data: dict[str, Any]) -> bytes:
        return json.dumps({"type": event, "created_at": self._now(), "data": data}, separators=(",", ":")).encode()

    def _now(self) -> str:
        return datetime.fromtimestamp(self._around.now(), UTC).isoformat().replace("+00:00", ".000Z")

    def _id(self) -> str:
        return str(uuid.UUID(int=self._around.random.getrandbits(128), version=4))

    def _limits(self) -> dict[str, str]:
        """Seconds until the reset, of a window of one second."""
        now = self._around.now()
        self._second = (now, _LIMIT - 1 if self._second[0] != now else max(self._second[1] - 1, 0))
        return {
            "ratelimit-limit": str(_LIMIT),
            "ratelimit-remaining": str(self._second[1]),
            "ratelimit-reset": "1",
        }


def _json(ask: Ask) -> Any:
    try:
        return json.loads(ask.body)
    except ValueError:
        raise _Refused(400, "validation_error", "The request body is no valid JSON.") from None


def _pair(name: str, value: str) -> dict[str, str]:
    return {"name": name, "value": value}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _shown(mail: dict[str, Any]) -> dict[str, Any]:
    sent = mail["message"]
    names = ("cc", "bcc", "reply_to")
    return {
        "object": "email",
        "id": mail["id"],
        "message_id": f"<{mail['id']}@resend.example>",
        "from": sent.get("from", ""),
        "to": _listed(sent["to"]),
        "subject": sent.get("subject", ""),
        "created_at": mail["created_at"],
        "last_event": mail["last_event"],
        **{name: sent[name] for name in ("html", "text") if name in sent},
        **{name: _listed(sent[name]) for name in names if name in sent},
    }


def _check(mail: Any, *, now: int, batch: bool = False) -> None:
    """Raise what Resend answers to a mail that it does not take."""
    if not isinstance(mail, dict):
        raise _unfit("An email must be an object.")
    for name, kind in _KINDS.items():
        if name in mail and not isinstance(mail[name], kind):
            raise _unfit(f"The `{name}` field has the wrong type.")
    # A template may give the sender and the subject, as Resend's own package has it; the contract requires both.
    for name in ("to",) if "template" in mail else ("from", "to", "subject"):
        if not mail.get(name):
            raise _unfit(f"Missing `{name}` field.", "missing_required_field")
    _check_content(mail)
    _check_people(mail)
    for tag in mail.get("tags", []):
        if not isinstance(tag, dict) or not all(_TAG.fullmatch(str(tag.get(one, ""))) for one in ("name", "value")):
            raise _unfit("Tags should only contain ASCII letters, numbers, underscores, or dashes.")
    if len({tag["name"] for tag in mail.get("tags", [])}) != len(mail.get("tags", [])):
        raise _unfit("Tags must have different names.")
    if batch and ("attachments" in mail or "scheduled_at" in mail):
        raise _unfit("The attachments and scheduled_at fields are not supported in batches.")
    if "scheduled_at" in mail:
        _check_time(mail["scheduled_at"], now)


def _check_content(mail: dict[str, Any]) -> None:
    template = mail.get("template")
    if template is None:
        if not mail.get("html") and not mail.get("text"):
            raise _unfit("Missing `html` or `text` field.", "missing_required_field")
    elif not isinstance(template.get("id"), str) or not template["id"]:
        raise _unfit("Missing `template.id` field.", "missing_required_field")
    elif "html" in mail or "text" in mail:
        raise _unfit("A template takes no `html` or `text` beside it.")
    for one in mail.get("attachments", []):
        if not isinstance(one, dict) or not (one.get("content") or one.get("path")):
            raise _unfit("An attachment needs `content` or `path`.", "invalid_attachment")
        try:
            base64.b64decode(one.get("content", ""), validate=True)
        except (binascii.Error, ValueError, TypeError):
            raise _unfit("The attachment's `content` is no base64.", "invalid_attachment") from None


def _check_people(mail: dict[str, Any]) -> None:
    sender = parseaddr(mail.get("from", ""))[1]
    if "from" in mail and not _ADDRESS.fullmatch(sender):
        raise _unfit("Invalid `from` field.", "invalid_from_address")
    if sender.endswith("@unverified.example"):
        raise _Refused(403, "validation_error", "The unverified.example domain is not verified.")
    if len(_listed(mail["to"])) > 50:
        raise _unfit("The `to` field takes up to 50 addresses.")
    for kind in ("to", "cc", "bcc", "reply_to"):
        for one in _listed(mail.get(kind, [])):
            address = parseaddr(one)[1] if isinstance(one, str) else ""
            if not _ADDRESS.fullmatch(address):
                raise _unfit(f"Invalid `{kind}` field.")
            if kind != "reply_to" and address.lower().endswith(("@example.com", "@test.com")):
                raise _unfit(f"Invalid `{kind}` field: use the testing addresses, not domains like example.com.")
            if sender == "onboarding@resend.dev" and kind != "reply_to" and address != _OWNER:
                raise _Refused(403, "validation_error", f"You can only send testing emails to {_OWNER}.")


def _check_time(given: str, now: int) -> None:
    try:
        moment = datetime.fromisoformat(given)
    except ValueError:
        raise _unfit("The `scheduled_at` field is no ISO 8601 time.") from None
    if moment.tzinfo is None or moment.timestamp() <= now:
        raise _unfit("The `scheduled_at` field must be in the future, with a time zone.")


STAND_IN = Registration(
    name="resend",
    make=ResendStandIn,
    secret="whsec_" + base64.b64encode(b"the sandbox of moorline: resend!").decode(),
    events=_EVENTS,
)
