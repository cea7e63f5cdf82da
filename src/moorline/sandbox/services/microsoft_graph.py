"""Microsoft Graph's stand-in: whose account it is, changes of that, and notifications of them.

Facts: signin/microsoft.md, learn.microsoft.com/graph/api/user-get and user-update, /graph/errors,
/graph/change-notifications-delivery-webhooks. The token ``sandbox-graph-token`` is that of ``acme``, with all rights.
Tokens that it does not know are refused (401); ``User.Read`` opens ``/v1.0/me``, ``User.ReadWrite`` changes it, which
is told as ``updated`` by a subscription that is always there.

Accounts are connected at ``/common/oauth2/v2.0/authorize``, and the same for any other tenant: see :mod:`._oauth`. They
are ``acme`` and ``globex``. Each refresh that asks for ``offline_access`` gives another refresh token and leaves the
old one good; no answer names ``offline_access`` among its scopes. Codes for devices are at
``/common/oauth2/v2.0/devicecode``.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import parse_qs

from moorline.errors import ConfigurationError
from moorline.sandbox import signing
from moorline.sandbox.services._oauth import Accounts, Person, Refused, TokenPair, bearer
from moorline.sandbox.standin import Answer, Ask, Emission, Registration, Signed, Surroundings

__all__ = ["STAND_IN"]

_KEY: Final = "sandbox-graph-token"
_SECRET: Final = "a sandbox client state"
_BASE: Final = "/common/oauth2/v2.0"
_OF_TENANT: Final = re.compile(r"\A/[A-Za-z0-9.-]+/oauth2/v2\.0(?=/)")
_OFFLINE: Final = "offline_access"
_CHANGES, _LIFECYCLE = ("created", "updated", "deleted"), ("reauthorizationRequired", "subscriptionRemoved", "missed")
_TENANT, _SUBSCRIPTION = "72f988bf-86f1-41af-91ab-2d7cd011db47", "7f105c7d-2dc5-4530-97cd-4e7ae6534c07"
_PEOPLE: Final = (
    Person("acme", "Ada at Acme", {"sub": "pairwise-acme", "oid": "00000000-0000-4000-8000-000000000001"}),
    Person("globex", "Hank at Globex", {"sub": "pairwise-globex", "oid": "00000000-0000-4000-8000-000000000002"}),
)
_CODES: Final = {"invalid_grant": 70008, "invalid_client": 7000215, "unsupported_grant_type": 70003}
_WORDS: Final = {"access_denied": "authorization_declined"}
_FIELDS: Final = (
    "businessPhones", "displayName", "givenName", "id", "jobTitle", "mail", "mobilePhone", "officeLocation",
    "preferredLanguage", "surname", "userPrincipalName",
)  # fmt: skip


def _granted(pair: TokenPair) -> dict[str, Any]:
    """As the card's example."""
    answer: dict[str, Any] = {"token_type": "Bearer", "expires_in": pair.lasts, "ext_expires_in": pair.lasts}
    answer |= {"access_token": pair.access, "scope": " ".join(one for one in pair.scopes if one != _OFFLINE)}
    return answer | ({"refresh_token": pair.refresh} if _OFFLINE in pair.scopes else {})


def _not_granted(refused: Refused) -> Answer:
    number = _CODES.get(refused.error, 900144)
    told = {"error": _WORDS.get(refused.error, refused.error), "error_codes": [number]}
    return Answer(refused.status, told | {"error_description": f"AADSTS{number}: {refused.description}"})


