"""The key by which a handler's events are handled one after the other; found before the event is stored.

It stands in the row of the job, so the user's function for it runs before the sender gets its answer: the one place
where that is so. It must be cheap, and whatever it does, the event is stored: without a key its job is in no order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

from moorline.errors import ConfigurationError
from moorline.events.body import fields
from moorline.events.where import MISSING, deeper, value_at
from moorline.jobs.order import OnDead, order_key
from moorline.telemetry import logger

if TYPE_CHECKING:
    from moorline.events.event import Event

__all__ = ["Key", "Ordering"]

Key: TypeAlias = str | Callable[["Event"], object]
"""A place (see ``moorline.events.where``), or a plain function of the event; texts and whole numbers are keys."""

log = logger("events")


@dataclass(frozen=True, slots=True)
class Ordering:
    """Events with the same key are handled in the order of their coming.

    ``on_dead``: whether one that is dead blocks those behind it until a person retries or skips it, or is skipped at
    once. Raises ConfigurationError naming the argument.
    """

    key: Key
    on_dead: OnDead = "block"
    _warned: list[bool] = field(default_factory=list, compare=False, repr=False)

    def __post_init__(self) -> None:
        is_place = isinstance(self.key, str) and bool(self.key) and all(self.key.split("."))
        if not is_place and (not callable(self.key) or iscoroutinefunction(self.key)):
            raise ConfigurationError(
                f'key: expected a place such as "data.object.customer" or a plain function, got {self.key!r}'
            )
        if self.on_dead not in get_args(OnDead):
            raise ConfigurationError(f'on_dead: expected "block" or "skip", got {self.on_dead!r}')

    def of(self, event: Event, job: str) -> str | None:
        """The key as it is stored with a job of that name, or None, which is logged once."""
        try:
            found = self._found(event)
            if found is not None and found is not MISSING:
                return order_key(job, found, self.on_dead)
            reason = "there is none"
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 -- no function of the user's may keep an event from being stored
            reason = type(error).__name__
        if not self._warned:
            self._warned.append(True)
            log.warning("event_without_key", handler=job, event_type=event.name, reason=reason)
        return None

    def _found(self, event: Event) -> Any:
        if not isinstance(self.key, str):
            return self.key(event)
        if self.key.startswith("header:") or not event.body.startswith(b"{"):
            return value_at(event, self.key)
        top, *below = self.key.split(".")  # only that part of the body is built
        return deeper(fields(event.body, (top,)), [top, *below])
