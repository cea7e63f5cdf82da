"""``Call``: a request to a service as a value. Built first, sent later: awaited, run blocking, enqueued or replayed."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar, cast, overload

from moorline.calls.dialects import check_header
from moorline.calls.exchange import Exchange, Plan
from moorline.calls.explain import time_line
from moorline.calls.story import Story
from moorline.errors import CallerFault, CallError, ConfigurationError, Misuse, OutcomeUnknown
from moorline.policies.checks import check_count, check_seconds
from moorline.policies.policy import Policy
from moorline.policies.retry import Retry

if TYPE_CHECKING:
    from moorline.calls.service import Service

__all__ = ["UNSET", "Call", "DurableQueue", "Options"]

T = TypeVar("T")
U = TypeVar("U")


class _Unset:
    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = _Unset()
_NO_FALLBACK: Final = _Unset()
_PAYLOAD: Final = ("service", "operation", "args", "idempotency_key", "key_minted_at", "options")


class DurableQueue(Protocol):
    """What an application binds to its services so that ``Call.enqueue`` works."""

    def enqueue_call(self, call: Call[Any], **options: Any) -> Any:
        """Store the Call as a job. Returns something that can be awaited, with a blocking ``.result()``."""
        ...


@dataclass(frozen=True, slots=True)
class Options:
    """What ``Call.using`` changed. UNSET leaves the service's policy as it is."""

    timeout: float | _Unset | None = UNSET
    attempt_timeout: float | _Unset | None = UNSET
    retry: Retry | int | _Unset | None = UNSET
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for name in ("timeout", "attempt_timeout"):
            value = getattr(self, name)
            if value is not UNSET and value is not None:
                check_seconds("using", name, value)
        if isinstance(self.retry, int) and not isinstance(self.retry, bool):
            check_count("using", "retry", self.retry, least=0)
        elif self.retry is not None and not isinstance(self.retry, (Retry, _Unset)):
            raise ConfigurationError(
                f"using.retry must be a Retry, an integer or None, not {type(self.retry).__name__}"
            )
        for name, text in self.headers.items():
            check_header("using.headers", name, text)

    def applied(self, policy: Policy) -> Policy:
        """*policy* with these changes."""
        if self.timeout is UNSET and self.attempt_timeout is UNSET and self.retry is UNSET:
            return policy
        changed: dict[str, Any] = {}
        if self.timeout is not UNSET:
            changed["deadline"] = self.timeout
        if self.attempt_timeout is not UNSET:
            changed["attempt_timeout"] = self.attempt_timeout
        if isinstance(self.retry, int):
            changed["retry"] = replace(policy.retry or Retry(), retries=self.retry)
        elif self.retry is not UNSET:
            changed["retry"] = self.retry
        return replace(policy, **changed)

    def to_payload(self) -> dict[str, Any]:
        """The changes as JSON."""
        payload: dict[str, Any] = {}
        for name in ("timeout", "attempt_timeout"):
            if getattr(self, name) is not UNSET:
                payload[name] = getattr(self, name)
        if isinstance(self.retry, Retry):
            payload["retry"] = {each.name: getattr(self.retry, each.name) for each in fields(Retry)}
        elif self.retry is not UNSET:
            payload["retry"] = self.retry
        if self.headers:
            payload["headers"] = dict(self.headers)
        return payload

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> Options:
        """The inverse of ``to_payload``. Fields of a newer version are an error, as they would be silently lost."""
        values = dict(payload)
        try:
            if isinstance(values.get("retry"), dict):
                values["retry"] = Retry(**values["retry"])
            return cls(**values)
        except TypeError as error:
            raise ConfigurationError(f"the stored options of a Call do not fit this version: {error}") from None


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
    options: Options = field(default_factory=Options, repr=False)
    plan: Plan[Any] = field(default=cast("Plan[Any]", None), repr=False, compare=False)
    fallback: Any = field(default=_NO_FALLBACK, repr=False, compare=False)
    raw: bool = field(default=False, repr=False)
    replayable: bool = field(default=True, repr=False, compare=False)
    # When it was first sent; copies share the list, so that all of them know.
    _tries: list[float] = field(default_factory=list, repr=False, compare=False)
    _stories: list[Story] = field(default_factory=list, repr=False, compare=False)  # of the last sending

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
        if rule is not None and plan.method in rule.methods and not plan.repeatable:
            key, minted = str(uuid.uuid4()), service.clock.wall()
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
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            raise Misuse(f"{self._name}.result() would block the running event loop; use `await` here instead")
        try:
            return self._read(self.service.send_call_blocking(self))
        except CallError as error:
            if self._unforgiven(error):
                raise
            instead = self._instead(error)
            return cast("T", instead.result() if isinstance(instead, Call) else instead)

    async def _answered_async(self) -> T:
        try:
            return self._read(await self.service.send_call(self))
        except CallError as error:
            if self._unforgiven(error):
                raise
            instead = self._instead(error)
            return cast("T", await instead if isinstance(instead, Call) else instead)

    def _read(self, exchange: Exchange) -> T:
        return cast("T", exchange if self.raw else self.service.parsed(self, exchange))

    def _unforgiven(self, error: CallError) -> bool:
        """A fallback stands in for a service that fails, never for a caller who is wrong."""
        return self.fallback is _NO_FALLBACK or isinstance(error, CallerFault)

    def _instead(self, error: CallError) -> Any:
        return self.fallback(error) if callable(self.fallback) else self.fallback

    def explain(self) -> str:
        """What happened when this Call was last sent, as a time line: attempts, waits, refusals, each with its reason.

        The first line says how it ended. It holds no argument, no body and no credential.
        """
        return time_line(self._name, self._stories[0] if self._stories else ())

    def sending(self) -> Story:
        """The list that a sending that begins now fills with its steps. For the engine."""
        self._stories[:] = [[]]
        return self._stories[0]

    # Changing (each returns another Call) ----------------------------------------------------------------------------

    def using(
        self,
        *,
        timeout: float | _Unset | None = UNSET,
        attempt_timeout: float | _Unset | None = UNSET,
        retry: Retry | int | _Unset | None = UNSET,
        idempotency_key: str | _Unset = UNSET,
        headers: Mapping[str, str] | None = None,
    ) -> Call[T]:
        """The same Call with options: *timeout* bounds the whole call, *attempt_timeout* each attempt (seconds;
        None: no bound).

        *retry* is a number of retries, a Retry, or None for none. *idempotency_key* replaces the minted one;
        *headers* are added.

        Raises ConfigurationError naming the option, also for a key where the service honours none.
        """
        given = {"timeout": timeout, "attempt_timeout": attempt_timeout, "retry": retry}
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not UNSET}
        if headers is not None:
            changes["headers"] = {**self.options.headers, **headers}
        changed = replace(self, options=replace(self.options, **changes)) if changes else self
        if isinstance(idempotency_key, _Unset):
            return changed
        rule = self.service.idempotency
        if rule is None or self.idempotency_key is None:
            why = "honours no idempotency keys" if rule is None else f"honours none on {self.operation}"
            raise ConfigurationError(f"idempotency_key: {self.service.name} {why}")
        # The caller's key is as old as the caller says; ours is counted from now.
        return replace(
            changed, idempotency_key=rule.check(idempotency_key), key_minted_at=self.service.clock.wall(), _tries=[]
        )

    @overload
    def or_else(self, instead: Callable[[CallError], Call[U]]) -> Call[T | U]: ...
    @overload
    def or_else(self, instead: Callable[[CallError], U]) -> Call[T | U]: ...
    @overload
    def or_else(self, instead: Call[U]) -> Call[T | U]: ...
    @overload
    def or_else(self, instead: U) -> Call[T | U]: ...
    def or_else(self, instead: Any) -> Call[Any]:
        """Answer with *instead* when the call fails: a value, another Call, or a function of the error giving either.

        Faults of the caller (a declined card, a wrong argument) are still raised: there is nothing to stand in for.
        """
        return replace(cast("Call[Any]", self), fallback=instead)

    def response(self) -> Call[Exchange]:
        """The same Call, answering with the raw Exchange: status, headers, body, request id and attempts."""
        return replace(cast("Call[Exchange]", self), raw=True)

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
            "idempotency_key": self.idempotency_key,
            "key_minted_at": self.key_minted_at,
            "first_tried_at": self._tries[0] if self._tries else None,
            "options": self.options.to_payload(),
        }

    @staticmethod
    def from_payload(payload: Mapping[str, Any], resolve: Callable[[str], Service], *, attempt: int = 1) -> Call[Any]:
        """The Call of a payload. *resolve* gives the service of a name; *attempt* is how often the job was started.

        From its second start on the key counts as used since it was minted, if nothing better is known.

        Raises UnknownJob for an operation that is gone, InvalidArguments for arguments that no longer fit.
        """
        lacking = [name for name in _PAYLOAD if name not in payload]
        if lacking:
            raise ConfigurationError(f"the stored Call has no {', '.join(lacking)}")
        service = resolve(payload["service"])
        operation = service.operation_named(payload["operation"])
        args, kwargs = operation.decode(payload["args"])
        key, minted = payload["idempotency_key"], payload["key_minted_at"]
        options = Options.from_payload(payload["options"])
        call = operation.call(service, args, kwargs)
        first = payload.get("first_tried_at") or (minted if attempt > 1 else None)
        return replace(
            call,
            idempotency_key=key,
            key_minted_at=minted,
            options=options,
            _tries=[] if first is None else [first],
        )

    def started(self, now: float) -> None:
        """Called at each sending. Raises OutcomeUnknown when the service has forgotten the key of an earlier one."""
        rule = self.service.idempotency
        if self.idempotency_key is None or rule is None:
            return
        if not self._tries:
            self._tries.append(now)
        elif now - self._tries[0] > rule.window:
            raise OutcomeUnknown(
                "not sent again: the service no longer knows the idempotency key of the first try "
                f"({time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(self._tries[0]))}); look the object up first",
                service=self.service.name,
                operation=self.operation,
                idempotency_key=self.idempotency_key,
            )

    def _check_durable(self) -> None:
        if not self.replayable:
            raise Misuse(f"{self._name}: a next page cannot be enqueued, as its address may expire; enqueue the first")
        if self.fallback is not _NO_FALLBACK:
            raise Misuse(
                f"{self._name}: a Call with a fallback cannot be enqueued, as functions do not survive a queue"
            )

    @property
    def _name(self) -> str:
        return f"{self.service.name}.{self.operation}"
