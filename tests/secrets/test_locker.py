"""What a process's Secrets give: by default the environment's, seen at once; a hook that orders the versions."""

from __future__ import annotations

import subprocess
import sys

import pytest

from moorline.errors import ConfigurationError
from moorline.secrets import Secret
from moorline.secrets.locker import Secrets, secrets
from moorline.secrets.versions import Version, fingerprint

NAME = "LOCKER_KEY"


@pytest.fixture(autouse=True)
def _empty(monkeypatch: pytest.MonkeyPatch) -> None:
    for end in ("", "_PREVIOUS", "_PREVIOUS_UNTIL"):
        monkeypatch.delenv(NAME + end, raising=False)


def test_the_environment_is_looked_at_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What changes is seen at once; what does not gives the same objects."""
    held = Secrets()
    assert held.versions(NAME) == () == held.load_all(NAME)
    assert held.load(NAME) is None
    monkeypatch.setenv(NAME, "new-value-1, second-value-2")
    monkeypatch.setenv(f"{NAME}_PREVIOUS", "old-value-3")
    monkeypatch.setenv(f"{NAME}_PREVIOUS_UNTIL", "2000000000")
    found = held.versions(NAME)
    assert held.versions(NAME) is found
    assert [(one.secret.reveal(), one.stage, one.origin) for one in found] == [
        ("new-value-1", "current", f"env:{NAME}"),
        ("second-value-2", "previous", f"env:{NAME}#2"),
        ("old-value-3", "previous", f"env:{NAME}_PREVIOUS"),
    ]
    assert [one.secret.not_after for one in found] == [None, None, 2e9]
    assert held.load(NAME) is held.load_all(NAME)[0]
    monkeypatch.setenv(NAME, "newest-value-4")
    assert [one.secret.reveal() for one in held.versions(NAME)] == ["newest-value-4", "old-value-3"]


def test_a_previous_value_alone_is_accepted_and_never_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """As ever in the environment: what is sent is the current one."""
    monkeypatch.setenv(f"{NAME}_PREVIOUS", "old-value-3")
    held = Secrets()
    assert held.load(NAME) is None
    assert [one.reveal() for one in held.load_all(NAME)] == ["old-value-3"]
    held.arrange = lambda _, versions: versions
    assert held.load(NAME) is None  # nothing was arranged


def test_arrange_orders_leaves_out_and_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of what it gives is sent, whatever its stage; all of it is accepted."""
    monkeypatch.setenv(NAME, "new-value-1")
    held = Secrets()
    added = Version(Secret("added-value-9"), "9", "pending")
    asked = []

    def arrange(name: str, versions: tuple[Version, ...]) -> tuple[Version, ...]:
        asked.append(name)
        return (added, *versions)

    held.arrange = arrange
    assert held.load(NAME) is added.secret
    assert [one.reveal() for one in held.load_all(NAME)] == ["added-value-9", "new-value-1"]
    assert asked == [NAME, NAME]
    kept = (added,)
    held.arrange = lambda _, __: kept
    assert held.found(NAME) is held.found(NAME)
    held.arrange = lambda _, __: ()
    assert held.load(NAME) is None


def test_what_cannot_be_used_is_an_error_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new one, so that tracebacks do not grow; what can be used beside it is there."""
    monkeypatch.setenv(NAME, "caf\udce9-0123")
    monkeypatch.setenv(f"{NAME}_PREVIOUS", "old-value-3")
    held = Secrets()
    raised = []
    for ask in (held.load, held.load, held.load_all):
        with pytest.raises(ConfigurationError, match=f"{NAME} is not valid UTF-8") as error:
            ask(NAME)
        raised.append(error.value)
    assert raised[0] is not raised[1]
    assert [one.secret.reveal() for one in held.versions(NAME)] == ["old-value-3"]
    with pytest.raises(ConfigurationError, match="not the name"):
        held.versions("no name")


def test_where_it_is_looked_for_is_said():
    """For errors; by default the environment."""
    assert secrets() is secrets()
    assert secrets().where(NAME) == "the environment"


def test_a_fingerprint_is_the_same_in_all_processes():
    """It names a version where its source has no name for it."""
    code = "from moorline.secrets import Secret; from moorline.secrets.versions import fingerprint as f; "
    other = subprocess.run(
        [sys.executable, "-c", code + "print(f(Secret('some-value')))"], capture_output=True, text=True, check=True
    )
    assert other.stdout.strip() == fingerprint(Secret("some-value"))
    assert fingerprint(Secret("some-value")) != fingerprint(Secret("another-value"))
