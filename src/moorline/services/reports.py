"""Makes a :class:`Report` of an exception: the chain, the frames with their lines of source, and nothing secret.

The shape is that of sentry-sdk 2.75.0 (``sentry_sdk/utils.py``), with which the tests compare it: the oldest exception
first, the outermost frame first, five lines before and after. Reading never raises, whatever an exception's own methods
do. Local variables are left out unless they are asked for, since they hold what nobody meant to show.
"""

from __future__ import annotations

import linecache
import os
import re
import reprlib
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Final

from moorline import redaction
from moorline.services.monitoring.protocol import Frame, Raised, Report

__all__ = ["LONGEST", "raised", "report", "shortened"]

_LINES: Final = 5
_MOST_FRAMES: Final = 100  # sentry-sdk's; of a longer stack (a recursion) the ends are kept
_MOST_RAISED: Final = 50
_MOST_TEXT: Final = 1_000_000
LONGEST: Final = 4096  # characters of a message, or of a breadcrumb
_LONGEST_LINE: Final = 300
_INSTALLED: Final = re.compile(r"[\\/](?:dist|site)-packages[\\/]")
_STDLIB: Final = tuple(
    {os.path.realpath(path) + os.sep for path in map(sysconfig.get_path, ("stdlib", "platstdlib")) if path}
)
_BROKEN: Final = "<no text: its own method failed>"
_show: Final = reprlib.Repr()
_show.maxstring = _show.maxother = 200


def report(error: BaseException, *, locals: bool = False, **fields: Any) -> Report:
    """A Report of *error* and of those that led to it; *fields* are those of Report. Without secrets.

    With *locals* the variables of each frame are in it, shortened and scrubbed: by their names, by the shapes of known
    secrets, and by every secret that this process holds. Raises InvalidRequest for fields that are none.
    """
    return Report(exceptions=tuple(raised(error, locals=locals)), **fields)


def raised(error: BaseException, *, locals: bool = False) -> list[Raised]:
    """The exceptions that *error* came of, the oldest first; those of a group as a tree, in the same order."""
    if isinstance(error, BaseExceptionGroup):
        found: list[Raised] = []
        _tree(error, found, set(), {}, with_locals=locals)
    else:
        found = [_one(one, with_locals=locals) for one in _chain(error)]
    return found[::-1]


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and all(current is not one for one in seen) and len(seen) < _MOST_RAISED:
        yield current
        seen.append(current)
        current = _led_to(current)[0]


def _led_to(error: BaseException) -> tuple[BaseException | None, str]:
    """What it came of, and by which field it knows."""
    if error.__suppress_context__:
        return error.__cause__, "__cause__"
    return error.__context__, "__context__"


def _tree(
    error: BaseException, found: list[Raised], seen: set[int], place: Mapping[str, Any], *, with_locals: bool
) -> None:
    if id(error) in seen or len(found) >= _MOST_RAISED:
        return
    seen.add(id(error))
    number = len(found)
    found.append(_one(error, with_locals=with_locals, id=number, **place))
    before, field = _led_to(error)
    if before is not None:  # as sentry-sdk has it: the child of the first
        _tree(before, found, seen, {"source": field, "parent": 0}, with_locals=with_locals)
    if isinstance(error, BaseExceptionGroup):
        for index, one in enumerate(error.exceptions):
            _tree(one, found, seen, {"source": f"exceptions[{index}]", "parent": number}, with_locals=with_locals)


def _one(error: BaseException, *, with_locals: bool, **tree: Any) -> Raised:
    kind = type(error)
    errno = getattr(error, "errno", None) if isinstance(error, OSError) else None
    return Raised(
        kind.__name__,
        shortened(_message(error)),
        kind.__module__ if kind.__module__ not in ("builtins", "__builtins__") else None,
        tuple(_frames(error.__traceback__, with_locals=with_locals)),
        errno if isinstance(errno, int) else None,
        group=isinstance(error, BaseExceptionGroup),
        **tree,
    )


