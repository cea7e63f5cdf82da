"""``moorline keys master``."""

from __future__ import annotations

import asyncio
import json
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.databases import migrated_sqlite
from tests.openbao import ROOT, OpenBao
from tests.servers import until
from tests.warm import Warm
from typer.testing import CliRunner, Result

from moorline.cli.root import cli
from moorline.identity.connection import Granted, Tokens
from moorline.identity.own_secrets import OwnSecrets
from moorline.identity.rotation.marks import Marks
from moorline.identity.vault import Vault
from moorline.secrets import wrapped
from moorline.secrets.keyring import KeyRing, new_key
from moorline.secrets.locker import secrets
from moorline.secrets.rings import ENCRYPTION_KEY, encryption_ring
from moorline.secrets.secret import Secret
from moorline.store import Store
from moorline.store.schema import connections

HERE = Path(__file__).parent


def granted(number: int) -> Granted:
    """Tokens that are told apart by a number."""
    return Granted(Tokens(Secret(f"access-{number:05}-canary")))


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of a migrated database, which is the settings' too."""
    if request.param == "sqlite":
        found = migrated_sqlite(tmp_path / "moorline.db")
    else:
        found = request.getfixturevalue("migrated_postgres_url")
    monkeypatch.setenv("MOORLINE_DATABASE_URL", found)
    return found


@pytest.fixture
def lite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """On SQLite, for what no database has a part in."""
    found = migrated_sqlite(tmp_path / "lite.db")
    monkeypatch.setenv("MOORLINE_DATABASE_URL", found)
    return found


