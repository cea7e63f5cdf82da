"""The address as the sender called it, which some senders sign: behind a proxy it is not the one that we see.

What a request says of it (``Forwarded``, ``X-Forwarded-Proto``, ``-Host``, ``-Port``, ``-Prefix``) is believed from the
proxies alone that were named. Where the application has one public address, say it: nothing has to be believed then.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

from moorline.errors import ConfigurationError

__all__ = ["Origin"]

_PORTS: Final = {"http": "80", "https": "443"}
_HOST: Final = re.compile(r"[A-Za-z0-9._~\[\]:-]{1,255}")
_PAIR: Final = re.compile(r'\s*([!#$%&\'*+.^_`|~\w-]+)=("(?:[^"\\]|\\.)*"|[^;,"\s]*)\s*')


class Origin:
    """Rebuilds addresses. ``public_url`` is the scheme, host and path prefix that the world sees; ``trusted_proxies``
    are addresses or networks (``"10.0.0.0/8"``) whose forwarding headers are believed, ``"*"`` for any.

    Raises ConfigurationError naming the argument.
    """

    def __init__(self, public_url: str | None = None, trusted_proxies: Sequence[str] = ()) -> None:
        self.public_url = None if public_url is None else _checked(public_url)
        self._everybody = "*" in trusted_proxies
        try:
            self._networks = tuple(ipaddress.ip_network(one, strict=False) for one in trusted_proxies if one != "*")
        except ValueError as error:
            raise ConfigurationError(f"trusted_proxies: {error}") from None

    def url(
        self, scheme: str, host: str, path: str, query: str, *, headers: Mapping[str, str], client: str | None
    ) -> str:
        """The address, from what we see: ``host`` with the port that was named, ``path`` and ``query`` encoded."""
        after = f"{path}?{query}" if query else path
        if self.public_url is not None:
            return self.public_url + after
        if self.trusts(client):
            scheme, host, prefix = _forwarded(headers, scheme, host)
            after = prefix + after
        return f"{scheme}://{host}{after}"

    def trusts(self, client: str | None) -> bool:
        """Whether the peer at that address is a proxy of ours."""
        if self._everybody:
            return True
        if not self._networks or client is None:
            return False
        try:
            address = ipaddress.ip_address(client.partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network for network in self._networks)


@lru_cache(maxsize=8)
def _checked(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or not parts.hostname or parts.query or parts.fragment:
        raise ConfigurationError(f"public_url: expected such as https://shop.example/api, got {url!r}")
    return url.rstrip("/")


def _forwarded(headers: Mapping[str, str], scheme: str, host: str) -> tuple[str, str, str]:
    """Scheme, host and prefix as the nearest proxy says; what it does not say, or says oddly, stays as it is.

    Of several entries the last is the nearest proxy's own; those before it may be anybody's.
    """
    told = _standard(headers.get("forwarded", ""))
    said_scheme = (told.get("proto") or _last(headers, "x-forwarded-proto")).lower()
    said_host = told.get("host") or _last(headers, "x-forwarded-host")
    port = "" if told.get("host") else _last(headers, "x-forwarded-port")
    prefix = _last(headers, "x-forwarded-prefix").rstrip("/")
    if said_scheme in _PORTS:
        scheme = said_scheme
    if _HOST.fullmatch(said_host):
        host = said_host
    bare = host.rpartition(":")[0] if re.search(r":[0-9]+$", host) and not host.endswith("]") else host
    if port.isascii() and port.isdigit() and bare == host and port != _PORTS[scheme]:
        host = f"{host}:{port}"
    return scheme, host, prefix if prefix.startswith("/") and prefix.isascii() and prefix.isprintable() else ""


def _last(headers: Mapping[str, str], name: str) -> str:
    return headers.get(name, "").rpartition(",")[2].strip()


def _standard(header: str) -> dict[str, str]:
    """The pairs of the last element of a ``Forwarded`` header (RFC 7239)."""
    found: dict[str, str] = {}
    for name, value in _PAIR.findall(header.rpartition(",")[2])[:20]:
        found[name.lower()] = re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value
    return found
