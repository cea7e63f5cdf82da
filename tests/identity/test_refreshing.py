"""A token is fresh whenever it is asked for, and is refreshed once, however many want it."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from tests.databases import migrated_sqlite
from tests.identity.conftest import Issuer, Provider, granted

from moorline import errors
from moorline.calls.guards import Guards
from moorline.clock import ManualClock
from moorline.identity.connection import Connection, refresh_at
from moorline.identity.refreshing import FreshToken
from moorline.identity.vault import Vault
from moorline.policies.deadline import deadline
from moorline.policies.policy import Policy
from moorline.secrets.keyring import KeyRing, new_key
from moorline.secrets.secret import Secret
from moorline.store import Store
from moorline.store.schema import connections


def token(vault: Vault, row: Connection, issuer: Issuer, clock: ManualClock, **options: Any) -> FreshToken:
    """The token of one process."""
    return FreshToken(vault, row.id, issuer.provider(clock).refreshed, **options)


def provider(answer: Any, clock: ManualClock) -> Provider:
    """A service whose requests *answer* answers."""
    policy = Policy(retry=None, breaker=None)
    return Provider("k", wire=httpx2.MockTransport(answer), guards=Guards(clock=clock), policy=policy)


class Held:
    """Rotates at once, and keeps its answer back until it is ``opened``; on threads as on loops."""

    def __init__(self) -> None:
        self.issuer = Issuer()
        self.rotated, self.opened = threading.Event(), threading.Event()

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        answer = self.issuer(request)
        self.rotated.set()
        self.opened.wait(10)
        return answer

    async def later(self, request: httpx2.Request) -> httpx2.Response:
        """The same on a loop."""
        return await asyncio.to_thread(self, request)

    def token(self, vault: Vault, row: Connection, clock: ManualClock, colour: str) -> FreshToken:
        """The token of one process, which asks it."""
        return FreshToken(vault, row.id, provider(self.later if colour == "async" else self, clock).refreshed)


COLOURS = pytest.mark.parametrize("colour", ["blocking", "async"])


async def ready(fresh: FreshToken, colour: str) -> None:
    """As it is asked for in that colour."""
    await (fresh.ready_async() if colour == "async" else asyncio.to_thread(fresh.ready))


async def test_it_is_refreshed_ahead_of_its_end(vault: Vault, clock: ManualClock):
    """While it is good nobody is asked; some minutes before its end it is refreshed, and the new refresh token kept."""
    issuer = Issuer()
    fresh = token(vault, await vault.keep("u_1", "provider", granted()), issuer, clock)
    await fresh.ready_async()
    assert (fresh.current().reveal(), issuer.asked) == ("access-0000-canary", 0)
    clock.advance(3600 - 200)
    await fresh.ready_async()
    assert (fresh.current().reveal(), issuer.asked) == ("access-0001-canary", 1)
    clock.advance(3600)
    await asyncio.to_thread(fresh.ready)
    assert (fresh.current().reveal(), issuer.asked, fresh.connection.version) == ("access-0002-canary", 2, 3)


@given(st.floats(1, 1e7), st.text("0123456789abcdef", min_size=8, max_size=32))
def test_tokens_of_one_hour_are_spread(lasts: float, id: str):
    """Refreshed in the last third of their lives, and at most seven and a half minutes before their end."""
    at = refresh_at(id, 1000.0, 1000.0 + lasts)
    early = 1000.0 + lasts - at
    assert 0 <= early <= min(450.0, lasts * 0.3) + 1e-6


async def test_a_thousand_callers_make_one_refresh(vault: Vault, clock: ManualClock):
    """On one loop, and in threads."""
    issuer = Issuer()
    fresh = token(vault, await vault.keep("u_1", "provider", granted()), issuer, clock)
    clock.advance(3600)
    await asyncio.gather(*(fresh.ready_async() for _ in range(1000)))
    assert issuer.asked == 1
    clock.advance(3600)
    threads = [threading.Thread(target=fresh.ready) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert issuer.asked == 2


def test_loops_and_threads_share_one_refresh(lite: Vault, clock: ManualClock):
    """Two loops and ten threads ask for the same token at the same time."""
    issuer = Issuer()
    fresh = token(lite, lite.keep_sync("u_1", "provider", granted()), issuer, clock)
    clock.advance(3600)
    begin = threading.Barrier(12)

    def on_a_loop() -> None:
        async def all_of_them() -> None:
            begin.wait()
            await asyncio.gather(*(fresh.ready_async() for _ in range(100)))

        asyncio.run(all_of_them())

    def blocking() -> None:
        begin.wait()
        fresh.ready()

    threads = [threading.Thread(target=one) for one in [on_a_loop] * 2 + [blocking] * 10]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (fresh.current().reveal(), issuer.asked) == ("access-0001-canary", 1)


@COLOURS
async def test_a_refresh_goes_on_when_nobody_waits(lite: Vault, clock: ManualClock, colour: str):
    """The time of all who wait is over, one by one: what comes then is stored all the same, and no refresh was lost."""
    held = Held()
    row = await lite.keep("u_1", "provider", granted())
    fresh = held.token(lite, row, clock, colour)
    clock.advance(3600)
    for _ in range(2):  # who begins it, and who finds it under way
        with deadline(0.05, clock=clock), pytest.raises(errors.DeadlineExceeded) as caught:
            await ready(fresh, colour)
        assert caught.value.outcome == "not_sent"
    assert await asyncio.to_thread(held.rotated.wait, 10)
    held.opened.set()
    await ready(fresh, colour)
    assert (fresh.current().reveal(), held.issuer.asked) == ("access-0001-canary", 1)
    kept = await lite.get("u_1", "provider")
    assert (kept.version, kept.refreshing_since, kept.lost_at) == (2, None, None)


async def test_a_refresh_goes_on_when_who_asked_is_cancelled(lite: Vault, clock: ManualClock):
    """As by a client that hung up: it was that call's end, and not the connection's."""
    held = Held()
    fresh = held.token(lite, await lite.keep("u_1", "provider", granted()), clock, "async")
    clock.advance(3600)
    asking = asyncio.ensure_future(fresh.ready_async())
    assert await asyncio.to_thread(held.rotated.wait, 10)
    asking.cancel()
    await asyncio.wait([asking])
    assert asking.cancelled()
    held.opened.set()
    await fresh.ready_async()
    assert (fresh.current().reveal(), held.issuer.asked) == ("access-0001-canary", 1)


@COLOURS
async def test_a_good_token_needs_no_time(lite: Vault, clock: ManualClock, colour: str):
    """It is refreshed ahead of its end, and who has no time for that goes on with the old one."""
    held = Held()
    fresh = held.token(lite, await lite.keep("u_1", "provider", granted()), clock, colour)
    clock.advance(3600 - 100)
    with deadline(0.05, clock=clock):
        await ready(fresh, colour)
    assert fresh.current().reveal() == "access-0000-canary"
    assert await asyncio.to_thread(held.rotated.wait, 10)
    held.opened.set()
    await fresh.newer_async(fresh.current())
    assert (fresh.current().reveal(), held.issuer.asked) == ("access-0001-canary", 1)


def test_a_loop_that_ends_gives_the_refresh_back(lite: Vault, clock: ManualClock):
    """It is cut off with all else there: nobody waits for its lease, and what became of it is known to be unknown."""
    row = lite.keep_sync("u_1", "provider", granted())
    clock.advance(3600)

    asked = asyncio.Event()

    async def never(request: httpx2.Request) -> httpx2.Response:
        asked.set()
        answer: asyncio.Future[httpx2.Response] = asyncio.get_running_loop().create_future()
        return await answer

    fresh = FreshToken(lite, row.id, provider(never, clock).refreshed)

    async def until_asked() -> None:
        asking = asyncio.ensure_future(fresh.ready_async())
        await asked.wait()
        asking.cancel()

    asyncio.run(until_asked())
    kept = lite.get_sync("u_1", "provider")
    assert (kept.refreshing_since, kept.lost_at) == (None, clock.wall())
    fresh._refresh = Issuer().provider(clock).refreshed
    fresh.ready()
    assert fresh.current().reveal() == "access-0001-canary"


def test_the_database_is_not_closed_under_a_refresh(tmp_path: Path, clock: ManualClock):
    """Closing waits for what is under way, so that its tokens can be stored."""
    held, url, ring = Held(), migrated_sqlite(tmp_path / "closing.db"), KeyRing([Secret(new_key())])
    with Store(url, clock=clock) as store:
        store.before_close(held.opened.set)
        fresh = held.token(Vault(store, ring), Vault(store, ring).keep_sync("u_1", "provider", granted()), clock, "")
        clock.advance(3600)
        with deadline(0.05, clock=clock), pytest.raises(errors.DeadlineExceeded):
            fresh.ready()
        assert held.rotated.wait(10)
    with Store(url, clock=clock) as store:
        kept = Vault(store, ring).get_sync("u_1", "provider")
        assert Vault(store, ring).tokens(kept).access.reveal() == "access-0001-canary"


async def test_blocking_inside_a_loop(lite: Vault, clock: ManualClock):
    """It would wait for what could not go on: it is said at once, and nothing was begun."""
    issuer = Issuer()
    fresh = token(lite, await lite.keep("u_1", "provider", granted()), issuer, clock)
    with pytest.raises(errors.Misuse, match="await"):
        fresh.ready()
    await fresh.ready_async()
    assert issuer.asked == 0


async def test_several_processes_make_one_refresh(vault: Vault, clock: ManualClock):
    """Each with an object of its own: the one with the lease asks, the others read what it got."""
    issuer = Issuer()
    row = await vault.keep("u_1", "provider", granted())
    clock.advance(3600)
    processes = [token(vault, row, issuer, clock) for _ in range(20)]
    await asyncio.gather(*(one.ready_async() for one in processes))
    assert issuer.asked == 1
    assert {one.current().reveal() for one in processes} == {"access-0001-canary"}


async def test_the_old_one_serves_while_another_process_refreshes(vault: Vault, clock: ManualClock):
    """Nobody waits for a token that is still good; who needs one waits no longer than its call may."""
    issuer = Issuer()
    row = await vault.keep("u_1", "provider", granted())
    clock.advance(3600 - 100)
    _set(vault, row, refreshing_since=clock.wall())
    fresh = token(vault, row, issuer, clock)
    await fresh.ready_async()
    assert (fresh.current().reveal(), issuer.asked) == ("access-0000-canary", 0)
    clock.advance(110)
    _set(vault, row, refreshing_since=clock.wall())
    with deadline(5.0, clock=clock), pytest.raises(errors.DeadlineExceeded):
        await fresh.ready_async()
    assert issuer.asked == 0
    await fresh.ready_async()  # without a deadline: until the other's lease is over
    assert issuer.asked == 1


async def test_without_a_new_refresh_token_the_old_one_goes_on(lite: Vault, clock: ManualClock):
    """As Google does it."""
    issuer = Issuer(rotates=False)
    fresh = token(lite, await lite.keep("u_1", "provider", granted()), issuer, clock)
    for asked in (1, 2):
        clock.advance(3600)
        await fresh.ready_async()
        assert issuer.asked == asked


async def test_while_the_provider_is_down_the_old_one_serves_to_its_end(lite: Vault, clock: ManualClock):
    """And is not asked for at each call; after its end the error is the provider's."""
    issuer = Issuer()
    issuer.status = 503
    fresh = token(lite, await lite.keep("u_1", "provider", granted()), issuer, clock)
    clock.advance(3600 - 100)
    for _ in range(5):
        await fresh.ready_async()
    assert (fresh.current().reveal(), issuer.asked) == ("access-0000-canary", 1)
    clock.advance(100)
    with pytest.raises(errors.ServiceUnavailable):
        await fresh.ready_async()
    issuer.status = 200
    await fresh.ready_async()
    assert fresh.current().reveal() == "access-0003-canary"


