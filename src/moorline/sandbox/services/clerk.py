"""Clerk's stand-in: users, their metadata, bans and locks, sessions, session tokens with keys, signed events.

Facts: services/auth/clerk.md and clerk.json. Keys begin with ``sk_test_`` or ``sk_live_``; those that end in ``wrong``
are refused. It is the Frontend API as well: its own address is the issuer, ``/.well-known/jwks.json`` has the keys.
A token for a user is had by ``POST /clerk/sandbox/token`` (see :mod:`._auth`), which begins a session for it. Users are
the sandbox's own (``user_…``); addresses, telephone numbers, names and external ids are there once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote

from moorline.errors import ConfigurationError
from moorline.sandbox import signing
from moorline.sandbox.services import _auth
from moorline.sandbox.standin import Answer, Ask, Emission, Registration, Signed, Surroundings

__all__ = ["STAND_IN"]

_VERSIONS = ("2025-11-10", "2026-05-12")
_EVENTS = ("user.created", "user.updated", "user.deleted", "session.created", "session.revoked")
_METADATA = {"public_metadata": dict, "private_metadata": dict, "unsafe_metadata": dict}
_FIELDS = {"first_name": str, "last_name": str, "username": str, "external_id": str, "password": str, "locale": str}
_CREATE = {
    **_FIELDS,
    **_METADATA,
    **dict.fromkeys(("email_address", "phone_number", "email_address_identification_status"), list),
    **dict.fromkeys(("skip_password_requirement", "skip_password_checks"), bool),
    "password_digest": str,
    "password_hasher": str,
}
_UPDATE = {
    **_FIELDS,
    "primary_email_address_id": str,
    "primary_phone_number_id": str,
    "sign_out_of_other_sessions": bool,
    "skip_password_checks": bool,
}
_NOTHING = (
    "primary_web3_wallet_id", "last_sign_in_at", "lockout_expires_in_seconds", "verification_attempts_remaining",
    "last_active_at", "mfa_enabled_at", "mfa_disabled_at", "legal_accepted_at",
)  # fmt: skip
_LISTING = {"limit", "offset", "query", "email_address", "external_id", "order_by", "banned", "user_id", "status"}


class _Refused(Exception):
    def __init__(self, status: int, code: str, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.answer = Answer(status, _body(code, message, field))


def _body(code: str, message: str, field: str | None = None) -> dict[str, Any]:
    error: dict[str, Any] = {"code": code, "message": message, "long_message": message}
    return {
        "errors": [error | ({"meta": {"param_name": field}} if field else {})],
        "clerk_trace_id": "0123456789abcdef",
    }


def _unfit(field: str, why: str, code: str = "form_param_format_invalid") -> _Refused:
    return _Refused(422, code, f"{field} {why}", field)


def _nothing() -> _Refused:
    return _Refused(404, "resource_not_found", "Resource not found")


class ClerkStandIn:
    """One instance: the Backend API, and what of the Frontend API is needed for tokens."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._signer = _auth.Signer("ins_sandbox")
        self._users: dict[str, dict[str, Any]] = {}
        self._sessions: dict[str, dict[str, Any]] = {}
        user, session = "/v1/users/([^/]+)", "/v1/sessions/([^/]+)"
        self._routes: list[tuple[str, str, Callable[..., Answer]]] = [
            ("GET", "/v1/users", self._list),
            ("POST", "/v1/users", self._create),
            ("GET", "/v1/users/count", self._count),
            ("GET", user, self._get),
            ("PATCH", user, self._update),
            ("DELETE", user, self._delete),
            ("PATCH", f"{user}/metadata", self._metadata),
            ("POST", f"{user}/(ban|unban|lock|unlock)", self._turn),
            ("GET", "/v1/sessions", self._list_sessions),
            ("GET", session, self._get_session),
            ("POST", f"{session}/revoke", self._revoke),
            ("GET", "/v1/jwks", lambda _: Answer(200, self._signer.jwks())),
        ]

    async def handle(self, ask: Ask) -> Answer:
        """Answer one request."""
        if (ask.method, ask.path) == ("GET", "/.well-known/jwks.json"):
            await ask.work()
            return Answer(200, self._signer.jwks())
        own = _auth.answered(ask, self._signer, self._around, self._token)
        if own is not None:
            return own
        try:
            self._authorise(ask)
            await ask.work()
            return self._routed(ask)
        except _Refused as refused:
            return refused.answer

    def snapshot(self) -> dict[str, Any]:
        """The users and the sessions, oldest first, as the API shows them."""
        return {"users": list(self._users.values()), "sessions": list(self._sessions.values())}

    def failure(self, status: int) -> Answer:
        """Clerk's error body for an injected status."""
        if status == 429:
            return Answer(429, _body("too_many_requests", "Too many requests"), {"Retry-After": "10"})
        return Answer(status, _body("internal_clerk_error", "There was an internal error on our servers"))

    def sample(self, event: str) -> bytes:
        """A delivery of that event."""
        if event not in _EVENTS:
            raise ConfigurationError(f"'event': the sandbox knows {', '.join(_EVENTS)} of Clerk")
        user = self._made({"email_address": ["ada@example.com"], "first_name": "Ada"})
        if event.startswith("session."):
            session = self._begun(user["id"])
            return self._told(event, {**session, "status": "revoked"} if event == "session.revoked" else session)
        deleted = {"id": user["id"], "object": "user", "deleted": True}
        return self._told(event, deleted if event == "user.deleted" else user)

    def sign(self, emission: Emission, *, url: str, secrets: tuple[str, ...], hook_id: str, broken: bool) -> Signed:
        """As Svix signs it."""
        return signing.signed(
            "clerk",
            emission,
            url=url,
            secrets=secrets,
            broken=broken,
            now=self._around.clock.wall(),
            headers={"Content-Type": "application/json", "User-Agent": "Svix-Webhooks/1.24"},
        )

    def _authorise(self, ask: Ask) -> None:
        scheme, _, key = ask.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not re.match(r"sk_(test|live)_", key) or key.endswith("wrong"):
            raise _Refused(401, "authentication_invalid", "Invalid authentication")
        version = ask.headers.get("clerk-api-version")
        if version is not None and version not in _VERSIONS:
            raise _Refused(400, "api_version_invalid", f"{version} is not an API version")

    def _routed(self, ask: Ask) -> Answer:
        for method, pattern, action in self._routes:
            found = re.fullmatch(pattern, ask.path)
            if method == ask.method and found:
                return action(ask, *(unquote(one) for one in found.groups()))
        raise _nothing()

    def _token(self, wanted: _auth.Asked, now: int, base: str) -> str | Answer:
        """A session token: claims of version 2, a minute long."""
        if wanted.user_id not in self._users:
            return _nothing().answer
        session = self._begun(wanted.user_id)
        self._emit("session.created", session)
        usual = {
            "iss": base,
            "sub": wanted.user_id,
            "sid": session["id"],
            "azp": "https://shop.example",
            "nbf": now - 10,
            "jti": self._around.id("", 20),
            "v": 2,
            "fva": [0, -1],
            "sts": "active",
        }
        return self._signer.token(wanted.applied(usual, now, 60))

    def _list(self, ask: Ask) -> Answer:
        asked = _asked(ask)
        found = list(self._users.values())
        if asked.get("order_by", "-created_at").startswith("-"):
            found.reverse()
        for name, value in ask.parameters:
            if name == "email_address":
                found = [one for one in found if value in _addresses(one)]
            elif name == "external_id":
                found = [one for one in found if one["external_id"] == value]
            elif name == "query":
                found = [one for one in found if value.lower() in json.dumps(one).lower()]
            elif name == "banned":
                found = [one for one in found if one["banned"] is (value == "true")]
        return Answer(200, _page(found, asked))

    def _count(self, ask: Ask) -> Answer:
        return Answer(200, {"object": "total_count", "total_count": len(self._users)})

    def _create(self, ask: Ask) -> Answer:
        given = _json(ask.body, _CREATE)
        if not given.get("password") and not given.get("skip_password_requirement"):
            raise _unfit("password", "is missing", "form_param_missing")
        for field, held in (("email_address", _addresses), ("phone_number", _phones)):
            for value in given.get(field, []):
                if field == "email_address" and not re.fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s]+", str(value)):
                    raise _unfit(field, "must be a valid email address.")
                if field == "phone_number" and not re.fullmatch(r"\+[1-9][0-9]{6,14}", str(value)):
                    raise _unfit(field, "must be a valid phone number according to E.164.")
                self._free(field, [value in held(one) for one in self._users.values()])
        user = self._made(given)
        self._users[user["id"]] = user
        self._emit("user.created", user)
        return Answer(200, user)

    def _get(self, ask: Ask, user_id: str) -> Answer:
        return Answer(200, self._known(user_id))

    def _update(self, ask: Ask, user_id: str) -> Answer:
        user, given = self._known(user_id), _json(ask.body, _UPDATE)
        self._check_names(given, user_id)
        changes = {name: value for name, value in given.items() if name in user}
        return self._changed(user, {**changes, **({"password_enabled": True} if "password" in given else {})})

    def _delete(self, ask: Ask, user_id: str) -> Answer:
        self._known(user_id)
        del self._users[user_id]
        gone = {"id": user_id, "object": "user", "deleted": True}
        self._emit("user.deleted", gone)
        return Answer(200, gone)

    def _metadata(self, ask: Ask, user_id: str) -> Answer:
        user, given = self._known(user_id), _json(ask.body, _METADATA)
        return self._changed(user, {name: _merged(user[name], value) for name, value in given.items()})

    def _turn(self, ask: Ask, user_id: str, verb: str) -> Answer:
        field = "banned" if verb.endswith("ban") else "locked"
        return self._changed(self._known(user_id), {field: not verb.startswith("un")})

    def _list_sessions(self, ask: Ask) -> Answer:
        asked = _asked(ask)
        wanted = {name: asked[name] for name in ("user_id", "status") if name in asked}
        found = [one for one in self._sessions.values() if all(one[name] == value for name, value in wanted.items())]
        return Answer(200, _page(found[::-1], asked))

    def _get_session(self, ask: Ask, session_id: str) -> Answer:
        if session_id not in self._sessions:
            raise _nothing()
        return Answer(200, self._sessions[session_id])

    def _revoke(self, ask: Ask, session_id: str) -> Answer:
        session = self._get_session(ask, session_id).content
        if session["status"] == "active":
            session["status"] = "revoked"
            self._emit("session.revoked", session)
        return Answer(200, session)

    def _known(self, user_id: str) -> dict[str, Any]:
        if user_id not in self._users:
            raise _nothing()
        return self._users[user_id]

    def _free(self, field: str, taken: list[bool]) -> None:
        if any(taken):
            message = f"That {field.replace('_', ' ')} is taken. Please try another."
            raise _unfit(field, message, "form_identifier_exists")

    def _check_names(self, given: Mapping[str, Any], user_id: str = "") -> None:
        others = [one for one in self._users.values() if one["id"] != user_id]
        for field in ("username", "external_id"):
            if given.get(field) is not None:
                self._free(field, [one[field] == given[field] for one in others])
        if given.get("password") is not None and len(given["password"]) < 8:
            raise _unfit("password", "must be 8 characters or more.", "form_password_length_too_short")

    def _changed(self, user: dict[str, Any], changes: Mapping[str, Any]) -> Answer:
        user.update(changes, updated_at=self._milliseconds())
        self._emit("user.updated", user)
        return Answer(200, user)

    def _made(self, given: Mapping[str, Any]) -> dict[str, Any]:
        self._check_names(given)
        now, new = self._milliseconds(), self._around.id
        stamps = {"created_at": now, "updated_at": now}
        verified = {"status": "verified", "strategy": "admin", "attempts": None, "expire_at": None}
        kept = given.get("email_address_identification_status", [])
        emails = [
            {"id": new("idn_"), "object": "email_address", "email_address": value, "linked_to": [], **stamps}
            | {"reserved": kept[at : at + 1] == ["reserved"], "verification": None}
            for at, value in enumerate(given.get("email_address", []))
        ]
        for one in emails:
            one["verification"] = None if one["reserved"] else {"object": "verification_admin", **verified}
        phones = [
            {"id": new("idn_"), "object": "phone_number", "phone_number": value, "linked_to": [], "reserved": False}
            | {"verification": {"object": "verification_admin", **verified}, **stamps}
            for value in given.get("phone_number", [])
        ]
        return {
            "id": new("user_2", 26),
            "object": "user",
            **{name: given.get(name) for name in ("external_id", "username", "first_name", "last_name")},
            "primary_email_address_id": emails[0]["id"] if emails else None,
            "primary_phone_number_id": phones[0]["id"] if phones else None,
            **dict.fromkeys(_NOTHING),
            "image_url": "https://img.clerk.example/none",
            "has_image": False,
            **{name: given.get(name) or {} for name in _METADATA},
            "email_addresses": emails,
            "phone_numbers": phones,
            **{name: [] for name in ("web3_wallets", "passkeys", "external_accounts", "saml_accounts")},
            "enterprise_accounts": [],
            "password_enabled": "password" in given or "password_digest" in given,
            **dict.fromkeys(("two_factor_enabled", "totp_enabled", "backup_code_enabled", "banned", "locked"), False),
            **dict.fromkeys(("delete_self_enabled", "create_organization_enabled"), True),
            **stamps,
        }

    def _begun(self, user_id: str) -> dict[str, Any]:
        now = self._milliseconds()
        session: dict[str, Any] = {
            "object": "session",
            "id": self._around.id("sess_2", 26),
            "user_id": user_id,
            "client_id": self._around.id("client_2", 26),
            "status": "active",
            "last_active_at": now,
            "expire_at": now + 7 * 86_400_000,
            "abandon_at": now + 30 * 86_400_000,
            "created_at": now,
            "updated_at": now,
        }
        self._sessions[session["id"]] = session
        return session

    def _milliseconds(self) -> int:
        return int(self._around.clock.wall() * 1000)

    def _told(self, event: str, data: Mapping[str, Any]) -> bytes:
        told = {"data": data, "instance_id": "ins_sandbox", "object": "event", "timestamp": self._milliseconds()}
        return json.dumps({**told, "type": event}, separators=(",", ":")).encode()

    def _emit(self, event: str, data: Mapping[str, Any]) -> None:
        self._around.emit(Emission(event, self._told(event, data), self._around.id("msg_", 27)))


