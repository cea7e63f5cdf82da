"""A request to sign in or out: by which address this application was asked, from where, and with what."""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol
from urllib.parse import parse_qs, urlsplit

from moorline.calls.dialects import LOOPBACK
from moorline.errors import ConfigurationError
from moorline.identity.own_paths import own_path
from moorline.telemetry import logger

__all__ = ["Ask", "Origin", "Refused", "ask_of", "check_own"]

_LONGEST_QUERY: Final = 16_384
_PENDING: Final = "moorline-sign-in-"
_NETLOC: Final = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")

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
class Ask:
    """A request: the address of the application as the browser sees it, with the mount, and what it sent, of which its
    repr shows nothing: codes and sessions are in there.
    """

    method: str
    base: str
    query: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    scope: MutableMapping[str, Any] = field(repr=False)

    @property
    def secure(self) -> bool:
        """Whether the browser sees it by https."""
        return self.base.lower().startswith("https:")

    @property
    def origin(self) -> str:
        """The application's own, as the header of that name has it."""
        parts = urlsplit(self.base.lower())  # as browsers write it: without the usual port
        return f"{parts.scheme}://{parts.netloc.removesuffix(':443' if self.secure else ':80')}"

    def wanted(self, name: str) -> str:
        """A parameter of the query, there at most once. Raises Refused."""
        try:
            found = parse_qs(self.query, keep_blank_values=True, max_num_fields=50).get(name, [""])
        except ValueError:  # there are more
            raise Refused(400, "This address cannot be read.") from None
        if len(found) > 1:
            raise Refused(400, "This address cannot be read.")
        return found[0]

    @property
    def pending(self) -> str:
        """What the names of the cookies of sign-ins begin with."""
        return f"__Host-{_PENDING}" if self.secure else _PENDING


class Refused(Exception):
    """The answer is this page: *cookies* go with it, *again* is where it can be tried again, *links* lead elsewhere."""

    def __init__(
        self,
        status: int,
        text: str,
        *cookies: str,
        allow: str = "",
        again: str = "",
        links: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__(text)
        self.links = links
        self.status = status
        self.text = text
        self.cookies = cookies
        self.allow = allow
        self.again = again


def ask_of(origin: Origin, scope: MutableMapping[str, Any], below: str) -> Ask:
    """The request, to the path *below* the mount.

    Raises Refused where nobody knows the address of this application: a Host header may be anybody's.
    """
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
    mount = mount or root  # some frameworks give the path without the mount's
    told: str = scope.get("scheme", "http")
    scheme = {"ws": "http", "wss": "https"}.get(told, told)
    base = origin.url(scheme, host, mount.rstrip("/"), "", headers=headers, client=peer)
    try:
        parts = urlsplit(base)
        local = LOOPBACK.fullmatch(parts.hostname or "") is not None
    except ValueError:
        raise Refused(400, "This address cannot be read.") from None
    if origin.public_url is None and not origin.trusts(peer) and not local:
        log.error("sign_in_without_public_url", hint="set webhooks.public_url or webhooks.trusted_proxies")
        raise Refused(503, "Signing in is not set up for this address.")
    if parts.scheme.lower() != "https" and not local:
        log.error("sign_in_without_https", hint="the public address has to be https")
        raise Refused(503, "Signing in is not set up for this address.")
    if not _NETLOC.fullmatch(parts.netloc) or not _is_path(parts.path):
        raise Refused(400, "This address cannot be read.")
    query = scope.get("query_string", b"").decode("latin-1")
    if len(query) > _LONGEST_QUERY:
        raise Refused(414, "This address is too long.")
    return Ask(scope.get("method", "GET"), base, query, headers, scope)


def _is_path(text: str) -> bool:
    """Whether a mount is a path of this host: a proxy may pass on what a stranger calls it."""
    try:
        return not text or bool(own_path(text))
    except ConfigurationError:
        return False


def check_own(ask: Ask) -> None:
    """Raises Refused unless a page of this very origin sends the request. A page that says ``no-referrer`` sends the
    origin ``null``, which then tells nothing; what a browser says in ``Sec-Fetch-Site`` no page can change.
    """
    site, origin, referer = (ask.headers.get(name) for name in ("sec-fetch-site", "origin", "referer"))
    if site is not None:
        own = site == "same-origin" and origin in (None, "null", ask.origin)
    elif origin is not None:
        own = origin == ask.origin
    else:
        own = referer is not None and f"{referer}/".startswith(f"{ask.origin}/")
    if not own:
        raise Refused(403, "This was asked by another site, or it cannot be told by whom.")