async def test_while_it_cannot_be_asked_the_old_one_serves_to_its_end(lite: Vault, clock: ManualClock):
    """As when the place of the client's secret is away: nothing was sent, so that no other process waits for it."""
    issuer = Issuer()
    row = await lite.keep("u_1", "provider", granted())

    def away(tokens: Any) -> Any:
        raise errors.SecretUnavailable("the place of secrets is away")

    fresh = FreshToken(lite, row.id, away)
    clock.advance(3600 - 100)
    await fresh.ready_async()
    assert fresh.current().reveal() == "access-0000-canary"
    clock.advance(100)
    with pytest.raises(errors.SecretUnavailable):
        await fresh.ready_async()
    now = clock.wall()
    await token(lite, row, issuer, clock).ready_async()
    assert (issuer.asked, clock.wall()) == (1, now)
    issuer.good = "another"
    clock.advance(3600)
    with pytest.raises(errors.SecretUnavailable):
        await fresh.ready_async()
    with pytest.raises(errors.ReauthorizationRequired, match="it was revoked"):
        await token(lite, row, issuer, clock).ready_async()


@pytest.mark.parametrize("what", ["read", "write"])
async def test_while_the_database_is_away_the_old_one_serves_to_its_end(
    lite: Vault, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, what: str
):
    """It is looked at again after a while, and a refresh that is due is made then."""
    issuer = Issuer()
    fresh = token(lite, await lite.keep("u_1", "provider", granted()), issuer, clock)
    await fresh.ready_async()
    clock.advance(3600 - 200)
    tries = 0

    async def away(*_: Any) -> Any:
        nonlocal tries
        tries += 1
        raise errors.StoreUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(lite.store, what, away)
        for _ in range(3):
            await fresh.ready_async()
        assert (fresh.current().reveal(), tries) == ("access-0000-canary", 1)
        with pytest.raises(errors.StoreUnavailable):
            await fresh.newer_async(fresh.current())
        clock.advance(200)
        with pytest.raises(errors.StoreUnavailable):
            await fresh.ready_async()
    await fresh.ready_async()
    assert (fresh.current().reveal(), issuer.asked) == ("access-0001-canary", 1)


