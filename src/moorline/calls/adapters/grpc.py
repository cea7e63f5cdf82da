"""moorline under grpcio: ``intercept(channel)`` for blocking channels, ``aio_interceptors()`` for those of a loop.

Hooks are those of grpcio 1.85.1 (``_interceptor.py``, ``aio/_interceptor.py``). The remaining deadline goes along as
the call's timeout, which gRPC enforces and tells the server. A unary call is repeated only where it is declared
``safe``, or was not taken: it never left, or the server names a time for another try. ``future()`` and streams are
admitted, counted and bounded, and never repeated. Errors are one of :mod:`moorline.errors` and ``grpc.RpcError`` at
once; ``error.code`` is the name of the status, and ``error.code()`` the status.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final

import grpc

from moorline.calls.adapters.grpc_aio import aio_interceptors
from moorline.calls.adapters.grpc_call import Rpc, Safe, Shared, channel_options, connected, core_of, under_way
from moorline.calls.adapters.grpc_status import Code, Ended
from moorline.calls.drivers import drive
from moorline.calls.effects import Expired
from moorline.calls.engine import Pipeline
from moorline.calls.guards import Guards
from moorline.errors import ConfigurationError
from moorline.policies.policy import Policy

__all__ = ["ClientInterceptor", "aio_interceptors", "channel_options", "intercept"]

_ROUNDING: Final = 0.002  # gRPC counts in milliseconds


def intercept(
    channel: grpc.Channel,
    policy: Policy | None = None,
    *,
    name: str | None = None,
    safe: Safe = (),
    guards: Guards | None = None,
) -> grpc.Channel:
    """*channel* on the pipeline.

    *name* shares breaker, limits and budget with all that use the same name; without one, each gRPC service has its
    own. *safe* are the unary methods that may be repeated, such as ``("/pkg.Service/Get",)``, or a function of the
    name. Make the channel with ``options=channel_options(...)``, so that its own retries are found.

    Raises ConfigurationError naming the argument.
    """
    interceptor = ClientInterceptor(policy, name=name, safe=safe, guards=guards, channel=channel)
    return grpc.intercept_channel(channel, interceptor)


class ClientInterceptor(
    grpc.UnaryUnaryClientInterceptor,  # type: ignore[misc]  # gRPC ships no types
    grpc.UnaryStreamClientInterceptor,  # type: ignore[misc]
    grpc.StreamUnaryClientInterceptor,  # type: ignore[misc]
    grpc.StreamStreamClientInterceptor,  # type: ignore[misc]
):
    """As ``intercept``, for who composes interceptors. Without the *channel* a call that found no connection counts as
    one that may have been sent.
    """

    def __init__(
        self,
        policy: Policy | None = None,
        *,
        name: str | None = None,
        safe: Safe = (),
        guards: Guards | None = None,
        channel: grpc.Channel | None = None,
    ) -> None:
        self._shared = Shared("grpc", policy, name=name, safe=safe, guards=guards)
        self._core = core_of(channel)

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """A call with one answer."""
        rpc = self._shared.rpc(client_call_details.method, client_call_details.timeout)
        return self._through(rpc, continuation, client_call_details, request)

    def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        """A call of many requests and one answer."""
        rpc = self._shared.rpc(client_call_details.method, client_call_details.timeout, stream=True)
        return self._through(rpc, continuation, client_call_details, request_iterator)

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """A call of one request and many answers."""
        rpc = self._shared.rpc(client_call_details.method, client_call_details.timeout, stream=True)
        return _Answers(self._through(rpc, continuation, client_call_details, request), rpc)

    def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        """A call of many requests and many answers."""
        rpc = self._shared.rpc(client_call_details.method, client_call_details.timeout, stream=True)
        return _Answers(self._through(rpc, continuation, client_call_details, request_iterator), rpc)

    def _through(self, rpc: Rpc, continuation: Any, details: Any, request: Any) -> Any:
        if under_way.get():
            raise ConfigurationError(
                "the channel is intercepted by moorline twice, and retries would multiply; leave one of the two out"
            )
        wire = _Wire(continuation, details, request, self._core)
        return drive(Pipeline(rpc).run(), wire, rpc.clock).call


class _Details(grpc.ClientCallDetails):  # type: ignore[misc]
    """As gRPC's own, which has no constructor to use: *given*, with another timeout."""

    __slots__ = ("compression", "credentials", "metadata", "method", "timeout", "wait_for_ready")

    def __init__(self, given: Any, timeout: float | None) -> None:
        self.method = given.method
        self.timeout = timeout
        self.metadata = getattr(given, "metadata", None)
        self.credentials = getattr(given, "credentials", None)
        self.wait_for_ready = getattr(given, "wait_for_ready", None)
        self.compression = getattr(given, "compression", None)


class _Wire:
    """Sends a call down the channel."""

    __slots__ = ("_continuation", "_core", "_details", "_request")

    def __init__(self, continuation: Any, details: Any, request: Any, core: Any) -> None:
        self._continuation = continuation
        self._details = details
        self._request = request
        self._core = core

    def send(self, rpc: Rpc, timeout: float | None) -> Ended:
        """How the call ended; or the call itself where it goes on (a stream, or ``future()``)."""
        at = None if timeout is None else time.monotonic() + timeout
        details = _Details(self._details, timeout)
        token = under_way.set(True)
        try:
            call = self._continuation(details, self._request)
        finally:
            under_way.reset(token)
        if not call.done():
            return Ended(call, None)
        code = call.code()
        if code is Code.OK:
            return Ended(call, code)
        error = call.exception()
        if code is Code.CANCELLED or not isinstance(error, grpc.RpcError):
            raise error  # cancelled, or not even a call: what another interceptor raised
        if code is Code.DEADLINE_EXCEEDED and at is not None and time.monotonic() >= at - _ROUNDING:
            raise Expired(sent=True)
        stands = connected(self._core)
        return Ended(call, code, call.details(), call.trailing_metadata(), connected=stands, safe=rpc.idempotent)

    def discard(self, answer: Ended) -> None:
        """Nothing to free: the call is over."""


class _Answers:
    """A call with many answers, whose errors are ours as well."""

    def __init__(self, call: Any, rpc: Rpc) -> None:
        self._call = call
        self._rpc = rpc

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            return next(self._call)
        except grpc.RpcError as error:
            if error.code() is Code.CANCELLED:
                raise
            raise self._rpc.broken(Ended(error, error.code(), error.details(), error.trailing_metadata())) from error
