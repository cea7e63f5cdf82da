"""The tokens of an application's services, shared by its processes through the vault."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx2
import pytest
import sqlalchemy as sa
from tests.calls.test_tokens import Bank, Diary
from tests.databases import migrated_sqlite

from moorline import Moorline, errors
from moorline.calls.guards import Guards
from moorline.calls.parameters import Parameter
from moorline.calls.tokens import RefreshToken
from moorline.clock import ManualClock
from moorline.identity import refreshing
from moorline.identity.service_tokens import ServiceTokens
from moorline.identity.vault import Vault
from moorline.identity.vault_sql import APPLICATION, Which
from moorline.policies.policy import Policy
from moorline.secrets.keyring import KeyRing, new_key
from moorline.secrets.rings import ENCRYPTION_KEY
from moorline.secrets.secret import Secret
from moorline.store import Store
from moorline.store.schema import connections

SECRET = "secret-0123456789-canary"
POLICY = Policy(retry=None, breaker=None)


class Spent(Diary):
    """A service whose refresh tokens are good for one use, each."""

    name = "spent"
    client_secret = Parameter("SPENT_APP_SECRET", secret=True, default="")
    tokens = RefreshToken("/oauth/token", single_use=True)


class Endpoint:
    """Gives tokens; with *rotates* another refresh token with each, of which it takes the last, or *grace* so many."""

    def __init__(self, *, rotates: bool = False, grace: int = 1) -> None:
        self.rotates, self.grace = rotates, grace
        self.asked: list[dict[str, list[str]]] = []
        self.good = ["refresh-0-canary"]
        self.down = self.silent = False
        self.taken: set[str] | None = None
        self._lock = threading.Lock()

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        request.read()
        if request.url.path != "/oauth/token":
            token = request.headers["authorization"].removeprefix("Bearer ")
            known = self.taken is None or token in self.taken
            return httpx2.Response(200 if known else 401, json={"token": token})
        with self._lock:
            form = parse_qs(request.content.decode())
            self.asked.append(form)
            if self.down:
                return httpx2.Response(503)
            answer: dict[str, Any] = {"access_token": f"access-{len(self.asked)}-canary", "expires_in": 3600}
            if self.rotates:
                if form["refresh_token"][0] not in self.good[-self.grace :]:
                    return httpx2.Response(400, json={"error": "invalid_grant"})
                self.good.append(f"refresh-{len(self.asked)}-canary")
                answer["refresh_token"] = self.good[-1]
        if self.silent:
            raise httpx2.ReadTimeout("", request=request)
        return httpx2.Response(200, json=answer)


class Flaky(Store):
    """A database that can be away; *fails* counts down the writes until it is."""

    down = False
    fails: int | None = None

    def _check(self, *, writes: bool = False) -> None:
        if writes and self.fails is not None:
            self.fails -= 1
            self.down = self.down or self.fails < 0
        if self.down:
            raise errors.StoreUnavailable("away")

    async def read(self, *arguments: Any, **options: Any) -> Any:
        self._check()
        return await super().read(*arguments, **options)

    def read_sync(self, *arguments: Any, **options: Any) -> Any:
        self._check()
        return super().read_sync(*arguments, **options)

    async def write(self, *arguments: Any, **options: Any) -> Any:
        self._check(writes=True)
        return await super().write(*arguments, **options)

    def write_sync(self, *arguments: Any, **options: Any) -> Any:
        self._check(writes=True)
        return super().write_sync(*arguments, **options)


class Machines:
    """Processes of one application: each has guards and a keeper of its own, on the same database."""

    def __init__(self, store: Flaky, clock: ManualClock, endpoint: Endpoint) -> None:
        self.store, self.clock, self.endpoint = store, clock, endpoint
        self.ring = KeyRing([Secret(new_key())])

    def service(self, kind: Any = Bank, key: str = SECRET, **options: Any) -> Any:
        made = kind(
            key, client_id="shop", wire=httpx2.MockTransport(self.endpoint), guards=Guards(clock=self.clock),
            clock=self.clock, policy=POLICY, **options,
        )  # fmt: skip
        made.fetched.keeper = ServiceTokens(self.store, lambda: self.ring)
        return made

    @property
    def vault(self) -> Vault:
        return Vault(self.store, self.ring)

    def change(self, **values: Any) -> None:
        """As if another process had left the only row so."""

        def apply(database: sa.Connection, _: list[None]) -> list[None]:
            database.execute(sa.update(connections).values(**values))
            return [None]

        self.store.write_sync(apply, None)


@pytest.fixture
def store(database_url: str, clock: ManualClock) -> Iterator[Flaky]:
    """On each database."""
    with Flaky(database_url, clock=clock) as opened:
        yield opened
        opened.down = False


@pytest.fixture
def lite_store(tmp_path: Path, clock: ManualClock) -> Iterator[Flaky]:
    """On SQLite, for what no database has a part in."""
    with Flaky(migrated_sqlite(tmp_path / "lite.db"), clock=clock) as opened:
        yield opened
        opened.down = False


async def _read(service: Any) -> str:
    found: dict[str, str] = await service.read()
    return found["token"]


async def test_several_processes_fetch_one(store: Flaky, clock: ManualClock, caplog: pytest.LogCaptureFixture):
    """At the beginning, ahead of the end, and after a refusal: one asks, all the others read what it got."""
    caplog.set_level(logging.DEBUG)
    endpoint = Endpoint()
    machines = Machines(store, clock, endpoint)
    services = [machines.service() for _ in range(10)]
    found = await asyncio.gather(*(_read(services[number % 10]) for number in range(1000)))
    assert (set(found), len(endpoint.asked)) == ({"access-1-canary"}, 1)
    clock.advance(3500)
    await asyncio.gather(*(_read(one) for one in services))
    clock.advance(95)
    assert {await _read(one) for one in services} == {"access-2-canary"}
    clock.advance(60)
    endpoint.taken = {"access-3-canary"}
    assert set(await asyncio.gather(*(_read(one) for one in services))) == {"access-3-canary"}
    assert await asyncio.to_thread(lambda: machines.service().read().result()) == {"token": "access-3-canary"}
    assert len(endpoint.asked) == 3
    assert "canary" not in caplog.text


async def test_a_stolen_row(store: Flaky, clock: ManualClock):
    """It holds nothing to be read, decrypts under no other account, and is asked anew where it does not decrypt."""
    endpoint = Endpoint(rotates=True)
    machines = Machines(store, clock, endpoint)
    await _read(machines.service(Diary, "refresh-0-canary"))
    (row,) = await machines.vault.connections(Which(APPLICATION))
    assert (row.owner, row.service, len(row.account)) == (APPLICATION, "bank", 40)
    assert await machines.vault.connections() == [], "nobody has connected it"
    dump = store.read_sync(lambda database: repr(database.execute(sa.select(connections)).all()))
    assert "canary" not in dump
    machines.change(account="0" * 40)
    with pytest.raises(errors.DecryptionFailed):
        machines.vault.tokens((await machines.vault.connections(Which(APPLICATION)))[0])
    machines.change(account=row.account, owner="u_1")
    with pytest.raises(errors.DecryptionFailed):
        machines.vault.tokens((await machines.vault.connections(Which("u_1")))[0])
    machines.change(owner=APPLICATION)
    machines.ring = KeyRing([Secret(new_key())])
    endpoint.grace = 2
    assert await _read(machines.service(Diary, "refresh-0-canary")) == "access-2-canary"


async def test_a_new_credential_means_a_new_token(lite_store: Flaky, clock: ManualClock):
    """In each process, and whichever process is still on the old one."""
    endpoint = Endpoint()
    machines = Machines(lite_store, clock, endpoint)
    old, new = machines.service(), machines.service(key="another-secret-0123-canary")
    assert [await _read(one) for one in (old, new, old, new)] == ["access-1-canary", "access-2-canary"] * 2
    assert [await _read(machines.service()), len(endpoint.asked)] == ["access-1-canary", 2]


async def test_a_refresh_token_that_is_replaced_outlives_a_restart(store: Flaky, clock: ManualClock):
    """The next process goes on with the newest, though the first one is what is configured; and so do all others."""
    endpoint = Endpoint(rotates=True)
    machines = Machines(store, clock, endpoint)
    for number in range(3):
        service = machines.service(Spent, "refresh-0-canary")
        assert await _read(service) == f"access-{number + 1}-canary"
        clock.advance(3600)
    shown = [one["refresh_token"][0] for one in endpoint.asked]
    assert shown == ["refresh-0-canary", "refresh-1-canary", "refresh-2-canary"]


@pytest.mark.parametrize("grace", [1, 2])
async def test_a_crash_between_rotated_and_stored(lite_store: Flaky, clock: ManualClock, grace: int):
    """Where the old refresh token still works nothing was lost; where it does not the error says what happened."""
    endpoint = Endpoint(rotates=True, grace=grace)
    machines = Machines(lite_store, clock, endpoint)
    await _read(machines.service(Spent, "refresh-0-canary"))
    clock.advance(3600)
    endpoint.good.append("refresh-of-the-dead-canary")
    machines.change(refreshing_since=clock.wall())
    clock.advance(refreshing._LEASE)
    again = machines.service(Spent, "refresh-0-canary")
    if grace == 2:
        assert await _read(again) == "access-2-canary"
        return
    with pytest.raises(errors.AuthenticationFailed, match="a refresh was lost on its way here") as caught:
        await _read(again)
    assert (caught.value.outcome, caught.value.code) == ("not_sent", "invalid_grant")


async def test_an_answer_that_is_lost(lite_store: Flaky, clock: ManualClock):
    """The request is made again, and refused, as its token was spent by the first: that is told too."""
    endpoint = Endpoint(rotates=True)
    machines = Machines(lite_store, clock, endpoint)
    endpoint.silent = True
    with pytest.raises(errors.AuthenticationFailed, match="a refresh was lost on its way here"):
        await _read(machines.service(Spent, "refresh-0-canary"))


async def test_a_database_that_is_away_stops_nobody(lite_store: Flaky, clock: ManualClock):
    """A good token serves, without a look at the database; where there is none, each process asks for itself."""
    endpoint = Endpoint()
    machines = Machines(lite_store, clock, endpoint)
    service = machines.service()
    await _read(service)
    lite_store.down = True
    assert await _read(service) == "access-1-canary"
    clock.advance(3600)
    assert await _read(service) == "access-2-canary"
    assert await asyncio.to_thread(lambda: machines.service().read().result()) == {"token": "access-3-canary"}
    lite_store.down = False
    clock.advance(3600)
    assert {await _read(one) for one in (service, machines.service())} == {"access-4-canary"}


async def test_what_is_good_for_one_use_is_not_spent_in_vain(lite_store: Flaky, clock: ManualClock):
    """While its successor could not be kept, such a refresh token is not used: the call fails, and may be made again."""
    endpoint = Endpoint(rotates=True)
    machines = Machines(lite_store, clock, endpoint)
    lite_store.down = True
    with pytest.raises(errors.ServiceUnavailable, match="the database") as caught:
        await _read(machines.service(Spent, "refresh-0-canary"))
    assert (caught.value.outcome, caught.value.retryable, endpoint.asked) == ("not_sent", True, [])
    lite_store.down = False
    assert await _read(machines.service(Spent, "refresh-0-canary")) == "access-1-canary"


@pytest.mark.parametrize("colour", ["sync", "async"])
async def test_a_database_that_goes_away_in_mid_refresh(lite_store: Flaky, clock: ManualClock, colour: str):
    """What was got meanwhile is used, and stored as soon as the database is back: no refresh token is lost."""
    endpoint = Endpoint(rotates=True)
    machines = Machines(lite_store, clock, endpoint)
    service = machines.service(Spent, "refresh-0-canary")

    async def read() -> str:
        return await (
            _read(service) if colour == "async" else asyncio.to_thread(lambda: service.read().result()["token"])
        )

    await read()
    clock.advance(3600)
    lite_store.fails = 1  # the right to refresh is taken, and then it is gone
    assert await read() == "access-2-canary"
    clock.advance(31)
    assert await read() == "access-2-canary"
    lite_store.down, lite_store.fails = False, None
    clock.advance(31)
    assert await read() == "access-2-canary"
    (row,) = await machines.vault.connections(Which(APPLICATION))
    assert row.expires_at == clock.wall() + 3600 - 62
    assert await _read(machines.service(Spent, "refresh-0-canary")) == "access-2-canary"
    clock.advance(3600)
    assert await _read(machines.service(Spent, "refresh-0-canary")) == "access-3-canary"


async def test_an_endpoint_that_is_down(lite_store: Flaky, clock: ManualClock):
    """A token that is kept serves to its end, for a process that has just begun as well."""
    endpoint = Endpoint()
    machines = Machines(lite_store, clock, endpoint)
    await _read(machines.service())
    endpoint.down = True
    clock.advance(3500)
    assert await _read(machines.service()) == "access-1-canary"
    clock.advance(100)
    with pytest.raises(errors.ServiceUnavailable):
        await _read(machines.service())
    endpoint.down = False
    assert await _read(machines.service()) == f"access-{len(endpoint.asked)}-canary"


async def test_an_operator_ends_it(lite_store: Flaky, clock: ManualClock):
    """What was ended by hand is asked for anew, with what is configured."""
    endpoint = Endpoint()
    machines = Machines(lite_store, clock, endpoint)
    await _read(machines.service())
    machines.change(state="ended")
    assert await _read(machines.service()) == "access-2-canary"
    assert (await machines.vault.connections(Which(APPLICATION)))[0].state == "good"


async def test_an_application_shares_the_tokens_of_its_services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With a key in the environment it does; without one, or before it is open, each process has its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOORLINE_TAP", "false")
    monkeypatch.delenv(ENCRYPTION_KEY, raising=False)
    endpoint, url = Endpoint(), migrated_sqlite(tmp_path / "app.db")

    async def asked(*, key: bool) -> str:
        app = Moorline(url)
        bank = app.service(Bank, api_key=SECRET, client_id="shop", wire=httpx2.MockTransport(endpoint), guards=Guards())
        if key:
            await app.open()
        try:
            return await _read(bank)
        finally:
            await app.close()

    assert [await asked(key=False), await asked(key=True)] == ["access-1-canary", "access-2-canary"]
    monkeypatch.setenv(ENCRYPTION_KEY, new_key())
    assert {await asked(key=True), await asked(key=True)} == {"access-3-canary"}
    assert await asked(key=False) == "access-4-canary"
    monkeypatch.setenv(ENCRYPTION_KEY, "none")
    with pytest.raises(errors.ConfigurationError, match=ENCRYPTION_KEY):
        await asked(key=True)
