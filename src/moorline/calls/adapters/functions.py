"""The pipeline under any code: ``@resilient("ledger")``, and ``app.guard("ledger").call(fn, ...)``, sync and async.

The function is one attempt. Its exceptions are told apart (see ``failures.py``): failures of the service go to the
breaker and may be repeated; all else, such as a bug or a 404, is the caller's own affair, is raised as it is, and
counts as a success of the service. When the attempts are used up the function's own last exception is raised, with a
note of the attempts, so that ``except`` clauses stay as they were; ``call_error`` gives the typed error behind it.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from moorline.calls.adapters.arguments import checked
from moorline.calls.adapters.doubles import check_function
from moorline.calls.adapters.duals import as_theirs
from moorline.calls.adapters.failures import Failure, failure_of
from moorline.calls.adapters.foreign import said
from moorline.calls.dialects import RateLimitHeaders
from moorline.calls.drivers import drive, drive_async
from moorline.calls.effects import CallContext, Expired, Lease
from moorline.calls.engine import Pipeline
from moorline.calls.guards import Guards
from moorline.calls.timer import Timer
from moorline.errors import (
    Attempt,
    AttemptTimeout,
    BadAnswer,
    CallerFault,
    CallError,
    CircuitOpen,
    ConfigurationError,
    ConnectFailed,
    ConnectionLost,
    CredentialFault,
    DeadlineExceeded,
    LimitFault,
    Misuse,
)
from moorline.policies.deadline import _ambient
from moorline.policies.policy import Policy

if TYPE_CHECKING:
    from moorline.calls.adapters.blocks import Block

__all__ = ["Invocation", "Resilient", "call_error", "resilient"]

P = ParamSpec("P")
R = TypeVar("R")

Classify = Callable[[Exception], "CallError | bool | None"]
RetryOn = type[Exception] | tuple[type[Exception], ...]

_LIMITS: Final = RateLimitHeaders()
_NO_NAMES: Final[frozenset[str]] = frozenset()
_MARK: Final = "__moorline_guard__"
_BEHIND: Final = "__moorline_error__"
_order: Final = itertools.count(1)  # what came before what, among the calls of this process


def call_error(error: BaseException) -> CallError | None:
    """The typed error behind an exception that a guarded function raised after its attempts: outcome, ``retryable``,
    ``retry_at``, attempts. None for one that no guard has seen.
    """
    found: CallError | None = error if isinstance(error, CallError) else getattr(error, _BEHIND, (0, None))[1]
    return found


class Resilient:
    """Runs functions through the pipeline under one name; also a decorator. Made by ``resilient`` or ``app.guard``."""

    __slots__ = ("_classify", "_clock", "_guard", "_policy", "_retry_on", "_safe", "name")

    def __init__(
        self,
        name: str,
        policy: Policy | None = None,
        *,
        retry_on: RetryOn = (),
        classify: Classify | None = None,
        safe: bool = False,
        guards: Guards | None = None,
    ) -> None:
        kinds = retry_on if isinstance(retry_on, tuple) else (retry_on,)
        _check_arguments(name, kinds, classify)
        self._policy, shared = checked("resilient", policy, name, guards)
        self.name = name
        self._guard = shared.guard(name, self._policy)
        self._clock = shared.clock
        self._retry_on = kinds
        self._classify = classify
        self._safe = safe

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Decorate *function*, plain or async, a method too.

        Raises ConfigurationError for what cannot be repeated as a whole (a generator), and for what is decorated with
        retries already.
        """
        name = getattr(function, "__qualname__", type(function).__name__)
        if isinstance(function, (classmethod, staticmethod)):
            raise ConfigurationError(f"@resilient goes beneath @{type(function).__name__}, around the function")
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise ConfigurationError(f"{name} is a generator, which cannot be begun again; guard what it calls")
        if getattr(function, _MARK, None) is not None:
            raise ConfigurationError(f"{name} is guarded by @resilient already, and retries would multiply")
        check_function(function, self._policy)
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def guarded_async(*args: P.args, **kwargs: P.kwargs) -> Any:
                return await self._run_async(Invocation(self, function, args, kwargs))

            setattr(guarded_async, _MARK, self)
            return guarded_async  # type: ignore[return-value]  # R is a coroutine here

        @functools.wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            return self._run(Invocation(self, function, args, kwargs))  # type: ignore[no-any-return]

        setattr(guarded, _MARK, self)
        return guarded

    def call(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """What ``function(*args, **kwargs)`` returns; for a coroutine function, something to await.

        A plain function cannot be interrupted: its deadline is checked between attempts, a result that comes late is
        returned all the same, and what it calls in turn learns of the deadline from ``moorline.deadline`` (moorline's
        own calls keep it by themselves). A coroutine is cancelled.

        Raises what *function* raises, or CallError: CircuitOpen, BulkheadFull, RateLimited, DeadlineExceeded and
        AttemptTimeout (the latter two also TimeoutError). Raises Misuse when a plain function returns a coroutine.
        """
        invocation = Invocation(self, function, args, kwargs)
        if inspect.iscoroutinefunction(function):
            return self._run_async(invocation)  # type: ignore[return-value]  # R is a coroutine here
        return self._run(invocation)  # type: ignore[no-any-return]

    async def call_async(self, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """As ``call``, for anything that returns something to await, such as a lambda."""
        return await self._run_async(Invocation(self, function, args, kwargs))  # type: ignore[no-any-return]

    def block(self) -> Block:
        """A block of code as one attempt, never repeated: ``with guard.block():``, or ``async with``."""
        from moorline.calls.adapters.blocks import Block

        return Block(Invocation(self, block, (), {}))

    def _run(self, invocation: Invocation) -> Any:
        own: BaseException
        try:
            drive(Pipeline(invocation).run(), _BLOCKING, self._clock)
        except CallError as error:
            own = invocation.own_of(error)
        else:
            if invocation.own is None:
                return invocation.value
            own = invocation.own
        raise own

    async def _run_async(self, invocation: Invocation) -> Any:
        own: BaseException
        try:
            await drive_async(Pipeline(invocation).run(), _ON_LOOP, self._clock)
        except CallError as error:
            own = invocation.own_of(error)
        else:
            if invocation.own is None:
                return invocation.value
            own = invocation.own
        raise own

    def failure(self, error: Exception) -> Failure | None:
        """What *error* means for the service, by this guard's rules; None when it is the caller's own affair."""
        if self._classify is not None:
            told = self._classify(error)
            if told is not None:
                return (
                    Failure(told)
                    if isinstance(told, CallError)
                    else Failure(ConnectionLost(said(error)))
                    if told
                    else None
                )
        if isinstance(error, self._retry_on):
            return Failure(ConnectFailed(said(error)))  # the caller vouches that a repeat is safe
        return failure_of(error)

    def __repr__(self) -> str:
        return f"<moorline resilient {self.name!r}>"


def resilient(
    name: str,
    policy: Policy | None = None,
    *,
    retry_on: RetryOn = (),
    classify: Classify | None = None,
    safe: bool = False,
    guards: Guards | None = None,
) -> Resilient:
    """Guard functions: ``@resilient("ledger")``. Equal names share breaker, limits and budget, with services too.

    *safe* says that the function may run twice (it is idempotent). Without it only those failures are repeated that
    certainly never began: a refused connection, a name that does not resolve, a 429, a 503 with ``Retry-After``. The
    exceptions of *retry_on* are repeated in any case: give those after which a repeat is safe.

    Failures of the service are: connection errors, timeouts, the network errors of the usual HTTP clients, and
    exceptions that carry a status (``.status_code``, ``.status``, ``.response.status_code``) of 408, 425, 429 or 5xx.
    *classify* has the first word: it gets the exception and returns True (a failure), False (the caller's own), a
    CallError (exactly this), or None (the usual rules).

    Raises ConfigurationError naming the argument.
    """
    return Resilient(name, policy, retry_on=retry_on, classify=classify, safe=safe, guards=guards)


def block() -> None:
    """What a block runs is written where it stands."""


def _check_arguments(name: Any, kinds: tuple[Any, ...], classify: Any) -> None:
    if not isinstance(name, str) or not name:
        raise ConfigurationError(f"resilient.name must be a string that is not empty, not {name!r}")
    if not all(isinstance(kind, type) and issubclass(kind, Exception) for kind in kinds):
        raise ConfigurationError("resilient.retry_on must be one or several classes of exceptions")
    if classify is not None and not callable(classify):
        raise ConfigurationError("resilient.classify must be a function of the exception, or None")


class Invocation(CallContext["Invocation", "Invocation"]):
    """One call of a function; it is its own request and its own answer for the engine."""

    __slots__ = ("_args", "_begun", "_failure", "_kwargs", "_owner", "_worked", "function", "own", "status", "value")

    replayable = True

    def __init__(self, owner: Resilient, function: Callable[..., Any], args: Any, kwargs: Any) -> None:
        super().__init__(
            service=owner.name,
            operation=getattr(function, "__name__", type(function).__name__),
            policy=owner._policy,  # noqa: SLF001 (one thing in two classes)
            guard=owner._guard,  # noqa: SLF001
            limits=_LIMITS,
            idempotent=owner._safe,  # noqa: SLF001
            key=None,
            clock=owner._clock,  # noqa: SLF001
        )
        self._owner = owner
        self.function = function
        self._args = args
        self._kwargs = kwargs
        self._failure: Failure | None = None
        self._worked: bool | None = True
        self.own: Exception | None = None
        self.status = 200
        self.value: Any = None

    def begin(self) -> Any:
        """Call the function."""
        self._failure = self.own = None
        self._worked = True
        self.status = 200
        self._begun = next(_order)
        return self.function(*self._args, **self._kwargs)

    def ended(self, error: Exception) -> Invocation:
        """The function raised *error*."""
        self.own = error
        inner = call_error(error)
        if inner is not None and inner.attempts and self._is_new(error):
            # Another pipeline has tried already: retries must not multiply.
            if isinstance(inner, (LimitFault, CircuitOpen)):
                self._worked = None
            elif not isinstance(inner, (CallerFault, CredentialFault)):
                self._failure = Failure(BadAnswer(said(error), retryable=False))
        elif inner is error:
            self._failure = None if isinstance(inner, (CallerFault, CredentialFault)) else Failure(inner)
        else:
            self._failure = self._owner.failure(error)
        if self._failure is not None:
            self.status = self._failure.status
        return self

    def _is_new(self, error: Exception) -> bool:
        """Whether what stands behind *error* is of this attempt; one exception may well be raised a second time."""
        return isinstance(error, CallError) or getattr(error, _BEHIND, (0, None))[0] > self._begun

    @property
    def names(self) -> frozenset[str] | None:
        """The names of its headers, None where it takes a look to know."""
        return _NO_NAMES if self._failure is None else None

    def header(self, name: str, default: str | None = None) -> str | None:
        """A header of the answer that a failure came from."""
        return default if self._failure is None else self._failure.header(name, default)

    def request(self) -> Invocation:
        """The same again."""
        return self

    def judge(self, answer: Invocation) -> CallError | None:
        """The failure, if it is one."""
        failure = answer._failure
        return None if failure is None else failure.error

    def succeeded(
        self,
        answer: Invocation,
        lease: Lease,
        deadline: float,  # noqa: ARG002 (the function is over)
        attempts: tuple[Attempt, ...],
    ) -> Invocation:
        """The function is over: nothing is held."""
        lease.settle(worked=self._worked, elapsed=attempts[-1].elapsed)
        return answer

    def raised(self, error: CallError) -> CallError:
        """Our own time limits are TimeoutErrors, too."""
        late = (AttemptTimeout, DeadlineExceeded)
        if isinstance(error, late) or isinstance(error.__cause__, late):
            return as_theirs(error, TimeoutError)
        return error

    def own_of(self, error: CallError) -> BaseException:
        """What the function's caller gets for *error*: the function's own exception where it led to it."""
        own, failure = self.own, self._failure
        if own is None or own is error:
            return error
        if failure is None or (error is not failure.error and error.__cause__ is not failure.error):
            error.__cause__ = own  # refused, or out of time, after it had failed
            return error
        if len(error.attempts) > 1:
            spent = error.attempts[-1].at + error.attempts[-1].elapsed - error.attempts[0].at
            own.add_note(
                f"{self.service}.{self.operation}: given up after {len(error.attempts)} attempts in {spent:.3g} s"
            )
        error.__cause__ = None  # no circle: the typed error hangs on the function's own
        with contextlib.suppress(AttributeError, TypeError):  # an exception with slots is raised without
            setattr(own, _BEHIND, (next(_order), error))
        return own


class _Blocking:
    """Runs a plain function; what it calls learns of the attempt's end from the ambient deadline."""

    @staticmethod
    def send(invocation: Invocation, timeout: float | None) -> Invocation:
        try:
            if timeout is None:
                value = invocation.begin()
            else:
                # As ``with moorline.deadline(timeout)``, at a fifth of its cost.
                token = _ambient.set(min(_ambient.get(), invocation.clock.monotonic() + timeout))
                try:
                    value = invocation.begin()
                finally:
                    _ambient.reset(token)
        except Exception as error:  # noqa: BLE001 (each is told apart)
            return invocation.ended(error)
        if inspect.iscoroutine(value):
            value.close()
            raise Misuse(f"{invocation.operation} returned a coroutine: use call_async, or give the coroutine function")
        invocation.value = value
        return invocation

    @staticmethod
    def discard(invocation: Invocation) -> None:
        """Nothing to free."""


class _OnLoop:
    """Runs a coroutine, and cancels it when its time is over."""

    @staticmethod
    async def send(invocation: Invocation, timeout: float | None) -> Invocation:
        timer = Timer(timeout)
        try:
            with timer:
                invocation.value = await invocation.begin()
        except Exception as error:  # noqa: BLE001 (each is told apart)
            if isinstance(error, TimeoutError) and timer.expired:
                raise Expired(sent=True) from None
            return invocation.ended(error)
        return invocation

    @staticmethod
    async def discard(invocation: Invocation) -> None:
        """Nothing to free."""


_BLOCKING: Final = _Blocking()
_ON_LOOP: Final = _OnLoop()
