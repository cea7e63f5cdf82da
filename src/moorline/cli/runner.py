"""Runs an application's server, its worker, or both in one process, and stops them in order.

The first SIGTERM or SIGINT stops taking: the server refuses new connections and answers what it has, the worker stops
claiming and finishes within its grace. At a second one the worker gives back what runs, unfinished; a third ends the
process where it stands.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
from typing import TYPE_CHECKING, Any, Final, TypeVar

from moorline.errors import ConfigurationError, MoorlineError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from moorline.app import Moorline
    from moorline.jobs.worker import Worker

__all__ = ["listen", "loop_run", "run"]

R = TypeVar("R")

BACKLOG: Final = 2048
"""Connections that may wait to be accepted, and that are accepted in one turn of the loop."""


def run(app: Moorline, *, listener: socket.socket | None = None, worker: Worker | None = None) -> None:
    """Serve on ``listener``, run ``worker``, or both, until told to stop; returns when all has ended.

    Raises what one of them has failed with; a group of errors only where one is none of ours.
    """
    try:
        loop_run(_both(app, listener, worker))
    except BaseExceptionGroup as group:
        found, others = group.split(MoorlineError)
        if found is None or others is not None:
            raise
        raise _first(found) from None


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one. Raises ConfigurationError when the address cannot be had."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG, reuse_port=False)
    except OSError as error:
        other = "--port" if error.errno == errno.EADDRINUSE else "--host or --port"
        raise ConfigurationError(f"cannot listen on {host}:{port}: {error.strerror}; choose another {other}") from error


def loop_run(main: Coroutine[Any, Any, R]) -> R:
    """Run it in the loop that servers and workers have."""
    try:
        import uvloop
    except ImportError:  # not made for every platform
        return asyncio.run(main)
    return uvloop.run(main)


async def _both(app: Moorline, listener: socket.socket | None, worker: Worker | None) -> None:
    stop = asyncio.Event()
    app.keys.watch.role = "run" if listener and worker else "worker" if worker else "serve"
    await app.open()
    try:
        with _signals(stop, worker):
            async with asyncio.TaskGroup() as group:
                if listener is not None:
                    group.create_task(_until_stopped(_serve(app, listener, stop), stop))
                if worker is not None:
                    group.create_task(_until_stopped(worker.run(signals=False), stop))
                    group.create_task(_stop_worker(worker, stop))
    finally:
        await app.close()


async def _until_stopped(part: Coroutine[Any, Any, Any], stop: asyncio.Event) -> None:
    # When one part ends, for whatever reason, the other must not go on alone.
    try:
        await part
    finally:
        stop.set()


async def _stop_worker(worker: Worker, stop: asyncio.Event) -> None:
    await stop.wait()
    worker.stop()


async def _serve(asgi: Any, listener: socket.socket, stop: asyncio.Event) -> None:
    import uvicorn

    from moorline.cli.serving import Server

    server = Server(
        uvicorn.Config(
            asgi,
            loop="none",
            log_config=None,
            access_log=False,
            proxy_headers=False,  # who sent a request is never taken from its headers
            server_header=False,
            timeout_graceful_shutdown=10,
        )
    )

    async def watch() -> None:
        await stop.wait()
        server.should_exit = True

    watcher = asyncio.create_task(watch())
    try:
        await server.serve(sockets=[listener])
    finally:
        watcher.cancel()


@contextlib.contextmanager
def _signals(stop: asyncio.Event, worker: Worker | None) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    seen = 0

    def heed(number: int) -> None:
        nonlocal seen
        seen += 1
        stop.set()
        if seen == 2 and worker is not None:
            worker.stop(now=True)
        elif seen > 1:
            os._exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, heed, number)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
