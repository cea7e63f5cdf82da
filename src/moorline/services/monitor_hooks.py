"""Where a Monitor hears of things by itself: the standard library's logging, what nobody caught, and an ASGI
application.
"""

from __future__ import annotations

import logging
import math
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from moorline import redaction
from moorline.services.monitoring.protocol import Level, LogLine, Value

if TYPE_CHECKING:
    from moorline.services.monitor import Monitor

__all__ = ["LogHandler", "MonitorMiddleware", "install"]

_OURS: Final = ("moorline.batches", "moorline.monitor", "httpx2", "httpcore2")
_OF_CALLS: Final = ("moorline.calls", "moorline.jobs")
_USUAL: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_LEVELS: Final[tuple[tuple[int, Level], ...]] = (
    (logging.CRITICAL, "fatal"),
    (logging.ERROR, "error"),
    (logging.WARNING, "warning"),
    (logging.INFO, "info"),
)
_EXIT_SECONDS: Final = 2.0


class LogHandler(logging.Handler):
    """``logging.getLogger().addHandler(LogHandler(monitor))``: records from *level* on are lines and breadcrumbs, those
    from *reports* on are reports, with their exception if they have one.

    What a record has as ``extra`` are attributes. The lines that moorline writes of its own sending are left out.
    """

    def __init__(self, monitor: Monitor, level: int = logging.INFO, reports: int = logging.ERROR) -> None:
        super().__init__(level)
        self._monitor = monitor
        self._reports = reports
        self._names = tuple(one.name for one in monitor.services)
        self._apart = any(one.reports_apart for one in monitor.services)

    def emit(self, record: logging.LogRecord) -> None:
        """Hand it over; never raises."""
        try:
            if not self._monitor.reporting and not self._of_our_own(record):
                self._hand(record)
        except Exception:  # noqa: BLE001 - arguments that do not fit the message, a broken repr
            self.handleError(record)

    def _hand(self, record: logging.LogRecord) -> None:
        monitor, message, attributes = self._monitor, record.getMessage(), _attributes(record)
        level: Level = next((word for least, word in _LEVELS if record.levelno >= least), "debug")
        reported = record.levelno >= self._reports
        if reported:
            error = record.exc_info[1] if record.exc_info else None
            tags = {"logger": record.name}
            if error is None:
                monitor.capture_message(message, level, tags=tags, extra=attributes)
            else:
                monitor.capture_exception(error, level=level, tags=tags, extra={"message": message, **attributes})
        if not reported or self._apart:
            monitor.hand(LogLine(message, level, attributes, record.name, record.created), apart=reported)
        monitor.add_breadcrumb(message, record.name, level)

    def _of_our_own(self, record: logging.LogRecord) -> bool:
        """Whether it tells of the sending of what this handler handed over: a line for each line would never end."""
        if record.name.startswith(_OURS):
            return True
        return record.name.startswith(_OF_CALLS) and any(name in str(record.msg) for name in self._names)


def _attributes(record: logging.LogRecord) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for name, value in vars(record).items():
        if name not in _USUAL:
            plain = isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value))
            found[name] = value if plain else str(value)
    return found


def install(monitor: Monitor) -> Callable[[], None]:
    """Report what nobody caught, in the main thread and in others, and send it before the process ends. What was there
    before is called all the same. Gives what takes it away again.
    """
    before, before_threads = sys.excepthook, threading.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if isinstance(error, Exception):
            monitor.capture_exception(error, level="fatal", handled=False)
            monitor.flush(_EXIT_SECONDS)
        before(kind, error, trace)

    def thread_hook(args: threading.ExceptHookArgs) -> None:
        if isinstance(args.exc_value, Exception):
            name = args.thread.name if args.thread is not None else ""
            monitor.capture_exception(args.exc_value, handled=False, tags={"thread": name})
        before_threads(args)

    def uninstall() -> None:
        if sys.excepthook is hook:
            sys.excepthook = before
        if threading.excepthook is thread_hook:
            threading.excepthook = before_threads

    sys.excepthook, threading.excepthook = hook, thread_hook
    return uninstall


_Receive = Callable[[], Awaitable[Any]]
_Send = Callable[[Any], Awaitable[None]]


class MonitorMiddleware:
    """Around an ASGI application: each request has a scope of its own, and what it raises is reported and raised on."""

    def __init__(self, app: Callable[[Any, _Receive, _Send], Awaitable[None]], monitor: Monitor) -> None:
        self._app = app
        self._monitor = monitor

    async def __call__(self, scope: Any, receive: _Receive, send: _Send) -> None:
        """Serve one request."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        with self._monitor.scope():
            try:
                await self._app(scope, receive, send)
            except Exception as error:
                self._monitor.capture_exception(error, handled=False, extra={"request": _request(scope)})
                raise


def _request(scope: Mapping[str, Any]) -> dict[str, Any]:
    """Of a request without its body: headers that are secret are masked, of the query the names are shown."""
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope.get("headers", ())}
    query = scope.get("query_string", b"").decode("latin-1")
    path = scope.get("path", "")
    return {
        "method": scope.get("method", ""),
        "url": redaction.url(f"{path}?{query}" if query else path),
        "headers": redaction.headers(headers),
    }
