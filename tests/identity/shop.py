"""An application that users sign in to, a provider that tests can bend, and a browser between the two."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
from tests.identity import tokens

from moorline import Moorline
from moorline.calls.guards import Guards
from moorline.clock import ManualClock
from moorline.identity import OpenID, Provider
from moorline.policies.policy import Policy
from moorline.secrets.keyring import KeyRing, new_key
from moorline.secrets.secret import Secret

SHOP = "https://shop.example"
ISSUER = "https://idp.example"
CLIENT, SECRET = "the-client", "the client's secret, a canary"
ACCESS = "access-token-canary-0001"
RING = KeyRing([Secret(new_key())])

__all__ = ["ACCESS", "CLIENT", "ISSUER", "RING", "SECRET", "SHOP", "Browser", "Idp", "half", "idp_provider", "shop_of"]


def half(token: str = ACCESS) -> str:
    """``at_hash`` by SHA-256."""
    return tokens.b64(hashlib.sha256(token.encode()).digest()[:16])


class Idp:
    """An OpenID provider. What it says can be bent: ``claims``, how it signs, what it answers."""

    def __init__(self) -> None:
        self.document: dict[str, Any] = {
            "issuer": ISSUER,
            "authorization_endpoint": f"{ISSUER}/authorize",
            "token_endpoint": f"{ISSUER}/token",
            "jwks_uri": f"{ISSUER}/keys",
            "userinfo_endpoint": f"{ISSUER}/userinfo",
            "authorization_response_iss_parameter_supported": True,
            "code_challenge_methods_supported": ["S256"],
        }
        self.claims: dict[str, Any] = {}
        self.signing: dict[str, Any] = {}
        self.keys: list[dict[str, Any]] = [tokens.jwk("RSA")]
        self.token_answer: Callable[[dict[str, Any]], Any] = lambda answer: answer
        self.user: dict[str, Any] = {}
        self.answers: dict[str, Callable[[httpx2.Request], httpx2.Response]] = {}
        self.asked: list[str] = []
        self.forms: list[dict[str, str]] = []
        self.codes: dict[str, dict[str, str]] = {}
        self.down = False
        self.given = 0

    def authorize(self, url: str, **changed: str | None) -> str:
        """The user signs in: the address that the browser is sent back to."""
        given = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        self.given += 1
        code = f"code-canary-{self.given:04}"
        self.codes[code] = given
        answer = {"code": code, "state": given["state"], "iss": ISSUER, **changed}
        query = httpx2.QueryParams({name: value for name, value in answer.items() if value is not None})
        return f"{given['redirect_uri']}?{query}"

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        path = request.url.path
        self.asked.append(path)
        if self.down:
            raise httpx2.ConnectError("down", request=request)
        if path in self.answers:
            return self.answers[path](request)
        if path == "/.well-known/openid-configuration":
            return httpx2.Response(200, json=self.document)
        if path == "/keys":
            return httpx2.Response(200, json={"keys": self.keys})
        if path == "/userinfo":
            assert request.headers["authorization"] == f"Bearer {ACCESS}"
            return httpx2.Response(200, json=self.user)
        if path == "/token":
            return self._token(request)
        return httpx2.Response(404)

    def _token(self, request: httpx2.Request) -> httpx2.Response:
        form = {name: values[0] for name, values in parse_qs(request.read().decode()).items()}
        self.forms.append(form)
        basic = base64.b64encode(f"{CLIENT}:{httpx2.QueryParams({'x': SECRET})}".replace("x=", "").encode()).decode()
        asked = self.codes.pop(form["code"], None)
        proved = tokens.b64(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
        if request.headers.get("authorization") != f"Basic {basic}":
            return httpx2.Response(401, json={"error": "invalid_client"})
        if asked is None or form["redirect_uri"] != asked["redirect_uri"] or asked["code_challenge"] != proved:
            return httpx2.Response(400, json={"error": "invalid_grant", "error_description": f"no {form['code']}"})
        said: dict[str, Any] = {"iss": ISSUER, "aud": CLIENT, "sub": "u-1", "nonce": asked["nonce"], "at_hash": half()}
        said |= {"email": "ada@example.com", "email_verified": True, "name": "Ada", **self.claims}
        answer = {"access_token": ACCESS, "token_type": "Bearer", "expires_in": 3600}
        answer["id_token"] = tokens.token(tokens.claims(**said), **self.signing)
        return httpx2.Response(200, json=self.token_answer(answer))


def idp_provider(**options: Any) -> OpenID:
    """The provider, known by discovery."""
    given = {"issuer": ISSUER, "client_id": CLIENT, "client_secret": SECRET, **options}
    return OpenID("idp", **given)


def shop_of(url: str, clock: ManualClock, wire: Any, *providers: Provider, **options: Any) -> Moorline:
    """An application that signs users in. Its public address is in the environment."""
    app = Moorline(url, clock=clock)
    policy = Policy(retry=None, breaker=None)
    transport = wire if isinstance(wire, httpx2.BaseTransport) else httpx2.MockTransport(wire)
    made = providers or (idp_provider(),)
    app.sign_in(*made, keys=RING, wire=transport, guards=Guards(clock=clock), policy=policy, **options)
    return app


class Browser:
    """Keeps cookies and follows nothing by itself."""

    def __init__(self, app: Any, base: str = SHOP, peer: str = "203.0.113.9") -> None:
        transport = httpx2.ASGITransport(app=app, client=(peer, 50_000))
        self.client = httpx2.AsyncClient(transport=transport, base_url=base)
        self.base = base

    @property
    def cookies(self) -> dict[str, str]:
        return {one.name: one.value or "" for one in self.client.cookies.jar}

    async def get(self, path: str, **options: Any) -> httpx2.Response:
        return await self.client.get(path, **options)

    async def post(self, path: str, **headers: str) -> httpx2.Response:
        """As a form of this very site sends it, unless headers say otherwise."""
        usual = {"origin": self.base, "sec-fetch-site": "same-origin"}
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post(path, headers={**usual, **given})

    async def begin(self, next: str = "/basket", name: str = "idp") -> str:
        """The address at the provider to which the application sends the browser."""
        answer = await self.get(f"/auth/{name}/login", params={"next": next})
        assert answer.status_code == 303, answer.text
        return answer.headers["location"]

    async def sign_in(self, idp: Idp, **changed: str | None) -> httpx2.Response:
        """The whole of it: the application's answer to the callback."""
        return await self.get(idp.authorize(await self.begin(), **changed))
