"""Services: those that the application uses, where they are, and how their breakers and limits stand here."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any, Final

from moorline.calls import guards, taps
from moorline.calls.health import verdict
from moorline.dashboard.noting import note
from moorline.dashboard.page import Look, Page
from moorline.errors import ConfigurationError
from moorline.telemetry import logger

if TYPE_CHECKING:
    from moorline.calls.service import Service

__all__ = ["check", "guarded", "listed"]

_SECONDS: Final = 10.0  # that a service has for its answer
_TAP_SECONDS: Final = 0.5

log = logger("dashboard")


async def listed(look: Look) -> Page:
    """``/services``: by name; breakers and limits are those of this process and of this user's others."""
    return await _page(look, None)


async def check(look: Look) -> Page:
    """``POST /services/{name}/check``: ask one of them now, by a cheap call that changes nothing."""
    (name,) = look.named
    service = look.app.services.get(name)
    if service is None:
        raise ConfigurationError("this application has made no such service")
    found = await verdict(service, _SECONDS)
    await note(look, "services.check", {"service": name, "ok": found["ok"]})
    return await _page(look, found)


async def _page(look: Look, checked: dict[str, Any] | None) -> Page:
    data = {
        "services": [_record(one) for _, one in sorted(look.app.services.items())],
        "guards": await guarded(look),
        "checked": checked,
        "now": look.now,
    }
    return Page("services.html", "Services", data)


def _record(service: Service) -> dict[str, Any]:
    try:
        address, problem = service.base_url, None
    except ConfigurationError as error:  # it depends on the account, of which something is missing
        address, problem = None, str(error)
    return {
        "name": service.name,
        "category": service.category,
        "mode": "sandbox" if service.in_sandbox else "live",
        "address": address,
        "problem": problem,
        "region": service.region,
    }


async def guarded(look: Look) -> list[dict[str, Any]]:
    """The breakers, limits and bulkheads of this process and of the others that have a tap, those that are not closed
    first. ``calls`` and ``failed`` are those of the breaker's window, ``open_for`` seconds; None where that is not
    known: where there is no breaker, and of other processes.
    """
    found = _own()
    if look.app.settings.tap:
        for answer in await asyncio.to_thread(_others):
            pid, parts = (answer.get("pid"), answer.get("services")) if isinstance(answer, dict) else (None, None)
            if isinstance(parts, dict):
                found += [_row(name, pid, one) for name, one in parts.items() if isinstance(one, dict)]
    return sorted(found, key=lambda one: (one["breaker"] in (None, "closed"), str(one["name"]), str(one["pid"])))


def _own() -> list[dict[str, Any]]:
    away = guards.open_breakers()
    found = []
    for name, parts in guards.snapshot().items():
        row, windows = _row(name, os.getpid(), parts), [one.snapshot() for one in guards.breakers_of(name)]
        if windows:
            row |= {"calls": sum(one.calls for one in windows), "failed": sum(one.failed for one in windows)}
        row["forced"] = any(one.forced for one in windows)
        if name in away:
            row["open_for"], row["reason"] = away[name]
        found.append(row)
    return found


def _row(name: str, pid: Any, parts: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "pid": pid,
        "breaker": parts.get("breaker"),
        "forced": False,
        "open_for": None,
        "reason": parts.get("breaker_reason") or "",
        "calls": None,
        "failed": None,
        "under_way": sum((parts.get("under_way") or {}).values()) or None,
        "bulkhead": parts.get("bulkhead"),
        "retries_left": (parts.get("retries_left") or {}).get(""),
        "passed_on": parts.get("passed_on") or {},
    }


def _others() -> list[Any]:
    """What the taps of this user's other processes say; one that does not answer says nothing."""
    try:
        return taps.asked({"want": "state"}, seconds=_TAP_SECONDS, but=os.getpid())
    except (ConfigurationError, OSError) as error:
        log.warning("taps_not_asked", reason=str(error))
        return []
