"""Who is signed in, as a dependency of FastAPI.

::

    User = Annotated[VerifiedUser, Depends(signed_in(clerk))]

    @app.get("/orders")
    async def orders(user: User) -> list[Order]: ...

It stands in the OpenAPI description as a bearer token; the user is ``request.state.user`` too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from moorline.errors import CallError, InvalidToken
from moorline.identity.frameworks.asgi import verified
from moorline.identity.requests import Doorkeeper

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection

    from moorline.identity.verification import Verifies

__all__ = ["signed_in"]

T = TypeVar("T")


def signed_in(
    service: Verifies[T], *, cookie: str | None = None, required: bool = True
) -> Callable[[HTTPConnection], Awaitable[T]]:
    """A dependency that gives the verified user of a request or a websocket.

    Without a good token it is 401 with ``WWW-Authenticate`` (a websocket is closed with 1008), without the issuer's
    keys 503. *service* is an object with ``verify_token``; *cookie* and *required* are those of
    :class:`moorline.identity.requests.Doorkeeper`: where nobody is let in as well, it gives None.
    """
    from fastapi import HTTPException, WebSocketException
    from fastapi.openapi.models import HTTPBearer
    from fastapi.security.base import SecurityBase
    from starlette.requests import HTTPConnection

    door = Doorkeeper(service, cookie=cookie, required=required)

    class SignedIn(SecurityBase):
        """FastAPI shows what is of this kind in its description."""

        model = HTTPBearer(bearerFormat="JWT")
        scheme_name = "signed in"

        async def __call__(self, connection: HTTPConnection) -> Any:
            try:
                user = await verified(door, connection.scope)
            except (InvalidToken, CallError) as error:
                answer = door.refusal(error)
                if connection.scope["type"] == "websocket":
                    raise WebSocketException(1008, answer.word) from error
                shown = {name: value for name, value in answer.headers if name != "Content-Type"}
                raise HTTPException(answer.status, answer.word, shown) from error
            connection.state.user = user
            return user

    # FastAPI reads the kinds of parameters from a module's names, and this one has not got it there.
    SignedIn.__call__.__annotations__["connection"] = HTTPConnection
    return SignedIn()
