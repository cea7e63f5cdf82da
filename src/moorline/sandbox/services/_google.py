"""Google's token endpoint, as its services' stand-ins have it: the signed JWT of a service account for an access token;
and what of its IAM makes and deletes keys of that account.

The key file is moorline's own of the sandbox (see :mod:`._assertions`).
"""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from moorline.calls.tokens import new_pair, sandbox_pair
from moorline.sandbox.services._assertions import NotSigned, read_assertion, rsa_key
from moorline.sandbox.services._made_keys import MadeKeys
from moorline.sandbox.standin import Answer, Ask, Surroundings

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

__all__ = ["GoogleTokens"]

_IAM = "https://www.googleapis.com/auth/iam"
_KEYS = re.compile(r"/v1/projects/-/serviceAccounts/([^/]+)/keys(?:/([^/]+))?")
_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"


class GoogleTokens:
    """The access tokens of one service that were given out; *scopes* are those for which it gives any. *keys* are the
    public keys of the accounts that asked, by their addresses.
    """

    def __init__(self, around: Surroundings, *scopes: str) -> None:
        self._around = around
        self._scopes = scopes
        self._tokens: dict[str, float] = {}
        self.keys: dict[str, RSAPublicKey] = {}
        self._managing: set[str] = set()  # tokens that are good for keys, and nothing else
        self.made = MadeKeys()

    def give(self, ask: Ask) -> Answer:
        """As Google's endpoint: 400 with ``invalid_grant`` for what was signed wrongly."""
        form = parse_qs(ask.body.decode("utf-8", "replace"))
        if form.get("grant_type") != [_GRANT]:
            return Answer(400, {"error": "unsupported_grant_type", "error_description": "Invalid grant_type"})
        problem = self._problem(form.get("assertion", [""])[0], f"{ask.base}/token")
        if problem is not None:
            return Answer(400, {"error": "invalid_grant", "error_description": problem})
        token = self._around.id("ya29.", 40)
        if read_assertion(form["assertion"][0])[1]["scope"] == _IAM:
            self._managing.add(token)
        self._tokens[token] = self._around.clock.monotonic() + 3600
        return Answer(200, {"access_token": token, "expires_in": 3599, "token_type": "Bearer"})

    def known(self, ask: Ask) -> bool:
        """Whether a request brings a token that is still good."""
        token = self._token(ask)
        return token is not None and token not in self._managing

    def managed(self, ask: Ask) -> Answer | None:
        """The answer to a request about keys; None to all others. What is deleted gets no token any more; those that it
        has got stay good.
        """
        found = _KEYS.fullmatch(ask.path)
        if found is None:
            return None
        if self._token(ask) not in self._managing:
            return _refused(403, "PERMISSION_DENIED", "Request had insufficient authentication scopes.")
        account, key = found.groups()
        if key is None and ask.method == "POST":
            return Answer(200, self._new_key(account, ask.base))
        if key is not None and ask.method == "DELETE":
            if key == sandbox_pair()[1] and key not in self.made.listed():
                self.made.add(key, key)
            return Answer(200, {}) if self.made.delete(key) else _refused(404, "NOT_FOUND", "The key does not exist.")
        return _refused(404, "NOT_FOUND", "Not found")

    def _token(self, ask: Ask) -> str | None:
        scheme, _, token = ask.headers.get("authorization", "").partition(" ")
        good = scheme.lower() == "bearer" and self._tokens.get(token, 0.0) > self._around.clock.monotonic()
        return token if good else None

    def _new_key(self, account: str, base: str) -> dict[str, Any]:
        private, key = new_pair()
        file = {
            "type": "service_account",
            "project_id": "moorline-sandbox",
            "private_key_id": key,
            "private_key": private,
            "client_email": account,
            "token_uri": f"{base}/token",
        }
        self.made.add(key, key)
        return {
            "name": f"projects/moorline-sandbox/serviceAccounts/{account}/keys/{key}",
            "privateKeyType": "TYPE_GOOGLE_CREDENTIALS_FILE",
            "keyAlgorithm": "KEY_ALG_RSA_2048",
            "privateKeyData": base64.b64encode(json.dumps(file, indent=2).encode()).decode(),
            "keyOrigin": "GOOGLE_PROVIDED",
            "keyType": "USER_MANAGED",
        }

    def _problem(self, assertion: str, audience: str) -> str | None:
        """What is wrong with a JWT that is exchanged for a token, in Google's words."""
        try:
            header, claims = read_assertion(assertion)
        except NotSigned:
            return "Invalid JWT Signature."
        except ValueError:
            return "Invalid JWT: malformed."
        begun, ends, now = claims.get("iat"), claims.get("exp"), self._around.clock.wall()
        if (
            header.get("alg") != "RS256"
            or claims.get("aud") != audience
            or claims.get("scope") not in (*self._scopes, _IAM)
        ):
            return "Invalid JWT: algorithm, audience or scope."
        if not isinstance(begun, int) or not isinstance(ends, int) or not begun - 300 <= now < ends <= begun + 3600:
            message = "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe."
            return message + " Check your iat and exp values in the JWT claim."
        if self.made.is_gone(header["kid"]):
            return "Invalid JWT Signature."
        if not claims.get("iss"):
            return "Invalid JWT: no issuer."
        self.keys[str(claims["iss"])] = rsa_key(header["kid"])
        return None


def _refused(status: int, word: str, message: str) -> Answer:
    return Answer(status, {"error": {"code": status, "message": message, "status": word}})
