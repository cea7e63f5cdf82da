"""A whole rotation of a key that its service can make itself: mint, add, check, promote, wait, retire, revoke.

Each step is written down before it is taken, with what it needs to be known by. Whoever comes next, after a crash or
because the old key was still in use, goes on from there. No key is written down here: a minted one is kept encrypted
where added keys are, and one that was lost between the service and there is revoked, and another one minted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, cast

import sqlalchemy as sa

from moorline.calls.minting import KnowsKeys, Minted, MintsKeys
from moorline.errors import AuthenticationFailed, ConfigurationError, RotationRefused
from moorline.identity.rotation.deciding import Steps
from moorline.secrets.rotation import UNUSED
from moorline.store.ids import new_id
from moorline.store.schema import key_rotations
from moorline.store.steps import Read, Sleep, Write

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from moorline.calls.call import Call
    from moorline.calls.service import Service
    from moorline.identity.rotation.advice import KeyStatus
    from moorline.identity.rotation.keys import Keys
    from moorline.secrets.secret import Secret

__all__ = ["Minting", "Rotated", "Step", "last", "rotate"]

Step = Literal["mint", "add", "check", "promote", "retire", "revoke", "done"]
_KNOWN_AFTER: Final = 60.0
"""Seconds within which a service knows a new key everywhere, and our own processes have it."""
_MOMENT: Final = 3.0
"""The same, for one who waits for an answer."""
_LOOKS: Final = 1.0


class Minting(NamedTuple):
    """What is written down of a rotation: ``facts`` are a *label*, and as they become known the *id* and *version* of
    the new key, and of the *old* one.
    """

    id: str
    name: str
    service: str
    step: Step
    facts: dict[str, str]
    actor: str
    created_at: float
    updated_at: float
    ended_at: float | None = None


@dataclass(frozen=True, slots=True)
class Rotated:
    """How far a rotation is: *done*, or what is waited for. *told* is what was done now, line by line."""

    step: Step
    done: bool
    told: tuple[str, ...]
    next: str


class _Waits(Exception):
    """The rotation goes on later: at which step it is, and what it waits for."""

    def __init__(self, step: Step, why: str) -> None:
        super().__init__(why)
        self.step = step


class Ask:
    """A Call, as a step."""

    __slots__ = ("call",)

    def __init__(self, call: Call[Any]) -> None:
        self.call = call

    def now(self, _: object) -> Any:
        """Blocks."""
        return self.call.result()

    async def later(self, _: object) -> Any:
        """Suspends."""
        return await self.call


def rotate(
    keys: Keys,
    service: Service,
    with_key: Callable[[Secret], Service],
    *,
    actor: str,
    unused: float = UNUSED,
    wait: float = 0.0,
    force: bool = False,
    at_once: bool = False,
) -> Steps[Rotated]:
    """Rotate the key of *service*, or go on with what was begun. *with_key* makes one that has the given key, to check
    it. For at most *wait* seconds it is waited until the old key was unused for *unused* seconds. *at_once* is for a
    page that answers: nothing else is waited for longer than a moment, and a key that another run may be making just
    now is left to it.

    Raises ConfigurationError for a service that makes no keys, RotationRefused, CallError.
    """
    if not isinstance(service, MintsKeys):
        raise ConfigurationError(f"{service.name} makes no keys by its API; add one by hand: moorline keys add")
    if service.variable is None:
        raise ConfigurationError(f"{service.name} was given its key as an argument, and not found by its name")
    run = _Run(keys, service, with_key, actor, unused, force=force, at_once=at_once)
    try:
        at = yield from run.begun()
        while at.ended_at is None:
            if at.step == "retire" and not (yield from run.may_retire(at, wait)):
                return Rotated("retire", done=False, told=tuple(run.told), next=run.waiting)
            at = yield from run.taken(at)
    except _Waits as waits:
        return Rotated(waits.step, done=False, told=tuple(run.told), next=str(waits))
    return Rotated("done", done=True, told=tuple(run.told), next=run.waiting or "nothing needs to be done")


class _Run:
    """One run of a rotation."""

    def __init__(
        self,
        keys: Keys,
        service: Service,
        with_key: Callable[[Secret], Service],
        actor: str,
        unused: float,
        *,
        force: bool,
        at_once: bool,
    ) -> None:
        self._keys = keys
        self._service = service
        self._mints = cast("MintsKeys", service)
        self._with_key = with_key
        self._actor = actor
        self._unused = unused
        self._force = force
        self._at_once = at_once
        self._clock = keys.store.clock
        self._name = service.variable or service.credentials.env
        self.told: list[str] = []
        self.waiting = ""

    def begun(self) -> Steps[Minting]:
        """The rotation that is under way, or a new one."""
        while True:
            found: Minting | None = yield Read(last, self._name)
            if found is not None and found.ended_at is None:
                self._check_alone(found)
                self.told.append(f"going on with the rotation that {found.actor} began, at its step {found.step!r}")
                return found
            status: KeyStatus = yield from self._keys.status_steps(self._name, self._unused)
            used = [one for one in status.versions if one.place is not None]
            if not used:
                raise ConfigurationError(f"{self._service.name} has no key that could make another one")
            now = self._clock.wall()
            new = Minting(
                new_id(now), self._name, self._service.name, "mint", {"old": used[0].version}, self._actor, now, now
            )
            if (yield Write(_begin, new)):
                return new

    def _check_alone(self, at: Minting) -> None:
        """Of two who make a key at the same time, one makes it in vain, and the service keeps it."""
        if self._at_once and at.step in ("mint", "add") and self._clock.wall() - at.updated_at < _KNOWN_AFTER:
            raise _Waits(at.step, f"{at.actor} has just asked {at.service} for a new key: look again in a minute")

    def taken(self, at: Minting) -> Steps[Minting]:
        """Take the next step; what is written down then."""
        steps: dict[Step, Callable[[Minting], Steps[Minting]]] = {
            "mint": self._mint,
            "add": self._lost_or_added,
            "check": self._check,
            "promote": self._promote,
            "retire": self._retire,
            "revoke": self._revoke,
        }
        return (yield from steps[at.step](at))

    def _wrote(self, at: Minting, step: Step, **facts: str | None) -> Steps[Minting]:
        known = {**at.facts, **{name: value for name, value in facts.items() if value is not None}}
        now = self._clock.wall()
        after = at._replace(step=step, facts=known, updated_at=now, ended_at=now if step == "done" else None)
        if not (yield Write(_change, (at, after))):
            raise RotationRefused(f"{self._name}: another process rotates it at the same time")
        return after

    # --- the steps

    def _mint(self, at: Minting) -> Steps[Minting]:
        """The label is written down first: by it a key is found of which nobody got the answer."""
        if "label" in at.facts:
            yield from self._revoke_all(at.facts["label"])
        label = f"moorline {new_id(self._clock.wall())}"
        at = yield from self._wrote(at, "mint", label=label)
        minted: Minted = yield Ask(self._mints.mint_key(label))
        mark = self._keys.watch.mark_of(self._name, minted.secret)
        at = yield from self._wrote(at, "add", id=minted.id, version=mark)
        yield from self._keys.add_steps(self._name, minted.secret, None, self._actor, f"minted as {label}", force=False)
        self.told.append(f"minted {mark}, called {label!r} at {self._service.name}, and added it")
        return (yield from self._wrote(at, "check"))

    def _revoke_all(self, label: str) -> Steps[None]:
        if not isinstance(self._service, KnowsKeys):
            self.told.append(f"a key called {label!r} may be at {self._service.name}: nobody has it, delete it there")
            return
        ids: Sequence[str] = yield Ask(self._service.find_keys(label))
        for one in ids:
            yield Ask(self._mints.revoke_key(one))
            self.told.append(f"revoked {one}, whose value was lost")

    def _lost_or_added(self, at: Minting) -> Steps[Minting]:
        """A run ended between minting and adding, or right after it."""
        if (yield from self._keys.knows_steps(self._name, at.facts["version"])):
            return (yield from self._wrote(at, "check"))
        yield Ask(self._mints.revoke_key(at.facts["id"]))
        self.told.append(f"revoked {at.facts['id']}, whose value was lost")
        facts = {name: value for name, value in at.facts.items() if name == "old"}
        return (yield from self._wrote(at._replace(facts=facts), "mint"))

    def _check(self, at: Minting) -> Steps[Minting]:
        """The service's own health check, with the new key; it may take a moment until it is known there."""
        secret = yield from self._keys.value_steps(self._name, at.facts["version"])
        service: Any = self._with_key(secret)
        until = self._patience(at)
        while True:
            try:
                yield Ask(service.check())
            except AuthenticationFailed as error:
                why = f"{self._service.name} does not accept {at.facts['version']} yet"
                yield from self._later(at, until, error, why)
            else:
                self.told.append(f"{self._service.name} accepts {at.facts['version']}")
                return (yield from self._wrote(at, "promote"))

    def _promote(self, at: Minting) -> Steps[Minting]:
        """As soon as all running processes have it."""
        until = self._patience(at)
        while True:
            try:
                yield from self._keys.promote_steps(
                    self._name, at.facts["version"], self._actor, f"rotation {at.id}", force=self._force
                )
            except RotationRefused as refused:
                yield from self._later(at, until, refused, str(refused))
            else:
                self.told.append(f"{at.facts['version']} is used first from now on")
                return (yield from self._wrote(at, "retire"))

    def _patience(self, at: Minting) -> tuple[float, float]:
        """Until when the step is waited for here, and until when it is none to wait for any more (monotonic)."""
        now = self._clock.monotonic()
        if not self._at_once:
            return now + _KNOWN_AFTER, now + _KNOWN_AFTER
        return now + _MOMENT, now + _KNOWN_AFTER - (self._clock.wall() - at.updated_at)

    def _later(self, at: Minting, until: tuple[float, float], error: Exception, why: str) -> Steps[None]:
        """Wait for a moment, or for the next run; raises *error* where that has lasted too long."""
        now = self._clock.monotonic()
        if now >= until[1]:
            raise error
        if now >= until[0]:
            raise _Waits(at.step, f"{why}; then run it again: moorline keys rotate {self._service.name}") from error
        yield Sleep(_LOOKS)

    def may_retire(self, at: Minting, wait: float) -> Steps[bool]:
        """Whether the old key is in use no longer, after at most *wait* seconds."""
        until = self._clock.monotonic() + wait
        while True:
            try:
                yield from self._keys.retire_steps(
                    self._name, at.facts["old"], self._unused, self._actor, f"rotation {at.id}", force=self._force
                )
            except RotationRefused as refused:
                self.waiting = f"{refused}; then run it again: moorline keys rotate {self._service.name}"
                if self._clock.monotonic() >= until:
                    return False
                yield Sleep(min(_LOOKS, wait))
            else:
                self.waiting = ""
                return True

    def _retire(self, at: Minting) -> Steps[Minting]:
        self.told.append(f"{at.facts['old']} is accepted no more")
        return (yield from self._wrote(at, "revoke"))

    def _revoke(self, at: Minting) -> Steps[Minting]:
        old = yield from self._old_id(at)
        if old is None:
            self.waiting = f"delete the old key at {self._service.name} by hand: moorline does not know its id"
        else:
            known = yield Ask(self._mints.revoke_key(old))
            self.told.append(f"revoked {old} at {self._service.name}" if known else f"{old} was revoked already")
        yield from self._keys.forget_steps(self._name, at.facts["old"])
        return (yield from self._wrote(at, "done"))

    def _old_id(self, at: Minting) -> Steps[str | None]:
        """From the rotation that has minted it, or from the key itself."""
        found: str | None = yield Read(_id_of, self._name, at.facts["old"])
        if found is None and isinstance(self._service, KnowsKeys):
            secret = yield from self._keys.value_steps(self._name, at.facts["old"], missing=True)
            found = None if secret is None else self._service.key_id(secret)
        return found