async def test_a_revoked_grant_ends_the_connection(vault: Vault, clock: ManualClock):
    """The owner has to connect again, and knows where; nobody asks the provider any more, until that was done."""
    issuer = Issuer()
    issuer.good = "another"
    row = await vault.keep("u_1", "provider", granted())
    fresh = token(vault, row, issuer, clock, reconnect="https://shop.example/auth/provider/connect")
    clock.advance(3600)
    with pytest.raises(errors.ReauthorizationRequired, match="connect provider again: it was revoked") as caught:
        await fresh.ready_async()
    assert (caught.value.connection, caught.value.reconnect) == (row.id, "https://shop.example/auth/provider/connect")
    assert (caught.value.retryable, caught.value.outcome) == (False, "not_sent")
    with pytest.raises(errors.ReauthorizationRequired):
        await token(vault, row, issuer, clock).ready_async()
    assert (issuer.asked, (await vault.get("u_1", "provider")).state) == (1, "ended")
    await vault.keep("u_1", "provider", granted(7))
    await fresh.ready_async()
    assert fresh.current().reveal() == "access-0007-canary"


async def test_an_application_that_is_refused_ends_no_connection(lite: Vault, clock: ManualClock):
    """A wrong client secret is ours to mend, and nothing that the owner could."""
    issuer = Issuer()
    issuer.status = 401
    fresh = token(lite, await lite.keep("u_1", "provider", granted()), issuer, clock)
    clock.advance(3600)
    with pytest.raises(errors.AuthenticationFailed):
        await fresh.ready_async()
    assert (await lite.get("u_1", "provider")).state == "good"


