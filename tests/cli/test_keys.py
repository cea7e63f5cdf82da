"""``moorline keys``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.databases import migrated_sqlite
from typer.testing import CliRunner

from moorline import Moorline
from moorline.cli.root import cli
from moorline.errors import ConfigurationError, MoorlineError
from moorline.sandbox import server
from moorline.secrets.keyring import KeyRing, new_key
from moorline.secrets.locker import secrets
from moorline.secrets.secret import Secret
from moorline.services import SendGrid

OLD, NEW, HOOK = "sk_test_old0123456789", "sk_test_new0123456789", "whsec_0123456789abcdef"
NAME = "STRIPE_SECRET_KEY"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[str]:
    with server.running() as url:
        yield url


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MOORLINE_ENCRYPTION_KEY", new_key())
    monkeypatch.setenv("MOORLINE_DATABASE_URL", migrated_sqlite(tmp_path / "app.db"))
    monkeypatch.setenv(NAME, OLD)
    monkeypatch.setenv("STRIPE_WEBHOOK_SECRET", HOOK)
    monkeypatch.chdir(tmp_path)


def moorline(*arguments: str, given: str | None = None, expect: int = 0) -> str:
    """What it prints; with the exit codes of the program."""
    done = CliRunner().invoke(cli, ["keys", *arguments], input=given)
    code = 2 if isinstance(done.exception, ConfigurationError) else done.exit_code
    assert isinstance(done.exception, MoorlineError | SystemExit | None)
    said = done.output if code == 0 else f"{done.output}{done.exception}"
    assert code == expect, said
    for secret in (OLD, NEW, HOOK):
        assert secret not in said
    return said


def told(*arguments: str, given: str | None = None) -> Any:
    return json.loads(moorline(*arguments, "--json", given=given))


def test_a_new_key_is_one_and_another_each_time():
    """What is printed is all that a ring needs."""
    printed = [moorline("master", "new") for _ in range(2)]
    assert len({KeyRing([Secret(one.strip())]).current_id for one in printed}) == 2


def test_a_rotation_by_hand():
    """Listed, added from standard input, promoted, retired, undone: each says what comes next."""
    listed = {one["name"]: one for one in told("list")}
    assert {NAME, "STRIPE_WEBHOOK_SECRET"} <= listed.keys()
    (old,) = [one["version"] for one in listed[NAME]["versions"]]
    added = told("add", NAME, given=f"{NEW}\n")
    assert [one["status"] for one in added["versions"]] == ["first", "added"]
    new = added["versions"][1]["version"]
    assert added["next"] == f"use the new one first: moorline keys promote {NAME} {new}"
    said = moorline("promote", NAME, new[:5], "--why", "yearly", "--actor", "ada@example.com")
    assert f"{NAME}: version {new[:5]} is used first" in said
    assert f"next: wait: {old} was used first until 0 s ago" in said
    assert "wait" in moorline("retire", NAME, old, expect=1)
    said = moorline("status", NAME)
    assert "ada@example.com" in said
    assert "yearly" in said
    assert "store:" in said
    assert f"{NAME}: version {old} is accepted no more" in moorline("retire", NAME, old, "--unused", "0s")
    assert [one["status"] for one in told("list", NAME)[0]["versions"]] == ["first", "retired"]
    moorline("rollback", NAME)
    assert [one["status"] for one in told("status", NAME)["versions"]] == ["first", "old"]
    assert NAME in moorline("status")


def test_a_long_address_is_whole_and_widens_no_table(tmp_path: Path):
    """It has a line of its own, whatever reads that."""
    place = tmp_path / ("long" * 25) / "key"
    place.parent.mkdir()
    place.write_text(NEW)
    said = moorline("add", NAME, "--from", f"file:{place}") and moorline("status", NAME)
    assert f"file:{place}" in said
    assert max(len(line) for line in said.splitlines() if line.startswith("│")) < 110


def test_a_value_that_is_piped_from_windows():
    """The byte order mark and the end of the line are no part of it."""
    version = told("add", NAME, given=f"\ufeff{NEW}\r\n")["versions"][1]["version"]
    app = Moorline()
    with app.opened():
        assert [one.secret.reveal() for one in secrets().versions(NAME)] == [OLD, NEW]
        assert app.keys.versions_sync(NAME)[1].version == version


def test_what_is_in_use_is_not_retired():
    """A process that has used the key today is named, with exit code 1; --force retires it all the same."""
    app = Moorline()
    app.keys.watch.role = "worker"
    app.keys.watch.every = 1_000.0  # it looks when it is told
    with app.opened():
        old = app.keys.versions_sync(NAME)[0].version
        secrets().versions(NAME)[0].secret.tally.worked(app.clock.wall())  # type: ignore[union-attr]
        app.keys.watch.flush()
        added = told("add", NAME, given=NEW)
        new = added["versions"][1]["version"]
        assert added["next"].startswith(f"wait: nobody has told of {new} yet, which was added ")
        assert "not yet at worker" in moorline("promote", NAME, new, expect=1)
        app.keys.watch.refresh()
        app.keys.watch.flush()
        assert told("status", NAME)["next"] == f"use the new one first: moorline keys promote {NAME} {new}"
        moorline("promote", NAME, new)
        status = moorline("status", NAME)
        assert "wait: " in status
        assert "worker" in status
        said = moorline("retire", NAME, old, expect=1)
        assert "used within 24 hours: worker" in said
        moorline("retire", NAME, old, "--force")
        assert "only one" in moorline("retire", NAME, new, "--force", expect=1)
        assert secrets().load(NAME).reveal() == OLD  # type: ignore[union-attr]
        app.keys.watch.refresh()
        assert secrets().load(NAME).reveal() == NEW  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("arguments", "given", "said"),
    [
        (["promote", NAME, "ffff"], None, "has no version 'ffff'"),
        (["add", NAME], "", "no value"),
        (["add", NAME], f"{NEW}\0", "U+0000"),
        (["add", NAME], f"{NEW}\n{NEW}\n", "U+000A"),
        (["add", NAME, "--from", "nowhere"], None, "scheme"),
        (["add", "MOORLINE_ENCRYPTION_KEY"], NEW, "keys master"),
        (["retire", NAME, "abcd", "--unused", "soon"], None, "--unused"),
        (["rotate", "stripe"], None, "makes no keys"),
        (["list", "--app", "x:y", "--database-url", "sqlite:///x"], None, "--database-url"),
    ],
)
def test_misuse(arguments: list[str], given: str | None, said: str):
    """Exit code 2, and what is wrong is named."""
    assert said in moorline(*arguments, given=given, expect=2)


def test_a_value_is_never_an_argument():
    """There is no place for one."""
    assert CliRunner().invoke(cli, ["keys", "add", NAME, NEW]).exit_code == 2


def test_rotate(sandbox: str, monkeypatch: pytest.MonkeyPatch):
    """All of it where nobody has used the old key; the second run rotates what the first has made."""
    httpx2.post(f"{sandbox}/_sandbox/reset")
    monkeypatch.setenv("MOORLINE_SANDBOX_URL", sandbox)
    monkeypatch.setenv("SENDGRID_API_KEY", "SG.first.0123456789abcdef")
    for _ in range(2):
        done = told("rotate", "sendgrid", "--unused", "1s", "--wait", "3s")
        assert (done["step"], done["done"]) == ("done", True)
    with Moorline().opened():
        assert SendGrid().check().result() is True
    state = httpx2.get(f"{sandbox}/_sandbox/state", params={"service": "sendgrid"}).json()["sendgrid"]
    assert [one["deleted"] for one in state["api_keys"]].count(False) == 1
