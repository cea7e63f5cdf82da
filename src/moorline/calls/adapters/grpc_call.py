"""One gRPC call as the engine sees it, in both colours, and its errors, which are gRPC's as well."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Collection, Iterable
from contextvars import ContextVar
from dataclasses import replace
from types import TracebackType
from typing import Any, Final, NoReturn

import grpc

from moorline.calls.adapters.arguments import checked
from moorline.calls.adapters.duals import as_theirs
from moorline.calls.adapters.grpc_status import LIMITS, Code, Ended, error_of
from moorline.calls.effects import CallContext, Lease
from moorline.calls.verdicts import final, worked
from moorline.errors import (
    Attempt,
    AttemptTimeout,
    CallError,
    ConfigurationError,
    DeadlineExceeded,
    LimitFault,
)

__all__ = ["Rpc", "RpcFailure", "Shared", "channel_options", "connected", "core_of", "under_way"]

Safe = Collection[str] | Callable[[str], bool]

under_way: Final[ContextVar[bool]] = ContextVar("moorline_grpc", default=False)
_ROUNDING: Final = 0.002  # gRPC counts in milliseconds
_SHORTEST: Final = 0.001
_READY: Final = 2  # cygrpc.ConnectivityState.ready
_POLICIES: Final = ("retryPolicy", "hedgingPolicy")


class StatusName(str):
    """The name of a gRPC status, as ``error.code``; called, as gRPC's users do, it gives the status."""

    __slots__ = ()

    def __call__(self) -> grpc.StatusCode:
        """The status."""
        return grpc.StatusCode[self]


class RpcFailure(grpc.aio.AioRpcError, grpc.Call, grpc.Future):  # type: ignore[misc]  # gRPC ships no types
    """What gRPC's users expect of an error, blocking and on the loop: it is a call that is over, too."""

    _details: str | None = None
    _debug_error_string: str | None = None

    def is_active(self) -> bool:
        """It is over."""
        return False

    def time_remaining(self) -> float | None:
        """It is over."""
        return None

    def cancel(self) -> bool:
        """It is over."""
        return False

    def cancelled(self) -> bool:
        """Nobody cancelled it."""
        return False

    def running(self) -> bool:
        """It is over."""
        return False

    def done(self) -> bool:
        """It is over."""
        return True

    def result(self, timeout: float | None = None) -> NoReturn:  # noqa: ARG002 (gRPC's signature)
        """Raises the error."""
        raise self

    def exception(self, timeout: float | None = None) -> RpcFailure:  # noqa: ARG002
        """The error."""
        return self

    def traceback(self, timeout: float | None = None) -> TracebackType | None:  # noqa: ARG002
        """Where it was raised."""
        raised: TracebackType | None = self.__traceback__
        return raised

    def add_callback(self, callback: Any) -> bool:  # noqa: ARG002
        """It is over: nothing will be called."""
        return False

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        """Called at once."""
        fn(self)


class Shared:
    """What all calls through one interceptor share. Raises ConfigurationError naming the argument of *owner*."""

    def __init__(self, owner: str, policy: Any, *, name: Any, safe: Any, guards: Any) -> None:
        self._policy, self.guards = checked(owner, policy, name, guards)
        # A stream lasts as long as its deadline allows, and its requests cannot be asked for twice.
        self._streams = replace(self._policy, attempt_timeout=None, retry=None)
        self._name = name
        self._guard = self.guards.guard(name, self._policy) if name else None
        if isinstance(safe, str) or not (callable(safe) or isinstance(safe, Collection)):
            raise ConfigurationError(
                f"{owner}.safe must be method names such as ('/pkg.Service/Get',), or a function of the name"
            )
        for method in () if callable(safe) else safe:
            if not isinstance(method, str) or not method.startswith("/") or method.count("/") != 2:
                raise ConfigurationError(f"{owner}.safe names methods such as '/pkg.Service/Get', not {method!r}")
        self._safe: Callable[[str], bool] = safe if callable(safe) else frozenset(safe).__contains__

    def rpc(self, method: str | bytes, timeout: float | None, *, stream: bool = False) -> Rpc:
        """A call of *method*, for which gRPC's user allows *timeout* seconds in all, where the policy allows more."""
        path = method.decode("ascii") if isinstance(method, bytes) else method
        policy = self._streams if stream else self._policy
        name = self._name or path.strip("/").partition("/")[0]
        guard = self._guard or self.guards.guard(name, self._policy)
        if timeout is not None and (policy.deadline is None or timeout < policy.deadline):
            policy = replace(policy, deadline=max(timeout, _SHORTEST))
        return Rpc(
            service=name,
            operation=path.strip("/"),
            policy=policy,
            guard=guard,
            limits=LIMITS,
            idempotent=not stream and self._safe(path),
            key=None,
            clock=self.guards.clock,
        )


