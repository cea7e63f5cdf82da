"""A running worker keeps what the settings say of events."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.events.stored import START, add_all, pull

from moorline import Moorline
from moorline.clock import SystemClock
from moorline.errors import ConfigurationError
from moorline.events import Alert
from moorline.events.alerts import Limits
from moorline.settings import AlertSettings, Settings, SourceAlertSettings, WebhookSettings


class Later(SystemClock):
    """The machine's clock, 32 days after START."""

    def wall(self) -> float:
        """Seconds since the epoch."""
        return START + 32 * 86_400.0


async def test_a_worker_prunes_old_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """By ``webhooks.keep_days`` and ``dedup_days``, without being asked."""
    from moorline.store import ids

    monkeypatch.setattr("moorline.app._CHORE_SECONDS", 0.02)
    settings = Settings(
        database_url=f"sqlite:///{tmp_path}/a.db", webhooks=WebhookSettings(keep_days=10, dedup_days=31)
    )
    app = Moorline(settings=settings, clock=Later())
    await app.open()
    monkeypatch.setattr(ids, "_make", ids._maker())  # opening made ids of a later day than those of the events
    days = enumerate((0, 2, 31))
    _, emptied, young = await asyncio.to_thread(
        add_all, app.inbox, [pull(n, at=START + day * 86_400) for n, day in days]
    )
    async with app.running(worker=True):
        for _ in range(500):
            events = await app.inbox.recent()
            if len(events) == 2 and events[1].pruned:
                break
            await asyncio.sleep(0.01)
        assert [(event.inbox_id, event.pruned) for event in events] == [(young, False), (emptied, True)]


@pytest.mark.parametrize("worker", [True, False])
async def test_workers_and_receivers_look_for_alerts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, worker: bool):
    """By the settings, told to the functions that asked for it: where no worker is alive, too."""
    monkeypatch.setattr("moorline.app._CHORE_SECONDS", 0.02)
    app = Moorline(f"sqlite:///{tmp_path}/a.db")
    heard = asyncio.Event()
    alerts: list[Alert] = []

    @app.on_alert
    async def hear(alert: Alert) -> None:
        alerts.append(alert)
        heard.set()

    def forge(connection: Any, payloads: list[int]) -> list[None]:
        connection.exec_driver_sql(
            f"INSERT INTO event_counts (service, minute, forged) VALUES ('github', {payloads[0]}, 12)"
        )
        return [None]

    async with app.running(worker=worker):
        await app.store.write(forge, int(app.clock.wall() // 60))
        await asyncio.wait_for(heard.wait(), 30)
    assert [(alert.rule, alert.service, alert.state) for alert in alerts] == [("failures", "github", "firing")]


def test_alert_settings_become_limits():
    """0 is never; a source has what it names, and the rest of all."""
    given = AlertSettings(
        silent_minutes=60, failures_percent=0, sources={"stripe": SourceAlertSettings(silent_minutes=10)}, secret_days=0
    )
    config = given.config()
    assert config.limits == Limits(silent_minutes=60, failures_percent=None)
    assert config.services == {"stripe": Limits(silent_minutes=10, failures_percent=None)}
    assert (config.backlog_seconds, config.secret_days) == (300, None)
    assert (config.refused_minutes, AlertSettings(refused_minutes=0).config().refused_minutes) == (15, None)
    with pytest.raises(ValueError, match="must be https"):
        AlertSettings(url="http://example.com")
    assert "token" not in repr(AlertSettings(url="https://example.com/token"))


def test_a_key_that_ends_before_its_body_is_refused():
    """The settings name what is wrong."""
    with pytest.raises(ValueError, match="dedup_days must be at least keep_days"):
        WebhookSettings(keep_days=40)


def test_the_settings_name_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """In the file's terms."""
    from moorline.settings import load

    monkeypatch.chdir(tmp_path)
    (tmp_path / "moorline.toml").write_text("[webhooks]\nkeep_days = 0\n")
    with pytest.raises(ConfigurationError, match=r"webhooks\.keep_days"):
        load()


def test_a_wrong_secret_of_one_sender_silences_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It is logged; the others' paths are listed and their ends are looked at."""
    monkeypatch.setenv("GITHUB_WEBHOOK_SECRET", "canary-value-1")
    monkeypatch.setenv("GITHUB_WEBHOOK_SECRET_PREVIOUS", "canary-value-2")
    monkeypatch.setenv("GITHUB_WEBHOOK_SECRET_PREVIOUS_UNTIL", "2030-01-01T00:00:00Z")
    app = Moorline(f"sqlite:///{tmp_path}/a.db")
    secrets = app._webhook_secrets

    def broken(service: str) -> Any:
        if service == "clerk":
            raise ConfigurationError("CLERK_WEBHOOK_SECRET: is no secret")
        return secrets(service)

    monkeypatch.setattr(app, "_webhook_secrets", broken)
    assert app.webhook_paths() == ["/webhooks/github"]
    [(service, name, until)] = app._ending_secrets()
    assert (service, name, until) == ("github", "GITHUB_WEBHOOK_SECRET_PREVIOUS", 1_893_456_000.0)
