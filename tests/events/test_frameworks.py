"""Every framework gives the same answers: the receiver mounted in ASGI frameworks, the views of Django and Flask."""

from __future__ import annotations

import asyncio
import dataclasses
import gzip
import sys
import types
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import flask
import httpx2
import pytest
from tests.django_project import URLS, configure
from tests.events.senders.sample import NOW, Sample, Signed
from tests.events.test_senders import sample_of as the_sample_of
from werkzeug.test import create_environ

from moorline import Moorline
from moorline.clock import ManualClock
from moorline.errors import ConfigurationError
from moorline.events.frameworks.flask import webhook_blueprint
from moorline.settings import load

HOST = "https://shop.example"
Ask = Callable[..., httpx2.Response]
RUNNERS: list[asyncio.Runner] = []


def _asgi(app: Any) -> Ask:
    runner = RUNNERS[-1]

    def ask(method: str, path: str, **options: Any) -> httpx2.Response:
        async def asked() -> httpx2.Response:
            transport = httpx2.ASGITransport(app, client=("10.0.0.9", 1))
            async with httpx2.AsyncClient(transport=transport, base_url=HOST) as client:
                return await client.request(method, path, **options)

        return runner.run(asked())

    return ask


def _wsgi(app: Any) -> Ask:
    client = httpx2.Client(transport=httpx2.WSGITransport(app, remote_addr="10.0.0.9"), base_url=HOST)
    return client.request


def _plain(app: Moorline) -> Ask:
    return _asgi(app)


def _starlette(app: Moorline) -> Ask:
    from starlette.applications import Starlette
    from starlette.routing import Mount

    return _asgi(Starlette(routes=[Mount("/", app=app)]))


def _fastapi(app: Moorline) -> Ask:
    from fastapi import FastAPI

    outer = FastAPI()
    outer.mount("/", app)
    return _asgi(outer)


def _litestar(app: Moorline) -> Ask:
    from litestar import Litestar, asgi

    @asgi("/", is_mount=True, copy_scope=True)
    async def mounted(scope: Any, receive: Any, send: Any) -> None:
        await app(scope, receive, send)

    return _asgi(Litestar([mounted]))


def _django(app: Moorline) -> Ask:
    return _wsgi(_django_app(app))


def _django_app(app: Moorline) -> Any:
    from django.core.handlers.wsgi import WSGIHandler
    from django.urls import clear_url_caches, include, path

    from moorline.events.frameworks.django import webhook_urls

    configure()
    urls: Any = types.ModuleType(URLS)
    urls.urlpatterns = [path("webhooks/", include(webhook_urls(app)))]
    sys.modules[URLS] = urls
    clear_url_caches()
    return WSGIHandler()


def _flask(app: Moorline) -> Ask:
    return _wsgi(_flask_app(app))


def _flask_app(app: Moorline) -> Any:
    outer = flask.Flask("shop")
    outer.register_blueprint(webhook_blueprint(app))
    return outer


def sample_of(name: str) -> Sample:
    """The sample, with a secret that a variable can hold."""
    return dataclasses.replace(the_sample_of(name), secret=f"{name}-secret")


FRAMEWORKS = {
    "plain": _plain, "starlette": _starlette, "fastapi": _fastapi, "litestar": _litestar, "django": _django,
    "flask": _flask,
}  # fmt: skip


@pytest.fixture
def app(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Moorline]:
    """An application that knows the secrets of the samples used here."""
    for name in ("github", "square", "stripe"):
        sample = sample_of(name)
        monkeypatch.setenv(sample.scheme.env, sample.secret)
    webhooks = {"public_url": HOST, "max_body": 4096}
    app = Moorline(settings=load(database_url=database_url, webhooks=webhooks, tap=False), clock=ManualClock(NOW))
    yield app
    app.store.close()


@pytest.fixture(params=FRAMEWORKS)
def ask(request: pytest.FixtureRequest, app: Moorline) -> Iterator[Ask]:
    """Sends a request to the application inside each framework."""
    with asyncio.Runner() as runner:
        RUNNERS.append(runner)
        yield FRAMEWORKS[request.param](app)
        RUNNERS.pop()


def deliver(ask: Ask, sample: Sample, signed: Signed | None = None, **options: Any) -> httpx2.Response:
    """The sample as its sender would post it."""
    given = signed or sample.signed()
    arguments = {"headers": given.headers, "content": given.body, **options}
    return ask("POST", f"/webhooks/{sample.service}", **arguments)


@pytest.mark.parametrize("name", ["github", "square", "stripe"])
def test_a_delivery_is_stored_once(app: Moorline, ask: Ask, name: str):
    """The first is stored, byte for byte, the second counted; the address that is signed is the public one."""
    sample = sample_of(name)
    answers = [deliver(ask, sample) for _ in range(2)]
    assert [(one.status_code, one.json()) for one in answers] == [
        (200, {"status": "stored"}),
        (200, {"status": "duplicate"}),
    ]
    with app.opened() as inbox:
        [event] = inbox.recent_sync()
    assert (event.id, event.type, event.body, event.duplicates) == (sample.id, sample.type, sample.body, 1)
    assert (event.secret, event.secret_index) == (sample.scheme.env, 0)


