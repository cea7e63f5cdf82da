"""``Dashboard``: the operator's pages under ``/dashboard``, as a plain ASGI application.

It is closed unless the application opens it: the paths are unknown then. What changes anything is a POST of this
application's own pages (``identity.asking.check_own``). No page is kept by caches or framed, none runs scripts, none
tells others where it came from. Each page is JSON as well: with ``.json`` behind its path, or ``Accept:
application/json``.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from moorline import errors
from moorline.dashboard import drawing
from moorline.dashboard.gate import Gate, Visitor, client_address
from moorline.dashboard.page import Confirm, Look, Onward, Page
from moorline.dashboard.views import connections, events, jobs, keys, overview, services
from moorline.identity.asking import Ask, Origin, Refused, ask_of, check_own
from moorline.telemetry import logger

if TYPE_CHECKING:
    from moorline.app import Moorline

__all__ = ["PREFIX", "Dashboard"]

PREFIX: Final = "/dashboard"
_MOST_BODY: Final = 131_072  # bytes of a form
_BODY_SECONDS: Final = 10.0
_MOST_FIELDS: Final = 1_100
_ID: Final = r"([0-9A-Za-z_.:-]{1,200})"
_SECURE: Final = (
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    ),
)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
View = Callable[[Look], Awaitable[Page | Confirm | Onward]]
Header = tuple[bytes, bytes]

log = logger("dashboard")

_VIEWS: Final[tuple[tuple[str, re.Pattern[str], View], ...]] = tuple(
    (method, re.compile(path), view)
    for method, path, view in (
        ("GET", r"/?", overview.overview),
        ("GET", r"/jobs", jobs.listed),
        ("POST", r"/jobs/(retry|skip|stop)", jobs.act),
        ("GET", rf"/jobs/{_ID}", jobs.shown),
        ("GET", r"/events", events.listed),
        ("GET", rf"/events/{_ID}", events.shown),
        ("POST", rf"/events/{_ID}/replay", events.replay),
        ("GET", r"/rejected", events.refused),
        ("GET", rf"/rejected/{_ID}", events.refused_one),
        ("GET", r"/connections", connections.listed),
        ("POST", rf"/connections/{_ID}/revoke", connections.revoke),
        ("POST", rf"/connections/{_ID}/refresh", connections.refresh),
        ("GET", r"/keys", keys.listed),
        ("GET", rf"/keys/{_ID}", keys.shown),
        ("POST", r"/keys/add", keys.add),
        ("POST", rf"/keys/{_ID}/add", keys.add),
        ("POST", rf"/keys/{_ID}/rotate", keys.rotate),
        ("POST", rf"/keys/{_ID}/(promote|retire|rollback)", keys.decide),
        ("GET", r"/services", services.listed),
        ("POST", rf"/services/{_ID}/check", services.check),
    )
)
_NAVIGATION: Final = (
    ("", "Overview"),
    ("/jobs", "Jobs"),
    ("/events", "Events"),
    ("/rejected", "Refused"),
    ("/connections", "Connections"),
    ("/keys", "Keys"),
    ("/services", "Services"),
)
_STATUS: Final[tuple[tuple[type[Exception], int], ...]] = (
    (errors.StoreError, 503),
    (errors.EventPruned, 410),
    (errors.EventNotFound, 404),
    (errors.JobNotFound, 404),
    (errors.ConnectionNotFound, 404),
    (errors.JobStateError, 409),
    (errors.RotationRefused, 409),
    (errors.ConfigurationError, 400),
    (errors.Misuse, 503),
)
_LATER: Final = {503: b"5", 429: b"300"}
_SAID: Final = {
    "retry": "tried again",
    "skip": "given up",
    "stop": "stopped, or asked to stop",
    "replayed": "enqueued for this event",
    "revoked": "revoked, and the service was told",
    "revoked later": "revoked here; the service will be told later, as it does not answer",
    "deleted": "deleted here; the service cannot be told",
    "refreshed": "refreshed",
    "add": "version is accepted too, and used after all others until it is promoted",
    "promote": "version is used first from now on",
    "retire": "version is accepted no more",
    "rollback": "decision is undone",
}


@dataclass(frozen=True, slots=True)
class _Answer:
    """What is sent."""

    status: int
    body: bytes = b""
    media: bytes = b"text/html; charset=utf-8"
    headers: tuple[Header, ...] = ()


class Dashboard:
    """The pages of *app*, for those whom *gate* lets in. *ends* gives the keys whose end is known."""

    def __init__(
        self, app: Moorline, gate: Gate, origin: Origin, ends: Callable[[], Iterable[tuple[str, str, float]]]
    ) -> None:
        self.app = app
        self.gate = gate
        self._origin = origin
        self._ends = ends

    def __repr__(self) -> str:
        return f"<Dashboard of {self.app!r}>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send, path: str) -> None:
        """The ASGI entry; *path* is that below the mount."""
        plain = path.endswith(".json")
        cookies: tuple[str, ...] = ()
        root = ""
        try:
            ask = ask_of(self._origin, scope, path)
            root = urlsplit(ask.base).path.rstrip("/")
            plain = plain or _wants_json(ask)
            answer, cookies = await self._answered(scope, receive, ask, path, root, plain=plain)
        except Refused as refused:
            answer = _told(root, refused.status, str(refused), plain=plain, allow=refused.allow)
        except errors.MoorlineError as error:
            status = next((status for kind, status in _STATUS if isinstance(error, kind)), 502)
            if status == 503:
                log.error("dashboard_unavailable", reason=str(error))
            answer = _told(root, status, str(error), plain=plain)
        await _send(send, answer, cookies, head=scope["method"] == "HEAD")

    # --- who, and what

    async def _answered(
        self, scope: Scope, receive: Receive, ask: Ask, path: str, root: str, *, plain: bool
    ) -> tuple[_Answer, tuple[str, ...]]:
        below = path.removeprefix(PREFIX)
        if below == "/dashboard.css":
            return _style(), ()
        method = "GET" if ask.method == "HEAD" else ask.method
        client = scope.get("client")
        address = client_address(ask, client[0] if client else None, self._origin)
        if below in ("/login", "/logout"):
            return await self._in_or_out(below, receive, ask, root, address)
        visitor = await self.gate.visitor(ask, scope, address)
        if visitor is None:
            return self._closed(root, f"{PREFIX}{below}", plain=plain), ()
        view, named = _found(below.removesuffix(".json") if plain else below, method)
        form: Mapping[str, Sequence[str]] = {}
        if method == "POST":
            if visitor.by == "bearer":
                raise Refused(403, "Scripts may only read here: the commands of moorline change things.")
            check_own(ask)
            form = await _form(ask, receive)
        try:
            query = parse_qs(ask.query, max_num_fields=50)
        except ValueError:
            raise Refused(400, "This address has too many parts.") from None
        look = Look(self.app, named, query, form, visitor.name, self.app.clock.wall(), self._ends)
        found = await view(look)
        kept = (visitor.renewed,) if visitor.renewed else ()
        if isinstance(found, Onward):
            words = urlencode({"said": found.said, "count": found.count, "failed": found.failed})
            return _onward(f"{root}{PREFIX}{quote(found.to)}?{words}"), kept
        page = found.page() if isinstance(found, Confirm) else found
        if plain:
            return _Answer(page.status, drawing.in_json(page), b"application/json"), kept
        return self._drawn(page, visitor, query, root, below), kept

    def _drawn(
        self, page: Page, visitor: Visitor, query: Mapping[str, Sequence[str]], root: str, below: str
    ) -> _Answer:
        context = {
            **page.data,
            "title": page.title,
            "root": f"{root}{PREFIX}",
            "mount": root,
            "navigation": _NAVIGATION,
            "here": f"/{below.strip('/').partition('/')[0]}".rstrip("/"),
            "visitor": visitor.name,
            "by": visitor.by,
            "said": _said(query),
            "now": self.app.clock.wall(),
        }
        return _Answer(page.status, drawing.html(page.template, context))

    def _closed(self, root: str, wanted: str, *, plain: bool, wrong: bool = False) -> _Answer:
        """The page where one gets in."""
        proof = ((b"www-authenticate", b'Bearer realm="dashboard"'),)
        if plain:
            return _Answer(401, b'{"error":"not let in"}', b"application/json", proof)
        context = {
            "title": "Sign in",
            "root": f"{root}{PREFIX}",
            "mount": root,
            "wanted": f"{root}{wanted}",
            "by_token": self.gate.by_token,
            "providers": list(self.app.sign_in_providers().items()) if self.gate.by_sign_in else [],
            "wrong": wrong,
        }
        return _Answer(401, drawing.html("login.html", context), headers=proof)

    async def _in_or_out(
        self, below: str, receive: Receive, ask: Ask, root: str, address: str
    ) -> tuple[_Answer, tuple[str, ...]]:
        """Enter the token, or leave."""
        if ask.method != "POST":
            if below == "/login" and ask.method in ("GET", "HEAD"):
                return self._closed(root, PREFIX, plain=False), ()
            raise Refused(405, "This is a POST.", allow="POST")
        check_own(ask)
        if below == "/logout":
            gone = await self.gate.leave(ask)
            return _onward(f"{root}{PREFIX}"), (gone,) if gone else ()
        form = await _form(ask, receive)
        wanted = form.get("next", ("",))[0]
        onward = wanted if _is_ours(wanted, root) else f"{root}{PREFIX}"
        kept = self.gate.enter(ask, form.get("token", ("",))[0], address)
        if kept is None:
            return self._closed(root, onward.removeprefix(root), plain=False, wrong=True), ()
        return _onward(onward), (kept,)


def _found(below: str, method: str) -> tuple[View, tuple[str, ...]]:
    """The view, and what the path names. Raises Refused (404, 405)."""
    allowed = []
    for wanted, path, view in _VIEWS:
        found = path.fullmatch(below)
        if found is not None and wanted == method:
            return view, found.groups()
        if found is not None:
            allowed.append(wanted)
    if allowed:
        raise Refused(405, "This page is asked for otherwise.", allow=", ".join(allowed))
    raise Refused(404, "There is no such page.")


def _is_ours(wanted: str, root: str) -> bool:
    return re.fullmatch(rf"{re.escape(root)}{PREFIX}(?:/[0-9A-Za-z_.:/-]*)?", wanted) is not None and "//" not in wanted


def _wants_json(ask: Ask) -> bool:
    accepted = ask.headers.get("accept", "")
    return "application/json" in accepted and "text/html" not in accepted


def _said(query: Mapping[str, Sequence[str]]) -> dict[str, Any] | None:
    """What was done, from words of our own: a query may be anybody's."""
    words = _SAID.get(query.get("said", ("",))[0])
    if words is None:
        return None
    counts = [query.get(name, ("0",))[0] for name in ("count", "failed")]
    done, failed = (int(one) if one.isascii() and one.isdigit() and len(one) < 6 else 0 for one in counts)
    return {"words": words, "count": done, "failed": failed}


