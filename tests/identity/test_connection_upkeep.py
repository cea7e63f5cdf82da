"""What goes on with connected accounts in the background: jobs, alerts, chores; and what is set by settings."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from tests.databases import migrated_sqlite
from tests.identity.conftest import granted
from tests.identity.hub import KEY, READ, WRITE, Owner, contact, grants, of

from moorline import Moorline, errors
from moorline.clock import ManualClock
from moorline.errors import ConfigurationError
from moorline.identity.connections import Connections
from moorline.identity.oauth import OAuth
from moorline.identity.upkeep import Kept, Upkeep
from moorline.identity.vault import Vault
from moorline.secrets.keyring import KeyRing, new_key
from moorline.secrets.secret import Secret
from moorline.services import HubSpot, Stripe
from moorline.store.schema import connections


async def ended(app: Moorline, *jobs: str) -> dict[str, Any]:
    """The jobs when a worker has ended them."""
    worker = app.worker()
    task = asyncio.create_task(worker.run(signals=False))
    found: dict[str, Any] = {}
    for id_ in jobs:
        async with asyncio.timeout(20):
            while (job := await app.jobs.broker.get(id_)).state not in ("done", "dead", "cancelled"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        found[id_] = job
    worker.stop()
    await task
    return found


async def test_calls_of_connected_accounts_are_durable(app: Moorline, owner: Owner):
    """The worker sends them with the token of that owner's account, which nobody else's job gets."""
    await owner.connect(scopes=WRITE)
    await Owner(app, "u_2").connect(login="globex")
    first = app.connections.get("u_1", HubSpot, account="62515", scopes=(WRITE,))
    job = await first.create_object("contacts", {"email": "ada@example.com"}).enqueue()
    second = app.connections.get("u_2", HubSpot).create_object("contacts", {"email": "grace@example.com"})
    refused = await second.enqueue(retries=0)
    done = await ended(app, job.id, refused.id)
    assert (done[job.id].state, done[refused.id].state) == ("done", "dead")  # the other owner may only read
    assert [one.properties["email"] async for one in app.connections.get("u_1", HubSpot).list_objects("contacts")] == [
        "ada@example.com"
    ]


async def test_a_job_that_needs_a_new_consent_is_not_tried_in_vain(
    app: Moorline, owner: Owner, hub_clock: ManualClock, hub_sandbox: str
):
    """It is dead at its first attempt, says why, and is done when it is retried after the account was connected."""

    @app.job(retries=5)
    async def sync(owner_id: str) -> None:
        await contact(app, owner_id)

    await owner.connect()
    grants(hub_sandbox, revoke="acme")
    hub_clock.advance(1800)
    jobs = [await sync.enqueue("u_1"), await sync.enqueue("u_7"), await contact(app).enqueue()]
    done = await ended(app, *(job.id for job in jobs))
    for job in done.values():
        assert (job.state, job.reason, job.attempts) == ("dead", "reauthorize", 1)
    [failure] = await app.jobs.broker.failures(jobs[0].id)
    assert (failure.type, "connect hubspot again" in failure.message) == ("ReauthorizationRequired", True)
    await owner.connect()
    await app.jobs.broker.retry(jobs[0].id)
    assert (await ended(app, jobs[0].id))[jobs[0].id].state == "done"


async def test_an_ended_connection_is_an_alert(app: Moorline, owner: Owner, hub_clock: ManualClock, hub_sandbox: str):
    """It fires once for a service, and is over when the account was connected again, or a day later."""
    told: list[tuple[str, str, str]] = []
    app.on_alert(lambda alert: told.append((alert.rule, alert.state, alert.message)))
    await owner.connect()
    watch = app.alerts()
    await watch.run_once("w")
    grants(hub_sandbox, revoke="acme")
    hub_clock.advance(1800)
    with pytest.raises(errors.ReauthorizationRequired):
        await contact(app)
    for _ in range(2):
        hub_clock.advance(100)
        await watch.run_once("w")
    assert told == [
        (
            "ended",
            "firing",
            "1 connected account of hubspot ended in the last day: to be connected again by their owners",
        )
    ]
    await owner.connect()
    hub_clock.advance(100)
    await watch.run_once("w")
    assert [one[1] for one in told] == ["firing", "resolved"]


async def test_the_chore_encrypts_anew(app: Moorline, owner: Owner, hub_clock: ManualClock):
    """What an older key has encrypted, batch by batch, by one process at a time; calls go on with either key."""
    await owner.connect()
    vault = app.connections.vault
    for number in range(150):
        await vault.keep(f"t_{number}", "hubspot", granted(number))
    second, third = Secret(new_key()), Secret(new_key())
    vault.ring = KeyRing([second, Secret(KEY)])
    assert (await contact(app))["results"] == []
    chores = {chore.name: chore for chore in app._chores()}
    done: Any = await chores["upkeep"].run("worker-1")
    assert (done.resealed, done.unreadable) == (151, 0)
    other = Upkeep(app.store, lambda: None, lambda: app.connections)
    vault.ring = KeyRing([third, second])
    assert (await other.run_once("worker-2")).resealed == 0  # the first one's lease
    hub_clock.advance(100)
    assert (await other.run_once("worker-2")).resealed == 151
    vault.ring = KeyRing([third])
    assert (await contact(app))["results"] == []


async def test_a_row_that_no_key_reads_is_told_once(
    app: Moorline, owner: Owner, hub_clock: ManualClock, tmp_path: Path
):
    """It stops nothing; calls with it say so; its owner can disconnect it."""
    await owner.connect()
    app.connections.vault.ring = KeyRing([Secret(new_key())])
    hub_clock.advance(100)
    assert (await app.upkeep().run_once("w")).unreadable == 1
    with pytest.raises(errors.DecryptionFailed):
        await contact(app)
    answer = await owner.submit("/auth/hubspot/disconnect", id=(await of(app)).id)
    assert (answer.status_code, await app.connections.list()) == (303, [])


async def test_what_is_given_up(lite: Vault, clock: ManualClock):
    """After a week a service is not told any more, and the tokens are deleted."""
    row = await lite.keep("u_1", "hubspot", granted())
    told: list[str] = []

    def nobody(name: str) -> Any:
        raise AssertionError(f"{name} is asked")

    upkeep = Upkeep(lite.store, lambda: None, lambda: Connections(lite, nobody))
    with lite.store._engines.write.begin() as database:  # type: ignore[union-attr]
        database.execute(sa.update(connections).values(state="revoking", updated_at=clock.wall()))
    clock.advance(8 * 86_400)
    done = await upkeep.run_once("w")
    assert (done.given_up, await lite.connections(), told) == (1, [], [])
    assert row.id


async def test_an_application_with_secrets_of_its_own_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: ManualClock
):
    """Its workers encrypt them anew too, by the keys that are configured; without any, nothing is done or written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MOORLINE_ENCRYPTION_KEY", raising=False)
    monkeypatch.delenv("MOORLINE_SANDBOX_URL", raising=False)
    url, old, new = migrated_sqlite(tmp_path / "own.db"), new_key(), new_key()

    def made(*keys: str) -> Moorline:
        monkeypatch.setenv("MOORLINE_ENCRYPTION_KEY", ",".join(keys))
        return Moorline(url, clock=clock)

    async def done(app: Moorline) -> Any:
        (chore,) = [one for one in app._chores() if one.name == "upkeep"]
        return await chore.run("worker-1")

    async with made() as app:
        assert await done(app) == Kept()
        assert await app.store.read(_leases) == 0
    async with made(old) as app:
        for number in range(3):
            await app.own_secrets.put(f"KEY_{number}", Secret(f"value-{number}"))
        assert await done(app) == Kept()
    async with made(new, old) as app:
        assert await done(app) == Kept(resealed=3)
    async with made(new) as app:
        assert await done(app) == Kept()
        (found,) = [one for one in app.own_secrets.fetch("") if one.fields == {"KEY_1": "value-1"}]
        assert found.stage == "current"


