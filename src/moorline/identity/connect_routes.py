"""``ConnectRoutes``: connecting and disconnecting accounts, as a plain ASGI application.

``GET /auth/connections``            what the owner has connected, and may connect
``GET /auth/{service}/connect``      the same for one service; ``?scopes=…&account=…&next=/path``
``POST /auth/{service}/connect``     to the service, for consent; takes the same in its query or its form
``GET /auth/{service}/callback``     back from it: the tokens are stored
``POST /auth/{service}/disconnect``  the connection ``id`` is taken back

What changes something is a POST of this application's own pages: see :func:`.asking.check_own`. Whose accounts they are
is asked with each request, the callback included.
"""

from __future__ import annotations

import asyncio
import hmac
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from moorline.errors import CallError, ConfigurationError, SignInFailed
from moorline.identity import flow, pending
from moorline.identity.answering import AWAY, Receive, Scope, Send, redirect, send_away, send_page, send_refusal
from moorline.identity.asking import Ask, Origin, Refused, ask_of, check_own
from moorline.identity.connect_page import Account, Offer, page, policy
from moorline.identity.flow import Pending, Wish
from moorline.identity.own_paths import own_path
from moorline.identity.routes import PREFIX, plain, spend
from moorline.identity.scopes import checked
from moorline.store.steps import perform
from moorline.telemetry import logger

if TYPE_CHECKING:
    from moorline.identity.connection import Connection
    from moorline.identity.connections import Connections
    from moorline.identity.connector import ConnectDesk
    from moorline.identity.desk import Desk
    from moorline.identity.routes import SignInRoutes

__all__ = ["ConnectRoutes"]

_ALL: Final = "/auth/connections"
_PATH: Final = re.compile(r"/auth/([a-z][a-z0-9_-]{0,63})/(connect|disconnect|callback)")
_METHODS: Final = {"connect": ("GET", "POST"), "disconnect": ("POST",), "callback": ("GET",)}
_TITLE, _AGAIN = "Connected accounts", "Try again"
_LONGEST_FORM: Final = 20_000
_FORM_SECONDS: Final = 10.0
_AT_ONCE: Final = 100  # connections that are read from the database
_FORM: Final = "application/x-www-form-urlencoded"

log = logger("identity")


@dataclass(frozen=True, slots=True)
class _Answer:
    """On to *location*, or else *page* by *policy*."""

    location: str = ""
    cookies: tuple[str, ...] = ()
    page: str = ""
    policy: str = ""


