"""What an operator is told of a credential: each version with who has and uses it, and what to do next, in one line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from moorline.errors import RotationRefused
from moorline.secrets import rotation
from moorline.secrets.rotation import Record, Situation, Use, ago

if TYPE_CHECKING:
    from moorline.identity.rotation.watch import Held

__all__ = ["KeyStatus", "KeyVersion", "status"]

_REFUSED: float = 900.0
_SOON: float = 14 * 86_400.0


@dataclass(frozen=True, slots=True)
class KeyVersion:
    """One version: ``status`` is ``undecided`` where nobody has decided on it; ``place`` is its place in the order of
    use, None for one that is not used. Times are seconds since the epoch.

    ``running`` are the processes that have it and still run, as they were heard of last; ``uses`` all of them.
    """

    version: str
    status: Literal["added", "first", "old", "retired", "undecided"]
    place: int | None
    since: float | None
    origins: tuple[str, ...]
    not_after: float | None
    last_at: float | None
    last_by: str
    accepted: int
    refused: int
    refused_at: float | None
    running: tuple[str, ...]
    uses: tuple[Use, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """A credential: its versions in the order of their use, what to do ``next``, and the audit ``trail``, newest
    first.
    """

    name: str
    versions: tuple[KeyVersion, ...]
    next: str
    trail: tuple[dict[str, Any], ...]
    at: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def status(
    name: str,
    record: Record,
    held: Sequence[Held],
    uses: Sequence[tuple[str, Use, str]],
    situation: Situation,
    trail: Sequence[dict[str, Any]],
) -> KeyStatus:
    """All that is known of a credential."""
    order, good = rotation.arranged(record, situation.seen, situation.now)
    standings = {one.version: one for one in record.standings}
    rest = [one for one in sorted(standings, key=lambda one: (-standings[one].since, one)) if one not in order]
    found: dict[str, list[str]] = {}
    for one in held:
        found.setdefault(one.mark, []).append(one.version.origin)
    for _, use, origin in uses:
        found.setdefault(use.version, []).append(origin)
    versions = []
    for place, version in enumerate((*order, *rest), 1):
        standing = standings.get(version)
        mine = sorted((use for _, use, _ in uses if use.version == version), key=_last, reverse=True)
        used = next((use for use in mine if use.last_at is not None), None)
        ends = next((one.not_after for one in situation.seen if one.version == version), None)
        versions.append(
            KeyVersion(
                version=version,
                status="undecided" if standing is None else standing.status,
                place=place if good and version in order else None,
                since=None if standing is None else standing.since,
                origins=tuple(dict.fromkeys(one for one in found.get(version, ()) if one)),
                not_after=ends,
                last_at=None if used is None else used.last_at,
                last_by="" if used is None else used.who,
                accepted=sum(use.accepted for use in mine),
                refused=sum(use.refused for use in mine),
                refused_at=max((use.refused_at for use in mine if use.refused_at is not None), default=None),
                running=tuple(use.who for use in mine if use.alive(situation.now)),
                uses=tuple(mine),
            )
        )
    return KeyStatus(name, tuple(versions), _next(name, record, versions, situation), tuple(trail), situation.now)


def _last(use: Use) -> tuple[float, float, str]:
    return use.last_at or 0.0, use.told_at, use.process


def _next(name: str, record: Record, versions: Sequence[KeyVersion], situation: Situation) -> str:
    """What to do next: of several things the most urgent."""
    now = situation.now
    used = [one for one in versions if one.place is not None]
    unseen = [one for one in versions if one.place is None and one.status == "added"]
    if not used and not unseen:
        return f"no version of {name} can be used: set it, or add one: moorline keys add {name}"
    if not used:
        return _awaited(unseen[0], now)
    first, others = used[0], used[1:]
    if first.refused_at is not None and now - first.refused_at < _REFUSED and first.refused_at > (first.last_at or 0):
        if others:
            return (
                f"the service refuses {first.version}, which is used first, and {others[0].version} stands in: "
                f"mend it, or go back: moorline keys rollback {name}"
            )
        return f"the service refuses {first.version}, and there is no other: moorline keys add {name}"
    late = [one for one in versions if one.status == "retired" and _lately(one, now)]
    if late:
        return f"somebody still signs with {late[0].version}, which is retired: change it there, or add it again"
    if first.not_after is not None and first.not_after - now < _SOON and not any(_better(one, first) for one in others):
        left = first.not_after - now
        when = f"ends in {ago(left)}" if left > 0 else f"ended {ago(-left)} ago"
        return f"{first.version} {when}: moorline keys add {name}"
    added = [one for one in others if one.status in ("added", "undecided")]
    if added and record.status(added[0].version) == "added":
        return _promotable(name, record, added[0].version, situation)
    if unseen:
        return _awaited(unseen[0], now)
    old = [one for one in others if one.status == "old" or (one.status == "undecided" and first.status != "undecided")]
    if old:
        return _retirable(name, record, old[-1].version, situation)
    if others:
        return f"{first.version} is used first, {others[0].version} is accepted too; nothing needs to be done"
    return "nothing needs to be done"


def _lately(one: KeyVersion, now: float) -> bool:
    return one.refused_at is not None and one.since is not None and max(one.since, now - _REFUSED) < one.refused_at


def _better(one: KeyVersion, first: KeyVersion) -> bool:
    return one.not_after is None or one.not_after > (first.not_after or 0)


def _awaited(one: KeyVersion, now: float) -> str:
    return f"wait: nobody has told of {one.version} yet, which was added {ago(now - (one.since or now))} ago"


def _promotable(name: str, record: Record, version: str, situation: Situation) -> str:
    try:
        rotation.promote(record, version, situation)
    except RotationRefused as refused:
        return f"wait: {refused}"
    return f"use the new one first: moorline keys promote {name} {version}"


def _retirable(name: str, record: Record, version: str, situation: Situation) -> str:
    try:
        rotation.retire(record, version, situation)
    except RotationRefused as refused:
        return f"wait: {refused}"
    return f"nobody has used {version} for {ago(situation.unused)}: moorline keys retire {name} {version}"
