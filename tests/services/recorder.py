"""A wire that keeps what is sent and answers as told."""

from __future__ import annotations

from typing import Any

import httpx2

from moorline.calls.guards import Guards
from moorline.calls.parameters import parameters_of
from moorline.calls.service import Service
from moorline.sandbox.standin import Answer, Ask, StandIn


def token_answer(request: httpx2.Request) -> httpx2.Response | None:
    """A good token, where that is what is asked for (RFC 6749): what is under test comes after it. Salesforce says with
    it where it is to be used.
    """
    if request.method == "POST" and b"grant_type=" in request.read():
        site = f"{request.url.scheme}://{request.url.host}"
        return httpx2.Response(200, json={"access_token": "token-0123456789", "expires_in": 3600, "instance_url": site})
    return None


def answered(stand_in: StandIn, request: httpx2.Request) -> httpx2.Response:
    """What a stand-in answers that nobody serves. It waits for nothing, so that it is done at once, on a loop as well."""
    headers = {name.lower(): value for name, value in request.headers.items()}
    query = request.url.query.decode()
    ask = Ask(request.method, request.url.path, query, headers, request.read(), "https://sandbox.example")
    try:
        stand_in.handle(ask).send(None)
    except StopIteration as done:
        answer: Answer = done.value
    else:
        raise AssertionError("a stand-in that waits has to be served")
    return httpx2.Response(answer.status, content=answer.encoded()[0], headers=dict(answer.headers))


class Recorder:
    """Requests that a service made; the answer is the same for all."""

    def __init__(self, status: int = 200, content: bytes = b"{}", headers: dict[str, str] | None = None) -> None:
        self.requests: list[httpx2.Request] = []
        self.answer = (status, content, headers or {})

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        token = token_answer(request)
        if token is not None:
            return token
        self.requests.append(request)
        status, content, headers = self.answer
        return httpx2.Response(status, content=content, headers=headers)

    def service(self, kind: type[Service], **options: Any) -> Any:
        """A service that sends through this."""
        for name, parameter in parameters_of(kind).items():
            options.setdefault(name, parameter.sandbox or None)
        key = options.pop("key", "sk_test_1")
        return kind(key, wire=httpx2.MockTransport(self), guards=Guards(), **options)
