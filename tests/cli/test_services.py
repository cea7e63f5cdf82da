"""``moorline services`` and ``moorline doctor``."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from moorline import registry
from moorline.calls.service import Service
from moorline.cli.root import cli
from moorline.cli.services import _printed
from moorline.sandbox import server

CALLED = [one for one in map(registry.service, registry.names()) if issubclass(one, Service)]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[str]:
    """The address of a sandbox."""
    with server.running(seed=3) as url:
        yield url


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its own, with no service configured."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MOORLINE_SANDBOX_URL", raising=False)
    for service in CALLED:
        monkeypatch.delenv(service.credentials.env, raising=False)


def run(*words: str) -> tuple[int, str]:
    """The exit code and what was printed."""
    done = CliRunner().invoke(cli, list(words), env={"COLUMNS": "300"})
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


def rows(*words: str) -> dict[str, dict[str, Any]]:
    """What was printed as JSON, by name."""
    return {one["name"]: one for one in json.loads(run(*words, "--json")[1])}


def test_services_tell_what_they_need(monkeypatch: pytest.MonkeyPatch):
    """Each has its operations, and says which variables are missing; then it is configured."""
    found = rows("services")
    assert set(found) == set(registry.names())
    assert found["stripe"]["operations"][-1] == "request"
    assert (found["stripe"]["configured"], found["stripe"]["missing"]) == (False, ["STRIPE_SECRET_KEY"])
    assert all(one["sandbox"] for one in found.values() if one["operations"])
    monkeypatch.setenv("STRIPE_SECRET_KEY", "sk_test_0123456789")
    assert rows("services", "stripe")["stripe"]["configured"]
    code, shown = run("services")
    assert code == 0
    assert "create_payment" in shown
    assert "sk_test_0123456789" not in shown


def test_what_only_a_grant_needs_is_not_asked_for_without_it(monkeypatch: pytest.MonkeyPatch):
    """A private app's token is all that HubSpot needs; a refresh token needs the app beside it."""
    monkeypatch.setenv("HUBSPOT_ACCESS_TOKEN", "pat-eu1-0123456789")
    assert rows("services", "hubspot")["hubspot"]["configured"]
    monkeypatch.setenv("HUBSPOT_GRANT", "refresh_token")
    assert rows("services", "hubspot")["hubspot"]["missing"] == ["HUBSPOT_CLIENT_ID", "HUBSPOT_CLIENT_SECRET"]


def test_what_is_asked_for_connected_accounts_alone(sandbox: str, monkeypatch: pytest.MonkeyPatch):
    """It is configured when the application there is; nobody's account is asked, unless by its name, which says why not."""
    assert rows("services", "microsoft_graph")["microsoft_graph"]["missing"] == [
        "MICROSOFT_CLIENT_ID",
        "MICROSOFT_CLIENT_SECRET",
    ]
    monkeypatch.setenv("MICROSOFT_CLIENT_ID", "11111111-2222-4333-8444-555555555555")
    monkeypatch.setenv("MICROSOFT_CLIENT_SECRET", "canary-0123456789")
    found = rows("services", "microsoft_graph")["microsoft_graph"]
    assert (found["configured"], found["env"], found["operations"]) == (True, None, ["check", "get_me", "request"])
    assert set(rows("doctor")) == {"database"}
    named = rows("doctor", "microsoft_graph")["microsoft_graph"]
    assert (named["error"], "app.connect(MicrosoftGraph)" in named["says"]) == ("ConfigurationError", True)
    assert rows("doctor", "microsoft_graph")["microsoft_graph"]["key_from"] == ""
    monkeypatch.setenv("MOORLINE_SANDBOX_URL", sandbox)
    assert rows("doctor", "microsoft_graph")["microsoft_graph"]["ok"]


def test_doctor_asks_all_that_is_configured(sandbox: str, monkeypatch: pytest.MonkeyPatch):
    """With good keys it is content, and says where it asked."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:  # those of tests with servers of AWS's kind
        monkeypatch.delenv(name)
    monkeypatch.setenv("MOORLINE_SANDBOX_URL", sandbox)
    found = rows("doctor", *(one.name for one in CALLED))
    assert {name: one["says"] for name, one in found.items() if not one["ok"]} == {}
    assert set(found) == {"database", *(one.name for one in CALLED)}
    assert found["stripe"]["at"] == f"{sandbox}/stripe"


def test_doctor_says_what_is_wrong(sandbox: str, monkeypatch: pytest.MonkeyPatch):
    """A refused key, a lacking right and a missing key are told apart, with what to do, and without the key."""
    monkeypatch.setenv("MOORLINE_SANDBOX_URL", sandbox)
    monkeypatch.setenv("STRIPE_SECRET_KEY", "sk_test_canary_wrong")
    monkeypatch.setenv("SENDGRID_API_KEY", "SG.read.canary")
    found = rows("doctor", "stripe", "sendgrid")
    assert (found["stripe"]["error"], found["sendgrid"]["error"]) == ("AuthenticationFailed", "PermissionDenied")
    assert "STRIPE_SECRET_KEY" in found["stripe"]["advice"]
    code, shown = run("doctor", "stripe", "sendgrid")
    assert code == 1
    assert "canary" not in shown
    monkeypatch.delenv("MOORLINE_SANDBOX_URL")
    monkeypatch.delenv("STRIPE_SECRET_KEY")
    assert rows("doctor", "stripe")["stripe"]["error"] == "ConfigurationError"


def test_doctor_with_nothing_configured():
    """Only the database is asked, and it is said where to begin."""
    code, shown = run("doctor")
    assert code == 0
    assert "No service is configured here" in shown


def test_an_unknown_service_is_named():
    """With those that come close."""
    for command in ("services", "doctor"):
        with pytest.raises(Exception, match=r"strpe.*stripe"):
            run(command, "strpe")


def test_doctor_and_a_database_that_is_away():
    """It is told, and its password is not."""
    Path("moorline.toml").write_text("database_url = 'postgresql+psycopg://shop:canary@127.0.0.1:1/shop'\n")
    found = rows("doctor")
    assert not found["database"]["ok"]
    assert "canary" not in json.dumps(found)


def test_what_a_service_says_is_no_markup(capsys: pytest.CaptureFixture[str]):
    """Words in brackets are neither obeyed nor left out, and into a pipe nothing is folded."""
    at = "postgresql://database-7.internal.example:5432/" + "shop" * 20
    told = "see [dashboard] users at [/v1/charges]\x1b[2J"
    _printed([{"ok": False, "name": "[red]shop", "at": at, "error": "CallError", "says": told, "ms": 1.5}])
    shown = capsys.readouterr().out
    assert r"CallError: see [dashboard] users at [/v1/charges]\x1b[2J" in shown
    assert "[red]shop" in shown
    assert at in shown
