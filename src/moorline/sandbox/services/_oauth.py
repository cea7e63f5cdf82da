"""What the stand-ins share at which accounts are connected: consent, codes, tokens that end, refreshing, revoking.

A stand-in makes an :class:`Accounts` with the vendor's own paths, and asks it first: ``answer(ask)`` is the answer to
one of those, or None. ``allowed(token)`` is what a request's token opens. The client and the page are those of
:mod:`._signin`, with a box for each scope that can be unticked, and a button for each account.

Where the vendor knows the device flow (RFC 8628), the page for its codes is at ``/device``: whoever opens it with a
``user_code`` sees what is asked for, and consents or goes back as above. Who asks too often is told to slow down.

``POST /<name>/sandbox/grants`` is for tests, as JSON: ``{"revoke": "<login>"}`` takes all grants of that account back,
as its user would at the vendor's; ``{"expire": true}`` ends all access tokens at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any
from urllib.parse import parse_qs, quote, urlencode

from moorline.sandbox.services._signin import SECRET, Grants, Person, Refused, bearer, page
from moorline.sandbox.standin import Answer, Ask, Surroundings

__all__ = ["Accounts", "Person", "Refused", "TokenPair", "bearer"]


@dataclass(frozen=True, slots=True)
class TokenPair:
    """What the token endpoint gives, for its answer to be made of."""

    person: Person
    access: str
    refresh: str
    scopes: tuple[str, ...]
    lasts: int


@dataclass(slots=True)
class _Device:
    """A device that waits: *end* is what became of it, as an error's word, or empty once somebody consented."""

    asked: dict[str, str]
    until: float
    asked_at: float
    end: str = "authorization_pending"
    person: Person | None = None
    granted: str = ""


@dataclass(slots=True)
class _Grant:
    person: Person
    scopes: tuple[str, ...]
    refresh: str
    alive: bool = True


_PAGE = "/device"
_INTERVAL = 5
_DEVICE_CODE = "urn:ietf:params:oauth:grant-type:device_code"


def _json(text: str) -> dict[str, Any]:
    try:
        read = json.loads(text or "{}")
    except ValueError:
        read = None
    return read if isinstance(read, dict) else {}


Shape = Callable[[TokenPair], dict[str, Any]]


def _usual(pair: TokenPair) -> dict[str, Any]:
    """As RFC 6749 has it."""
    answer = {"access_token": pair.access, "token_type": "bearer", "expires_in": pair.lasts}
    return {**answer, "refresh_token": pair.refresh, "scope": " ".join(pair.scopes)}


