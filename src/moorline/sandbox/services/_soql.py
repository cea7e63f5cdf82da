"""As much of SOQL as the sandbox knows: one object, conditions joined by AND, an order, and a limit."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

__all__ = ["Malformed", "Query", "parsed"]

_TOKEN = re.compile(
    r"""\s*(?:
    (?P<text>'(?:[^'\\]|\\.)*')
    |(?P<time>\d{4}-\d\d-\d\d(?:T[\d:.]+(?:Z|[+-]\d\d:?\d\d))?)
    |(?P<number>-?\d+(?:\.\d+)?)
    |(?P<word>[A-Za-z][A-Za-z0-9_.]*)
    |(?P<sign><=|>=|!=|<>|=|<|>|\(|\)|,)
    )""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f"}
_COMPARED: dict[str, Callable[[Any, Any], bool]] = {
    "<": lambda here, there: here < there,
    "<=": lambda here, there: here <= there,
    ">": lambda here, there: here > there,
    ">=": lambda here, there: here >= there,
}


class Malformed(Exception):
    """What Salesforce answers with MALFORMED_QUERY."""


@dataclass(frozen=True)
class Query:
    """What was asked for."""

    fields: tuple[str, ...]
    sobject: str
    conditions: tuple[tuple[str, str, Any], ...]
    order: tuple[tuple[str, bool], ...]
    limit: int | None

    @property
    def names(self) -> set[str]:
        """All fields that are named."""
        return {*self.fields, *(one[0] for one in self.conditions), *(one[0] for one in self.order)}

    def matches(self, fields: Mapping[str, Any]) -> bool:
        """Whether a record meets all conditions."""
        return all(_meets(_held(fields, name), sign, value) for name, sign, value in self.conditions)

    def ordered(self, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The records in their order, as many as are wanted."""
        for name, backwards in reversed(self.order):
            records = sorted(records, key=lambda one: _key(_held(one, name)), reverse=backwards)
        return records if self.limit is None else records[: self.limit]


class _Reader:
    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, str]] = []
        at, text = 0, text.strip()
        while at < len(text):
            found = _TOKEN.match(text, at)
            if found is None or found.lastgroup is None:
                raise Malformed(f"unexpected token: '{text[at : at + 20]}'")
            self.tokens.append((found.lastgroup, found[found.lastgroup]))
            at = found.end()

    def word(self, *wanted: str) -> str:
        """The next token, a word, and one of *wanted* where there are any."""
        kind, token = self.next()
        if kind != "word" or (wanted and token.upper() not in wanted):
            raise Malformed(f"unexpected token: '{token}'")
        return token

    def next(self) -> tuple[str, str]:
        """The next token."""
        if not self.tokens:
            raise Malformed("unexpected token: '<EOF>'")
        return self.tokens.pop(0)

    def taken(self, wanted: str) -> bool:
        """Whether the next token is that one, which is then taken."""
        if self.tokens and self.tokens[0][0] in ("word", "sign") and self.tokens[0][1].upper() == wanted:
            self.tokens.pop(0)
            return True
        return False


def parsed(text: str) -> Query:
    """The query. Raises Malformed."""
    read = _Reader(text)
    read.word("SELECT")
    fields = [read.word()]
    while read.taken(","):
        fields.append(read.word())
    read.word("FROM")
    sobject, conditions, order, limit = read.word(), [], [], None
    if read.taken("WHERE"):
        conditions.append(_condition(read))
        while read.taken("AND"):
            conditions.append(_condition(read))
    if read.taken("ORDER"):
        read.word("BY")
        while True:
            name = read.word()
            order.append((name, not read.taken("ASC") and read.taken("DESC")))
            if not read.taken(","):
                break
    if read.taken("LIMIT"):
        kind, token = read.next()
        if kind != "number" or not token.isdecimal():
            raise Malformed(f"unexpected token: '{token}'")
        limit = int(token)
    if read.tokens:
        raise Malformed(f"unexpected token: '{read.tokens[0][1]}'")
    return Query(tuple(fields), sobject, tuple(conditions), tuple(order), limit)


def _condition(read: _Reader) -> tuple[str, str, Any]:
    name = read.word()
    kind, sign = read.next()
    if kind == "word" and sign.upper() in ("IN", "LIKE"):
        sign = sign.upper()
    elif kind != "sign" or sign in ("(", ")", ","):
        raise Malformed(f"unexpected token: '{sign}'")
    if sign != "IN":
        return name, sign, _value(*read.next())
    if not read.taken("("):
        raise Malformed("unexpected token: expecting a left parentheses")
    values = [_value(*read.next())]
    while read.taken(","):
        values.append(_value(*read.next()))
    if not read.taken(")"):
        raise Malformed("unexpected token: expecting a right parentheses")
    return name, sign, values


def _value(kind: str, token: str) -> Any:
    if kind == "text":
        return _Text(token[1:-1])
    if kind == "time":
        return token
    if kind == "number":
        return float(token)
    if token.lower() in ("true", "false", "null"):
        return {"true": True, "false": False, "null": None}[token.lower()]
    raise Malformed(f"unexpected token: '{token}'")


@dataclass(frozen=True)
class _Text:
    """A literal as it stands between its quotes: a LIKE reads escaped wildcards, all else the text."""

    raw: str

    def __str__(self) -> str:
        return re.sub(r"\\(.)", lambda one: _ESCAPES.get(one[1], one[1]), self.raw, flags=re.DOTALL)


def _held(fields: Mapping[str, Any], name: str) -> Any:
    return next((value for known, value in fields.items() if known.lower() == name.lower()), None)


def _meets(held: Any, sign: str, value: Any) -> bool:
    if sign == "IN":
        return any(_equal(held, one) for one in value)
    if sign == "LIKE":
        return isinstance(held, str) and _pattern(value).fullmatch(held) is not None
    if sign in ("=", "!=", "<>"):
        return _equal(held, value) is (sign == "=")
    here, there = _key(held), _key(value)
    return held is not None and here[0] == there[0] and _COMPARED[sign](here[1], there[1])


def _equal(held: Any, value: Any) -> bool:
    """Texts are compared without case, as Salesforce does."""
    if isinstance(held, str) and isinstance(value, _Text):
        return held.lower() == str(value).lower()
    return _key(held) == _key(value)


def _key(value: Any) -> tuple[int, Any]:
    if value is None:
        return 0, 0
    if isinstance(value, bool | int | float):
        return 1, value
    try:
        return 2, datetime.fromisoformat(str(value)).timestamp()
    except ValueError:
        return 3, str(value).lower()


def _pattern(value: Any) -> re.Pattern[str]:
    """What the pattern of a LIKE matches. A wildcard behind a backslash is none."""
    if not isinstance(value, _Text):
        raise Malformed("LIKE needs a text")
    made = []
    for token in re.findall(r"\\.|.", value.raw, re.DOTALL):
        if token == "%":
            made.append(".*")
        elif token == "_":
            made.append(".")
        else:
            made.append(re.escape(_ESCAPES.get(token[-1], token[-1]) if len(token) > 1 else token))
    return re.compile("".join(made), re.IGNORECASE | re.DOTALL)
