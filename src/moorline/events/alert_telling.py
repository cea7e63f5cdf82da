"""Tells alerts to hooks: every alert to each of them, and again to those that failed, at the next looks for an hour.

No hook is waited for longer than its time, however much there is to tell; what is new comes first, and who failed
before comes last. A hook that has heard how something ended needs not hear that it began.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from moorline.errors import Misuse
from moorline.events.alerts import Alert
from moorline.telemetry import logger

if TYPE_CHECKING:
    from moorline.clock import Clock

__all__ = ["Hook", "Telling", "Untold"]

Hook = Callable[[Alert], object]
"""Takes an alert when it begins and when it is over; plain (run in a thread) or async. It has 40 seconds for all that
there is to tell at a time; what it raises is logged, and the alert told again at the next look, for an hour."""

_About: TypeAlias = tuple[str, str, str]
_HOOK_SECONDS: Final = 40.0
_AGAIN: Final = 3_600.0

log = logger("events")


class Untold(NamedTuple):
    """An alert, and the names of the hooks that are still to hear it; None where it is new, and all are."""

    alert: Alert
    left: tuple[str, ...] | None = None


class Telling:
    """``tell`` tells *hooks*, and those that are added to them later."""

    def __init__(self, hooks: Sequence[Hook], clock: Clock) -> None:
        self._hooks = hooks
        self._clock = clock
        self._running: dict[str, asyncio.Task[object]] = {}

    async def tell(self, untold: Sequence[Untold], ours: Callable[[], Awaitable[bool]]) -> list[Untold] | None:
        """What is to be told at the next look; None as soon as it is no longer *ours* to tell."""
        hooks = _named(self._hooks)
        late = {name for one in untold for name in one.left or ()}
        look = _Look()
        for one in sorted(untold, key=lambda one: one.left is not None):
            if one.left is None:
                _say(one.alert)
            left, failed = [], False
            for name in sorted(hooks, key=late.__contains__) if one.left is None else one.left:
                if name not in hooks or look.spent[name] >= _HOOK_SECONDS:  # it may be a newer program's
                    left.append(name)
                elif not look.is_over(name, one.alert):
                    if not await ours():
                        return None
                    if not await self._hears(name, hooks[name], one, look):
                        left.append(name)
                        failed = True
            if left:
                (look.failed if failed else look.waiting).append(Untold(one.alert, tuple(left)))
        return list(look.again(self._clock.wall()))

    async def _hears(self, name: str, hook: Hook, one: Untold, look: _Look) -> bool:
        alert, began = one.alert, self._clock.monotonic()
        try:
            async with asyncio.timeout(_HOOK_SECONDS - look.spent[name]):
                await self._called(name, hook, alert)
        except Exception as error:  # noqa: BLE001 -- the others are to hear of it all the same
            if one.left is None:  # once, and once more when it is given up
                log.error("event_alert_not_told", hook=name, rule=alert.rule, error=repr(error))
            return False
        finally:
            look.spent[name] += self._clock.monotonic() - began
        look.heard[name, _about(alert)] = alert.at
        return True

    async def _called(self, name: str, hook: Hook, alert: Alert) -> None:
        if inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(getattr(hook, "__call__", None)):  # noqa: B004
            answer = hook(alert)
            assert isinstance(answer, Awaitable)
            await answer
            return
        # A thread cannot be ended: one that hangs must not be joined by another one at each look.
        if name in self._running:
            raise Misuse("it has not returned from an alert before")
        running = self._running[name] = asyncio.ensure_future(asyncio.to_thread(hook, alert))
        running.add_done_callback(lambda done: self._ended(name, done))
        await asyncio.shield(running)

    def _ended(self, name: str, running: asyncio.Task[object]) -> None:
        del self._running[name]
        if not running.cancelled():
            running.exception()  # who waited has logged it


class _Look:
    """What has happened at one look: seconds by hook, when what each has heard was so, and what is left to be told."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self.heard: dict[tuple[str, _About], float] = {}
        self.waiting: list[Untold] = []
        self.failed: list[Untold] = []

    def is_over(self, name: str, alert: Alert) -> bool:
        """Whether that hook has heard what came after it."""
        return self.heard.get((name, _about(alert)), alert.at) > alert.at

    def again(self, now: float) -> Iterator[Untold]:
        """What is worth to be told once more; what has failed comes last, so that it does not hold up the rest."""
        for alert, names in (*self.waiting, *self.failed):
            left = tuple(name for name in names or () if not self.is_over(name, alert))
            if left and now - alert.at < _AGAIN:
                yield Untold(alert, left)
            elif left:
                log.error("event_alert_given_up", hooks=left, rule=alert.rule, service=alert.service)


def _about(alert: Alert) -> _About:
    return alert.rule, alert.service, alert.label


def _say(alert: Alert) -> None:
    write = log.warning if alert.state == "firing" else log.info
    write("event_alert", **alert.to_dict())


def _named(hooks: Sequence[Hook]) -> dict[str, Hook]:
    """By the names that they have in every process: those that share one are counted."""
    found: dict[str, Hook] = {}
    for hook in list(hooks):
        name = base = getattr(hook, "__qualname__", type(hook).__qualname__)
        number = 1
        while name in found:
            number += 1
            name = f"{base} {number}"
        found[name] = hook
    return found
