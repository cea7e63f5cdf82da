"""``Watch``: lets a process follow what was decided on its credentials, and tells how it uses them.

A call asks ``arrange``, which looks something up in a dictionary, and adds to a counter. A thread reads the decisions
every two seconds, and writes what was counted: in one group, and only what changed, or that the process still lives.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from moorline.errors import ConfigurationError, Misuse, MoorlineError
from moorline.identity.rotation import sql
from moorline.identity.rotation.marks import Marks
from moorline.secrets import rotation
from moorline.secrets.locker import Arrange, Secrets, secrets
from moorline.secrets.rotation import Found, Record, Use
from moorline.secrets.tally import Tally
from moorline.store.ids import new_id
from moorline.telemetry import logger

if TYPE_CHECKING:
    from moorline.secrets.keyring import KeyRing
    from moorline.secrets.secret import Secret
    from moorline.secrets.sources.base import Place, Writable
    from moorline.secrets.versions import Found as AtPlace
    from moorline.secrets.versions import Version
    from moorline.store.store import Store

__all__ = ["OURS", "OWN", "Held", "Watch"]

_ALIVE: Final = 60.0
"""Seconds after which a process says that it lives, although nothing has changed."""
OWN: Final = "store:"
"""Where the application keeps credentials itself."""
OURS: Final = "MOORLINE_"
"""The application's own keys are rotated by ``moorline keys master``."""

log = logger("secrets")


class Held(NamedTuple):
    """A version that this process has: its fingerprint, and the version itself."""

    mark: str
    version: Version

    @property
    def found(self) -> Found:
        """As a decision looks at it."""
        secret, early = self.version.secret, self.version.not_before
        return Found(self.mark, pending=self.version.stage == "pending", not_before=early, not_after=secret.not_after)


@dataclass(frozen=True, slots=True)
class _Known:
    """What a source gave, what this process has beside it, and what was made of it; good until then (wall clock)."""

    given: tuple[Version, ...]
    beside: tuple[AtPlace, ...]
    held: tuple[Held, ...]
    result: tuple[Version, ...]
    until: float | None


