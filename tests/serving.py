"""ASGI applications of tests on real ports, and a browser that visits them: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

import uvicorn
from tests import oracle_programs

if TYPE_CHECKING:
    from playwright.async_api import Browser

__all__ = ["chromium", "served"]


@contextlib.contextmanager
def served(application: Any, listener: socket.socket | None = None, **options: Any) -> Iterator[str]:
    """Serve *application* with its lifespan from a thread; gives its URL. *options* are uvicorn's (``ssl_keyfile``)."""
    up = threading.Event()

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            up.set()

    config = {"log_config": None, "access_log": False, "lifespan": "on", **options}
    running = Server(uvicorn.Config(application, **config))
    with listener or socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            assert up.wait(30)
            assert running.started
            scheme = "https" if "ssl_keyfile" in options else "http"
            yield f"{scheme}://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            running.should_exit = True
            thread.join(30)
    assert not thread.is_alive()


@contextlib.asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """A browser without a window, for all tests of a process: each takes a context of its own, with its own cookies.
    Whatever ends in ``.example`` is this machine.
    """
    from playwright.async_api import async_playwright

    program = await asyncio.to_thread(oracle_programs.browser)
    async with async_playwright() as playwright:
        options = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-software-rasterizer"]
        options.append("--host-resolver-rules=MAP *.example 127.0.0.1")
        browser = await playwright.chromium.launch(executable_path=program, args=options)
        try:
            yield browser
        finally:
            await browser.close()
