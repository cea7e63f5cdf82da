"""Values that are masked wherever they appear: the matcher behind :func:`moorline.redaction.register`.

The cost of a clean line must not grow with the number of values, so there is no alternation of them all. Each value,
and each of its usual encodings, is filed under windows of eight bytes of UTF-8, and the line is looked up in steps of
eight. The *last* bytes are taken, as keys of one service share their beginning (``sk_live_``). ``struct`` cuts a line
into windows ten times as fast as slicing does.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from functools import lru_cache
from struct import Struct
from typing import Final
from urllib.parse import quote, quote_plus

__all__ = ["longest", "mask", "register"]

_WINDOW: Final = 8
_STEP: Final = 8
_STRETCH: Final = _WINDOW + _STEP - 1  # wherever such a stretch begins, it holds a window that begins on a step
_SHORTEST: Final = 4
_AT_ONCE: Final = 256  # windows of one cut; longer lines take several
_MOST_VALUES: Final = 65_536

_lock = threading.Lock()
_values: dict[str, tuple[str, ...]] = {}
_anchors: dict[bytes, tuple[str, ...]] = {}
_odd: dict[str, None] = {}
"""Forms of fewer than fifteen bytes: looked for one by one, as they are few."""


def register(value: str) -> None:
    """Mask *value* from now on.

    Values of fewer than four characters are ignored (masking them would only garble text), those of fewer than eight
    are masked where they stand alone. The 65,536 values registered last are kept.
    """
    if len(value) < _SHORTEST:
        return
    with _lock:
        known = _values.pop(value, None)
        _values[value] = known or tuple(_forms(value))
        if known is None:
            for form in _values[value]:
                _file(form)
        while len(_values) > _MOST_VALUES:
            for form in _values.pop(next(iter(_values))):
                _unfile(form)


def longest() -> int:
    """The length of the longest form; what is cut off before redaction may end in the middle of one."""
    with _lock:
        return max((len(form) for forms in _values.values() for form in forms), default=0)


def mask(line: str, replacement: str) -> str:
    """*line* with each occurrence replaced; those that overlap become one, so that no rest of the second stays."""
    found: list[str] = []
    if _anchors:
        raw = line.encode("utf-8", "surrogatepass")
        left = len(raw) // _WINDOW
        if left <= _AT_ONCE:
            found = _found(raw, 0, left)
        else:
            for start in range(0, left, _AT_ONCE):
                found += _found(raw, start * _WINDOW, min(left - start, _AT_ONCE))
    if _odd:
        found += [form for form in tuple(_odd) if form in line]
    return _replace(line, found, replacement) if found else line


def _found(raw: bytes, offset: int, count: int) -> list[str]:
    """The forms of which a window is among *count* windows of *raw* from *offset* on."""
    windows = _cutter(count).unpack_from(raw, offset)
    if _anchors.keys().isdisjoint(windows):
        return []
    return [form for window in windows for form in _anchors.get(window, ())]


@lru_cache(maxsize=_AT_ONCE + 1)
def _cutter(count: int) -> Struct:
    return Struct(f"{_WINDOW}s" * count)


def _forms(value: str) -> Iterator[str]:
    """The value, and how it looks after the usual encodings."""
    raw = value.encode("utf-8", "surrogatepass")
    seen = {value}
    yield value
    if len(value) < _WINDOW:
        return
    candidates = [
        quote(raw, safe=""),
        quote(raw),
        quote_plus(raw),
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
        repr(value)[1:-1],
        raw.hex(),
    ]
    # Inside base64 (a Basic header: "user:value") the text depends on where in a group of three the value begins; the
    # characters that do not share bits with their neighbours are the same each time.
    for shift in range(3):
        coded = base64.b64encode(b"\0" * shift + raw).decode().rstrip("=")
        core = coded[(shift * 8 + 5) // 6 : (shift + len(raw)) * 8 // 6]
        candidates += [core, core.translate(str.maketrans("+/", "-_"))]
    for form in candidates:
        if len(form) >= _WINDOW and form not in seen:
            seen.add(form)
            yield form


def _windows(form: str) -> list[bytes]:
    """The windows under which a form is filed; none if it is too short for one to lie on the line's steps."""
    stretch = form.encode("utf-8", "surrogatepass")[-_STRETCH:]
    return [stretch[shift : shift + _WINDOW] for shift in range(_STEP)] if len(stretch) == _STRETCH else []


def _file(form: str) -> None:
    windows = _windows(form)
    if not windows:
        _odd[form] = None
    for window in windows:
        _anchors[window] = (*_anchors.get(window, ()), form)


def _unfile(form: str) -> None:
    _odd.pop(form, None)
    for window in _windows(form):
        left = list(_anchors.get(window, ()))
        if form in left:
            left.remove(form)
        if left:
            _anchors[window] = tuple(left)
        else:
            _anchors.pop(window, None)


def _replace(line: str, forms: list[str], replacement: str) -> str:
    spans = sorted(span for form in dict.fromkeys(forms) for span in _occurrences(line, form))
    parts: list[str] = []
    done = 0
    for start, end in spans:
        if start >= done:
            parts += [line[done:start], replacement]
        done = max(done, end)
    parts.append(line[done:])
    return "".join(parts)


def _occurrences(line: str, form: str) -> Iterator[tuple[int, int]]:
    start = line.find(form)
    while start >= 0:
        end = start + len(form)
        alone = not (line[max(start - 1, 0) : start].isalnum() or line[end : end + 1].isalnum())
        if len(form) >= _WINDOW or alone:
            yield start, end
        start = line.find(form, start + 1)
