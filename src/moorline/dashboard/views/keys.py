"""Keys: which versions of which credential are in use, by whom, and what to do next; to promote, retire, roll back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from moorline.dashboard.page import Confirm, Look, Onward, Page
from moorline.errors import ConfigurationError
from moorline.secrets.rotation import UNUSED

if TYPE_CHECKING:
    from moorline.identity.rotation import KeyStatus, KeyVersion

__all__ = ["decide", "listed", "shown"]

MOST: Final = 100
"""Credentials on the page."""
_WORDS: Final = {"promote": "Promote", "retire": "Retire", "rollback": "Roll back"}


async def listed(look: Look) -> Page:
    """``/keys``: each credential that is known here, its versions, and the next step."""
    keys = look.app.keys
    names = sorted({*await keys.names(), *keys.watch.names})
    found = await asyncio.gather(*(keys.status(name) for name in names[:MOST]))
    rows = [_record(one) for one in found if one.versions]
    return Page("keys.html", "Keys", {"names": rows, "more": max(len(names) - MOST, 0), "now": look.now})


async def shown(look: Look) -> Page:
    """``/keys/{name}``: who has and uses which version, who decided what."""
    (name,) = look.named
    status = await look.app.keys.status(name)
    data = {**_record(status), "trail": [_told(one) for one in status.trail], "now": look.now}
    return Page("key.html", name, data)


async def decide(look: Look) -> Confirm | Onward:
    """``POST /keys/{name}/{promote|retire|rollback}``, of the version that the form names: it asks first. Raises
    RotationRefused, saying who would be left without; ConfigurationError for a version that is none.
    """
    (name, deed), version = look.named, look.given("version") or ""
    keys, back = look.app.keys, f"/keys/{name}"
    if deed != "rollback" and not version:
        raise ConfigurationError("version: which one?")
    if not look.confirmed:
        status = await keys.status(name)
        return _question(status, deed, version, back)
    how: dict[str, Any] = {"actor": look.actor, "why": look.given("why") or ""}
    if deed == "rollback":
        await keys.rollback(name, **how)
    elif deed == "promote":
        await keys.promote(name, version, force=look.given("force") == "yes", **how)
    else:
        await keys.retire(name, version, unused=_unused(look), force=look.given("force") == "yes", **how)
    return Onward(back, deed)


def _question(status: KeyStatus, deed: str, version: str, back: str) -> Confirm:
    what = {
        "promote": f"Use version {version} of {status.name} first, in all processes within some seconds?",
        "retire": f"Accept version {version} of {status.name} no more?",
        "rollback": f"Undo the last decision on {status.name}?",
    }
    facts: list[tuple[str, Any]] = []
    one = next((one for one in status.versions if one.version == version), None)
    if one is not None:
        facts = [("It is", one.status), ("Running processes that have it", len(one.running))]
        facts.append(("Last used by", one.last_by or "nobody, as far as is known"))
    elif deed == "rollback" and status.trail:
        facts = [("The last decision", f"{status.trail[0]['action']} by {status.trail[0]['actor']}")]
    facts.append(("Next, as things are", status.next))
    force = {
        "promote": "Even where a running process does not have it",
        "retire": "Even if it was used lately; never the last one that somebody has",
    }
    fields = [("version", version)] if version else []
    asks = [("why", "Reason, for the audit")]
    checks = [("force", force[deed])] if deed in force else []
    if deed == "retire":
        asks.insert(0, ("unused", f"Hours that nobody must have used it ({UNUSED / 3600:.0f} unless you say)"))
    return Confirm(
        what[deed], f"{back}/{deed}", back, _WORDS[deed], fields, facts, deed != "promote", tuple(asks), tuple(checks)
    )


def _unused(look: Look) -> float:
    given = look.given("unused")
    if given is None:
        return UNUSED
    if not (given.isascii() and given.isdigit() and len(given) < 6):
        raise ConfigurationError("unused: a number of hours")
    return float(given) * 3600.0


def _record(status: KeyStatus) -> dict[str, Any]:
    return {"name": status.name, "versions": [_version(one) for one in status.versions], "next": status.next}


def _version(one: KeyVersion) -> dict[str, Any]:
    return {
        "version": one.version,
        "status": one.status,
        "place": one.place,
        "since": one.since,
        "where": list(one.origins),
        "ends_at": one.not_after,
        "last_at": one.last_at,
        "last_by": one.last_by or None,
        "accepted": one.accepted,
        "refused": one.refused,
        "refused_at": one.refused_at,
        "running": list(one.running),
        "used_by": [
            {"who": use.who, "told_at": use.told_at, "last_at": use.last_at, "accepted": use.accepted,
             "refused": use.refused, "refused_at": use.refused_at}
            for use in one.uses
        ],
    }  # fmt: skip


def _told(one: dict[str, Any]) -> dict[str, Any]:
    return {"at": one["at"], "actor": one["actor"], "action": one["action"], "version": one.get("version"),
            "why": one.get("why")}  # fmt: skip
