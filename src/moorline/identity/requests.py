"""The token that came with a request, and the answers to a request without a good one: the same in every framework.

A token comes as ``Authorization: Bearer …`` (RFC 6750), or, only where a cookie is named, in that cookie. What is wrong
with a token is not told to whoever sent it; it is logged.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from moorline import telemetry
from moorline.clock import SYSTEM
from moorline.errors import CallError, ConfigurationError, InvalidToken
from moorline.identity.verification import Verification, Verifies

__all__ = ["Doorkeeper", "Refused"]

T = TypeVar("T")
_AGAIN: Final = 5.0  # seconds after which a client may come again, where nothing else is known
_log: Final = telemetry.logger("identity")


@dataclass(frozen=True, slots=True)
class Refused:
    """The answer to a request that is not let in."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...]

    @property
    def word(self) -> str:
        """What it says, in one word or two."""
        return _WORDS[self.status]


_WORDS: Final = {401: "unauthorized", 503: "the keys of the issuer cannot be had"}
_KEPT: Final = ("Cache-Control", "no-store")


class Doorkeeper(Generic[T]):
    """Lets in who shows a good token of *service*; by *cookie* as well, if one is named.

    A service with ``verify_session`` has the cookie verified by it. With *required* false, whoever shows none, or none
    that is good, is let in as nobody; without keys nobody can be told from a stranger, so that the answer is 503 all
    the same. Requests to *public* paths are not looked at: ``/static/`` is all below it, ``/`` the front page alone.

    A token in a cookie comes with every request that a browser makes, whoever asked for it: guard what changes
    something against CSRF. Raises ConfigurationError for a service that verifies nothing, and for a cookie or a path
    that is none.
    """

    def __init__(
        self,
        service: Verifies[T],
        *,
        cookie: str | None = None,
        required: bool = True,
        public: Iterable[str] = (),
    ) -> None:
        if not callable(getattr(service, "verify_token", None)):
            raise ConfigurationError(f"service: {type(service).__name__} has no verify_token")
        if cookie is not None and (not cookie or any(letter in cookie for letter in '=;, "\t')):
            raise ConfigurationError(f"cookie: {cookie!r} is not the name of one")
        self._service = service
        self._cookie = cookie
        self._required = required
        self._public = (public,) if isinstance(public, str) else tuple(public)
        self._below = tuple(path for path in self._public if path.endswith("/") and path != "/")
        for path in self._public:
            if not path.startswith("/"):
                raise ConfigurationError(f"public: {path!r} is no path; one begins with a slash")

    def looks_at(self, path: str) -> bool:
        """Whether requests to that path have to show a token."""
        return not any(
            path == one or (one.endswith("/") and one != "/" and path.startswith(one)) for one in self._public
        )

    async def admit_async(self, authorization: Iterable[str], cookies: Iterable[str]) -> T | None:
        """Who it is, or None for nobody, by the ``Authorization`` and ``Cookie`` headers of a request.

        Raises InvalidToken and CallError, of which ``refusal`` makes an answer.
        """
        try:
            shown = self._shown(list(authorization), list(cookies))
            return None if shown is None else await shown
        except InvalidToken as error:
            self._check_nobody(error)
            return None

    def admit(self, authorization: Iterable[str], cookies: Iterable[str]) -> T | None:
        """As ``admit_async``, blocking."""
        try:
            shown = self._shown(list(authorization), list(cookies))
            return None if shown is None else shown.result()
        except InvalidToken as error:
            self._check_nobody(error)
            return None

    def _check_nobody(self, error: InvalidToken) -> None:
        """Raises *error* where nobody is not let in."""
        if not isinstance(error, _Missing):
            _log.info("token_refused", reason=error.reason, detail=str(error))
        if self._required:
            raise error

    def _shown(self, authorization: list[str], cookies: list[str]) -> Verification[T] | None:
        """The verification of the token that is shown. Raises InvalidToken where there has to be one."""
        if len(authorization) > 1:
            raise InvalidToken("several Authorization headers were sent")
        kind, _, token = "".join(authorization).strip().partition(" ")
        if kind.lower() == "bearer":
            return self._service.verify_token(token.strip())
        value = None if self._cookie is None else _value(cookies, self._cookie)
        if value is not None:
            verify: Any = getattr(self._service, "verify_session", self._service.verify_token)
            verified: Verification[T] = verify(value)
            return verified
        if self._required:
            raise _Missing("no token is shown")
        return None

    @staticmethod
    def refusal(error: InvalidToken | CallError) -> Refused:
        """The answer: 401, and how to do better (RFC 6750, section 3); 503 where the keys cannot be had."""
        if isinstance(error, CallError):
            _log.error("token_not_verified", service=error.service, reason=error.message)
            wait = _AGAIN if error.retry_at is None else max(error.retry_at - SYSTEM.wall(), 1.0)
            return _answer(503, ("Retry-After", f"{min(wait, 300.0):.0f}"))
        told = "Bearer" if isinstance(error, _Missing) else 'Bearer error="invalid_token"'
        return _answer(401, ("WWW-Authenticate", told))


class _Missing(InvalidToken):
    """None was shown at all, of which RFC 6750 has nothing more to say."""


def _answer(status: int, header: tuple[str, str]) -> Refused:
    body = f'{{"error":"{_WORDS[status]}"}}'.encode()
    return Refused(status, body, (("Content-Type", "application/json"), _KEPT, header))


def _value(cookies: list[str], name: str) -> str | None:
    """The cookie of that name, the first of several; None where there is none, or an empty one."""
    for pair in "; ".join(cookies).split(";"):
        key, equals, value = pair.strip().partition("=")
        if equals and key == name:
            return value.strip().strip('"') or None
    return None
