"""Every framework lets in the same users, refuses the same tokens, and says the same of it."""

from __future__ import annotations

import asyncio
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from fastapi import Depends, FastAPI, Request, WebSocket
from fastapi.responses import PlainTextResponse
from hypothesis import given
from hypothesis import strategies as st
from tests.django_project import configure
from tests.identity.tokens import AUDIENCE, ISSUER, claims, jwks, token

from moorline import errors
from moorline.clock import ManualClock
from moorline.identity import KeySet, Verification
from moorline.identity.frameworks.asgi import SignedIn
from moorline.identity.frameworks.django import signed_in_middleware
from moorline.identity.frameworks.fastapi import signed_in
from moorline.identity.requests import Doorkeeper, _value
from moorline.identity.tokens import Rules
from moorline.identity.verification import checked

HOST = "https://shop.example"
Ask = Callable[..., httpx2.Response]
KEYS = KeySet.of(jwks())
CLOCK = ManualClock(1_800_000_000)
GOOD = {"Authorization": f"Bearer {token()}"}


class Service:
    """What a framework is given: nothing but ``verify_token``, and one for cookies."""

    away: errors.CallError | None = None

    def verify_token(self, shown: str) -> Verification[str]:
        """The subject of a token of the tests' issuer."""

        def steps() -> Any:
            if self.away is not None:
                raise self.away
            found = yield from checked(shown, KEYS, Rules.of(ISSUER, AUDIENCE), CLOCK)
            return f"user {found.subject}"

        return Verification(steps)


class Sessions(Service):
    """One whose cookies are of another kind than its tokens."""

    def verify_session(self, cookie: str) -> Verification[str]:
        """Whoever says ``open``."""

        def steps() -> Any:
            if cookie != "open":
                raise errors.InvalidToken("shut", reason="signature")
            return "user of a cookie"
            yield

        return Verification(steps)


# --- the same application in each framework: /who says who it is, /open is for all


def _asgi(app: Any) -> Ask:
    def ask(method: str, path: str, **options: Any) -> httpx2.Response:
        async def asked() -> httpx2.Response:
            transport = httpx2.ASGITransport(app)
            async with httpx2.AsyncClient(transport=transport, base_url=HOST) as client:
                return await client.request(method, path, **options)

        return asyncio.run(asked())

    return ask


def _starlette(service: Service, **options: Any) -> Ask:
    from starlette.applications import Starlette
    from starlette.routing import Route

    async def who(request: Request) -> PlainTextResponse:
        assert request.user == request.state.user
        return PlainTextResponse(str(request.user))

    async def front(request: Request) -> PlainTextResponse:
        return PlainTextResponse("open" if "user" not in request.scope else "closed")

    app = Starlette(routes=[Route("/who", who, methods=["GET", "POST"]), Route("/open", front)])
    app.add_middleware(SignedIn, service=service, public=["/open"], **options)
    return _asgi(app)


def _fastapi(service: Service, **options: Any) -> Ask:
    app = FastAPI()
    door = Depends(signed_in(service, **options))

    @app.api_route("/who", methods=["GET", "POST", "HEAD"], response_class=PlainTextResponse)
    async def who(request: Request, user: Any = door) -> str:
        assert request.state.user == user
        return str(user)

    @app.get("/open", response_class=PlainTextResponse)
    async def front() -> str:
        return "open"

    return _asgi(app)


def _django(service: Service, *, asynchronous: bool, **options: Any) -> Ask:
    from django.core.handlers.asgi import ASGIHandler
    from django.core.handlers.wsgi import WSGIHandler
    from django.http import HttpRequest, HttpResponse
    from django.test.utils import override_settings
    from django.urls import path

    configure()

    def who(request: HttpRequest) -> HttpResponse:
        return HttpResponse(str(request.verified_user), content_type="text/plain")

    async def who_async(request: HttpRequest) -> HttpResponse:
        return who(request)

    def front(request: HttpRequest) -> HttpResponse:
        return HttpResponse("open" if not hasattr(request, "verified_user") else "closed")

    urls: Any = types.ModuleType("moorline_identity_urls")
    urls.urlpatterns = [path("who", who_async if asynchronous else who), path("open", front)]
    urls.signed_in = signed_in_middleware(service, public=["/open"], **options)
    sys.modules["moorline_identity_urls"] = urls
    given: dict[str, Any] = {"MIDDLEWARE": ["moorline_identity_urls.signed_in"], "ALLOWED_HOSTS": ["*"]}
    with override_settings(ROOT_URLCONF="moorline_identity_urls", **given):
        handler = ASGIHandler() if asynchronous else WSGIHandler()

    def ask(method: str, path: str, **arguments: Any) -> httpx2.Response:
        with override_settings(ROOT_URLCONF="moorline_identity_urls", **given):
            if asynchronous:
                return _asgi(handler)(method, path, **arguments)
            client = httpx2.Client(transport=httpx2.WSGITransport(handler), base_url=HOST)
            return client.request(method, path, **arguments)

    return ask


