"""The rotation of a credential, as a state machine: which of its versions are used in which order, and which no longer.

A version is known by its fingerprint, whatever source it comes from. It is

``added``    accepted, and used after all others
``first``    used first; there is one at most
``old``      was first; it is still accepted, and used after the first
``retired``  accepted no more

``add`` makes it the first of these, ``promote`` the second (and the one before it old), ``retire`` the last;
``rollback`` undoes the last of them. What is in no state was found at a source, and nobody has decided on it: then the
source's order counts. These are pure decisions; each raises RotationRefused, saying why and what to do instead, where
somebody would be left without a key that is good.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from moorline.errors import RotationRefused

__all__ = [
    "ALIVE",
    "UNUSED",
    "Found",
    "Record",
    "Situation",
    "Standing",
    "Status",
    "Use",
    "add",
    "ago",
    "arranged",
    "promote",
    "retire",
    "rollback",
]

Status = Literal["added", "first", "old", "retired"]

UNUSED: Final = 86_400.0
"""Seconds for which a version must not have been used, to be retired without force."""
ALIVE: Final = 180.0
"""Seconds after its last word for which a process counts as running."""
_RANK: Final = {"first": 0, "old": 1, "added": 3}
_UNDECIDED: Final = 2


@dataclass(frozen=True, slots=True)
class Found:
    """A version as a source shows it; *pending* where the source itself says that it is not for use yet."""

    version: str
    pending: bool = False
    not_before: float | None = None
    not_after: float | None = None

    def good(self, now: float) -> bool:
        """Whether its time has come, and is not over."""
        return (self.not_before is None or self.not_before <= now) and (self.not_after is None or now < self.not_after)


@dataclass(frozen=True, slots=True)
class Standing:
    """What was decided of a version, and when (seconds since the epoch). *source* is the URL at which it is found
    beside the places where the credential is usually looked for.
    """

    version: str
    status: Status
    since: float
    source: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """All that was decided of a credential, and how it was before the last decision."""

    standings: tuple[Standing, ...] = ()
    before: tuple[Standing, ...] | None = None
    """None: nothing that could be undone."""

    def status(self, version: str) -> Status | None:
        """What was decided of *version*."""
        return next((one.status for one in self.standings if one.version == version), None)

    @property
    def retired(self) -> frozenset[str]:
        """Those that are accepted no more."""
        return frozenset(one.version for one in self.standings if one.status == "retired")


@dataclass(frozen=True, slots=True)
class Use:
    """What a process has told of a version: that it has it, at which *place* of its own order, and how that went.

    Times are seconds since the epoch: ``told_at`` of its last word, ``last_at`` of its last use that was accepted,
    ``refused_at`` of the last one that the service refused. ``process`` is the process's own id; ``begun_at``
    is when it began to count, where that is known.
    """

    version: str
    process: str
    host: str
    pid: int
    role: str
    place: int
    told_at: float
    first_at: float | None = None
    last_at: float | None = None
    accepted: int = 0
    refused: int = 0
    refused_at: float | None = None
    not_before: float | None = None
    not_after: float | None = None
    begun_at: float | None = None

    @property
    def who(self) -> str:
        """For people."""
        return f"{self.role} {self.pid} on {self.host}"

    def alive(self, now: float) -> bool:
        """Whether the process still runs, as far as is known."""
        return now - self.told_at < ALIVE


@dataclass(frozen=True, slots=True)
class Situation:
    """What a decision looks at: *found* are the versions at the sources of who decides, in their order; *uses* what all
    processes have told.
    """

    now: float
    found: Sequence[Found] = ()
    uses: Sequence[Use] = ()
    unused: float = UNUSED

    @property
    def running(self) -> Mapping[str, list[Use]]:
        """What each running process has, in its order."""
        held: dict[str, list[Use]] = {}
        for use in sorted(self.uses, key=lambda one: (one.process, one.place, one.version)):
            if use.alive(self.now):
                held.setdefault(use.process, []).append(use)
        return held

    @property
    def seen(self) -> tuple[Found, ...]:
        """All versions that somebody has now: those found here, then those of running processes by their places."""
        seen = {one.version: one for one in self.found}
        others = (use for held in self.running.values() for use in held)
        for use in sorted(others, key=lambda one: (one.place, one.version)):
            known = Found(use.version, not_before=use.not_before, not_after=use.not_after)
            seen.setdefault(use.version, known)
        return tuple(seen.values())


def arranged(record: Record, found: Sequence[Found], now: float) -> tuple[tuple[str, ...], bool]:
    """The versions in the order in which they are used, of those that are *found*; and whether these are good.

    Those that are retired are left out. Where nothing else is found they are all that there is, and the second is
    False: for a request of ours they are better than none, but nothing may be believed for their sake. What a source
    puts in front of all, and nobody has decided on, is newer than the decisions, and stays in front.
    """
    retired = record.retired
    usable = [one for one in found if one.version not in retired]
    if not usable:
        return tuple(one.version for one in sorted(found, key=lambda one: not one.good(now))), False
    standings = {one.version: one for one in record.standings}
    newer = []
    for one in usable:
        if one.version in standings or one.pending:
            break
        newer.append(one.version)

    def key(place: int, one: Found) -> tuple[bool, int, float, int, str]:
        standing = standings.get(one.version)
        late = not one.good(now)
        if one.version in newer:
            return late, -1, 0.0, place, one.version
        if standing is None:
            return late, _RANK["added"] if one.pending else _UNDECIDED, 0.0, place, one.version
        # Of several old ones, the one that was first last; of several added ones, the one that was added first.
        since = -standing.since if standing.status == "old" else standing.since
        return late, _RANK[standing.status], since, 0, one.version

    ordered = sorted(enumerate(usable), key=lambda pair: key(*pair))
    return tuple(one.version for _, one in ordered), True


def add(record: Record, found: Found, situation: Situation, *, source: str = "", force: bool = False) -> Record:
    """Accept *found*, and use it after all others. One that is accepted already stays as it is."""
    status = record.status(found.version)
    if status == "retired" and not force:
        raise RotationRefused(f"{found.version} was retired; add it again with force, if that was a mistake")
    if status not in (None, "retired"):
        return record
    if found.not_after is not None and found.not_after <= situation.now:
        raise RotationRefused(f"{found.version} is over already")
    adopted = _adopted(record, situation, but=found.version)
    return _changed(adopted, {found.version: "added"}, situation.now, record, source)


def promote(record: Record, version: str, situation: Situation, *, force: bool = False) -> Record:
    """Use *version* first. *force*: even where a running process does not have it, which goes on with what it has."""
    seen = {one.version: one for one in situation.seen}
    status = record.status(version)
    if status == "retired":
        raise RotationRefused(f"{version} was retired; add it again first")
    without = [held[0] for held in situation.running.values() if version not in {one.version for one in held}]
    if without and not force and (status is not None or version in seen):
        raise RotationRefused(f"{version} is not yet at {_list(without)}; wait for it, or use force")
    if version not in seen:
        raise RotationRefused(f"{version} is nowhere to be found{_known(seen)}")
    if not seen[version].good(situation.now):
        raise RotationRefused(f"{version} is not good now: its time has not come, or is over")
    if status == "first" and arranged(record, situation.seen, situation.now)[0][:1] == (version,):
        return record
    adopted = _adopted(record, situation)
    changes: dict[str, Status] = {one.version: "old" for one in adopted.standings if one.status == "first"}
    # Whatever a source has put in front meanwhile is decided on with it.
    changes |= {one.version: "old" for one in seen.values() if not one.pending and adopted.status(one.version) is None}
    return _changed(adopted, changes | {version: "first"}, situation.now, record)


def retire(record: Record, version: str, situation: Situation, *, force: bool = False) -> Record:
    """Accept *version* no more. *force*: even if it was used lately, or is the first; never the last good one of
    anybody.
    """
    status = record.status(version)
    seen = {one.version: one for one in situation.seen}
    if status == "retired":
        return record
    if status is None and version not in seen:
        raise RotationRefused(f"{version} is nowhere to be found{_known(seen)}")
    adopted = _adopted(record, situation)
    out = {*adopted.retired, version}
    if situation.seen and not _any_good(situation.seen, out, situation.now):
        raise RotationRefused(f"{version} is the only one that is good; add another one first")
    for held in situation.running.values():
        if any(use.version == version for use in held) and not _any_good(map(_as_found, held), out, situation.now):
            raise RotationRefused(f"{held[0].who} has no other one that is good; deploy another one there, or stop it")
    if not force:
        _check_unused(record, version, situation)
    return _changed(adopted, {version: "retired"}, situation.now, record)


def _check_unused(record: Record, version: str, situation: Situation) -> None:
    """Raise RotationRefused unless nobody has used it for so long, and it was so long that nobody had to."""
    now, unused = situation.now, situation.unused
    if arranged(record, situation.seen, now)[0][:1] == (version,):
        raise RotationRefused(f"{version} is used first; promote another one before it is retired")
    lately = [one for one in situation.uses if one.version == version and _used(one, situation)]
    if lately:
        told = "; ".join(f"{one.who}, {ago(now - (one.last_at or 0.0))} ago" for one in _latest(lately)[:3])
        raise RotationRefused(f"{version} was used within {ago(unused)}: {told}; wait until nobody does, or use force")
    standing = next((one for one in record.standings if one.version == version), None)
    if standing is None:
        _check_known(version, situation)
    elif standing.status == "old" and (since := standing.since) > now - unused:
        raise RotationRefused(
            f"{version} was used first until {ago(now - since)} ago: whether somebody still needs it is known after "
            f"{ago(unused)}; wait, or use force"
        )


def _check_known(version: str, situation: Situation) -> None:
    """The same of one that nobody has decided on: that it was used first at some time is not known, nor when."""
    now, unused = situation.now, situation.unused
    begun = [one.begun_at for one in situation.uses if one.version == version and one.begun_at is not None]
    since = min(begun, default=now)
    if now - since < unused:
        told = f"who uses {version} is told only for {ago(now - since)}" if begun else f"nobody has told of {version}"
        raise RotationRefused(
            f"{told}: whether somebody still needs it is known {ago(unused)} after a process that has it began; wait, "
            "or use force"
        )


def rollback(record: Record, situation: Situation) -> Record:
    """Undo the last decision. Of one that was added only now, nothing is left but that it is retired."""
    if record.before is None:
        raise RotationRefused("there is nothing to be undone; promote the version that is to be used first")
    before = {one.version: one for one in record.before}
    changed = [one for one in record.standings if one.version not in before and one.status == "added"]
    standings = [*record.before, *(replace(one, status="retired", since=situation.now) for one in changed)]
    undone = Record(tuple(sorted(standings, key=lambda one: one.version)))
    if situation.seen and not _any_good(situation.seen, undone.retired, situation.now):
        raise RotationRefused("without the last decision nobody would have a key that is good; add another one first")
    for held in situation.running.values():
        mine = list(map(_as_found, held))
        if _any_good(mine, record.retired, situation.now) and not _any_good(mine, undone.retired, situation.now):
            raise RotationRefused(f"{held[0].who} would be left without a key that is good")
    first = next((one for one in undone.standings if one.status == "first"), None)
    known = {one.version: one for one in situation.seen}
    if first is not None and first.version in known and not known[first.version].good(situation.now):
        raise RotationRefused(f"{first.version}, which was used before, is over")
    return undone


def _adopted(record: Record, situation: Situation, *, but: str = "") -> Record:
    """*record*; the very first decision is made with what is in use until then: the sources' first is the first."""
    if record.standings:
        return record
    order, _ = arranged(record, [one for one in situation.seen if one.version != but], situation.now)
    waiting = {one.version for one in situation.seen if one.pending}
    made = []
    for place, version in enumerate(order):
        status: Status = "first" if place == 0 else "added" if version in waiting else "old"
        made.append(Standing(version, status, situation.now - place))
    return Record(tuple(made))


