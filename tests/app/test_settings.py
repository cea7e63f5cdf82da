"""Settings: where they come from, and what a wrong one is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorline.errors import ConfigurationError
from moorline.settings import load

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("MOORLINE_DATABASE_URL", "MOORLINE_SETTINGS"):
        monkeypatch.delenv(name, raising=False)


def test_an_argument_wins_over_the_environment_and_that_over_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The nearest word counts, key by key."""
    (tmp_path / "moorline.toml").write_text(
        'database_url = "sqlite:///file.db"\n[worker]\nconcurrency = 3\nlease = 9\n'
    )
    monkeypatch.setenv("MOORLINE_WORKER__CONCURRENCY", "4")
    loaded = load(database_url="sqlite:///given.db")
    assert (loaded.database_url, loaded.worker.concurrency, loaded.worker.lease) == ("sqlite:///given.db", 4, 9.0)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("MOORLINE_WORKER__CONCURRENCY", "0", "worker.concurrency"),
        ("MOORLINE_WORKER__LEESE", "3", "worker.leese"),
        ("MOORLINE_WEBHOOKS__MAX_BODY", "big", "webhooks.max_body"),
        ("MOORLINE_SERVICES__STRIPE__RETRIES", "-1", "services.stripe.retries"),
        ("MOORLINE_DATABSE_URL", "sqlite:///x", "did you mean MOORLINE_DATABASE_URL"),
        ("MOORLINE_LOG__FORMAT", "xml", "log.format"),
        ("MOORLINE_QUEUE_URL", "redis://127.0.0.1", "queue_url"),
        ("MOORLINE_SETTINGS", "nowhere.toml", "MOORLINE_SETTINGS"),
    ],
)
def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str) -> None:
    """The error says which key it is, as it is written in the file and in the environment."""
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=said):
        load()


def test_a_wrong_file_is_named(tmp_path: Path) -> None:
    """A file that is not TOML, or holds an unknown key, is told apart."""
    (tmp_path / "moorline.toml").write_text("[worker\n")
    with pytest.raises(ConfigurationError, match=r"moorline\.toml is not valid TOML"):
        load()
    (tmp_path / "moorline.toml").write_text("colour = 1\n")
    with pytest.raises(ConfigurationError, match=r"colour .*is no setting"):
        load()


def test_a_database_url_is_never_repeated_in_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds a password."""
    monkeypatch.setenv("MOORLINE_DATABASE_URL", "mysql://user:canary-password@host/db")
    with pytest.raises(ConfigurationError) as caught:
        load()
    assert "canary" not in str(caught.value)
    assert "database_url" in str(caught.value)


def test_queues_are_separated_by_commas_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """As people write lists in a shell."""
    monkeypatch.setenv("MOORLINE_WORKER__QUEUES", "default, mail")
    assert load().worker.queues == ("default", "mail")


@given(value=st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30))
def test_any_text_is_a_number_or_a_named_error(value: str) -> None:
    """No value of a setting escapes as another exception."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOORLINE_WORKER__LEASE", value)
        try:
            lease = load().worker.lease
        except ConfigurationError as error:
            lease, named = 1.0, "worker.lease" in str(error)
        else:
            named = True
        assert (lease > 0, named) == (True, True)
