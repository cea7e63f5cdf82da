"""Tokens that a service's requests carry and that we sign ourselves, with a private key that is the credential."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from moorline.calls.tokens import private_key, signed_jwt
from moorline.secrets.secret import Secret

__all__ = ["SignedTokens"]


class SignedTokens:
    """The JWTs of one service object: the last one for *reused* seconds, then a new one; and at once a new one where
    the key or the one that it speaks for is another.
    """

    __slots__ = ("_held", "_reused", "_service")

    def __init__(self, service: str, *, reused: float) -> None:
        self._service = service
        self._reused = reused
        self._held: tuple[Secret, str, float, Secret] | None = None

    def token(self, key: Secret, issuer: str, now: float, claims: Callable[[], Mapping[str, Any]]) -> Secret:
        """A token of *issuer* at *now* (seconds since the epoch), whose *claims* are asked for if it is a new one.

        Raises ConfigurationError, without its content, for a key that cannot be used.
        """
        held = self._held
        if held is None or held[:2] != (key, issuer) or not held[2] <= now < held[2] + self._reused:
            header = {"alg": "RS256", "typ": "JWT"}
            made = signed_jwt(header, claims(), private_key(key, self._service), self._service)
            held = self._held = key, issuer, now, Secret(made, name=f"the token of {self._service}")
        return held[3]
