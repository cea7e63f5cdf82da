"""``Call``: a request to a service as a value. Built first, sent later: awaited, run blocking, enqueued or replayed."""

from __future__ import annotations

import asyncio
import inspect
import time
import uuid
from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar, cast, overload

from moorline.calls.exchange import IDEMPOTENT, Exchange, Plan
from moorline.calls.explain import time_line
from moorline.calls.hedge import Hedge
from moorline.calls.lastgood import LastGood
from moorline.calls.options import PLAIN, UNSET, Options, Unset
from moorline.calls.story import FellBack, Story, record, record_refusal
from moorline.errors import CallerFault, CallError, ConfigurationError, Misuse, OutcomeUnknown
from moorline.policies.retry import Retry

if TYPE_CHECKING:
    import os

    from moorline.calls.dialects import IdempotencyKey
    from moorline.calls.download import Download
    from moorline.calls.service import Service
    from moorline.calls.streaming import Streaming

__all__ = ["UNSET", "Call", "DurableQueue", "Options", "check_payload"]

T = TypeVar("T")
U = TypeVar("U")


_NO_FALLBACK: Final = Unset()
_PAYLOAD: Final = ("service", "operation", "args", "idempotency_key", "key_minted_at", "options")


class DurableQueue(Protocol):
    """What an application binds to its services so that ``Call.enqueue`` works."""

    def enqueue_call(self, call: Call[Any], **options: Any) -> Any:
        """Store the Call as a job. Returns something that can be awaited, with a blocking ``.result()``."""
        ...


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A request to *service* that was not sent yet. Operations of a service make these.

    ``await call`` sends it on the event loop, ``call.result()`` sends it blocking. Both return what the operation
    promises or raise a ``CallError``. The *idempotency_key* is minted once, here, where the operation is a write and
    the service honours keys: all attempts, and sending the same Call again, carry the same.
    """

    service: Service
    operation: str
    args: tuple[Any, ...] = field(default=(), repr=False)
    kwargs: Mapping[str, Any] = field(default_factory=dict, repr=False)
    idempotency_key: str | None = None
    key_minted_at: float | None = field(default=None, repr=False)
    options: Options = field(default=PLAIN, repr=False)
    plan: Plan[Any] = field(default=cast("Plan[Any]", None), repr=False, compare=False)
    fallback: Any = field(default=_NO_FALLBACK, repr=False, compare=False)
    last: LastGood | None = field(default=None, repr=False, compare=False)
    raw: bool = field(default=False, repr=False)
    replayable: bool = field(default=True, repr=False, compare=False)
    # When the first attempt began that may have been sent; copies share the list, so that all of them know.
    _tries: list[float] = field(default_factory=list, repr=False, compare=False)
    _stories: list[Story] = field(default_factory=list, repr=False, compare=False)  # of the last sending
    _decided: list[Plan[Any]] = field(default_factory=list, repr=False, compare=False)  # what the read before it gave

    @classmethod
    def of(
        cls,
        service: Service,
        operation: str,
        plan: Plan[T],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        replayable: bool = True,
    ) -> Call[T]:
        """A new Call of *plan*, with its key. For ``operation`` and ``Pages``; *replayable* tells whether arguments
        rebuild it.
        """
        key, minted = None, None
        rule = service.idempotency
        if rule is not None and plan.keyed and plan.method in rule.methods and not plan.repeatable:
            key = _key_in(plan, rule) if rule.field else str(uuid.uuid4())
            minted = None if key is None else service.clock.wall()
        return cls(
            service,
            operation,
            args,
            {} if kwargs is None else kwargs,
            idempotency_key=key,
            key_minted_at=minted,
            plan=plan,
            replayable=replayable,
        )

    def __hash__(self) -> int:
        # Arguments may be lists; equal Calls agree in these, and asyncio.gather needs a hash.
        return hash((self.service.name, self.operation, self.idempotency_key))

    # Sending ---------------------------------------------------------------------------------------------------------

    def __await__(self) -> Generator[Any, None, T]:
        return self._answered_async().__await__()

    def result(self) -> T:
        """Send it and block until the answer is there.

        Raises Misuse inside a running event loop, which it would stop: ``await`` the Call there. Raises CallError.
        """
        self._check_blocking()
        try:
            return self.taken(self.service.send_call_blocking(self))
        except CallError as error:
            return cast("T", self._waited(self.instead_of(error)))

    async def _answered_async(self) -> T:
        try:
            return self.taken(await self.service.send_call(self))
        except CallError as error:
            instead = self.instead_of(error)
            return cast("T", await instead if inspect.isawaitable(instead) else instead)

    def taken(self, exchange: Exchange) -> T:
        """What the caller gets of a good answer, which is remembered if ``or_last_good`` may want it. For sending."""
        answer = cast("T", exchange if self.raw else self.service.parsed(self, exchange))
        if self.last is not None:
            self.last.keep(self, exchange)
        return answer

    def instead_of(self, error: CallError) -> Any:
        """What stands in for a service that fails; raises *error* where nothing does, or the caller is wrong."""
        kept = None if self.last is None else self.last.find(self, error)
        if kept is not None:
            self._fell_back(f"the last good answer, {kept.age:.0f} s old", error)
            return kept if self.raw else self.service.parsed(self, kept)
        if self.fallback is _NO_FALLBACK or isinstance(error, CallerFault):
            raise error
        self._fell_back("what or_else gives", error)
        return self.fallback(error) if callable(self.fallback) else self.fallback

    def _fell_back(self, to: str, error: CallError) -> None:
        name, now = self.service.name, self.service.clock.wall()
        step = FellBack(at=now, service=name, operation=self.operation, reason=error.message, to=to)
        record(step, self._stories[0] if self._stories else None)

    def _waited(self, instead: Any) -> Any:
        """A fallback's answer, blocking."""
        if isinstance(instead, Call):
            return instead.result()
        if inspect.isawaitable(instead):
            if inspect.iscoroutine(instead):
                instead.close()
            raise Misuse(f"{self._name}.result() cannot await its fallback; use `await` here, or a plain function")
        return instead

    def _check_blocking(self) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return
        raise Misuse(f"{self._name}.result() would block the running event loop; use `await` here instead")

    def explain(self) -> str:
        """What happened when this Call was last sent, as a time line: attempts, waits, refusals, each with its reason.

        The first line says how it ended. It holds no argument, no body and no credential.
        """
        return time_line(self._name, self.told)

    def sending(self) -> Story:
        """The list that a sending that begins now fills with its steps. For the engine."""
        self._stories[:] = [[]]
        return self._stories[0]

    @property
    def told(self) -> Story:
        """What the last sending told. For the engine."""
        return self._stories[0] if self._stories else []

    @property
    def decided(self) -> Plan[Any] | None:
        """The write that a read decided on, which is sent again as it was: its key stands for it. For the engine."""
        return self._decided[0] if self._decided else None

    def decide(self, plan: Plan[Any] | None) -> Plan[Any] | None:
        """*plan* itself, which a Call with a key remembers. For the engine."""
        if plan is not None and self.idempotency_key is not None:
            self._decided[:] = [plan]
        return plan

    def aside(self) -> Call[T]:
        """The same Call, whose sending is no step of its story: for a hedge, and to look at the request."""
        return replace(self, _stories=[])

    # Changing (each returns another Call) ----------------------------------------------------------------------------

    def using(
        self,
        *,
        timeout: float | Unset | None = UNSET,
        attempt_timeout: float | Unset | None = UNSET,
        retry: Retry | int | Unset | None = UNSET,
        idempotency_key: str | Unset = UNSET,
        headers: Mapping[str, str] | None = None,
        tenant: str | Unset | None = UNSET,
        hedge: float | Hedge | Unset | None = UNSET,
        coalesce: bool | Unset | None = UNSET,
        cost: float | Unset | None = UNSET,
    ) -> Call[T]:
        """The same Call with options: *timeout* bounds the whole call, *attempt_timeout* each attempt (seconds;
        None: no bound).

        *retry* is a number of retries, a Retry, or None for none. *idempotency_key* replaces the minted one;
        *headers* are added. *tenant* names who it is for: what is kept or limited by tenant is kept apart. *hedge* is
        a number of seconds after which a read is sent a second time, and the first answer taken (or a Hedge);
        *coalesce* lets equal reads that are under way at the same time share one request. *cost* is what each attempt
        takes from rate limits, where the usual operation takes 1.

        Raises ConfigurationError naming the option, also for a key where the service honours none, and for a hedge or
        sharing of what is no read.
        """
        given: dict[str, Any] = {"timeout": timeout, "attempt_timeout": attempt_timeout, "retry": retry}
        given |= {"tenant": tenant, "coalesce": coalesce, "cost": cost}
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not UNSET}
        if headers is not None:
            changes["headers"] = {**self.options.headers, **headers}
        if not isinstance(hedge, Unset):
            changes["hedge"] = Hedge.of(hedge)
        changed = replace(self, options=replace(self.options, **changes)) if changes else self
        for name in ("hedge", "coalesce"):
            if changes.get(name) and not self.plan.reads:
                raise ConfigurationError(
                    f"using.{name}: {self._name} is a {self.plan.method} that may act, which is not for two requests "
                    "or two callers; only reads are, and what its Plan declares as repeatable=True"
                )
        return changed if isinstance(idempotency_key, Unset) else changed.keyed(idempotency_key)

    def keyed(self, idempotency_key: str) -> Call[T]:
        """The same Call with that key: ``using(idempotency_key=…)``. Raises ConfigurationError."""
        rule = self.service.idempotency
        if rule is None or self.idempotency_key is None:
            why = "honours no idempotency keys" if rule is None else f"honours none on {self.operation}"
            raise ConfigurationError(f"idempotency_key: {self.service.name} {why}")
        # The caller's key is as old as the caller says; ours is counted from now.
        return replace(
            self,
            idempotency_key=rule.check(idempotency_key),
            key_minted_at=self.service.clock.wall(),
            _tries=[],
            _decided=[],
        )

    @overload
    def or_else(self, instead: Callable[[CallError], Awaitable[U]]) -> Call[T | U]: ...
    @overload
    def or_else(self, instead: Callable[[CallError], U]) -> Call[T | U]: ...
    @overload
    def or_else(self, instead: Call[U]) -> Call[T | U]: ...
    @overload
    def or_else(self, instead: U) -> Call[T | U]: ...
    def or_else(self, instead: Any) -> Call[Any]:
        """Answer with *instead* when the call fails: a value, another Call, or a function of the error giving either
        (an async one where the Call is awaited).

        Faults of the caller (a declined card, a wrong argument) are still raised: there is nothing to stand in for.
        """
        return replace(cast("Call[Any]", self), fallback=instead)

    def or_last_good(self, *, max_age: float | None = 3600.0) -> Call[T]:
        """Answer with the last good answer to the same read when the call fails, if that is at most *max_age* seconds
        old (None: of any age). It comes before ``or_else``.

        Answers are remembered from Calls that have this, in this process, for the same address, arguments, tenant and
        credential. ``last_good_age`` tells how old the answer was, as does ``age`` of a raw ``response()``. Faults of
        the caller are raised, and those of the credential: who lost access sees nothing.

        Raises ConfigurationError for an operation that is no read.
        """
        return replace(self, last=LastGood.wanted(self, max_age))

    @property
    def last_good_age(self) -> float | None:
        """How old the answer was that the last sending of this Call gave, in seconds; None for one that came from the
        service.
        """
        return None if self.last is None else self.last.age

    def response(self) -> Call[Exchange]:
        """The same Call, answering with the raw Exchange: status, headers, body, request id and attempts."""
        return replace(cast("Call[Exchange]", self), raw=True)

    def stream(self) -> Streaming:
        """Send it and read the answer in parts: ``async with call.stream() as answer: async for part in answer: …``,
        or both without ``async`` to block. The deadline includes the body.
        """
        from moorline.calls.streaming import Streaming

        self._check_single()
        return Streaming(self)

    def download(
        self,
        path: str | os.PathLike[str],
        *,
        progress: Callable[[int, int | None], None] | None = None,
        resume: bool = True,
    ) -> Download:
        """Send it and write the answer to the file *path*, which appears when it is complete: ``await`` it, or use
        ``.result()``. *progress* is told the bytes so far, and all of them where the service said so.

        When the body breaks off, retries ask for the rest where that is safe, unless *resume* is False.
        """
        from moorline.calls.download import Download

        self._check_single()
        return Download(self, path, progress, resume=resume)

    # Durable ---------------------------------------------------------------------------------------------------------

    def enqueue(self, **options: Any) -> Any:
        """Store the Call as a job, to be sent by a worker even if this process dies; ``await`` it or use ``.result()``.

        Options are those of a job: ``delay``, ``queue``, ``within`` (your own SQLAlchemy session or connection), ….

        Raises Misuse for a service that belongs to no application, and for what no queue can carry (a fallback, a
        next page).
        """
        queue = self.service.queue
        if queue is None:
            raise Misuse(
                f"{self._name} cannot be enqueued: this {self.service.name} belongs to no application; "
                f"use app.service({type(self.service).__name__}), or send the Call with `await` or .result()"
            )
        self._check_durable()
        return queue.enqueue_call(self, **options)

    def to_payload(self) -> dict[str, Any]:
        """The Call as JSON, for a queue. Raises Misuse for what no queue can carry, InvalidArguments for odd
        arguments.
        """
        self._check_durable()
        return {
            "service": self.service.name,
            "operation": self.operation,
            "args": self.service.operation_named(self.operation).encode(self.args, self.kwargs),
            **self.key_payload(),
            "options": self.options.to_payload(),
        }

    @staticmethod
    def from_payload(payload: Mapping[str, Any], resolve: Callable[[str], Service], *, attempt: int = 1) -> Call[Any]:
        """The Call of a payload. *resolve* gives the service of a name; *attempt* is how often the job was started.

        From its second start on the key counts as used since it was minted, if nothing better is known.

        Raises UnknownJob for an operation that is gone, InvalidArguments for arguments that no longer fit.
        """
        if "failover" in payload:
            from moorline.calls.failover import FailoverCall

            return FailoverCall.restored(payload, resolve, attempt)
        check_payload(payload, _PAYLOAD)
        service = resolve(payload["service"])
        operation = service.operation_named(payload["operation"])
        args, kwargs = operation.decode(payload["args"])
        call = replace(operation.call(service, args, kwargs), options=Options.from_payload(payload["options"]))
        return call.with_key_of(payload, attempt)

    def key_payload(self) -> dict[str, Any]:
        """The key as JSON, and since when the service may know it: None as long as nothing of it was ever sent."""
        first = self._tries[0] if self._tries else None
        return {
            "idempotency_key": self.idempotency_key,
            "key_minted_at": self.key_minted_at,
            "first_tried_at": first,
        }

    def with_key_of(self, payload: Mapping[str, Any], attempt: int) -> Call[T]:
        """The same Call with the key of ``key_payload``, at the job's start number *attempt*."""
        minted = payload["key_minted_at"]
        first = payload.get("first_tried_at") or (minted if attempt > 1 else None)
        tries = [] if first is None else [first]
        return replace(self, idempotency_key=payload["idempotency_key"], key_minted_at=minted, _tries=tries)

    @property
    def repeatable(self) -> bool:
        """Whether sending it again does nothing that sending it once does not."""
        plan = self.plan
        idempotent = plan.method in IDEMPOTENT if plan.repeatable is None else plan.repeatable
        return idempotent or self.idempotency_key is not None

    @property
    def services(self) -> tuple[Service, ...]:
        """Where it may be sent."""
        return (self.service,)

    def started(self, now: float) -> None:
        """Called at each sending. Raises OutcomeUnknown when the service has forgotten the key of an earlier one."""
        rule = self.service.idempotency
        if not self._tries or self.idempotency_key is None or rule is None or now - self._tries[0] <= rule.window:
            return
        error = OutcomeUnknown(
            "not sent again: the service no longer knows the idempotency key of the first try "
            f"({time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(self._tries[0]))}); look the object up first",
            service=self.service.name,
            operation=self.operation,
            idempotency_key=self.idempotency_key,
        )
        record_refusal("key window", error, self.sending(), now)
        raise error

    def _check_durable(self) -> None:
        if not self.replayable:
            raise Misuse(f"{self._name}: a next page cannot be enqueued, as its address may expire; enqueue the first")
        if self.plan.upload is not None:
            raise Misuse(
                f"{self._name}: an upload cannot be enqueued, as its source may be gone by then; enqueue a job of "
                "yours that makes the Call"
            )
        if self.fallback is not _NO_FALLBACK or self.last is not None:
            raise Misuse(
                f"{self._name}: a Call with a fallback cannot be enqueued, as functions do not survive a queue"
            )

    def _check_single(self) -> None:
        if self.plan.after is not None:
            raise Misuse(f"{self._name} reads before it writes: its answer comes whole; use `await` or .result()")

    @property
    def _name(self) -> str:
        return f"{self.service.name}.{self.operation}"


def _key_in(plan: Plan[Any], rule: IdempotencyKey) -> str | None:
    """The key of a write whose JSON body has to name it: the caller's own where it does already, else a new one.

    None where there is no JSON object that could. Raises ConfigurationError for one that the service would not take.
    """
    known = isinstance(plan.json, Mapping)
    if not known and plan.after is None:  # after a read it is not known yet
        return None
    given = plan.json.get(rule.field) if known else None
    return str(uuid.uuid4()) if given is None else rule.check(given)


def check_payload(payload: Mapping[str, Any], names: tuple[str, ...]) -> None:
    """Raise ConfigurationError, naming what is missing, unless *payload* has all *names*."""
    lacking = [name for name in names if name not in payload]
    if lacking:
        raise ConfigurationError(f"the stored Call has no {', '.join(lacking)}")
