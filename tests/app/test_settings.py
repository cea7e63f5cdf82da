"""Settings: where they come from, and what a wrong one is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorline import Moorline
from moorline.calls.guards import Guards
from moorline.errors import ConfigurationError, RateLimited
from moorline.policies.bulkhead import Bulkhead
from moorline.policies.policy import Policy
from moorline.policies.rate import RateLimit
from moorline.policies.retry import Retry
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
        ("MOORLINE_SERVICES__STRIPE__RATE", "100", r'services.stripe.rate .*such as "100/60"'),
        ("MOORLINE_SERVICES__STRIPE__RATE", "10/1,0/60", r'services.stripe.rate .*such as "100/60"'),
        ("MOORLINE_SERVICES__STRIPE__RATE", "", "services.stripe.rate"),
        ("MOORLINE_SERVICES__STRIPE__BULKHEAD", "0", "services.stripe.bulkhead"),
        ("MOORLINE_SERVICES__STRIPE__ADMISSION", "0", "services.stripe.admission"),
        ("MOORLINE_SERVICES__STRIPE__RETRY_BUDGET", "-0.1", "services.stripe.retry_budget"),
        ("MOORLINE_DATABSE_URL", "sqlite:///x", "did you mean MOORLINE_DATABASE_URL"),
        (
            "MOORLINE_WORKER_CONCURRENCY",
            "3",
            r"MOORLINE_WORKER_CONCURRENCY .*did you mean MOORLINE_WORKER__CONCURRENCY",
        ),
        ("MOORLINE_WEBHOOK__KEEP_DAYS", "3", "did you mean MOORLINE_WEBHOOKS__KEEP_DAYS"),
        ("MOORLINE_WEBHOOKS_ALERTS_URL", "https://a.example", "did you mean MOORLINE_WEBHOOKS__ALERTS__URL"),
        ("MOORLINE_LOG__FORMAT", "xml", "log.format"),
        ("MOORLINE_QUEUE_URL", "kafka://127.0.0.1", "queue_url"),
        ("MOORLINE_SETTINGS", "nowhere.toml", "MOORLINE_SETTINGS"),
    ],
)
def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str) -> None:
    """The error says which key it is, as it is written in the file and in the environment."""
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=said):
        load()


@pytest.mark.parametrize(
    "name", ["APP", "DASHBOARD_TOKEN", "ENCRYPTION_KEY", "RUN_DIR", "SANDBOX_URL", "SUPERVISED_BY"]
)
def test_other_variables_of_ours_are_no_misspelled_settings(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """``MOORLINE_APP``, which commands take for ``--app``, is not meant to be ``MOORLINE_TAP``."""
    monkeypatch.setenv(f"MOORLINE_{name}", "shop.main:app")
    load()


def test_a_wrong_file_is_named(tmp_path: Path) -> None:
    """A file that is not TOML, or holds an unknown key, is told apart."""
    (tmp_path / "moorline.toml").write_text("[worker\n")
    with pytest.raises(ConfigurationError, match=r"moorline\.toml is not valid TOML"):
        load()
    (tmp_path / "moorline.toml").write_bytes(b'queue_url = "\xe9"\n')
    with pytest.raises(ConfigurationError, match=r"moorline\.toml is not valid TOML: not UTF-8 at byte 13"):
        load()
    (tmp_path / "moorline.toml").write_text("colour = 1\n")
    with pytest.raises(ConfigurationError, match=r"colour .*is no setting"):
        load()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[worker.limits.mail]", r"^worker\.limits\.mail .*says no limit: set limit .*concurrency"),
        ("[worker.limits.mail]\nper = 60", r"^worker\.limits\.mail .*says no limit"),
        ("[worker.limits]\nmail = 3", r"^worker\.limits\.mail .*expected a table, \[worker\.limits\.mail\]"),
        ("worker = 3", r"^worker .*expected a table, \[worker\]"),
    ],
)
def test_a_table_that_says_nothing_is_named(tmp_path: Path, text: str, said: str) -> None:
    """With its whole place in the file, and what belongs into it."""
    (tmp_path / "moorline.toml").write_text(text)
    with pytest.raises(ConfigurationError, match=said):
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


@pytest.mark.parametrize("rate", ['["10/1", "1000/3600"]', '"10/1, 1000/3600"'])
def test_limits_of_a_service(rate: str, tmp_path: Path) -> None:
    """Our own limits, and how much is in flight, under way and repeated, are settings of a service."""
    (tmp_path / "moorline.toml").write_text(
        f"[services.ledger]\nrate = {rate}\nbulkhead = 5\nadmission = 50\nretry_budget = 0.1\n"
    )
    policy = load().services["ledger"].applied(Policy())
    assert policy.rates == (RateLimit(10, per=1), RateLimit(1000, per=3600))
    assert (policy.bulkhead, policy.admission) == (Bulkhead(5), 50)
    assert policy.retry == Retry(budget=0.1)
    assert (policy.deadline, policy.breaker) == (Policy().deadline, Policy().breaker)


def test_a_policy_keeps_what_no_setting_names(tmp_path: Path) -> None:
    """A bulkhead keeps its queue when its limit is set; a part that a policy switches off is not switched on."""
    (tmp_path / "moorline.toml").write_text("[services.ledger]\nbulkhead = 5\nretry_budget = 0.1\nretries = 3\n")
    policy = Policy(bulkhead=Bulkhead(2, queue=7), retry=None, rate=RateLimit(3))
    applied = load().services["ledger"].applied(policy)
    assert (applied.bulkhead, applied.retry, applied.rate) == (Bulkhead(5, queue=7), None, RateLimit(3))


def test_a_limit_of_the_environment_holds_in_the_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guard of an application keeps to the limit that the environment names: the second call is refused unsent."""
    monkeypatch.setenv("MOORLINE_SERVICES__LEDGER__RATE", "1/3600")
    monkeypatch.setenv("MOORLINE_SERVICES__LEDGER__DEADLINE", "5")
    guard = Moorline(settings=load()).guard("ledger", guards=Guards())
    assert guard.call(len, "abc") == 3
    with pytest.raises(RateLimited, match="our own rate limit of 1 in 3600 s"):
        guard.call(len, "abc")


async def test_a_limit_of_the_environment_holds_on_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """As above, for an asynchronous function."""

    async def count(text: str) -> int:
        return len(text)

    monkeypatch.setenv("MOORLINE_SERVICES__LEDGER__RATE", "1/3600")
    guard = Moorline(settings=load()).guard("ledger", guards=Guards())
    assert await guard.call(count, "abc") == 3
    with pytest.raises(RateLimited, match="our own rate limit of 1 in 3600 s"):
        await guard.call(count, "abc")


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