def test_what_is_refused_is_refused_alike(app: Moorline, ask: Ask):
    """Forgeries, strangers, wrong methods, and what is too large, compressed or not; a probe is answered."""
    github = sample_of("github")
    good = github.signed()
    large = github.signed(body=b'{"a":"' + b"x" * 5000 + b'"}')
    bomb: dict[str, Any] = {
        "headers": good.headers | {"Content-Encoding": "gzip"},
        "content": gzip.compress(b" " * 100_000),
    }
    found = [
        (one.status_code, one.content)
        for one in (
            deliver(ask, github, github.spoiled()),
            ask("POST", "/webhooks/nobody", content=b"{}"),
            ask("POST", "/webhooks/slack_or_so", content=b"{}"),
            ask("POST", "/webhooks/", content=b"{}"),
            ask("POST", "/webhooks/github/x", headers=good.headers, content=good.body),
            ask("GET", "/webhooks/github"),
            deliver(ask, github, large),
            deliver(ask, github, **bomb),
            ask("HEAD", "/webhooks/github"),
            ask("HEAD", "/webhooks/nobody"),
        )
    ]
    not_found = (404, b'{"error":"not found"}')
    assert found == [
        (401, b'{"error":"unauthorized"}'),
        not_found,
        not_found,
        not_found,
        not_found,
        (405, b'{"error":"method not allowed"}'),
        (413, b'{"error":"body too large"}'),
        (413, b'{"error":"body too large"}'),
        (200, b""),
        (404, b""),
    ]
    with app.opened() as inbox:
        assert inbox.recent_sync() == []


def test_a_body_in_parts_without_a_length_is_taken(app: Moorline, ask: Ask):
    """Chunked bodies are read to their end, and bounded all the same."""
    github = sample_of("github")
    signed = github.signed()
    whole = signed.body
    assert deliver(ask, github, content=whole).status_code == 200
    with app.opened() as inbox:
        assert [event.body for event in inbox.recent_sync()] == [whole]


@pytest.mark.parametrize("framework", [_django_app, _flask_app])
def test_a_chunked_body_is_read_where_the_server_ends_it(app: Moorline, framework: Callable[[Moorline], Any]):
    """WSGI gives it no length: a server that decodes chunks says that its stream ends by itself."""
    wsgi = framework(app)
    statuses: list[str] = []
    body = sample_of("github").signed().body
    for sent in (body, body + b" " * 5000):
        environ = create_environ(
            "/webhooks/github", HOST, method="POST", headers=sample_of("github").signed(body=sent).headers
        )
        environ.pop("CONTENT_LENGTH", None)
        environ |= {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True, "wsgi.input": BytesIO(sent)}
        list(wsgi(environ, lambda status, *_: statuses.append(status[:3])))
    assert statuses == ["200", "413"]
    with app.opened() as inbox:
        assert [event.body for event in inbox.recent_sync()] == [body]


def test_a_body_that_flask_has_read_before_is_checked_all_the_same(app: Moorline):
    """A hook of the project may look at it: the exact bytes are still there."""
    outer = _flask_app(app)

    @outer.before_request
    def look() -> None:
        flask.request.get_data()

    github = sample_of("github")
    assert deliver(_wsgi(outer), github).json() == {"status": "stored"}
    with app.opened() as inbox:
        assert [event.body for event in inbox.recent_sync()] == [github.body]


@pytest.mark.parametrize("framework", [_django_app, _flask_app])
@pytest.mark.parametrize(
    ("url", "environ"),
    [
        ("/api/webhooks/square", {"SCRIPT_NAME": "/api", "RAW_URI": "/webhooks/square"}),  # werkzeug's ProxyFix
        ("/api/webhooks/square", {"SCRIPT_NAME": "/api", "RAW_URI": "/api/webhooks/square"}),
        ("/webhooks/square?shop={a|b}", {"QUERY_STRING": "shop={a|b}", "RAW_URI": "/webhooks/square?shop={a|b}"}),
    ],
)
def test_the_address_is_the_one_that_was_called(
    app: Moorline, framework: Callable[[Moorline], Any], url: str, environ: dict[str, str]
):
    """Below a mount, or behind a proxy that tells of its prefix; and its query is not encoded anew."""
    square = sample_of("square")
    signed = dataclasses.replace(square, url=HOST + url).signed()
    called = create_environ("/webhooks/square", HOST, method="POST", headers=signed.headers, data=signed.body)
    statuses: list[str] = []
    list(framework(app)(called | environ, lambda status, *_: statuses.append(status[:3])))
    assert statuses == ["200"]


def test_a_database_that_is_away_asks_the_sender_to_come_again(
    ask: Ask, app: Moorline, monkeypatch: pytest.MonkeyPatch
):
    """503 with Retry-After, never 4xx, so that nobody gives up."""
    from moorline.errors import StoreUnavailable

    def away(*_: Any, **__: Any) -> Any:
        raise StoreUnavailable("the database is away")

    monkeypatch.setattr(app.store, "write", away)
    monkeypatch.setattr(app.store, "write_sync", away)
    answer = deliver(ask, sample_of("github"))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


def test_what_is_no_application_is_refused():
    """The mistake is named where it is made."""
    with pytest.raises(ConfigurationError, match="expected a Moorline"):
        webhook_blueprint(object())
