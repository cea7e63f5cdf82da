"""Sentry's own words for what is reported: the DSN, the event, and the items of logs and metrics.

Sources: services/monitoring/sentry.md; sentry.schema.json; sentry-sdk 2.75.0 (``utils.py``, ``_log_batcher.py``,
``_metrics_batcher.py``, ``logger.py``).
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from moorline.calls.dialects import base_address
from moorline.errors import ConfigurationError
from moorline.secrets.secret import Secret
from moorline.services.batches import Clean, encoded, scrubbed
from moorline.services.monitoring.protocol import Crumb, Frame, LogLine, Metric, MetricKind, Raised, Report, Value

__all__ = ["Dsn", "DsnKey", "event_of", "fitted", "log_of", "metric_of"]

_WORDS: Final = re.compile(r"[A-Za-z0-9_-]+")
_SEVERITIES: Final = {"debug": ("debug", 5), "info": ("info", 9), "warning": ("warn", 13), "error": ("error", 17)}
_KINDS: Final = {MetricKind.COUNT: "counter", MetricKind.GAUGE: "gauge", MetricKind.DISTRIBUTION: "distribution"}
_TYPES: Final = ((bool, "boolean"), (int, "integer"), (float, "double"), (str, "string"))  # a bool is an int as well
_TRACE: Final = uuid.uuid4().hex  # of this process: a log or metric has to belong to one
_CLIENT: Final = "moorline/0.1"


@dataclass(frozen=True, slots=True)
class Dsn:
    """``https://<public key>[:<secret>]@<host><path>/<project>``, taken apart: *base* is address and path."""

    base: str
    project: str
    public_key: str
    secret: str = field(default="", repr=False)

    @classmethod
    def of(cls, text: str) -> Dsn:
        """Raises ConfigurationError, without its words, for what is none."""
        try:
            parts = urlsplit(text)
            path, _, project = parts.path.rpartition("/")
            host, user, port = parts.hostname, parts.username or "", parts.port
        except ValueError:
            raise _no_dsn() from None
        if not host or parts.query or parts.fragment or not _WORDS.fullmatch(user) or not _WORDS.fullmatch(project):
            raise _no_dsn()
        host = f"[{host}]" if ":" in host else host
        place = host if port is None else f"{host}:{port}"
        return cls(
            base_address(f"{parts.scheme}://{place}{path}", "the DSN of Sentry"), project, user, parts.password or ""
        )


def _no_dsn() -> ConfigurationError:
    return ConfigurationError("the DSN of Sentry must look like https://<key>@<host>/<project>")


@dataclass(frozen=True, slots=True)
class DsnKey:
    """``X-Sentry-Auth``, from the DSN that the variable *env* holds."""

    env: str
    sandbox: str

    def headers(self, secret: Secret) -> dict[str, str]:
        """The header with the public key."""
        dsn = Dsn.of(secret.reveal())
        words = ["Sentry sentry_version=7", f"sentry_client={_CLIENT}", f"sentry_key={dsn.public_key}"]
        if dsn.secret:
            words.append(f"sentry_secret={dsn.secret}")
        return {"X-Sentry-Auth": ", ".join(words)}


def event_of(report: Report) -> dict[str, Any]:
    """The event that reports it, scrubbed."""
    event: dict[str, Any] = {
        "event_id": report.id,
        "timestamp": report.at,
        "platform": "python",
        "level": report.level,
        "logger": report.logger,
        "release": report.release,
        "environment": report.environment,
        "server_name": report.server,
        "tags": dict(report.tags),
        "extra": dict(report.extra),
        "fingerprint": list(report.fingerprint),
        "user": {} if report.user is None else _filled(_of(report.user, "id", "email", "username", "ip_address")),
        "sdk": {"name": "moorline", "version": "0.1"},
    }
    if report.message:
        event["logentry"] = {"formatted": report.message}
    if report.exceptions:
        event["exception"] = {"values": [_exception(one, report) for one in report.exceptions]}
    if report.crumbs:
        event["breadcrumbs"] = {"values": [_crumb(one) for one in report.crumbs]}
    found: dict[str, Any] = scrubbed(_filled(event))
    return found