FRAMEWORKS: dict[str, Callable[..., Ask]] = {
    "starlette": _starlette,
    "fastapi": _fastapi,
    "django": lambda service, **options: _django(service, asynchronous=False, **options),
    "django async": lambda service, **options: _django(service, asynchronous=True, **options),
}


@pytest.fixture(params=FRAMEWORKS)
def made(request: pytest.FixtureRequest) -> Iterator[Callable[..., Ask]]:
    """Makes the application in each framework."""
    yield FRAMEWORKS[request.param]
    sys.modules.pop("moorline_identity_urls", None)


def test_who_shows_a_good_token_is_let_in(made: Callable[..., Ask]):
    """The verified user is on the request; the word may be written in any case."""
    ask = made(Service())
    for scheme in ("Bearer", "bearer", "BEARER"):
        answer = ask("GET", "/who", headers={"Authorization": f"{scheme} {token()}"})
        assert (answer.status_code, answer.text) == (200, "user u_1")
    assert ask("POST", "/who", headers=GOOD).text == "user u_1"


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": ""}, {"Authorization": "Basic YTpi"}, {"Authorization": token()}, {"Cookie": "s=x"}],
)
def test_who_shows_none_is_told_what_is_wanted(made: Callable[..., Ask], headers: dict[str, str]):
    """401, and that a bearer token is wanted; a cookie counts for nothing where none is named."""
    answer = made(Service())("GET", "/who", headers=headers)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.headers["cache-control"] == "no-store"
    assert "unauthorized" in answer.text


@pytest.mark.parametrize(
    "shown", [token(claims(exp=1)), token(claims(iss="x")), "a.b.c", "", token(alg="none"), token() + "A"]
)
def test_who_shows_a_bad_one_is_not_told_why(made: Callable[..., Ask], shown: str):
    """401 with ``invalid_token`` (RFC 6750), and no word more."""
    answer = made(Service())("GET", "/who", headers={"Authorization": f"Bearer {shown}"})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == (
        'Bearer error="invalid_token"' if shown else answer.headers["www-authenticate"]
    )
    assert "exp" not in answer.text
    assert "ended" not in answer.text


@pytest.mark.parametrize("retry_at", [None, 1e11])
def test_without_keys_nobody_can_be_told(made: Callable[..., Ask], retry_at: float | None):
    """503, and when to come again; it is no fault of the token."""
    service = Service()
    service.away = errors.ServiceUnavailable("answered 503", service="clerk", retry_at=retry_at)
    for required in (True, False):
        answer = made(service, required=required)("GET", "/who", headers=GOOD)
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == ("5" if retry_at is None else "300")
        assert "www-authenticate" not in answer.headers


def test_where_nobody_is_let_in_as_well(made: Callable[..., Ask]):
    """The user is None without a token, and with a bad one."""
    ask = made(Service(), required=False)
    assert ask("GET", "/who").text == "None"
    assert ask("GET", "/who", headers={"Authorization": "Bearer a.b.c"}).text == "None"
    assert ask("GET", "/who", headers=GOOD).text == "user u_1"


def test_a_cookie_where_one_is_named(made: Callable[..., Ask]):
    """The bearer token counts first; a service with sessions of its own verifies the cookie as one."""
    ask = made(Service(), cookie="__session")
    assert ask("GET", "/who", headers={"Cookie": f"a=b; __session={token()}; c"}).text == "user u_1"
    assert ask("GET", "/who", headers={"Cookie": "__session=a.b.c"}).status_code == 401
    assert ask("GET", "/who", headers={"Cookie": f"__sessio={token()}"}).status_code == 401
    assert ask("GET", "/who", headers={**GOOD, "Cookie": "__session=bad"}).text == "user u_1"
    assert (
        ask("GET", "/who", headers={"Authorization": "Basic YTpi", "Cookie": f"__session={token()}"}).text == "user u_1"
    )
    sessions = made(Sessions(), cookie="session")
    assert sessions("GET", "/who", headers={"Cookie": "session=open"}).text == "user of a cookie"
    assert sessions("GET", "/who", headers={"Cookie": f"session={token()}"}).status_code == 401
    assert sessions("GET", "/who", headers=GOOD).text == "user u_1"


def test_public_paths_are_not_looked_at(made: Callable[..., Ask]):
    """Whatever is shown there."""
    ask = made(Service())
    assert ask("GET", "/open").text == "open"
    assert ask("GET", "/open", headers={"Authorization": "Bearer a.b.c"}).text == "open"


def test_several_headers_are_none():
    """Two ``Authorization`` headers are no token, whichever of them is good."""
    app = SignedIn(_never, Service())
    sent = asyncio.run(_sent(app, [(b"authorization", GOOD["Authorization"].encode())] * 2))
    assert sent[0]["status"] == 401


async def _never(*_: Any) -> None:
    raise AssertionError


