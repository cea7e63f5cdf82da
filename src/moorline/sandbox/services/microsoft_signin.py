"""Microsoft's sign-in: ``common``, ``organizations``, ``consumers`` and tenants, each with the page, tokens and keys.

Facts: signin/microsoft.md. The issuer of each token is that of the user's tenant; the document of ``common`` has the
template; keys name the issuer that they sign for. Users: ``ada@contoso.example`` (of a tenant, whose domain's owner is
verified: ``xms_edov``), ``mallory@fabrikam.example`` (of another tenant, where an administrator has typed
``ada@contoso.example`` as her e-mail address: it proves nothing), ``grace@outlook.example`` (a personal account). See
:mod:`._signin`. ``POST /microsoft_signin/sandbox/keys`` changes the keys.
"""

from __future__ import annotations

import re
from typing import Any

from moorline.sandbox.services import _auth
from moorline.sandbox.services._signin import CLIENT, Grants, Person, Refused, Silent
from moorline.sandbox.standin import Answer, Ask, Registration, Surroundings

__all__ = ["STAND_IN"]

_ROOT = "https://login.microsoftonline.com"
_CONTOSO, _FABRIKAM = "72f988bf-86f1-41af-91ab-2d7cd011db47", "a1b2c3d4-0000-4000-8000-0123456789ab"
_CONSUMERS = "9188040d-6c67-4c5b-b112-36a304b66dad"
_PEOPLE = (
    Person("ada@contoso.example", "Ada Lovelace", {"tid": _CONTOSO, "email": "ada@contoso.example", "xms_edov": True}),
    Person("mallory@fabrikam.example", "Mallory", {"tid": _FABRIKAM, "email": "ada@contoso.example"}),
    Person("grace@outlook.example", "Grace Hopper", {"tid": _CONSUMERS, "email": "grace@outlook.example"}),
)
_PATH = re.compile(
    r"/([^/]+)/(oauth2/v2\.0/authorize|oauth2/v2\.0/token|discovery/v2\.0/keys|v2\.0/\.well-known/openid-configuration)"
)
_CODES = {"invalid_grant": 70008, "invalid_client": 7000215, "unsupported_grant_type": 70003}


class MicrosoftSignInStandIn(Silent):
    """One application, registered for any organization and personal accounts."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._signer = _auth.Signer("microsoft-signin-sandbox")
        self._personal = _auth.Signer("microsoft-consumers-sandbox")
        self._grants = Grants(around, "Microsoft", _PEOPLE)

    async def handle(self, ask: Ask) -> Answer:
        """Answer one request."""
        if (ask.method, ask.path) == ("POST", "/sandbox/keys"):
            return Answer(200, {"kid": self._signer.turn(), "personal": self._personal.turn()})
        await ask.work()
        found = _PATH.fullmatch(ask.path)
        if found is None or found[1] not in ("common", "organizations", "consumers", _CONTOSO, _FABRIKAM, _CONSUMERS):
            return self._error("invalid_tenant", "AADSTS90002: Tenant not found.", 90002)
        tenant, what = found[1], found[2].rpartition("/")[2]
        if what == "authorize" and ask.method in ("GET", "POST"):
            return self._grants.authorize(ask)
        if what == "token" and ask.method == "POST":
            return self._token(ask, tenant)
        if what == "keys" and ask.method == "GET":
            return Answer(200, self._keys(), {"Cache-Control": "max-age=86400, private"})
        if what == "openid-configuration" and ask.method == "GET":
            return Answer(200, _document(ask.base, tenant))
        return Answer(405)

    def snapshot(self) -> dict[str, Any]:
        """Who can sign in, and how many codes and tokens are good."""
        return self._grants.snapshot()

    def failure(self, status: int) -> Answer:
        """Microsoft's error body for an injected status."""
        return self._error("temporarily_unavailable", "AADSTS90033: A transient error has occurred.", 90033, status)

    def _token(self, ask: Ask, tenant: str) -> Answer:
        try:
            person, asked, token, scope = self._grants.exchange(ask)
        except Refused as refused:
            number = _CODES.get(refused.error, 900144)
            return self._error(refused.error, f"AADSTS{number}: {refused.description}", number, refused.status)
        tid = person.claims["tid"]
        if tenant != "common" and (tid == _CONSUMERS) == (tenant == "organizations"):
            return self._error("invalid_grant", "AADSTS50020: The user account is not of this tenant.", 50020)
        if tenant not in ("common", "organizations", "consumers", tid):
            return self._error("invalid_grant", "AADSTS50020: The user account is not of this tenant.", 50020)
        now, number = self._around.now(), [one.login for one in _PEOPLE].index(person.login)
        claims = {"aud": CLIENT, "iss": f"{_ROOT}/{tid}/v2.0", "iat": now, "nbf": now, "exp": now + 3900, "ver": "2.0"}
        claims |= {"tid": tid, "sub": f"pairwise-{number}", "nonce": asked.get("nonce", "")}
        if "profile" in scope.split():
            claims |= {"oid": f"00000000-0000-4000-8000-00000000000{number}", "name": person.name}
            claims["preferred_username"] = person.login
        if "email" in scope.split():
            claims |= {name: one for name, one in person.claims.items() if name != "tid"}
        answer = {"token_type": "Bearer", "scope": scope, "expires_in": 4351, "ext_expires_in": 4351}
        signer = self._personal if tid == _CONSUMERS else self._signer
        return Answer(200, answer | {"access_token": token, "id_token": signer.token(claims)})

    def _keys(self) -> dict[str, Any]:
        template, personal = f"{_ROOT}/{{tenantid}}/v2.0", f"{_ROOT}/{_CONSUMERS}/v2.0"
        work = [{**key, "issuer": template} for key in self._signer.jwks()["keys"]]
        return {"keys": work + [{**key, "issuer": personal} for key in self._personal.jwks()["keys"]]}

    def _error(self, error: str, description: str, number: int, status: int = 400) -> Answer:
        ids = {name: f"{self._around.id('', 8)}-sandbox" for name in ("trace_id", "correlation_id")}
        return Answer(status, {"error": error, "error_description": description, "error_codes": [number], **ids})


def _document(base: str, tenant: str) -> dict[str, Any]:
    issuer = "{tenantid}" if tenant in ("common", "organizations") else tenant
    return {
        "issuer": f"{_ROOT}/{_CONSUMERS if issuer == 'consumers' else issuer}/v2.0",
        "authorization_endpoint": f"{base}/{tenant}/oauth2/v2.0/authorize",
        "token_endpoint": f"{base}/{tenant}/oauth2/v2.0/token",
        "jwks_uri": f"{base}/{tenant}/discovery/v2.0/keys",
        "response_types_supported": ["code", "id_token"],
        "subject_types_supported": ["pairwise"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt", "client_secret_basic"],
    }


STAND_IN = Registration(name="microsoft_signin", make=MicrosoftSignInStandIn)
