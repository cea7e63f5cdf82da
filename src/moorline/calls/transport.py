"""The pipeline as an httpx2 transport, usable with no other part of moorline.

``httpx2.AsyncClient(transport=AsyncTransport(Policy(deadline=5)))`` gets responses as before, after retries; what
gives no response raises one of :mod:`moorline.errors` that is also httpx2's exception of that kind. A 429 that is
given up is RateLimited.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Final, NamedTuple

import httpx2

from moorline.calls.adapters.doubles import refuse_doubles
from moorline.calls.addresses import PublicAddresses
from moorline.calls.bodies import AsyncBody, SyncBody
from moorline.calls.clients import Clients
from moorline.calls.drivers import drive, drive_async
from moorline.calls.effects import Effect
from moorline.calls.engine import Pipeline
from moorline.calls.express import Begun, begin
from moorline.calls.guards import PROCESS, Guard, Guards
from moorline.calls.hosts import ByHost
from moorline.calls.plain import LIMITS, AsyncPlainWire, PlainContext, Seen, SyncPlainWire, restore
from moorline.calls.verdicts import final
from moorline.clock import Clock
from moorline.errors import ConfigurationError, InvalidRequest
from moorline.policies.policy import Policy

__all__ = ["AsyncTransport", "Transport"]


_SPEAKING: Final = LIMITS.names


class _Named(NamedTuple):
    """What the requests of one name, given or of a host, have in common: their state, and their class."""

    guard: Guard
    context: type[PlainContext]


class _Base:
    """What both transports share: a policy, a name for the shared state, and the wire underneath."""

    def __init__(
        self,
        policy: Policy | None = None,
        *,
        name: Any = None,
        wire: Any = None,
        guards: Guards | None = None,
        clock: Clock | None = None,
        addresses: PublicAddresses | None = None,
    ) -> None:
        kind = type(self).__name__
        if policy is not None and not isinstance(policy, Policy):
            raise ConfigurationError(f"{kind}.policy must be a Policy or None, not {type(policy).__name__}")
        if name is not None and (not isinstance(name, str) or not name):
            raise ConfigurationError(f"{kind}.name must be a string that is not empty, or None, not {name!r}")
        if guards is not None and not isinstance(guards, Guards):
            raise ConfigurationError(f"{kind}.guards must be a Guards or None, not {type(guards).__name__}")
        if addresses is not None and not isinstance(addresses, PublicAddresses):
            raise ConfigurationError(f"{kind}.addresses must be a PublicAddresses, not {type(addresses).__name__}")
        if addresses is not None and wire is not None:
            raise ConfigurationError(
                f"{kind}.addresses needs our own wire, as it decides where connections go; give one"
            )
        self._needs(wire, kind)
        refuse_doubles(wire)
        self._policy = policy or Policy()
        self._name = name
        # Without a name there is nothing to share the state with.
        self._guards = guards or (PROCESS if name and clock is None else Guards(clock) if clock else Guards())
        self._clock = self._guards.clock
        self._one = self._under(name) if name else None
        self._by_host: ByHost[tuple[str, int | None], _Named] = ByHost(lambda at: self._under(_host(*at)))
        self._wire = wire
        self._given = None if wire is None else self._carried(wire)
        self._addresses = addresses
        self._clients = Clients(addresses)

    def _under(self, name: str) -> _Named:
        body = AsyncBody if isinstance(self, httpx2.AsyncBaseTransport) else SyncBody
        guard = self._guards.guard(name, self._policy)
        return _Named(guard, PlainContext.of_transport(body, name, self._policy, guard, self._clock))

    def _is_over(self, response: httpx2.Response, begun: Begun, guard: Guard) -> bool:
        """Whether *response* is a good one that is complete: then nothing is held any longer."""
        if response.status_code >= 300 or not response.is_stream_consumed:
            return False
        if not _SPEAKING.isdisjoint([name.lower() for name, _value in response.headers.raw]):
            return False
        begun[0].success(self._clock.monotonic() - begun[1])
        if guard.admission is not None:
            guard.admission.calls.pop()
        return True

    def _steps(
        self, context: PlainContext, begun: Begun | None, first: httpx2.Response | BaseException | None
    ) -> Generator[Effect, Any, Seen]:
        """The pipeline's steps, from its beginning or from the *first* answer on."""
        pipeline = Pipeline(context)
        if begun is None or first is None:
            return pipeline.run()
        return pipeline.resume(begun, context, Seen(first) if isinstance(first, httpx2.Response) else first)

    def _begin(self, made: type[PlainContext], request: httpx2.Request) -> PlainContext:
        """The request for the engine. Raises InvalidRequest, in httpx2's kind, for an address that is not allowed."""
        context = made(request, request.extensions.get("timeout"))
        if self._addresses is not None:
            try:
                self._addresses.check_url(str(request.url))
            except InvalidRequest as error:
                raise final(error, context) from None
        return context

    def _carried(self, wire: Any) -> Any:
        """The wire of the pipeline over a transport that was given."""
        raise NotImplementedError

    def _needs(self, wire: Any, kind: str) -> None:
        needed = "handle_async_request" if isinstance(self, httpx2.AsyncBaseTransport) else "handle_request"
        if wire is not None and not hasattr(wire, needed):
            raise ConfigurationError(
                f"{kind}.wire must be an httpx2 transport with {needed}, not {type(wire).__name__}"
            )

    def __repr__(self) -> str:
        return f"<moorline {type(self).__name__} {self._name or 'by host'!r}>"