class MicrosoftGraphStandIn:
    """Two users of one tenant."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._accounts = Accounts(
            around,
            "Microsoft",
            _PEOPLE,
            authorize=f"{_BASE}/authorize",
            token=f"{_BASE}/token",
            device=f"{_BASE}/devicecode",
            renews=True,
            lasts=4351,
            prefix="0.",
            shape=_granted,
            failed=_not_granted,
        )
        self._users = {one.login: _profile(one) for one in _PEOPLE}
        self._version = 0

    async def handle(self, ask: Ask) -> Answer:
        """Answer one request."""
        ask = replace(ask, path=_OF_TENANT.sub(_BASE, ask.path))
        connected = self._accounts.answer(ask)
        if connected is not None:
            return _without_refresh(ask, connected)
        held = self._held(ask)
        if held is None:
            return self._error(401, "InvalidAuthenticationToken", "Access token has expired or is not yet valid.")
        await ask.work()
        login, scopes = held
        if (ask.method, ask.path) == ("GET", "/oidc/userinfo"):
            person = next(one for one in _PEOPLE if one.login == login)
            return Answer(200, {"sub": person.claims["sub"], "name": person.name})
        if ask.path != "/v1.0/me":
            return self._error(404, "itemNotFound", "The resource could not be found.")
        if ask.method not in ("GET", "PATCH"):
            return self._error(405, "notAllowed", "The action is not allowed by the system.")
        if not scopes & {"User.ReadWrite", *(("User.Read",) if ask.method == "GET" else ())}:
            return self._error(403, "accessDenied", "Insufficient privileges to complete the operation.")
        return self._me(login) if ask.method == "GET" else self._changed(ask, login)

    def snapshot(self) -> dict[str, Any]:
        """The users, and who has connected an account."""
        return {"users": self._users, "accounts": self._accounts.snapshot()}

    def failure(self, status: int) -> Answer:
        """Graph's error body for an injected status."""
        if status == 429:
            return self._error(429, "activityLimitReached", "The app or user has been throttled.")
        return self._error(status, "serviceNotAvailable", "The service is not available.")

    def sample(self, event: str) -> bytes:
        """A notification about a message that nobody has, or about the subscription."""
        if event in _LIFECYCLE:
            return self._told({"lifecycleEvent": event, "resource": "users/1/messages"})
        if event not in _CHANGES:
            raise ConfigurationError(f"'event': the sandbox knows {', '.join((*_CHANGES, *_LIFECYCLE))} of Graph")
        about = {"@odata.type": "#Microsoft.Graph.Message", "@odata.etag": 'W/"CQAA"', "id": "AAMk"}
        return self._told({"changeType": event, "resource": "users/1/messages/AAMk", "resourceData": about})

    def sign(self, emission: Emission, *, url: str, secrets: tuple[str, ...], hook_id: str, broken: bool) -> Signed:
        """With the secret in each notification."""
        return signing.signed(
            "microsoft_graph",
            emission,
            url=url,
            secrets=secrets,
            broken=broken,
            now=self._around.clock.wall(),
            headers={"Content-Type": "application/json; charset=utf-8"},
        )

    # --- parts

    def _held(self, ask: Ask) -> tuple[str, frozenset[str]] | None:
        token = bearer(ask)
        if token == _KEY:
            return "acme", frozenset({"User.Read", "User.ReadWrite"})
        found = self._accounts.allowed(token)
        return None if found is None else (found[0].login, frozenset(found[1]))

    def _me(self, login: str) -> Answer:
        return Answer(200, self._users[login], {"request-id": self._around.id("", 32)})

    def _changed(self, ask: Ask, login: str) -> Answer:
        try:
            given = json.loads(ask.body)
        except ValueError:
            given = None
        if not isinstance(given, dict) or not given or not given.keys() <= set(_FIELDS) - {"id"}:
            return self._error(400, "invalidRequest", "The request is malformed or incorrect.")
        user = self._users[login]
        user.update(given)
        self._version += 1
        about = {"@odata.type": "#Microsoft.Graph.User", "@odata.etag": f'W/"{self._version}"', "id": user["id"]}
        body = self._told({"changeType": "updated", "resource": f"users/{user['id']}", "resourceData": about})
        self._around.emit(Emission("updated", body, self._around.id("", 32)))
        return Answer(204, None, {"request-id": self._around.id("", 32)})

    def _told(self, what: dict[str, Any]) -> bytes:
        ends = datetime.fromtimestamp(self._around.now() + 3600, UTC).isoformat().replace("+00:00", "Z")
        usual = {"id": self._around.id("", 13), "subscriptionId": _SUBSCRIPTION, "tenantId": _TENANT}
        whole = {"value": [{**usual, "subscriptionExpirationDateTime": ends, **what}]}
        return json.dumps(whole, separators=(",", ":")).encode()

    def _error(self, status: int, code: str, message: str) -> Answer:
        number, at = self._around.id("", 32), datetime.fromtimestamp(self._around.now(), UTC)
        inner = {"request-id": number, "client-request-id": number, "date": at.strftime("%Y-%m-%dT%H:%M:%S")}
        headers = {"request-id": number, **({"Retry-After": "10"} if status == 429 else {})}
        return Answer(status, {"error": {"code": code, "message": message, "innerError": inner}}, headers)


def _profile(person: Person) -> dict[str, Any]:
    first, _, last = person.name.partition(" at ")
    address = f"{person.login}@contoso.example"
    known = {"displayName": person.name, "givenName": first, "surname": last, "id": person.claims["oid"]}
    return {**dict.fromkeys(_FIELDS), "businessPhones": [], **known, "mail": address, "userPrincipalName": address}


def _without_refresh(ask: Ask, answer: Answer) -> Answer:
    """A refresh that does not ask for ``offline_access`` brings no refresh token."""
    form = parse_qs(ask.body.decode("utf-8", "replace")) if ask.path == f"{_BASE}/token" else {}
    asked = form.get("scope", [""])[0].split()
    if form.get("grant_type") == ["refresh_token"] and _OFFLINE not in asked and isinstance(answer.content, dict):
        answer.content.pop("refresh_token", None)
    return answer


STAND_IN = Registration(
    name="microsoft_graph", make=MicrosoftGraphStandIn, secret=_SECRET, events=(*_CHANGES, *_LIFECYCLE)
)
