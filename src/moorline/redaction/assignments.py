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

__all__ = ["INPUT", "MAY_BE_NAMED", "NAMED", "mask_inputs", "mask_named"]

_FURTHER: Final = ("verifier", "plaintext", "otp", "pass", "session")
_WORDS: Final = tuple(dict.fromkeys((*(end for end in ENDS if not end.startswith("session")), *_FURTHER)))
_ENDING: Final = r"(?:s|[-_. ]?id|[-_]?string|[-_]?binary|[-_.]?value)?(?:[-_.\[\]0-9]|%5[bBdD]){0,12}"
_SPACE: Final = r"(?:\s|%20|\+)"
_QUOTE: Final = r"(?:[\"']|%22|%27|&quot;|&#34;|&#39;|&#x27;)?"
_MARK: Final = r"(?:[=:]|%3[aAdD])"
_NO_COMPARISON: Final = "(?!=)"  # of two strings, in a line of code
_ATTRIBUTES: Final = r"(?:[ ][^<>,&\n]*)?"  # of an element in XML; nothing at which a text may be cut
_BREAK: Final = r"(?:\r?\n|\\{1,4}r\\{1,4}n)"  # of a line, also as text in text

_VALUE_BESIDE: Final = r"\\*[\"']?(?:,|[ \t\r]*\n)\s*+\\*[\"']?value\\*[\"']?\s*(?:=>?|:)\s*"

NAMED: Final = (
    rf"(?i:(?:{'|'.join(_WORDS)}){_ENDING}(?:\\*{_QUOTE}(?:{_SPACE}|[\x1c-\x1f])*{_MARK}|{_ATTRIBUTES}>|\\*[\"'],"
    rf"|[\"']?[ \t\r]*\n\s*[\"']?value|\\*[\"']{_BREAK}))"
    rf"|(?i:--[\w.-]*(?:{'|'.join(_WORDS)}){_ENDING}[ ])"
)
"""What opens a gate for these rules, in the syntax that Rust's regular expressions share with Python's."""

MAY_BE_NAMED: Final = Gate(NAMED)

# The longest word that stands there, and what may follow: a mark of assignment, the end of an XML tag, a field "value"
# beside the name, the head of a part of a form, the comma of a pair, the space of an argument.
_AFTER: Final = re.compile(
    rf"(?i)(?>{'|'.join(sorted(_WORDS, key=len, reverse=True))}){_ENDING}"
    rf"(?:(?P<mark>\\*{_QUOTE}{_SPACE}*{_MARK}{_NO_COMPARISON}>?{_SPACE}*)"
    rf"|(?P<tag>{_ATTRIBUTES.replace('*', '{0,200}')}>)(?:(?P<literal><!\[CDATA\[)|(?P<inner>[^<>]+)</)"
    rf"|(?P<beside>{_VALUE_BESIDE})"
    rf"|(?P<part>\\*[\"'](?:{_BREAK}[^\r\n\\]+)?{_BREAK}{_BREAK})"
    rf"|(?P<comma>\\*[\"'],\s*)(?:b?\\*[\"'])|(?P<space>[ ])[^\s-])"
)
_BOUNDARY: Final = re.compile(rf"{_BREAK}--")
_LABEL: Final = re.compile(r"(?i)(?:name|key)\\*[\"']?\s*(?:=>?|:)\s*\\*[\"']?$")
_LABELLED: Final = re.compile(rf"(?i)([^\"'\\\r\n,]{{1,100}}){_VALUE_BESIDE}")
_INDICATOR: Final = re.compile(r"[|>][-+0-9]{0,2}")  # of a text on the lines below, in YAML
_OPENING: Final = re.compile(r"(?:[bBrRuUfF]{1,2})?(\\*)([\"'])|(%22|%27|&quot;|&#34;|&#39;|&#x27;)")
_BARE: Final = re.compile(r"[^\s\"'&,;)}\]\\]+")
_SECRET: Final = re.compile(r"Secret\('\*\*\*'\)|\*\*\*")
_IN_NAME: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
_LONG: Final = 20
_LONGEST_NAME: Final = 60
INPUT: Final = "input_value="
_FARTHEST: Final = 2_000  # characters of pydantic's message before it
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
        kind = "tag" if kind in {"inner", "literal"} else kind
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
    if name.lower() == "key":  # {"Key": "db_password", "Value": "…"}: what stands there is a name itself
        opening = _OPENING.match(line, after.end("mark"))
        labelled = _LABELLED.match(line, after.end("mark") if opening is None else opening.end())
        if labelled is not None and is_sensitive(labelled[1]):
            return _value(line, labelled.end(), labelled[1], '":')
    return _value(line, after.end("mark"), name, after["mark"])