async def test_a_refresh_whose_answer_was_lost_is_known(vault: Vault, clock: ManualClock):
    """The provider rotated, and the answer never came: the next refusal says so, not that somebody revoked it."""
    issuer = Issuer()
    issuer.silent = True
    row = await vault.keep("u_1", "provider", granted())
    fresh = token(vault, row, issuer, clock)
    clock.advance(3600)
    with pytest.raises(errors.OutcomeUnknown):
        await fresh.ready_async()
    issuer.silent = False
    with pytest.raises(errors.ReauthorizationRequired, match="a refresh was lost on its way here"):
        await fresh.ready_async()


@pytest.mark.parametrize(
    ("answer", "lost"),
    [
        ((500, "{}"), True),
        ((502, "bad gateway"), True),
        ((503, "{}"), True),
        ((200, '{"access_tok'), True),
        ((400, '{"error": "invalid_request"}'), False),
        ((429, "{}"), False),
    ],
)
async def test_what_hides_a_new_token_may_have_lost_it(
    lite: Vault, clock: ManualClock, answer: tuple[int, str], lost: bool
):
    """A failure, or half an answer, behind which it rotated; only an answer that turns the request away says no."""
    issuer = Issuer()
    row = await lite.keep("u_1", "provider", granted())

    def once(request: httpx2.Request) -> httpx2.Response:
        good = issuer(request)
        status, text = answer
        hidden = httpx2.Response(status, text=text, headers={"content-type": "application/json"})
        return hidden if issuer.asked == 1 else good

    fresh = FreshToken(lite, row.id, provider(once, clock).refreshed)
    clock.advance(3600)
    with pytest.raises(errors.CallError):
        await fresh.ready_async()
    clock.advance(31)
    with pytest.raises(errors.ReauthorizationRequired, match="a refresh was lost" if lost else "it was revoked"):
        await fresh.ready_async()


