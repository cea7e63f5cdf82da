"""Firebase Authentication's stand-in: one project with its users, ID tokens, session cookies, Google's certificates.

Facts: services/auth/firebase_auth.md and firebase_auth.json. ``POST /firebase_auth/token`` takes the signed JWT of a
key file, as FCM's does. The project is ``moorline-sandbox``; a tenant of it is named in the path and keeps its own
users. ID tokens are had by ``POST /firebase_auth/sandbox/token`` (see :mod:`._auth`), and by the kind ``blocking`` the
token of a blocking function (give ``aud``, its address, among the claims). The certificates are at Google's paths.
Passwords of fewer than 6 characters are too weak.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from moorline.errors import ConfigurationError
from moorline.sandbox.services import _auth
from moorline.sandbox.services._google import GoogleTokens
from moorline.sandbox.standin import Answer, Ask, Emission, Registration, Signed, Surroundings

__all__ = ["STAND_IN"]

_PROJECT = "moorline-sandbox"
_SCOPES = (
    "https://www.googleapis.com/auth/identitytoolkit",
    "https://www.googleapis.com/auth/cloud-platform",
)
_CERTIFICATES = "/robot/v1/metadata/x509/securetoken@system.gserviceaccount.com"
_COOKIES = "/identitytoolkit/v3/relyingparty/publicKeys"
_LASTING = {"Cache-Control": "public, max-age=19000, must-revalidate, no-transform"}
_TEXTS = ("localId", "email", "password", "displayName", "photoUrl", "phoneNumber")
_CREATE: dict[str, type] = {**dict.fromkeys(_TEXTS, str), **dict.fromkeys(("emailVerified", "disabled"), bool)}
_UPDATE: dict[str, type] = {
    **dict.fromkeys((*_TEXTS, "customAttributes", "validSince"), str),
    **dict.fromkeys(("emailVerified", "disableUser"), bool),
    **dict.fromkeys(("deleteAttribute", "deleteProvider"), list),
}
_GONE = {"DISPLAY_NAME": "displayName", "PHOTO_URL": "photoUrl", "EMAIL": "email"}


class _Refused(Exception):
    def __init__(self, status: int, message: str, word: str | None = None) -> None:
        super().__init__(message)
        faults = [{"message": message, "reason": "invalid", "domain": "global"}]
        error = {"code": status, "message": message, "errors": faults, **({"status": word} if word else {})}
        self.answer = Answer(status, {"error": error})


class FirebaseAuthStandIn:
    """One project, Google's token endpoint, and its certificates."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._google = GoogleTokens(around, *_SCOPES)
        self._signer = _auth.Signer("firebase-tokens")
        self._cookies = _auth.Signer("firebase-cookies")
        self._users: dict[str, dict[str, Any]] = {}
        self._tokens: dict[str, str] = {}  # the user of an ID token that was given out
        project = rf"/v1/projects/{_PROJECT}(?:/tenants/([^/:]+))?"
        self._routes: list[tuple[str, str, Callable[[dict[str, Any], str | None], Any]]] = [
            ("POST", rf"{project}/accounts", self._create),
            ("POST", rf"{project}/accounts:lookup", self._look_up),
            ("POST", rf"{project}/accounts:update", self._update),
            ("POST", rf"{project}/accounts:delete", self._delete),
            ("POST", rf"{project}/accounts:batchDelete", self._delete_many),
            ("POST", rf"{project}:createSessionCookie", self._cookie),
            ("GET", rf"{project}/accounts:batchGet", self._list),
        ]

    async def handle(self, ask: Ask) -> Answer:
        """Answer one request."""
        own = _auth.answered(ask, self._signer, self._around, self._token)
        if own is not None:
            return own
        if (ask.method, ask.path) == ("POST", "/token"):
            return self._google.give(ask)
        keys = self._google.managed(ask)
        if keys is not None:
            return keys
        try:
            await ask.work()
            if ask.method == "GET" and ask.path in (_CERTIFICATES, _COOKIES):
                signer = self._signer if ask.path == _CERTIFICATES else self._cookies
                return Answer(200, signer.certificates(), _LASTING)
            return self._routed(ask)
        except _Refused as refused:
            return refused.answer

    def snapshot(self) -> dict[str, Any]:
        """The users, oldest first, as the API shows them."""
        return {"users": list(self._users.values())}

    def failure(self, status: int) -> Answer:
        """Google's error body for an injected status."""
        message, word = {429: ("QUOTA_EXCEEDED : Exceeded quota.", "RESOURCE_EXHAUSTED")}.get(
            status, ("Internal error encountered.", "INTERNAL")
        )
        return _Refused(status, message, word).answer

    def sample(self, event: str) -> bytes:
        """Firebase sends none."""
        raise ConfigurationError("'event': Firebase Authentication sends no webhooks")

    def sign(self, emission: Emission, *, url: str, secrets: tuple[str, ...], hook_id: str, broken: bool) -> Signed:
        """Firebase sends none."""
        raise ConfigurationError("'service': Firebase Authentication sends no webhooks")

    def _routed(self, ask: Ask) -> Answer:
        if not self._google.known(ask):
            message = "Request had invalid authentication credentials. Expected OAuth 2 access token."
            raise _Refused(401, message, "UNAUTHENTICATED")
        for method, pattern, action in self._routes:
            found = re.fullmatch(pattern, ask.path)
            if method == ask.method and found:
                given = dict(ask.parameters) if method == "GET" else _json(ask.body)
                return Answer(200, action(given, found[1]))
        if re.match(r"/v1/projects/[^/]+[/:]", ask.path):
            raise _Refused(403, "INSUFFICIENT_PERMISSION", "PERMISSION_DENIED")
        raise _Refused(404, "Requested entity was not found.", "NOT_FOUND")

    def _token(self, wanted: _auth.Asked, now: int, base: str) -> str | Answer:
        """An ID token, or the token of a blocking function."""
        user = self._users.get(wanted.user_id)
        if user is None:
            return _Refused(400, "USER_NOT_FOUND").answer
        usual = {
            "iss": f"https://securetoken.google.com/{_PROJECT}",
            "aud": _PROJECT,
            "sub": user["localId"],
        }
        if wanted.kind == "blocking":
            event = {"event_id": self._around.id("", 20), "event_type": "beforeSignIn", "ip_address": "192.0.2.1"}
            told = {"user_record": {"uid": user["localId"], "email": user.get("email")}, "user_agent": "Mozilla/5.0"}
            whole = {**usual, **event, **told, "sign_in_method": "password", "locale": "en"}
            return self._signer.token(wanted.applied(whole, now, 3600))
        claims = wanted.applied({**usual, **self._about(user, now)}, now, 3600)
        token = self._signer.token(claims)
        self._tokens[token] = user["localId"]
        return token

    def _about(self, user: Mapping[str, Any], now: int) -> dict[str, Any]:
        provider = "password" if user.get("email") else "phone" if user.get("phoneNumber") else "anonymous"
        named = {"name": "displayName", "picture": "photoUrl", "email": "email", "phone_number": "phoneNumber"}
        firebase = {"identities": {}, "sign_in_provider": provider}
        tenant = user.get("tenantId")
        return {
            **{claim: user[name] for claim, name in named.items() if name in user},
            **({"email_verified": user["emailVerified"]} if "email" in user else {}),
            **json.loads(user.get("customAttributes") or "{}"),
            "auth_time": now,
            "user_id": user["localId"],
            "firebase": firebase | ({"tenant": tenant} if tenant else {}),
        }

    def _create(self, given: dict[str, Any], tenant: str | None) -> dict[str, Any]:
        _check(given, _CREATE)
        uid = given.get("localId") or self._around.id("", 28)
        if uid in self._users:
            raise _Refused(400, "DUPLICATE_LOCAL_ID")
        self._free(given, "")
        now = self._milliseconds()
        user = {
            "localId": uid,
            "emailVerified": False,
            **{name: value for name, value in given.items() if name not in ("password", "localId")},
            "disabled": given.get("disabled", False),
            "validSince": str(self._around.now()),
            "createdAt": str(now),
            "providerUserInfo": [],
            **({"tenantId": tenant} if tenant else {}),
        }
        self._users[uid] = user
        return {"kind": "identitytoolkit#SignupNewUserResponse", "localId": uid}

    def _look_up(self, given: dict[str, Any], tenant: str | None) -> dict[str, Any]:
        _check(given, dict.fromkeys(("localId", "email", "phoneNumber"), list))
        found = [
            user
            for user in self._of(tenant)
            if any(user.get(name) in values for name, values in given.items() if user.get(name) is not None)
        ]
        answer: dict[str, Any] = {"kind": "identitytoolkit#GetAccountInfoResponse"}
        return answer | ({"users": found} if found else {})

    def _update(self, given: dict[str, Any], tenant: str | None) -> dict[str, Any]:
        _check(given, _UPDATE)
        user = self._known(given.get("localId"), tenant)
        self._free(given, user["localId"])
        attributes = given.get("customAttributes", "")
        if len(attributes) > 1000:
            raise _Refused(400, "CLAIMS_TOO_LARGE")
        plain = ("email", "displayName", "photoUrl", "phoneNumber", "emailVerified", "customAttributes", "validSince")
        user.update({name: given[name] for name in plain if name in given})
        if "disableUser" in given:
            user["disabled"] = given["disableUser"]
        for name in given.get("deleteAttribute", []):
            user.pop(_GONE.get(name, ""), None)
        if "phone" in given.get("deleteProvider", []):
            user.pop("phoneNumber", None)
        shown = ("localId", "email", "displayName", "photoUrl", "emailVerified")
        answer = {name: user[name] for name in shown if name in user}
        return {"kind": "identitytoolkit#SetAccountInfoResponse", **answer}

    def _delete(self, given: dict[str, Any], tenant: str | None) -> dict[str, Any]:
        _check(given, {"localId": str})
        del self._users[self._known(given.get("localId"), tenant)["localId"]]
        return {"kind": "identitytoolkit#DeleteAccountResponse"}

    def _delete_many(self, given: dict[str, Any], tenant: str | None) -> dict[str, Any]:
        """Users whose id begins with ``stuck`` cannot be deleted: the sandbox's own."""
        _check(given, {"localIds": list, "force": bool})
        if len(given.get("localIds", [])) > 1000:
            raise _Refused(400, "MAXIMUM_USER_COUNT_EXCEEDED")
        faults = []
        for index, uid in enumerate(given.get("localIds", [])):
            user = self._users.get(uid)
            if uid.startswith("stuck") or (user and not user["disabled"] and not given.get("force")):
                fault = {"localId": uid, "message": "NOT_DISABLED : Disable the account before batch deletion."}
                faults.append(fault | ({"index": index} if index else {}))
            else:
                self._users.pop(uid, None)
        return {"errors": faults} if faults else {}

    def _cookie(self, given: dict[str, Any], tenant: str | None) -> dict[str, Any]:
        _check(given, {"idToken": str, "validDuration": str})
        uid = self._tokens.get(given.get("idToken", ""), "")
        if uid not in self._users:
            raise _Refused(400, "INVALID_ID_TOKEN")
        lasts, now = int(given.get("validDuration", "1209600")), self._around.now()
        if not 300 <= lasts <= 1_209_600:
            raise _Refused(400, "INVALID_DURATION")
        claims = {
            "iss": f"https://session.firebase.google.com/{_PROJECT}",
            "aud": _PROJECT,
            "sub": uid,
            **self._about(self._users[uid], now),
            "iat": now,
            "exp": now + lasts,
        }
        return {"sessionCookie": self._cookies.token(claims)}

    def _list(self, given: dict[str, Any], tenant: str | None) -> dict[str, Any]:
        size, after = int(given.get("maxResults", "20")), given.get("nextPageToken", "")
        if not 1 <= size <= 1000:
            raise _Refused(400, "INVALID_MAX_RESULTS")
        found = sorted((one for one in self._of(tenant) if one["localId"] > after), key=lambda one: str(one["localId"]))
        answer: dict[str, Any] = {"kind": "identitytoolkit#DownloadAccountResponse"}
        if found:
            answer["users"] = found[:size]
        return answer | ({"nextPageToken": found[size - 1]["localId"]} if len(found) > size else {})

    def _of(self, tenant: str | None) -> list[dict[str, Any]]:
        return [one for one in self._users.values() if one.get("tenantId") == tenant]

    def _known(self, uid: Any, tenant: str | None) -> dict[str, Any]:
        user = self._users.get(uid)
        if user is None or user.get("tenantId") != tenant:
            raise _Refused(400, "USER_NOT_FOUND")
        return user

    def _free(self, given: Mapping[str, Any], uid: str) -> None:
        """What is wrong with the address, the number and the password."""
        others = [one for one in self._users.values() if one["localId"] != uid]
        if "email" in given:
            if not re.fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s]+", given["email"]):
                raise _Refused(400, "INVALID_EMAIL")
            given = {**given, "email": given["email"].lower()}
        for name, code in (("email", "EMAIL_EXISTS"), ("phoneNumber", "PHONE_NUMBER_EXISTS")):
            if name in given and any(one.get(name) == given[name] for one in others):
                raise _Refused(400, code)
        if "phoneNumber" in given and not re.fullmatch(r"\+[1-9][0-9]{6,14}", given["phoneNumber"]):
            raise _Refused(400, "INVALID_PHONE_NUMBER : Invalid format.")
        if "password" in given and len(given["password"]) < 6:
            raise _Refused(400, "WEAK_PASSWORD : Password should be at least 6 characters")

    def _milliseconds(self) -> int:
        return int(self._around.clock.wall() * 1000)


def _json(body: bytes) -> dict[str, Any]:
    try:
        given = json.loads(body)
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise _Refused(400, "Invalid JSON payload received.", "INVALID_ARGUMENT")
    return given


def _check(given: Mapping[str, Any], kinds: Mapping[str, type]) -> None:
    for name, value in given.items():
        if name not in kinds:
            message = f'Invalid JSON payload received. Unknown name "{name}": Cannot find field.'
            raise _Refused(400, message, "INVALID_ARGUMENT")
        if not isinstance(value, kinds[name]):
            raise _Refused(400, f"Invalid value at '{name}'", "INVALID_ARGUMENT")


STAND_IN = Registration(name="firebase_auth", make=FirebaseAuthStandIn)
