"""For the tests of applications: stored events as fixtures, signed anew for one's own receiver."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moorline.testing.fixtures import Delivery, delivery, load_event

__all__ = ["Delivery", "delivery", "load_event"]

_HOMES = {"Delivery": "fixtures", "delivery": "fixtures", "load_event": "fixtures"}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'moorline.testing' has no attribute {name!r}")
    value = getattr(import_module(f"moorline.testing.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
