"""``Deciding``: what ``Keys`` does, in steps that run blocking or on an event loop."""

from __future__ import annotations

import asyncio
import json
import unicodedata
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from moorline import redaction
from moorline.errors import ConfigurationError, Misuse, RotationRefused
from moorline.identity.rotation import advice, sql
from moorline.identity.rotation.watch import OURS, OWN, Held, Watch
from moorline.secrets import rotation
from moorline.secrets.rotation import UNUSED, Found, Record, Situation, Use
from moorline.secrets.secret import BOM, Secret
from moorline.store.actors import check_actor
from moorline.store.steps import Read, Write

if TYPE_CHECKING:
    from moorline.identity.rotation.advice import KeyStatus
    from moorline.secrets.sources.base import Place
    from moorline.secrets.versions import Version
    from moorline.store.store import Store

__all__ = ["TRAIL", "Blocking", "Deciding", "Steps"]

T = TypeVar("T")
Steps: TypeAlias = Generator[Any, Any, T]
"""Those of the store, and others."""
TRAIL: Final = 20
"""Decisions of which a status tells."""
_TRIES: Final = 5
_SHORTEST: Final = 4
"""Digits of a fingerprint that may stand for it."""


class Blocking:
    """Something that blocks, as a step."""

    __slots__ = ("work",)

    def __init__(self, work: Callable[[], Any]) -> None:
        self.work = work

    def now(self, _: object) -> Any:
        """In this thread."""
        return self.work()

    async def later(self, _: object) -> Any:
        """In another one."""
        return await asyncio.to_thread(self.work)


