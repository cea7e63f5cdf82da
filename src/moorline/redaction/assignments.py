r"""Values that are assigned to a sensitive name, however a program writes that: ``token=…``, ``"token": "…"`` at any
depth of escaping, ``--token …``, ``<Token>…</Token>``, ``("token", "…")``.

Each rule jumps from one sensitive word to the next, and looks at what follows once: time grows with the text alone.
"""

from __future__ import annotations

import re
from typing import Final

from moorline.redaction.draft import Change, Draft
from moorline.redaction.gate import Gate
from moorline.redaction.names import ENDS, MASK, SHOWN_VALUES, is_count, is_sensitive

__all__ = ["MAY_BE_NAMED", "NAMED", "mask_named"]

_FURTHER: Final = ("verifier", "plaintext", "otp", "pass", "session")
_WORDS: Final = tuple(dict.fromkeys((*(end for end in ENDS if not end.startswith("session")), *_FURTHER)))
_ENDING: Final = r"(?:s|[-_. ]?id|[-_]?string|[-_]?binary)?(?:[-_.\[\]0-9]|%5[bBdD]){0,12}"
_SPACE: Final = r"(?:\s|%20|\+)"
_QUOTE: Final = r"(?:[\"']|%22|%27|&quot;|&#34;|&#39;|&#x27;)?"
_MARK: Final = r"(?:[=:]|%3[aAdD])"
_NO_COMPARISON: Final = "(?!=)"  # of two strings, in a line of code

NAMED: Final = (
    rf"(?i:(?:{'|'.join(_WORDS)}){_ENDING}(?:\\*{_QUOTE}(?:{_SPACE}|[\x1c-\x1f])*{_MARK}|>|\\*[\"'],))"
    rf"|(?i:--[\w.-]*(?:{'|'.join(_WORDS)}){_ENDING}[ ])"
)
"""What opens a gate for these rules, in the syntax that Rust's regular expressions share with Python's."""

MAY_BE_NAMED: Final = Gate(NAMED)

# The longest word that stands there, and what may follow: a mark of assignment, the end of an XML tag, the comma of a
# pair, the space of an argument.
_AFTER: Final = re.compile(
    rf"(?i)(?>{'|'.join(sorted(_WORDS, key=len, reverse=True))}){_ENDING}"
    rf"(?:(?P<mark>\\*{_QUOTE}{_SPACE}*{_MARK}{_NO_COMPARISON}{_SPACE}*)|(?P<tag>>)(?P<inner>[^<>]+)</"
    rf"|(?P<comma>\\*[\"'],\s*)(?:b?\\*[\"'])|(?P<space>[ ])[^\s-])"
)
_OPENING: Final = re.compile(r"(?:[bBrRuUfF]{1,2})?(\\*)([\"'])|(%22|%27|&quot;|&#34;|&#39;|&#x27;)")
_BARE: Final = re.compile(r"[^\s\"'&,;)}\]\\]+")
_SECRET: Final = re.compile(r"Secret\('\*\*\*'\)|\*\*\*")
_IN_NAME: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
_LONG: Final = 20
_LONGEST_NAME: Final = 60
_LONGEST_PREFIX: Final = 20  # of a name in XML
_BRACKETS: Final = {"[": "]", "{": "}", "(": ")"}


def mask_named(draft: Draft) -> None:
    """Mask what is assigned to sensitive names, quotes kept."""
    if not draft.may_hold(MAY_BE_NAMED):
        return
    line = draft.line
    changes: list[Change] = []
    done = 0
    for at in draft.places_in_any_case(*_WORDS):
        if at < done:
            continue
        after = _AFTER.match(line, at)
        if after is None:
            continue
        kind = after.lastgroup or ""
        kind = "tag" if kind == "inner" else kind
        start = _name_start(line, at, done)
        name = line[start : after.start(kind)]
        if not is_sensitive(_decoded(name)):
            continue
        span = _RULES[kind](line, start, name, after)
        if span is not None:
            begin, done = span
            quote = _quote_of(line, begin, after["mark"] or "")
            changes.append((begin, done, f"{quote}{MASK}{quote}"))
    draft.change(changes)


def _assigned(line: str, _start: int, name: str, after: re.Match[str]) -> tuple[int, int] | None:
    return _value(line, after.end("mark"), name, after["mark"])


def _element(line: str, start: int, name: str, after: re.Match[str]) -> tuple[int, int] | None:
    # A "Key" alone is the name of an object in S3.
    before = line[max(start - _LONGEST_PREFIX, 0) : start]
    opened = before.endswith("<") or (before.endswith(":") and "<" in before)
    shown = not opened or name.lower() == "key" or after["inner"].strip().lower() in SHOWN_VALUES
    return None if shown else after.span("inner")


