"""``Connector``: a service at which users connect accounts of theirs, as a provider; ``ConnectDesk`` asks it.

What a service does otherwise than RFC 6749 stands in its record: see :mod:`.oauth`. Revoking is RFC 7009.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

from moorline.calls.call import Call
from moorline.calls.dialects import base_address, basic
from moorline.calls.exchange import Exchange
from moorline.errors import CallError, SignInFailed
from moorline.identity import flow
from moorline.identity.connection import Granted, Tokens
from moorline.identity.desk import Desk, Place
from moorline.identity.flow import Pending
from moorline.identity.grants import Grant, Ours, grant_of
from moorline.identity.oauth import Client, OAuth, Received, Revocation
from moorline.identity.provider import Places, Provider

if TYPE_CHECKING:
    from moorline.calls.service import Service
    from moorline.secrets.secret import Secret

__all__ = ["ConnectDesk", "Connector", "client_variables"]

T = TypeVar("T")

_SANDBOX: Final = "MOORLINE_SANDBOX_URL"
_GONE: Final = 404
_DEAD: Final = frozenset({"invalid_token", "invalid_grant", "invalid_auth", "token_revoked", "token_expired"})


def client_variables(service: type[Service]) -> list[str]:
    """The variables that name our application at *service*, and prove it; none where accounts are not connected."""
    oauth = service.oauth
    if not isinstance(oauth, OAuth):
        return []
    name, secret = _variables(oauth, service.name)
    return [name] if oauth.authentication == "none" else [name, secret]


def _variables(oauth: OAuth, name: str) -> tuple[str, str]:
    prefix = (oauth.client or name).upper().replace("-", "_")
    return f"{prefix}_CLIENT_ID", f"{prefix}_CLIENT_SECRET"


@dataclass(frozen=True, kw_only=True)
class Connector(Provider):
    """The service *own*, the application's, as a provider of grants. *wanted* are the scopes that the application needs
    of each account, beside those that its record always asks for.
    """

    oauth: OAuth
    own: Service
    wanted: tuple[str, ...] = ()
    scopes: tuple[str, ...] = field(default=(), init=False)

    @property
    def title(self) -> str:
        """The service's name, as its class has it."""
        return type(self.own).__name__

    @property
    def pkce(self) -> bool:
        """As its record says."""
        return self.oauth.pkce

    @property
    def in_sandbox(self) -> bool:
        """As the service itself."""
        return self.own.in_sandbox

    @property
    def variables(self) -> tuple[str, str]:
        """Of the record's client."""
        return _variables(self.oauth, self.name)

    @property
    def places(self) -> Places:
        """Where it is asked. Raises ConfigurationError for a service whose address depends on what is not set."""
        oauth = self.oauth
        where = (oauth.issuer, self.placed(oauth.authorize), self.placed(oauth.token), "", self.placed(oauth.whoami))
        return Places(*where, oauth.answers_issuer, oauth.authentication)

    def placed(self, address: str) -> str:
        """*address*, a path below the service's own; in the sandbox the one that stands in for it."""
        if address.startswith("/"):
            return self.own.base_url + address
        if not address or not self.in_sandbox:
            return address
        base = base_address(os.environ[_SANDBOX], _SANDBOX)
        return f"{base}/{self.oauth.stand_in or self.name}{urlsplit(address).path}"

    def is_issuer(self, told: str) -> bool:
        """Whether it is the record's; one that names none may call itself as it likes, as it has a callback of its own
        (RFC 9700, section 4.4.2).
        """
        return told == self.oauth.issuer or not self.oauth.issuer

    def asking(self, scopes: Iterable[str]) -> dict[str, str]:
        """As its record spells them."""
        joined = self.oauth.separator.join(scopes)
        return {**self.oauth.parameters, **({self.oauth.scope: joined} if joined else {})}

    def proof(self) -> Client:
        """Our application there. Raises ConfigurationError, saying where it was looked for."""
        return Client(self.client(), None if self.oauth.authentication == "none" else self.secret())

    def check(self) -> None:
        """Raises ConfigurationError unless all is there that a connection needs."""
        self.proof()
        _ = self.places


class _Place(Place):
    """One host of the service, for grants: what fails there is not counted against the service."""

    category = "grants"

    def revoked(self, request: Revocation, url: str, headers: Mapping[str, str]) -> Call[bool]:
        """The Call that takes a grant back; it may be sent again."""
        send: Any = getattr(self, request.method.lower())
        body = {name: one for name, one in (("form", request.form), ("json", request.json)) if one is not None}
        told = {"headers": {"Accept": "application/json", **headers}, "parse": _done, "accept": _is_gone}
        return Call.of(self, "revoke", send(url, **body, **told, repeatable=True, blank=True), (), {})


