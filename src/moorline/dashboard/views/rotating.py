"""Rotation at the press of a button: of ``moorline keys rotate`` what can be done now. The next press goes on."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from moorline.calls.minting import MintsKeys
from moorline.dashboard.page import Confirm
from moorline.errors import ConfigurationError, RotationRefused
from moorline.identity.rotation.minting import Minting, Rotated, last
from moorline.secrets.rotation import UNUSED
from moorline.telemetry import logger

if TYPE_CHECKING:
    from moorline.calls.service import Service
    from moorline.dashboard.page import Look

__all__ = ["Pressed", "press", "state"]

_SECONDS: Final = 10.0
"""For which the page waits for what it has begun, which goes on after that."""
_STEPS: Final = {
    "mint": "the service is asked for a new key",
    "add": "the new key is being kept",
    "check": "whether the service accepts the new key is to be seen",
    "promote": "the new key is to be used first, once all running processes have it",
    "retire": "the old key is accepted until it is unused",
    "revoke": "the service is to revoke the old key",
    "done": "it is over",
}

log = logger("dashboard")
_running: set[asyncio.Task[Rotated]] = set()


class Pressed(NamedTuple):
    """What a press has done, line by line, and what comes next."""

    told: list[str]
    next: str
    done: bool


async def state(look: Look, name: str) -> dict[str, Any] | None:
    """How far the rotation is that is under way, and with which service one can be begun or gone on with; None where
    there is neither.
    """
    at: Minting | None = await look.app.store.read(last, name)
    service = _service(look, name, at)
    if at is None or at.ended_at is not None:
        return None if service is None else {"service": service.name, "pressable": True, "under_way": None}
    since = {"by": at.actor, "began_at": at.created_at, "at": at.updated_at, "step": _STEPS[at.step]}
    return {"service": at.service, "pressable": service is not None, "under_way": since}


def _service(look: Look, name: str, at: Minting | None) -> Service | None:
    """One of the application's services that makes such keys: that which the rotation was begun with, if it is there.
    None, too, where a new key could not be kept.
    """
    if look.app.keys.watch.own is None:
        return None
    found = {}
    for called, one in sorted(look.app.services.items()):
        with contextlib.suppress(ConfigurationError):  # the account's name may be missing
            if isinstance(one, MintsKeys) and one.variable == name:
                found[called] = one
    begun = None if at is None or at.ended_at is not None else found.get(at.service)
    return begun or next(iter(found.values()), None)


async def press(look: Look, name: str, unused: float) -> Confirm | Pressed:
    """Ask, or begin and go on. Raises ConfigurationError, RotationRefused, CallError."""
    at: Minting | None = await look.app.store.read(last, name)
    service = _service(look, name, at)
    if service is None:
        raise ConfigurationError(
            f"{name}: no service of this application makes such keys by its API, or there is no "
            "MOORLINE_ENCRYPTION_KEY, with which they are kept; see: moorline keys rotate"
        )
    if not look.confirmed:
        return _question(name, service, at)
    if look.given("at") != _place(at):  # a form that is sent again must not begin another one
        raise RotationRefused(f"{name}: its rotation has gone on meanwhile; look at it again")
    force = look.given("force") == "yes"
    work = asyncio.ensure_future(
        look.app.keys.rotate(service, unused=unused, actor=look.actor, force=force, at_once=True)
    )
    _running.add(work)
    work.add_done_callback(_over)
    await asyncio.wait({work}, timeout=_SECONDS)
    if not work.done():
        return Pressed([], f"{service.name} has not answered yet: look again in a moment", done=False)
    rotated = work.result()
    return Pressed(list(rotated.told), rotated.next, rotated.done)


def _over(work: asyncio.Task[Rotated]) -> None:
    """What nobody may have waited for is told in the log; what was done is written down."""
    _running.discard(work)
    if not work.cancelled() and (error := work.exception()) is not None:
        log.warning("rotation_stopped", reason=str(error))


def _place(at: Minting | None) -> str:
    """Which rotation, and where it is."""
    return "none" if at is None else f"{at.id}.{at.step}"


def _question(name: str, service: Service, at: Minting | None) -> Confirm:
    facts: list[tuple[str, Any]] = []
    question = f"Rotate {name}? {service.name} makes a new key, used first; the old one is revoked once it is unused."
    if at is not None and at.ended_at is None:
        question = f"Go on with the rotation of {name}?"
        facts = [("Begun by", at.actor), ("Now", _STEPS[at.step])]
    hours = f"Hours that nobody must have used the old key ({UNUSED / 3600:.0f} unless you say)"
    checks = [("force", "Retire the old key at once, and promote where a running process does not have the new one")]
    to, fields = f"/keys/{name}", [("at", _place(at))]
    return Confirm(question, f"{to}/rotate", to, "Rotate", fields, facts, True, (("unused", hours),), tuple(checks))
