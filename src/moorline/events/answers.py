"""Functions whose returned value is the answer to the sender: Slack's commands, Twilio's TwiML, Supabase's hooks.

They run in the receiver, after the event was stored, and never stand in the way of it: one that is late, fails, or
comes on top of too many others is not waited for, and the sender gets what its scheme answers by default. The handlers
of the event run in any case.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from moorline.errors import ConfigurationError
from moorline.events.delivery import Reply
from moorline.events.handlers import ANY, check_pattern, service_name
from moorline.jobs.threads import Threads
from moorline.telemetry import logger

if TYPE_CHECKING:
    from moorline.events.event import Event

__all__ = ["Answers"]

MOST_AT_ONCE: Final = 32
"""Answering functions under way in a process; senders that ask for more get the default answer."""

LONGEST: Final = 30.0
"""Seconds; no known sender waits longer."""

_F = TypeVar("_F", bound=Callable[..., Any])

log = logger("events")


@dataclass(frozen=True, slots=True)
class _Answering:
    function: Callable[[Event], Any]
    within: float
    name: str


class _Slot:
    """One of those under way, given back once."""

    def __init__(self, slots: threading.BoundedSemaphore) -> None:
        self._slots = slots
        self._lock = threading.Lock()
        self._held = True
        self._in_thread = False

    def release(self) -> None:
        """A second time is harmless."""
        with self._lock:
            held, self._held = self._held, False
        if held:
            self._slots.release()

    def within(self, function: Callable[[Event], Any], event: Event) -> Any:
        """What the function returns, in a thread that holds the slot until then."""
        self._in_thread = True
        try:
            return function(event)
        finally:
            self.release()

    def ended(self, _: object) -> None:
        """The task has ended, perhaps before it began. A thread that runs cannot be stopped: it keeps the slot."""
        if not self._in_thread:
            self.release()


class Answers:
    """The answering functions of one application: at most one for each pattern."""

    def __init__(self, sender: Callable[[Any], str] = service_name, *, at_once: int = MOST_AT_ONCE) -> None:
        self._sender = sender
        self._answering: dict[tuple[str, str], _Answering] = {}
        self._slots = threading.BoundedSemaphore(at_once)
        self._threads = Threads(at_once, name="moorline-answer")
        self._left: set[asyncio.Task[Any]] = set()  # what was not waited for, lest it be collected while it runs

    def on(self, service: str | type[Any], type: str = ANY, *, within: float = 2.5) -> Callable[[_F], _F]:
        """Register a function, async or plain, for that pattern (see ``Handlers``); returns it unchanged.

        It gets the Event, and what it returns is the body of the 200: text, bytes, or a dict or list as JSON; a
        ``Reply`` says all of it; None leaves it to the scheme. ``within``: seconds that it may take.

        Raises ConfigurationError for a service or pattern that is none, or that has an answering function already.
        """
        sender = self._sender(service)
        check_pattern(type)
        if not 0 < within <= LONGEST:
            raise ConfigurationError(f"within: expected seconds up to {LONGEST:g}, got {within!r}")

        def register(function: _F) -> _F:
            if not callable(function):
                raise ConfigurationError(f"answer(...) decorates a function, got {function!r}")
            name = getattr(function, "__qualname__", None) or repr(function)
            known = self._answering.setdefault((sender, type), _Answering(function, within, name))
            if known.function is not function:
                raise ConfigurationError(f"type: {sender} {type!r} is answered by {known.name} already")
            return function

        return register

    def __len__(self) -> int:
        return len(self._answering)

    async def answered(self, event: Event) -> Reply | None:
        """What to answer, or None for the scheme's own answer; that of the finest pattern counts.

        Raises nothing but the cancellation of its caller.
        """
        answering = self._for(event)
        if answering is None:
            return None
        if not self._slots.acquire(blocking=False):
            log.warning("answer_left_out", function=answering.name, reason="too many are under way")
            return None
        # A task of its own: whatever it does with its cancellation, the sender does not wait longer.
        slot = _Slot(self._slots)
        task = asyncio.ensure_future(self._called(answering, event, slot))
        self._left.add(task)
        task.add_done_callback(slot.ended)
        task.add_done_callback(self._ended)
        try:
            async with asyncio.timeout(answering.within):
                return _reply(await asyncio.shield(task))
        except TimeoutError as error:
            reason = f"longer than {answering.within:g} s" if not task.done() else repr(type(error).__name__)
            log.warning("answer_left_out", function=answering.name, reason=reason)
        except asyncio.CancelledError:
            if not task.cancelled():
                raise  # it is the caller's
            log.warning("answer_failed", function=answering.name, error="it cancelled itself")
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 -- the event is stored: its sender must get its 2xx
            told = "".join(traceback.format_exception_only(error)).strip()  # also of one whose __str__ fails
            log.warning("answer_failed", function=answering.name, error=told)
        finally:
            task.cancel()
        return None

    def _for(self, event: Event) -> _Answering | None:
        if not self._answering:
            return None
        for pattern in (event.name, event.type, ANY):
            found = self._answering.get((event.service, pattern))
            if found is not None:
                return found
        return None

    async def _called(self, answering: _Answering, event: Event, slot: _Slot) -> Any:
        function = answering.function
        try:
            if inspect.iscoroutinefunction(function):
                return await function(event)
            result = await self._threads.run(slot.within, [function, event], {})
            return await result if inspect.iscoroutine(result) else result
        except SystemExit as error:  # which would leave the task, and end the loop
            raise RuntimeError(f"it raised SystemExit({error})") from error

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._left.discard(task)
        if not task.cancelled():
            task.exception()  # what was not waited for is not reported as forgotten


def _reply(value: object) -> Reply | None:
    """Raises TypeError or ValueError for what cannot be sent."""
    match value:
        case None | Reply():
            return value
        case str():
            return Reply(body=value.encode(), media="text/plain; charset=utf-8")
        case bytes():
            return Reply(body=value, media="application/octet-stream")
        case dict() | list():
            return Reply(body=json.dumps(value, separators=(",", ":")).encode())
    raise TypeError(f"it returned a {type(value).__name__}: expected text, bytes, a dict, a list, Reply or None")
