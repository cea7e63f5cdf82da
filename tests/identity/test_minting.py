"""``app.keys.rotate``: a whole rotation by a service's own API, in one run or in many, each of which dies somewhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.databases import migrated_sqlite

from moorline import Moorline
from moorline.calls.guards import Guards
from moorline.clock import ManualClock
from moorline.errors import AuthenticationFailed, ConfigurationError
from moorline.identity.rotation.keys import _same
from moorline.identity.rotation.minting import rotate
from moorline.sandbox import server
from moorline.secrets.keyring import new_key
from moorline.secrets.locker import secrets
from moorline.secrets.secret import Secret
from moorline.services import SendGrid, Stripe

NAME = "SENDGRID_API_KEY"
FIRST = "SG.firstfirstfirst.0123456789abcdefghij"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[str]:
    with server.running() as url:
        yield url


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sandbox: str) -> None:
    httpx2.post(f"{sandbox}/_sandbox/reset")
    monkeypatch.setenv("MOORLINE_SANDBOX_URL", sandbox)
    monkeypatch.setenv(NAME, FIRST)
    monkeypatch.setenv("MOORLINE_ENCRYPTION_KEY", new_key())
    monkeypatch.chdir(tmp_path)
    migrated_sqlite(tmp_path / "app.db")


def keys_at(sandbox: str) -> dict[str, bool]:
    """The keys that the service knows of, and whether they are good."""
    state = httpx2.get(f"{sandbox}/_sandbox/state", params={"service": "sendgrid"}).json()["sendgrid"]
    return {one["api_key_id"]: not one["deleted"] for one in state["api_keys"]}


async def test_a_rotation_waits_for_the_old_key_and_goes_on(sandbox: str):
    """Minted, checked and promoted at once; retired and revoked by a later run, when nobody has used the old one."""
    clock = ManualClock()
    async with Moorline("sqlite:///app.db", clock=clock) as app:
        service = app.service(SendGrid, clock=app.clock)
        await service.check()
        waits = await app.keys.rotate(service, actor="ada@example.com")
        assert (waits.step, waits.done) == ("retire", False)
        assert "was used within" in waits.next
        assert "keys rotate sendgrid" in waits.next
        new, old = await app.keys.versions(NAME)
        assert (new.status, old.status) == ("first", "old")
        assert list(keys_at(sandbox).values()) == [True]
        assert await service.check() is True
        clock.advance(86_401)
        done = await app.keys.rotate(service, actor="eve@example.com")
        assert (done.step, done.done) == ("done", True)
        assert "ada@example.com" in done.told[0]
        assert keys_at(sandbox)["firstfirstfirst"] is False
        assert await service.check() is True
        with pytest.raises(AuthenticationFailed):
            await SendGrid(FIRST).check()
        actions = [(one["action"], one["actor"]) for one in (await app.keys.status(NAME)).trail]
        assert actions == [("retire", "eve@example.com"), ("promote", "ada@example.com"), ("add", "ada@example.com")]


def test_a_run_that_dies_anywhere_is_gone_on_with(sandbox: str):
    """Whatever the step after which it dies: the next run ends it, with one good key and no other left behind."""
    app = Moorline("sqlite:///app.db", clock=ManualClock())
    with app.opened():
        deaths = 0
        for after in range(0, 200, 3):
            service = SendGrid(clock=app.clock, guards=Guards(app.clock))  # the sandbox has limits, and time stands
            ended = _run(app, service, after)
            deaths += not ended
            if not ended:
                assert app.keys.rotate_sync(service, unused=0.5, wait=5).done
            good = [name for name, is_good in keys_at(sandbox).items() if is_good]
            assert len(good) == 1
            assert service.key_id(secrets().load(NAME)) == good[0]  # type: ignore[arg-type]
            assert service.check().result() is True
            if ended:
                break
    assert deaths > 10


class _Died(BaseException):
    pass


def _run(app: Moorline, service: SendGrid, after: int) -> bool:
    """A rotation that dies after so many steps; whether it was over before."""
    steps = rotate(app.keys, service, _same(service), actor="code", unused=0.5, wait=5)
    answer: Any = None
    try:
        for _ in range(after):
            answer = steps.send(answer).now(app.store)
    except StopIteration:
        return True
    with pytest.raises(_Died):
        steps.throw(_Died())
    return False


def test_a_key_that_is_not_accepted_is_not_promoted(sandbox: str, monkeypatch: pytest.MonkeyPatch):
    """The service's own check stands before it; what is in use goes on."""
    clock = ManualClock()
    app = Moorline("sqlite:///app.db", clock=clock)
    with app.opened():
        service = app.service(SendGrid, clock=app.clock)

        def other(_: Secret) -> SendGrid:
            return SendGrid("SG.wrong", clock=clock)

        with pytest.raises(AuthenticationFailed):
            app.keys.rotate_sync(service, other)
        status = app.keys.status_sync(NAME)
        assert [one.status for one in status.versions] == ["first", "added"]
        assert service.check().result() is True
        with pytest.raises(ConfigurationError, match="makes no keys"):
            app.keys.rotate_sync(app.service(Stripe))
        with pytest.raises(ConfigurationError, match="as an argument"):
            app.keys.rotate_sync(SendGrid(FIRST))