def _message(error: BaseException) -> str:
    try:
        said = getattr(error, "message", "") or getattr(error, "detail", "")
        text = str(said if isinstance(said, str) and said else error)
        notes = [note for note in getattr(error, "__notes__", None) or () if isinstance(note, str)]
    except Exception:  # noqa: BLE001 - an exception whose own text cannot be had is reported all the same
        return _BROKEN
    return "\n".join([text, *notes])


def shortened(text: str, most: int = LONGEST) -> str:
    """*text* without secrets, and not too long. It is cut after it was scrubbed: half a secret has no known shape."""
    scrubbed = redaction.text(text[:_MOST_TEXT])
    return scrubbed if len(scrubbed) <= most else scrubbed[:most] + "..."


def _frames(trace: TracebackType | None, *, with_locals: bool) -> list[Frame]:
    places = []
    while trace is not None:
        if not _hidden(trace.tb_frame):
            places.append((trace.tb_frame, trace.tb_lineno))
        trace = trace.tb_next
    if len(places) > _MOST_FRAMES:
        half = _MOST_FRAMES // 2
        places = [*places[:half], *places[-half:]]
    return [_frame(frame, line, with_locals=with_locals) for frame, line in places]


def _hidden(frame: FrameType) -> bool:
    """Whether its author wants it left out."""
    return frame.f_locals.get("__tracebackhide__") is True or frame.f_locals.get("__traceback_hide__") is True


def _frame(frame: FrameType, line: int, *, with_locals: bool) -> Frame:
    code, module = frame.f_code, frame.f_globals.get("__name__")
    module = module if isinstance(module, str) else None
    path = code.co_filename
    whole = os.path.abspath(path)  # noqa: PTH100 - as it is named: what a link leads to is another name
    before, here, after = _source(frame, line)
    return Frame(
        code.co_name,
        module,
        _short(module, path),
        whole,
        line,
        before,
        here,
        after,
        _in_app(whole),
        _variables(frame) if with_locals else {},
    )


def _source(frame: FrameType, line: int) -> tuple[tuple[str, ...], str | None, tuple[str, ...]]:
    """The lines before, the line itself, and those after it; none where the source is not to be had."""
    try:
        lines = linecache.getlines(frame.f_code.co_filename, frame.f_globals)
    except Exception:  # noqa: BLE001 - a loader of somebody's
        return (), None, ()
    at = line - 1
    if not 0 <= at < len(lines):
        return (), None, ()
    clean = [shortened(one.rstrip("\r\n"), _LONGEST_LINE) for one in lines[max(0, at - _LINES) : at + 1 + _LINES]]
    middle = min(at, _LINES)
    return tuple(clean[:middle]), clean[middle], tuple(clean[middle + 1 :])


def _short(module: str | None, path: str) -> str:
    """The path below the folder that its package is in."""
    if not module:
        return path
    package = module.partition(".")[0]
    if package == module:
        return Path(path).name
    root = getattr(sys.modules.get(package), "__file__", None)
    if not root:
        return path
    folder = root.rsplit(os.sep, 2)[0]
    return path.split(folder, 1)[-1].lstrip(os.sep)


def _in_app(path: str) -> bool:
    """Whether it is neither installed nor part of Python."""
    return not (path.startswith("<") or _INSTALLED.search(path) or os.path.realpath(path).startswith(_STDLIB))


def _variables(frame: FrameType) -> dict[str, str]:
    found = {}
    for name, value in list(frame.f_locals.items())[:50]:
        if redaction.is_sensitive(name):
            found[name] = redaction.MASK
            continue
        try:
            found[name] = shortened(_show.repr(redaction.data(value) if isinstance(value, dict | list) else value), 500)
        except Exception:  # noqa: BLE001 - a repr of somebody's
            found[name] = _BROKEN
    return found
