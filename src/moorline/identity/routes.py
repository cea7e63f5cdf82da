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
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Final
from urllib.parse import urlsplit

from moorline.errors import CallError, ConfigurationError, SignInFailed
from moorline.identity import flow, identities, pending
from moorline.identity.answering import AWAY, Receive, Scope, Send, redirect, send_away, send_refusal
from moorline.identity.asking import Ask, Origin, Refused, ask_of, check_own
from moorline.identity.desk import Desk
from moorline.identity.flow import Pending
from moorline.identity.identities import Seen, Spend
from moorline.identity.own_paths import own_path
from moorline.identity.provider import Identity
from moorline.identity.sessions import Session, Sessions
from moorline.store.store import Store
from moorline.telemetry import logger

__all__ = ["PREFIX", "SignInRoutes", "plain", "spend"]

PREFIX: Final = "/auth/"
_PATH: Final = re.compile(r"/auth/([a-z][a-z0-9_-]{0,63})/(login|callback)")
_LOGOUT: Final = "/auth/logout"
_TITLE, _AGAIN = "Sign in", "Sign in again"
log = logger("identity")


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
        except Refused as refused:
            await send_refusal(send, refused, _TITLE, _AGAIN)
        except AWAY as error:
            log.error("sign_in_not_stored", reason=str(error))
            await send_away(send, _TITLE, _AGAIN)
        else:
            await redirect(send, location, kept)

    async def session(self, scope: Scope) -> Session | None:
        """Who is signed in, of a request to any path. Raises StoreError."""
        if scope["type"] != "http" and scope["type"] != "websocket":
            return None
        try:
            ask = ask_of(self.origin, scope, "")
        except Refused:
            return None
        return await self._session(ask)

    async def renewed(self, scope: Scope) -> tuple[Session | None, Callable[[], str] | None]:
        """As ``session``, and what makes the ``Set-Cookie`` that keeps it alive, None while none is due. So it is no
        variable of whoever serves the request, which a report of an error might show.
        """
        try:
            ask = ask_of(self.origin, scope, "")
        except Refused:
            return None, None
        session = await self._session(ask)
        again = None if session is None else self.sessions.renewed(session)
        if again is None:
            return session, None
        if not self.sessions.in_cookies:
            self.sessions.hold(ask, again)
            return session, None
        return session, lambda: self.sessions.header(again, secure=ask.secure)

    async def not_told(self, scope: Scope, send: Send, error: Exception) -> None:
        """The answer to a request to any path while nobody can tell who is signed in, by that *error*."""
        log.error("session_not_read", reason=str(error))
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1013})  # try again later; not accepted yet, it is a 403
        else:
            await send_away(send, _TITLE, _AGAIN)

    async def _answered(self, scope: Scope, below: str) -> tuple[str, list[str]]:
        """Where the browser is sent, with which cookies. Raises Refused."""
        found = _PATH.fullmatch(below)
        if below == _LOGOUT:
            if scope["method"] != "POST":
                raise Refused(405, "Signing out is a POST.", allow="POST")
            return await self._log_out(ask_of(self.origin, scope, below))
        if found is None or found[1] not in self.desks:
            raise Refused(404, "There is no such page.")
        desk = self.desks[found[1]]
        allowed = ("GET", "POST") if found[2] == "login" else ("GET",)
        if scope["method"] not in allowed:
            raise Refused(405, "This is no way to sign in.", allow=", ".join(allowed))
        ask = ask_of(self.origin, scope, below)
        again = f"{urlsplit(ask.base).path}{PREFIX}{desk.provider.name}/login"
        if found[2] == "login":
            return await self._log_in(desk, ask)
        return await self._back(desk, ask, again)

    # --- the routes

    async def _log_in(self, desk: Desk, ask: Ask) -> tuple[str, list[str]]:
        adds_to = await self._adding(ask) if ask.method == "POST" else None
        back = f"{ask.base}{PREFIX}{desk.provider.name}/callback"
        try:
            url, begun = await desk.begin(redirect_uri=back, next=self._next(ask), adds_to=adds_to)
        except CallError as error:
            log.warning("sign_in_not_begun", provider=desk.provider.name, reason=plain(error))
            raise Refused(503, f"{desk.provider.title} does not answer. Please try again in a moment.") from error
        except ConfigurationError as error:
            log.error("sign_in_not_begun", provider=desk.provider.name, reason=str(error))
            raise Refused(503, "Signing in is not set up here.") from error
        return url, pending.begun(ask, self.sessions.ring, begun)

    async def _adding(self, ask: Ask) -> str | None:
        """The user who adds an account; None where that is not asked for. Another site may not ask for it."""
        check_own(ask)
        if ask.wanted("add") != "1":
            return None
        session = await self._session(ask)
        if session is None:
            raise Refused(403, "Sign in first, then add an account.")
        return session.user

    async def _back(self, desk: Desk, ask: Ask, again: str) -> tuple[str, list[str]]:
        """The callback. Whatever comes of it, the cookie of this sign-in has had its use."""
        provider = desk.provider.name
        try:
            answer = flow.read_answer(ask.query)
        except SignInFailed as error:
            raise _failed(provider, error, again) from error
        gone = [pending.ended(ask, answer["state"])]
        try:
            begun = pending.held(ask, self.sessions.ring, answer["state"])
            begun, identity = await self._identified(desk, begun, answer)
            session = await self._begun(ask, begun, identity)
        except SignInFailed as error:
            raise _failed(provider, error, again, *gone) from error
        except (CallError, ConfigurationError) as error:
            log.error("sign_in_not_ended", provider=provider, reason=plain(error))
            raise Refused(
                503, f"{desk.provider.title} does not answer. Please sign in again.", *gone, again=again
            ) from error
        log.info("signed_in", provider=provider, user=session.user)
        return begun.next, [*gone, *self.sessions.hold(ask, session, begins=True)]

    async def _identified(
        self, desk: Desk, begun: Pending | None, answer: Mapping[str, str]
    ) -> tuple[Pending, Identity]:
        code = await desk.code(begun, answer)
        assert begun is not None  # or it has raised
        if begun.owner is not None:
            raise SignInFailed("it is no sign-in that was begun")
        await spend(self.store, begun)
        identity = await desk.finish(begun, code)
        return begun, replace(identity, adds_to=begun.adds_to)

    async def _begun(self, ask: Ask, begun: Pending, identity: Identity) -> Session:
        """A session of its own; the one before it ends, whoever's it was."""
        before = await self._session(ask)
        if begun.adds_to is not None and (before is None or before.user != begun.adds_to):
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

    async def _log_out(self, ask: Ask) -> tuple[str, list[str]]:
        check_own(ask)
        onward = self._next(ask)
        session = await self._session(ask)
        if session is not None:
            await self._end(session)
            log.info("signed_out", user=session.user)
        return onward, self.sessions.let_go(ask)

    # --- parts

    async def _session(self, ask: Ask) -> Session | None:
        found = self.sessions.held(ask)
        if found is None or await self.store.read(identities.is_ended, found):
            return None
        return found

    async def _end(self, session: Session) -> None:
        spent = Spend(session.spent_key, self.sessions.until(session), self.store.clock.wall())
        await self.store.write(identities.spend, spent)

    def _next(self, ask: Ask) -> str:
        try:
            wanted = ask.wanted("next")
            return own_path(wanted) if wanted else urlsplit(ask.base).path + "/"
        except (ConfigurationError, ValueError) as error:
            raise Refused(400, "This link leads elsewhere, and is not followed.") from error


async def spend(store: Store, begun: Pending) -> None:
    """Note that its answer has come. Raises SignInFailed where one had come before."""
    used = Spend(flow.spent_key(begun.state), begun.begun_at + flow.LASTS, store.clock.wall())
    if not await store.write(identities.spend, used):
        raise SignInFailed("the answer was used already")


_WORDS: Final = {
    "denied": (403, "You were not signed in."),
    "expired": (400, "Signing in took too long."),
    "tenant": (403, "This account is not let in here."),
    "refused": (403, "This account is not let in here."),
    "taken": (409, "This account belongs to another user."),
    "sign_in_first": (409, "Please sign in as you did before; then you can add this account."),
}


def _failed(provider: str, error: SignInFailed, again: str, *gone: str) -> Refused:
    log.warning("sign_in_failed", provider=provider, reason=error.reason, why=str(error), code=error.code)
    status, text = _WORDS.get(error.reason, (400, "This sign-in cannot be completed."))
    return Refused(status, text, *gone, again=again)


def plain(error: Exception) -> str:
    """What went wrong, without the words of the provider: they may repeat what we sent."""
    if isinstance(error, CallError):
        return f"{type(error).__name__}{f' ({error.status})' if error.status else ''}"
    return str(error)
