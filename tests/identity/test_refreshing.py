"""A token is fresh whenever it is asked for, and is refreshed once, however many want it."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from tests.identity.conftest import Issuer, granted

from moorline import errors
from moorline.clock import ManualClock
from moorline.identity.connection import Connection, refresh_at
from moorline.identity.refreshing import FreshToken
from moorline.identity.vault import Vault
from moorline.policies.deadline import deadline
from moorline.store.schema import connections


def token(vault: Vault, row: Connection, issuer: Issuer, clock: ManualClock, **options: Any) -> FreshToken:
    """The token of one process."""
    return FreshToken(vault, row.id, issuer.provider(clock).refreshed, **options)


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
    slow = token(vault, row, issuer, clock)
    provider = issuer.provider(clock)

    def overtaken(tokens: Any) -> Any:
        clock.advance(31)
        vault.store.write_sync(_forget_lease, row.id)
        other = token(vault, row, issuer, clock)
        other.ready()
        return provider.refreshed(tokens)

    slow._refresh = overtaken
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
