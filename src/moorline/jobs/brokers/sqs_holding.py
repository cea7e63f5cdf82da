"""What an SQS carrier does to messages that it has: hide them for longer, show them to others, delete them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from moorline.clock import Clock
from moorline.errors import StoreUnavailable
from moorline.jobs.brokers.carrier import Lane
from moorline.jobs.brokers.sqs_intake import Grip, Out, Place
from moorline.jobs.brokers.sqs_lanes import Lanes
from moorline.jobs.brokers.sqs_link import MISSING, Link, Refused, in_batches
from moorline.telemetry import logger

__all__ = ["Holding"]

_TRIES: Final = 3

log = logger("jobs")


class Holding:
    """Ten messages of a queue in a request. Its methods may be called from any thread."""

    def __init__(self, link: Link, lanes: Lanes, out: Out, clock: Clock) -> None:
        self._link = link
        self._lanes = lanes
        self._out = out
        self._clock = clock

    def settle(self, grips: Sequence[Grip]) -> None:
        """Delete them, and the places that their jobs had; those that are places themselves stay, hidden.

        Raises StoreUnavailable if one was not deleted.
        """
        stay = [grip for grip in grips if grip.kept is not None and grip.lane.kind == "ordered"]
        gone = [grip for grip in grips if grip.kept is None or grip.lane.kind != "ordered"]
        self.delete([*gone, *self._freed(gone)])
        self._hide(stay)

    def _freed(self, gone: Sequence[Grip]) -> list[Grip]:
        """The places of jobs that ended. Not that of one which is here twice, and goes on."""
        now = self._clock.wall()
        ended = {(one.lane.queue, one.place) for one in gone if one.place is not None and one.kept is None}
        with_us = self._out.places(but=set(gone)) if ended else set()
        return [
            self._grip_at(queue, place) for queue, place in ended if place.until > now and place.receipt not in with_us
        ]

    def _grip_at(self, queue: str, place: Place) -> Grip:
        lane = Lane(queue, "ordered")
        return Grip(lane, self._lanes.url(lane), "", place.receipt, "", 0, -math.inf, None)

    def delete(self, grips: Sequence[Grip]) -> None:
        """Only them. Raises StoreUnavailable if one was not deleted."""
        self._link.each(self._delete, list(_by_url(grips)))

    def _delete(self, batch: Sequence[Grip]) -> None:
        left = list(batch)
        shown = self._link.where.shown
        for _ in range(_TRIES):
            failed = self._batch("delete_message_batch", left)
            left = [grip for grip, fault in failed if not fault["SenderFault"]]
            # A place may have come again meanwhile, and then has another receipt.
            refused = [fault["Code"] for grip, fault in failed if fault["SenderFault"] and grip.message]
            if any(code != "ReceiptHandleIsInvalid" for code in refused):
                raise StoreUnavailable(f"SQS at {shown} did not delete {len(refused)} messages: {refused[0]}")
            if not left:
                self._out.release(batch)
                return
        raise StoreUnavailable(f"SQS at {shown} did not delete {len(left)} messages")

    def _hide(self, places: Sequence[Grip]) -> None:
        """For as long as their jobs may need them. One that cannot be is only hidden for its lease."""
        now = self._clock.wall()
        spans = {id(grip): max(math.ceil(grip.kept.until - now), 0) for grip in places if grip.kept is not None}
        failed: Iterable[Grip] = places
        for _ in range(_TRIES):
            outcomes = self._link.tried(lambda batch: self._hidden(batch, spans), list(_by_url(failed)))
            failed = [grip for one in outcomes if not isinstance(one, Exception) for grip in one]
            if not failed:
                break
        problems = [str(one) for one in outcomes if isinstance(one, Exception)] if places else []
        if failed or problems:
            log.warning("places_not_kept", jobs=len(places), error=problems[0] if problems else "refused")
        self._out.release(places)

    def _hidden(self, batch: Sequence[Grip], spans: dict[int, int]) -> list[Grip]:
        each = [{"VisibilityTimeout": spans[id(grip)]} for grip in batch]
        return [grip for grip, fault in self._batch("change_message_visibility_batch", batch, each)]

    def keep(self, grips: Sequence[Grip]) -> None:
        """Hide them for their spans, from now."""
        self._link.each(self._keep, list(_by_url(grips)))
        self._out.purge()

    def _keep(self, batch: Sequence[Grip]) -> None:
        span = batch[0].span
        until = self._clock.monotonic() + span
        each = [{"VisibilityTimeout": span}] * len(batch)
        failed = dict(self._batch("change_message_visibility_batch", batch, each))
        for grip in batch:
            fault = failed.get(grip)
            if fault is None:
                grip.until = until
            elif fault["Code"].rpartition(".")[2] in {"MessageNotInflight", "ReceiptHandleIsInvalid"}:
                grip.until = -math.inf

    def show(self, grips: Sequence[Grip]) -> None:
        """Others may have them now."""
        none = {"VisibilityTimeout": 0}
        self._link.each(
            lambda batch: self._batch("change_message_visibility_batch", batch, [none] * len(batch)),
            list(_by_url(grips)),
        )

    def _batch(
        self, operation: str, grips: Sequence[Grip], each: Sequence[dict[str, Any]] | None = None
    ) -> list[tuple[Grip, dict[str, Any]]]:
        """Do it to up to ten messages of one queue; those that failed, with what SQS says of each."""
        entries: list[dict[str, Any]] = [
            {"Id": str(place), "ReceiptHandle": grip.receipt} for place, grip in enumerate(grips)
        ]
        for entry, more in zip(entries, each or (), strict=False):
            entry.update(more)
        try:
            answer = self._link.ask(operation, QueueUrl=grips[0].url, Entries=entries)
        except Refused as refused:
            if refused.code != MISSING:
                raise
            self._lanes.forget(grips[0].lane)  # and its messages are gone with it
            return []
        return [(grips[int(fault["Id"])], fault) for fault in answer.get("Failed", ())]


def _by_url(grips: Iterable[Grip]) -> Iterator[Sequence[Grip]]:
    """Of one queue each, as many as go in a request."""
    queues: dict[tuple[str, int], list[Grip]] = {}
    for grip in grips:
        queues.setdefault((grip.url, grip.span), []).append(grip)
    for theirs in queues.values():
        yield from in_batches(theirs)