async def _form(ask: Ask, receive: Receive) -> Mapping[str, Sequence[str]]:
    """The fields of a POST. Raises Refused (400, 408, 413, 415)."""
    kind = ask.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ("", "application/x-www-form-urlencoded"):
        raise Refused(415, "This is no form.")
    parts: list[bytes] = []
    size, more = 0, True
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            while more:
                message = await receive()
                if message["type"] != "http.request":
                    raise Refused(400, "The form was cut off.")
                part: bytes = message.get("body", b"")
                size += len(part)
                if size > _MOST_BODY:
                    raise Refused(413, "This form is too large.")
                parts.append(part)
                more = message.get("more_body", False)
    except TimeoutError:
        raise Refused(408, "The form came too slowly.") from None
    try:
        return parse_qs(b"".join(parts).decode("ascii"), max_num_fields=_MOST_FIELDS)
    except ValueError:
        raise Refused(400, "This form cannot be read.") from None


@cache
def _style() -> _Answer:
    text = resources.files("moorline.dashboard").joinpath("static", "dashboard.css").read_bytes()
    return _Answer(200, text, b"text/css; charset=utf-8", ((b"cache-control", b"private, max-age=300"),))


def _onward(to: str) -> _Answer:
    return _Answer(303, headers=((b"location", to.encode("latin-1")),))