class Watch:
    """Of one process of an application. ``role`` is what the process is for, for people; one that *tells* nothing is
    there to look and decide only. It reads and writes *every* so many seconds.
    """

    tells = True
    every = 2.0

    def __init__(self, store: Store) -> None:
        self.store = store
        self.role = Path(sys.argv[0]).name[:60] or "python"
        self.process = ""
        self.own: Writable | None = None
        self._locker: Secrets | None = None
        self._before: tuple[Arrange | None, Callable[[str], tuple[Secret, ...]]] = None, lambda _: ()
        self._marks: Marks | None = None
        self._kept: dict[str, sql.Kept] = {}
        self._known: dict[str, _Known] = {}
        self._places: dict[tuple[str, str], tuple[Secrets, int, Place]] = {}
        self._lacking: dict[tuple[str, str], str] = {}
        self._tallies: dict[tuple[str, str], Tally] = {}
        self._told: dict[tuple[str, str], tuple[int, int, int, float]] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._away = self._begun = False
        store.before_close(self.end)

    # --- beginning and ending

    def begin(self, ring: KeyRing | None) -> None:
        """Read what was decided, and follow it from now on. Blocking; raises StoreError, ConfigurationError."""
        if self._begun:
            return
        self._begun = True
        self._marks = Marks.of_store(self.store, ring)
        if self._marks is None:
            log.warning("rotation_off", reason="MOORLINE_ENCRYPTION_KEY is not what other processes have")
            return
        self.process = new_id(self.store.clock.wall())
        self._kept = self.store.read_sync(sql.load_all)
        for name, kept in self._kept.items():  # while nobody waits: a call must not have to ask another machine
            list(self._beside(kept.record, name))
        self._closing = threading.Event()
        self._before = secrets().arrange, secrets().retired
        secrets().arrange, secrets().retired = self.arrange, self.retired

    def attach(self, own: Writable) -> None:
        """Keep added versions where the application keeps credentials itself, and find them there. Wherever else that
        is attached, here it is this application's.
        """
        told = own.changed
        self._locker = Secrets()
        self._locker.attach(own)
        own.changed, self.own = told, own

    def end(self) -> None:
        """Tell what was not told yet, and follow no longer."""
        self._begun = False
        if self._marks is None:
            return
        if secrets().arrange == self.arrange:
            secrets().arrange, secrets().retired = self._before
        with self._lock:
            thread, self._thread = self._thread, None
            self._closing.set()
        if thread is not None:
            thread.join()
        if self._locker is not None:
            self._locker.close()
            self._locker = self.own = None
        if self._known:
            self.flush()
            if not self._away:
                self._write(sql.gone, self.process)
        self._marks = None
        self._known.clear()
        self._lacking.clear()
        self._told.clear()
        self._tallies.clear()

    @property
    def follows(self) -> bool:
        """Whether decisions count in this process."""
        return self._marks is not None

    # --- at each call

    def arrange(self, name: str, versions: tuple[Version, ...]) -> tuple[Version, ...]:
        """The versions of a credential in the order that was decided; see ``Secrets.arrange``."""
        known = self._known.get(name)
        if known is not None and known.given is versions:
            return known.result
        if name.startswith(OURS) or self._marks is None:
            return versions
        known = self._known[name] = self._arranged(name, versions)
        if self._thread is None:
            self._start()
        return known.result

    def _arranged(self, name: str, versions: tuple[Version, ...]) -> _Known:
        record, now = self._record(name), self.store.clock.wall()
        beside = tuple(self._beside(record, name))
        held: dict[str, Held] = {}
        for version in (*versions, *(one for found in beside for one in found.versions)):
            mark = self.mark(name, version)
            if mark not in held:
                held[mark] = Held(mark, version)
                self._count(name, mark, version)
        found = [one.found for one in held.values()]
        order, good = rotation.arranged(record, found, now)
        result = tuple(held[mark].version for mark in order)
        if not good:
            result = tuple(replace(one, stage="retired") for one in result)
            if result:
                log.error("only_retired_keys", variable=name)
        if len(result) == len(versions) and all(a is b for a, b in zip(result, versions, strict=True)):
            result = versions
        moments = [at for one in found for at in (one.not_before, one.not_after) if at is not None and at > now]
        return _Known(versions, beside, tuple(held.values()), result, min(moments, default=None))

    def _beside(self, record: Record, name: str, *, anew: bool = False) -> Iterator[AtPlace]:
        """What is at the places of added versions, which are asked *anew* where something was decided. Of one that
        cannot say it is told once.
        """
        for source in _sources(record):
            try:
                place = self.place(source, name)
                if anew:
                    place.refresh()
                found = place.now()
            except MoorlineError as error:
                reason = str(error)
                if anew or self._lacking.get((source, name)) != reason:
                    log.warning("added_key_not_there", variable=name, source=source, reason=reason)
                self._lacking[source, name] = reason
            else:
                self._lacking.pop((source, name), None)
                yield found

    def place(self, source: str, name: str) -> Place:
        """Where an added version is: the same object as long as the sources are the same. Raises ConfigurationError."""
        among = secrets()
        if source == OWN:
            if self._locker is None:
                raise ConfigurationError(f"{name}: added values are kept encrypted: set MOORLINE_ENCRYPTION_KEY")
            among = self._locker
        known = self._places.get((source, name))
        if known is None or known[:2] != (among, among.generation):
            known = self._places[source, name] = among, among.generation, among.at(source, name)
        return known[2]

    def mark(self, name: str, version: Version) -> str:
        """The fingerprint of a version."""
        return self.mark_of(name, version.secret)

    def mark_of(self, name: str, secret: Secret) -> str:
        """The fingerprint of a value. Raises Misuse where nothing is followed."""
        if self._marks is None:
            raise Misuse("app.keys: the application is not open")
        return self._marks.of(name, secret)

    def _record(self, name: str) -> Record:
        kept = self._kept.get(name)
        return Record() if kept is None else kept.record

    def _count(self, name: str, mark: str, version: Version) -> None:
        tally = self._tallies.get((name, mark))
        if tally is None:
            tally = self._tallies[name, mark] = Tally(name, mark)
        tally.called = version.origin.removeprefix("env:")
        before = version.secret.tally
        if before is not None and before is not tally and before.shunned_until:
            tally.shunned_until = before.shunned_until
        version.secret.tally = tally

    # --- for decisions

    def held(self, name: str) -> tuple[Held, ...]:
        """The versions that this process has, in the order of its sources."""
        try:
            secrets().versions(name)
        except MoorlineError as error:
            log.warning("secret_unusable", variable=name, reason=str(error))
        known = self._known.get(name)
        return () if known is None else known.held

    def retired(self, name: str) -> tuple[Secret, ...]:
        """The values that this process has, and that are accepted no more."""
        known, out = self._known.get(name), self._record(name).retired
        return () if known is None else tuple(one.version.secret for one in known.held if one.mark in out)

    @property
    def names(self) -> list[str]:
        """The credentials that were asked for in this process, and found."""
        return sorted(name for name, known in self._known.items() if known.held)

    def decided(self, name: str, kept: sql.Kept) -> None:
        """Something was decided in this process: it holds at once."""
        self._kept = {**self._kept, name: kept}
        self._known.pop(name, None)

    # --- the thread

    def _start(self) -> None:
        with self._lock:
            if self._thread is None and not self._closing.is_set():
                self._thread = threading.Thread(
                    target=self._run, args=(self._closing,), name="moorline-keys", daemon=True
                )
                self._thread.start()

    def _run(self, closing: threading.Event) -> None:
        if self.tells:
            self._surely(lambda: self._write(sql.forget, self.store.clock.wall()))
        while not closing.wait(self.every):
            self._surely(self.flush)
            self._surely(self.refresh)

    def _surely(self, step: Callable[[], object]) -> None:
        """A process that cannot follow goes on telling what it uses: else it would count as gone."""
        try:
            step()
        except Exception as error:  # noqa: BLE001 (nobody else would tell, and follow)
            log.error("rotation_failed", reason=type(error).__name__)

    def refresh(self) -> None:
        """Read what was decided; what changed holds from the next call on."""
        try:
            kept = self.store.read_sync(sql.load_all)
        except (MoorlineError, RuntimeError) as error:
            self._failed(error)
            return
        self._away = False
        before, self._kept = self._kept, kept
        now = self.store.clock.wall()
        for name, known in list(self._known.items()):
            anew = before.get(name) != kept.get(name)
            beside = tuple(self._beside(self._record(name), name, anew=anew))
            if anew or beside != known.beside or (known.until is not None and now >= known.until):
                self._known.pop(name, None)
            self.held(name)  # what it has is told whether it is used or not

    def flush(self) -> None:
        """Write what was counted, and what this process has."""
        news = self.news()
        if news and self._write(sql.told, news):
            self.was_told(news)

    def news(self) -> list[sql.Told]:
        """What is to be told."""
        now = self.store.clock.wall()
        if not self.tells:
            return []
        held = [
            self._news(name, one, place, now)
            for name, known in list(self._known.items())
            for place, one in enumerate(known.held)
        ]
        return [one for one in held if one is not None]

    def was_told(self, news: list[sql.Told]) -> None:
        """It was written."""
        for each in news:
            key, use = (each.name, each.use.version), each.use
            accepted, refused, _, _ = self._told.get(key, (0, 0, 0, 0.0))
            self._told[key] = accepted + use.accepted, refused + use.refused, use.place, use.told_at

    def _news(self, name: str, one: Held, place: int, now: float) -> sql.Told | None:
        tally = self._tallies[name, one.mark]
        accepted, refused, before, at = self._told.get((name, one.mark), (0, 0, -1, -1e18))
        new = tally.accepted - accepted, tally.refused - refused
        if new == (0, 0) and before == place and now - at < _ALIVE:
            return None
        use = Use(
            one.mark,
            self.process,
            socket.gethostname(),
            os.getpid(),
            self.role,
            place,
            now,
            first_at=tally.first_at,
            last_at=tally.last_at if new[0] else None,
            accepted=new[0],
            refused=new[1],
            refused_at=tally.refused_at if new[1] else None,
            not_before=one.version.not_before,
            not_after=one.version.secret.not_after,
        )
        return sql.Told(name, use, one.version.origin)

    def _write(self, apply: object, payload: object) -> bool:
        try:
            self.store.write_sync(apply, payload)  # type: ignore[arg-type]
        except MoorlineError as error:
            self._failed(error)
            return False
        return True

    def _failed(self, error: Exception) -> None:
        """The store is away: what was decided last goes on, and what was counted is told later."""
        if not self._away:
            self._away = True
            log.warning("rotation_not_followed", reason=str(error))


def _sources(record: Record) -> list[str]:
    """Where versions are that were added."""
    return sorted({one.source for one in record.standings if one.source and one.status != "retired"})
