"""``Jobs``: which function a job's name means, and the functions that can be enqueued."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from moorline.clock import SYSTEM, Clock
from moorline.codec import Codec, Upgrade
from moorline.errors import ConfigurationError, InvalidArguments, UnknownJob
from moorline.jobs.broker import Broker
from moorline.jobs.decision import Backoff
from moorline.jobs.enqueue import Enqueued, EnqueueOptions
from moorline.jobs.following import GroupHandle, JobCall, chain, group
from moorline.jobs.function import JobFunction, handle_of
from moorline.jobs.groups import Groups
from moorline.jobs.intake import Batching
from moorline.jobs.job import Claim, JobHandle, JobRow
from moorline.jobs.limit_store import Limits
from moorline.jobs.limits import Limit, Rule, check_by, key_of, queue_rule
from moorline.jobs.order import order_key
from moorline.jobs.process_child import check_importable
from moorline.jobs.unique import unique_key
from moorline.jobs.watch import Watch
from moorline.store.ids import new_id

if TYPE_CHECKING:
    from moorline.store.store import Store

__all__ = ["Handler", "JobFunction", "Jobs"]

P = ParamSpec("P")
R = TypeVar("R")
_PLAIN: Final = EnqueueOptions()
_DEFAULT_PRIORITY: Final = 5
MAX_PAYLOAD: Final = 1_048_576


@dataclass(frozen=True, slots=True)
class Handler:
    """What a worker runs for a name. ``timeout`` is in seconds.

    Without a codec the function gets the ``Claim``; with ``batch`` a list of them, and may return ``Each``.
    """

    name: str
    function: Callable[..., Any]
    is_async: bool
    backoff: Backoff
    codec: Codec | None = None
    timeout: float | None = None
    batch: Batching | None = None
    keep_result: bool = False
    process: bool = False
    limit: Limit | None = None

    @property
    def can_be_cancelled(self) -> bool:
        """Whether it ends when its task is cancelled; a thread does not."""
        return self.is_async or self.process


class Jobs:
    """The jobs of one application, kept by *broker*; each with arguments of up to *max_payload* bytes.

    *store* is the database for groups of jobs, and for limits.
    """

    def __init__(
        self, broker: Broker, *, clock: Clock = SYSTEM, max_payload: int = MAX_PAYLOAD, store: Store | None = None
    ) -> None:
        if max_payload < 1:
            raise ConfigurationError(f"max_payload: {max_payload!r} is not a positive number of bytes")
        self.max_payload = max_payload
        self.broker = broker
        self.groups = None if store is None else Groups(store, broker)
        self.limits = None if store is None else Limits(store)
        self._queue_limits: dict[str, Limit] = {}
        self.clock = clock
        self._handlers: dict[str, Handler] = {}

    def function(
        self,
        function: Callable[P, R],
        *,
        name: str | None = None,
        retries: int = 5,
        queue: str = "default",
        priority: int = _DEFAULT_PRIORITY,
        timeout: float | None = None,
        backoff: Backoff | None = None,
        keep_result: bool = False,
        process: bool = False,
        version: int = 1,
        upgrades: Mapping[int, Upgrade] | None = None,
        limit: Limit | None = None,
    ) -> JobFunction[P, R]:
        """Make *function* a job: async functions run on the worker's event loop, plain ones in a thread; either with
        ``process`` in a process of its own, for what computes for long.

        ``name`` (default: the function's own) is what is stored, so it must stay when the code moves. ``timeout``, in
        seconds, is for one attempt; a thread cannot be stopped, so a plain function needs ``process`` for it. With
        ``keep_result`` what it returns is stored as JSON (up to 256 KiB), for as long as done jobs are kept, and
        ``JobHandle.result`` gives it. When the arguments change in a way that a default cannot mend, count ``version``
        up, and say in ``upgrades`` how those of each version before become those of the next. ``limit`` bounds how many
        begin, or run at once; those that may not begin yet come again, and spend no attempt. Raises ConfigurationError
        naming the argument.
        """
        name = getattr(function, "__name__", "") if name is None else name
        if not name:
            raise ConfigurationError(f"name: {function!r} has none of its own, so the job needs one")
        if retries < 0:
            raise ConfigurationError(f"retries: {retries!r} is negative")
        if process:
            check_importable(name, function)
        handler = self._handler(name, function, timeout, backoff, process=process)
        codec = Codec(function, version=version, upgrades=upgrades)
        if limit is not None:
            self._check_limit()
            check_by(name, limit, inspect.signature(function).parameters)
        handler = replace(handler, codec=codec, keep_result=keep_result, limit=limit)
        options = EnqueueOptions(queue=queue, priority=priority)
        self._register(handler)
        return JobFunction(self, function, handler, retries + 1, options)

    def handler(
        self,
        name: str,
        function: Callable[..., Any],
        *,
        timeout: float | None = None,
        backoff: Backoff | None = None,
        batch: Batching | None = None,
    ) -> None:
        """Run *function* with the ``Claim`` for jobs of that name; for moorline's own kinds (``call``, ``event:…``).

        With ``batch`` it gets a list of claims, and may return ``Each``.
        """
        self._register(replace(self._handler(name, function, timeout, backoff), batch=batch))

    def limit_queue(self, queue: str, limit: Limit) -> None:
        """Bound how many jobs of that queue begin, or run at once, whatever their functions.

        Raises ConfigurationError for a limit ``by`` an argument, and without a database.
        """
        if limit.by is not None:
            raise ConfigurationError(f"limit: queue {queue!r} has jobs of all kinds, so none can be by {limit.by!r}")
        self._check_limit()
        self._queue_limits[queue] = limit

    def _check_limit(self) -> None:
        if self.limits is None:
            raise ConfigurationError("limit: it is counted in a database: Jobs(broker, store=…)")

    @property
    def limited(self) -> bool:
        """Whether there is any limit."""
        return bool(self._queue_limits) or any(handler.limit is not None for handler in self._handlers.values())

    def rules(self, claim: Claim) -> list[Rule]:
        """Those under which a job is: of its queue, of its function."""
        rules = []
        if (of_queue := self._queue_limits.get(claim.queue)) is not None:
            rules.append(queue_rule(claim.queue, of_queue))
        handler = self._handlers.get(claim.name)
        if handler is not None and handler.limit is not None:
            rules.append(key_of(claim.name, handler.limit, claim.payload))
        return rules

    def batching(self, name: str) -> Batching | None:
        """How jobs of that name are run together, if they are."""
        handler = self._handlers.get(name)
        return None if handler is None else handler.batch

    def _handler(
        self,
        name: str,
        function: Callable[..., Any],
        timeout: float | None,
        backoff: Backoff | None,
        *,
        process: bool = False,
    ) -> Handler:
        is_async = _is_async(function)
        if timeout is not None and not timeout > 0:
            raise ConfigurationError(f"timeout: {timeout!r} is not a positive number of seconds")
        if timeout is not None and not is_async and not process:
            raise ConfigurationError(
                f"timeout: {name} is a plain function, and a thread cannot be stopped: make it async, or process=True"
            )
        if backoff is not None and not callable(getattr(backoff, "delay", None)):
            raise ConfigurationError(f"backoff: expected a Retry, got {backoff!r}")
        return Handler(name, function, is_async, backoff or _default_backoff(), timeout=timeout, process=process)

    def _register(self, handler: Handler) -> None:
        known = self._handlers.get(handler.name)
        if known is not None and _home(known.function) != _home(handler.function):
            raise ConfigurationError(
                f"name: two jobs are called {handler.name!r} ({_home(known.function)}, {_home(handler.function)});"
                " give one of them another name"
            )
        self._handlers[handler.name] = handler

    def bounded(self, name: str, payload: bytes) -> bytes:
        """The payload. Raises InvalidArguments when it is too large."""
        if len(payload) > self.max_payload:
            raise InvalidArguments(
                f"{name}: the arguments take {len(payload):,} bytes, and {self.max_payload:,} are allowed"
                " (max_payload); put what is large into a storage, and enqueue its address"
            )
        return payload

    def find(self, name: str) -> Handler | None:
        """What runs jobs of that name, or None."""
        return self._handlers.get(name)

    def names(self) -> list[str]:
        """All registered names, sorted."""
        return sorted(self._handlers)

    def enqueue(
        self,
        name: str,
        payload: bytes,
        *,
        max_attempts: int = 6,
        event_id: str | None = None,
        options: EnqueueOptions = _PLAIN,
    ) -> Enqueued[JobHandle]:
        """A job of a registered name with a payload of its own. Raises UnknownJob."""
        if name not in self._handlers:
            raise UnknownJob(f"no job is registered under the name {name!r}")
        row = self.row(name, payload, max_attempts=max_attempts, event_id=event_id, options=options)
        if options.expires is not None:
            raise ConfigurationError(f"expires: {name} has no place for it, since its payload is its own")
        watch = self.watch(self._handlers[name])
        return Enqueued(self.broker, [row], options.within, functools.partial(handle_of, watch, row.id))

    def chain(self, *calls: JobCall, within: Any = None) -> Enqueued[list[JobHandle]]:
        """Jobs one after the other: ``chain(fetch.call("u"), resize.call(RESULT, 300), publish.call(RESULT))``.

        Each begins when the one before it is done; ``RESULT`` stands for what that returned, which must be JSON of up
        to 256 KiB then. One that is dead holds up the rest until it was retried; one that is cancelled ends the chain.
        *within* is as in ``EnqueueOptions``; the calls' functions may have a queue, a priority and a delay.

        Raises ConfigurationError, InvalidArguments.
        """
        return chain(calls, within)

    def group(
        self, calls: Iterable[JobCall], *, then: JobCall | Sequence[JobCall] = (), within: Any = None
    ) -> Enqueued[GroupHandle]:
        """Jobs side by side, and what follows when all are done: ``group([resize.call(p) for p in ps], then=…)``.

        ``then`` is a call, or several that follow one another; ``RESULT`` in the first one is the list of what the
        group's jobs returned, in their order, null for what is no JSON of up to 256 KiB or was cancelled. A job that is
        dead holds the group until it was retried, or skipped.

        Raises ConfigurationError (there is no database, …), InvalidArguments.
        """
        if self.groups is None:
            raise ConfigurationError("group: it needs a database: Jobs(broker, store=…)")
        now = self.clock.wall()
        return group(new_id(now), now, self.groups, calls, then, within)

    def watch(self, handler: Handler) -> Watch:
        """What looks at the jobs of that name."""
        keeps = handler.keep_result
        return Watch(self.broker, self.groups, self.clock, handler.name, handler.function, keeps=keeps)

    def row(
        self,
        name: str,
        payload: bytes,
        *,
        max_attempts: int = 6,
        event_id: str | None = None,
        options: EnqueueOptions = _PLAIN,
        received: bool = False,
    ) -> JobRow:
        """The row that ``enqueue`` would store. Raises InvalidArguments when the payload is too large, unless it was
        *received*: nobody here can make it smaller.
        """
        if len(payload) > self.max_payload and not received:
            self.bounded(name, payload)
        now = self.clock.wall()
        return JobRow(  # by position: half as fast again
            new_id(now),
            name,
            payload,
            now if options.delay is options.at is None else options.run_at(now),
            now,
            options.queue or "default",
            _DEFAULT_PRIORITY if options.priority is None else options.priority,
            max_attempts,
            event_id,
            None if options.unique is None else unique_key(name, payload, options.unique),
            None if options.key is None else order_key(name, options.key),
            None if options.unique_for is None else options.unique_until(now),
        )


def _is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def _home(function: Callable[..., Any]) -> str:
    return f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', repr(function))}"


def _default_backoff() -> Backoff:
    from moorline.policies.retry import Retry

    return Retry()
