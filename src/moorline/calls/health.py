"""Whether a service works for us: one cheap call that changes nothing, and what to do about its answer."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from moorline import errors

if TYPE_CHECKING:
    from moorline.calls.service import Service

__all__ = ["advice", "verdict"]


async def verdict(service: Service, timeout: float) -> dict[str, Any]:
    """Ask *service* once, for *timeout* seconds at most: ``name``, ``at`` (its address), ``key_from``, ``ok``, what it
    ``says``, and the ``ms`` it took; where it failed, also the kind of ``error`` and an ``advice``. Raises no
    MoorlineError.
    """
    row: dict[str, Any] = {"name": service.name, "at": "-", "ok": False}
    begun = time.perf_counter()
    checked: Any = service
    try:
        row["at"] = service.base_url
        row["key_from"] = service.key_origin
        good = await checked.check().using(timeout=timeout, attempt_timeout=timeout, retry=None)
        row |= {"ok": bool(good), "says": "the key is good" if good else "the key works, and may not do what it is for"}
    except errors.MoorlineError as error:
        row |= {"says": str(error), "error": type(error).__name__, "advice": advice(error, type(service))}
    return row | {"ms": round((time.perf_counter() - begun) * 1000, 1)}


def advice(error: Exception, kind: type[Service]) -> str:
    """What to do about it."""
    if isinstance(error, errors.AuthenticationFailed):
        key = kind.credentials.env or "the token"
        return f"{key} is not taken by {kind.name}: is the key of this account, and of this mode?"
    if isinstance(error, errors.PermissionDenied):
        return "the key is known, and lacks a right or scope that its operations need"
    if isinstance(error, errors.RateLimited):
        return "its limit is used up; the key is likely good"
    if isinstance(error, errors.ConfigurationError):
        return "see its page: moorline services"
    return "the service, or the way there, is in trouble: nothing is wrong with the key as far as one can see"
