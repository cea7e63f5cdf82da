"""Who is signed in, in Starlette and all others of ASGI: ``app.add_middleware(SignedIn, service=clerk)``.

The verified user is ``request.user``, and ``request.state.user``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, TypeVar

from moorline.errors import CallError, InvalidToken
from moorline.identity.requests import Doorkeeper, Refused
from moorline.identity.verification import Verifies

__all__ = ["SignedIn", "verified"]

T = TypeVar("T")
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class SignedIn:
    """Lets requests and websockets through that show a good token of *service*, an object with ``verify_token``.

    All others are answered 401, a websocket is closed before it opens; without the issuer's keys 503. *cookie*,
    *required* and *public* are those of :class:`moorline.identity.requests.Doorkeeper`: where nobody is let in as well,
    the user is None.
    """

    def __init__(
        self,
        app: Application,
        service: Verifies[Any],
        *,
        cookie: str | None = None,
        required: bool = True,
        public: Iterable[str] = (),
    ) -> None:
        self._app = app
        self._door: Doorkeeper[Any] = Doorkeeper(service, cookie=cookie, required=required, public=public)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] not in ("http", "websocket") or not self._door.looks_at(_path(scope)):
            await self._app(scope, receive, send)
            return
        try:
            user = await verified(self._door, scope)
        except (InvalidToken, CallError) as error:
            await _refuse(self._door.refusal(error), scope, receive, send)
            return
        inner = {**scope, "user": user, "state": {**scope.get("state", {}), "user": user}}
        await self._app(inner, receive, send)


async def verified(door: Doorkeeper[T], scope: Scope) -> T | None:
    """Who made the request, or None for nobody. Raises InvalidToken, CallError."""
    return await door.admit_async(_headers(scope, b"authorization"), _headers(scope, b"cookie"))


def _headers(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name]


def _path(scope: Scope) -> str:
    """The path within the application, wherever that is mounted."""
    whole, root = str(scope["path"]), str(scope.get("root_path", ""))
    return whole.removeprefix(root) if root and whole.startswith(f"{root}/") else whole


async def _refuse(answer: Refused, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()  # the wish to connect
        await send({"type": "websocket.close", "code": 1008, "reason": answer.word})  # before it is accepted: 403
        return
    headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in answer.headers]
    headers.append((b"content-length", str(len(answer.body)).encode()))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else answer.body})