class Deciding:
    """Decisions on the credentials of an application: read what is known, decide, keep it if nobody else has decided
    meanwhile.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.watch = Watch(store)

    def status_steps(self, name: str, unused: float = UNUSED) -> Steps[KeyStatus]:
        """What ``Keys.status`` gives."""
        kept, uses, situation = yield from self._looked(name, unused)
        trail = yield Read(sql.trail, name, TRAIL)
        return advice.status(name, kept.record, self._held(name), uses, situation, trail)

    def _looked(self, name: str, unused: float) -> Steps[tuple[sql.Kept, list[tuple[str, Use, str]], Situation]]:
        self._check()
        held = self._held(name)
        if news := self.watch.news():  # so that this process, too, stands among those that are asked
            yield Write(sql.told, news)
            self.watch.was_told(news)
        kept: sql.Kept = yield Read(sql.load, name)
        uses: list[tuple[str, Use, str]] = yield Read(sql.uses, name)
        now = self.store.clock.wall()
        # Who only asks and decides, as a command does, may have what nobody else has: what those use counts that run.
        alone = self.watch.tells or not any(use.alive(now) for _, use, _ in uses)
        found = tuple(one.found for one in held) if alone else ()
        return kept, uses, Situation(now, found, [use for _, use, _ in uses], unused)

    def add_steps(
        self, name: str, value: Secret | str | None, source: str | None, actor: str, why: str, *, force: bool
    ) -> Steps[str]:
        """What ``Keys.add`` does."""
        self._check()
        check_actor(actor)
        if (value is None) == (source is None):
            raise ConfigurationError("add: give a value, or the source where it is found")
        if name.startswith(OURS):
            raise ConfigurationError(f"{name} is the application's own: see `moorline keys master`")
        if source is None:
            source = OWN
            secret = value if isinstance(value, Secret) else Secret(value or "", name=name)
            _check_value(name, secret)
            version = yield Blocking(lambda: self._put(name, secret))
        else:
            version = yield Blocking(lambda: _first(self.watch.place(source or "", name)))
            _check_value(name, version.secret)
        mark = self.watch.mark(name, version)
        there = Found(mark, not_before=version.not_before, not_after=version.secret.not_after)

        def decision(record: Record, situation: Situation) -> Record:
            return rotation.add(record, there, situation, source=source or "", force=force)

        yield from self._decided(name, "add", decision, actor, why, version=mark, origin=version.origin)
        return mark

    def _put(self, name: str, secret: Secret) -> Version:
        """Into the application's own table, unless it is there already: nobody looks there before it is added."""
        place = self.watch.place(OWN, name)
        assert self.watch.own is not None
        known = [one for one in place.now().versions if one.secret == secret]
        if not known:
            self.watch.own.put_sync(name, secret, stage="pending")
            place.refresh()
            known = [one for one in place.now().versions if one.secret == secret]
        if not known:
            raise ConfigurationError(f"{name}: what was put into the database is not found there")
        return known[0]

    def promote_steps(self, name: str, version: str, actor: str, why: str, *, force: bool) -> Steps[KeyStatus]:
        """What ``Keys.promote`` does."""
        mark = yield from self._named(name, version)

        def decision(record: Record, situation: Situation) -> Record:
            return rotation.promote(record, mark, situation, force=force)

        yield from self._decided(name, "promote", decision, actor, why, version=mark, force=force)
        return (yield from self.status_steps(name))

    def retire_steps(
        self, name: str, version: str, unused: float, actor: str, why: str, *, force: bool
    ) -> Steps[KeyStatus]:
        """What ``Keys.retire`` does."""
        mark = yield from self._named(name, version)

        def decision(record: Record, situation: Situation) -> Record:
            return rotation.retire(record, mark, situation, force=force)

        yield from self._decided(name, "retire", decision, actor, why, unused, version=mark, force=force)
        return (yield from self.status_steps(name, unused))

    def rollback_steps(self, name: str, actor: str, why: str) -> Steps[KeyStatus]:
        """What ``Keys.rollback`` does."""
        yield from self._decided(name, "rollback", rotation.rollback, actor, why)
        return (yield from self.status_steps(name))

    def knows_steps(self, name: str, version: str) -> Steps[bool]:
        """Whether that fingerprint was added, and is to be had."""
        kept: sql.Kept = yield Read(sql.load, name)
        status = kept.record.status(version)
        return status not in (None, "retired") and any(one.mark == version for one in self._held(name))

    def value_steps(self, name: str, version: str, *, missing: bool = False) -> Steps[Any]:
        """The value of a version that this process has. Raises ConfigurationError, unless it may be *missing*."""
        yield Read(sql.load, name)
        found = next((one.version.secret for one in self._held(name) if one.mark == version), None)
        if found is None and not missing:
            raise ConfigurationError(f"{name}: this process has no version {version}")
        return found

    def forget_steps(self, name: str, version: str) -> Steps[None]:
        """Let go of a value that is of no more use, where the application keeps it itself."""

        def work() -> None:
            for one in self.watch.place(OWN, name).now().versions:
                if self.watch.own is not None and self.watch.mark(name, one) == version:
                    self.watch.own.remove_sync(name, one.id)

        kept: sql.Kept = yield Read(sql.load, name)
        if any(one.version == version and one.source == OWN for one in kept.record.standings):
            yield Blocking(work)

    def _decided(
        self,
        name: str,
        action: str,
        decision: Callable[[Record, Situation], Record],
        actor: str,
        why: str,
        unused: float = UNUSED,
        **detail: Any,
    ) -> Steps[None]:
        """Decide on what is known, unless somebody else has decided meanwhile: then on that."""
        check_actor(actor)
        for _ in range(_TRIES):
            kept, _, situation = yield from self._looked(name, unused)
            record = decision(kept.record, situation)
            if record == kept.record:
                return
            # Redacted before it is cut: half of a value is recognised no more.
            said = {**detail, "why": redaction.text(why)[:500]} if why else detail
            made = sql.Decision(name, kept.revision, record, situation.now, actor, action, said)
            if (yield Write(sql.decide, made)):
                self.watch.decided(name, sql.Kept(record, kept.revision + 1))
                return
        raise RotationRefused(f"{name}: others decide on it at the same time; look at its status, and try again")

    def _named(self, name: str, version: str) -> Steps[str]:
        """The fingerprint of which *version* is the beginning."""
        kept, _, situation = yield from self._looked(name, UNUSED)
        known = {one.version for one in kept.record.standings} | {one.version for one in situation.seen}
        fitting = sorted(one for one in known if one.startswith(version))
        if len(fitting) == 1 and len(version) >= _SHORTEST:
            return fitting[0]
        if len(fitting) > 1:
            raise ConfigurationError(f"{name}: version {version!r} may be {' or '.join(fitting)}")
        some = ", ".join(sorted(known)) or "none is known"
        raise ConfigurationError(f"{name} has no version {version!r}: {some}")

    def _held(self, name: str) -> Sequence[Held]:
        return self.watch.held(name)

    def _check(self) -> None:
        if not self.store.is_open:
            raise Misuse("app.keys: the application is not open")
        if not self.watch.follows:
            raise ConfigurationError(
                "keys cannot be rotated here: MOORLINE_ENCRYPTION_KEY is another one than in the other processes"
            )


def _first(place: Place) -> Version:
    """What is there now."""
    place.refresh()
    found = place.now()
    if not found.versions:
        raise ConfigurationError(f"{place.where}: there is nothing of use")
    return found.versions[0]


def _check_value(name: str, secret: Secret) -> None:
    """Raise ConfigurationError for what nobody means to be part of a key, and no header carries: it would be found out
    when it is used first. Keys that are PEM or JSON have lines.
    """
    value = secret.reveal()
    lined = "\t\r\n" if _has_lines(value) else ""
    wrong = next((one for one in value if one == BOM or (one not in lined and unicodedata.category(one) == "Cc")), None)
    if wrong is not None:
        raise ConfigurationError(f"{name}: the value holds U+{ord(wrong):04X}, which is no part of a key: leave it out")


def _has_lines(value: str) -> bool:
    if value.lstrip().startswith("-----BEGIN "):
        return True
    try:
        return isinstance(json.loads(value), dict | list)
    except (ValueError, RecursionError):
        return False
