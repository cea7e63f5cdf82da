"""One token for an account, whichever objects of this process want it, and one request for it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from tests.calls.test_tokens import Bank, Diary, Kept, Server, rotating

from moorline import errors
from moorline.calls import flight
from moorline.calls.guards import Guards
from moorline.calls.token_endpoint import TokenEndpoint
from moorline.calls.tokens import Token, sandbox_pair
from moorline.clock import ManualClock
from moorline.policies.deadline import deadline
from moorline.policies.policy import Policy
from moorline.services import GCS, GitHub, Salesforce

POLICY = Policy(retry=None, breaker=None)


class World:
    """Objects that share guards, clock and wire, as those of a process do."""

    def __init__(self, server: Any) -> None:
        self.server, self.clock = server, ManualClock()
        self.wire, self.guards = httpx2.MockTransport(server), Guards(clock=self.clock)

    def make(self, kind: Any = Bank, key: Any = "secret-0123456789", **options: Any) -> Any:
        shared = {"wire": self.wire, "guards": self.guards, "clock": self.clock, "policy": POLICY}
        return kind(key, **{**shared, **({"client_id": "shop"} if kind in (Bank, Diary) else {}), **options})


async def _awaited(call: Any) -> Any:
    return await call


def test_a_thousand_callers_of_many_objects_fetch_one():
    """On two loops and on threads at the same time, each with objects of its own."""
    world = World(Server(delay=0.2))
    begin = threading.Barrier(12)

    def on_a_loop() -> None:
        async def all_of_them() -> None:
            banks = [world.make() for _ in range(5)]
            begin.wait()
            await asyncio.gather(*(_awaited(banks[number % 5].read()) for number in range(500)))

        asyncio.run(all_of_them())

    def blocking() -> None:
        bank = world.make()
        begin.wait()
        bank.read().result()

    threads = [threading.Thread(target=one) for one in [on_a_loop] * 2 + [blocking] * 10]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(world.server.asked), len(world.server.sent)) == (1, 1010)


def test_objects_made_one_after_another_use_what_is_there():
    """As a program that makes the service anew for each request does; a refused token is replaced for all of them."""
    world = World(Server())
    for _ in range(3):
        assert world.make().read().result() == {"token": "token-0000000001"}
    world.clock.advance(60)
    world.server.good = {"token-0000000002"}
    first, second = world.make(), world.make()
    assert first.read().result() == second.read().result() == {"token": "token-0000000002"}
    assert len(world.server.asked) == 2


@pytest.mark.parametrize(
    "other",
    [
        {"key": "another-secret-01234"},
        {"client_id": "another"},
        {"base_url": "https://other.example"},
        {"guards": Guards()},
        {"wire": httpx2.MockTransport(Server())},
        {"clock": ManualClock()},
    ],
    ids=lambda other: next(iter(other)),
)
def test_what_tells_accounts_apart(other: dict[str, Any]):
    """Credential, client and address; and what the object was made to share with nobody."""
    world = World(Server())
    world.make().read().result()
    if "wire" in other:
        other["wire"].handler = world.server
    world.make(**other).read().result()
    assert len(world.server.asked) == 2


def test_services_of_one_account():
    """Two buckets of a key file, two objects of an installation; another installation has a token of its own."""
    seen: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        request.read()
        if request.url.path.endswith(("/token", "/access_tokens")):
            seen.append(request.url.path)
            body = {"access_token": "t" * 30, "token": "t" * 30, "expires_at": "2030-01-01T00:00:00Z", "expires_in": 60}
            return httpx2.Response(201 if "expires_at" in body and "app" in request.url.path else 200, json=body)
        return httpx2.Response(200, json={"items": [], "rate": {}})

    world = World(answer)
    key = GCS.credentials.sandbox.replace("{sandbox}", "https://tokens.example")
    for bucket in ("one-bucket", "two-bucket"):
        world.make(GCS, key, bucket=bucket).fetched.ready()
    assert seen == ["/gcs/token"]
    seen.clear()
    for number in ("7", "7", "8"):
        world.make(GitHub, sandbox_pair()[0], app_id="42", installation_id=number).check().result()
    assert seen == ["/app/installations/7/access_tokens", "/app/installations/8/access_tokens"]


def test_a_service_account_is_known_by_its_key_and_not_by_its_file(tmp_path: Any):
    """A file that changes is another account at once."""
    world, path = World(Server()), tmp_path / "key.json"
    first = json.loads(GCS.credentials.sandbox.replace("{sandbox}/gcs", "https://tokens.example/oauth"))
    asked = []
    for number in range(2):
        path.write_text(json.dumps({**first, "private_key_id": f"id-{number}"}))
        world.make(GCS, str(path), bucket="bucket").fetched.ready()
        asked.append(len(world.server.asked))
    assert asked == [1, 2]


def test_where_it_is_used_is_shared():
    """Salesforce says in its answer where: the second object knows it, without having asked."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        body = {"access_token": "t" * 30, "instance_url": "https://acme.my.salesforce.com"}
        return httpx2.Response(200, json=body if request.url.path.endswith("token") else {"host": request.url.host})

    world = World(answer)
    for _ in range(2):
        org = world.make(Salesforce, sandbox_pair()[0], client_id="app", username="ada@acme.example")
        assert org.request("GET", "/services/data/v66.0/limits").result() == {"host": "acme.my.salesforce.com"}