def _told(root: str, status: int, text: str, *, plain: bool, allow: str = "") -> _Answer:
    """A page that says what is the matter."""
    headers: tuple[Header, ...] = ((b"allow", allow.encode()),) if allow else ()
    if status in _LATER:
        headers = (*headers, (b"retry-after", _LATER[status]))
    page = Page("message.html", "Not done", {"error": text, "status": status}, status)
    if plain:
        return _Answer(status, drawing.in_json(page), b"application/json", headers)
    try:
        body = drawing.html(page.template, {**page.data, "title": page.title, "root": f"{root}{PREFIX}", "mount": root})
    except errors.ConfigurationError:  # without jinja2, which may be what is to be told
        return _Answer(status, drawing.in_json(page), b"application/json", headers)
    return _Answer(status, body, headers=headers)


async def _send(send: Send, answer: _Answer, cookies: Sequence[str], *, head: bool) -> None:
    headers: list[Header] = [*_SECURE, *answer.headers]
    if not any(name == b"cache-control" for name, _ in headers):
        headers.append((b"cache-control", b"no-store"))
    headers.append((b"content-length", str(len(answer.body)).encode()))
    if answer.body:
        headers.append((b"content-type", answer.media))
    headers += [(b"set-cookie", one.encode("latin-1")) for one in cookies if one]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head else answer.body})
