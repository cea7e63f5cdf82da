"""A browser that asks for pages of the dashboard and sends its forms, and a reader of what it gets."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlencode

import httpx2
from tests.dashboard.seeding import TOKEN

__all__ = ["Read", "Visitor", "read"]

_VOID = {"meta", "link", "input", "br", "path", "circle", "rect", "line", "hr", "img"}


class Visitor:
    """Keeps cookies and follows nothing by itself."""

    def __init__(self, asgi: Any, base: str = "http://127.0.0.1:8000", peer: str = "203.0.113.9") -> None:
        transport = httpx2.ASGITransport(app=asgi, client=(peer, 50_000))
        self.base = base
        self.client = httpx2.AsyncClient(transport=transport, base_url=base)

    async def get(self, path: str = "", **headers: str) -> httpx2.Response:
        """A page; *path* is below ``/dashboard``."""
        return await self.client.get(f"{_where(path)}", headers=headers)

    async def json(self, path: str) -> Any:
        answer = await self.get(path, accept="application/json")
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def post(self, path: str, form: Any = (), **headers: str) -> httpx2.Response:
        """As a form of this very site sends it, unless headers say otherwise."""
        usual = {"origin": "null", "sec-fetch-site": "same-origin"}
        usual["content-type"] = "application/x-www-form-urlencoded"
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        sent = {name: value for name, value in (usual | given).items() if value}
        return await self.client.post(_where(path), content=urlencode(form).encode(), headers=sent)

    async def enter(self, token: str = TOKEN, **fields: str) -> httpx2.Response:
        return await self.post("/login", {"token": token, **fields})


def _where(path: str) -> str:
    return path if path.startswith(("http", "/auth")) else f"/dashboard{path}"


class Read(HTMLParser):
    """A page, taken apart: ``shape`` are its elements with the names of their attributes, ``words`` what it says."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.shape: list[tuple[str, ...]] = []
        self.words: list[str] = []
        self.given: list[tuple[str, str, str]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), f"an attribute of <{tag}> is there twice"
        self.shape.append((tag, *names))
        self.given += [(tag, name, value or "") for name, value in attrs]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> ends nothing"
        assert self.open.pop() == tag, f"</{tag}> ends another element"

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def values(self, name: str) -> list[str]:
        """All values of that attribute."""
        return [value for _, own, value in self.given if own == name]

    @property
    def text(self) -> str:
        return "".join(self.words)


def read(page: str) -> Read:
    """*page*, whose elements are closed in their order."""
    reader = Read()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader
