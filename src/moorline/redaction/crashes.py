"""What is shown of exceptions: tracebacks, and the last words of a process or thread that nobody caught."""

from __future__ import annotations

import sys
import threading
import traceback
from types import TracebackType

from moorline.redaction.plain import text

__all__ = ["trace", "watch_crashes"]


def trace(error: BaseException) -> str:
    """The traceback of *error*, its causes, notes and groups, without secrets."""
    try:
        return text("".join(traceback.format_exception(error)))
    except Exception as broken:  # noqa: BLE001 -- a __str__ that raises must not hide the crash
        return f"{type(error).__name__} (its traceback could not be made: {type(broken).__name__})\n"


def watch_crashes() -> None:
    """Print uncaught exceptions of this process and its threads, and those that Python cannot raise, redacted.

    Called by processes that are ours alone (``moorline serve``, ``worker``, ``run``); a library leaves the hooks to its
    host. What asyncio finds goes to the standard logging.
    """
    sys.excepthook = _crashed
    threading.excepthook = _thread_crashed
    sys.unraisablehook = _unraisable


def _crashed(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:  # noqa: ARG001
    _print(trace(error.with_traceback(where)))


def _thread_crashed(told: threading.ExceptHookArgs) -> None:
    if told.exc_value is None or isinstance(told.exc_value, SystemExit):
        return
    name = told.thread.name if told.thread is not None else "?"
    _print(f"Exception in thread {text(name)}:\n{trace(told.exc_value)}")


def _unraisable(told: sys.UnraisableHookArgs) -> None:
    if told.exc_value is not None:
        _print(f"{text(told.err_msg or 'Exception ignored')}:\n{trace(told.exc_value)}")


def _print(words: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(words)
        sys.stderr.flush()
