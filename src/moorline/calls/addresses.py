"""Addresses that come from users: only public ones are called, and exactly those that were checked.

A webhook's target or a storage endpoint may name this machine, its neighbours, or the metadata service of its cloud.
``PublicAddresses`` refuses these: the URL is checked before anything is sent, the name's addresses when a connection
is opened, and the connection goes to the very address that passed, so that no second answer of the name server can
lead it elsewhere. Ranges are those of the IANA special-purpose registries (RFC 6890 and its updates).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final
from urllib.parse import urlsplit

from moorline.errors import ConfigurationError, InvalidRequest

__all__ = ["PublicAddresses"]

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolve = Callable[[str, int], Sequence[str]]

_LABEL: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_NUMBER: Final = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")  # as a last label it is a part of an IPv4 address
_MOST_NAME: Final = 253
_MOST_PORT: Final = 65_535
_SCHEMES: Final = {"https": 443, "http": 80}

_REFUSED: Final[tuple[Network, ...]] = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "168.63.129.16/32",  # public by its number, but Azure's own agent answers there inside of every machine
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "2001::/23",  # Teredo among them
        "2001:db8::/32",
        "2002::/16",  # 6to4, given up by RFC 7526
        "3fff::/20",
        "5f00::/16",
    )
)
_GLOBAL: Final = IPv6Network("2000::/3")
_NAT64: Final = IPv6Network("64:ff9b::/96")


class PublicAddresses:
    """What may be called where users name the address: public hosts, on *ports*, by *schemes*.

    *allow* are networks that may be called in spite of that (``"10.1.0.0/16"``); *resolve* takes a name and a port and
    gives its addresses as text, the system's resolver by default. A name with one refused address among its addresses
    is refused as a whole. Two with equal settings are equal, and share connections.

    Raises ConfigurationError naming the argument.
    """

    __slots__ = ("_key", "allow", "ports", "resolve", "schemes")

    def __init__(
        self,
        *,
        ports: Iterable[int] = (443,),
        allow: Iterable[str | Network] = (),
        schemes: Iterable[str] = ("https",),
        resolve: Resolve | None = None,
    ) -> None:
        self.ports = frozenset(ports)
        if not self.ports or not all(type(port) is int and 0 < port <= _MOST_PORT for port in self.ports):
            raise ConfigurationError("PublicAddresses.ports must be port numbers from 1 to 65535")
        if isinstance(schemes, str) or not (given := frozenset(schemes)) or given - _SCHEMES.keys():
            raise ConfigurationError('PublicAddresses.schemes must be ("https",), or ("https", "http")')
        self.schemes = given
        if isinstance(allow, str):
            raise ConfigurationError('PublicAddresses.allow must be a list of networks, such as ["10.1.0.0/16"]')
        try:
            self.allow: tuple[Network, ...] = tuple(ip_network(network) for network in allow)
        except ValueError as error:
            raise ConfigurationError(f"PublicAddresses.allow: {error}") from None
        self.resolve = resolve
        self._key = (self.ports, self.schemes, self.allow, resolve)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PublicAddresses) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return f"PublicAddresses(ports={sorted(self.ports)}, schemes={sorted(self.schemes)})"

    def check_url(self, url: str) -> None:
        """Raise InvalidRequest (nothing was sent) unless *url* has an accepted scheme, host and port, and no user.

        Names are not resolved here.
        """
        if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
            raise _refusal("the URL holds characters that no URL has; write an international name as xn--…")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise _refusal("the URL cannot be read") from None
        if parts.scheme not in self.schemes:
            raise _refusal(f"the URL must begin with {' or '.join(sorted(f'{name}://' for name in self.schemes))}")
        if "@" in parts.netloc:
            raise _refusal("the URL must hold no user and no password")
        host = parts.hostname or ""
        if parts.netloc.startswith("[") and ":" not in host:
            raise _refusal("the URL cannot be read")
        self.check_host(host, _SCHEMES[parts.scheme] if port is None else port)

    def check_host(self, host: str, port: int) -> Address | None:
        """The address that *host* is, or None for a name. Raises InvalidRequest for odd spellings, and for an address
        or a port that must not be called.
        """
        if port not in self.ports:
            raise _refusal(f"{host[:100]!r}: port {port} is not among those that may be called")
        try:
            address = ip_address(host)
        except ValueError:
            _check_name(host)
            return None
        if not self.accepts(address):
            raise _refusal(f"{host!r} is not a public address")
        return address

    def accepts(self, address: Address) -> bool:
        """Whether *address* may be called."""
        if isinstance(address, IPv6Address) and address.scope_id is not None:
            return False
        if any(address in network for network in self.allow if network.version == address.version):
            return True
        return _public(address)

    def checked(self, host: str, found: Iterable[str]) -> list[str]:
        """The addresses that were *found* for *host*, all of them public. Raises InvalidRequest otherwise, which names
        the host alone: what our name server says of it is no business of who gave the URL.
        """
        addresses = list(dict.fromkeys(found))
        for text in addresses:
            try:
                accepted = self.accepts(ip_address(text))
            except ValueError:
                accepted = False
            if not accepted:
                raise _refusal(f"{host!r} does not lead to a public address")
        return addresses


def _public(address: Address) -> bool:
    if any(address in network for network in _REFUSED if network.version == address.version):
        return False
    if isinstance(address, IPv4Address):
        return address.is_global and not address.is_multicast
    if address in _NAT64:  # what DNS64 makes of IPv4 hosts where there is IPv6 only (RFC 6052)
        return _public(IPv4Address(int(address) & 0xFFFF_FFFF))
    return address in _GLOBAL and address.is_global


def _check_name(host: str) -> None:
    labels = host.split(".")
    if len(host) > _MOST_NAME or not all(_LABEL.fullmatch(label) for label in labels):
        raise _refusal(f"{host[:100]!r} is not a host name")
    if _NUMBER.fullmatch(labels[-1]):
        raise _refusal(f"{host!r} is an odd way to write an address")


def _refusal(why: str) -> InvalidRequest:
    return InvalidRequest(f"not sent: {why}", outcome="not_sent")
