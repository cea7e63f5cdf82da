"""Services: those that the application uses, where they are, and how their breakers and limits stand here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from moorline.calls import guards
from moorline.calls.health import verdict
from moorline.dashboard.noting import note
from moorline.dashboard.page import Look, Page
from moorline.errors import ConfigurationError

if TYPE_CHECKING:
    from moorline.calls.service import Service

__all__ = ["check", "guarded", "listed"]

_SECONDS: Final = 10.0  # that a service has for its answer


async def listed(look: Look) -> Page:
    """``/services``: by name; breakers and limits are those of this process."""
    return _page(look, None)


async def check(look: Look) -> Page:
    """``POST /services/{name}/check``: ask one of them now, by a cheap call that changes nothing."""
    (name,) = look.named
    service = look.app.services.get(name)
    if service is None:
        raise ConfigurationError("this application has made no such service")
    found = await verdict(service, _SECONDS)
    await note(look, "services.check", {"service": name, "ok": found["ok"]})
    return _page(look, found)


def _page(look: Look, checked: dict[str, Any] | None) -> Page:
    data = {
        "services": [_record(one) for _, one in sorted(look.app.services.items())],
        "guards": guarded(),
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


def guarded() -> list[dict[str, Any]]:
    """The breakers, limits and bulkheads of this process by name, those that are not closed first; ``calls`` and
    ``failed`` are those of the breaker's window, None where there is no breaker.
    """
    away = guards.open_breakers()
    found = []
    for name, parts in guards.snapshot().items():
        windows = [one.snapshot() for one in guards.breakers_of(name)]
        seconds, reason = away.get(name, (None, parts.get("breaker_reason", "")))
        found.append(
            {
                "name": name,
                "breaker": parts.get("breaker"),
                "forced": any(one.forced for one in windows),
                "open_for": seconds,
                "reason": reason,
                "calls": sum(one.calls for one in windows) if windows else None,
                "failed": sum(one.failed for one in windows) if windows else None,
                "under_way": sum(parts.get("under_way", {}).values()) or None,
                "bulkhead": parts.get("bulkhead"),
                "retries_left": parts.get("retries_left", {}).get(""),
                "passed_on": parts.get("passed_on", {}),
            }
        )
    return sorted(found, key=lambda one: (one["breaker"] in (None, "closed"), str(one["name"])))