def fitted(event: dict[str, Any], most: int) -> dict[str, Any]:
    """The event within *most* bytes of JSON, where that can be: breadcrumbs are left out, the oldest first, and then
    what was given beside it. An error is worth more than what surrounds it.
    """
    over = len(encoded(event)) - most
    if over > 0 and "breadcrumbs" in event:
        crumbs = list(event["breadcrumbs"]["values"])
        while crumbs and over > 0:
            over -= len(encoded(crumbs.pop(0))) + 1
        event = {**event, "breadcrumbs": {"values": crumbs}}
    return event if over <= 0 else {name: one for name, one in event.items() if name != "extra"}


def _exception(raised: Raised, report: Report) -> dict[str, Any]:
    mechanism: dict[str, Any] = {"type": "generic", "handled": report.handled}
    if raised.id is not None:
        mechanism["exception_id"] = raised.id
    if raised.errno is not None:
        mechanism["meta"] = {"errno": {"number": raised.errno}}
    if raised.source is not None:
        mechanism["source"] = raised.source
    if raised.id and raised.parent is not None:
        mechanism |= {"parent_id": raised.parent, "type": "chained"}
    if raised.group:
        mechanism["is_exception_group"] = True
    told: dict[str, Any] = {
        "mechanism": mechanism,
        "module": raised.module,
        "type": raised.type,
        "value": raised.value,
    }
    if raised.frames:
        told["stacktrace"] = {"frames": [_frame(one) for one in raised.frames]}
    return told


def _frame(frame: Frame) -> dict[str, Any]:
    told = {
        "filename": frame.filename,
        "abs_path": frame.path,
        "function": frame.function,
        "module": frame.module,
        "lineno": frame.line,
        "pre_context": list(frame.before),
        "context_line": frame.code,
        "post_context": list(frame.after),
        "in_app": frame.in_app,
    }
    return told | ({"vars": dict(frame.locals)} if frame.locals else {})


def _crumb(crumb: Crumb) -> dict[str, Any]:
    told = {"timestamp": crumb.at, "message": crumb.message, "level": crumb.level, "type": "default"}
    return told | _filled({"category": crumb.category, "data": dict(crumb.data)})


def log_of(line: LogLine, clean: Clean = scrubbed) -> dict[str, Any]:
    """One of the items of a ``log`` item, its texts *clean*."""
    word, number = _SEVERITIES.get(line.level, ("fatal", 21))
    attributes = {**line.attributes, "sentry.severity_number": number, "sentry.severity_text": word}
    if line.logger:
        attributes["logger.name"] = line.logger
    return {
        "timestamp": line.at,
        "trace_id": line.trace or _TRACE,
        "level": word,
        "body": clean(line.message),
        "attributes": _attributes(attributes, clean),
    }


def metric_of(metric: Metric, clean: Clean = scrubbed) -> dict[str, Any]:
    """One of the items of a ``trace_metric`` item, its texts *clean*."""
    told = {
        "timestamp": metric.at,
        "trace_id": _TRACE,
        "name": clean(metric.name),
        "type": _KINDS[metric.kind],
        "value": metric.value,
        "attributes": _attributes(metric.tags, clean),
    }
    return told | ({"unit": metric.unit} if metric.unit else {})


def _attributes(given: Mapping[str, Value], clean: Clean) -> dict[str, Any]:
    """Each with its type; scrubbed before, while the names still stand beside the values."""
    return {name: {"value": one, "type": _type(one)} for name, one in clean(given).items()}


def _type(value: Value) -> str:
    return next(word for kind, word in _TYPES if isinstance(value, kind))


def _of(holder: object, *names: str) -> dict[str, Any]:
    return {name: getattr(holder, name) for name in names}


def _filled(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Those that say something."""
    return {name: one for name, one in fields.items() if one is not None and one not in ("", {}, [])}
