"""What an application answers to its server besides webhooks: that it lives, and that it is ready."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from moorline.errors import ConfigurationError, StoreError
from moorline.events.delivery import Reply
from moorline.events.receiver import send_reply
from moorline.events.refused import ERRORS
from moorline.telemetry import logger

if TYPE_CHECKING:
    from moorline.app import Moorline

__all__ = ["Receive", "Scope", "Send", "health", "lifespan"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

log = logger("app")


async def lifespan(app: Moorline, receive: Receive, send: Send) -> None:
    """Open with the server, and look for alerts until it ends."""
    watching = contextlib.AsyncExitStack()
    while True:
        message = await receive()
        try:
            if message["type"] == "lifespan.startup":
                app.receiver.intake.prepare()
                await app.open()
                await watching.enter_async_context(app.watching())
            else:
                await watching.aclose()
                await app.close()
        except (ConfigurationError, StoreError) as error:
            log.error("lifespan_failed", phase=message["type"], reason=str(error))
            await send({"type": f"{message['type']}.failed", "message": str(error)})
            return
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def health(app: Moorline, path: str, scope: Scope, send: Send) -> None:
    """``/healthz``: the process answers; ``/readyz``: the database does too."""
    reply = Reply(200, b'{"status":"ok"}')
    if scope["method"] not in ("GET", "HEAD"):
        reply = Reply(405, ERRORS[405], headers=(("allow", "GET, HEAD"),))
    elif path == "/readyz" and not await _ready(app):
        reply = Reply(503, b'{"status":"the database does not answer"}', headers=(("retry-after", "5"),))
    await send_reply(send, reply, head=scope["method"] == "HEAD")


async def _ready(app: Moorline) -> bool:
    try:
        await app.open()
        await asyncio.to_thread(app.store.ping)
    except (ConfigurationError, StoreError) as error:
        log.warning("not_ready", reason=str(error))
        return False
    return True
