"""Keys: which versions of which credential are in use, by whom, and what to do next; to add, promote, retire, roll back
and rotate.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from moorline import redaction
from moorline.dashboard.page import Confirm, Look, Onward, Page
from moorline.dashboard.tokens import dashboard_tokens
from moorline.dashboard.views import rotating
from moorline.errors import ConfigurationError
from moorline.identity.rotation.deciding import TRAIL
from moorline.identity.rotation.watch import OURS
from moorline.secrets.rotation import UNUSED
from moorline.secrets.sources.base import LARGEST

if TYPE_CHECKING:
    from moorline.identity.rotation import KeyStatus, KeyVersion

__all__ = ["add", "decide", "listed", "rotate", "shown"]

MOST: Final = 100
"""Credentials on the page."""
_WORDS: Final = {"promote": "Promote", "retire": "Retire", "rollback": "Roll back"}


async def listed(look: Look) -> Page:
    """``/keys``: each credential that is known here, its versions, and the next step."""
    keys = look.app.keys
    names = sorted({*await keys.names(), *keys.watch.names})
    found = await asyncio.gather(*(keys.status(name) for name in names[:MOST]))
    rows = [_record(one) for one in found if one.versions]
    more = max(len(names) - MOST, 0)
    return Page("keys.html", "Keys", {"names": rows, "more": more, "addable": _addable(look), "now": look.now})


async def shown(look: Look) -> Page:
    """``/keys/{name}``: who has and uses which version, who decided what."""
    return await _page(look)


async def _page(look: Look, pressed: rotating.Pressed | None = None) -> Page:
    (name,) = look.named
    status = await look.app.keys.status(name)
    data = {
        **_record(status),
        "trail": [_told(one) for one in status.trail],
        "newest": TRAIL if len(status.trail) == TRAIL else None,
        "addable": _addable(look) and not name.startswith(OURS),
        "rotation": await rotating.state(look, name),
        "pressed": None if pressed is None else pressed._asdict(),
        "now": look.now,
    }
    return Page("key.html", name, data)


def _addable(look: Look) -> bool:
    """Whether there is a place where added values are kept."""
    return look.app.keys.watch.own is not None


async def add(look: Look) -> Onward:
    """``POST /keys/{name}/add``, or ``/keys/add`` with the name in the form: accept the form's value too. Raises
    ConfigurationError for what is no name or no value, and where none can be kept; RotationRefused.
    """
    value = look.secret("value", LARGEST)  # before all else: whatever is told from here on is told without it
    name = look.named[0] if look.named else (look.given("name") or "").strip()
    if value is None or not name:
        raise ConfigurationError("name and value: both are needed")
    if redaction.text(name) != name:  # it would stand in the address of the page, and in the database
        raise ConfigurationError("name: this looks like a value; the name is that of a variable")
    if value in dashboard_tokens(look.now):
        raise ConfigurationError("value: this is the dashboard's own token, which the browser may have filled in")
    force = look.given("force") == "yes"
    await look.app.keys.add(name, value, actor=look.actor, why=look.given("why") or "", force=force)
    return Onward(f"/keys/{name}", "add")


async def rotate(look: Look) -> Confirm | Page:
    """``POST /keys/{name}/rotate``: what can be done now of a rotation by the service's API. It asks first; the next
    press goes on. Raises ConfigurationError where no service makes such keys, RotationRefused, CallError.
    """
    found = await rotating.press(look, look.named[0], _unused(look))
    return found if isinstance(found, Confirm) else await _page(look, found)


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
            "why": one.get("why"), "force": bool(one.get("force"))}  # fmt: skip
