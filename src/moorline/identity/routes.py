"""``SignInRoutes``: signing in and out, as a plain ASGI application.

``GET /auth/{provider}/login``     to the provider; ``?next=/path`` is where the user goes afterwards
``POST /auth/{provider}/login``    the same; with ``?add=1`` the account becomes one more of the user who is signed in
``GET /auth/{provider}/callback``  back from it: the session begins
``POST /auth/logout``              the session ends; ``?next=/path``

What changes something for a user who is signed in is a POST of this application's own pages: another site's is refused
by ``Sec-Fetch-Site``, ``Origin`` or ``Referer`` (403), and GET is no way to sign out (405). No answer is kept by caches
or tells others where it came from, and none repeats anything that a provider has sent.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, replace
from html import escape
from typing import Any, Final, Protocol
from urllib.parse import parse_qs, urlsplit

from moorline.calls.dialects import LOOPBACK
from moorline.errors import CallError, ConfigurationError, Misuse, SignInFailed, StoreError
from moorline.identity import flow, identities
from moorline.identity.desk import Desk
from moorline.identity.flow import Pending
from moorline.identity.identities import Seen, Spend
from moorline.identity.own_paths import own_path
from moorline.identity.provider import Identity
from moorline.identity.sessions import Session, Sessions, cookie, cookies
from moorline.store.store import Store
from moorline.telemetry import logger

__all__ = ["PREFIX", "Origin", "SignInRoutes"]

PREFIX: Final = "/auth/"
_PATH: Final = re.compile(r"/auth/([a-z][a-z0-9_-]{0,63})/(login|callback)")
_LOGOUT: Final = "/auth/logout"
_LONGEST_QUERY: Final = 16_384
_MOST_AT_ONCE: Final = 5  # sign-ins of a browser that are under way
_PENDING: Final = "moorline-sign-in-"
_HEADERS: Final = (
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'"),
)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

log = logger("identity")


class Origin(Protocol):
    """What knows by which address the world calls this application: that of the receiver."""

    public_url: str | None

    def url(
        self, scheme: str, host: str, path: str, query: str, *, headers: Mapping[str, str], client: str | None
    ) -> str:
        """The address."""
        ...

    def trusts(self, client: str | None) -> bool:
        """Whether the peer is a proxy of ours."""
        ...


@dataclass(frozen=True, slots=True)
class _Ask:
    """A request: the address of the application as the browser sees it, with the mount, and what it sent."""

    method: str
    base: str
    query: str
    headers: Mapping[str, str]

    @property
    def secure(self) -> bool:
        return self.base.lower().startswith("https:")

    @property
    def origin(self) -> str:
        parts = urlsplit(self.base.lower())  # as browsers write it: without the usual port
        return f"{parts.scheme}://{parts.netloc.removesuffix(':443' if self.secure else ':80')}"

    def wanted(self, name: str) -> str:
        """A parameter of the query, there at most once. Raises ConfigurationError."""
        found = parse_qs(self.query, keep_blank_values=True, max_num_fields=50).get(name, [""])
        if len(found) > 1:
            raise ConfigurationError(f"{name} is there twice")
        return found[0]

    @property
    def pending(self) -> str:
        """What the names of the cookies of sign-ins begin with."""
        return f"__Host-{_PENDING}" if self.secure else _PENDING


class _Refused(Exception):
    """The answer is this page; *clear* are the cookies that go."""

    def __init__(self, status: int, text: str, *cookies: str, allow: str = "", again: str = "") -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.cookies = cookies
        self.allow = allow
        self.again = again


class SignInRoutes:
    """Signs in with the providers of *desks*, by their names. *users* tells whose an identity is, None where it is
    nobody's that may sign in; without it the table ``identities`` does.
    """

    def __init__(
        self,
        desks: Mapping[str, Desk],
        sessions: Sessions,
        store: Store,
        origin: Origin,
        users: Callable[[Identity], Awaitable[str | None]] | None = None,
    ) -> None:
        self.desks = desks
        self.sessions = sessions
        self.store = store
        self.origin = origin
        self.users = users

    def __repr__(self) -> str:
        return f"<SignInRoutes of {', '.join(self.desks)}>"

    def serves(self, path: str) -> bool:
        """Whether the path, below the mount, is one of these."""
        found = _PATH.fullmatch(path)
        return path == _LOGOUT or (found is not None and found[1] in self.desks)

    async def __call__(self, scope: Scope, receive: Receive, send: Send, path: str | None = None) -> None:
        """The ASGI entry; *path* is that below the mount."""
        del receive  # no body is read
        below = scope["path"] if path is None else path
        try:
            location, kept = await self._answered(scope, below)
        except _Refused as refused:
            await _send_page(send, refused)
        except (StoreError, Misuse) as error:  # Misuse: it could not be opened
            log.error("sign_in_not_stored", reason=str(error))
            await _send_page(send, _Refused(503, "Please try again in a moment."))
        else:
            await _send(send, 303, b"", kept, ((b"location", location.encode("latin-1")),))

    async def session(self, scope: Scope) -> Session | None:
        """Who is signed in, of a request to any path. Raises StoreError."""
        if scope["type"] != "http" and scope["type"] != "websocket":
            return None
        try:
            ask = self._ask(scope, "")
        except _Refused:
            return None
        return await self._session(ask)

    async def renewed(self, scope: Scope) -> tuple[Session | None, str]:
        """As ``session``, and the ``Set-Cookie`` that keeps it alive; empty while none is due."""
        try:
            ask = self._ask(scope, "")
        except _Refused:
            return None, ""
        session = await self._session(ask)
        again = None if session is None else self.sessions.renewed(session)
        return session, "" if again is None else self.sessions.header(again, secure=ask.secure)

    # --- what is asked

    def _ask(self, scope: Scope, below: str) -> _Ask:
        """Raises _Refused where nobody knows the address of this application: a Host header may be anybody's."""
        headers: dict[str, str] = {}
        for raw_name, raw_value in scope["headers"]:
            name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
            glue = "; " if name == "cookie" else ", "
            headers[name] = f"{headers[name]}{glue}{value}" if name in headers else value
        client, server = scope.get("client"), scope.get("server") or ("", None)
        peer = client[0] if client else None
        host = headers.get("host") or str(server[0])
        path: str = scope["path"]
        root: str = scope.get("root_path", "")
        mount = path[: len(path) - len(below)] if below and path.endswith(below) else root
        told: str = scope.get("scheme", "http")
        scheme = {"ws": "http", "wss": "https"}.get(told, told)
        base = self.origin.url(scheme, host, mount.rstrip("/"), "", headers=headers, client=peer)
        try:
            parts = urlsplit(base)
            local = LOOPBACK.fullmatch(parts.hostname or "") is not None
        except ValueError:
            raise _Refused(400, "This address cannot be read.") from None
        if self.origin.public_url is None and not self.origin.trusts(peer) and not local:
            log.error("sign_in_without_public_url", hint="set webhooks.public_url or webhooks.trusted_proxies")
            raise _Refused(503, "Signing in is not set up for this address.")
        if parts.scheme.lower() != "https" and not local:
            log.error("sign_in_without_https", hint="the public address has to be https")
            raise _Refused(503, "Signing in is not set up for this address.")
        if not parts.hostname or parts.username is not None or not base.isascii() or not base.isprintable():
            raise _Refused(400, "This address cannot be read.")
        query = scope.get("query_string", b"").decode("latin-1")
        if len(query) > _LONGEST_QUERY:
            raise _Refused(414, "This address is too long.")
        return _Ask(scope.get("method", "GET"), base, query, headers)

    async def _answered(self, scope: Scope, below: str) -> tuple[str, list[str]]:
        """Where the browser is sent, with which cookies. Raises _Refused."""
        found = _PATH.fullmatch(below)
        if below == _LOGOUT:
            if scope["method"] != "POST":
                raise _Refused(405, "Signing out is a POST.", allow="POST")
            return await self._log_out(self._ask(scope, below))
        if found is None or found[1] not in self.desks:
            raise _Refused(404, "There is no such page.")
        desk = self.desks[found[1]]
        allowed = ("GET", "POST") if found[2] == "login" else ("GET",)
        if scope["method"] not in allowed:
            raise _Refused(405, "This is no way to sign in.", allow=", ".join(allowed))
        ask = self._ask(scope, below)
        again = f"{urlsplit(ask.base).path}{PREFIX}{desk.provider.name}/login"
        if found[2] == "login":
            return await self._log_in(desk, ask)
        return await self._back(desk, ask, again)

    # --- the routes

    async def _log_in(self, desk: Desk, ask: _Ask) -> tuple[str, list[str]]:
        adds_to = await self._adding(ask) if ask.method == "POST" else None
        back = f"{ask.base}{PREFIX}{desk.provider.name}/callback"
        try:
            url, pending = await desk.begin(redirect_uri=back, next=self._next(ask), adds_to=adds_to)
        except CallError as error:
            log.warning("sign_in_not_begun", provider=desk.provider.name, reason=_plain(error))
            raise _Refused(503, f"{desk.provider.title} does not answer. Please try again in a moment.") from error
        except ConfigurationError as error:
            log.error("sign_in_not_begun", provider=desk.provider.name, reason=str(error))
            raise _Refused(503, "Signing in is not set up here.") from error
        name = ask.pending + flow.cookie_of(pending.state)
        value = flow.sealed(self.sessions.ring, pending)
        return url, [*self._crowded(ask), cookie(name, value, secure=ask.secure, lasts=flow.LASTS)]

    async def _adding(self, ask: _Ask) -> str | None:
        """The user who adds an account; None where that is not asked for. Another site may not ask for it."""
        _check_own(ask)
        if ask.wanted("add") != "1":
            return None
        session = await self._session(ask)
        if session is None:
            raise _Refused(403, "Sign in first, then add an account.")
        return session.user

    async def _back(self, desk: Desk, ask: _Ask, again: str) -> tuple[str, list[str]]:
        """The callback. Whatever comes of it, the cookie of this sign-in has had its use."""
        provider = desk.provider.name
        try:
            answer = flow.read_answer(ask.query)
        except SignInFailed as error:
            raise _failed(provider, error, again) from error
        end = flow.cookie_of(answer["state"])
        held = [one for name, value in cookies(ask.headers.get("cookie", "")) if name == ask.pending + end
                and (one := flow.opened(self.sessions.ring, end, value)) is not None]  # fmt: skip
        gone = [cookie(ask.pending + end, "", secure=ask.secure, lasts=0)]
        try:
            pending, identity = await self._identified(desk, held[0] if held else None, answer)
            session = await self._begun(ask, pending, identity)
        except SignInFailed as error:
            raise _failed(provider, error, again, *gone) from error
        except (CallError, ConfigurationError) as error:
            log.error("sign_in_not_ended", provider=provider, reason=_plain(error))
            raise _Refused(
                503, f"{desk.provider.title} does not answer. Please sign in again.", *gone, again=again
            ) from error
        log.info("signed_in", provider=provider, user=session.user)
        return pending.next, [*gone, self.sessions.header(session, secure=ask.secure)]

    async def _identified(
        self, desk: Desk, pending: Pending | None, answer: Mapping[str, str]
    ) -> tuple[Pending, Identity]:
        code = await desk.code(pending, answer)
        assert pending is not None  # or it has raised
        now = self.store.clock.wall()
        used = Spend(flow.spent_key(pending.state), pending.begun_at + flow.LASTS, now)
        if not await self.store.write(identities.spend, used):
            raise SignInFailed("the answer was used already")
        identity = await desk.finish(pending, code)
        return pending, replace(identity, adds_to=pending.adds_to)

    async def _begun(self, ask: _Ask, pending: Pending, identity: Identity) -> Session:
        """A session of its own; the one before it ends, whoever's it was."""
        before = await self._session(ask)
        if pending.adds_to is not None and (before is None or before.user != pending.adds_to):
            raise SignInFailed("another user is signed in than the one who adds the account", reason="refused")
        if self.users is not None:
            user = await self.users(identity)
        else:
            user = (await self.store.write(identities.users, Seen(identity, self.store.clock.wall()))).checked().user
        if not user:
            raise SignInFailed("the application does not let this user in", reason="refused")
        if before is not None:
            await self._end(before)
        return self.sessions.new(user, identity.provider)

    async def _log_out(self, ask: _Ask) -> tuple[str, list[str]]:
        _check_own(ask)
        onward = self._next(ask)
        session = await self._session(ask)
        if session is not None:
            await self._end(session)
            log.info("signed_out", user=session.user)
        return onward, [self.sessions.ended(secure=ask.secure)]

    # --- parts

    async def _session(self, ask: _Ask) -> Session | None:
        found = self.sessions.read(ask.headers.get("cookie", ""), secure=ask.secure)
        if found is None or await self.store.read(identities.is_spent, found.spent_key):
            return None
        return found

    async def _end(self, session: Session) -> None:
        spent = Spend(session.spent_key, self.sessions.until(session), self.store.clock.wall())
        await self.store.write(identities.spend, spent)

    def _next(self, ask: _Ask) -> str:
        try:
            wanted = ask.wanted("next")
            return own_path(wanted) if wanted else urlsplit(ask.base).path + "/"
        except (ConfigurationError, ValueError) as error:
            raise _Refused(400, "This link leads elsewhere, and is not followed.") from error

    def _crowded(self, ask: _Ask) -> list[str]:
        """What takes away the oldest sign-ins of a browser that has begun too many, and those that nobody can read."""
        under_way: list[tuple[float, str]] = []
        for name, value in cookies(ask.headers.get("cookie", "")):
            if name.startswith(ask.pending):
                held = flow.opened(self.sessions.ring, name.removeprefix(ask.pending), value)
                under_way.append((0.0 if held is None else held.begun_at, name))
        oldest = sorted(under_way)[: max(len(under_way) - _MOST_AT_ONCE + 1, 0)]
        return [
            cookie(name, "", secure=ask.secure, lasts=0) for _, name in oldest if name.isascii() and name.isprintable()
        ]