class ConnectDesk(Desk):
    """Asks one service for grants: exchanges codes, refreshes, revokes. Blocking and on a loop, as Calls are."""

    provider: Connector

    @property
    def oauth(self) -> OAuth:
        """The record."""
        return self.provider.oauth

    async def connected(self, pending: Pending, code: Secret) -> Received:
        """What *code* was turned into, and whose account it is. Raises SignInFailed, CallError, ConfigurationError."""
        places = self.provider.places
        request = flow.exchange(self.provider, places, pending, code)
        try:
            received = await self._grants(places.token).asked(request, self._read, as_json=self.oauth.as_json)
        except CallError as error:
            error.detail = None  # the service's own words: they may repeat a code, a verifier, a token
            if error.code and error.status is not None and error.status < 500 and not error.retryable:
                word = flow.word(error.code)
                raise SignInFailed(
                    f"the service does not take the code: {word}", reason="provider", code=word
                ) from None
            raise
        if not places.userinfo:
            return received
        answer = await self._grants(places.userinfo).read(places.userinfo, received.granted.tokens.access)
        return Received(received.granted, self.oauth.account_in(answer))

    def asked(self, url: str, form: Mapping[str, str], parse: Callable[[Exchange], T]) -> Call[T]:
        """The Call of a request for codes or tokens at *url*, with what proves that it is ours."""
        request = flow.proved(self.provider, url, self.provider.places.authentication, form)
        return self._grants(url).asked(request, parse, as_json=self.oauth.as_json)

    def told(self, url: str, access: Secret) -> Call[Any]:
        """The Call that reads what *url* tells of the account whose token it is."""
        return self._grants(url).read(url, access)

    def refreshed(self, tokens: Tokens, scopes: Iterable[str] = ()) -> Call[Granted]:
        """The Call that gets new tokens with the refresh token among the old, or with what opens the account anew."""
        grant = grant_of(tokens)
        if grant is not None:
            return self.opened(grant)
        assert tokens.refresh is not None
        oauth, places = self.oauth, self.provider.places
        form = {"grant_type": "refresh_token", "refresh_token": tokens.refresh.reveal()}
        if oauth.refreshes_scope:
            # What no answer names is asked for all the same: offline_access brings the next refresh token.
            always = {one for one in oauth.unlisted if one in oauth.scopes}
            form["scope"] = oauth.separator.join(sorted({*scopes, *always}))
        request = flow.proved(self.provider, places.token, places.authentication, form)
        # Where each refresh takes the token back, a second one of the same would end the grant.
        return self._grants(places.token).asked(
            request, self._read_granted, repeatable=not oauth.rotates, as_json=oauth.as_json
        )

    def opened(self, grant: Grant) -> Call[Granted]:
        """The Call that gets a token with *grant*. Raises ConfigurationError for a key that cannot be used."""
        places, scope = self.provider.places, self.oauth.separator.join(grant.scopes)
        ours = Ours(places.authentication, self.provider.own.secret)
        request = grant.request(grant.token or places.token, scope, self._clock.wall(), ours)

        def read(exchange: Exchange) -> Granted:
            granted = self._read_granted(exchange)
            return replace(granted, tokens=replace(granted.tokens, refresh=None, grant=grant.to_data()))

        return self._grants(request.url).asked(request, read, repeatable=True, as_json=self.oauth.as_json)

    def revoked(self, tokens: Tokens) -> Call[bool] | None:
        """The Call that takes the grant back; None where the service knows no such request."""
        oauth = self.oauth
        if not oauth.revoke or tokens.grant is not None:  # which its owner takes back where they gave it
            return None
        proof = self.provider.proof()
        if isinstance(oauth.revoke, str):
            request = self._rfc_7009(oauth.revoke, proof, tokens)
        else:
            request = oauth.revoke(proof, tokens)
        headers: dict[str, str] = {}
        if request.basic and proof.secret is not None:
            headers = basic(proof.id, proof.secret)
        elif request.bearer is not None:
            headers = {"Authorization": f"Bearer {request.bearer.reveal()}"}
        url = self.provider.placed(request.url)
        return self._grants(url).revoked(request, url, headers)

    def _rfc_7009(self, url: str, proof: Client, tokens: Tokens) -> Revocation:
        """Of the refresh token, with which the access tokens go; where there is none, of the access token."""
        kind = "access_token" if tokens.refresh is None else "refresh_token"
        form = {"token": (tokens.refresh or tokens.access).reveal(), "token_type_hint": kind}
        if self.oauth.authentication == "basic":
            return Revocation("POST", url, form, basic=True)
        form["client_id"] = proof.id
        if proof.secret is not None:
            form["client_secret"] = proof.secret.reveal()
        return Revocation("POST", url, form)

    def close(self) -> None:
        """Close the connections of blocking calls."""
        for host in self._hosts.values():
            host.close()

    def _grants(self, url: str) -> _Place:
        place = self._host(url)
        assert isinstance(place, _Place)
        return place

    def _place(self, origin: str) -> Place:
        return _Place(self.provider.name, origin, self._options, self.oauth.endings)

    def _read(self, exchange: Exchange) -> Received:
        return self.oauth.received(exchange.data)

    def _read_granted(self, exchange: Exchange) -> Granted:
        return self.oauth.received(exchange.data, whose=False).granted


def _done(_: Exchange) -> bool:
    return True


def _is_gone(error: CallError) -> bool | None:
    """Whether it was revoked before, or is over: then nothing is left to be taken back."""
    return True if error.status == _GONE or error.code in _DEAD else None
