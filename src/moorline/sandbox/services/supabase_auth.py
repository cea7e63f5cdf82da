"""Supabase Auth's stand-in: one project with its users, access tokens of both kinds, bans, sign-outs, a signed hook.

Facts: services/auth/supabase_auth.md and supabase_auth.json. Keys begin with ``sb_secret_`` (those that end in
``wrong`` are refused) or are the older ``service_role`` JWT; ``sb_publishable_…`` may not manage users. Access tokens
of users are had by ``POST /supabase_auth/sandbox/token`` (see :mod:`._auth`), signed with ES256, or, of the kind
``legacy``, with the project's shared secret, which is ``the-sandbox-of-moorline-shares-this-jwt-secret``; the kind
``service_role`` is the project's own key. The issuer is the stand-in's address. The hook after-user-created is told of
every new user.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

from moorline.errors import ConfigurationError
from moorline.sandbox import signing
from moorline.sandbox.services import _auth
from moorline.sandbox.standin import Answer, Ask, Emission, Registration, Signed, Surroundings

__all__ = ["STAND_IN"]

_SHARED = "the-sandbox-of-moorline-shares-this-jwt-secret"
_HOOK = "after-user-created"
_FIELDS: dict[str, type] = {
    **dict.fromkeys(("email", "phone", "password", "password_hash", "role", "ban_duration", "id"), str),
    **dict.fromkeys(("email_confirm", "phone_confirm"), bool),
    **dict.fromkeys(("user_metadata", "app_metadata"), dict),
}
_DURATION = re.compile(r"([0-9]+)h|none")
_LONGEST = 876_000


class _Refused(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.answer = Answer(status, {"code": code, "message": message}, {"x-sb-error-code": code})


def _unfit(message: str, code: str = "validation_failed", status: int = 400) -> _Refused:
    return _Refused(status, code, message)


class SupabaseAuthStandIn:
    """One project."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._signer = _auth.Signer("supabase-sandbox", curve=True)
        self._users: dict[str, dict[str, Any]] = {}
        self._tokens: dict[str, tuple[str, str, float]] = {}  # of a user, a session, and until when
        user = "/admin/users/([^/]+)"
        self._routes: list[tuple[str, str, Callable[..., Answer]]] = [
            ("GET", "/admin/users", self._list),
            ("POST", "/admin/users", self._create),
            ("GET", user, self._get),
            ("PUT", user, self._update),
            ("DELETE", user, self._delete),
        ]

    async def handle(self, ask: Ask) -> Answer:
        """Answer one request, in the shape of the version that it names."""
        own = _auth.answered(ask, self._signer, self._around, self._token)
        if own is not None:
            return own
        try:
            if (ask.method, ask.path) == ("GET", "/.well-known/jwks.json"):
                await ask.work()
                return Answer(200, self._signer.jwks(), {"Cache-Control": "public, max-age=600"})
            self._check_key(ask)
            await ask.work()
            return self._routed(ask)
        except _Refused as refused:
            return _shaped(refused.answer, ask.headers.get("x-supabase-api-version"))

    def snapshot(self) -> dict[str, Any]:
        """The users, oldest first, as the API shows them."""
        return {"users": list(self._users.values())}

    def failure(self, status: int) -> Answer:
        """Supabase's error body for an injected status."""
        code = "over_request_rate_limit" if status == 429 else "unexpected_failure"
        return _Refused(status, code, "Request rate limit reached" if status == 429 else "Unexpected failure").answer

    def sample(self, event: str) -> bytes:
        """A delivery of the hook."""
        if event != _HOOK:
            raise ConfigurationError(f"'event': the sandbox knows {_HOOK} of Supabase Auth")
        return self._told(self._made({"email": "ada@example.com"}))

    def sign(self, emission: Emission, *, url: str, secrets: tuple[str, ...], hook_id: str, broken: bool) -> Signed:
        """By Standard Webhooks."""
        return signing.signed(
            "supabase_auth",
            emission,
            url=url,
            secrets=secrets,
            broken=broken,
            now=self._around.clock.wall(),
            headers={"Content-Type": "application/json"},
        )

    def _check_key(self, ask: Ask) -> None:
        """The gateway's part: it knows the keys of the project, and nothing of users."""
        key = ask.headers.get("apikey", "")
        if not key:
            raise _Refused(401, "no_api_key", "No API key found in request")
        if not (key.startswith(("sb_secret_", "sb_publishable_")) and not key.endswith("wrong")) and not _role(key):
            raise _Refused(401, "invalid_api_key", "Invalid API key")

    def _routed(self, ask: Ask) -> Answer:
        if (ask.method, ask.path) == ("GET", "/user"):
            return Answer(200, self._users[self._bearer(ask)[0]])
        if (ask.method, ask.path) == ("POST", "/logout"):
            return self._logout(ask)
        for method, pattern, action in self._routes:
            found = re.fullmatch(pattern, ask.path)
            if method == ask.method and found:
                self._check_admin(ask)
                return action(ask, *(unquote(one) for one in found.groups()))
        raise _Refused(404, "not_found", "404 page not found")

    def _check_admin(self, ask: Ask) -> None:
        key = ask.headers["apikey"]
        scheme, _, shown = ask.headers.get("authorization", "").partition(" ")
        if key.startswith("sb_secret_"):
            return
        if key.startswith("sb_publishable_"):
            raise _Refused(401, "no_authorization", "This endpoint requires a Bearer token")
        if scheme.lower() != "bearer" or shown != key or _role(key) != "service_role":
            raise _Refused(403, "not_admin", "User not allowed")

    def _bearer(self, ask: Ask) -> tuple[str, str]:
        """The user and the session of an access token."""
        scheme, _, token = ask.headers.get("authorization", "").partition(" ")
        user_id, session, until = self._tokens.get(token, ("", "", 0.0))
        if scheme.lower() != "bearer":
            raise _Refused(401, "no_authorization", "This endpoint requires a Bearer token")
        if user_id not in self._users:
            raise _Refused(403, "bad_jwt", "invalid JWT: unable to parse or verify signature")
        if until <= self._around.clock.wall():
            raise _Refused(403, "bad_jwt", "invalid JWT: token is expired")
        if not session:
            raise _Refused(403, "session_not_found", "Session from session_id claim in JWT does not exist")
        return user_id, session

    def _logout(self, ask: Ask) -> Answer:
        scope = dict(ask.parameters).get("scope", "global")
        user_id, session = self._bearer(ask)
        for token, (owner, known, until) in self._tokens.items():
            ends = {"global": True, "local": known == session, "others": known != session}[scope]
            if owner == user_id and ends:
                self._tokens[token] = (owner, "", until)
        return Answer(204)

    def _token(self, wanted: _auth.Asked, now: int, base: str) -> str | Answer:
        """An access token of a user, or the project's own key."""
        if wanted.kind == "service_role":
            return _auth.hs256(
                {"iss": "supabase", "ref": "sandbox", "role": "service_role", "exp": now + 3600}, _SHARED
            )
        user = self._users.get(wanted.user_id)
        if user is None:
            return _Refused(404, "user_not_found", "User not found").answer
        session = self._uuid()
        usual = {
            "iss": base,
            "sub": user["id"],
            "aud": "authenticated",
            **{name: user[name] for name in ("email", "phone", "app_metadata", "user_metadata", "role")},
            "aal": "aal1",
            "amr": [{"method": "password", "timestamp": now}],
            "session_id": session,
            "is_anonymous": user["is_anonymous"],
        }
        claims = wanted.applied(usual, now, 3600)
        token = _auth.hs256(claims, _SHARED) if wanted.kind == "legacy" else self._signer.token(claims)
        self._tokens[token] = (user["id"], session, float(claims.get("exp") or 0))
        return token

    def _list(self, ask: Ask) -> Answer:
        asked = dict(ask.parameters)
        page, size = int(asked.get("page", "1")), int(asked.get("per_page", "50"))
        if page < 1 or size < 1:
            raise _unfit("Bad Pagination Parameters")
        found = [one for one in self._users.values() if asked.get("filter", "") in one["email"]]
        part = found[(page - 1) * size : page * size]
        return Answer(200, {"users": part, "aud": "authenticated"}, {"X-Total-Count": str(len(found))})

    def _create(self, ask: Ask) -> Answer:
        given = _json(ask.body)
        if not given.get("email") and not given.get("phone"):
            raise _unfit("Cannot create a user without either an email or phone")
        self._check(given, "")
        if given.get("id") in self._users:
            raise _unfit("A user with this id has already been registered", "email_exists", 422)
        user = self._made(given)
        self._users[user["id"]] = user
        self._around.emit(Emission(_HOOK, self._told(user), self._uuid()))
        return Answer(200, user)

    def _get(self, ask: Ask, user_id: str) -> Answer:
        return Answer(200, self._known(user_id))

    def _update(self, ask: Ask, user_id: str) -> Answer:
        user, given = self._known(user_id), _json(ask.body)
        self._check(given, user_id)
        for name in ("user_metadata", "app_metadata"):
            merged = {**user[name], **(given.get(name) or {})}
            user[name] = {key: value for key, value in merged.items() if value is not None}
        user.update({name: given[name] for name in ("email", "phone", "role") if given.get(name) is not None})
        self._settle(user, given)
        return Answer(200, user)

    def _delete(self, ask: Ask, user_id: str) -> Answer:
        user = self._known(user_id)
        if ask.body and json.loads(ask.body).get("should_soft_delete"):
            user.update(email="", phone="", user_metadata={}, deleted_at=self._now())
        else:
            del self._users[user_id]
        return Answer(200, {})

    def _known(self, user_id: str) -> dict[str, Any]:
        try:
            uuid.UUID(user_id)
        except ValueError:
            raise _Refused(404, "validation_failed", "user_id must be an UUID") from None
        if user_id not in self._users:
            raise _Refused(404, "user_not_found", "User not found")
        return self._users[user_id]

    def _check(self, given: Mapping[str, Any], user_id: str) -> None:
        others = [one for one in self._users.values() if one["id"] != user_id]
        email, phone = given.get("email"), (given.get("phone") or "").lstrip("+")
        if email and not re.fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s]+", email):
            raise _unfit("Unable to validate email address: invalid format")
        if phone and not re.fullmatch(r"[1-9][0-9]{6,14}", phone):
            raise _unfit("Invalid phone number format (E.164 required)")
        if email and any(one["email"] == email.lower() for one in others):
            raise _unfit("A user with this email address has already been registered", "email_exists", 422)
        if phone and any(one["phone"] == phone for one in others):
            raise _unfit("A user with this phone number has already been registered", "phone_exists", 422)
        if given.get("password") is not None and len(given["password"]) < 6:
            raise _unfit("Password should be at least 6 characters.", "weak_password", 422)
        if given.get("ban_duration") is not None and not _DURATION.fullmatch(given["ban_duration"]):
            raise _unfit("invalid format for ban duration")

    def _made(self, given: Mapping[str, Any]) -> dict[str, Any]:
        kind = "email" if given.get("email") else "phone"
        user: dict[str, Any] = {
            "id": given.get("id") or self._uuid(),
            "aud": "authenticated",
            "role": given.get("role") or "authenticated",
            "email": (given.get("email") or "").lower(),
            "phone": (given.get("phone") or "").lstrip("+"),
            "app_metadata": {"provider": kind, "providers": [kind], **(given.get("app_metadata") or {})},
            "user_metadata": dict(given.get("user_metadata") or {}),
            "identities": [],
            "created_at": self._now(),
            "is_anonymous": False,
        }
        self._settle(user, given)
        return user

    def _settle(self, user: dict[str, Any], given: Mapping[str, Any]) -> None:
        """What confirmations and bans make of a user."""
        user["updated_at"] = self._now()
        for kind in ("email", "phone"):
            if given.get(f"{kind}_confirm"):
                user.setdefault(f"{kind}_confirmed_at", self._now())
        found = _DURATION.fullmatch(given.get("ban_duration") or "")
        if found and found[1]:
            user["banned_until"] = self._now(min(int(found[1]), _LONGEST) * 3600)
        elif found:
            user.pop("banned_until", None)

    def _uuid(self) -> str:
        return str(uuid.UUID(int=self._around.random.getrandbits(128), version=4))

    def _now(self, later: float = 0.0) -> str:
        return datetime.fromtimestamp(self._around.clock.wall() + later, UTC).isoformat().replace("+00:00", "Z")

    def _told(self, user: Mapping[str, Any]) -> bytes:
        metadata = {"uuid": self._uuid(), "time": self._now(), "name": _HOOK, "ip_address": "127.0.0.1"}
        return json.dumps({"metadata": metadata, "user": user}, separators=(",", ":")).encode()


