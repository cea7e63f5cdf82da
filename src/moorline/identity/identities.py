"""The users of an application that has none of its own: who signs in as whom, and what was used up. Statements.

An e-mail address joins two accounts of different providers only if both have proved it: the new one, and the one that
is there. Of one that is not proved somebody may be lying, now or then (an account that waits for its victim). And never
two accounts of one provider: there the address has been given to somebody else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sqlalchemy as sa

from moorline.errors import SignInFailed
from moorline.identity.sessions import LONGEST, all_of
from moorline.store.ids import new_id
from moorline.store.schema import identities, spent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.engine import Connection as Database

    from moorline.identity.provider import Identity
    from moorline.identity.sessions import Session

__all__ = ["Ending", "Found", "Seen", "Spend", "end_all", "forget", "is_ended", "is_spent", "of_user", "spend", "users"]

_FORGOTTEN_AT_ONCE: Final = 100


class Seen(NamedTuple):
    """An identity that has signed in *now*."""

    identity: Identity
    now: float


class Found(NamedTuple):
    """The user it is, and whether it is a new one; or why it is none."""

    user: str = ""
    new: bool = False
    failed: str = ""

    def checked(self) -> Found:
        """Itself. Raises SignInFailed where it is none."""
        if self.failed:
            why = {
                "sign_in_first": "a user of that e-mail address is there, and it is not proved that this is the same "
                "one: sign in as before, then add this account",
                "taken": "the account is another user's",
            }
            raise SignInFailed(why[self.failed], reason=self.failed)
        return self


class Spend(NamedTuple):
    """Something that counts once, and would have until then."""

    id: str
    until: float
    now: float


class Ending(NamedTuple):
    """A user whose sessions end *now*, all of them."""

    user: str
    now: float


def users(database: Database, payloads: Sequence[Seen]) -> list[Found]:
    """The user of each: found, joined by a proved address, or made."""
    if database.dialect.name == "postgresql":  # SQLite has one writer; here two of one address must not pass each other
        names = {f"{one.identity.provider} {one.identity.subject}" for one in payloads}
        names |= {f"email {email}" for one in payloads if (email := _folded(one.identity.email)) is not None}
        for key in sorted(names):  # in one order everywhere, so that no two wait for each other
            database.execute(sa.text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))"), {"key": key})
    return [_user(database, one.identity, one.now) for one in payloads]


def _user(database: Database, identity: Identity, now: float) -> Found:
    email = _folded(identity.email)
    same = (identities.c.provider == identity.provider) & (identities.c.subject == identity.subject)
    known = database.execute(sa.select(identities.c.user_id).where(same)).scalar()
    values: dict[str, Any] = {
        "email": email,
        "email_proved": identity.email_proved,
        "name": identity.name,
        "seen_at": now,
    }
    if known is not None:
        if identity.adds_to is not None and identity.adds_to != known:
            return Found(failed="taken")
        database.execute(sa.update(identities).where(same).values(**values))
        return Found(known)
    user, failed = _owner(database, identity, email)
    if failed:
        return Found(failed=failed)
    made = user or new_id(now)
    row = {"provider": identity.provider, "subject": identity.subject, "user_id": made, "created_at": now, **values}
    database.execute(sa.insert(identities).values(**row))
    return Found(made, new=user is None)


def _owner(database: Database, identity: Identity, email: str | None) -> tuple[str | None, str]:
    """The user to whom a new identity belongs, None for a new one; or why it cannot be told."""
    if identity.adds_to is not None:
        return identity.adds_to, ""
    if email is None:
        return None, ""
    proved = (identities.c.email == email) & identities.c.email_proved
    owners = set(database.execute(sa.select(identities.c.user_id).where(proved)).scalars())
    if not owners:
        return None, ""  # whoever claims the address without proof gets what is theirs, and nothing else
    if not identity.email_proved or len(owners) > 1:
        return None, "sign_in_first"
    owner: str = owners.pop()
    # Another subject of the same provider is another person there: an address that was given to somebody else.
    other = (identities.c.user_id == owner) & (identities.c.provider == identity.provider)
    recycled = database.execute(sa.select(identities.c.subject).where(other)).first() is not None
    return (None, "sign_in_first") if recycled else (owner, "")


def _folded(email: str | None) -> str | None:
    """Other alphabets have letters that become ASCII ones in the other case: those are compared as they are."""
    return email.lower() if email is not None and email.isascii() else email


def of_user(database: Database, user: str) -> list[dict[str, Any]]:
    """The accounts by which a user signs in, oldest first."""
    query = sa.select(identities).where(identities.c.user_id == user).order_by(identities.c.created_at)
    return [dict(row._mapping) for row in database.execute(query)]  # noqa: SLF001 (SQLAlchemy's public name)


def forget(database: Database, payloads: Sequence[tuple[str, str, str]]) -> list[bool]:
    """Take accounts (user, provider, subject) away from their users; False for one that is not theirs."""
    done = []
    for user, provider, subject in payloads:
        mine = (identities.c.user_id == user) & (identities.c.provider == provider) & (identities.c.subject == subject)
        done.append(bool(database.execute(sa.delete(identities).where(mine)).rowcount))
    return done


def spend(database: Database, payloads: Sequence[Spend]) -> list[bool]:
    """Note each as used; False for one that was. What is over is forgotten by and by."""
    done = []
    for one in payloads:
        insert = "INSERT INTO spent (id, until) VALUES (:id, :until) ON CONFLICT DO NOTHING"
        done.append(bool(database.execute(sa.text(insert), {"id": one.id, "until": one.until}).rowcount))
    if payloads:
        over = sa.select(spent.c.id).where(spent.c.until < payloads[-1].now).limit(_FORGOTTEN_AT_ONCE)
        database.execute(sa.delete(spent).where(spent.c.id.in_(over)))
    return done


def is_spent(database: Database, id: str) -> bool:
    """Whether it was used."""
    return database.execute(sa.select(spent.c.id).where(spent.c.id == id)).first() is not None


def end_all(database: Database, payloads: Sequence[Ending]) -> list[None]:
    """Note of each user that the sessions until then are over; a later note takes the place of an earlier one."""
    for one in payloads:
        insert = (
            "INSERT INTO spent (id, until) VALUES (:id, :until) ON CONFLICT (id) DO UPDATE SET until = excluded.until "
            "WHERE excluded.until > spent.until"
        )
        database.execute(sa.text(insert), {"id": all_of(one.user), "until": one.now + LONGEST})
    return [None] * len(payloads)


def is_ended(database: Database, session: Session) -> bool:
    """Whether a session was ended: it alone, or with all of its user's."""
    wanted = (session.spent_key, session.user_key)
    rows = database.execute(sa.select(spent.c.id, spent.c.until).where(spent.c.id.in_(wanted)))
    found = {row.id: row.until for row in rows}
    ended_at = found.get(session.user_key, 0.0) - LONGEST
    return session.spent_key in found or session.started_at <= ended_at
