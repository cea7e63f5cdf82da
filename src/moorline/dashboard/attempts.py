"""How often somebody may try to get in, decided from addresses and the time alone."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

__all__ = ["Attempts"]

_MOST_ADDRESSES: Final = 10_000
_NETWORK: Final = 64  # bits of an IPv6 address: a network of that size is one customer's


class Attempts:
    """Failed attempts: after *most* of one address in *seconds*, or *everywhere* of all addresses, the next one has to
    wait. *now* is a clock that never goes back. Kept in memory: each process counts by itself.
    """

    def __init__(
        self, now: Callable[[], float], *, most: int = 5, everywhere: int = 300, seconds: float = 300.0
    ) -> None:
        self._now = now
        self._most = most
        self._seconds = seconds
        self._all: deque[float] = deque(maxlen=everywhere)
        self._by: OrderedDict[str, deque[float]] = OrderedDict()

    def wait(self, address: str) -> float:
        """Seconds until that address may try again; 0 when it may now."""
        own = self._by.get(_network(address))
        return max(self._left(own), self._left(self._all))

    def failed(self, address: str) -> None:
        """Count an attempt of that address that was wrong."""
        network = _network(address)
        own = self._by.pop(network, None) or deque(maxlen=self._most)
        self._by[network] = own
        for one in (own, self._all):
            one.append(self._now())
        if len(self._by) > _MOST_ADDRESSES:
            self._by.popitem(last=False)

    def _left(self, times: deque[float] | None) -> float:
        """Until the oldest of as many as are allowed is long enough ago."""
        if not times or len(times) < (times.maxlen or 0):
            return 0.0
        return max(times[0] + self._seconds - self._now(), 0.0)


def _network(address: str) -> str:
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:100]
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, _NETWORK), strict=False))
    return str(found)
