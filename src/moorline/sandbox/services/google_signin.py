"""Google's sign-in: the page, tokens with an ID token, userinfo, discovery and keys.

Facts: signin/google.md. Users: ``ada@gmail.com`` (Google answers for the address), ``grace@corp.example`` (of the
Workspace ``corp.example``), ``mallory@victim.example`` (a Google account on an address of somebody else's domain, which
proves nothing any more). See :mod:`._signin`. ``POST /google_signin/sandbox/keys`` changes the key.
"""

from __future__ import annotations

from typing import Any

from moorline.sandbox.services import _auth
from moorline.sandbox.services._signin import CLIENT, Grants, Person, Refused, Silent, half_hash
from moorline.sandbox.standin import Answer, Ask, Registration, Surroundings

__all__ = ["STAND_IN"]

_ISSUER = "https://accounts.google.com"
_PEOPLE = (
    Person("ada@gmail.com", "Ada Lovelace", {"sub": "110169484474386276334"}),
    Person("grace@corp.example", "Grace Hopper", {"sub": "110169484474386276335", "hd": "corp.example"}),
    Person("mallory@victim.example", "Mallory", {"sub": "110169484474386276336"}),
)
_LONG = {
    "email": "https://www.googleapis.com/auth/userinfo.email",
    "profile": "https://www.googleapis.com/auth/userinfo.profile",
}


class GoogleSignInStandIn(Silent):
    """One project with one client."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._signer = _auth.Signer("google-signin-sandbox")
        self._grants = Grants(around, "Google", _PEOPLE, issuer=_ISSUER)

    async def handle(self, ask: Ask) -> Answer:
        """Answer one request."""
        if (ask.method, ask.path) == ("POST", "/sandbox/keys"):
            return Answer(200, {"kid": self._signer.turn()})
        await ask.work()
        if ask.path == "/o/oauth2/v2/auth" and ask.method in ("GET", "POST"):
            return self._grants.authorize(ask)
        if (ask.method, ask.path) == ("POST", "/token"):
            return self._token(ask)
        if ask.method != "GET":
            return Answer(404)
        if ask.path == "/oauth2/v3/certs":
            return Answer(200, self._signer.jwks(), {"Cache-Control": "public, max-age=19800"})
        if ask.path == "/v1/userinfo":
            return self._userinfo(ask)
        if ask.path == "/.well-known/openid-configuration":
            return Answer(200, self._document(ask.base))
        return Answer(404)

    def snapshot(self) -> dict[str, Any]:
        """Who can sign in, and how many codes and tokens are good."""
        return self._grants.snapshot()

    def failure(self, status: int) -> Answer:
        """An injected status."""
        return Answer(status, {"error": "rate_limit_exceeded" if status == 429 else "internal_failure"})

    def _token(self, ask: Ask) -> Answer:
        try:
            person, asked, token, scope = self._grants.exchange(ask)
        except Refused as refused:
            return Answer(refused.status, {"error": refused.error, "error_description": refused.description})
        now = self._around.now()
        claims = {
            "iss": _ISSUER,
            "azp": CLIENT,
            "aud": CLIENT,
            **self._said(person, scope),
            "at_hash": half_hash(token),
        }
        claims |= {"iat": now, "exp": now + 3600} | ({"nonce": asked["nonce"]} if "nonce" in asked else {})
        answer = {"access_token": token, "expires_in": 3599, "token_type": "Bearer"}
        answer["scope"] = " ".join(_LONG.get(one, one) for one in scope.split())
        return Answer(200, answer | ({"id_token": self._signer.token(claims)} if "openid" in scope.split() else {}))

    def _userinfo(self, ask: Ask) -> Answer:
        held = self._grants.person(ask)
        if held is None:
            return Answer(401, {"error": "invalid_request", "error_description": "Invalid Credentials"})
        return Answer(200, self._said(*held))

    def _said(self, person: Person, scope: str) -> dict[str, Any]:
        found = dict(person.claims)
        if "email" in scope.split():
            found |= {"email": person.login, "email_verified": True}
        if "profile" in scope.split():
            found |= {"name": person.name, "picture": f"https://lh3.googleusercontent.com/a/{found['sub']}"}
        return found

    def _document(self, base: str) -> dict[str, Any]:
        return {
            "issuer": _ISSUER,
            "authorization_endpoint": f"{base}/o/oauth2/v2/auth",
            "token_endpoint": f"{base}/token",
            "userinfo_endpoint": f"{base}/v1/userinfo",
            "jwks_uri": f"{base}/oauth2/v3/certs",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "token_endpoint_auth_methods_supported": ["client_secret_post", "client_secret_basic"],
            "code_challenge_methods_supported": ["plain", "S256"],
        }


STAND_IN = Registration(name="google_signin", make=GoogleSignInStandIn)