def _host(host: str, port: int | None) -> str:
    host = f"[{host}]" if ":" in host else host
    return (host if port is None else f"{host}:{port}") or "http"


class AsyncTransport(_Base, httpx2.AsyncBaseTransport):
    """The pipeline for ``httpx2.AsyncClient``. *name* shares breaker and limits with all that use the same name;
    without one, each host has its own.

    *wire* is the transport underneath (httpx2's own, one per event loop, by default). *addresses* keeps requests for
    addresses that come from users to public ones; redirects that the client follows are checked like any request.

    Raises ConfigurationError naming the argument.
    """

    def _carried(self, wire: httpx2.AsyncBaseTransport) -> AsyncPlainWire:
        return AsyncPlainWire(wire, marks=isinstance(wire, httpx2.AsyncHTTPTransport))

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send *request* through the pipeline."""
        wire = self._given or AsyncPlainWire(self._clients.known() or await self._clients.for_loop(), marks=True)
        named = self._one
        if named is None:
            url = request.url
            named = self._by_host[url.host, url.port]
        begun = None
        if type(request.stream) is httpx2.ByteStream and self._addresses is None:  # in memory, and going anywhere
            begun = begin(named.guard, self._policy, self._clock)
        if begun is None:
            return await self._piped(self._begin(named.context, request), wire)
        extensions = request.extensions
        given = extensions.get("timeout")
        answer: httpx2.Response | BaseException
        try:
            answer = await wire.exchange(request, given, begun[3])
        except BaseException as error:  # noqa: BLE001 (the pipeline raises it, or what it means)
            answer = error
        else:
            if self._is_over(answer, begun, named.guard):
                restore(extensions, given)
                return answer
        return await self._piped(named.context(request, given), wire, begun, answer)

    async def _piped(
        self,
        context: PlainContext,
        wire: AsyncPlainWire,
        begun: Begun | None = None,
        first: httpx2.Response | BaseException | None = None,
    ) -> httpx2.Response:
        try:
            return (await drive_async(self._steps(context, begun, first), wire, self._clock)).response
        finally:
            context.restore()

    async def aclose(self) -> None:
        """Close the wire."""
        await self._clients.aclose()
        if self._wire is not None:
            await self._wire.aclose()


class Transport(_Base, httpx2.BaseTransport):
    """The pipeline for ``httpx2.Client``; as AsyncTransport."""

    def _carried(self, wire: httpx2.BaseTransport) -> SyncPlainWire:
        return SyncPlainWire(wire)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send *request* through the pipeline."""
        wire = self._given or SyncPlainWire(self._clients.blocking())
        named = self._one
        if named is None:
            url = request.url
            named = self._by_host[url.host, url.port]
        begun = None
        if type(request.stream) is httpx2.ByteStream and self._addresses is None:  # in memory, and going anywhere
            begun = begin(named.guard, self._policy, self._clock)
        if begun is None:
            return self._piped(self._begin(named.context, request), wire)
        extensions = request.extensions
        given = extensions.get("timeout")
        answer: httpx2.Response | BaseException
        try:
            answer = wire.exchange(request, given, begun[3])
        except BaseException as error:  # noqa: BLE001 (as above)
            answer = error
        else:
            if self._is_over(answer, begun, named.guard):
                restore(extensions, given)
                return answer
        return self._piped(named.context(request, given), wire, begun, answer)

    def _piped(
        self,
        context: PlainContext,
        wire: SyncPlainWire,
        begun: Begun | None = None,
        first: httpx2.Response | BaseException | None = None,
    ) -> httpx2.Response:
        try:
            response = drive(self._steps(context, begun, first), wire, self._clock).response
        except BaseException:
            context.restore()
            raise
        if response.is_stream_consumed:  # a body that is still to be read needs its clamped timeouts
            context.restore()
        else:
            context.request_.stream = context.stream
        return response

    def close(self) -> None:
        """Close the wire."""
        self._clients.close()
        if self._wire is not None:
            self._wire.close()
