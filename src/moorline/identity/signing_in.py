"""The part of an application that signs users in: which providers, whose they are, who is signed in."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from moorline.clock import Clock
from moorline.errors import ConfigurationError, SignInFailed
from moorline.secrets.locker import secrets

if TYPE_CHECKING:
    from moorline.identity.answering import Receive, Scope, Send
    from moorline.identity.provider import Identity, Provider
    from moorline.identity.routes import SignInRoutes
    from moorline.identity.sessions import Session
    from moorline.secrets.keyring import KeyRing
    from moorline.store.store import Store

__all__ = ["SESSION", "SigningIn"]

SESSION: Final = "moorline.session"
"""Where ``signed_in`` puts the Session into the scope."""

F = TypeVar("F", bound=Callable[..., Any])


class SigningIn:
    """The part of ``Moorline`` that signs users in."""

    store: Store
    clock: Clock
    receiver: Any
    _signing: SignInRoutes | None = None
    _user_of: Callable[[Identity], Any] | None = None

    if TYPE_CHECKING:

        async def open(self) -> Self:
            """The application's own."""
            ...

    def sign_in(
        self,
        *providers: Provider | type[Provider],
        keys: KeyRing | None = None,
        idle: float = 86_400.0,
        longest: float = 1_209_600.0,
        host_session: Callable[[Any], Any] | None = None,
        **options: Any,
    ) -> None:
        """Let users sign in: ``app.sign_in(Google, GitHub, OpenID("okta", issuer="https://…"))``.

        That opens ``/auth/{provider}/login``, ``/auth/{provider}/callback`` and ``POST /auth/logout``. *keys* encrypt
        the cookies (by default those in ``MOORLINE_ENCRYPTION_KEY``); a session lasts *idle* seconds without a request,
        and *longest* at all. With *host_session* the host application's own session holds it instead of a cookie of
        ours: ``lambda scope: scope["session"]`` where Starlette's ``SessionMiddleware`` is around it. *options* are
        those of a Service (``guards``, ``wire``, ``policy``) for the requests to the providers. The public address is
        that of ``[webhooks]``: ``public_url``, or ``trusted_proxies``.

        Raises ConfigurationError: no provider, one twice, no client id or secret, no key; KeyUnavailable while a key
        cannot be unwrapped.
        """
        from moorline.identity.desk import Desk
        from moorline.identity.provider import Provider
        from moorline.identity.routes import SignInRoutes
        from moorline.identity.sessions import Sessions
        from moorline.secrets.rings import encryption_ring

        desks: dict[str, Desk] = {}
        for one in providers:
            kind: Any = one  # a ready one needs no arguments
            made: Any = kind() if isinstance(one, type) else one
            if not isinstance(made, Provider):
                raise ConfigurationError(f"sign_in: {one!r} is no provider")
            if made.name in desks:
                raise ConfigurationError(f"sign_in: {made.name} is there twice")
            made.client()
            if made.authentication != "none" and not secrets().configured:  # else it is loaded when the app opens
                made.secret()
            desks[made.name] = Desk(made, clock=self.clock, **options)
        if not desks:
            raise ConfigurationError("sign_in: which providers?")
        sessions = Sessions(keys or encryption_ring(), self.clock, idle=idle, longest=longest, host=host_session)
        users = None if self._user_of is None else self._user
        self._signing = SignInRoutes(desks, sessions, self.store, self.receiver.intake.origin, users)

    def on_sign_in(self, function: F) -> F:
        """Ask the function, async or plain (in a thread), for the user's id with each Identity that has signed in: it
        finds the user, or makes one. None refuses. Without it the table ``identities`` keeps who is who.

        Where ``identity.adds_to`` is set, the user of that id is signed in and adds this account. Never find a user by
        an e-mail address that is not ``email_proved``.
        """
        self._user_of = function
        if self._signing is not None:
            self._signing.users = self._user
        return function

    async def session(self, request: Any) -> Session | None:
        """Who is signed in, of an ASGI scope, or of a request of Starlette's, FastAPI's or Litestar's that has one.

        Raises StoreError, and ConfigurationError without ``sign_in``.
        """
        scope = request if isinstance(request, MutableMapping) else request.scope
        if SESSION in scope:
            found: Session | None = scope[SESSION]
            return found
        routes = self._routes()
        if not self.store.is_open:
            await self.open()
        return await routes.session(scope)

    async def end_sessions(self, user: str | int) -> None:
        """Sign a user out everywhere: in each browser they have to sign in again. For a device that was lost, an
        account that was taken over, a user who may not come back. Raises StoreError.
        """
        from moorline.identity import identities

        if not self.store.is_open:
            await self.open()
        await self.store.write(identities.end_all, identities.Ending(str(user), self.clock.wall()))

    def end_sessions_sync(self, user: str | int) -> None:
        """As ``end_sessions``, blocking, in an application that is open."""
        from moorline.identity import identities

        self.store.write_sync(identities.end_all, identities.Ending(str(user), self.clock.wall()))

    def signed_in(self, inner: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        """An ASGI application around *inner*: the session is in its scope, as ``moorline.session`` (None: nobody is
        signed in), and its cookie is renewed while it is used; an answer that renews it is kept by no cache, whatever
        *inner* says. While the database does not answer, nobody can tell whether a session has ended: whoever has one
        gets a 503, which says when to come again. Raises ConfigurationError without ``sign_in``.
        """
        from moorline.identity.answering import AWAY
        from moorline.identity.sessions import with_session

        routes = self._routes()

        async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] not in ("http", "websocket"):
                await inner(scope, receive, send)
                return
            try:
                if not self.store.is_open:
                    await self.open()
                session, renewed = await routes.renewed(scope)
            except AWAY as error:
                await routes.not_told(scope, send, error)
                return

            async def sending(message: MutableMapping[str, Any]) -> None:
                if renewed is not None and message["type"] == "http.response.start":
                    message = {**message, "headers": with_session(message.get("headers", ()), renewed())}
                await send(message)

            await inner({**scope, SESSION: session}, receive, sending)

        return wrapped

    async def _close_sign_in(self) -> None:
        if self._signing is not None:
            for desk in self._signing.desks.values():
                await desk.aclose()

    def _routes(self) -> SignInRoutes:
        if self._signing is None:
            raise ConfigurationError("nobody can sign in here: call app.sign_in(Google, …), or set [sign_in] providers")
        return self._signing

    async def _user(self, identity: Identity) -> str | None:
        assert self._user_of is not None
        # A plain one may wait for a database; this loop has others to serve.
        plain = not inspect.iscoroutinefunction(self._user_of)
        found = await asyncio.to_thread(self._user_of, identity) if plain else self._user_of(identity)
        if inspect.isawaitable(found):
            found = await found
        if found is None or found == "":
            return None
        if isinstance(found, bool) or not isinstance(found, (str, int)):
            raise SignInFailed("on_sign_in gave no id of a user", reason="refused")
        return str(found)

    def _sign_in_by_settings(self, providers: Sequence[str], issuers: dict[str, str], **options: Any) -> None:
        """As ``sign_in``, by the names of providers, and the issuers of those that are known by discovery."""
        from moorline.identity.provider import OpenID
        from moorline.identity.ready import GitHub, Google, Microsoft

        ready: dict[str, Any] = {"google": Google, "github": GitHub, "microsoft": Microsoft}
        chosen: list[Provider] = []
        for name in providers:
            if name in issuers:
                chosen.append(OpenID(name, issuer=issuers[name]))
            elif name in ready:
                chosen.append(ready[name]())
            else:
                known = ", ".join(ready)
                raise ConfigurationError(f"sign_in.providers: {name!r} is none of {known}, and has no sign_in.issuers")
        self.sign_in(*chosen, **options)
