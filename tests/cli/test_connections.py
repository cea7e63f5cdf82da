"""``moorline connections``: connected accounts, from the outside."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from tests.databases import migrated_sqlite
from tests.warm import run

from moorline.clock import ManualClock
from moorline.identity.connection import Granted, Tokens
from moorline.identity.vault import Vault
from moorline.sandbox import server
from moorline.secrets.keyring import KeyRing, new_key
from moorline.secrets.secret import Secret
from moorline.store import Store

SHOP = """
from moorline import Moorline
from moorline.services import HubSpot

app = Moorline()
app.connect(HubSpot)
"""
KEY = new_key()


@pytest.fixture(scope="module")
def sandbox() -> Iterator[str]:
    with server.running(seed=3, clock=ManualClock()) as url:
        yield url


def consented(sandbox: str, login: str) -> Tokens:
    """Tokens that the sandbox's HubSpot gives."""
    with httpx2.Client(base_url=f"{sandbox}/hubspot", trust_env=False) as web:
        asked = {"client_id": "sandbox-client", "response_type": "code", "redirect_uri": "http://localhost/back"}
        page = web.post("/oauth/authorize", params={**asked, "scope": "oauth"}, data={"scope": "oauth", "login": login})
        code = httpx2.URL(page.headers["location"]).params["code"]
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": asked["redirect_uri"]}
        form |= {"client_id": "sandbox-client", "client_secret": "sandbox-secret"}
        answer = web.post("/oauth/2026-03/token", data=form).json()
    return Tokens(Secret(answer["access_token"]), Secret(answer["refresh_token"]))


@pytest.fixture
def shop(tmp_path: Path, sandbox: str) -> Path:
    """A folder with an application at which three accounts were connected, the tokens of one of which are no good."""
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "moorline.toml").write_text('database_url = "sqlite:///shop.db"\n')
    with Store(migrated_sqlite(tmp_path / "shop.db")) as store:
        vault = Vault(store, KeyRing([Secret(KEY)]))
        bad = Tokens(Secret("access-canary"), Secret("refresh-canary"))
        for owner, tokens in (("u_1", consented(sandbox, "acme")), ("u_2", consented(sandbox, "globex")), ("u_3", bad)):
            vault.keep_sync(owner, "hubspot", Granted(tokens, 1800.0, frozenset({"oauth"})), account=f"hub of {owner}")
    return tmp_path


def test_they_are_listed_refreshed_and_revoked(shop: Path, sandbox: str):
    """Exit code 0 where all went well, 1 where one did not, 2 for what cannot be meant; no token is shown."""

    def moorline(*arguments: str, code: int = 0) -> str:
        command = [sys.executable, "-m", "moorline.cli", "connections", *arguments]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MOORLINE_")}
        environment |= {"COLUMNS": "300", "MOORLINE_SANDBOX_URL": sandbox, "MOORLINE_ENCRYPTION_KEY": KEY}
        environment |= {"MOORLINE_TAP": "false"}
        done = run(command, cwd=shop, env=environment, timeout=60, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        assert "canary" not in done.stdout + done.stderr
        return done.stdout

    listed = json.loads(moorline("list", "--json"))
    assert [(one["owner"], one["state"], one["scopes"]) for one in listed] == [
        ("u_3", "good", ["oauth"]), ("u_2", "good", ["oauth"]), ("u_1", "good", ["oauth"]),
    ]  # fmt: skip
    ids = {one["owner"]: one["id"] for one in listed}
    table = moorline("list", "--owner", "u_1")
    assert all(word in table for word in (ids["u_1"], "hubspot", "hub of u_1", "good"))
    moorline("list", "--state", "odd", code=2)

    done = json.loads(moorline("refresh", "shop:app", ids["u_1"], "--json"))
    assert [(one["owner"], one["outcome"]) for one in done] == [("u_1", "refreshed")]
    table = moorline("refresh", "shop:app", "--service", "hubspot", code=1)
    assert all(word in table for word in ("refreshed", "failed: hubspot", "has to connect hubspot again"))
    assert "hub of u_3" in moorline("list", "--state", "ended")
    moorline("refresh", "shop:app", code=2)
    assert "no connection has the id nothing" in moorline("refresh", "shop:app", "nothing", code=1)

    assert "revoked" in moorline("revoke", "shop:app", ids["u_1"], "--yes")
    done = json.loads(moorline("revoke", "shop:app", "--owner", "u_2", "--json"))
    assert [one["outcome"] for one in done] == ["revoked"]
    state = httpx2.get(f"{sandbox}/_sandbox/state?service=hubspot", trust_env=False).text
    assert '"grants":0' in state.replace(" ", "")
    assert [one["owner"] for one in json.loads(moorline("list", "--json"))] == ["u_3"]
    moorline("revoke", "shop:app", "--yes", code=2)