def _leases(database: sa.Connection) -> int:
    return len(database.execute(sa.text("SELECT * FROM meta WHERE key = 'lease:connections'")).all())


async def test_connections_with_keys_of_their_own(lite: Vault, clock: ManualClock):
    """What lies beside them and has the application's keys, tokens of services, is encrypted anew with those."""
    first, second, own, newer = (Secret(new_key()) for _ in range(4))
    for number, key in enumerate((first, own)):
        lite.ring = KeyRing([key])
        await lite.keep(f"t_{number}", "hubspot", granted(number))
    lite.ring = KeyRing([second, first])
    connections = Connections(lite, lambda name: None)  # type: ignore[arg-type, return-value]
    upkeep = Upkeep(lite.store, lambda: KeyRing([newer, own]), lambda: connections)
    assert await upkeep.run_once("w") == Kept(resealed=2)
    assert await upkeep.run_once("w") == Kept()
    for ring, owner in ((KeyRing([second]), "t_0"), (KeyRing([newer]), "t_1")):
        lite.ring = ring
        assert lite.tokens(await lite.get(owner, "hubspot")).refresh is not None


async def test_while_the_database_is_down_a_good_token_goes_on(
    app: Moorline, owner: Owner, hub_clock: ManualClock, monkeypatch: pytest.MonkeyPatch
):
    """Whether another process has changed the connection can wait."""
    await owner.connect()
    await contact(app)
    hub_clock.advance(40)

    async def down(*_: Any, **__: Any) -> Any:
        raise errors.StoreUnavailable("down")

    monkeypatch.setattr(app.store, "read", down)
    assert (await contact(app))["results"] == []
    hub_clock.advance(1800)
    with pytest.raises(errors.StoreUnavailable):
        await contact(app)


