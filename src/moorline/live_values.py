"""Values that are masked wherever they appear: the matcher behind :func:`moorline.redaction.register`.

The cost of a clean text must not grow with the number of values, so there is no alternation of them all. Each value,
and each of its usual encodings, is filed under windows of eight bytes of UTF-8, and the text is looked up in steps of
eight. The *last* bytes are taken, as keys of one service share their beginning (``sk_live_``). A window is read as one
number, by a ``memoryview``: that is several times as fast as slicing, and needs half of the room.

While there are few values, one automaton of all their forms reads a clean text ten times as fast as that. It takes some
ten milliseconds to make, so it is made when as much was read with the same values as makes up for it.
"""

from __future__ import annotations

import base64
import html
import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final
from urllib.parse import quote, quote_plus

__all__ = ["longest", "mask", "register"]

_WINDOW: Final = 8
_STEP: Final = 8
_STRETCH: Final = _WINDOW + _STEP - 1  # wherever such a stretch begins, it holds a window that begins on a step
_SHORTEST: Final = 4
_FEW: Final = 128  # forms; of more, an automaton is little faster than the windows
_ENOUGH: Final = 1_000_000  # characters
_MOST_VALUES: Final = 65_536

_lock = threading.Lock()
_values: dict[str, tuple[str, ...]] = {}
_anchors: dict[int, tuple[str, ...] | str] = {}
"""By window, the form that is filed there; a tuple where there are several."""
_keys: set[int] = set()
"""The windows of ``_anchors`` once more: a set is looked up three times as fast as a dictionary's view."""
_odd: dict[str, None] = {}
"""Forms of fewer than fifteen bytes: looked for one by one, as they are few."""


class _Longest:
    form = 0


class _Quick:
    """``may_hold`` is the automaton for what ``of`` holds, which is ``_values`` until they change; ``read`` counts the
    characters that were read without one.
    """

    of: Any = None
    may_hold: Callable[[str], bool]
    read = 0

    @classmethod
    def forget(cls) -> None:
        """Another value is there."""
        cls.of, cls.read = None, 0

    @classmethod
    def make(cls) -> None:
        """For the values that there are now, if they are few."""
        from moorline.redaction.gate import Gate  # which needs this module

        with _lock:
            cls.read = 0
            if not 0 < len(_values) <= _FEW:
                return
            forms = [form for forms in _values.values() for form in forms]
            if len(forms) <= _FEW:
                # What has no form in UTF-8 opens the gate in any case.
                cls.may_hold = Gate("|".join(re.escape(form) for form in forms if _is_utf8(form)) or "x")
                cls.may_hold("")  # makes it
                cls.of = _values


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
            _Quick.forget()
            for form in _values[value]:
                _file(form)
                _Longest.form = max(_Longest.form, len(form))
        while len(_values) > _MOST_VALUES:
            for form in _values.pop(next(iter(_values))):
                _unfile(form)


def longest() -> int:
    """The length of the longest form there was; what is cut off before redaction may end in the middle of one."""
    return _Longest.form


