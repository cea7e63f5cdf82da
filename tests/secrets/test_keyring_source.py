"""The keyring of the operating system, with a backend of the package ``keyring`` that holds it in memory."""

from __future__ import annotations

from collections.abc import Iterator

import keyring
import pytest
from keyring.backend import KeyringBackend
from keyring.errors import KeyringLocked
from tests.secrets.places import texts

from moorline.clock import ManualClock
from moorline.errors import ConfigurationError, SecretUnavailable
from moorline.secrets.locker import Secrets


class Memory(KeyringBackend):
    """A keyring that can be locked."""

    priority = 1

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[tuple[str, str], str] = {}
        self.locked = False

    def get_password(self, service: str, username: str) -> str | None:
        if self.locked:
            raise KeyringLocked("secret-canary")
        return self.held.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.held[service, username] = password


@pytest.fixture
def memory() -> Iterator[Memory]:
    """The keyring of this process."""
    before = keyring.get_keyring()
    made = Memory()
    keyring.set_keyring(made)
    yield made
    keyring.set_keyring(before)


def test_a_name_is_the_user_of_a_service(memory: Memory) -> None:
    """With the value before it, and when that ends; while it is locked the last good value is used."""
    clock = ManualClock()
    keyring.set_password("shop", "RING_KEY", "new-value")
    keyring.set_password("shop", "RING_KEY_PREVIOUS", "old-value")
    keyring.set_password("shop", "RING_KEY_PREVIOUS_UNTIL", "2000000000")
    held = Secrets(clock=clock, background=False)
    held.configure(["keyring:shop"], {"OTHER": "keyring:shop#RING_KEY"})
    assert [
        (one.secret.reveal(), one.stage, one.secret.not_after, one.origin) for one in held.versions("RING_KEY")
    ] == [
        ("new-value", "current", None, "keyring:shop#RING_KEY"),
        ("old-value", "previous", 2e9, "keyring:shop#RING_KEY"),
    ]
    assert texts(held.load_all("OTHER")) == ["new-value", "old-value"]
    assert held.load("NO_SUCH_KEY") is None
    memory.locked = True
    clock.advance(1000)
    held.tend()
    assert texts(held.load_all("RING_KEY")) == ["new-value", "old-value"]


def test_a_locked_keyring_is_named(memory: Memory) -> None:
    """And what it says is not shown."""
    memory.locked = True
    held = Secrets(background=False)
    held.configure(["keyring:shop"])
    with pytest.raises(SecretUnavailable, match=r"keyring:shop#K: the keyring does not give it \(KeyringLocked\)"):
        held.load("K")
    held.configure(["keyring:"])
    with pytest.raises(ConfigurationError, match="which service"):
        held.load("K")
    with pytest.raises(ConfigurationError, match="whose password"):
        held.at("keyring:shop").now()


def test_without_the_package_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """As elsewhere."""
    monkeypatch.setitem(__import__("sys").modules, "keyring", None)
    held = Secrets(background=False)
    held.configure(["keyring:shop"])
    with pytest.raises(ConfigurationError, match=r"keyring:shop needs keyring; pip install 'moorline\[keyring\]'"):
        held.load("K")
