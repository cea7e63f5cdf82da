"""The services. ``from moorline.services import Stripe`` loads Stripe and nothing else.

A service is one file in a category's folder; the folder is the list. ``__init__.pyi`` beside this file names them for
type checkers and editors; ``make services`` writes it.
"""

from __future__ import annotations

from typing import Any

from moorline import registry


def __getattr__(name: str) -> Any:
    found = None if name.startswith("_") else registry.class_named(name)
    if found is None:
        raise AttributeError(f"module 'moorline.services' has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *(registry.service(name).__name__ for name in registry.names())})