class Rpc(CallContext["Rpc", Ended]):
    """One call, which is its own view for the engine."""

    __slots__ = ("_attempts", "_deadline", "_ended")

    replayable = True

    def request(self) -> Rpc:
        """The same call again."""
        return self

    def judge(self, answer: Ended) -> CallError | None:
        """The error that the status is."""
        error = error_of(answer)
        self._ended = None if error is None else answer
        return error

    def succeeded(self, answer: Ended, lease: Lease, deadline: float, attempts: tuple[Attempt, ...]) -> Ended:
        """A call that goes on keeps the lease until it ends."""
        self._attempts, self._deadline = attempts, deadline
        if answer.code is not None:
            lease.settle(worked=True, elapsed=attempts[-1].elapsed)
        else:
            _when_over(answer.call, lambda code: self.over(lease, code))
        return answer

    def over(self, lease: Lease, code: grpc.StatusCode | None) -> None:
        """A call that went on is over: *code* says how; one that was cancelled says nothing."""
        if code is None or code is Code.CANCELLED:
            lease.settle(worked=None)
            return
        error = error_of(Ended(None, code))
        lease.settle(worked=True if error is None else worked(error))

    def broken(self, ended: Ended) -> CallError:
        """The error of a stream that ended badly."""
        error = self.judge(ended)
        assert error is not None
        if ended.code is Code.DEADLINE_EXCEEDED and self.clock.monotonic() >= self._deadline - _ROUNDING:
            error = DeadlineExceeded("no complete answer within the deadline")
        return final(error, self, self._attempts)

    def raised(self, error: CallError) -> CallError:
        """The error as gRPC's own."""
        ended: Ended | None = getattr(self, "_ended", None)
        if ended is not None and ended.code is not None and error.code == ended.code.name:
            code, details = ended.code, ended.details
        else:
            ended, code, details = None, _status_of(error), error.message
        return as_theirs(
            error,
            RpcFailure,
            code=StatusName(code.name),
            _code=code,
            _details=details,
            _initial_metadata=_said(ended, "initial_metadata"),
            _trailing_metadata=_said(ended, "trailing_metadata"),
            _debug_error_string=_said(ended, "debug_error_string"),
        )


def channel_options(options: Iterable[tuple[str, Any]] = ()) -> list[tuple[str, Any]]:
    """*options* for a channel under the pipeline: its own retries are refused, and none are fetched by its resolver.

    ``grpc.service_config`` may set a retryPolicy or a hedgingPolicy, whose attempts and ours would multiply, unless
    ``("grpc.enable_retries", 0)`` is there as well. The core's transparent retries of what no server has seen stay.

    Raises ConfigurationError for such a policy, with what to write instead.
    """
    given = list(options)
    named = dict(given)
    if named.get("grpc.enable_retries", 1):
        for method, policy in _policies(named.get("grpc.service_config")):
            raise ConfigurationError(
                f"grpc.service_config sets a {policy} for {method}, and retries would multiply: leave it out and set "
                'policy=Policy(retry=Retry(...)), or add the option ("grpc.enable_retries", 0)'
            )
        if "grpc.service_config_disable_resolution" not in named:
            given.append(("grpc.service_config_disable_resolution", 1))
    return given


def core_of(channel: Any) -> Any:
    """The core's channel beneath *channel* and its interceptors, which knows whether it is connected, or None."""
    while channel is not None and not hasattr(channel, "check_connectivity_state"):
        channel = getattr(channel, "_channel", None)
    return channel


def connected(core: Any) -> bool:
    """Whether the channel stands. Yes where that is not known: nothing that was sent must pass for unsent."""
    return core is None or core.check_connectivity_state(False) == _READY


def _policies(config: Any) -> Iterable[tuple[str, str]]:
    try:
        methods = json.loads(config)["methodConfig"] if isinstance(config, (str, bytes)) else []
        for entry in methods:
            for policy in _POLICIES:
                if policy in entry:
                    names = [f"{each.get('service', '')}/{each.get('method', '')}" for each in entry.get("name", ())]
                    yield ", ".join(names) or "all methods", policy
    except (ValueError, KeyError, TypeError, AttributeError):
        return  # the core will say what is wrong with it


def _status_of(error: CallError) -> grpc.StatusCode:
    """The status that gRPC's users know for an error of ours that no server answered."""
    if isinstance(error, LimitFault):
        return Code.RESOURCE_EXHAUSTED
    if isinstance(error, (DeadlineExceeded, AttemptTimeout)) or isinstance(error.__cause__, AttemptTimeout):
        return Code.DEADLINE_EXCEEDED
    return Code.UNAVAILABLE


def _said(ended: Ended | None, what: str) -> Any:
    """What the call that ended says of itself, where it has the methods that gRPC's own have."""
    method = None if ended is None else getattr(ended.call, what, None)
    return method() if callable(method) else None


def _when_over(call: Any, tell: Callable[[grpc.StatusCode | None], None]) -> None:
    """Call *tell* with the status once *call* is over. It must not keep the call alive: gRPC cancels a stream that its
    reader has forgotten, and a callback that is handed the call would prevent that.
    """
    add = getattr(call, "add_callback", None)  # gRPC's blocking calls have it
    if add is None:
        call.add_done_callback(lambda ended: tell(_code_of(ended)))
        return
    known = weakref.ref(call)

    def over() -> None:
        ended = known()
        tell(None if ended is None else _code_of(ended))

    if not add(over):
        over()


def _code_of(call: Any) -> grpc.StatusCode | None:
    """The status of a call that is over; on the loop gRPC gives it as a coroutine, which has nothing to wait for."""
    code = call.code()
    if isinstance(code, grpc.StatusCode) or code is None:
        return code
    try:
        code.send(None)
    except StopIteration as told:
        found: grpc.StatusCode = told.value
        return found
    code.close()
    return None