def _role(key: str) -> str:
    """The role of a project's older key, which is signed with its secret; empty for anything else."""
    head, _, mark = key.rpartition(".")
    try:
        claims = json.loads(_auth.unb64(head.partition(".")[2]))
    except ValueError:
        return ""
    genuine = isinstance(claims, dict) and bool(mark) and _auth.hs256(claims, _SHARED) == key
    return str(claims.get("role", "")) if genuine and claims.get("iss") == "supabase" else ""


def _shaped(answer: Answer, version: str | None) -> Answer:
    """Without a version the code is the status, and the word stands elsewhere."""
    if version == "2024-01-01":
        return answer
    told = answer.content
    body = {"code": answer.status, "error_code": told["code"], "msg": told["message"]}
    return Answer(answer.status, body, answer.headers)


def _json(body: bytes) -> dict[str, Any]:
    try:
        given = json.loads(body)
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise _unfit("Could not parse request body as JSON", "bad_json")
    for name, value in given.items():
        if value is not None and name in _FIELDS and not isinstance(value, _FIELDS[name]):
            raise _unfit(f"Could not read {name}", "bad_json")
    return given


STAND_IN = Registration(
    name="supabase_auth",
    make=SupabaseAuthStandIn,
    secret="v1,whsec_bW9vcmxpbmUncyBzYW5kYm94IG9mIFN1cGFiYXNl",
    events=(_HOOK,),
)
