"""``moorline connections connect``: an account is connected from a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import typer
from tests.databases import migrated_sqlite
from typer.testing import CliRunner

from moorline.cli import connections
from moorline.sandbox import server
from moorline.secrets.keyring import new_key

SHOP = """
from moorline import Moorline
from moorline.clock import ManualClock
from moorline.services import GitHub, HubSpot

app = Moorline("sqlite:///shop.db", clock=ManualClock())
app.connect(GitHub, HubSpot)
"""


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The folder of an application, and the sandbox."""
    (tmp_path / "device_shop.py").write_text(SHOP)
    migrated_sqlite(tmp_path / "shop.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "device_shop", raising=False)
    monkeypatch.setenv("MOORLINE_TAP", "false")
    monkeypatch.setenv("MOORLINE_ENCRYPTION_KEY", new_key())
    with server.running(seed=3) as url:
        monkeypatch.setenv("MOORLINE_SANDBOX_URL", url)
        yield url


@pytest.mark.parametrize(("login", "code"), [("acme", 0), ("", 1)], ids=["consents", "refuses"])
def test_an_account_is_connected_from_a_terminal(sandbox: str, monkeypatch: pytest.MonkeyPatch, login: str, code: int):
    """The code and the address are shown; once the owner has consented there the account is theirs."""
    shown: list[str] = []

    def echo(text: str, **_: Any) -> None:
        shown.append(text)
        if text.startswith("Open "):  # what its reader does at once
            address = text.partition("(or open ")[2].rstrip(")")
            done = httpx2.post(address, data={"login": login, "scope": "repo"}, trust_env=False)
            assert done.status_code == 200

    monkeypatch.setattr(typer, "echo", echo)
    arguments = ["connect", "device_shop:app", "github", "--owner", "u_1", "--scope", "repo", "--json"]
    done = CliRunner().invoke(connections.cli, arguments)
    assert done.exit_code == code, (done.output, shown)
    assert f"{sandbox}/github/device and type " in shown[0]
    if code:
        assert "refused" in shown[1]
        return
    told = json.loads(shown[-1])
    assert (told["owner"], told["service"], told["account"], told["scopes"]) == ("u_1", "github", "62515", ["repo"])


def test_a_service_that_knows_no_codes(sandbox: str):
    """It is said, and nothing is shown to type in."""
    done = CliRunner().invoke(connections.cli, ["connect", "device_shop:app", "hubspot", "--owner", "u_1"])
    assert "no device flow" in f"{done.exception}{done.output}"
