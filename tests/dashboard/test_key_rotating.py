"""A whole rotation at the press of a button: each press does what can be done at once, and the next one goes on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.calls.ledger import Ledger
from tests.dashboard.test_actions import fields
from tests.dashboard.visitor import Visitor, read
from tests.databases import migrated_sqlite

from moorline import Moorline, Policy
from moorline.calls.guards import Guards
from moorline.calls.minting import Minted
from moorline.calls.service import BearerKey, Plan, operation
from moorline.clock import ManualClock
from moorline.dashboard.views import rotating
from moorline.errors import RotationRefused
from moorline.identity.rotation.minting import Minting, _begin, last
from moorline.secrets.keyring import new_key
from moorline.secrets.locker import secrets
from moorline.secrets.secret import Secret
from moorline.settings import Settings

NAME = "MINT_KEY"
FIRST = "key-of-the-mint-00"


class Mint(Ledger):
    """A service that makes its own keys."""

    credentials = BearerKey(env=NAME)

    @operation
    def check(self) -> Plan[bool]:
        return self.get("/me", parse=lambda _: True)

    @operation
    def mint_key(self, label: str) -> Plan[Minted]:
        return self.post("/keys", json={"label": label}, parse=_minted)

    @operation
    def revoke_key(self, id: str) -> Plan[bool]:
        return self.delete(f"/keys/{id}", parse=lambda _: True)

    @operation
    def find_keys(self, label: str) -> Plan[Sequence[str]]:
        return self.get("/keys", parse=lambda exchange: [one for one in exchange.data if exchange.data[one] == label])

    def key_id(self, secret: Secret) -> str | None:
        return secret.reveal()[-2:]


def _minted(exchange: Any) -> Minted:
    return Minted(Secret(exchange.data["key"]), exchange.data["key"][-2:])


class Vault:
    """The service's own side: its keys by their ids, with their labels; those that are *late* it does not know yet."""

    def __init__(self) -> None:
        self.keys = {"00": "the first"}
        self.late = 0
        self.open = asyncio.Event()
        self.open.set()

    async def __call__(self, request: httpx2.Request) -> httpx2.Response:
        await self.open.wait()
        sent = request.headers["authorization"][-2:]
        if sent not in self.keys or (request.url.path == "/me" and self._is_late()):
            return httpx2.Response(401, json={"error": {"message": "no such key"}})
        if request.method == "POST":
            made = f"{len(self.keys):02}"
            self.keys[made] = json.loads(request.content)["label"]
            return httpx2.Response(200, json={"key": f"key-of-the-mint-{made}"})
        if request.method == "DELETE":
            self.keys.pop(request.url.path[-2:], None)
        return httpx2.Response(200, json=self.keys)

    def _is_late(self) -> bool:
        self.late -= 1
        return self.late >= 0


@pytest.fixture
async def shop(clock: ManualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Moorline]:
    """An application with a key that its service could change."""
    monkeypatch.setenv(NAME, FIRST)
    monkeypatch.setenv("MOORLINE_ENCRYPTION_KEY", new_key())
    settings = Settings(database_url=migrated_sqlite(tmp_path / "rotating.db"), tap=False)
    made = Moorline(settings=settings, clock=clock)
    made.keys.watch.every = 1_000.0  # it looks when it is told
    async with made as app:
        yield app


@pytest.fixture
def vault() -> Vault:
    return Vault()


@pytest.fixture
async def mint(shop: Moorline, vault: Vault, clock: ManualClock) -> Mint:
    """The service, whose key has been used."""
    policy = Policy(retry=None, breaker=None)
    wire = httpx2.MockTransport(vault)
    made = shop.service(Mint, wire=wire, clock=clock, guards=Guards(clock), policy=policy)
    await made.check()
    shop.keys.watch.flush()
    return made


@pytest.fixture
async def operator(shop: Moorline, mint: Mint) -> Visitor:
    """Somebody who has entered the token."""
    visitor = Visitor(shop)
    await visitor.enter()
    return visitor


