"""The intake's blocking driver: for Django, Flask and whatever else serves a request in a thread."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from moorline.calls.work import on_shared_loop
from moorline.clock import SYSTEM, Clock
from moorline.errors import CallError, ConfigurationError, StoreOverloaded
from moorline.events.admission import Overloads
from moorline.events.fetching import fetch_sync
from moorline.events.intake import UNAVAILABLE, Ask, Entry, Found, Intake, announced
from moorline.events.refused import CLOSE, Portion, Refused

if TYPE_CHECKING:
    from moorline.events.delivery import Reply

__all__ = ["BlockingReceiver", "Read", "receiver_of"]

Read = Callable[[int], bytes]
"""Up to so many bytes more of the body; none at its end."""

_CHUNK: Final = 64 * 1024


class BlockingReceiver:
    """Answers requests that come in a thread, by the same rules as ``Receiver``. The store is opened by the first.

    The time for a body is looked at between its parts: a server that waits for each one must have a limit of its own.
    """

    def __init__(self, intake: Intake, *, body_timeout: float = 10.0, clock: Clock = SYSTEM) -> None:
        self.intake = intake
        self.fetch: Callable[[str], bytes] = fetch_sync
        self._body_timeout = body_timeout
        self._clock = clock
        self._overloads = Overloads()

    def respond(
        self,
        name: str,
        *,
        method: str,
        headers: Mapping[str, str],
        query: str,
        scheme: str,
        host: str,
        path: str,
        client: str | None,
        read: Read,
    ) -> Reply:
        """The reply to a request for the service *name*; ``headers`` with lower-case names, ``path`` as it was sent."""
        folded = dict(headers)
        url = partial(self.intake.origin.url, scheme, host, path, query, headers=folded, client=client)
        ask = Ask(name, method, folded, query, url)
        portion = Portion(self.intake.held)
        try:
            reply = self._received(ask, read, portion)
        except Refused as refused:
            reply = self.intake.refused(ask, refused)
        finally:
            portion.release()
        return replace(reply, body=b"") if method == "HEAD" else reply

    def _received(self, ask: Ask, read: Read, portion: Portion) -> Reply:
        intake = self.intake
        entry = intake.admit(ask)
        if not isinstance(entry, Entry):
            return entry
        try:
            store = intake.inbox.store
            if not store.is_open:
                store.open()
            intake.inbox.admit()
        except UNAVAILABLE as error:
            if isinstance(error, StoreOverloaded):
                self._overloads.report(error, self._clock.monotonic())
            raise intake.unavailable(error, told=isinstance(error, StoreOverloaded)) from error
        body = self._body(entry, read, portion)
        found = self._judged(intake.judged(entry, body, portion))
        if found.reply is not None:
            return found.reply
        try:
            stored: Sequence[Any] = intake.inbox.add_all_sync(found.events) if found.events else ()
        except UNAVAILABLE as error:
            raise intake.unavailable(error) from error
        reply = intake.stored(entry, stored)
        if intake.answers:
            event = intake.to_answer(found.events, stored)
            if event is not None:
                return on_shared_loop(intake.answers.answered(event)).result() or reply
        return reply

    def _judged(self, steps: Generator[str, bytes, Found]) -> Found:
        """What the steps come to, with what they ask for."""
        try:
            url = next(steps)
            while True:
                try:
                    got = self.fetch(url)
                except CallError as error:
                    url = steps.throw(error)
                else:
                    url = steps.send(got)
        except StopIteration as ended:
            found: Found = ended.value
            return found

    def _body(self, entry: Entry, read: Read, portion: Portion) -> bytes:
        length = announced(entry.ask.headers)
        if length > entry.max_body:
            raise Refused(413, f"{length} bytes announced", CLOSE)
        until = self._clock.monotonic() + self._body_timeout
        parts: list[bytes] = []
        size = 0
        while part := read(_CHUNK):
            size += len(part)
            if size > entry.max_body:
                raise Refused(413, f"more than {entry.max_body} bytes", CLOSE)
            portion.add(len(part))
            parts.append(part)
            if self._clock.monotonic() > until:
                raise Refused(408, f"the body was not there after {self._body_timeout:g} s", CLOSE)
        return b"".join(parts)


def receiver_of(app: Any) -> BlockingReceiver:
    """The blocking receiver of an application (or of a ``Receiver``). Raises ConfigurationError for what is neither."""
    receiver = getattr(app, "receiver", app)
    intake = getattr(receiver, "intake", None)
    if not isinstance(intake, Intake):
        raise ConfigurationError(f"expected a Moorline or a Receiver, got {type(app).__name__}")
    return BlockingReceiver(intake, body_timeout=receiver.body_timeout)