class ConnectRoutes:
    """Connects accounts of owners: *owner* tells whose a request is, None where it is nobody's, who may sign in with
    one of *logins* then. *desk* gives the one that asks a service, for each name among *names*.
    """

    def __init__(
        self,
        connections: Connections,
        desk: Callable[[str], ConnectDesk],
        names: Mapping[str, object],
        origin: Origin,
        owner: Callable[[Scope], Awaitable[str | None]],
        logins: Callable[[], Mapping[str, Desk]] = dict,
    ) -> None:
        self.connections = connections
        self._desk = desk
        self._names = names
        self._origin = origin
        self._owner = owner
        self._logins = logins
        self._vault = connections.vault

    def __repr__(self) -> str:
        return f"<ConnectRoutes of {', '.join(self._names)}>"

    def serves(self, scope: Scope, path: str, signing: SignInRoutes | None = None) -> bool:
        """Whether the request, to that path below the mount, is for these. A callback may be of a sign-in with a
        provider of the same name: what the browser has begun tells.
        """
        found = _PATH.fullmatch(path)
        if found is None or found[1] not in self._names:
            return path == _ALL
        if found[2] != "callback" or signing is None or not signing.serves(path):
            return True
        try:
            ask = ask_of(self._origin, scope, path)
            begun = pending.held(ask, self._vault.ring, flow.read_answer(ask.query)["state"])
        except (Refused, SignInFailed):
            return False
        return begun is not None and begun.owner is not None

    async def __call__(self, scope: Scope, receive: Receive, send: Send, path: str | None = None) -> None:
        """The ASGI entry; *path* is that below the mount."""
        below = scope["path"] if path is None else path
        try:
            answer = await self._answered(scope, receive, below)
        except Refused as refused:
            await send_refusal(send, refused, _TITLE, _AGAIN)
        except AWAY as error:
            log.error("connections_not_served", reason=str(error))
            await send_away(send, _TITLE, _AGAIN)
        else:
            if answer.location:
                await redirect(send, answer.location, answer.cookies)
            else:
                await send_page(send, 200, answer.page, answer.cookies, policy=answer.policy)

    async def _answered(self, scope: Scope, receive: Receive, below: str) -> _Answer:
        """Raises Refused."""
        found = _PATH.fullmatch(below)
        allowed = ("GET",) if below == _ALL else _METHODS[found[2]] if found else ()
        if not allowed or (found is not None and found[1] not in self._names):
            raise Refused(404, "There is no such page.")
        if scope["method"] not in allowed:
            raise Refused(405, "This is no way to connect an account.", allow=", ".join(allowed))
        ask = ask_of(self._origin, scope, below)
        if ask.method == "POST":
            check_own(ask)
        owner = await self._owned(ask, scope, below)
        if found is None:
            return await self._page(ask, owner)
        desk, what = self._named(found[1]), found[2]
        if what == "callback":
            return await self._back(desk, ask, owner)
        given = await _given(ask, receive)
        if what == "disconnect":
            return await self._disconnect(desk, ask, owner, given)
        if ask.method == "GET":
            return await self._one(desk, ask, owner, given)
        return await self._begin(desk, ask, owner, given)

    async def _owned(self, ask: Ask, scope: Scope, below: str) -> str:
        try:
            owner = await self._owner(scope)
        except ConfigurationError as error:
            log.error("owner_not_told", reason=str(error))
            owner = None
        if owner is None:
            mount = urlsplit(ask.base).path
            wanted = f"{mount}{below}?{ask.query}" if ask.method == "GET" and below.endswith("/connect") else ""
            next_ = quote(_own(wanted.rstrip("?")) or f"{mount}{_ALL}", safe="")
            links = [
                (f"{mount}{PREFIX}{name}/login?next={next_}", f"Sign in with {desk.provider.title}")
                for name, desk in self._logins().items()
            ]
            raise Refused(403, "Please sign in first.", links=links)
        return owner

    def _named(self, name: str) -> ConnectDesk:
        try:
            return self._desk(name)
        except ConfigurationError as error:
            log.error("connection_not_begun", service=name, reason=str(error))
            raise Refused(503, "Connecting is not set up here.") from error

    # --- the pages

    async def _page(self, ask: Ask, owner: str) -> _Answer:
        rows = await self._rows(owner)
        desks = [self._named(name) for name in self._names]
        offers = [self._offer(desk, ask, rows) for desk in desks]
        return _Answer(page=page(offers), policy=_policy(desks))

    async def _one(self, desk: ConnectDesk, ask: Ask, owner: str, given: Mapping[str, str]) -> _Answer:
        account, next_ = given.get("account", ""), _next(given, "")
        rows = await self._rows(owner, desk.provider.name)
        asked = self._asked(desk, rows, given)
        offer = replace(self._offer(desk, ask, rows), asks=asked, account=account, next=next_, alone=True)
        return _Answer(page=page([offer]), policy=_policy([desk]))

    async def _rows(self, owner: str, service: str | None = None) -> list[Connection]:
        """All of them, however many there are."""
        found: list[Connection] = []
        while True:
            before = found[-1].id if found else None
            more = await self.connections.list(owner, service, before=before, limit=_AT_ONCE)
            found += more
            if len(more) < _AT_ONCE:
                return found

    def _offer(self, desk: ConnectDesk, ask: Ask, rows: list[Connection]) -> Offer:
        accounts = [_account(desk, row) for row in rows if row.service == desk.provider.name]
        return Offer(desk.provider.title, f"{urlsplit(ask.base).path}{PREFIX}{desk.provider.name}", accounts)

    # --- what changes something

    async def _begin(self, desk: ConnectDesk, ask: Ask, owner: str, given: Mapping[str, str]) -> _Answer:
        name, next_ = desk.provider.name, _next(given, f"{urlsplit(ask.base).path}{_ALL}")
        rows = await self._rows(owner, name)
        wish = Wish(owner, self._asked(desk, rows, given), given.get("account", ""))
        back = f"{ask.base}{PREFIX}{name}/callback"
        try:
            url, begun = await desk.begin(redirect_uri=back, next=next_, wish=wish)
        except (CallError, ConfigurationError) as error:
            log.error("connection_not_begun", service=name, reason=plain(error))
            raise Refused(503, "Connecting is not set up here.") from error
        return _Answer(url, tuple(pending.begun(ask, self._vault.ring, begun)))

    def _asked(self, desk: ConnectDesk, rows: list[Connection], given: Mapping[str, str]) -> tuple[str, ...]:
        """What to ask for: what is needed, beside what that account has granted before. Raises Refused."""
        try:
            more = checked(given.get("scopes", ""))
        except ConfigurationError as error:
            raise Refused(400, "These are no scopes.") from error
        wanted = [row for row in rows if row.account == given["account"]] if given.get("account") else rows
        known = wanted[0].scopes if len(wanted) == 1 and given.get("new") != "1" else frozenset()
        return desk.oauth.asking(known, more | frozenset(desk.provider.wanted))

    async def _back(self, desk: ConnectDesk, ask: Ask, owner: str) -> _Answer:
        """The callback. Whatever comes of it, the cookie of it has had its use."""
        name = desk.provider.name
        try:
            answer = flow.read_answer(ask.query)
        except SignInFailed as error:
            raise _failed(desk, ask, None, error) from error
        gone = pending.ended(ask, answer["state"])
        begun = pending.held(ask, self._vault.ring, answer["state"])
        try:
            row = await self._connected(desk, begun, answer, owner)
        except SignInFailed as error:
            raise _failed(desk, ask, begun, error, gone) from error
        except (CallError, ConfigurationError) as error:
            log.error("connection_not_ended", service=name, reason=plain(error))
            text = f"{desk.provider.title} does not answer as it should. Please try again."
            raise Refused(503, text, gone, again=_again(desk, ask, begun)) from error
        assert begun is not None  # or it has raised
        missing = desk.oauth.missing(row.scopes, begun.scopes.split())
        if missing:
            log.warning("scopes_not_granted", service=name, connection=row.id, missing=sorted(missing))
        log.info("connected", service=name, connection=row.id)
        return _Answer(begun.next, (gone,))

    async def _connected(
        self, desk: ConnectDesk, begun: Pending | None, answer: Mapping[str, str], owner: str
    ) -> Connection:
        """Raises SignInFailed, CallError, ConfigurationError, StoreError."""
        if begun is not None and not _same(begun.owner, owner):
            raise SignInFailed("it was begun for another owner", reason="refused")
        code = await desk.code(begun, answer)
        assert begun is not None  # or it has raised
        await spend(self._vault.store, begun)
        received = await desk.connected(begun, code)
        granted = received.granted
        if granted.scopes is None:  # all that was asked for (RFC 6749, section 5.1)
            granted = replace(granted, scopes=frozenset(begun.scopes.split()))
        return await self._vault.keep(owner, desk.provider.name, granted, account=received.account)

    async def _disconnect(self, desk: ConnectDesk, ask: Ask, owner: str, given: Mapping[str, str]) -> _Answer:
        onward = _next(given, f"{urlsplit(ask.base).path}{_ALL}")
        for _ in range(3):  # it may change while the service is told
            row = await self.connections.find(given.get("id", ""))
            mine = row is not None and (row.owner, row.service) == (owner, desk.provider.name)
            if row is None or not mine or row.state == "revoking":
                raise Refused(404, "There is no such connection.")
            if await perform(self._vault.store, self.connections.revoked(row)) is not None:
                return _Answer(onward)
        raise Refused(503, "Please try again in a moment.")


