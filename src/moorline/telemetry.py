"""Structured logs, every line redacted.

``logger("calls").info("call", service="stripe", ms=12)`` goes to the standard library's logger ``moorline.calls``. Used
as a library, moorline adds no handler: the host's configuration decides, and without one, lines below WARNING stay
quiet. An application (the ``moorline`` command) calls :func:`configure`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from functools import cache
from typing import Any, Final, Literal

from moorline import redaction
from moorline.errors import ConfigurationError

__all__ = ["Log", "configure", "logger"]

Format = Literal["auto", "json", "console"]
_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_FORMATS: Final = ("auto", "json", "console")
# These log whole URLs, queries included, at INFO, or each statement's parameters, or every step of a migration.
_TALKATIVE: Final = ("alembic", "botocore", "httpcore2", "httpx2", "httpx", "sqlalchemy.engine", "urllib3")
_ALARMED: Final = ("botocore.credentials", "pika")
"""Libraries that log as a warning, or worse, what they also raise."""


class Log:
    """A logger of one room, with values bound to it. Each method takes an event name and key-value pairs.

    A line below the level costs one look-up: nothing is formatted and structlog is not even imported.
    """

    __slots__ = ("_bound", "_context", "_standard", "is_enabled_for")

    def __init__(self, standard: logging.Logger, context: dict[str, Any]) -> None:
        self._standard = standard
        self.is_enabled_for = standard.isEnabledFor
        """Whether lines of that level (``logging.DEBUG``, …) go anywhere; for values that are costly to compute."""
        self._context = context
        self._bound: Any = None

    def bind(self, **values: Any) -> Log:
        """A logger that adds *values* to each of its lines."""
        return Log(self._standard, self._context | values)

    def debug(self, event: str, **values: Any) -> None:
        """A detail for who looks for a fault."""
        if self._standard.isEnabledFor(logging.DEBUG):
            self._write("debug", event, values)

    def info(self, event: str, **values: Any) -> None:
        """Something happened as it should."""
        if self._standard.isEnabledFor(logging.INFO):
            self._write("info", event, values)

    def warning(self, event: str, **values: Any) -> None:
        """Something is wrong and was dealt with."""
        if self._standard.isEnabledFor(logging.WARNING):
            self._write("warning", event, values)

    def error(self, event: str, **values: Any) -> None:
        """Something failed. ``exc_info=True`` (or an exception) adds the traceback."""
        if self._standard.isEnabledFor(logging.ERROR):
            self._write("error", event, values)

    def exception(self, event: str, **values: Any) -> None:
        """As ``error``, with the traceback of the exception that is being handled."""
        if self._standard.isEnabledFor(logging.ERROR):
            self._write("error", event, {"exc_info": True, **values})

    def critical(self, event: str, **values: Any) -> None:
        """The process cannot go on."""
        if self._standard.isEnabledFor(logging.CRITICAL):
            self._write("critical", event, values)

    def _write(self, method: str, event: str, values: dict[str, Any]) -> None:
        if self._bound is None:
            import structlog  # heavy; not at import

            self._bound = structlog.wrap_logger(
                self._standard, processors=_processors(), wrapper_class=structlog.BoundLogger, **self._context
            )
        getattr(self._bound, method)(event, **values)


@cache
def logger(room: str) -> Log:
    """The logger of a room: ``logger("jobs")`` writes to the standard logger ``moorline.jobs``."""
    return Log(logging.getLogger(f"moorline.{room}"), {})


def redact(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor that redacts every value of a line; usable in the host's own chain as well."""
    cleaned: MutableMapping[str, Any] = redaction.data(event)
    return cleaned


@cache
def _processors() -> list[Any]:
    import structlog

    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        redact,
        _render,
    ]


class _Line(str):
    """A line that is complete and redacted."""

    __slots__ = ()


def _render(log: logging.Logger, _method: str, event: MutableMapping[str, Any]) -> str:
    """The line as text: before any handler sees it, so that no handler can see more."""
    return _Line(_Output.current.line(log.name, event))


class _Plain:
    """Event and values, for a host that configured logging itself and whose formatter adds level and time."""

    def line(self, name: str, event: MutableMapping[str, Any]) -> str:  # noqa: ARG002 -- the other renderer needs it
        trace = event.pop("exception", None)
        for known_to_the_host in ("level", "timestamp"):
            event.pop(known_to_the_host, None)
        words = [str(event.pop("event", "")), *(f"{key}={value!r}" for key, value in event.items())]
        return " ".join(words) + (f"\n{trace}" if trace else "")


class _Structured:
    """JSON or console lines, by structlog's renderers."""

    def __init__(self, *, json: bool) -> None:
        import structlog

        self._render: Any = (
            structlog.processors.JSONRenderer(sort_keys=False, ensure_ascii=False)
            if json
            else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        )

    def line(self, name: str, event: MutableMapping[str, Any]) -> str:
        event["logger"] = name
        rendered: str = self._render(None, event.get("level", ""), event)
        # A sender's path may hold what has no form in UTF-8; the line must be written all the same.
        return rendered.encode("utf-8", "backslashreplace").decode()


class _Output:
    """How this process writes lines: one choice for all loggers, as there is one standard error."""

    current: _Plain | _Structured = _Plain()


class _Formatter(logging.Formatter):
    """Our lines are complete; other libraries' records are given the same form, and redacted."""

    def format(self, record: logging.LogRecord) -> str:
        if isinstance(record.msg, _Line):
            return str(record.msg)
        event: dict[str, Any] = {
            "event": redaction.text(record.getMessage()),
            "level": record.levelname.lower(),
            "timestamp": self.formatTime(record, "%Y-%m-%dT%H:%M:%SZ"),
        }
        if record.exc_info:
            event["exception"] = redaction.text(self.formatException(record.exc_info))
        return _Output.current.line(record.name, event)


class _Handler(logging.StreamHandler[Any]):
    """Ours, so that a second ``configure`` replaces it and touches no other."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 -- logging's name
        """A line that could not be written: who wrote it and why, and not what it would have said."""
        error = sys.exception()
        if logging.raiseExceptions and sys.stderr is not None and error is not None:
            where = f"{record.name} ({record.pathname}, line {record.lineno})"
            sys.stderr.write(f"a line of {where} could not be logged:\n{redaction.trace(error)}")


def configure(level: str = "INFO", format: Format = "auto") -> None:
    """Write all logs of this process to standard error, redacted. Call it again to change level or format.

    *format* ``auto`` means console on a terminal, otherwise one JSON object a line. The lines that HTTP clients and the
    database driver write themselves are shown from WARNING on.

    Raises ConfigurationError for an unknown level or format.
    """
    chosen = level.upper()
    if chosen not in _LEVELS:
        raise ConfigurationError(f"log level {level!r} is unknown; use one of {', '.join(_LEVELS)}")
    if format not in _FORMATS:
        raise ConfigurationError(f"log format {format!r} is unknown; use one of {', '.join(_FORMATS)}")
    _Output.current = _Structured(json=format == "json" or (format == "auto" and not sys.stderr.isatty()))
    handler = _Handler(sys.stderr)
    formatter = _Formatter()
    formatter.converter = _utc
    handler.setFormatter(formatter)
    root = logging.getLogger()
    for old in [known for known in root.handlers if isinstance(known, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(chosen)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in _ALARMED:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _utc(seconds: float | None) -> Any:
    import time

    return time.gmtime(seconds)
