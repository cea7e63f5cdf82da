"""Finds the application that a command names."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from moorline.errors import ConfigurationError

if TYPE_CHECKING:
    from moorline.app import Moorline

__all__ = ["find"]


def find(target: str) -> Moorline:
    """The Moorline object of ``module:attribute`` (``attribute`` is ``app`` when left out).

    The working directory comes first on the path, as with ``python -m``. Raises ConfigurationError that says which half
    is wrong; an error inside the module passes through as it is, with its traceback.
    """
    from moorline.app import Moorline

    name, _, attribute = target.partition(":")
    if not name or not all(part.isidentifier() for part in name.split(".")):
        raise ConfigurationError(f"{target!r} names no application: write module:attribute, such as shop.main:app")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
            raise  # the module is there and misses another
        raise ConfigurationError(f"no module named {name!r} can be imported from {here}") from error
    found = getattr(module, attribute or "app", None)
    if isinstance(found, Moorline):
        return found
    held = [key for key, value in vars(module).items() if isinstance(value, Moorline)]
    hint = f"; it has {', '.join(held)}" if held else "; it has no Moorline object at all"
    raise ConfigurationError(f"{name}:{attribute or 'app'} is not a Moorline application{hint}")