_WORDS: Final = {
    "denied": (403, "{} was not connected: access was refused."),
    "expired": (400, "Connecting {} took too long."),
    "refused": (403, "This was begun by somebody else, and is not completed."),
}


def _failed(desk: ConnectDesk, ask: Ask, begun: Pending | None, error: SignInFailed, *gone: str) -> Refused:
    service = desk.provider.name
    log.warning("connecting_failed", service=service, reason=error.reason, why=str(error), code=error.code)
    status, text = _WORDS.get(error.reason, (400, "{} was not connected: this answer cannot be used."))
    return Refused(status, text.format(desk.provider.title), *gone, again=_again(desk, ask, begun))


def _again(desk: ConnectDesk, ask: Ask, begun: Pending | None) -> str:
    """Where it can be tried again, with what was wanted."""
    at = f"{urlsplit(ask.base).path}{PREFIX}{desk.provider.name}/connect"
    if begun is None:
        return at
    given = {"scopes": begun.scopes, "account": begun.account, "next": begun.next}
    query = urlencode({name: value for name, value in given.items() if value}, quote_via=quote)
    return f"{at}?{query}" if query else at


def _account(desk: ConnectDesk, row: Connection) -> Account:
    oauth = desk.oauth
    missing = sorted(oauth.missing(row.scopes, {*oauth.scopes, *desk.provider.wanted}))
    return Account(row.id, row.account, row.state, row.reason or "", sorted(row.scopes), missing)


def _policy(desks: list[ConnectDesk]) -> str:
    return policy(desk.provider.places.authorize for desk in desks)


def _same(one: str | None, other: str) -> bool:
    return one is not None and hmac.compare_digest(one.encode("utf-8", "surrogatepass"), other.encode())


def _own(path: str) -> str:
    try:
        return own_path(path)
    except ConfigurationError:
        return ""


def _next(given: Mapping[str, str], usual: str) -> str:
    wanted = given.get("next", "")
    try:
        return own_path(wanted) if wanted else usual
    except (ConfigurationError, ValueError) as error:
        raise Refused(400, "This link leads elsewhere, and is not followed.") from error


async def _given(ask: Ask, receive: Receive) -> dict[str, str]:
    """The parameters of the query, and of the form that was sent, each there once. Raises Refused."""
    texts = [ask.query]
    if ask.method == "POST" and ask.headers.get("content-type", "").partition(";")[0].strip().lower() == _FORM:
        texts.append(await _form(receive))
    try:
        lists = [parse_qsl(text, keep_blank_values=True, max_num_fields=50, errors="strict") for text in texts]
    except (ValueError, UnicodeError):
        raise Refused(400, "This form cannot be read.") from None
    found = {name: value for pairs in lists for name, value in pairs}
    if len(found) != sum(map(len, lists)):
        raise Refused(400, "This form cannot be read.")
    return found


async def _form(receive: Receive) -> str:
    body = b""
    try:
        async with asyncio.timeout(_FORM_SECONDS):
            more = True
            while more:
                message: Any = await receive()
                if message["type"] == "http.disconnect":
                    raise Refused(400, "This form cannot be read.")
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > _LONGEST_FORM:
                    raise Refused(413, "This form is too long.")
    except TimeoutError:
        raise Refused(408, "This form took too long.") from None
    return body.decode("latin-1")
