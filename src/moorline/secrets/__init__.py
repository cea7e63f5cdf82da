"""Credentials: values that are never printed, and the places they are loaded from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moorline.secrets.secret import Secret

if TYPE_CHECKING:
    from moorline.secrets.locker import Secrets, secrets, source
    from moorline.secrets.versions import Version

__all__ = ["Secret", "Secrets", "Version", "secrets", "source"]

_HOMES = {
    "Secrets": "moorline.secrets.locker",
    "Version": "moorline.secrets.versions",
    "secrets": "moorline.secrets.locker",
    "source": "moorline.secrets.locker",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module 'moorline.secrets' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
