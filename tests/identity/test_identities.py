"""Who signs in as whom, on each database."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from moorline.clock import ManualClock
from moorline.errors import SignInFailed
from moorline.identity import Identity, identities
from moorline.identity.identities import Ending, Found, Seen, Spend
from moorline.identity.sessions import Sessions
from moorline.secrets.keyring import KeyRing, new_key
from moorline.secrets.secret import Secret
from moorline.store import Store

ADA = Identity("google", "1", "Ada@Example.com", email_proved=True, name="Ada")


@pytest.fixture
def store(database_url: str, clock: ManualClock) -> Iterator[Store]:
    with Store(database_url, clock=clock) as opened:
        yield opened


def seen(store: Store, identity: Identity) -> Found:
    return store.write_sync(identities.users, Seen(identity, store.clock.wall()))


def test_found_or_made(store: Store, clock: ManualClock) -> None:
    """The first time a user is made, then found; what is known of the account is renewed."""
    first = seen(store, ADA)
    assert first.new
    clock.advance(60)
    again = seen(store, Identity("google", "1", "new@example.com", name="Ada L."))
    assert again == Found(first.user)
    (row,) = store.read_sync(identities.of_user, first.user)
    assert (row["email"], row["email_proved"], row["name"]) == ("new@example.com", False, "Ada L.")
    assert row["seen_at"] - row["created_at"] == 60


def test_joined_by_a_proved_address(store: Store) -> None:
    """Another provider that has proved the address leads to the same user; without proof it does not."""
    user = seen(store, ADA).user
    assert seen(store, Identity("okta", "x", "ada@example.COM", email_proved=True)) == Found(user)
    refused = seen(store, Identity("github", "7", "ada@example.com"))
    assert refused == Found(failed="sign_in_first")
    with pytest.raises(SignInFailed) as caught:
        refused.checked()
    assert caught.value.reason == "sign_in_first"


def test_an_address_that_was_given_to_somebody_else(store: Store) -> None:
    """A second account of the same provider with the address of the first is another person's, and is not joined."""
    seen(store, ADA)
    assert seen(store, Identity("google", "2", "ada@example.com", email_proved=True)) == Found(failed="sign_in_first")


def test_an_address_of_two_users(store: Store) -> None:
    """Where an address is proved for two users, it tells nothing."""
    one = seen(store, ADA).user
    two = seen(store, Identity("github", "7", "other@example.com", email_proved=True)).user
    assert seen(store, Identity("okta", "x", "ada@example.com", email_proved=True, adds_to=two)) == Found(two)
    assert one != two
    assert seen(store, Identity("idp", "9", "ada@example.com", email_proved=True)).failed == "sign_in_first"


def test_added_to_a_user(store: Store) -> None:
    """A user who is signed in adds any account but another's, whatever its address says."""
    one = seen(store, ADA).user
    two = seen(store, Identity("github", "7")).user
    assert seen(store, Identity("okta", "x", "bob@example.com", adds_to=one)) == Found(one)
    assert seen(store, Identity("github", "7", adds_to=one)) == Found(failed="taken")
    assert seen(store, Identity("github", "7", adds_to=two)) == Found(two)


def test_taken_away(store: Store) -> None:
    """An account is taken away from its own user alone."""
    user = seen(store, ADA).user
    assert not store.write_sync(identities.forget, ("somebody", "google", "1"))
    assert store.write_sync(identities.forget, (user, "google", "1"))
    assert store.read_sync(identities.of_user, user) == []


def test_spent_once(store: Store, clock: ManualClock) -> None:
    """What counts once is noted once, is known as spent, and is forgotten when it would count no more."""
    now = clock.wall()
    assert store.write_sync(identities.spend, Spend("state x", now + 600, now))
    assert not store.write_sync(identities.spend, Spend("state x", now + 600, now))
    assert store.read_sync(identities.is_spent, "state x")
    assert not store.read_sync(identities.is_spent, "state y")
    clock.advance(601)
    store.write_sync(identities.spend, Spend("state y", clock.wall() + 600, clock.wall()))
    assert not store.read_sync(identities.is_spent, "state x")


def test_sessions_that_end_together(store: Store, clock: ManualClock) -> None:
    """What began until then is over, what begins later is not; an earlier note changes nothing, and the note lasts as
    long as a session can.
    """
    sessions = Sessions(KeyRing([Secret(new_key())]), clock, longest=366 * 86_400)
    before, now = sessions.new("u_1", "idp"), clock.wall()
    store.write_sync(identities.end_all, Ending("u_1", now))
    clock.advance(0.001)
    after, other = sessions.new("u_1", "idp"), sessions.new("u_11", "idp")
    store.write_sync(identities.end_all, Ending("u_1", now - 60))
    ended = [store.read_sync(identities.is_ended, one) for one in (before, after, other)]
    assert ended == [True, False, False]
    store.write_sync(identities.spend, Spend(other.spent_key, clock.wall() + 60, clock.wall()))
    assert store.read_sync(identities.is_ended, other)
    clock.advance(366 * 86_400 - 1)
    store.write_sync(identities.spend, Spend("x", clock.wall(), clock.wall()))
    assert store.read_sync(identities.is_ended, before)
    assert not store.read_sync(identities.is_ended, after)


def test_all_at_once(database_url: str, store: Store) -> None:
    """Of sixteen first sign-ins of one address, at several stores at once, all are one user's."""
    stores = [store, *(Store(database_url) for _ in range(3))]
    for one in stores[1:]:
        one.open()
    users: list[Found] = []
    begin = threading.Barrier(16)

    def sign_in(number: int) -> None:
        begin.wait(10)
        identity = Identity(f"idp-{number // 2}", "s", "ada@example.com", email_proved=True)
        users.append(seen(stores[number % 4], identity))

    threads = [threading.Thread(target=sign_in, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for one in stores[1:]:
        one.close()
    assert len(users) == 16
    assert len({one.user for one in users}) == 1
    assert [one.new for one in users].count(True) == 1
