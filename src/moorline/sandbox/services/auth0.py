"""Auth0's stand-in: one tenant with its Management API, tokens for it, users of one database, event and log streams.

Facts: services/auth/auth0.md, auth0.json and auth0_authentication.json. ``POST /auth0/oauth/token`` takes the client
``sandbox-client`` with the secret ``sandbox-secret`` (or a JWT of a private key whose id is its public key, see
:mod:`._assertions`) and gives a token of the Management API: for the client ``readless-client`` one without the scope
``read:users``. Access tokens of users are had by ``POST /auth0/sandbox/token`` (see :mod:`._auth`), for the API
``https://api.shop.example``; of the kind ``machine`` it is the client's own. The issuer is the stand-in's address, with
a slash. Users of an address are there once; passwords of fewer than 8 characters are too weak.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, unquote

from moorline.errors import ConfigurationError
from moorline.sandbox import signing
from moorline.sandbox.services import _auth
from moorline.sandbox.services._assertions import read_assertion
from moorline.sandbox.standin import Answer, Ask, Emission, Registration, Signed, Surroundings

__all__ = ["STAND_IN"]

_API = "https://api.shop.example"
_CONNECTION = "Username-Password-Authentication"
_CLIENTS = ("sandbox-client", "readless-client")
_STREAMED = ("user.created", "user.updated", "user.deleted")
_LOGGED = {"ss": "Success Signup", "sdu": "Successful User Deletion", "s": "Success Login", "f": "Failed Login"}
_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_TEXTS = ("email", "phone_number", "given_name", "family_name", "name", "nickname", "picture", "username", "password")
_FLAGS = ("blocked", "email_verified", "phone_verified", "verify_email")
_FIELDS: dict[str, type] = {
    **dict.fromkeys(_TEXTS, str),
    **dict.fromkeys(_FLAGS, bool),
    **dict.fromkeys(("user_metadata", "app_metadata"), dict),
    "connection": str,
}
_LIMIT = 50


class _Refused(Exception):
    def __init__(self, status: int, error: str, message: str, code: str | None = None) -> None:
        super().__init__(message)
        body = {"statusCode": status, "error": error, "message": message}
        self.answer = Answer(status, body | ({"errorCode": code} if code else {}))


def _bad(message: str, code: str = "invalid_body") -> _Refused:
    return _Refused(400, "Bad Request", message, code)


class Auth0StandIn:
    """One tenant."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._signer = _auth.Signer("auth0-sandbox")
        self._tokens: dict[str, tuple[float, str]] = {}
        self._users: dict[str, dict[str, Any]] = {}
        self._second = (0, _LIMIT)
        user = "/api/v2/users/([^/]+)"
        self._routes: list[tuple[str, str, str, Callable[..., Answer]]] = [
            ("GET", "/api/v2/users", "read:users", self._list),
            ("POST", "/api/v2/users", "create:users", self._create),
            ("GET", "/api/v2/users-by-email", "read:users", self._by_email),
            ("GET", user, "read:users", self._get),
            ("PATCH", user, "update:users", self._update),
            ("DELETE", user, "delete:users", self._delete),
        ]

    async def handle(self, ask: Ask) -> Answer:
        """Answer one request."""
        own = _auth.answered(ask, self._signer, self._around, self._token)
        if own is not None:
            return own
        try:
            if (ask.method, ask.path) == ("POST", "/oauth/token"):
                return self._give(ask)
            await ask.work()
            if (ask.method, ask.path) == ("GET", "/.well-known/jwks.json"):
                return Answer(200, self._signer.jwks(), {"Cache-Control": "public, max-age=15"})
            if (ask.method, ask.path) == ("GET", "/.well-known/openid-configuration"):
                return Answer(200, {"issuer": f"{ask.base}/", "jwks_uri": f"{ask.base}/.well-known/jwks.json"})
            answer = self._routed(ask)
        except _Refused as refused:
            answer = refused.answer
        return Answer(answer.status, answer.content, {**self._limits(), **answer.headers})

    def snapshot(self) -> dict[str, Any]:
        """The users, oldest first, as the API shows them."""
        return {"users": list(self._users.values())}

    def failure(self, status: int) -> Answer:
        """Auth0's error body for an injected status."""
        if status == 429:
            refused = _Refused(429, "Too Many Requests", "Global limit has been reached", "too_many_requests")
            return Answer(429, refused.answer.content, {**self._limits(), "x-ratelimit-remaining": "0"})
        return _Refused(status, "Internal Server Error", "An internal server error occurred").answer

    def sample(self, event: str) -> bytes:
        """A delivery of an event stream, or of a log stream."""
        if event in _STREAMED:
            return self._streamed(event, self._made({"email": "ada@example.com", "connection": _CONNECTION}))
        if event in _LOGGED:
            data = {"type": event, "date": self._now(), "description": _LOGGED[event], "user_id": "auth0|sample"}
            return _line({"log_id": self._around.id("900", 50), "data": data})
        raise ConfigurationError(f"'event': the sandbox knows {', '.join([*_STREAMED, *_LOGGED])} of Auth0")

    def sign(self, emission: Emission, *, url: str, secrets: tuple[str, ...], hook_id: str, broken: bool) -> Signed:
        """Nothing is signed: the token that was typed is shown."""
        return signing.signed(
            "auth0",
            emission,
            url=url,
            secrets=secrets,
            broken=broken,
            now=self._around.clock.wall(),
            headers={"Content-Type": "application/json"},
        )

    def _give(self, ask: Ask) -> Answer:
        """A token of the Management API, by client credentials."""
        form = {name: values[0] for name, values in parse_qs(ask.body.decode("utf-8", "replace")).items()}
        if form.get("grant_type") != "client_credentials":
            return Answer(403, {"error": "unauthorized_client", "error_description": "Grant type not allowed"})
        if form.get("client_id") not in _CLIENTS or not self._proved(form, ask.base):
            return Answer(401, {"error": "access_denied", "error_description": "Unauthorized"})
        if form.get("audience") != f"{ask.base}/api/v2/":
            return Answer(403, {"error": "access_denied", "error_description": "Service not found"})
        token = self._around.id("eyJ", 80)
        self._tokens[token] = self._around.clock.monotonic() + 86_400, form["client_id"]
        scope = "read:users create:users update:users delete:users"
        return Answer(200, {"access_token": token, "scope": scope, "expires_in": 86_400, "token_type": "Bearer"})

    def _proved(self, form: Mapping[str, str], base: str) -> bool:
        if form.get("client_assertion_type") != _ASSERTION:
            return form.get("client_secret") == "sandbox-secret"
        try:
            _, claims = read_assertion(form.get("client_assertion", ""))
        except ValueError:
            return False
        who = claims.get("iss") == claims.get("sub") == form["client_id"] and bool(claims.get("jti"))
        return who and claims.get("aud") == f"{base}/" and claims.get("exp", 0) > self._around.clock.wall()

    def _token(self, wanted: _auth.Asked, now: int, base: str) -> str | Answer:
        """An access token for the API: of a user, or of the kind ``machine`` the client's own."""
        if wanted.kind == "machine":
            usual = {"iss": f"{base}/", "sub": "sandbox-client@clients", "aud": _API, "azp": "sandbox-client"}
            return self._signer.token(wanted.applied({**usual, "gty": "client-credentials"}, now, 86_400))
        if wanted.user_id not in self._users:
            return _Refused(404, "Not Found", "The user does not exist.", "inexistent_user").answer
        claims: dict[str, Any] = {
            "iss": f"{base}/",
            "sub": wanted.user_id,
            "aud": [_API, f"{base}/userinfo"],
            "azp": "sandbox-page",
            "scope": "openid profile email",
        }
        return self._signer.token(wanted.applied(claims, now, 7200))

    def _routed(self, ask: Ask) -> Answer:
        scheme, _, token = ask.headers.get("authorization", "").partition(" ")
        until, client = self._tokens.get(token, (0.0, ""))
        if scheme.lower() != "bearer" or until <= self._around.clock.monotonic():
            raise _Refused(401, "Unauthorized", "Invalid token")
        for method, pattern, scope, action in self._routes:
            found = re.fullmatch(pattern, ask.path)
            if method == ask.method and found:
                if client == "readless-client" and scope == "read:users":
                    message = f"Insufficient scope, expected any of: {scope}"
                    raise _Refused(403, "Forbidden", message, "insufficient_scope")
                return action(ask, *(unquote(one) for one in found.groups()))
        raise _Refused(404, "Not Found", "Not Found")

    def _list(self, ask: Ask) -> Answer:
        asked = dict(ask.parameters)
        page, size = int(asked.get("page", "0")), int(asked.get("per_page", "50"))
        if size > 50 or (page + 1) * size > 1000 + size - 1:
            raise _bad("You can only page through the first 1000 records", "invalid_paging")
        words = re.findall(r"[\w@.]+", asked.get("q", "").rpartition(":")[2].lower())
        found = [one for one in self._users.values() if all(word in json.dumps(one).lower() for word in words)]
        if asked.get("sort") == "created_at:-1":
            found.reverse()
        part = found[page * size : (page + 1) * size]
        if asked.get("include_totals") != "true":
            return Answer(200, part)
        return Answer(
            200, {"start": page * size, "limit": size, "length": len(part), "total": len(found), "users": part}
        )

    def _by_email(self, ask: Ask) -> Answer:
        wanted = dict(ask.parameters).get("email")
        return Answer(200, [one for one in self._users.values() if one.get("email") == wanted])

    def _create(self, ask: Ask) -> Answer:
        given = _json(ask.body, {**_FIELDS, "user_id": str})
        if "connection" not in given:
            raise _bad("Payload validation error: 'Missing required property: connection'.")
        if given["connection"] != _CONNECTION:
            raise _bad("The connection does not exist.", "inexistent_connection")
        if len(given.get("password", "")) < 8:
            raise _bad("PasswordStrengthError: Password is too weak", "password_strength_error")
        user = self._made(given)
        if user["user_id"] in self._users or self._taken(user.get("email"), ""):
            raise _Refused(409, "Conflict", "The user already exists.", "auth0_idp_error")
        self._users[user["user_id"]] = user
        self._emit("user.created", user)
        return Answer(201, user)

    def _get(self, ask: Ask, user_id: str) -> Answer:
        return Answer(200, self._known(user_id))

    def _update(self, ask: Ask, user_id: str) -> Answer:
        user, given = self._known(user_id), _json(ask.body, _FIELDS)
        if not given:
            raise _bad("Payload validation error: 'Too few properties defined (0), minimum 1'.")
        if self._taken(given.get("email"), user_id):
            raise _bad("The specified new email already exists", "auth0_idp_error")
        for name in ("user_metadata", "app_metadata"):
            if given.get(name):
                merged = {**user.get(name, {}), **given[name]}
                given[name] = {key: value for key, value in merged.items() if value is not None}
        hidden = ("password", "connection", "verify_email")
        user.update({name: value for name, value in given.items() if name not in hidden}, updated_at=self._now())
        self._emit("user.updated", user)
        return Answer(200, user)

    def _delete(self, ask: Ask, user_id: str) -> Answer:
        user = self._users.pop(user_id, None)
        if user is not None:
            self._emit("user.deleted", user)
        return Answer(204)

    def _known(self, user_id: str) -> dict[str, Any]:
        if user_id not in self._users:
            raise _Refused(404, "Not Found", "The user does not exist.", "inexistent_user")
        return self._users[user_id]

    def _taken(self, email: str | None, user_id: str) -> bool:
        others = [one for one in self._users.values() if one["user_id"] != user_id]
        return email is not None and any(one.get("email") == email.lower() for one in others)

    def _made(self, given: Mapping[str, Any]) -> dict[str, Any]:
        own = given.get("user_id") or f"{self._around.random.getrandbits(96):024x}"
        identity = {"connection": given["connection"], "user_id": own, "provider": "auth0", "isSocial": False}
        shown = {name: value for name, value in given.items() if name in _FIELDS}
        for hidden in ("password", "connection", "verify_email"):
            shown.pop(hidden, None)
        email = given.get("email", "").lower()
        return {
            "name": email,
            "nickname": email.partition("@")[0],
            "picture": "https://s.gravatar.example/avatar/none",
            "email_verified": False,
            **shown,
            **({"email": email} if email else {}),
            "user_id": f"auth0|{own}",
            "identities": [identity],
            "created_at": self._now(),
            "updated_at": self._now(),
        }

    def _now(self) -> str:
        return datetime.fromtimestamp(self._around.clock.wall(), UTC).isoformat(timespec="milliseconds")[:-6] + "Z"

    def _streamed(self, event: str, user: Mapping[str, Any]) -> bytes:
        return _line(
            {
                "id": self._around.id("evt_", 16),
                "source": "urn:auth0:sandbox.users",
                "specversion": "1.0",
                "type": event,
                "time": self._now(),
                "data": {"object": user},
                "a0tenant": "sandbox",
                "a0stream": "est_sandbox",
            }
        )

    def _emit(self, event: str, user: Mapping[str, Any]) -> None:
        body = self._streamed(event, user)
        self._around.emit(Emission(event, body, json.loads(body)["id"]))

    def _limits(self) -> dict[str, str]:
        """Absolute UNIX seconds, windows of a second."""
        now = self._around.now()
        self._second = (now, _LIMIT if self._second[0] != now else max(self._second[1] - 1, 0))
        left = str(self._second[1])
        return {"x-ratelimit-limit": str(_LIMIT), "x-ratelimit-remaining": left, "x-ratelimit-reset": str(now + 1)}


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _json(body: bytes, kinds: Mapping[str, type]) -> dict[str, Any]:
    try:
        given = json.loads(body)
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise _bad("Invalid request payload JSON format")
    for name, value in given.items():
        if name not in kinds:
            raise _bad(f"Payload validation error: 'Additional properties not allowed: {name}'.")
        if value is not None and not isinstance(value, kinds[name]):
            raise _bad(f"Payload validation error: 'Expected type {kinds[name].__name__}' on property {name}.")
        if name == "email" and value is not None and not re.fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s]+", str(value)):
            raise _bad("Payload validation error: 'Object didn't pass validation for format email' on property email.")
    return given


STAND_IN = Registration(
    name="auth0", make=Auth0StandIn, secret="sandbox-auth0-token", events=(*_STREAMED, "ss", "sdu", "s", "f")
)
