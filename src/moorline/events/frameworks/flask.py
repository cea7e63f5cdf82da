"""Webhooks in a Flask application: ``flask_app.register_blueprint(webhook_blueprint(app))``."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from moorline.events.blocking import receiver_of
from moorline.events.verification import lower_case

if TYPE_CHECKING:
    from flask import Blueprint, Request, Response

    from moorline.events.blocking import Read

__all__ = ["webhook_blueprint"]

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


def webhook_blueprint(app: Any, *, name: str = "moorline_webhooks", url_prefix: str = "/webhooks") -> Blueprint:
    """A blueprint that gives everything below ``url_prefix`` to the receiver of a ``Moorline``."""
    from flask import Blueprint, Response, request

    receiver = receiver_of(app)
    blueprint = Blueprint(name, __name__, url_prefix=url_prefix)

    # Not OPTIONS, which Flask would answer by itself: what is not there must look as if it were not.
    @blueprint.route("/", defaults={"sender": ""}, methods=_METHODS, provide_automatic_options=False)
    @blueprint.route("/<path:sender>", methods=_METHODS, provide_automatic_options=False)
    def moorline_webhooks(sender: str) -> Response:
        environ = request.environ
        headers = lower_case(dict(request.headers))
        reply = receiver.respond(
            sender,
            method=request.method,
            headers=headers,
            query=environ.get("QUERY_STRING", ""),
            scheme=request.scheme,
            host=headers.get("host", ""),
            path=_path(environ),
            client=request.remote_addr,
            read=_reader(request),
        )
        response = Response(reply.body, status=reply.status, mimetype=reply.media if reply.body else None)
        for key, value in reply.headers:
            if key != "connection":  # not an application's to say under WSGI
                response.headers[key] = value
        return response

    return blueprint


def _reader(request: Request) -> Read:
    seen: bytes | None = getattr(request, "_cached_data", None)
    read: Read = request.stream.read if seen is None else BytesIO(seen).read  # something before us has read it already
    return read


def _path(environ: dict[str, Any]) -> str:
    """The path as it was sent, where the server tells; else encoded anew."""
    raw = str(environ.get("RAW_URI") or environ.get("REQUEST_URI") or "")
    root = quote(environ.get("SCRIPT_NAME", "").encode("latin-1"))
    if not raw.startswith("/"):
        return root + quote(environ.get("PATH_INFO", "").encode("latin-1"))
    path = raw.partition("?")[0]
    return path if path.startswith(root) else root + path  # a proxy took the prefix away, and told of it
