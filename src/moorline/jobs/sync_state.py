"""How far a sync is: what is stored with each checkpoint, and how it changes. Decisions only."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from moorline.errors import ConfigurationError

__all__ = ["SyncRun", "SyncState"]

_ERROR: Final = 500  # characters


@dataclass(frozen=True, slots=True)
class SyncRun:
    """One run. Times are seconds since the epoch; *ended* is None while it is under way, or after it broke off: then
    *error* says why, and the next run goes on from *place*, the last checkpoint.

    *applied*, *removed* and *failed* count items; those that failed are jobs of their own by now. *overtaken* is True
    of a run that stopped because another one has moved the checkpoint.
    """

    full: bool
    began: float
    ended: float | None = None
    place: str | None = None
    applied: int = 0
    removed: int = 0
    failed: int = 0
    error: str | None = None
    overtaken: bool = False

    @property
    def items(self) -> int:
        """All that it has dealt with."""
        return self.applied + self.removed + self.failed


@dataclass(frozen=True, slots=True)
class SyncState:
    """*place* is where the next incremental run begins (None: with everything), *run* what is under way, *last* the
    run before that, which came to its end.
    """

    place: str | None = None
    run: SyncRun | None = None
    last: SyncRun | None = None

    def begun(self, now: float, *, full: bool) -> SyncState:
        """A run begins: the one that broke off goes on, unless a full one is wanted in place of an incremental one."""
        if self.run is not None and (self.run.full or not full):
            return replace(self, run=replace(self.run, error=None))
        return replace(self, run=SyncRun(full or self.place is None, now, place=None if full else self.place))

    @property
    def since(self) -> str | None:
        """From where the run under way reads on."""
        return None if self.run is None else self.run.place

    def advanced(self, place: str | None, *, applied: int, removed: int, failed: int) -> SyncState:
        """A batch is done, up to *place* (None: the source names none). Of a full run the others begin there only when
        it has come to its end.
        """
        run = self._running
        run = replace(
            run,
            place=run.place if place is None else place,
            applied=run.applied + applied,
            removed=run.removed + removed,
            failed=run.failed + failed,
        )
        return replace(self, run=run, place=self.place if run.full else run.place)

    def broken(self, error: str) -> SyncState:
        """The run stops for now."""
        return replace(self, run=replace(self._running, error=error[:_ERROR]))

    def ended(self, now: float) -> SyncState:
        """The source has no more."""
        run = replace(self._running, ended=now, error=None)
        return SyncState(self.place if run.place is None else run.place, None, run)

    @property
    def _running(self) -> SyncRun:
        assert self.run is not None
        return self.run

    def to_text(self) -> str:
        """For the database."""
        return json.dumps({"v": 1, **asdict(self)}, separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str | None) -> SyncState:
        """As it was stored; a new one of None. Raises ConfigurationError for what is no state, or a newer program's."""
        if text is None:
            return cls()
        try:
            stored: dict[str, Any] = json.loads(text)
            if stored.pop("v") != 1:
                raise ConfigurationError("the state of this sync was stored by a newer program")
            runs = {name: None if stored[name] is None else SyncRun(**stored[name]) for name in ("run", "last")}
            return cls(stored["place"], **runs)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, ConfigurationError):
                raise
            raise ConfigurationError("what is stored of this sync cannot be read: reset it") from None