class Operator:
    """Calls commands, and sets the variable to what they print."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.patch = patch
        self.set(self.run("new").stdout.strip())

    def run(self, *arguments: str) -> Result:
        """Whatever it answers."""
        return CliRunner().invoke(cli, ["keys", "master", *arguments])

    def set(self, value: str) -> None:
        """Deploy it: other processes have it from now on."""
        self.value = value
        self.patch.setenv(ENCRYPTION_KEY, value)

    def rotate(self, *arguments: str) -> str:
        """One step: what it said; the value is deployed where it gave one."""
        done = self.run("rotate", *arguments)
        assert done.exit_code == 0, done.output
        if done.stdout.strip():
            self.set(done.stdout.strip())
        return done.stderr

    def status(self, *arguments: str) -> dict[str, Any]:
        """What is there."""
        done = self.run("status", "--json", *arguments)
        found: dict[str, Any] = json.loads(done.stdout)
        assert done.exit_code == (1 if found["lost"] or any((found["unreadable"] or {}).values()) else 0)
        return found

    @property
    def keys(self) -> list[str]:
        return self.value.split(",")


@pytest.fixture
def operator(monkeypatch: pytest.MonkeyPatch) -> Operator:
    monkeypatch.setattr(wrapped, "_unwrapped", {})
    monkeypatch.delenv("MOORLINE_SANDBOX_URL", raising=False)
    return Operator(monkeypatch)


def filled(url: str, count: int) -> None:
    """So many connections, of the ring in the environment."""

    async def fill(vault: Vault) -> None:
        await asyncio.gather(*(vault.keep("u", "hubspot", granted(n), account=str(n)) for n in range(count)))

    with Store(url) as store:
        asyncio.run(fill(Vault(store, encryption_ring())))


def test_a_rotation_step_by_step(lite: str, operator: Operator) -> None:
    """Each call says what is next; the value goes to standard output, alone; at the end the new key is the only one."""
    filled(lite, 7)
    [old] = operator.keys
    assert operator.status()["next"] == "make"
    assert "Step 1 of 4" in operator.rotate()
    assert operator.keys[:-1] == [old]
    new = operator.keys[-1]
    assert [one["does"] for one in operator.status()["ring"]] == ["encrypts", "decrypts"]
    assert "Step 2 of 4" in operator.rotate()
    assert operator.keys == [new, old]
    held = [one["rows"]["connected accounts"] for one in operator.status()["ring"]]
    assert (held, operator.status()["next"]) == ([0, 7], "reseal")
    said = operator.rotate()
    assert "7 encrypted anew" in said
    assert "Step 4 of 4" in said
    assert KeyRing([Secret(old)]).current_id in said
    assert old not in said
    assert operator.keys == [new]
    assert operator.status("--check")["unreadable"] == {"connected accounts": [], "kept values": []}
    assert "over" in operator.rotate()
    assert operator.status()["next"] == "make"


def test_one_process_saves_a_step(lite: str, operator: Operator) -> None:
    """``--at-once``: the new key stands first."""
    filled(lite, 3)
    [old] = operator.keys
    assert "Step 2 of 4" in operator.rotate("--at-once")
    assert operator.keys[1:] == [old]
    assert "3 encrypted anew" in operator.rotate()
    assert operator.status("--check")["ring"][0]["rows"] == {"connected accounts": 3, "kept values": 0}


def test_a_dry_run_changes_nothing(lite: str, operator: Operator) -> None:
    """At each step; no key is made, nothing is printed that could be taken for one."""
    filled(lite, 3)
    for step in ("Step 1", "Step 2", "Step 3", "over"):
        before = operator.status()
        done = operator.run("rotate", "--dry-run")
        assert (done.exit_code, done.stdout) == (0, "")
        assert step in done.stderr
        assert operator.status() == before
        operator.rotate()


def test_a_key_that_was_made_and_lost_is_made_again(lite: str, operator: Operator) -> None:
    """The terminal was closed: the next call makes another one."""
    filled(lite, 1)
    lost = operator.run("rotate").stdout
    assert "Step 1" in operator.rotate()
    assert operator.value != lost.strip()


def test_a_key_that_is_missing_stops_all(lite: str, operator: Operator) -> None:
    """It has encrypted rows, and is not in the variable: nothing may be changed before it is back."""
    [old] = operator.keys
    operator.rotate("--at-once")
    filled(lite, 2)
    operator.set(old)
    done = operator.run("rotate")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "Put it back" in done.stderr
    found = operator.status()
    assert (found["next"], found["lost"][0]["rows"]) == ("missing", {"connected accounts": 2, "kept values": 0})


def test_rows_that_no_key_decrypts_are_told(lite: str, operator: Operator) -> None:
    """Those of a key that is gone, and one that was changed: they keep nothing from going on."""
    filled(lite, 2)
    with Store(lite) as store:
        gone = Vault(store, KeyRing([Secret(new_key())])).keep_sync("x", "slack", granted(1))
        bent = Vault(store, encryption_ring()).keep_sync("y", "slack", granted(2))

        def bend(database: Any, _: Any) -> list[None]:
            database.execute(connections.update().where(connections.c.id == bent.id).values(owner="z"))
            return [None]

        store.write_sync(bend, None)
    found = operator.status("--check")
    assert sorted(found["unreadable"]["connected accounts"]) == sorted([gone.id, bent.id])
    assert "Careful" in operator.rotate("--at-once")
    said = operator.rotate()
    assert "2 encrypted anew" in said
    assert gone.id in said
    assert bent.id in said
    assert "Step 4 of 4" in said
    assert len(operator.keys) == 1


def test_the_value_goes_to_a_file_of_the_user_alone(lite: str, operator: Operator, tmp_path: Path) -> None:
    """Which must not be there: nothing is overwritten."""
    file = tmp_path / "value"
    done = operator.run("rotate", "--to", str(file))
    assert (done.exit_code, done.stdout) == (0, "")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text().strip().split(",")[:1] == operator.keys
    assert "is there already" in str(operator.run("rotate", "--to", str(file)).exception)


def test_a_ring_moves_into_transit(
    lite: str, operator: Operator, openbao: OpenBao, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a key in the clear to a wrapped one, whose successor is wrapped likewise; then it is wrapped anew."""
    openbao.ask("POST", "sys/mounts/master", {"type": "transit"})
    openbao.ask("POST", "master/keys/app")
    monkeypatch.setenv("VAULT_ADDR", openbao.url)
    monkeypatch.setenv("VAULT_TOKEN", ROOT)
    assert operator.run("new", "--transit", "master/app").stdout.startswith("vault-transit:master/app:vault:v1:")
    filled(lite, 3)
    operator.rotate("--transit", "master/app")
    operator.rotate()
    assert "3 encrypted anew" in operator.rotate()
    assert operator.value.startswith("vault-transit:master/app:vault:v1:")
    assert operator.status()["ring"][0]["kept"] == "wrapped by vault-transit:master/app"
    openbao.ask("POST", "master/keys/app/rotate")
    ids = [one["id"] for one in operator.status()["ring"]]
    operator.set(operator.run("rewrap").stdout.strip())
    assert operator.value.startswith("vault-transit:master/app:vault:v2:")
    wrapped._unwrapped.clear()
    assert [one["id"] for one in operator.status("--check")["ring"]] == ids
    operator.rotate()
    operator.rotate()
    assert operator.keys[1].startswith("vault-transit:master/app:vault:v2:")
    operator.run("rotate", "--plain")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("new", "--kms", "alias/x", "--transit", "t/x"), "not both"),
        (("new", "--transit", "x"), "MOUNT/KEY"),
        (("rotate", "--kms", "alias/x", "--plain"), "not several"),
        (("rewrap",), "no key of the ring is wrapped"),
    ],
)
def test_what_cannot_be_is_said(operator: Operator, arguments: tuple[str, ...], said: str) -> None:
    """Before anything is done."""
    done = operator.run(*arguments)
    assert done.exit_code == 1
    assert said in str(done.exception)