async def _sent(app: Any, headers: list[tuple[bytes, bytes]], **scope: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        found.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": f"{scope.get('type', 'http')}.connect"}

    await app({"type": "http", "method": "GET", "path": "/who", "headers": headers, **scope}, receive, send)
    return found


def test_a_head_request_has_no_body():
    """And is refused all the same."""
    sent = asyncio.run(_sent(SignedIn(_never, Service()), [], method="HEAD"))
    assert (sent[0]["status"], sent[1]["body"]) == (401, b"")


def test_websockets_are_closed_before_they_open():
    """By the middleware; a good token lets them through."""
    sent = asyncio.run(_sent(SignedIn(_never, Service()), [], type="websocket"))
    assert [(one["type"], one["code"]) for one in sent] == [("websocket.close", 1008)]
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["user"])

    good = [(b"authorization", GOOD["Authorization"].encode())]
    asyncio.run(_sent(SignedIn(app, Service()), good, type="websocket"))
    assert seen == ["user u_1"]


def test_websockets_of_fastapi():
    """The dependency closes them with 1008, and gives the user of those with a good token."""
    from starlette.testclient import TestClient, WebSocketDenialResponse
    from starlette.websockets import WebSocketDisconnect

    app = FastAPI()
    door = Depends(signed_in(Service()))

    @app.websocket("/ws")
    async def talk(socket: WebSocket, user: str = door) -> None:
        await socket.accept()
        await socket.send_text(user)
        await socket.close()

    client = TestClient(app)
    with client.websocket_connect("/ws", headers=GOOD) as socket:
        assert socket.receive_text() == "user u_1"
    with pytest.raises((WebSocketDisconnect, WebSocketDenialResponse)), client.websocket_connect("/ws"):
        pass


def test_it_stands_in_the_description():
    """FastAPI's OpenAPI names a bearer token for routes with the dependency."""
    app = FastAPI()

    @app.get("/who", dependencies=[Depends(signed_in(Service()))])
    async def who() -> None: ...

    described = app.openapi()
    [(name, scheme)] = described["components"]["securitySchemes"].items()
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    assert described["paths"]["/who"]["get"]["security"] == [{name: []}]


def test_a_mounted_application_sees_its_own_paths():
    """``public`` is about paths within the application."""
    app = SignedIn(_never, Service(), public=["/open"])
    assert asyncio.run(_sent(app, [], path="/api/who", root_path="/api"))[0]["status"] == 401
    with pytest.raises(AssertionError):
        asyncio.run(_sent(app, [], path="/api/open", root_path="/api"))


def test_lifespan_passes():
    """What is no request is none of its business."""
    with pytest.raises(AssertionError):
        asyncio.run(_sent(SignedIn(_never, Service()), [], type="lifespan"))


def test_public_paths_and_what_is_below():
    """A slash at the end is all below; the front page alone opens nothing else."""
    door = Doorkeeper(Service(), public=["/", "/static/", "/health"])
    public = ["/", "/static/", "/static/a/b.css", "/health"]
    assert [door.looks_at(path) for path in public] == [False] * 4
    assert all(door.looks_at(path) for path in ("/admin", "/static", "/health/x", "//", "/staticx/a", ""))
    assert not Doorkeeper(Service(), public="/open").looks_at("/open")


@pytest.mark.parametrize(
    "wrong", [{"service": object()}, {"cookie": ""}, {"cookie": "a=b"}, {"cookie": "a b"}, {"public": ["open"]}]
)
def test_mistakes_are_named(wrong: dict[str, Any]):
    """Where they are made."""
    arguments = {"service": Service(), **wrong}
    with pytest.raises(errors.ConfigurationError, match=next(iter(wrong))):
        Doorkeeper(**arguments)


def test_a_mistake_of_ours_is_no_answer():
    """What is missing in the configuration is raised, and answered by nobody as if a token were wrong."""

    class Unconfigured(Service):
        def verify_token(self, shown: str) -> Verification[str]:
            raise errors.ConfigurationError("no audience")

    with pytest.raises(errors.ConfigurationError):
        Doorkeeper(Unconfigured()).admit(["Bearer a.b.c"], [])


@given(st.lists(st.text(max_size=40), max_size=3), st.lists(st.text(max_size=40), max_size=3))
def test_headers_of_any_kind(authorization: list[str], cookies: list[str]):
    """Are a refusal, in both colours."""
    door = Doorkeeper(Service(), cookie="s")
    with pytest.raises(errors.InvalidToken):
        door.admit(authorization, cookies)
    with pytest.raises(errors.InvalidToken):
        asyncio.run(door.admit_async(authorization, cookies))


@given(
    st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=';," \\='), min_size=1, max_size=40)
)
def test_cookies_are_read(value: str):
    """The one that is named, among others, in quotes or not."""
    for header in (f"s={value}", f"a=1; s={value}; b", f's="{value}"', f" s = {value} "[1:]):
        assert _value([header], "s") in (value, None)
    assert _value([f"s={value}"], "s") == value
    assert _value([f"xs={value}"], "s") is None