def _json(body: bytes, kinds: Mapping[str, type]) -> dict[str, Any]:
    try:
        given = json.loads(body)
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise _Refused(400, "request_body_invalid", "Request body invalid")
    for name, value in given.items():
        if name not in kinds:
            raise _unfit(name, "is not a valid parameter for this request.", "form_param_unknown")
        if value is not None and not isinstance(value, kinds[name]):
            raise _unfit(name, "has the wrong type")
    return given


def _asked(ask: Ask) -> dict[str, str]:
    asked = dict(ask.parameters)
    for name in asked:
        if name not in _LISTING:
            raise _unfit(name, "is not a valid parameter for this request.", "form_param_unknown")
    for name, bounds in (("limit", range(1, 501)), ("offset", range(10**9))):
        if name in asked and (not asked[name].isdecimal() or int(asked[name]) not in bounds):
            raise _unfit(name, "is out of its range.")
    return asked


def _page(found: list[dict[str, Any]], asked: Mapping[str, str]) -> list[dict[str, Any]]:
    begin = int(asked.get("offset", "0"))
    return found[begin : begin + int(asked.get("limit", "10"))]


def _addresses(user: Mapping[str, Any]) -> list[str]:
    return [one["email_address"] for one in user["email_addresses"]]


def _phones(user: Mapping[str, Any]) -> list[str]:
    return [one["phone_number"] for one in user["phone_numbers"]]


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Deeply; null takes a key away."""
    merged = {name: value for name, value in old.items() if new.get(name, "") is not None}
    for name, value in new.items():
        if isinstance(value, dict) and isinstance(merged.get(name), dict):
            merged[name] = _merged(merged[name], value)
        elif value is not None:
            merged[name] = value
    return merged


STAND_IN = Registration(
    name="clerk", make=ClerkStandIn, secret="whsec_bW9vcmxpbmUncyBzYW5kYm94IG9mIENsZXJr", events=_EVENTS
)
