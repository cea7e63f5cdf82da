"""The tokens of connected accounts, as they lie in the database."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa
from tests.databases import migrated_sqlite
from tests.identity.conftest import granted

from moorline import errors
from moorline.clock import ManualClock
from moorline.identity.connection import Tokens
from moorline.identity.vault import Vault
from moorline.identity.vault_sql import Which
from moorline.secrets.keyring import KeyRing, new_key
from moorline.secrets.secret import Secret
from moorline.store import Store
from moorline.store.schema import connections


async def test_what_is_kept_comes_back(vault: Vault, clock: ManualClock):
    """By owner and service, with rights and end; the tokens are not in the value itself."""
    kept = await vault.keep("u_1", "hubspot", granted(), account="portal 7")
    assert (kept.scopes, kept.expires_at, kept.version) == (frozenset({"contacts"}), clock.wall() + 3600, 1)
    found = await vault.get("u_1", "hubspot")
    assert found == kept
    tokens = vault.tokens(found)
    assert (tokens.access.reveal(), tokens.refresh) == ("access-0000-canary", Secret("refresh-0"))
    assert "canary" not in repr(found) + repr(tokens) + repr(vault)
    assert vault.get_sync("u_1", "hubspot", "portal 7") == found
    for owner, service, account in (("u_2", "hubspot", None), ("u_1", "slack", None), ("u_1", "hubspot", "other")):
        with pytest.raises(errors.ConnectionNotFound):
            await vault.get(owner, service, account)


async def test_an_account_is_connected_once(vault: Vault):
    """Connecting it again, however many do at once, changes the tokens of the one that is there."""
    await asyncio.gather(*(vault.keep("u_1", "hubspot", granted(number)) for number in range(8)))
    (only,) = await vault.connections()
    assert only.version == 8
    await vault.keep("u_1", "hubspot", granted(), account="another")
    assert len(await vault.connections(Which(owner="u_1"))) == 2
    assert await vault.forget(only.id)
    assert not await vault.forget(only.id)
    assert [one.account for one in vault.connections_sync()] == ["another"]


def test_a_stolen_database_shows_no_token(tmp_path: Path):
    """Not in any byte of its files."""
    url = migrated_sqlite(tmp_path / "m.db")
    with Store(url) as store:
        vault = Vault(store, KeyRing([Secret(new_key())]))
        for number in range(20):
            vault.keep_sync("u_1", "hubspot", granted(number), account=str(number))
    for file in tmp_path.iterdir():
        assert b"canary" not in file.read_bytes()
        assert b"refresh-" not in file.read_bytes()


@pytest.mark.parametrize("column", ["owner", "service", "account", "sealed"])
async def test_a_row_that_is_swapped_does_not_decrypt(vault: Vault, column: str):
    """Who can write to the database cannot give one user's account to another."""
    mine = await vault.keep("u_1", "hubspot", granted(1), account="a")
    other = await vault.keep("u_2", "slack", granted(2), account="b")

    def swap(database: sa.Connection, _: list[None]) -> list[None]:
        value = getattr(other, column)
        # The other one makes room for it first: an account is connected once.
        database.execute(sa.delete(connections).where(connections.c.id == other.id))
        database.execute(sa.update(connections).where(connections.c.id == mine.id).values({column: value}))
        return [None]

    await vault.store.write(swap, None)
    (swapped,) = await vault.connections()
    with pytest.raises(errors.DecryptionFailed, match="changed, or moved"):
        vault.tokens(swapped)


async def test_keys_are_rotated_while_all_goes_on(vault: Vault):
    """The new key encrypts what comes, reseal what is there; then the old one can go. What no key reads is told."""
    before = [await vault.keep("u_1", "hubspot", granted(n), account=str(n)) for n in range(5)]
    lost = Vault(vault.store, KeyRing([Secret(new_key())]))
    unreadable = await lost.keep("u_1", "hubspot", granted(9), account="lost")
    old, new = vault.ring, Secret(new_key())
    ring = KeyRing([new, *_keys(old)])
    both = Vault(vault.store, ring)
    assert both.tokens(before[0]).access.reveal() == "access-0000-canary"
    told: list[int] = []
    done = await both.reseal(progress=lambda so_far: told.append(so_far.changed))
    assert (done.changed, done.unreadable, told) == (5, (unreadable.id,), [5])
    assert both.reseal_sync().changed == 0
    alone = Vault(vault.store, KeyRing([new]))
    for row in await alone.connections(Which(owner="u_1")):
        if row.id != unreadable.id:
            assert alone.tokens(row).refresh is not None
    with pytest.raises(errors.DecryptionFailed, match="not among those"):
        vault.tokens(await vault.get("u_1", "hubspot", "0"))


def _keys(ring: KeyRing) -> list[Secret]:
    import base64

    return [Secret(base64.urlsafe_b64encode(raw).decode()) for raw in ring._keys.values()]


@pytest.mark.parametrize(
    ("owner", "service", "account"), [("", "x", ""), ("u", "", ""), ("u", "x", "a\0b"), ("u" * 501, "x", "")]
)
async def test_names_that_are_none_are_refused(lite: Vault, owner: str, service: str, account: str):
    """Empty, too long, or with the character that keeps them apart."""
    with pytest.raises(errors.ConfigurationError, match="must be a text"):
        await lite.keep(owner, service, granted(), account=account)


@pytest.mark.parametrize("plain", [b"", b"{}", b"[]", b'{"access":1,"refresh":null,"extra":{}}', b"\xff"])
def test_what_are_no_tokens_is_said(plain: bytes):
    """Something else that was encrypted for this place is no token."""
    with pytest.raises((errors.DecryptionFailed, errors.ConfigurationError)) as caught:
        Tokens.from_bytes(plain)
    assert isinstance(caught.value, errors.DecryptionFailed)


def test_sqlite_has_the_table(tmp_path: Path):
    """Migrated databases have it with its indexes."""
    migrated_sqlite(tmp_path / "m.db")
    with sqlite3.connect(tmp_path / "m.db") as database:
        names = {row[0] for row in database.execute("SELECT name FROM sqlite_master")}
    assert {"connections", "connections_owner", "connections_key"} <= names
