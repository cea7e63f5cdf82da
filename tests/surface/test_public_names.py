"""What a user may import is what the lists say, and importing it loads nothing heavy."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import pytest

import moorline

HEAVY = (
    "httpx2",
    "pydantic",
    "sqlalchemy",
    "structlog",
    "starlette",
    "uvicorn",
    "typer",
    "rich",
    "cryptography",
    "asyncio",
)
ROOMS = [name for _, name, _ in pkgutil.walk_packages(moorline.__path__, "moorline.") if ".migrations" not in name]


def _loaded_by(statement: str) -> set[str]:
    script = f"{statement}\nimport sys\nprint(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("name", moorline.__all__)
def test_each_public_name_can_be_had(name: str) -> None:
    """Every name in ``moorline.__all__`` is there, lazily."""
    assert getattr(moorline, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    """The lazy module does not invent names."""
    with pytest.raises(AttributeError, match="no attribute 'Moorlime'"):
        _ = moorline.Moorlime


@pytest.mark.parametrize("room", ROOMS)
def test_each_list_of_names_is_true(room: str) -> None:
    """Every ``__all__`` names what the module has, and each name once."""
    if room.endswith("__main__"):
        return
    module = importlib.import_module(room)
    names = getattr(module, "__all__", [])
    assert len(set(names)) == len(names)
    assert [name for name in names if getattr(module, name, None) is None] == []


def test_import_moorline_loads_nothing_heavy() -> None:
    """``import moorline`` and its errors cost no driver, no HTTP client, no event loop."""
    assert _loaded_by("import moorline, moorline.errors").isdisjoint(HEAVY)


def test_a_service_loads_no_other_service() -> None:
    """``from moorline.services import Stripe`` loads Stripe's file, and no database."""
    loaded = _loaded_by("from moorline.services import Stripe")
    assert "moorline.services.payments.stripe" in loaded
    assert (
        not {"moorline.services.email.sendgrid", "moorline.services.business.github", "sqlalchemy", "httpx2"} & loaded
    )