@COLOURS
async def test_what_is_refreshed_now_is_stored_now(
    lite: Vault, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, colour: str
):
    """It is tried some more; where the database stays away that is said, and the token is kept for the next one."""
    issuer = Issuer()
    fresh = token(lite, await lite.keep("u_1", "provider", granted()), issuer, clock)
    changed, fails = Vault.changed, 2

    def flaky(self: Vault, *arguments: Any) -> Any:
        nonlocal fails
        fails -= 1
        if fails >= 0:
            raise errors.StoreUnavailable("away")
        return (yield from changed(self, *arguments))

    async def renewed() -> None:
        await (fresh.renew_async() if colour == "async" else asyncio.to_thread(fresh.renew))

    monkeypatch.setattr(Vault, "changed", flaky)
    await renewed()
    assert (fresh.connection.version, (await lite.get("u_1", "provider")).version) == (2, 2)
    fails = 10
    for _ in range(2):
        with pytest.raises(errors.StoreUnavailable, match="kept in this process"):
            await renewed()
    assert (fresh.current().reveal(), issuer.asked) == ("access-0002-canary", 2)
    fails = 0
    clock.advance(31)
    await ready(fresh, colour)
    kept = await lite.get("u_1", "provider")
    assert (kept.version, lite.tokens(kept).access.reveal(), issuer.asked) == (3, "access-0002-canary", 2)