def _check_own(ask: _Ask) -> None:
    """Raises _Refused unless a page of this very origin sends the request."""
    site, origin, referer = (ask.headers.get(name) for name in ("sec-fetch-site", "origin", "referer"))
    if site is not None and site != "same-origin":
        raise _Refused(403, "This was asked by another site.")
    if origin is not None:
        if origin != ask.origin:
            raise _Refused(403, "This was asked by another site.")
    elif site is None and (referer is None or not f"{referer}/".startswith(f"{ask.origin}/")):
        raise _Refused(403, "It cannot be told who asks this.")


_WORDS: Final = {
    "denied": (403, "You were not signed in."),
    "expired": (400, "Signing in took too long."),
    "tenant": (403, "This account is not let in here."),
    "refused": (403, "This account is not let in here."),
    "taken": (409, "This account belongs to another user."),
    "sign_in_first": (409, "Please sign in as you did before; then you can add this account."),
}


def _failed(provider: str, error: SignInFailed, again: str, *gone: str) -> _Refused:
    log.warning("sign_in_failed", provider=provider, reason=error.reason, why=str(error), code=error.code)
    status, text = _WORDS.get(error.reason, (400, "This sign-in cannot be completed."))
    return _Refused(status, text, *gone, again=again)


def _plain(error: Exception) -> str:
    """What went wrong, without the words of the provider: they may repeat what we sent."""
    if isinstance(error, CallError):
        return f"{type(error).__name__}{f' ({error.status})' if error.status else ''}"
    return str(error)


async def _send_page(send: Send, refused: _Refused) -> None:
    link = f'<p><a href="{escape(refused.again)}">Sign in again</a></p>' if refused.again else ""
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Sign in</title>'
        f"<p>{escape(refused.text)}</p>{link}</html>"
    )
    more = ((b"allow", refused.allow.encode()),) if refused.allow else ()
    if refused.status == 503:
        more = ((b"retry-after", b"5"),)
    await _send(
        send, refused.status, page.encode(), refused.cookies, ((b"content-type", b"text/html; charset=utf-8"), *more)
    )


async def _send(send: Send, status: int, body: bytes, kept: Any, more: tuple[tuple[bytes, bytes], ...]) -> None:
    headers = [*_HEADERS, *more, (b"content-length", str(len(body)).encode())]
    headers += [(b"set-cookie", one.encode("latin-1")) for one in kept]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
