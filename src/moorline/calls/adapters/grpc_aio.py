"""The interceptors for channels of an event loop."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Generator
from typing import Any, Final, NoReturn

import grpc

from moorline.calls.adapters.grpc_call import Rpc, Safe, Shared, connected, under_way
from moorline.calls.adapters.grpc_status import Code, Ended
from moorline.calls.drivers import drive_async
from moorline.calls.effects import Expired
from moorline.calls.engine import Pipeline
from moorline.calls.guards import Guards
from moorline.errors import ConfigurationError
from moorline.policies.policy import Policy

__all__ = ["aio_interceptors"]

_ROUNDING: Final = 0.002  # gRPC counts in milliseconds


def aio_interceptors(
    policy: Policy | None = None, *, name: str | None = None, safe: Safe = (), guards: Guards | None = None
) -> list[grpc.aio.ClientInterceptor]:
    """The interceptors for ``grpc.aio.insecure_channel(target, options=..., interceptors=...)``; as ``intercept``.

    Raises ConfigurationError naming the argument.
    """
    shared = Shared("grpc", policy, name=name, safe=safe, guards=guards)
    return [_UnaryUnary(shared), _UnaryStream(shared), _StreamUnary(shared), _StreamStream(shared)]


class _Base:
    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    async def _through(self, continuation: Any, details: Any, request: Any, *, stream: bool = False) -> tuple[Any, Rpc]:
        if under_way.get():
            raise ConfigurationError(
                "the channel is intercepted by moorline twice, and retries would multiply; leave one of the two out"
            )
        rpc = self._shared.rpc(details.method, details.timeout, stream=stream)
        wire = _Wire(continuation, details, request, stream=stream)
        ended = await drive_async(Pipeline(rpc).run(), wire, rpc.clock)
        return ended.call, rpc


class _UnaryUnary(_Base, grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]  # gRPC ships no types
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """A call with one answer."""
        call, _rpc = await self._through(continuation, client_call_details, request)
        return call


class _UnaryStream(_Base, grpc.aio.UnaryStreamClientInterceptor):  # type: ignore[misc]
    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """A call of one request and many answers."""
        return _answers(*await self._through(continuation, client_call_details, request, stream=True))


class _StreamUnary(_Base, grpc.aio.StreamUnaryClientInterceptor):  # type: ignore[misc]
    async def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        """A call of many requests and one answer."""
        return _Answer(*await self._through(continuation, client_call_details, request_iterator, stream=True))


class _StreamStream(_Base, grpc.aio.StreamStreamClientInterceptor):  # type: ignore[misc]
    async def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        """A call of many requests and many answers."""
        return _answers(*await self._through(continuation, client_call_details, request_iterator, stream=True))


class _Wire:
    """Sends a call down the channel."""

    __slots__ = ("_continuation", "_details", "_request", "_stream")

    def __init__(self, continuation: Any, details: Any, request: Any, *, stream: bool) -> None:
        self._continuation = continuation
        self._details = details
        self._request = request
        self._stream = stream

    async def send(self, rpc: Rpc, timeout: float | None) -> Ended:
        """How the call ended; or the call itself where it goes on, as its user may still write to it."""
        at = None if timeout is None else time.monotonic() + timeout
        token = under_way.set(True)
        try:
            call = await self._continuation(_timed(self._details, timeout), self._request)
            if self._stream:
                return Ended(call, None)
            await call
        except grpc.aio.AioRpcError as error:
            code = error.code()
            if code is Code.CANCELLED:
                raise
            if code is Code.DEADLINE_EXCEEDED and at is not None and time.monotonic() >= at - _ROUNDING:
                raise Expired(sent=True) from None
            trailers = error.trailing_metadata()
            stands = connected(_core_of(self._continuation))
            return Ended(error, code, error.details(), trailers, connected=stands, safe=rpc.idempotent)
        finally:
            under_way.reset(token)
        return Ended(call, Code.OK)

    async def discard(self, answer: Ended) -> None:
        """Nothing to free: the call is over."""


class _Answer:
    """A call with one answer that is awaited later, whose errors are ours as well."""

    def __init__(self, call: Any, rpc: Rpc) -> None:
        self._call = call
        self._rpc = rpc

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def __await__(self) -> Generator[Any, None, Any]:
        try:
            return (yield from self._call.__await__())
        except grpc.aio.AioRpcError as error:
            _raise_blamed(error, self._rpc)


async def _answers(call: Any, rpc: Rpc) -> AsyncIterator[Any]:
    """The answers of a call, whose errors are ours as well."""
    try:
        async for answer in call:
            yield answer
    except grpc.aio.AioRpcError as error:
        _raise_blamed(error, rpc)


def _raise_blamed(error: grpc.aio.AioRpcError, rpc: Rpc) -> NoReturn:
    """Raise what the end of a call that went on means; a cancelled one stays as it is."""
    if error.code() is Code.CANCELLED:
        raise error
    raise rpc.broken(Ended(error, error.code(), error.details(), error.trailing_metadata())) from error


def _timed(given: Any, timeout: float | None) -> grpc.aio.ClientCallDetails:
    """*given*, with another timeout."""
    rest = (getattr(given, name, None) for name in ("metadata", "credentials", "wait_for_ready"))
    return grpc.aio.ClientCallDetails(given.method, timeout, *rest)


def _core_of(continuation: Any) -> Any:
    """The core's channel, where gRPC's innermost step still holds it where 1.85 does; None where it does not."""
    call = getattr(getattr(continuation, "func", None), "__self__", None)
    core = getattr(call, "_channel", None)
    return core if hasattr(core, "check_connectivity_state") else None
