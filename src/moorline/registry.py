"""Finds a service by its name without importing the others.

A service is one file in ``services/<category>/<name>.py``, or an entry point of the group ``moorline.services`` in
another package (``name = "package.module:Class"``). Nothing lists them: the folder is the list.
"""

from __future__ import annotations

import importlib
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from moorline.errors import ConfigurationError

__all__ = ["class_named", "names", "service"]

_ROOT = Path(__file__).parent / "services"
_SUPPORT = frozenset({"__init__", "protocol"})
GROUP = "moorline.services"


@cache
def _modules() -> dict[str, list[str]]:
    """Module names by the file's name; a name may stand in several categories (SNS sends SMS and push)."""
    found: dict[str, list[str]] = {}
    for path in sorted(_ROOT.glob("*/*.py")):
        if path.stem not in _SUPPORT:
            found.setdefault(path.stem, []).append(f"moorline.services.{path.parent.name}.{path.stem}")
    return found


@cache
def _foreign() -> dict[str, metadata.EntryPoint]:
    return {point.name: point for point in metadata.entry_points(group=GROUP)}


def names() -> list[str]:
    """The names of all services that can be had here, sorted."""
    return sorted({*_modules(), *_foreign()})


def service(name: str) -> type[Any]:
    """The service class of that name.

    Raises ConfigurationError when there is none, naming those that come close.
    """
    point = _foreign().get(name)
    if point is not None:
        found: type[Any] = point.load()
        return found
    modules = _modules().get(name)
    if not modules:
        raise ConfigurationError(f"no service is named {name!r}{_close_to(name)}")
    return _class_in(modules[0], name)


def class_named(class_name: str) -> type[Any] | None:
    """The built-in service class spelled like that (``SendGrid``), or None."""
    folded = class_name.lower()
    for name in _modules():
        if name.replace("_", "") == folded:
            found = service(name)
            return found if found.__name__ == class_name else None
    return None


def _class_in(module: str, name: str) -> type[Any]:
    importlib.import_module(module)
    for value in vars(sys.modules[module]).values():
        if isinstance(value, type) and value.__module__ == module and value.__dict__.get("name") == name:
            return value
    raise ConfigurationError(f"{module} defines no service class with name = {name!r}")


def _close_to(name: str) -> str:
    from difflib import get_close_matches  # only on the way to an error

    close = get_close_matches(name, names(), n=3)
    return f"; did you mean {', '.join(close)}?" if close else f"; known: {', '.join(names())}"