def _changed(record: Record, changes: Mapping[str, Status], now: float, before: Record, source: str = "") -> Record:
    standings = {one.version: one for one in record.standings}
    for version, status in changes.items():
        known = standings.get(version)
        standings[version] = Standing(version, status, now, source or ("" if known is None else known.source))
    ordered = tuple(sorted(standings.values(), key=lambda one: one.version))
    # What was adopted just now was so before, too.
    return Record(ordered, before.standings or record.standings)


def _any_good(versions: Iterable[Found], retired: Collection[str], now: float) -> bool:
    return any(one.version not in retired and one.good(now) for one in versions)


def _as_found(use: Use) -> Found:
    return Found(use.version, not_before=use.not_before, not_after=use.not_after)


def _used(use: Use, situation: Situation) -> bool:
    return use.last_at is not None and situation.now - use.last_at < situation.unused


def _latest(uses: Iterable[Use]) -> list[Use]:
    return sorted(uses, key=lambda one: (-(one.last_at or 0.0), one.process))


def _known(versions: Collection[str]) -> str:
    return f"; there are {', '.join(sorted(versions))}" if versions else ""


def _list(uses: Sequence[Use]) -> str:
    some = ", ".join(one.who for one in uses[:3])
    return some if len(uses) <= 3 else f"{some} and {len(uses) - 3} more"


def ago(seconds: float) -> str:
    """A length of time for people."""
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