def mask(line: str, replacement: str) -> str:
    """*line* with each occurrence replaced; those that overlap become one, so that no rest of the second stays."""
    if _Quick.of is _values:
        if not _Quick.may_hold(line):
            return line
    elif _values:
        _Quick.read += len(line)
        if _Quick.read > _ENOUGH:
            _Quick.make()
    found: list[str] = []
    if _keys:
        raw = line.encode("utf-8", "surrogatepass")
        windows = memoryview(raw)[: len(raw) // _WINDOW * _WINDOW].cast("Q")
        if not _keys.isdisjoint(windows):
            found = [form for window in _keys.intersection(windows) for form in _filed(window)]
    if _odd:
        found += [form for form in tuple(_odd) if form in line]
    return _replace(line, found, replacement) if found else line


def _is_utf8(form: str) -> bool:
    return form.isascii() or form == form.encode("utf-8", "replace").decode()


def _filed(window: int) -> tuple[str, ...]:
    forms = _anchors.get(window, ())
    return (forms,) if isinstance(forms, str) else forms


def _forms(value: str) -> Iterator[str]:
    """The value, and how it looks after the usual encodings."""
    seen = {value}
    yield value
    if len(value) < _WINDOW:
        return
    for encoded in _encoded(value):
        # What is sent in UTF-8 as a header is read in Latin-1.
        for form in (encoded, *(() if encoded.isascii() else (_as_latin(encoded),))):
            if len(form) >= _WINDOW and form not in seen:
                seen.add(form)
                yield form


def _encoded(value: str) -> Iterator[str]:
    raw = value.encode("utf-8", "surrogatepass")
    if _SAME_EVERYWHERE.fullmatch(value) is None:
        yield from _escaped(value, raw)
    yield raw.hex()
    yield raw.hex().upper()
    yield from _inside_base64(raw)
    # A key of several lines is shown in part as well, and with other line ends.
    yield from _LINE_OF_A_KEY.findall(value)


def _escaped(value: str, raw: bytes) -> Iterator[str]:
    yield value.strip()  # services send it so
    for quoted in (quote(raw, safe=""), quote(raw), quote_plus(raw)):
        yield quoted
        yield _ESCAPED.sub(lambda match: match[0].lower(), quoted)
        yield quoted.replace("%", "%25")  # a URL within a URL
    for written in (json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]):
        yield written
        yield written.replace("/", "\\/")
        yield json.dumps(written)[1:-1]  # JSON within JSON
        yield from _in_repr(written)
    yield from _in_repr(value)
    yield repr(raw)[2:-1]
    escaped = html.escape(value)
    for marked in (
        escaped,
        escaped.replace("&#x27;", "&#39;").replace("&quot;", "&#34;"),
        html.escape(value, quote=False),
    ):
        yield marked
        yield json.dumps(marked)[1:-1]


def _as_latin(text: str) -> str:
    return text.encode("utf-8", "surrogatepass").decode("latin-1")


def _in_repr(text: str) -> Iterator[str]:
    """Which quotes ``repr`` takes, and so which of them are escaped, depends on all of the text around it."""
    within = repr('"' + text)[2:-1]
    yield within
    yield within.replace("\\'", "'")


def _inside_base64(raw: bytes) -> Iterator[str]:
    """Inside base64 (a Basic header: "user:value") the text depends on where in a group of three the value begins; the
    characters that do not share bits with their neighbours are the same each time.
    """
    for shift in range(3):
        coded = base64.b64encode(b"\0" * shift + raw).decode().rstrip("=")
        core = coded[(shift * 8 + 5) // 6 : (shift + len(raw)) * 8 // 6]
        yield core
        yield core.translate(_URL_SAFE)
        yield quote(core, safe="")
        yield core.replace("/", "\\/")


_URL_SAFE: Final = str.maketrans("+/", "-_")
_SAME_EVERYWHERE: Final = re.compile(r"[A-Za-z0-9_.~-]+")  # most keys: no encoding of text escapes any of it
_ESCAPED: Final = re.compile("%[0-9A-F]{2}")
_LINE_OF_A_KEY: Final = re.compile(r"^[A-Za-z0-9+/=]{40,}$", re.MULTILINE)


def _windows(form: str) -> list[int]:
    """The windows under which a form is filed; none if it is too short for one to lie on the line's steps."""
    stretch = form.encode("utf-8", "surrogatepass")[-_STRETCH:]
    if len(stretch) < _STRETCH:
        return []
    return [int.from_bytes(stretch[shift : shift + _WINDOW], sys.byteorder) for shift in range(_STEP)]


def _file(form: str) -> None:
    windows = _windows(form)
    if not windows:
        _odd[form] = None
    for window in windows:
        filed = _filed(window)
        _anchors[window] = (*filed, form) if filed else form
    _keys.update(windows)


def _unfile(form: str) -> None:
    _odd.pop(form, None)
    for window in _windows(form):
        left = tuple(one for one in _filed(window) if one != form)
        if left:
            _anchors[window] = left
        else:
            _anchors.pop(window, None)
            _keys.discard(window)


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
