"""A blocking wire whose every wait on a socket is clamped to what remains of the call, without a thread.

httpx2's own blocking transport times each read by itself: a peer that drips a byte now and then holds it for ever.
Here the timeouts are ``Until`` values, and each connect, handshake, read and write asks them how much is left.

Names are resolved by a few threads that all calls share (see ``resolving.py``), as the system's resolver cannot be told
when to stop; a name that was resolved just now, and a literal address, need none.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import time
from collections.abc import Iterable, Iterator
from typing import Any

import httpcore2
import httpx2

from moorline.calls.addresses import PublicAddresses
from moorline.calls.resolving import RESOLVER, system
from moorline.calls.wires import Until

__all__ = ["ClampedBackend", "clamped_transport", "network_errors"]


def clamped_transport(
    context: ssl.SSLContext, limits: httpx2.Limits, addresses: PublicAddresses | None = None
) -> httpx2.HTTPTransport:
    """httpx2's blocking transport on our sockets, which go to *addresses* only."""
    transport = httpx2.HTTPTransport(verify=context, limits=limits)
    transport._pool = httpcore2.ConnectionPool(  # noqa: SLF001 (there is no public way to give it a backend)
        ssl_context=context,
        max_connections=limits.max_connections,
        max_keepalive_connections=limits.max_keepalive_connections,
        keepalive_expiry=limits.keepalive_expiry,
        network_backend=ClampedBackend(addresses),
    )
    return transport


@contextlib.contextmanager
def network_errors(timeout_kind: type[Exception], error_kind: type[Exception]) -> Iterator[None]:
    """What the system says of a socket, as httpcore2's exceptions."""
    try:
        yield
    except TimeoutError as error:
        raise timeout_kind("timed out") from error
    except OSError as error:
        raise error_kind(str(error)) from error


def _left(timeout: float | None) -> float | None:
    """Seconds that the next wait may take; TimeoutError when there are none."""
    if not isinstance(timeout, Until):
        return timeout
    left = min(timeout.at - time.monotonic(), float(timeout))
    if left <= 0:
        raise TimeoutError
    return left


class _Stream(httpcore2.NetworkStream):
    """A socket, plain or TLS."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Up to *max_bytes*; empty at the end."""
        with network_errors(httpcore2.ReadTimeout, httpcore2.ReadError):
            self._sock.settimeout(_left(timeout))
            return self._sock.recv(max_bytes)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """All of *buffer*."""
        with network_errors(httpcore2.WriteTimeout, httpcore2.WriteError):
            view = memoryview(buffer)
            while view:
                self._sock.settimeout(_left(timeout))
                view = view[self._sock.send(view) :]

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        """The same connection with TLS."""
        with network_errors(httpcore2.ConnectTimeout, httpcore2.ConnectError):
            try:
                self._sock.settimeout(_left(timeout))
                return _Stream(ssl_context.wrap_socket(self._sock, server_hostname=server_hostname))
            except BaseException:
                self.close()
                raise

    def get_extra_info(self, info: str) -> Any:
        """What httpcore2 asks: whether data (or the end) is waiting, the addresses, the TLS object."""
        if info == "is_readable":
            return _readable(self._sock)
        if info == "ssl_object":
            return getattr(self._sock, "_sslobj", None)
        if info == "socket":
            return self._sock
        if info in ("client_addr", "server_addr"):
            return self._sock.getsockname() if info == "client_addr" else self._sock.getpeername()
        return None


def _readable(sock: socket.socket) -> bool:
    if sock.fileno() < 0:
        return True
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    return bool(poller.poll(0))


class ClampedBackend(httpcore2.NetworkBackend):
    """Opens connections; the time for the name and all addresses of a host together is clamped.

    With *addresses* the host is checked, and the connection made to the very address that passed.
    """

    def __init__(self, addresses: PublicAddresses | None = None) -> None:
        self._addresses = addresses
        self._ask = (addresses and addresses.resolve) or system

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        """A connection to the first address that answers. Raises InvalidRequest for one that must not be called."""
        addresses = self._addresses
        if addresses is not None:
            addresses.check_host(host, port)
        with network_errors(httpcore2.ConnectTimeout, httpcore2.ConnectError):
            found = RESOLVER.resolve(host, port, _left(timeout), self._ask)
            if addresses is not None:
                found = addresses.checked(host, found)
            failure: OSError = OSError("the name has no address")
            for text in found:
                try:
                    return _Stream(_connected(text, port, timeout, local_address, socket_options or ()))
                except OSError as error:
                    failure = error
            raise failure


def _connected(
    text: str, port: int, timeout: float | None, local_address: str | None, options: Iterable[Any]
) -> socket.socket:
    """A socket that is connected to the address *text*. Raises OSError."""
    numeric = socket.getaddrinfo(text, port, 0, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST)  # asks nobody
    family, kind, protocol, _name, address = numeric[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.settimeout(_left(timeout))
        for option in options:
            sock.setsockopt(*option)
        if local_address is not None:
            sock.bind((local_address, 0))
        sock.connect(address)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        sock.close()
        raise
    return sock
