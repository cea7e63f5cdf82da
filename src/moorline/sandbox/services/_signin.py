"""What the stand-ins of providers that sign users in share: a page on which one chooses who to be, codes, PKCE, tokens.

The client is ``sandbox-client`` with the secret ``sandbox-secret``, in the form or by Basic. Whoever is sent to the
authorization address sees a page with a button for each user (it works without JavaScript), or, with ``login_hint``
naming one and ``prompt=none``, goes back at once. Redirect URIs are of this machine, or https. Codes are good once, for
ten minutes; one that comes twice is refused, and so is what it was turned into.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any, Final
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

from moorline.errors import ConfigurationError
from moorline.sandbox.standin import Answer, Ask, Emission, Signed, Surroundings

__all__ = ["CLIENT", "SECRET", "Grants", "Person", "Refused", "Silent", "bearer", "half_hash", "page"]

CLIENT, SECRET = "sandbox-client", "sandbox-secret"
_LOOPBACK: Final = re.compile(r"localhost|127(?:\.\d{1,3}){3}|::1")
_CHALLENGE: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_SECONDS: Final = 600.0
_HEADERS: Final = {
    "Content-Type": "text/html; charset=utf-8",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
}
_STYLE: Final = (
    "<style>body{font:17px/1.5 system-ui,sans-serif;max-width:28rem;margin:3rem auto;padding:0 1rem}"
    "button{font:inherit;width:100%;padding:.5rem;cursor:pointer}</style>"
)


@dataclass(frozen=True, slots=True)
class Person:
    """A user of the provider: by the name on the button, and what the provider says of them."""

    login: str
    name: str
    claims: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Code:
    person: Person
    asked: Mapping[str, str]
    until: float


@dataclass(frozen=True, slots=True)
class _Token:
    person: Person
    scope: str
    until: float


class Refused(Exception):
    """An error of the token endpoint (RFC 6749, section 5.2)."""

    def __init__(self, error: str, description: str, status: int = 400) -> None:
        super().__init__(description)
        self.error = error
        self.description = description
        self.status = status


class Silent:
    """A stand-in that sends no webhooks."""

    def sample(self, event: str) -> bytes:
        """It sends none."""
        raise ConfigurationError("'event': nothing is told of users who sign in")

    def sign(self, emission: Emission, *, url: str, secrets: tuple[str, ...], hook_id: str, broken: bool) -> Signed:
        """It sends none."""
        raise ConfigurationError("'service': nothing is told of users who sign in")


class Grants:
    """The users of one provider, and the codes and access tokens that they gave out. *issuer* is sent with answers, as
    RFC 9207 has it, where it is not empty.
    """

    def __init__(self, around: Surroundings, title: str, people: tuple[Person, ...], *, issuer: str = "") -> None:
        self._around = around
        self._title = title
        self._people = {person.login: person for person in people}
        self._issuer = issuer
        self._codes: dict[str, _Code] = {}
        self._used: dict[str, str] = {}
        self._tokens: dict[str, _Token] = {}

    def snapshot(self) -> dict[str, Any]:
        """Who can sign in, and how many codes and tokens are good."""
        return {"users": list(self._people), "codes": len(self._codes), "tokens": len(self._tokens)}

    def authorize(self, ask: Ask) -> Answer:
        """The page; or, by POST of it, the way back."""
        given = dict(ask.parameters)
        problem = self._problem(given)
        if problem is not None:
            return page(self._title, f"<p>{escape(problem)}</p>", 400)
        if given.get("response_type") != "code":
            return self._back(given, {"error": "unsupported_response_type"})
        if "code_challenge" in given and (
            given.get("code_challenge_method") != "S256" or not _CHALLENGE.fullmatch(given["code_challenge"])
        ):
            return self._back(given, {"error": "invalid_request", "error_description": "code challenge: S256 only"})
        if ask.method == "POST":
            return self._chosen_by(given, parse_qs(ask.body.decode("utf-8", "replace")))
        if given.get("prompt") == "none":
            hinted = given.get("login_hint", "")
            if hinted not in self._people:
                return self._back(given, {"error": "login_required"})
            return self._chosen(given, hinted)
        return page(self._title, self._form(ask, given))

    def exchange(self, ask: Ask) -> tuple[Person, dict[str, str], str, str]:
        """Who has signed in, what was asked for, an access token, and its scope. Raises Refused."""
        form = {name: values[0] for name, values in parse_qs(ask.body.decode("utf-8", "replace")).items()}
        self._authenticate(ask, form)
        if form.get("grant_type") != "authorization_code":
            raise Refused("unsupported_grant_type", "Only authorization_code is known here.")
        code, now = form.get("code", ""), self._around.clock.monotonic()
        held = self._redeemed(form)
        if held is None:
            # RFC 6749, section 4.1.2: what it was turned into is taken back
            self._tokens.pop(self._used.get(code, ""), None)
            raise Refused("invalid_grant", "The code is not good, was used, or was made for another redirect_uri.")
        token, scope = self._around.id("sandbox-access-", 32), held.asked.get("scope", "")
        self._tokens[token] = _Token(held.person, scope, now + 3600)
        self._used[code] = token
        return held.person, dict(held.asked), token, scope

    def _redeemed(self, form: Mapping[str, str]) -> _Code | None:
        """What was consented to with a code; None for one that is not good (any more). Raises Refused: no PKCE."""
        held = self._codes.pop(form.get("code", ""), None)
        now = self._around.clock.monotonic()
        if held is None or now >= held.until or form.get("redirect_uri") != held.asked["redirect_uri"]:
            return None
        proof = _b64(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
        challenge = held.asked.get("code_challenge")
        if (challenge is None and "code_verifier" in form) or (challenge is not None and challenge != proof):
            raise Refused("invalid_grant", "The code verifier is not that of the challenge.")
        return held

    def person(self, ask: Ask) -> tuple[Person, str] | None:
        """The user whose access token came with a request, and its scope."""
        held = self._tokens.get(bearer(ask))
        return None if held is None or self._around.clock.monotonic() >= held.until else (held.person, held.scope)

    def _authenticate(self, ask: Ask, form: Mapping[str, str]) -> None:
        scheme, _, value = ask.headers.get("authorization", "").partition(" ")
        client, secret = form.get("client_id", ""), form.get("client_secret", "")
        if scheme.lower() == "basic":
            try:
                client, _, secret = (unquote(one) for one in base64.b64decode(value).decode().partition(":"))
            except ValueError:
                client = ""
        if (client, secret) != (CLIENT, SECRET):
            raise Refused("invalid_client", "The client is not known, or its secret is another one.", 401)

    def _problem(self, given: Mapping[str, str]) -> str | None:
        """Why nobody is sent back: then the address may be anybody's."""
        if given.get("client_id") != CLIENT:
            return f"This sandbox has one client: {CLIENT}."
        try:
            to = urlsplit(given.get("redirect_uri", ""))
            good = to.scheme == "https" or (to.scheme == "http" and _LOOPBACK.fullmatch(to.hostname or "") is not None)
        except ValueError:
            good = False
        return (
            None if good and to.hostname and not to.fragment else "redirect_uri must be https, or http to this machine."
        )

    def _chosen_by(self, given: Mapping[str, str], form: Mapping[str, list[str]]) -> Answer:
        """What was chosen on the page."""
        return self._chosen(given, form.get("login", [""])[0])

    def _chosen(self, given: Mapping[str, str], login: str) -> Answer:
        person = self._people.get(login)
        if person is None:
            return self._back(given, {"error": "access_denied", "error_description": "The user has said no."})
        code = self._around.id("sandbox-code/", 32)
        self._codes[code] = _Code(person, given, self._around.clock.monotonic() + _SECONDS)
        return self._back(given, {"code": code})

    def _back(self, given: Mapping[str, str], answer: dict[str, str]) -> Answer:
        whole = answer | ({"state": given["state"]} if "state" in given else {})
        if self._issuer:
            whole["iss"] = self._issuer
        glue = "&" if urlsplit(given["redirect_uri"]).query else "?"
        return Answer(302, None, {"Location": f"{given['redirect_uri']}{glue}{urlencode(whole)}", **_HEADERS})

    def _form(self, ask: Ask, given: Mapping[str, str]) -> str:
        action = escape(f"{ask.base}{ask.path}?{urlencode(given, quote_via=quote)}")
        buttons = "".join(
            f'<p><button name="login" value="{escape(one.login)}">{escape(one.name)} ({escape(one.login)})</button></p>'
            for one in self._people.values()
        )
        wanted = escape(given.get("scope", "nothing"))
        cancel = '<p><button name="login" value="">No, go back</button></p>'
        return (
            f'<p>The application asks for: {wanted}</p><form method="post" action="{action}">{buttons}{cancel}</form>'
        )


def page(title: str, content: str, status: int = 200) -> Answer:
    """A page of the provider's."""
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)} (sandbox)</title>{_STYLE}'
    return Answer(status, f"{head}<h1>{escape(title)} (sandbox)</h1>{content}</html>".encode(), _HEADERS)


def bearer(ask: Ask) -> str:
    """The token that came with a request."""
    scheme, _, token = ask.headers.get("authorization", "").partition(" ")
    return token if scheme.lower() == "bearer" else ""


def half_hash(token: str) -> str:
    """``at_hash`` by SHA-256."""
    return _b64(hashlib.sha256(token.encode()).digest()[:16])


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