class Accounts(Grants):
    """The accounts of one vendor. *authorize*, *token*, *revoke* are its paths; *rotates* takes a refresh token back
    when it gives another one, *renews* gives another one and leaves it good; *lasts* are the seconds of an access
    token, *shape* makes the answer with both, *failed* that to a request which is refused. Tokens begin with *prefix*.
    Where the stand-in has clients of its own at the same address, the token endpoint is *shared*: what is not from the
    client here is not answered here.
    """

    def __init__(
        self,
        around: Surroundings,
        title: str,
        people: tuple[Person, ...],
        *,
        authorize: str,
        token: str,
        revoke: str = "",
        device: str = "",
        rotates: bool = False,
        renews: bool = False,
        lasts: int = 3600,
        prefix: str = "sandbox-",
        scope: str = "scope",
        shape: Shape = _usual,
        failed: Callable[[Refused], Answer] | None = None,
        issuer: str = "",
        shared: bool = False,
    ) -> None:
        super().__init__(around, title, people, issuer=issuer)
        self._shared = shared
        self._paths = {authorize: ("GET", "POST"), token: ("POST",), revoke: ("POST",), "/sandbox/grants": ("POST",)}
        if device:
            self._paths |= {device: ("POST",), _PAGE: ("GET", "POST")}
        self._device = device
        self._devices: dict[str, _Device] = {}
        self._shown: dict[str, str] = {}  # the device codes, by what the user types
        self._at = authorize, token, revoke
        self._rotates, self._lasts, self._prefix, self._shape, self._scope = rotates, lasts, prefix, shape, scope
        self._failed, self._renews = failed, renews
        self._grants: list[_Grant] = []
        self._of_code: dict[str, _Grant] = {}
        self._refresh: dict[str, _Grant] = {}
        self._spent: dict[str, _Grant] = {}
        self._access: dict[str, tuple[_Grant, float]] = {}

    def answer(self, ask: Ask) -> Answer | None:
        """The answer to a request for one of its paths; None for all others."""
        if not ask.path or ask.method not in self._paths.get(ask.path, ()):
            return None
        authorize, token, _ = self._at
        if self._shared and ask.path in (token, self._device) and SECRET.encode() not in ask.body:
            return None
        if ask.path == authorize:
            return self.authorize(ask)
        if ask.path == "/sandbox/grants":
            return self._told(ask)
        if self._device and ask.path == _PAGE:
            return self._at_device(ask)
        try:
            if self._device and ask.path == self._device:
                return self._waiting(ask)
            return Answer(200, self._shape(self._paired(ask))) if ask.path == token else self._revoked(ask)
        except Refused as refused:
            if self._failed is not None:
                return self._failed(refused)
            return Answer(refused.status, {"error": refused.error, "error_description": refused.description})

    def allowed(self, token: str) -> tuple[Person, tuple[str, ...]] | None:
        """Whose a token is, and for what; None for one that is over, was revoked, or was never given."""
        held = self._access.get(token)
        if held is None or not held[0].alive or self._around.clock.monotonic() >= held[1]:
            return None
        return held[0].person, held[0].scopes

    def knows(self, token: str) -> bool:
        """Whether it gave that access token, good or not."""
        return token in self._access

    def snapshot(self) -> dict[str, Any]:
        """Who can consent, and how many grants are alive."""
        return {**super().snapshot(), "grants": sum(grant.alive for grant in self._grants)}

    def revoke(self, token: str) -> None:
        """Take the grant back to which a token belongs, if there is one (RFC 7009, section 2.2)."""
        grant = self._refresh.get(token) or self._spent.get(token) or self._access.get(token, (None,))[0]
        if grant is not None:
            grant.alive = False

    # --- the token endpoint

    def _paired(self, ask: Ask) -> TokenPair:
        form = self._form_of(ask)
        self._authenticate(ask, form)
        if form.get("grant_type") == "refresh_token":
            return self._refreshed(form.get("refresh_token", ""))
        if form.get("grant_type") == _DEVICE_CODE:
            return self._polled(form.get("device_code", ""))
        code = self._redeemed(form)
        if code is None:
            if form.get("code", "") in self._of_code:  # RFC 6749, section 4.1.2
                self._of_code[form["code"]].alive = False
            raise Refused("invalid_grant", "The code is not good, was used, or was made for another redirect_uri.")
        grant = self._granted(code.person, code.asked.get("granted", code.asked.get(self._scope, "")))
        self._of_code[form["code"]] = grant
        return self._pair(grant)

    def _granted(self, person: Person, scope: str) -> _Grant:
        scopes = tuple(scope.replace(",", " ").split())
        grant = _Grant(person, scopes, self._around.id(f"{self._prefix}refresh-", 40))
        self._grants.append(grant)
        return grant

    def _refreshed(self, token: str) -> TokenPair:
        grant = self._refresh.get(token)
        if grant is None or not grant.alive:
            if token in self._spent:  # one that was taken back: somebody has it who should not (RFC 9700, 4.14.2)
                self._spent[token].alive = False
            raise Refused("invalid_grant", "The refresh token is not good, is over, or was revoked.")
        if self._rotates:
            self._spent[token] = self._refresh.pop(token)
        if self._rotates or self._renews:
            grant.refresh = self._around.id(f"{self._prefix}refresh-", 40)
        return self._pair(grant)

    def _pair(self, grant: _Grant) -> TokenPair:
        access = self._around.id(f"{self._prefix}access-", 40)
        self._access[access] = grant, self._around.clock.monotonic() + self._lasts
        self._refresh[grant.refresh] = grant
        return TokenPair(grant.person, access, grant.refresh, grant.scopes, self._lasts)

    def _revoked(self, ask: Ask) -> Answer:
        form = self._form_of(ask)
        self._authenticate(ask, form)
        self.revoke(form.get("token", ""))
        return Answer(200)

    def _form_of(self, ask: Ask) -> dict[str, str]:
        text = ask.body.decode("utf-8", "replace")
        if ask.headers.get("content-type", "").startswith("application/json"):
            read = _json(text)
            return {name: str(value) for name, value in read.items()}
        return {name: values[0] for name, values in parse_qs(text).items()}

    def _told(self, ask: Ask) -> Answer:
        told = _json(ask.body.decode("utf-8", "replace"))
        if told.get("expire"):
            self._access = {token: (grant, 0.0) for token, (grant, _) in self._access.items()}
        for grant in self._grants:
            if grant.person.login == told.get("revoke"):
                grant.alive = False
        return Answer(200, self.snapshot())

    # --- the device flow

    def _waiting(self, ask: Ask) -> Answer:
        form = self._form_of(ask)
        self._authenticate(ask, form)
        code, now = self._around.id("", 40), self._around.clock.monotonic()
        typed = self._around.id("", 8).upper()
        typed = f"{typed[:4]}-{typed[4:]}"
        self._devices[code], self._shown[typed] = _Device(form, now + 900, now), code
        uri = f"{ask.base}{_PAGE}"
        answer = {"device_code": code, "user_code": typed, "verification_uri": uri, "expires_in": 900}
        return Answer(200, {**answer, "verification_uri_complete": f"{uri}?user_code={typed}", "interval": _INTERVAL})

    def _polled(self, code: str) -> TokenPair:
        device, now = self._devices.get(code), self._around.clock.monotonic()
        if device is None or now >= device.until:
            raise Refused("expired_token", "The device code is over, was used, or was never given.")
        before, device.asked_at = device.asked_at, now
        if device.person is None:
            early = device.end == "authorization_pending" and now < before + _INTERVAL
            raise Refused("slow_down" if early else device.end, "Not yet, or not at all.")
        del self._devices[code]
        return self._pair(self._granted(device.person, device.granted))

    def _at_device(self, ask: Ask) -> Answer:
        typed = dict(ask.parameters).get("user_code", "")
        device = self._devices.get(self._shown.get(typed, ""))
        if device is None:
            content = '<form><p>The code on your device: <input name="user_code"></p><button>Go on</button></form>'
            return page(self._title, content, 200 if not typed else 404)
        if ask.method == "GET":
            return page(self._title, self._form(ask, {**device.asked, "user_code": typed}))
        form = parse_qs(ask.body.decode("utf-8", "replace"))
        device.person = self._people.get(form.get("login", [""])[0])
        device.end = "access_denied"
        device.granted = " ".join(one for one in form.get("scope", []) if one in self._asked(device.asked))
        return page(self._title, "<p>You can go back to your device now.</p>")

    # --- the page

    def _chosen_by(self, given: Mapping[str, str], form: Mapping[str, list[str]]) -> Answer:
        granted = [one for one in form.get("scope", []) if one in self._asked(given)]
        login = form.get("login", [""])[0]
        return self._chosen({**given, "granted": " ".join(granted)}, login)

    def _asked(self, given: Mapping[str, str]) -> list[str]:
        return given.get(self._scope, "").replace(",", " ").split()

    def _form(self, ask: Ask, given: Mapping[str, str]) -> str:
        action = escape(f"{ask.base}{ask.path}?{urlencode(given, quote_via=quote)}")
        boxes = "".join(
            f'<p><label><input type="checkbox" name="scope" value="{escape(one)}" checked> {escape(one)}</label></p>'
            for one in self._asked(given)
        )
        buttons = "".join(
            f'<p><button name="login" value="{escape(one.login)}">Connect {escape(one.name)}</button></p>'
            for one in self._people.values()
        )
        cancel = '<p><button name="login" value="">No, go back</button></p>'
        return f'<form method="post" action="{action}"><p>The application asks for:</p>{boxes}{buttons}{cancel}</form>'
