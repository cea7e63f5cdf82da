"""``Desk``: one provider, as this application asks it. What is decided is in :mod:`.flow`; this sends the requests.

They are Calls, with a breaker and limits of their own for each provider and host: a provider that is down stops nothing
else.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from moorline.calls.call import Call
from moorline.calls.exchange import Exchange
from moorline.calls.faults import ErrorMap
from moorline.calls.open_service import OpenService
from moorline.clock import SYSTEM, Clock
from moorline.errors import AuthenticationFailed, CallError, InvalidToken, SignInFailed
from moorline.identity import flow
from moorline.identity.flow import Exchanged, Pending, TokenRequest
from moorline.identity.keys import KeyCache
from moorline.identity.provider import Identity, Places, Provider
from moorline.identity.ready import GitHub
from moorline.identity.tokens import Claims, is_access_token, read, unproven_claims
from moorline.identity.tokens import Rules as TokenRules
from moorline.identity.verification import Steps, Verification, checked
from moorline.policies.policy import Policy
from moorline.secrets.secret import Secret
from moorline.telemetry import logger

__all__ = ["Desk", "Place"]

_POLICY: Final = Policy(deadline=15.0, attempt_timeout=5.0)
_MOST_BYTES: Final = 500_000
_KEPT: Final = 3600.0  # seconds that a discovery document is kept
_AGAIN_AFTER: Final = 30.0
_SHARED: Final = ("guards", "clock", "wire", "addresses")  # what the place of the keys is reached by as well
_GITHUB: Final = {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"}

T = TypeVar("T")
log = logger("identity")


def _hidden(exchange: Exchange) -> str | None:
    """GitHub answers errors with 200."""
    try:
        data = exchange.data
    except CallError:
        return None
    code = data.get("error") if isinstance(data, dict) else None
    return code if isinstance(code, str) else None


_OUR_FAULT: Final = ("invalid_client", "unauthorized_client")


def _grant_errors(endings: Iterable[str]) -> ErrorMap:
    """HubSpot has its own words in ``status``, beside those of the RFC."""
    return ErrorMap(
        code="error|status", kinds=dict.fromkeys((*_OUR_FAULT, *endings), AuthenticationFailed), failed=_hidden
    )


class Place(OpenService):
    """One host of a provider, as a service of its own. What errors say in words is left out: it may repeat a code.
    *endings* are the codes that say that a grant is over, for a provider of grants.
    """

    category = "sign-in"
    errors = ErrorMap(code="error", kinds={"invalid_client": AuthenticationFailed}, failed=_hidden)

    def __init__(self, name: str, origin: str, options: Mapping[str, Any], endings: Iterable[str] = ()) -> None:
        if endings:
            self.errors = _grant_errors(endings)  # type: ignore[misc]
        super().__init__(name, origin, **{"policy": _POLICY, "max_body": _MOST_BYTES, **options})

    def exchanged(self, request: TokenRequest, *, openid: bool) -> Call[Exchanged]:
        """The Call that turns a code into tokens. Codes are good for one use, so it is not repeated."""

        def parse(exchange: Exchange) -> Exchanged:
            return flow.granted(exchange.data, openid=openid)

        return self.asked(request, parse)

    def asked(
        self, request: TokenRequest, parse: Callable[[Exchange], T], *, repeatable: bool = False, as_json: bool = False
    ) -> Call[T]:
        """The Call of *request*."""
        body = {"json" if as_json else "form": request.form}
        plan = self.post(request.url, **body, headers=request.headers, parse=parse, repeatable=repeatable)
        return Call.of(self, "token", plan, (), {})

    def read(self, url: str, access: Secret | None = None, headers: Mapping[str, str] | None = None) -> Call[Any]:
        """The Call that reads JSON, as the user whose token it is."""
        proof = {} if access is None else {"Authorization": f"Bearer {access.reveal()}"}
        plan = self.get(url, headers={"Accept": "application/json", **(headers or {}), **proof}, parse=_data)
        return Call.of(self, "read", plan, (), {})


def _data(exchange: Exchange) -> Any:
    return exchange.data


class Desk:
    """Signs in with one *provider*. *options* are those of a Service (``guards``, ``wire``, …)."""

    def __init__(self, provider: Provider, *, clock: Clock = SYSTEM, **options: Any) -> None:
        self.provider = provider
        self._clock = clock
        self._options = {"clock": clock, **options}
        self._hosts: dict[str, Place] = {}
        self._places: tuple[Places, float] | None = None
        self._keys: tuple[str, KeyCache] | None = None

    def __repr__(self) -> str:
        return f"<Desk of {self.provider.name}>"

    async def places(self) -> Places:
        """Where it is asked. Its discovery document is read once an hour; one that is there serves while it cannot be.

        Raises CallError.
        """
        explicit = self.provider.places
        if explicit is not None:
            return explicit
        now = self._clock.monotonic()
        if self._places is not None and now < self._places[1]:
            return self._places[0]
        try:
            document = await self._host(self.provider.discovery).read(self.provider.discovery)
            found = self.provider.discovered(document)
        except CallError as error:
            if self._places is None:
                raise
            log.warning("discovery_not_renewed", provider=self.provider.name, reason=error.message)
            self._places = self._places[0], now + _AGAIN_AFTER
            return self._places[0]
        self._places = found, now + _KEPT
        return found

    async def begin(self, *, redirect_uri: str, next: str, **wanted: Any) -> tuple[str, Pending]:
        """As ``flow.begin``. Raises CallError as well."""
        places, now = await self.places(), self._clock.wall()
        return flow.begin(self.provider, places, redirect_uri=redirect_uri, next=next, now=now, **wanted)

    async def code(self, pending: Pending | None, answer: Mapping[str, str]) -> Secret:
        """As ``flow.answered``. Raises CallError as well."""
        return flow.answered(pending, answer, self.provider, await self.places(), self._clock.wall())

    async def finish(self, pending: Pending, code: Secret) -> Identity:
        """Who has signed in. Raises SignInFailed, CallError, ConfigurationError."""
        provider, places = self.provider, await self.places()
        request = flow.exchange(provider, places, pending, code)
        try:
            got: Exchanged = await self._host(places.token).exchanged(request, openid=provider.openid)
        except CallError as error:
            error.detail = None  # the provider's own words: they may repeat a code, a verifier, a token
            if error.code and error.status is not None and error.status < 500 and not error.retryable:
                word = flow.word(error.code)
                raise SignInFailed(
                    f"the provider does not take the code: {word}", reason="provider", code=word
                ) from None
            raise
        if got.id_token is None:
            return await self._userinfo_alone(places, got)
        claims: Mapping[str, Any] = await self._verified(places, pending, got, got.id_token)
        if claims.get("email") is None and "email" in provider.scopes and places.userinfo:
            claims = _joined(claims, await self._host(places.userinfo).read(places.userinfo, got.access))
        return provider.identity(claims)

    async def aclose(self) -> None:
        """Close all connections."""
        for host in self._hosts.values():
            await host.aclose()
        if self._keys is not None:
            await self._keys[1].aclose()

    async def _userinfo_alone(self, places: Places, got: Exchanged) -> Identity:
        provider = self.provider
        host = self._host(places.userinfo)
        if not isinstance(provider, GitHub):
            user = await host.read(places.userinfo, got.access)
            return provider.identity(user if isinstance(user, dict) else {})
        user = await host.read(places.userinfo, got.access, _GITHUB)
        emails = None
        if got.scopes is None or not got.scopes.isdisjoint(("user", "user:email")):
            try:
                emails = await host.read(provider.emails_at, got.access, _GITHUB)
            except CallError as error:
                if error.status not in (403, 404):  # the right to see them was not granted
                    raise
        return provider.identity(provider.with_emails(user, emails))

    async def _verified(self, places: Places, pending: Pending, got: Exchanged, token: Secret) -> Claims:
        try:
            claims = await Verification(lambda: self._steps(places, pending, token))
        except InvalidToken as error:
            raise SignInFailed(f"the ID token: {error}", reason="token") from error
        flow.judged(self.provider, claims, got.access, claims.algorithm, pending.begun_at)
        return claims

    def _steps(self, places: Places, pending: Pending, token: Secret) -> Steps[Claims]:
        client, text = self.provider.client(), token.reveal()
        # What it says of itself chooses among the issuers that are let in; nothing of it is believed yet.
        told = unproven_claims(read(text, TokenRules.of("any", None)))
        if is_access_token(text):
            raise SignInFailed("what came as an ID token is an access token", reason="token")
        rules = self.provider.rules(client, told)
        return (yield from checked(text, self._cache(places.keys), rules, self._clock, nonce=pending.nonce))

    def _cache(self, url: str) -> KeyCache:
        if self._keys is None or self._keys[0] != url:
            shared = {name: one for name, one in self._options.items() if name in _SHARED}
            self._keys = url, KeyCache(url, name=self.provider.name, **shared)
        return self._keys[1]

    def _host(self, url: str) -> Place:
        parts = urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc}"
        if origin not in self._hosts:
            self._hosts[origin] = self._place(origin)
        return self._hosts[origin]

    def _place(self, origin: str) -> Place:
        return Place(self.provider.name, origin, self._options)


def _joined(claims: Mapping[str, Any], user: Any) -> dict[str, Any]:
    """What was signed, and what userinfo adds for the same subject (OpenID Connect Core, section 5.3.2)."""
    told = user.get("sub") if isinstance(user, dict) else None
    known = claims.get("sub")
    if not isinstance(told, str) or not isinstance(known, str):
        raise SignInFailed("the userinfo names no subject", reason="answer")
    if not hmac.compare_digest(told.encode("utf-8", "surrogatepass"), known.encode("utf-8", "surrogatepass")):
        raise SignInFailed("the userinfo is that of another user", reason="answer")
    return {**user, **claims}
