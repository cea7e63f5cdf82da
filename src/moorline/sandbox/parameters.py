"""Reading form parameters as strictly as the vendors do: nested names, types, unknown and missing ones, and files.

What is wrong is told as :class:`Unfit`, with a ``problem`` that each stand-in puts into its vendor's words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qsl

__all__ = ["Form", "Kind", "Sent", "Unfit", "checked", "decode_form", "decode_multipart", "needed"]

Form = dict[str, Any]
Kind = Literal["int", "bool", "text", "hash", "list", "any"] | tuple[str, ...]
Problem = Literal["unknown", "missing", "empty", "int", "bool", "text", "hash", "list", "choice", "twofold"]


class Unfit(Exception):
    """A parameter that does not fit; ``choices`` are the accepted words, if it is a matter of those."""

    def __init__(self, problem: Problem, name: str, value: object = None, choices: tuple[str, ...] = ()) -> None:
        super().__init__(f"{name}: {problem}")
        self.problem = problem
        self.name = name
        self.value = value
        self.choices = choices


def decode_form(text: str) -> Form:
    """``a[b]=1&c[]=2`` as nested dicts and lists. Raises Unfit where a name is used in two ways."""
    root: Form = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        head, *keys = name.replace("]", "").split("[")
        _put(root, head, keys, value)
    return root


def _put(root: Form, head: str, keys: list[str], value: str) -> None:
    place: Any = root
    path = [head, *keys]
    for here, after in zip(path, [*path[1:], None], strict=True):
        fresh: Any = value if after is None else ([] if after == "" or after.isdecimal() else {})
        if isinstance(place, list):
            place.append(fresh)
            place = place[-1]
        elif isinstance(place, dict):
            if after is None:
                place[here] = value
            place = place.setdefault(here, fresh)
        else:
            raise Unfit("twofold", head)


@dataclass(frozen=True, slots=True)
class Sent:
    """A file in a form."""

    filename: str
    type: str
    content: bytes = field(repr=False)


def decode_multipart(body: bytes, content_type: str) -> list[tuple[str, str | Sent]]:
    """The fields of a ``multipart/form-data`` body in their order. Raises ValueError for what is none."""
    found = re.search(r'; *boundary="?([^\s";]{1,70})"?', content_type)
    if found is None:
        raise ValueError("no boundary")
    first, *pieces = (b"\r\n" + body).split(b"\r\n--" + found[1].encode())
    if first or not pieces or pieces.pop() not in (b"--", b"--\r\n"):
        raise ValueError("no multipart body")
    return [_piece(piece) for piece in pieces]


def _piece(piece: bytes) -> tuple[str, str | Sent]:
    head, gap, content = piece.partition(b"\r\n\r\n")
    lines = dict(line.partition(": ")[::2] for line in head.decode().lstrip("\r\n").split("\r\n"))
    named = re.fullmatch(r'form-data; name="([^"]+)"(?:; filename="([^"]*)")?', lines.get("Content-Disposition", ""))
    if named is None or not gap:
        raise ValueError("a part without a name")
    if named[2] is None:
        return named[1], content.decode()
    return named[1], Sent(named[2], lines.get("Content-Type", "text/plain"), content)


def checked(form: Mapping[str, Any], kinds: Mapping[str, Kind]) -> Form:
    """The parameters in their types. Raises Unfit for the first that is unknown or of another type."""
    clean: Form = {}
    for name, value in form.items():
        if name not in kinds:
            raise Unfit("unknown", name, value)
        clean[name] = _typed(name, value, kinds[name])
    return clean


def needed(form: Mapping[str, Any], *names: str) -> None:
    """Raises Unfit for the first that is missing."""
    for name in names:
        if name not in form:
            raise Unfit("missing", name)


def _typed(name: str, value: Any, kind: Kind) -> Any:
    if isinstance(kind, tuple):
        if value not in kind:
            raise Unfit("choice", name, value, kind)
        return value
    if kind == "any":
        return value
    if kind in ("hash", "list"):
        if not isinstance(value, dict if kind == "hash" else list):
            raise Unfit(kind, name, value)
        return value
    if not isinstance(value, str):
        raise Unfit("text", name, value)
    if value == "":
        raise Unfit("empty", name, value)
    if kind == "int":
        if not re.fullmatch(r"-?[0-9]{1,18}", value):
            raise Unfit("int", name, value)
        return int(value)
    if kind == "bool":
        if value not in ("true", "false"):
            raise Unfit("bool", name, value)
        return value == "true"
    return value
