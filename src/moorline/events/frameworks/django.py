"""Webhooks in a Django project: ``path("webhooks/", include(webhook_urls(app)))``.

A plain view that is exempt from the CSRF check (senders have no cookie; their signature is checked instead) and reads
the body by itself, before anything parses it.
"""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

from moorline.events.blocking import Read, receiver_of
from moorline.events.verification import lower_case

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.http import HttpRequest, HttpResponse
    from django.urls import URLPattern

__all__ = ["webhook_urls", "webhook_view"]


def webhook_view(app: Any) -> Callable[..., HttpResponse]:
    """The view of a ``Moorline``: it takes the request and ``name``, what follows the prefix in the path."""
    from django.http import HttpResponse
    from django.views.decorators.csrf import csrf_exempt

    receiver = receiver_of(app)

    @csrf_exempt  # type: ignore[untyped-decorator]  # Django has no types
    def moorline_webhooks(request: HttpRequest, name: str = "") -> HttpResponse:
        headers = lower_case(request.headers)
        reply = receiver.respond(
            name,
            method=request.method or "",
            headers=headers,
            query=request.META.get("QUERY_STRING", ""),  # as it was sent; Django's own is encoded anew
            scheme=request.scheme or "http",
            host=headers.get("host", ""),
            path=request.get_full_path().partition("?")[0],
            client=request.META.get("REMOTE_ADDR"),
            read=_reader(request),
        )
        response = HttpResponse(reply.body, status=reply.status, content_type=reply.media if reply.body else "")
        for key, value in reply.headers:
            if key != "connection":  # not an application's to say under WSGI
                response[key] = value
        return response

    view: Callable[..., HttpResponse] = moorline_webhooks
    return view


def webhook_urls(app: Any) -> list[URLPattern]:
    """Patterns for ``include``: everything below is for the receiver."""
    from django.urls import re_path

    return [re_path(r"^(?P<name>.*)$", webhook_view(app), name="moorline-webhooks")]


def _reader(request: HttpRequest) -> Read:
    read: Read = request.read
    if request.META.get("wsgi.input_terminated") and not request.META.get("CONTENT_LENGTH"):
        read = request.META["wsgi.input"].read  # a chunked body, which Django takes for an empty one
    elif hasattr(request, "_body"):
        read = BytesIO(request.body).read  # something before us has read it already
    return read
