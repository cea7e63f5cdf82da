"""A wire that keeps what is sent and answers as told."""

from __future__ import annotations

from typing import Any

import httpx2

from moorline.calls.guards import Guards
from moorline.calls.service import Service


class Recorder:
    """Requests that a service made; the answer is the same for all."""

    def __init__(self, status: int = 200, content: bytes = b"{}", headers: dict[str, str] | None = None) -> None:
        self.requests: list[httpx2.Request] = []
        self.answer = (status, content, headers or {})

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        request.read()
        self.requests.append(request)
        status, content, headers = self.answer
        return httpx2.Response(status, content=content, headers=headers)

    def service(self, kind: type[Service], **options: Any) -> Any:
        """A service that sends through this."""
        return kind("sk_test_1", wire=httpx2.MockTransport(self), guards=Guards(), **options)
