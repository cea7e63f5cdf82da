"""Who is signed in, as a middleware of Django, for plain and asynchronous views alike.

::

    # shop/middleware.py
    signed_in = signed_in_middleware(FirebaseAuth(), cookie="session", public=["/static/", "/"])

    # settings.py
    MIDDLEWARE = [..., "shop.middleware.signed_in"]

The verified user is ``request.verified_user``; ``request.user`` stays that of Django.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from moorline.errors import CallError, InvalidToken
from moorline.identity.requests import Doorkeeper, Refused

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse

    from moorline.identity.verification import Verifies

__all__ = ["signed_in_middleware"]


def signed_in_middleware(
    service: Verifies[Any], *, cookie: str | None = None, required: bool = True, public: Iterable[str] = ()
) -> Callable[[Callable[[HttpRequest], Any]], Callable[[HttpRequest], Any]]:
    """A middleware that lets requests through that show a good token of *service*, an object with ``verify_token``.

    All others are answered 401 with ``WWW-Authenticate``, without the issuer's keys 503. *cookie*, *required* and
    *public* are those of :class:`moorline.identity.requests.Doorkeeper`: where nobody is let in as well, the user is
    None.
    """
    from asgiref.sync import iscoroutinefunction
    from django.utils.decorators import sync_and_async_middleware

    door: Doorkeeper[Any] = Doorkeeper(service, cookie=cookie, required=required, public=public)

    @sync_and_async_middleware  # type: ignore[untyped-decorator]  # Django has no types
    def middleware(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
        async def serve_async(request: HttpRequest) -> Any:
            if door.looks_at(request.path_info):
                try:
                    request.verified_user = await door.admit_async(*_shown(request))
                except (InvalidToken, CallError) as error:
                    return _response(door.refusal(error))
            return await get_response(request)

        def serve(request: HttpRequest) -> Any:
            if door.looks_at(request.path_info):
                try:
                    request.verified_user = door.admit(*_shown(request))
                except (InvalidToken, CallError) as error:
                    return _response(door.refusal(error))
            return get_response(request)

        return serve_async if iscoroutinefunction(get_response) else serve

    made: Callable[[Callable[[HttpRequest], Any]], Callable[[HttpRequest], Any]] = middleware
    return made


def _shown(request: HttpRequest) -> tuple[list[str], list[str]]:
    """The headers; WSGI joins several of one name by a comma, which is in no token."""
    names = ("HTTP_AUTHORIZATION", "HTTP_COOKIE")
    authorization, cookies = ([request.META[name]] if request.META.get(name) else [] for name in names)
    return authorization, cookies


def _response(answer: Refused) -> HttpResponse:
    from django.http import HttpResponse

    response = HttpResponse(answer.body, status=answer.status)
    for name, value in answer.headers:
        response[name] = value
    return response
