"""Zendesk's refusals, its pages by cursor and by number, and what its words of a search mean."""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Any
from urllib.parse import quote

from moorline.sandbox.standin import Answer, Ask

__all__ = ["Refused", "by_cursor", "by_number", "matches", "page_size"]

_ORDER = ("new", "open", "pending", "hold", "solved", "closed")


class Refused(Exception):
    """What is answered in place of what was asked for."""

    def __init__(self, status: int, content: dict[str, Any]) -> None:
        super().__init__(str(content))
        self.answer = Answer(status, content)


def matches(kind: str, one: dict[str, Any], word: str) -> bool:
    """Whether an object meets one word of a search."""
    found = re.fullmatch(r"(type|status|email)([:<>])(.+)", word)
    if found is None:
        return word.lower() in json.dumps(one).lower()
    name, sign, value = found.groups()
    if name == "type":
        return kind == value
    held = one.get(name)
    if name == "status" and held in _ORDER and value in _ORDER:
        places = _ORDER.index(held), _ORDER.index(value)
        return (
            places[0] < places[1] if sign == "<" else places[0] > places[1] if sign == ">" else places[0] == places[1]
        )
    return str(held).lower() == value.lower()


def page_size(given: str, most: int = 100) -> int:
    """The size of a page. Raises Refused."""
    if not given.isdecimal() or not 1 <= int(given) <= most:
        raise Refused(400, {"error": {"title": "Bad Request", "message": "the page size is invalid"}})
    return int(given)


def by_cursor(ask: Ask, name: str, held: list[dict[str, Any]]) -> dict[str, Any]:
    """A page after the place that the cursor names."""
    query = dict(ask.parameters)
    try:
        start = int(base64.b64decode(query.get("page[after]", "")).decode() or 0)
    except (binascii.Error, ValueError):
        raise Refused(400, {"error": {"title": "Bad Request", "message": "page[after] is invalid"}}) from None
    end = start + page_size(query.get("page[size]", "100"))
    more = end < len(held)
    cursor = base64.b64encode(str(min(end, len(held))).encode()).decode()
    link = f"{ask.base}{ask.path}?page[after]={quote(cursor)}"
    return {
        name: held[start:end],
        "meta": {"has_more": more, "after_cursor": cursor if more else None, "before_cursor": None},
        "links": {"next": link if more else None, "prev": None},
    }


def by_number(ask: Ask, name: str, held: list[dict[str, Any]], *, most: int) -> dict[str, Any]:
    """A page by its number, as long as it is among the first *most* results."""
    query = dict(ask.parameters)
    number, size = int(query.get("page", "1")), page_size(query.get("per_page", "100"))
    if number * size > most:
        raise Refused(422, {"error": "Invalid search", "description": f"Search Response Limits: {most} results"})
    more = number * size < len(held)
    link = f"{ask.base}{ask.path}?page={number + 1}&per_page={size}"
    page = held[(number - 1) * size : number * size]
    return {name: page, "count": len(held), "next_page": link if more else None, "previous_page": None}
