"""Tells moorline's own alerts to services that watch: ``app.alerts(Sentry, …)``."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from moorline.errors import CallError, ConfigurationError
from moorline.services.batches import BatchService, watching
from moorline.services.monitor import Monitor
from moorline.services.monitoring.protocol import Level, Occurrence, Report

if TYPE_CHECKING:
    from moorline.calls.call import Call
    from moorline.calls.service import Service
    from moorline.events.alerts import Alert

__all__ = ["hook", "occurrence"]

_KIND: Final = "MoorlineAlert"


def occurrence(alert: Alert) -> Occurrence:
    """The alert as an event: an error when it begins, an information when it is over, in one group."""
    told = {name: value for name, value in alert.to_dict().items() if value != ""}
    about = f"{alert.rule}:{alert.service}:{alert.label}".rstrip(":")
    group = about if len(about) <= 100 else hashlib.sha256(about.encode()).hexdigest()
    level: Level = "error" if alert.state == "firing" else "info"
    return Occurrence(f"{alert.state}: {alert.message}", "", _KIND, level, told, group, alert.at)


def hook(target: Any, own: Callable[[Any], Any]) -> Callable[[Alert], object]:
    """What ``AlertWatch`` calls for *target*: a service that watches, its class (which *own* makes one of), a Monitor,
    or a function that takes an Alert.

    A service is asked at once; where it cannot now, and is an application's, the Call is a job. Raises
    ConfigurationError for what is none of them.
    """
    if isinstance(target, Monitor):
        return _to_monitor(target)
    if hasattr(target, "operation_named"):  # a service
        watches = isinstance(target, type) and issubclass(target, BatchService)
        return _to_service(watching(own(target) if watches else target, "app.alerts"))
    if isinstance(target, type) or not callable(target):
        raise ConfigurationError(f"app.alerts takes services, a Monitor and functions, not {target!r}")
    found: Callable[[Alert], object] = target
    return found


def _to_monitor(monitor: Monitor) -> Callable[[Alert], None]:
    def tell(alert: Alert) -> None:
        monitor.hand(occurrence(alert))

    return tell


def _to_service(service: BatchService) -> Callable[[Alert], Awaitable[None]]:
    async def tell(alert: Alert) -> None:
        if service.switched_off:
            return
        call = _call(service, alert)
        try:
            await call
        except CallError as error:
            if not error.retryable or service.queue is None:
                raise
            await call.enqueue()

    return tell


def _call(service: Service, alert: Alert) -> Call[Any]:
    """One id for an alert, however often it is told: after a crash it may be told again."""
    assert isinstance(service, BatchService)
    item = service.suited(occurrence(alert))
    made: Call[Any]
    if isinstance(item, Report):
        told = replace(item, id=hashlib.sha256(repr(alert).encode()).hexdigest()[:32])
        made = service.capture(told)  # type: ignore[attr-defined]
    else:
        made = service.send_events([item])  # type: ignore[attr-defined]
    return made