def _paired(line: str, start: int, _name: str, after: re.Match[str]) -> tuple[int, int] | None:
    """Of ``(b'x-api-key', b'…')`` the second, as lists of headers are shown; but not of a list of words."""
    before = line[max(start - 12, 0) : start].rstrip("\\\"'").removesuffix("b").rstrip()
    opening = _OPENING.match(line, after.end("comma"))
    if opening is None or not before.endswith(("(", "[[", "],[", "], [", MASK)):
        return None
    begin = opening.end()
    end = _closing(line, begin, len(opening[1] or ""), opening[2] or "'")
    closed = end >= 0 and line[end : end + 40].lstrip("\\\"' \n").startswith((")", "]"))
    return (begin, end) if closed and line[begin:end].lower() not in SHOWN_VALUES else None


def _argument(line: str, start: int, name: str, after: re.Match[str]) -> tuple[int, int] | None:
    """Of ``--token …`` what follows."""
    if not name.startswith("--") or line[max(start - 1, 0) : start].strip("\"'([= "):
        return None
    begin = after.end("space")
    end = begin
    while end < len(line) and not line[end].isspace():
        end += 1
    return None if line[begin:end].lower() in SHOWN_VALUES else (begin, end)


_RULES: Final = {"mark": _assigned, "tag": _element, "comma": _paired, "space": _argument}


def _quote_of(line: str, begin: int, joint: str) -> str:
    """A number or list under a quoted name: its mask has the quotes that it lacks, so that JSON remains JSON."""
    bare = joint[:1] in {'"', "'"} and line[begin - 1 : begin] not in {'"', "'"}
    return joint[0] if bare else ""


def _name_start(line: str, at: int, floor: int) -> int:
    lowest = max(at - _LONGEST_NAME, floor)
    while at > lowest and line[at - 1] in _IN_NAME:
        at -= 1
    return at


def _decoded(name: str) -> str:
    if "%" not in name:
        return name
    return name.replace("%5B", "[").replace("%5D", "]").replace("%5b", "[").replace("%5d", "]")


def _value(line: str, at: int, name: str, joint: str) -> tuple[int, int] | None:
    """Where the value that begins there is to be masked; None if it may be shown."""
    if _SECRET.match(line, at) is not None:
        return None
    opening = _OPENING.match(line, at)
    if opening is not None:
        begin = opening.end()
        end = line.find(opening[3], begin) if opening[3] else _closing(line, begin, len(opening[1]), opening[2])
        end = len(line) if end < 0 else end
        return None if line[begin:end].lower() in SHOWN_VALUES else (begin, end)
    by_program = "=" in joint or joint[0] in "\\\"'%&"
    if line[at : at + 1] in {"[", "{"}:
        end = _balanced(line, at) if by_program else at
        return (at, end) if end - at > len("[]") else None
    bare = _BARE.match(line, at)
    if bare is None:
        return None
    end = bare.end()
    value = bare[0]
    if value.lower() in SHOWN_VALUES or _is_number_of(name, value):
        return None
    # "wrong token: expected a string" is English; "password: hunter2" and {"token": "…"} are not.
    if not by_program and len(value) < _LONG and not any(letter.isdigit() for letter in value):
        return None
    opened = value.find("(")
    return at, (_balanced(line, at + opened) if opened >= 0 else end)


def _is_number_of(name: str, value: str) -> bool:
    return value.isdigit() and is_count(name.strip("-_.[]"), 0)


def _closing(line: str, at: int, level: int, quote: str) -> int:
    r"""Where a value that opened with a quote behind *level* backslashes ends: a quote behind as many, or the one of a
    text around it. Inside, a quote has more (``\\\"`` in what opened with ``\"``).
    """
    while (at := line.find(quote, at)) >= 0:
        before = at
        while before > 0 and line[before - 1] == "\\":
            before -= 1
        count = at - before
        if count < level:
            return before
        if (count - level) % (2 * (level + 1)) == 0:
            return at - level
        at += 1
    return -1


def _balanced(line: str, at: int) -> int:
    """The end of what opens with the bracket at that place; quoted brackets do not count."""
    waiting: list[str] = []
    quote = ""
    length = len(line)
    while at < length:
        letter = line[at]
        if quote:
            if letter == "\\":
                at += 1
            elif letter == quote:
                quote = ""
        elif letter in "\"'":
            quote = letter
        elif letter in _BRACKETS:
            waiting.append(_BRACKETS[letter])
        elif waiting and letter == waiting[-1]:
            waiting.pop()
            if not waiting:
                return at + 1
        at += 1
    return length