async def test_what_another_process_does_is_noticed(
    app: Moorline, owner: Owner, hub_clock: ManualClock, tmp_path: Path
):
    """Half a minute later at the latest: another account, none any more, the same one again."""
    await owner.connect()
    await contact(app)
    with sqlite3.connect(tmp_path / "shop.db") as database:  # as another process does it
        database.execute("DELETE FROM connections")
    assert (await contact(app))["results"] == []
    hub_clock.advance(30)
    with pytest.raises(errors.ConnectionNotFound):
        await contact(app)
    await owner.connect(login="globex")
    await contact(app)
    assert app.connections.get("u_1", HubSpot).fetched is not None
    key: Any = contact(app).service.fetched
    assert key.connection.account == "62516"


# --- how it is set up


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database, and nothing in the environment that connecting needs."""
    monkeypatch.chdir(tmp_path)
    for name in ("MOORLINE_ENCRYPTION_KEY", "MOORLINE_SANDBOX_URL", "HUBSPOT_CLIENT_ID", "HUBSPOT_CLIENT_SECRET"):
        monkeypatch.delenv(name, raising=False)
    return migrated_sqlite(tmp_path / "alone.db")


def test_what_is_missing_is_named(alone: str, monkeypatch: pytest.MonkeyPatch):
    """The variables by their names, before anybody clicks."""
    app = Moorline(alone)
    with pytest.raises(ConfigurationError, match=r"app\.connect\(HubSpot, …\), or set \[accounts\] services"):
        _ = app.connections
    with pytest.raises(ConfigurationError, match="HUBSPOT_CLIENT_ID"):
        app.connect(HubSpot)
    monkeypatch.setenv("HUBSPOT_CLIENT_ID", "x")
    with pytest.raises(ConfigurationError, match="HUBSPOT_CLIENT_SECRET"):
        app.connect(HubSpot)
    monkeypatch.setenv("HUBSPOT_CLIENT_SECRET", "y" * 20)
    with pytest.raises(ConfigurationError, match="MOORLINE_ENCRYPTION_KEY"):
        app.connect(HubSpot)
    monkeypatch.setenv("MOORLINE_ENCRYPTION_KEY", new_key())
    for wrong, said in (
        ((), "which services"),
        ((Stripe,), "accounts of Stripe cannot be connected"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            app.connect(*wrong)
    with pytest.raises(ConfigurationError, match="scopes"):
        app.connect(HubSpot, scopes=("a b",))
    with pytest.raises(ConfigurationError, match="none of these services"):
        app.connect(HubSpot, scopes={Stripe: ("a",)})
    app.connect(HubSpot)
    with pytest.raises(ConfigurationError, match="there twice"):
        app.connect(HubSpot)
    with pytest.raises(ConfigurationError, match="name it to"):
        app.connections.get("u_1", Stripe)
    with pytest.raises(ConfigurationError, match="next"):
        app.connections.connect_url(HubSpot, next="https://evil.example")


def test_by_settings(alone: str, monkeypatch: pytest.MonkeyPatch):
    """``[accounts]`` names services and scopes; the service's own options are those that the application made first."""
    monkeypatch.setenv("HUBSPOT_CLIENT_ID", "x")
    monkeypatch.setenv("HUBSPOT_CLIENT_SECRET", "y" * 20)
    monkeypatch.setenv("MOORLINE_ENCRYPTION_KEY", new_key())
    monkeypatch.setenv("MOORLINE_WEBHOOKS__PUBLIC_URL", "https://shop.example/api")
    monkeypatch.setenv("MOORLINE_ACCOUNTS__SERVICES", "hubspot")
    monkeypatch.setenv("MOORLINE_ACCOUNTS__SCOPES", '{"hubspot": ["a"]}')
    app = Moorline(alone)
    own = app.service(HubSpot, max_body=1234)
    made = app.connections.get("u_1", HubSpot)
    assert (made.max_body, made.guards, type(made)) == (1234, own.guards, HubSpot)
    assert own.fetched is None
    assert app.connections.connect_url("hubspot", next="/x") == (
        "https://shop.example/api/auth/hubspot/connect?next=%2Fx"
    )
    desk = app._connect_desk("hubspot")
    assert (desk.provider.wanted, desk.provider.title) == (("a",), "HubSpot")
    assert desk.provider.places.token == "https://api.hubapi.com/oauth/2026-03/token"
    monkeypatch.setenv("MOORLINE_ACCOUNTS__SCOPES", '{"slack": ["a"]}')
    with pytest.raises(ConfigurationError, match=r"accounts.*slack"):
        Moorline(alone)


def test_the_application_makes_no_service_for_it(alone: str, monkeypatch: pytest.MonkeyPatch):
    """So that the one that it makes afterwards is its first, whose Calls are durable."""
    monkeypatch.setenv("HUBSPOT_CLIENT_ID", "x")
    monkeypatch.setenv("HUBSPOT_CLIENT_SECRET", "y" * 20)
    monkeypatch.setenv("MOORLINE_ENCRYPTION_KEY", new_key())
    app = Moorline(alone)
    app.connect(HubSpot)
    assert dict(app.services) == {}
    assert isinstance(HubSpot.oauth, OAuth)
    assert READ.startswith("crm.")