def test_what_the_application_keeps_itself_is_rotated_too(lite: str, operator: Operator) -> None:
    """Its own secrets, beside the tokens of connected accounts."""
    filled(lite, 2)
    with Store(lite) as store:
        OwnSecrets(store, encryption_ring()).put_sync("STRIPE_SECRET_KEY", Secret("sk_test_canary"))
    operator.rotate("--at-once")
    said = operator.rotate()
    assert "connected accounts: 2 encrypted anew" in said
    assert "kept values: 1 encrypted anew" in said
    assert operator.status("--check")["ring"][0]["rows"] == {"connected accounts": 2, "kept values": 1}
    with Store(lite) as store:
        (kept,) = OwnSecrets(store, encryption_ring()).fetch("STRIPE_SECRET_KEY")
    assert kept.fields == {"STRIPE_SECRET_KEY": "sk_test_canary"}


def test_fingerprints_are_known_after_it(lite: str, operator: Operator) -> None:
    """The key that they are made with lies in the database, encrypted; the new key alone opens it."""
    filled(lite, 1)
    with Store(lite) as store:
        before = Marks.of_store(store, encryption_ring())
        assert before is not None
        first = before.of("STRIPE_SECRET_KEY", Secret("sk_test_canary"))
    operator.rotate("--at-once")
    operator.rotate()
    assert len(operator.keys) == 1
    with Store(lite) as store:
        after = Marks.of_store(store, encryption_ring())
    assert after is not None
    assert after.of("STRIPE_SECRET_KEY", Secret("sk_test_canary")) == first


def test_the_key_is_where_the_settings_say(
    lite: str, operator: Operator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a file, as a container has it: one key a line. What the application keeps itself is left out."""
    (tmp_path / "secrets").mkdir()
    file = tmp_path / "secrets" / ENCRYPTION_KEY
    file.write_text(f"{new_key()}\n{operator.value}\n")
    monkeypatch.delenv(ENCRYPTION_KEY)
    monkeypatch.setenv("MOORLINE_SECRETS__SOURCES", f"store:,file:{file.parent}")
    try:
        assert len(operator.status()["ring"]) == 2
    finally:
        secrets().configure()


@pytest.mark.crash
def test_all_goes_on_meanwhile(url: str, operator: Operator, tmp_path: Path) -> None:
    """Two processes read and write through a whole rotation, each started anew by itself at each step; encrypting anew is
    killed in the midst, twice. No process ever met what it could not read, and what was kept last is there.
    """
    filled(url, 900)
    running: dict[str, Any] = {}

    def deploy() -> None:
        for name in ("a", "b"):
            if name in running:
                running[name].kill()
                running[name].wait()
            before = lines()
            with (tmp_path / name).open("ab") as out:
                command = [sys.executable, str(HERE / "vault_process.py"), url, name]
                running[name] = Warm(command, cwd=HERE.parents[1], stdout=out, stderr=out)
            until(lambda: "started" in lines()[len(before) :], seconds=60)  # noqa: B023 (it is asked at once)
            until(lambda: lines()[len(before) :].count("read") > 5, seconds=60)  # noqa: B023

    def lines() -> list[str]:
        return [line for name in ("a", "b") if (tmp_path / name).exists() for line in _whole(tmp_path / name)]

    try:
        deploy()
        for _ in range(2):
            operator.rotate()
            deploy()
        for number in range(2):
            out = tmp_path / f"reseal-{number}"
            with out.open("wb") as file:
                process = Warm(
                    [sys.executable, str(HERE / "reseal_process.py"), url], cwd=HERE, stdout=file, stderr=file
                )
            until(lambda: len(_whole(out)) >= 2, seconds=60)  # noqa: B023 (it is asked at once)
            process.kill()
            process.wait()
        held = [one["rows"]["connected accounts"] for one in operator.status()["ring"]]
        assert held[0] >= 300
        assert held[1] >= 300
        assert "Step 4 of 4" in operator.rotate()
        deploy()
    finally:
        for process in running.values():
            process.kill()
            process.wait()
    assert not [line for line in lines() if line.split(" ")[0] not in ("started", "kept", "read", "")]
    last = {line.split(" ")[1]: line.split(" ")[2] for line in lines() if line.startswith("kept ")}
    assert len(operator.keys) == 1
    with Store(url) as store:
        vault = Vault(store, encryption_ring())
        for place, token in last.items():
            owner, _, account = place.partition("/")
            # One that was killed may have kept one more than it said.
            kept = vault.tokens(vault.get_sync(owner, "provider", account)).access.reveal()
            assert int(kept.split("-")[1]) >= int(token.split("-")[1])
        for number in range(900):
            row = vault.get_sync("u", "hubspot", str(number))
            assert vault.tokens(row).access == granted(number).tokens.access


def _whole(file: Path) -> list[str]:
    """Its lines that are written to the end."""
    return file.read_text().rpartition("\n")[0].split("\n")
