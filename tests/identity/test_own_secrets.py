"""Credentials that the application keeps itself, as they lie in its database and as they are found there."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.databases import migrated_sqlite
from tests.secrets.places import among, texts

from moorline.clock import ManualClock
from moorline.errors import ConfigurationError, SecretUnavailable
from moorline.identity.own_secrets import OwnSecrets
from moorline.secrets.keyring import KeyRing, new_key
from moorline.secrets.locker import Secrets
from moorline.secrets.secret import Secret
from moorline.store import Store

OLD, NEW = Secret(new_key()), Secret(new_key())


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(migrated_sqlite(tmp_path / "m.db"), clock=ManualClock()) as opened:
        yield opened


@pytest.fixture
def own(store: Store) -> OwnSecrets:
    return OwnSecrets(store, KeyRing([OLD]))


def told(held: Secrets, name: str = "KEY") -> list[tuple[str, str]]:
    return [(one.secret.reveal(), one.stage) for one in held.versions(name)]


@pytest.fixture
def on_each(database_url: str) -> Iterator[OwnSecrets]:
    """On SQLite and on PostgreSQL."""
    with Store(database_url, clock=ManualClock()) as opened:
        yield OwnSecrets(opened, KeyRing([OLD]))


async def test_versions_are_kept_found_and_removed(on_each: OwnSecrets):
    """In both colours; what changes here is seen at once by who looks here."""
    own = on_each
    held = among(own)
    assert held.load("KEY") is None
    first = await own.put("KEY", Secret("value-1"))
    assert told(held) == [("value-1", "current")]
    second = own.put_sync("KEY", Secret("value-2", not_after=2e9), stage="pending", not_before=1.9e9)
    assert told(held) == [("value-1", "current"), ("value-2", "pending")]
    pending = held.versions("KEY")[1]
    assert (pending.id, pending.not_before, pending.secret.not_after) == (second, 1.9e9, 2e9)
    assert pending.origin == f"store:#KEY@{second}"
    assert await own.mark("KEY", second, "current")
    assert told(held) == [("value-2", "current"), ("value-1", "previous")]
    third = await own.put("KEY", Secret("value-3"))
    assert told(held) == [("value-3", "current"), ("value-2", "previous"), ("value-1", "previous")]
    assert [(one.id, one.stage) for one in await own.kept("KEY")] == [
        (third, "current"), (second, "previous"), (first, "previous"),
    ]  # fmt: skip
    assert own.mark_sync("KEY", first, "current")
    assert own.remove_sync("KEY", third)
    assert not await own.remove("KEY", third)
    assert not await own.mark("KEY", third, "current")
    assert not own.remove_sync("OTHER", first)  # of another name
    assert told(held) == [("value-1", "current"), ("value-2", "previous")]
    assert await own.names() == own.names_sync() == ["KEY"]
    assert texts([one.secret for one in held.versions("KEY")]) == ["value-1", "value-2"]
    assert [one.id for one in own.kept_sync("KEY")] == [second, first]


def test_another_process_sees_it_within_its_time(store: Store, own: OwnSecrets):
    """Fifteen seconds, without a call to anybody."""
    clock = ManualClock()
    other = among(OwnSecrets(store, KeyRing([OLD])), clock)
    own.put_sync("KEY", Secret("value-1"))
    assert told(other) == [("value-1", "current")]
    own.put_sync("KEY", Secret("value-2"))
    clock.advance(15)
    other.tend()
    assert told(other) == [("value-2", "current"), ("value-1", "previous")]


def test_a_stolen_database_shows_none_and_a_moved_row_is_none(tmp_path: Path, store: Store, own: OwnSecrets):
    """Not in any byte of its files; under another name or id a row does not decrypt, and what is beside it does."""
    own.put_sync("KEY", Secret("canary-value-1"))
    moved = own.put_sync("OTHER", Secret("canary-value-2"))
    for file in tmp_path.iterdir():
        assert b"canary" not in file.read_bytes()
    with sqlite3.connect(tmp_path / "m.db") as database:
        database.execute("UPDATE secrets SET name = 'KEY', stage = 'previous' WHERE id = ?", (moved,))
    assert told(among(own)) == [("canary-value-1", "current")]
    with sqlite3.connect(tmp_path / "m.db") as database:
        database.execute("DELETE FROM secrets WHERE id <> ?", (moved,))
    with pytest.raises(
        ConfigurationError, match=r"store:#KEY: no key of <KeyRing of 1, current [0-9a-f]+> decrypts it"
    ):
        among(own).load("KEY")


def test_of_two_that_are_current_the_newer_counts(tmp_path: Path, own: OwnSecrets):
    """As two processes may leave them."""
    own.put_sync("KEY", Secret("value-1"))
    own.put_sync("KEY", Secret("value-2"))
    with sqlite3.connect(tmp_path / "m.db") as database:
        database.execute("UPDATE secrets SET stage = 'current'")
    assert told(among(own)) == [("value-2", "current"), ("value-1", "previous")]


async def test_keys_rotate(store: Store, own: OwnSecrets):
    """The old one is for reading until all is encrypted anew; what none decrypts is named."""
    for number in range(5):
        own.put_sync(f"KEY_{number}", Secret(f"value-{number}"))
    lost = OwnSecrets(store, KeyRing([Secret(new_key())])).put_sync("LOST", Secret("value-x"))
    both = OwnSecrets(store, KeyRing([NEW, OLD]))
    assert told(among(both), "KEY_3") == [("value-3", "current")]
    assert await both.reseal() == (5, (lost,))
    assert both.reseal_sync() == (0, (lost,))
    assert told(among(OwnSecrets(store, KeyRing([NEW]))), "KEY_3") == [("value-3", "current")]


def test_limits_and_names(own: OwnSecrets):
    """Each is an error that names it."""
    for name in ("", "A B", "1A", "x" * 201):
        with pytest.raises(ConfigurationError, match="no name of a secret"):
            own.put_sync(name, Secret("value"))
    with pytest.raises(ConfigurationError, match="KEY is larger than 65536 bytes"):
        own.put_sync("KEY", Secret("x" * 65_537))
    wrong: Any = "newest"
    with pytest.raises(ConfigurationError, match="stage must be one of current, previous, pending"):
        own.put_sync("KEY", Secret("value"), stage=wrong)
    with pytest.raises(ConfigurationError, match="stage must be one of"):
        own.mark_sync("KEY", "x", wrong)
    for number in range(20):
        own.put_sync("KEY", Secret(f"value-{number}"))
    with pytest.raises(ConfigurationError, match="KEY has 20 versions"):
        own.put_sync("KEY", Secret("value-20"))


def test_without_an_application_there_is_no_store():
    """The URL says so when it is used; a closed store is a place that is down."""
    held = Secrets(background=False)
    held.configure(["store:"])
    with pytest.raises(ConfigurationError, match="store: is the database of an application"):
        held.load("KEY")


def test_a_store_that_is_down_leaves_the_last_good_value(tmp_path: Path):
    """As any source."""
    clock = ManualClock()
    with Store(migrated_sqlite(tmp_path / "m.db")) as store:
        own = OwnSecrets(store, KeyRing([OLD]))
        held = among(own, clock)
        own.put_sync("KEY", Secret("value-1"))
        assert told(held) == [("value-1", "current")]
    clock.advance(100)
    held.tend()
    assert told(held) == [("value-1", "current")]
    with pytest.raises(SecretUnavailable, match="store: the store is not open"):
        among(own).load("KEY")


def test_the_keys_of_the_ring_are_not_looked_for_in_what_they_encrypt(store: Store, monkeypatch: pytest.MonkeyPatch):
    """They are where they were before: in the environment, or another source."""
    from moorline.secrets import locker
    from moorline.secrets.rings import encryption_ring

    monkeypatch.setenv("MOORLINE_ENCRYPTION_KEY", OLD.reveal())
    own = OwnSecrets(store, encryption_ring)
    held = among(own)
    held.configure(["store:", "env:"])
    monkeypatch.setattr(locker, "_PROCESS", held)
    own.put_sync("KEY", Secret("value-1"))
    assert told(held) == [("value-1", "current")]
