"""What a worker runs for a handler: it looks the events up, so that a job carries no copy, and asks before it calls."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from moorline.errors import BatchFailed, EventNotFound, EventPruned, Misuse, PayloadMismatch
from moorline.events.inbox import kept_event
from moorline.jobs.outcome import Cancel, Discard, Done, Each, Retry, Snooze

if TYPE_CHECKING:
    from moorline.events.event import Event
    from moorline.events.handlers import Handler
    from moorline.events.inbox import Inbox
    from moorline.jobs.job import Claim

__all__ = ["worked"]

FILTERED: Final = Done("filtered")
_GONE: Final = (EventNotFound, EventPruned)
"""What no further attempt brings back."""
_SAYS_SOMETHING: Final = (Retry, Snooze, Cancel, Discard, Done, BaseException)


def worked(handler: Handler, inbox: Inbox) -> Callable[..., Any]:
    """The function of the handler's jobs: of a ``Claim``, or of a list of them where the handler takes batches."""
    return _together(handler, inbox) if handler.batching is not None else _alone(handler, inbox)


def prepared(handler: Handler, event: Event) -> tuple[Any, ...] | Done:
    """What the handler is to be called with, or why it is not. Raises PayloadMismatch, and what its filter raises."""
    if handler.where is not None and not handler.where.fits(event):
        return FILTERED
    if handler.model is None:
        return (event,)
    try:
        return event, handler.model.read(event)
    except PayloadMismatch as error:
        if handler.on_mismatch == "skip":
            return Done(f"mismatch: {error}")
        raise


def _alone(handler: Handler, inbox: Inbox) -> Callable[[Claim], Any]:
    if handler.is_async:

        async def handle(claim: Claim) -> Any:
            try:
                event = await inbox.get(claim.payload.decode())
            except _GONE as error:
                return Discard(str(error))
            arguments = prepared(handler, event)
            return arguments if isinstance(arguments, Done) else await handler.function(*arguments)

        return handle

    def handle_in_thread(claim: Claim) -> Any:
        try:
            event = inbox.get_sync(claim.payload.decode())
        except _GONE as error:
            return Discard(str(error))
        arguments = prepared(handler, event)
        return arguments if isinstance(arguments, Done) else handler.function(*arguments)

    return handle_in_thread


def _together(handler: Handler, inbox: Inbox) -> Callable[[list[Claim]], Any]:
    if handler.is_async:

        async def handle(claims: list[Claim]) -> Each:
            batch = Batch(handler, claims, await inbox.get_several(_ids(claims)))
            return await batch.awaited(handler.function(*batch.arguments)) if batch.events else batch.each()

        return handle

    def handle_in_thread(claims: list[Claim]) -> Each | Coroutine[Any, Any, Each]:
        batch = Batch(handler, claims, inbox.get_several_sync(_ids(claims)))
        if not batch.events:
            return batch.each()
        try:
            result = handler.function(*batch.arguments)
        except Exception as error:  # noqa: BLE001 -- it is stored with each job
            return batch.failed(error)
        return batch.awaited(result) if inspect.iscoroutine(result) else batch.ended(result)

    return handle_in_thread


def _ids(claims: Sequence[Claim]) -> list[str]:
    return [claim.payload.decode() for claim in claims]


class Batch:
    """Events that are handled by one call, and what became of the jobs of those that are not."""

    def __init__(self, handler: Handler, claims: Sequence[Claim], found: Mapping[str, Event]) -> None:
        self.events: list[Event] = []
        self._payloads: list[Any] = []
        self._places: list[int] = []  # of the events, among the claims
        self._results: list[object] = [None] * len(claims)
        self._typed = handler.model is not None
        for place, id_ in enumerate(_ids(claims)):
            try:
                arguments = prepared(handler, kept_event(id_, found.get(id_)))
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001 -- it is this event's job that fails, not the others'
                self._results[place] = error
                continue
            if isinstance(arguments, Done):
                self._results[place] = arguments
                continue
            self._places.append(place)
            self.events.append(arguments[0])
            self._payloads += arguments[1:]

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What the handler is called with."""
        return (self.events, self._payloads) if self._typed else (self.events,)

    async def awaited(self, call: Coroutine[Any, Any, object]) -> Each:
        """How each job ended, by what the call comes to."""
        try:
            result = await call
        except Exception as error:  # noqa: BLE001 -- as above
            return self.failed(error)
        return self.ended(result)

    def failed(self, error: Exception) -> Each:
        """The call raised: all failed, or those that it names."""
        if isinstance(error, BatchFailed) and error.failed is not None:
            unknown = set(error.failed) - {event.id for event in self.events}
            if not unknown:
                return self._by_id(error.failed)
            error = Misuse(f"BatchFailed names {min(unknown)!r}, which is none of these events' ids: {error}")
        return self.each([error] * len(self.events))

    def ended(self, result: object) -> Each:
        """The call returned: an outcome for all, a list or a mapping of them by ``Event.id``, or anything else."""
        if isinstance(result, Mapping):
            unknown = [key for key in result.keys() - {event.id for event in self.events} if _says(result[key])]
            if unknown:
                return self.failed(
                    Misuse(f"an outcome is named for {unknown[0]!r}, which is none of these events' ids")
                )
            return self.each([result.get(event.id) for event in self.events])
        if isinstance(result, (list, tuple)) and any(map(_says, result)):
            if len(result) != len(self.events):
                return self.failed(Misuse(f"{len(result)} outcomes were returned for {len(self.events)} events"))
            return self.each(result)
        return self.each([result] * len(self.events))

    def _by_id(self, errors: Mapping[str, object]) -> Each:
        told = {id_: one if isinstance(one, BaseException) else BatchFailed({id_: one}) for id_, one in errors.items()}
        return self.each([told.get(event.id) for event in self.events])

    def each(self, results: Sequence[object] = ()) -> Each:
        """Of all claims, with these results for the events of the call."""
        for place, result in zip(self._places, results, strict=True):
            self._results[place] = result
        return Each(tuple(self._results))


def _says(value: object) -> bool:
    return isinstance(value, _SAYS_SOMETHING)