def _beside(line: str, start: int, name: str, after: re.Match[str]) -> tuple[int, int] | None:
    """Of ``{"name": "api_key", "value": "…"}`` the value, as headers and variables are listed."""
    labelled = _LABEL.search(line[max(start - 24, 0) : start])
    return None if labelled is None else _value(line, after.end("beside"), name, '":')


def _part(line: str, start: int, _name: str, after: re.Match[str]) -> tuple[int, int] | None:
    """Of a form in parts the value: all until the next line that begins with the boundary's dashes."""
    if not line[max(start - 12, 0) : start].rstrip("\\\"'").endswith("name="):
        return None
    begin = after.end("part")
    found = _BOUNDARY.search(line, begin)
    return begin, len(line) if found is None else found.start()


def _element(line: str, start: int, name: str, after: re.Match[str]) -> tuple[int, int] | None:
    # A "Key" alone is the name of an object in S3.
    before = line[max(start - _LONGEST_PREFIX, 0) : start]
    opened = before.endswith("<") or (before.endswith(":") and "<" in before)
    if not opened or name.lower() == "key":
        return None
    if after["literal"]:
        end = line.find("]]>", after.end())
        return after.end(), len(line) if end < 0 else end
    return None if after["inner"].strip().lower() in SHOWN_VALUES else after.span("inner")


def mask_inputs(draft: Draft) -> None:
    """Mask what pydantic says that it was given for a sensitive field: the field stands on the line before."""
    line = draft.line
    changes: list[Change] = []
    for at in draft.places(INPUT):
        start = line.rfind("\n", max(at - _FARTHEST, 0), at)
        field = line[line.rfind("\n", max(start - _LONGEST_NAME, 0), max(start, 0)) + 1 : max(start, 0)]
        if not is_sensitive(field.strip().rpartition(".")[2]):
            continue
        span = _value(line, at + len(INPUT), field, "=")
        if span is not None and (not changes or span[0] >= changes[-1][1]):
            changes.append((*span, MASK))
    draft.change(changes)


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


_RULES: Final = {
    "mark": _assigned, "tag": _element, "beside": _beside, "part": _part, "comma": _paired, "space": _argument,
}  # fmt: skip


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
    if _INDICATOR.fullmatch(value) and line[end : end + 2].startswith(("\n", "\r\n")):
        return at, _end_of_lines(line, end, deeper=True)
    if value == "-" and "\n" in joint and line[end : end + 1] == " ":
        return at, _end_of_lines(line, end, deeper=False)
    if value.lower() in SHOWN_VALUES or _is_number_of(name, value):
        return None
    # "wrong token: expected a string" is English; "password: hunter2" and {"token": "…"} are not.
    if not by_program and len(value) < _LONG and not any(letter.isdigit() for letter in value):
        return None
    opened = value.find("(")
    return at, (_balanced(line, at + opened) if opened >= 0 else end)


def _end_of_lines(line: str, at: int, *, deeper: bool) -> int:
    """Where the lines end that belong to the one of that place in YAML: those that are indented *deeper*, or as deep
    and of the same list.
    """
    begin = line.rfind("\n", 0, at) + 1
    indent = len(line[begin:at]) - len(line[begin:at].lstrip(" "))
    end = line.find("\n", at)
    while end >= 0:
        following = line.find("\n", end + 1)
        text = line[end + 1 : following if following >= 0 else len(line)]
        inner = len(text) - len(text.lstrip(" "))
        if text.strip() and not (inner > indent or (not deeper and inner == indent and text[inner] == "-")):
            return end
        end = following
    return len(line)


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