# --- the statements


def last(connection: Connection, name: str) -> Minting | None:
    """The last rotation of that credential, under way or not."""
    query = sa.select(key_rotations).where(key_rotations.c.name == name).order_by(key_rotations.c.id.desc()).limit(1)
    row = connection.execute(query).first()
    return None if row is None else _made(row)


def _made(row: Any) -> Minting:
    values = {name: getattr(row, name) for name in Minting._fields}
    return Minting(**{**values, "facts": json.loads(row.facts)})


def _id_of(connection: Connection, name: str, version: str) -> str | None:
    for row in connection.execute(sa.select(key_rotations).where(key_rotations.c.name == name)):
        facts = _made(row).facts
        if facts.get("version") == version:
            return facts.get("id")
    return None


def _begin(connection: Connection, payloads: list[Minting]) -> list[bool]:
    """Begin each; False where one is under way already."""
    columns = ", ".join(Minting._fields)
    given = ", ".join(f":{one}" for one in Minting._fields)
    insert = f"INSERT INTO key_rotations ({columns}) VALUES ({given}) ON CONFLICT DO NOTHING"  # noqa: S608 (our columns)
    rows = [{**one._asdict(), "facts": json.dumps(one.facts)} for one in payloads]
    return [bool(connection.execute(sa.text(insert), row).rowcount) for row in rows]


def _change(connection: Connection, payloads: list[tuple[Minting, Minting]]) -> list[bool]:
    """Write down each step; False where somebody else has."""
    done = []
    for before, after in payloads:
        same = (key_rotations.c.id == before.id) & (key_rotations.c.step == before.step)
        same &= key_rotations.c.updated_at == before.updated_at
        values = {**after._asdict(), "facts": json.dumps(after.facts)}
        done.append(bool(connection.execute(sa.update(key_rotations).where(same).values(**values)).rowcount))
    return done