async def _pressed(operator: Visitor, **more: str) -> httpx2.Response:
    asked = await operator.post(f"/keys/{NAME}/rotate")
    assert asked.status_code == 200, asked.text
    return await operator.post(f"/keys/{NAME}/rotate", {**dict(fields(asked.text)), **more})


def held() -> list[str]:
    """The ids of the keys that are used, in their order."""
    return [one.secret.reveal()[-2:] for one in secrets().versions(NAME)]


async def test_each_press_does_what_can_be_done_at_once(
    shop: Moorline, operator: Visitor, vault: Vault, clock: ManualClock
) -> None:
    """It asks first; a new key is made, checked and used first; when the old one is unused, the next press revokes it.
    The audit has who pressed.
    """
    asked = await operator.post(f"/keys/{NAME}/rotate")
    assert (asked.status_code, f"Rotate {NAME}? ledger makes a new key" in asked.text) == (200, True)
    assert list(vault.keys) == ["00"]
    done = await operator.post(f"/keys/{NAME}/rotate", fields(asked.text))
    assert (done.status_code, "The rotation waits." in done.text, "was used within" in done.text) == (200, True, True)
    assert (held(), list(vault.keys)) == (["01", "00"], ["00", "01"])
    page = (await operator.get(f"/keys/{NAME}")).text
    assert "Begun by dashboard token" in page
    assert "the old key is accepted until it is unused" in page
    assert f"/dashboard/keys/{NAME}/rotate" in read(page).values("action")
    clock.advance(86_401)
    await operator.enter()
    over = await _pressed(operator)
    assert "The rotation is over." in over.text
    assert (held(), list(vault.keys)) == (["01"], ["01"])
    trail = (await operator.json(f"/keys/{NAME}"))["trail"]
    assert [(one["action"], one["actor"]) for one in trail] == [
        ("retire", "dashboard token"),
        ("promote", "dashboard token"),
        ("add", "dashboard token"),
    ]
    for text in (asked.text, done.text, page, over.text):
        assert "key-of-the-mint" not in text


async def test_a_form_that_is_sent_again_begins_nothing(operator: Visitor, vault: Vault) -> None:
    """Whoever reloads the page of a rotation that has gone on is told so."""
    asked = await operator.post(f"/keys/{NAME}/rotate")
    sent = {**dict(fields(asked.text)), "force": "yes"}
    assert "The rotation is over." in (await operator.post(f"/keys/{NAME}/rotate", sent)).text
    for form in (sent, {"confirm": "yes"}, {"confirm": "yes", "at": "none"}):
        again = await operator.post(f"/keys/{NAME}/rotate", form)
        assert (again.status_code, "has gone on meanwhile" in again.text) == (409, True)
    assert list(vault.keys) == ["01"]


async def test_a_button_that_is_pressed_twice_makes_one_key(operator: Visitor, vault: Vault) -> None:
    """At the same moment, by forms that say the same: one goes on, the others are told to wait, or to look again."""
    sent = fields((await operator.post(f"/keys/{NAME}/rotate")).text)
    answers = await asyncio.gather(*(operator.post(f"/keys/{NAME}/rotate", sent) for _ in range(3)))
    assert list(vault.keys) == ["00", "01"]
    assert held() == ["01", "00"]
    assert {answer.status_code for answer in answers} <= {200, 409}


async def test_a_key_that_the_service_does_not_know_yet_is_waited_for(operator: Visitor, vault: Vault) -> None:
    """For some seconds; then the page tells, and the next press goes on with the same key."""
    vault.late = 6
    first = await _pressed(operator)
    assert (first.status_code, "ledger does not accept" in first.text) == (200, True)
    assert "whether the service accepts the new key is to be seen" in (await operator.get(f"/keys/{NAME}")).text
    assert held() == ["00", "01"]
    second = await _pressed(operator)
    assert "is used first from now on" in second.text
    assert (held(), list(vault.keys)) == (["01", "00"], ["00", "01"])


