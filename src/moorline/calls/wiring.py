"""Which library carries a service's requests: chosen by one word, the same pipeline above, the same answers below."""

from __future__ import annotations

import functools
import importlib.util
import os
import threading
from typing import TYPE_CHECKING, Any, Final, Literal, cast, get_args

from moorline.calls import story
from moorline.calls.adapters.doubles import refuse_doubles
from moorline.calls.clients import Clients, PoolUnusable
from moorline.calls.known import Known
from moorline.clock import SYSTEM
from moorline.errors import ConfigurationError
from moorline.telemetry import logger

if TYPE_CHECKING:
    import httpx2

    from moorline.calls.addresses import PublicAddresses
    from moorline.calls.clients import Pools
    from moorline.calls.drivers import AsyncWire, SyncWire

__all__ = ["WIRES", "Wire", "Wires"]

Wire = Literal["httpx2", "pyreqwest", "aiohttp"]
WIRES: Final = get_args(Wire)
_VARIABLE: Final = "MOORLINE_WIRE"
_BLOCKING: Final = ("pyreqwest",)  # of the fast ones: aiohttp has no blocking client


class Wires:
    """The wires of one service instance; the connections behind them are shared by all instances of the service.

    *wire* is a word of WIRES, an httpx2 transport, or None for what the environment says. Answers that are read in
    parts, and requests that may go to some *addresses* only, take httpx2's wire: it alone can do both.

    Raises ConfigurationError naming the argument.
    """

    def __init__(self, owner: str, wire: Any, addresses: PublicAddresses | None) -> None:
        self._owner = owner
        self._addresses = addresses
        self._transport: Any = None
        self._named: str | None = None
        self._clients: Clients | None = None
        if isinstance(wire, str):
            self._named = _checked(wire, f"{owner}.wire")
            if addresses is not None and wire != "httpx2":
                raise ConfigurationError(
                    f"{owner}.wire must be 'httpx2' where addresses are given: only it can pin them"
                )
        elif wire is not None:
            if not hasattr(wire, "handle_request") and not hasattr(wire, "handle_async_request"):
                raise ConfigurationError(
                    f"{owner}.wire must be one of {', '.join(WIRES)}, or an httpx2 transport, not {type(wire).__name__}"
                )
            refuse_doubles(wire)
            self._transport, self._named = wire, "httpx2"
        self._given: AsyncWire | None = None  # that of a transport which was given
        self._fast: Pools[Any, Any] | None = None
        self._chosen: str | None = None

    def ready(self, *, whole: bool) -> AsyncWire | None:
        """The wire for the running loop where that is open already; None where ``for_loop`` has to see to it."""
        if whole and self._fast is not None and self._chosen != "httpx2":
            return cast("AsyncWire | None", self._fast.known())
        return self._given

    async def for_loop(self, *, whole: bool) -> AsyncWire:
        """The wire for the running loop; *whole* tells that the answer's body is read before the call ends."""
        if whole and self._name() != "httpx2":
            try:
                return cast("AsyncWire", await self._fast_pools().for_loop())
            except PoolUnusable as error:
                self._unusable(error)
        from moorline.calls.wires import AsyncServiceWire

        if self._transport is None:
            return AsyncServiceWire(await self._pools.for_loop(), marks=True)
        if hasattr(self._transport, "handle_async_request"):
            self._given = AsyncServiceWire(cast("httpx2.AsyncBaseTransport", self._transport), marks=False)
            return self._given
        raise ConfigurationError(f"{self._owner}.wire is a blocking transport; use .result(), or give an async one")

    def blocking(self, *, whole: bool) -> SyncWire:
        """The wire for this thread."""
        if whole and self._name() in _BLOCKING:
            try:
                return cast("SyncWire", self._fast_pools().blocking())
            except PoolUnusable as error:
                self._unusable(error)
        from moorline.calls.wires import SyncServiceWire

        if self._transport is None:
            return SyncServiceWire(self._pools.blocking())
        if hasattr(self._transport, "handle_request"):
            return SyncServiceWire(cast("httpx2.BaseTransport", self._transport))
        raise ConfigurationError(f"{self._owner}.wire is an async transport; use `await`, or give a blocking one")

    async def aclose(self) -> None:
        """Close the connections of the running loop, and the blocking ones."""
        await self._pools.aclose()
        if self._fast is not None:
            await self._fast.aclose()

    def close(self) -> None:
        """Close the connections of blocking calls."""
        self._pools.close()
        if self._fast is not None:
            self._fast.close()

    @property
    def _pools(self) -> Clients:
        if self._clients is None:
            self._clients = _clients_of(self._owner, self._addresses)
        return self._clients

    def _name(self) -> str:
        """The word that holds: looked up at the first send, when the environment is complete."""
        if self._chosen is None:
            if self._named is None and self._addresses is None:
                self._chosen = _checked(os.environ.get(_VARIABLE) or "httpx2", _VARIABLE)
            else:
                self._chosen = self._named or "httpx2"
        return self._chosen

    def _fast_pools(self) -> Pools[Any, Any]:
        if self._fast is None:
            self._fast = _fast_of(self._owner, self._name())
        return self._fast

    def _unusable(self, error: PoolUnusable) -> None:
        """Pyreqwest's threads do not come along into a forked process, and it says so: httpx2 does there."""
        before, why = self._chosen or "", str(error)[:200]
        logger("calls").warning("wire_unusable", service=self._owner, wire=before, use="httpx2", why=why)
        story.changed("wire", self._owner, SYSTEM.wall(), before, "httpx2", why)
        self._chosen = "httpx2"


def _checked(wire: str, argument: str) -> str:
    if wire not in WIRES:
        raise ConfigurationError(f"{argument} must be one of {', '.join(WIRES)}, not {wire[:40]!r}")
    if importlib.util.find_spec(wire) is None:
        raise ConfigurationError(f"{argument} is {wire!r}, which is not installed; pip install 'moorline[fast]'")
    return wire


class _Shared(Clients):
    """The connections of all instances of a service, closed when they are known no longer and nobody holds them."""

    def __del__(self) -> None:
        self.close()


_MOST: Final = 100  # with other addresses than before: these may be made for each request
_known: Final[Known[tuple[str, PublicAddresses | None], _Shared]] = Known(_MOST)
_lock: Final = threading.Lock()


def _clients_of(owner: str, addresses: PublicAddresses | None) -> Clients:
    """Instances of a service share connections, so that ``Stripe()`` may be written wherever it is needed."""
    with _lock:
        return _known.of((owner, addresses), lambda: _Shared(addresses))


@functools.cache
def _fast_of(_owner: str, wire: str) -> Pools[Any, Any]:
    if wire == "pyreqwest":
        from moorline.calls.pyreqwest_wire import PyreqwestPools

        return PyreqwestPools()
    from moorline.calls.aiohttp_wire import AiohttpPools

    return AiohttpPools()
