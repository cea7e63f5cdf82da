"""``moorline syncs``: what is kept in step, from the outside."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from tests.databases import migrated_sqlite
from tests.warm import run

SHOP = """
import pathlib
from moorline import Moorline
from moorline.errors import ServiceUnavailable

app = Moorline()

def changed(since):
    return iter([{"n": n} for n in range(int(since or 0), 25)])

def into(item):
    if item["n"] == 22 and not pathlib.Path("mended").exists():
        raise ServiceUnavailable("the provider is down")

app.sync(changed, into=into, name="numbers", place=lambda one: str(one["n"]), batch=10)
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with an application that has one sync."""
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "moorline.toml").write_text('database_url = "sqlite:///shop.db"\n')
    return tmp_path


def test_one_is_run_looked_at_and_begun_anew(shop: Path):
    """Exit code 1 and the reason while it is stopped; then it goes on, and the list says so; reset makes it full."""

    def moorline(*arguments: str, code: int = 0) -> str:
        command = [sys.executable, "-m", "moorline.cli", "syncs", *arguments]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MOORLINE_")}
        environment |= {"COLUMNS": "300"}
        done = run(command, cwd=shop, env=environment, timeout=60, check=False)
        assert done.returncode == code, done.stderr
        return done.stdout

    migrated_sqlite(shop / "shop.db")
    assert "nothing was ever kept in step" in moorline("list")
    assert "the provider is down" in moorline("run", "shop:app", "numbers", code=1)
    stopped = moorline("list")
    assert all(word in stopped for word in ("numbers", "stopped", "full", "20", "the provider is down"))
    (shop / "mended").touch()
    assert "everything: 26 applied, 0 removed, 0 left to jobs" in moorline("run", "shop:app", "numbers")
    assert json.loads(moorline("run", "shop:app", "numbers", "--json"))["applied"] == 1
    listed = json.loads(moorline("list", "--json"))
    assert (listed["numbers"]["place"], listed["numbers"]["last"]["full"]) == ("24", False)
    assert json.loads(moorline("run", "shop:app", "numbers", "--full", "--json"))["applied"] == 25
    assert "next run is a full one" in moorline("reset", "shop:app", "numbers", "--yes")
    assert json.loads(moorline("list", "--json"))["numbers"]["place"] is None
    moorline("run", "shop:app", "nothing", code=2)
