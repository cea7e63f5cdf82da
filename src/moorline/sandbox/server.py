"""The sandbox as a program: ``create_app`` makes the ASGI application, ``serve`` and ``running`` serve it.

Each service is at ``/<name>/…`` with the vendor's own paths behind it (``/stripe/v1/payment_intents``). Point moorline
at it with ``MOORLINE_SANDBOX_URL``. The control API is for tests and for the demo, and asks for no credentials, so keep
the sandbox on loopback:

``GET    /_sandbox/``            the services, their events, default secrets; ``{"ok": true}`` when it is up
``POST   /_sandbox/faults``      arm one fault or a list of them (keys: :mod:`moorline.sandbox.faults`) -> their numbers
``GET    /_sandbox/faults``      the armed faults and how often each struck
``DELETE /_sandbox/faults``      disarm all; ``?service=`` or ``?number=`` for some
``POST   /_sandbox/webhooks``    register a target: ``service``, ``url``, and if wanted ``secret`` or ``secrets``,
                                 ``events``, ``repeat``, ``broken_signature``, ``id``, ``ping`` (false: no first ping)
                                 -> the target
``GET    /_sandbox/webhooks``    the targets
``DELETE /_sandbox/webhooks``    forget all targets; ``?id=`` for one
``POST   /_sandbox/deliver``     send the request's raw body as a webhook to the service's targets, and wait for it:
                                 ``?service=github&event=push`` and if wanted ``id`` (delivery id), ``target``,
                                 ``repeat``, ``broken_signature=true``; an empty body sends one of the sandbox's own
``GET    /_sandbox/deliveries``  the log of deliveries; ``?settle=true`` waits until none is under way; ``?service=``
``GET    /_sandbox/state``       what the services hold; ``?service=`` for one
``GET    /_sandbox/requests``    the requests seen, oldest first: service, method, path, status or fault
``GET    /_sandbox/certificate`` the certificate of the key that signs webhooks of those that sign with one
``POST   /_sandbox/reset``       forget everything: state, faults, targets, logs

A wrong control request is answered 400 with ``{"error": "…"}`` naming the key.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import uvicorn
from starlette.types import ASGIApp

from moorline.clock import SYSTEM, Clock
from moorline.errors import ConfigurationError, MoorlineError
from moorline.sandbox.harbour import Harbour
from moorline.sandbox.wire import TransportInScope

__all__ = ["create_app", "running", "serve"]


def create_app(*, seed: int = 0, clock: Clock = SYSTEM) -> ASGIApp:
    """The sandbox as an ASGI application. The same seed and requests give the same ids and faults."""
    return Harbour(seed=seed, clock=clock).application()


def _bind(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise ConfigurationError(f"port must be from 0 to 65535, not {port}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(512)
    except OSError as error:
        sock.close()
        raise ConfigurationError(f"cannot listen on host {host!r}, port {port}: {error.strerror or error}") from error
    return sock


def _url(host: str, sock: socket.socket) -> str:
    return f"http://[{host}]:{sock.getsockname()[1]}" if ":" in host else f"http://{host}:{sock.getsockname()[1]}"


class _Server(uvicorn.Server):
    """Tells when it accepts connections, so that nobody has to poll."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], object]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start as uvicorn does, then say so."""
        await super().startup(sockets)
        self._ready()


def _server(seed: int, clock: Clock, log_level: str, ready: Callable[[], object]) -> _Server:
    config = uvicorn.Config(
        create_app(seed=seed, clock=clock),
        http=TransportInScope,
        ws="none",
        lifespan="on",
        log_config=None,  # its lines are redacted as all others are
        log_level=log_level,
        access_log=False,
        timeout_graceful_shutdown=2,
        server_header=False,
    )
    return _Server(config, ready)


def serve(
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    seed: int = 0,
    ready: Callable[[str], object] | None = None,
    clock: Clock = SYSTEM,
    log_level: str = "warning",
) -> None:
    """Serve until SIGINT or SIGTERM; ``ready(url)`` is called when it accepts connections. Port 0 takes a free one.

    Raises ConfigurationError when it cannot listen there.
    """
    sock = _bind(host, port)
    url = _url(host, sock)
    with contextlib.closing(sock):
        _server(seed, clock, log_level, lambda: ready(url) if ready else None).run(sockets=[sock])


@contextlib.contextmanager
def running(*, seed: int = 0, clock: Clock = SYSTEM, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Serve on a thread of this process for the length of a ``with`` block, which gets the URL."""
    sock = _bind(host, port)
    up = threading.Event()
    server = _server(seed, clock, "critical", up.set)
    failed: list[BaseException] = []

    def work() -> None:
        try:
            server.run(sockets=[sock])
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread below
            failed.append(error)
        finally:
            up.set()

    thread = threading.Thread(target=work, name="moorline-sandbox", daemon=True)
    with contextlib.closing(sock):
        thread.start()
        up.wait(15)
        if failed or not server.started:
            raise MoorlineError("the sandbox did not start") from (failed[0] if failed else None)
        try:
            yield _url(host, sock)
        finally:
            server.should_exit = True
            thread.join(10)
