"""Google's token endpoint, as its services' stand-ins have it: the signed JWT of a service account for an access token.

The key file is moorline's own of the sandbox (see :mod:`._assertions`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from moorline.sandbox.services._assertions import NotSigned, read_assertion, rsa_key
from moorline.sandbox.standin import Answer, Ask, Surroundings

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

__all__ = ["GoogleTokens"]

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

    def give(self, ask: Ask) -> Answer:
        """As Google's endpoint: 400 with ``invalid_grant`` for what was signed wrongly."""
        form = parse_qs(ask.body.decode("utf-8", "replace"))
        if form.get("grant_type") != [_GRANT]:
            return Answer(400, {"error": "unsupported_grant_type", "error_description": "Invalid grant_type"})
        problem = self._problem(form.get("assertion", [""])[0], f"{ask.base}/token")
        if problem is not None:
            return Answer(400, {"error": "invalid_grant", "error_description": problem})
        token = self._around.id("ya29.", 40)
        self._tokens[token] = self._around.clock.monotonic() + 3600
        return Answer(200, {"access_token": token, "expires_in": 3599, "token_type": "Bearer"})

    def known(self, ask: Ask) -> bool:
        """Whether a request brings a token that is still good."""
        scheme, _, token = ask.headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and self._tokens.get(token, 0.0) > self._around.clock.monotonic()

    def _problem(self, assertion: str, audience: str) -> str | None:
        """What is wrong with a JWT that is exchanged for a token, in Google's words."""
        try:
            header, claims = read_assertion(assertion)
        except NotSigned:
            return "Invalid JWT Signature."
        except ValueError:
            return "Invalid JWT: malformed."
        begun, ends, now = claims.get("iat"), claims.get("exp"), self._around.clock.wall()
        if header.get("alg") != "RS256" or claims.get("aud") != audience or claims.get("scope") not in self._scopes:
            return "Invalid JWT: algorithm, audience or scope."
        if not isinstance(begun, int) or not isinstance(ends, int) or not begun - 300 <= now < ends <= begun + 3600:
            message = "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe."
            return message + " Check your iat and exp values in the JWT claim."
        if not claims.get("iss"):
            return "Invalid JWT: no issuer."
        self.keys[str(claims["iss"])] = rsa_key(header["kid"])
        return None