async def test_after_a_process_died_in_mid_refresh_the_next_one_tries(vault: Vault, clock: ManualClock):
    """Its lease runs out; where the provider lets the old token pass, nothing was lost."""
    issuer = Issuer()
    row = await vault.keep("u_1", "provider", granted())
    clock.advance(3600)
    _set(vault, row, refreshing_since=clock.wall() - 10)
    fresh = token(vault, row, issuer, clock)
    await fresh.ready_async()
    assert (fresh.current().reveal(), fresh.connection.lost_at) == ("access-0001-canary", None)


async def test_who_was_overtaken_reads_what_the_other_got(vault: Vault, clock: ManualClock):
    """It held the lease for too long: the other's tokens stand, and its own refusal ends nothing."""
    issuer = Issuer()
    row = await vault.keep("u_1", "provider", granted())
    clock.advance(3600)

    def overtaken(request: httpx2.Request) -> httpx2.Response:
        clock.advance(31)
        vault.store.write_sync(_forget_lease, row.id)
        token(vault, row, issuer, clock).ready()
        return issuer(request)

    slow = FreshToken(vault, row.id, provider(overtaken, clock).refreshed)
    await asyncio.to_thread(slow.ready)
    assert (slow.current().reveal(), issuer.asked) == ("access-0001-canary", 2)
    assert (await vault.get("u_1", "provider")).state == "good"


async def test_a_refused_token_is_refreshed_once(vault: Vault, clock: ManualClock):
    """A 401 in spite of the time that it still had; who comes later finds another one already."""
    issuer = Issuer()
    row = await vault.keep("u_1", "provider", granted())
    one, two = token(vault, row, issuer, clock), token(vault, row, issuer, clock)
    await one.ready_async()
    await two.ready_async()
    refused = one.current()
    found = await asyncio.gather(one.newer_async(refused), one.newer_async(refused), two.newer_async(refused))
    assert all(found)
    assert issuer.asked == 1
    assert await asyncio.to_thread(two.newer, refused)
    assert issuer.asked == 1


@pytest.mark.parametrize("refresh", [None, "refresh-{}"])
async def test_without_a_way_to_refresh_it_ends(lite: Vault, clock: ManualClock, refresh: str | None):
    """No refresh token, or nobody who could use it: used to its end, and then connected again."""
    row = await lite.keep("u_1", "provider", granted(refresh=refresh))
    fresh = FreshToken(lite, row.id, None)
    clock.advance(3600 - 1)
    await fresh.ready_async()
    clock.advance(1)
    with pytest.raises(errors.ReauthorizationRequired, match="there is no refresh token"):
        await fresh.ready_async()


async def test_a_token_that_never_ends_is_left_alone(lite: Vault, clock: ManualClock):
    """GitHub's classic ones: until they are refused."""
    fresh = FreshToken(lite, (await lite.keep("u_1", "provider", granted(lasts=None, refresh=None))).id, None)
    await fresh.ready_async()
    clock.advance(10**9)
    await fresh.ready_async()
    with pytest.raises(errors.ReauthorizationRequired):
        await fresh.newer_async(fresh.current())


async def test_what_is_not_there_is_said(lite: Vault, clock: ManualClock):
    """Before it was read, and after it was forgotten."""
    row = await lite.keep("u_1", "provider", granted())
    fresh = token(lite, row, Issuer(), clock)
    with pytest.raises(errors.ConnectionNotFound, match="not read yet"):
        fresh.current()
    await lite.forget(row.id)
    with pytest.raises(errors.ConnectionNotFound, match="no more"):
        await fresh.ready_async()
    assert "canary" not in repr(fresh)


def _set(vault: Vault, row: Connection, **values: Any) -> None:
    def change(database: sa.Connection, _: list[None]) -> list[None]:
        database.execute(sa.update(connections).where(connections.c.id == row.id).values(**values))
        return [None]

    vault.store.write_sync(change, None)


def _forget_lease(database: sa.Connection, ids: list[str]) -> list[None]:
    for one in ids:
        database.execute(sa.update(connections).where(connections.c.id == one).values(refreshing_since=None))
    return [None] * len(ids)