async def test_a_key_that_is_never_accepted_is_told(operator: Visitor, vault: Vault, clock: ManualClock) -> None:
    """After a minute, as an error; what was in use goes on."""
    vault.late = 1_000
    await _pressed(operator)
    clock.advance(60)
    answer = await _pressed(operator)
    assert (answer.status_code, "no such key" in answer.text) == (502, True)
    assert held() == ["00", "01"]


async def test_two_who_press_do_not_make_two_keys(
    shop: Moorline, operator: Visitor, vault: Vault, clock: ManualClock
) -> None:
    """While one is being made, others are told by whom; what was left of a run that died is gone on with."""
    now = clock.wall()
    facts = {"old": (await shop.keys.versions(NAME))[0].version, "label": "moorline of another"}
    begun = Minting(shop.store.new_id(), NAME, "ledger", "mint", facts, "ada <b>", now, now)
    assert await shop.store.write(_begin, begun)
    told = await _pressed(operator)
    assert "ada &lt;b&gt; has just asked ledger for a new key" in told.text
    assert list(vault.keys) == ["00"]
    vault.keys["09"] = "moorline of another"
    clock.advance(61)
    went_on = await _pressed(operator)
    assert "revoked 09, whose value was lost" in went_on.text
    assert held()[1:] == ["00"]


async def test_a_service_that_takes_its_time_is_not_waited_for(
    shop: Moorline, operator: Visitor, vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page says so; what was begun goes on."""
    monkeypatch.setattr(rotating, "_SECONDS", 0.0)
    vault.open.clear()
    answer = await _pressed(operator)
    assert (answer.status_code, "ledger has not answered yet" in answer.text) == (200, True)
    (work,) = rotating._running
    vault.open.set()
    await work
    assert held() == ["01", "00"]
    at = await shop.store.read(last, NAME)
    assert at is not None
    assert at.step == "retire"


async def test_a_failure_that_nobody_waited_for_is_in_the_log(
    operator: Visitor, monkeypatch: pytest.MonkeyPatch, shop: Moorline, caplog: pytest.LogCaptureFixture
) -> None:
    """And on the page, where somebody did."""

    async def fails(*args: object, **how: object) -> None:
        raise RotationRefused("others decide on it")

    monkeypatch.setattr(shop.keys, "rotate", fails)
    answer = await _pressed(operator)
    assert (answer.status_code, "others decide on it" in answer.text) == (409, True)
    assert "rotation_stopped" in caplog.text
    assert rotating._running == set()


@pytest.mark.parametrize("lacking", ["a service", "a place"])
async def test_it_is_offered_where_it_can_be_done(
    shop: Moorline, app: Moorline, vault: Vault, clock: ManualClock, lacking: str
) -> None:
    """Where no service makes such keys, or none could be kept, there is no button, and a POST is refused."""
    where = shop if lacking == "a service" else app
    if where is app:
        where.service(Mint, wire=httpx2.MockTransport(vault), clock=clock)
        where.keys.watch.own = None
    visitor = Visitor(where)
    await visitor.enter()
    page = read((await visitor.get(f"/keys/{NAME}")).text)
    assert [one for one in page.values("action") if one.endswith("/rotate")] == []
    for form in ({}, {"confirm": "yes", "at": "none"}):
        answer = await visitor.post(f"/keys/{NAME}/rotate", form)
        assert (answer.status_code, "moorline keys rotate" in answer.text) == (400, True)


async def test_one_that_was_begun_elsewhere_is_shown(shop: Moorline, clock: ManualClock) -> None:
    """By the command, with a service that this application does not use: how far it is, and what goes on with it."""
    begun = Minting(shop.store.new_id(), NAME, "ledger", "promote", {}, "<i>eve", clock.wall() - 90, clock.wall())
    assert await shop.store.write(_begin, begun)
    visitor = Visitor(shop)
    await visitor.enter()
    page = read((await visitor.get(f"/keys/{NAME}")).text)
    assert "Begun by <i>eve 1 min 30 s ago" in page.text
    assert "moorline keys rotate ledger" in page.text
    assert [one for one in page.values("action") if one.endswith("/rotate")] == []