class Gate(httpx2.AsyncBaseTransport):
    """Holds requests for tokens until it is opened."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.arrived = asyncio.Semaphore(0)
        self.asked = 0
        self.status = 200

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if request.url.path != "/oauth/token":
            return httpx2.Response(200, json={"token": request.headers["authorization"]})
        self.asked += 1
        number = self.asked
        self.arrived.release()
        await self.opened.wait()
        if self.status != 200:
            return httpx2.Response(self.status, json={"error": "invalid_client"})
        return httpx2.Response(200, json={"access_token": f"token-{number:010}", "expires_in": 3600})


def gated() -> tuple[Gate, Callable[[], Bank], ManualClock]:
    gate, clock = Gate(), ManualClock()
    guards = Guards(clock=clock)
    return gate, lambda: Bank("k" * 20, client_id="c", wire=gate, guards=guards, clock=clock, policy=POLICY), clock


async def test_a_failure_is_everybodys():
    """Who waits for a request that fails is told so, and does not ask again; each has an error of its own."""
    gate, make, _ = gated()
    gate.status = 401
    tasks = [asyncio.ensure_future(_awaited(make().read())) for _ in range(100)]
    await gate.arrived.acquire()
    await asyncio.sleep(0)
    gate.opened.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(one) for one in found} == {errors.AuthenticationFailed}
    assert len({id(one) for one in found}) == 100
    assert gate.asked == 1


async def test_who_asks_may_go_away():
    """Its task is cancelled, or its time is over: the request goes on, and the others get that token."""
    gate, make, clock = gated()
    first = asyncio.ensure_future(_awaited(make().read()))
    await gate.arrived.acquire()
    others = [asyncio.ensure_future(_awaited(make().read())) for _ in range(20)]
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    gate.opened.set()
    assert {one["token"] for one in await asyncio.gather(*others)} == {"Bearer token-0000000001"}
    gate.opened.clear()
    clock.advance(3600)
    with deadline(0.01, clock=clock), pytest.raises(errors.DeadlineExceeded):
        await make().read()
    gate.opened.set()
    assert (await make().read())["token"] == "Bearer token-0000000002"
    assert gate.asked == 2


async def test_who_waits_may_go_away():
    """One that is cancelled takes nothing from who asks, nor from the others."""
    gate, make, _ = gated()
    tasks = [asyncio.ensure_future(_awaited(make().read())) for _ in range(3)]
    await gate.arrived.acquire()
    tasks[1].cancel()
    await asyncio.wait([tasks[1]])
    gate.opened.set()
    assert [one["token"] for one in await asyncio.gather(tasks[0], tasks[2])] == ["Bearer token-0000000001"] * 2


async def test_nobody_waits_for_longer_than_it_may():
    """A caller with a deadline fails when that is over, as one that was not sent; who asks goes on."""
    gate, make, _ = gated()
    first = asyncio.ensure_future(_awaited(make().read()))
    await gate.arrived.acquire()
    clock = make().clock
    with deadline(0.01, clock=clock), pytest.raises(errors.DeadlineExceeded) as caught:
        await make().read()
    assert caught.value.outcome == "not_sent"
    with deadline(0.01, clock=clock), pytest.raises(errors.DeadlineExceeded):
        await asyncio.to_thread(lambda: make().read().result())
    gate.opened.set()
    assert (await first)["token"] == "Bearer token-0000000001"


async def test_one_that_never_ends(monkeypatch: pytest.MonkeyPatch):
    """As when its event loop was stopped for good: after a while somebody else asks."""
    monkeypatch.setattr(flight, "_PATIENCE", 0.01)
    gate, make, _ = gated()
    first = asyncio.ensure_future(_awaited(make().read()))
    await gate.arrived.acquire()
    second = asyncio.ensure_future(_awaited(make().read()))
    await gate.arrived.acquire()
    gate.opened.set()
    assert {(await first)["token"], (await second)["token"]} <= {"Bearer token-0000000001", "Bearer token-0000000002"}
    assert gate.asked == 2


async def test_nobody_waits_while_the_old_one_is_good():
    """It is renewed ahead of its end by one caller, and the others go on with the one that they have."""
    gate, make, clock = gated()
    gate.opened.set()
    await make().read()
    gate.opened.clear()
    await gate.arrived.acquire()
    clock.advance(3400)
    renewing = asyncio.ensure_future(_awaited(make().read()))
    await gate.arrived.acquire()
    assert (await make().read())["token"] == "Bearer token-0000000001"
    gate.opened.set()
    assert (await renewing)["token"] == "Bearer token-0000000002"


@pytest.mark.parametrize("colour", ["blocking", "async"])
async def test_a_refresh_token_outlives_who_asked(colour: str):
    """The one that took the place of the old came when nobody waited for it any more: it is the next one used."""
    world = World(Server())
    world.server.refuse = rotating(world.server)
    answered, opened = threading.Event(), threading.Event()

    def held(request: httpx2.Request) -> httpx2.Response:
        answer: httpx2.Response = world.server(request)
        if request.url.path == "/oauth/token":
            answered.set()
            opened.wait(10)
        return answer

    async def later(request: httpx2.Request) -> httpx2.Response:
        return await asyncio.to_thread(held, request)

    world.wire = httpx2.MockTransport(held if colour == "blocking" else later)
    diary = world.make(Diary, "refresh-0000000000")

    def read() -> Any:
        call = diary.read()
        return _awaited(call) if colour == "async" else asyncio.to_thread(call.result)

    with deadline(0.05, clock=world.clock), pytest.raises(errors.DeadlineExceeded) as caught:
        await read()
    assert caught.value.outcome == "not_sent"
    assert await asyncio.to_thread(answered.wait, 10)
    opened.set()
    assert await read() == {"token": "token-0000000001"}
    world.clock.advance(101)
    assert await read() == {"token": "token-0000000002"}


@pytest.mark.parametrize("colour", ["blocking", "async"])
async def test_nothing_is_closed_under_a_refresh_token(monkeypatch: pytest.MonkeyPatch, colour: str):
    """Its successor is under way, though nobody waits for it: what brings it is closed after that."""
    world, asked, opened = World(Server()), threading.Event(), threading.Event()
    world.server.refuse = rotating(world.server)

    async def later(request: httpx2.Request) -> httpx2.Response:
        return await asyncio.to_thread(held, request)

    def held(request: httpx2.Request) -> httpx2.Response:
        asked.set()
        opened.wait(10)
        answer: httpx2.Response = world.server(request)
        return answer

    world.wire = httpx2.MockTransport(later if colour == "async" else held)
    diary = world.make(Diary, "refresh-0000000000")
    tokens, closed = diary.fetched, []

    async def aclose(_: TokenEndpoint) -> None:
        closed.append(tokens.current().reveal())

    with deadline(0.05, clock=world.clock), pytest.raises(errors.DeadlineExceeded):
        await (tokens.ready_async() if colour == "async" else asyncio.to_thread(tokens.ready))
    assert await asyncio.to_thread(asked.wait, 10)
    monkeypatch.setattr(TokenEndpoint, "aclose", aclose)
    monkeypatch.setattr(TokenEndpoint, "close", lambda _: closed.append(tokens.current().reveal()))
    closing = asyncio.ensure_future(tokens.aclose() if colour == "async" else asyncio.to_thread(tokens.close))
    await asyncio.sleep(0)
    opened.set()
    await closing
    assert closed == ["token-0000000001"]


def test_a_source_that_keeps_what_follows_has_one_account():
    """Of several objects of it none asks with what another one has used up, nor for a token that is there."""
    world = World(Server())
    world.server.refuse = rotating(world.server)
    kept = Kept("refresh-0000000000")
    one, two = world.make(Diary, kept), world.make(Diary, kept)
    assert one.read().result() == two.read().result() == {"token": "token-0000000001"}
    world.clock.advance(101)
    assert two.read().result() == one.read().result() == {"token": "token-0000000002"}
    assert (len(world.server.asked), len(kept.held)) == (2, 3)


def test_a_keeper_is_asked_in_place_of_the_endpoint():
    """What it has is used as if it had been fetched; it is told of a token that was refused; None is "ask yourself"."""
    world = World(Server())

    class Keeper:
        """Has one, another once that was refused, and then none."""

        def __init__(self) -> None:
            self.told: list[Any] = []

        def token(self, service: str, account: str, ask: Any, refused: Any) -> Token | None:
            self.told.append((service, len(account), refused and refused.reveal()))
            made: list[Token | None] = [ask(None, lambda token: token).result() for _ in range(len(self.told))]
            return made[-1] if len(self.told) < 3 else None

        async def token_async(self, *arguments: Any) -> Token | None:
            raise AssertionError("this is a thread")

    keeper = Keeper()
    bank = world.make()
    bank.fetched.keeper = keeper
    bank.read().result()
    world.clock.advance(60)
    world.server.good = {"token-0000000003"}
    assert bank.read().result() == {"token": "token-0000000003"}
    world.clock.advance(3600)
    world.server.good = None
    bank.read().result()
    assert keeper.told == [("bank", 40, None), ("bank", 40, "token-0000000001"), ("bank", 40, None)]
