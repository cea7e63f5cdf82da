"""Questions of a sender that are no events: it asks whether this address is ours, and wants a certain answer.

A handshake is a record among a scheme's ``handshakes``. ``opening`` is asked before the body is read, for questions in
the address (Meta, X, Microsoft Graph); ``asked`` after the signature was checked, for those in the body (Slack, Zoom,
SNS). Each gives the Reply, or None when the delivery is no such question; ``asked`` may give a ``Confirm`` instead: an
address that must be called before the answer.
"""

from __future__ import annotations

import hmac
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from moorline.errors import UnusableEvent
from moorline.events.body import fields
from moorline.events.certificates import suitable
from moorline.events.delivery import Delivery, Reply
from moorline.events.signatures import Encoding, Key, accepted, encoded

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["BodyConfirm", "BodyEcho", "Confirm", "Handshake", "QueryDigest", "QueryEcho"]

_LONGEST = 4096  # characters of what is echoed
_TOKEN = re.compile(r"[A-Za-z0-9_+/=.-]{1,128}")
_PLAIN = "text/plain; charset=utf-8"
_SAFE = (("x-content-type-options", "nosniff"),)


@dataclass(frozen=True, slots=True)
class Confirm:
    """Call ``url`` by GET, and answer ``reply`` when that went well."""

    url: str
    reply: Reply


@dataclass(frozen=True, slots=True, kw_only=True)
class Handshake:
    """The base: neither question. ``env`` names a variable with a secret of the handshake's own, if it has one."""

    env: str = ""

    def opening(self, query: str, method: str, secrets: Sequence[Key]) -> Reply | None:  # noqa: ARG002
        """The answer to a question in the address; ``secrets`` are the handshake's own, or the scheme's."""
        return None

    def asked(self, delivery: Delivery, secrets: Sequence[Key]) -> Reply | Confirm | None:  # noqa: ARG002
        """The answer to a question in a delivery whose signature was checked."""
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryEcho(Handshake):
    """Echo the parameter ``echo`` as plain text; if ``token`` is named, only to who shows the secret there.

    ``where`` are parameters that must have those values.
    """

    echo: str
    token: str = ""
    where: tuple[tuple[str, str], ...] = ()
    methods: tuple[str, ...] = ("GET",)

    def opening(self, query: str, method: str, secrets: Sequence[Key]) -> Reply | None:
        """See Handshake."""
        if method not in self.methods or self.echo not in query:
            return None
        found = _query(query)
        text = found.get(self.echo, "")
        if not text or len(text) > _LONGEST or any(found.get(name) != value for name, value in self.where):
            return None
        if self.token:
            shown = found.get(self.token, "").encode("utf-8", "surrogatepass")
            if not [key for _, key in accepted(secrets) if hmac.compare_digest(key, shown)]:
                return Reply(403, b'{"error":"forbidden"}')
        return Reply(200, text.encode("utf-8", "surrogatepass"), _PLAIN, _SAFE)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryDigest(Handshake):
    """Answer the HMAC-SHA256 of the parameter ``token``, as JSON ``{field: prefix + digest}`` (X's CRC).

    Anybody may ask, and what is signed here is signed as a body would be: so only tokens that can be no body of an
    event (no braces, no quotes, 128 characters) get an answer.
    """

    token: str
    field: str
    prefix: str = "sha256="
    encoding: Encoding = "base64"

    def opening(self, query: str, method: str, secrets: Sequence[Key]) -> Reply | None:
        """See Handshake."""
        if method != "GET" or self.token not in query:
            return None
        text = _query(query).get(self.token, "")
        if not _TOKEN.fullmatch(text):
            return None
        digest = hmac.digest(accepted(secrets)[0][1], text.encode("utf-8", "surrogatepass"), "sha256")
        return _json({self.field: self.prefix + encoded(digest, self.encoding)})


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyEcho(Handshake):
    """When the body's ``field`` is ``value``, echo what lies at ``echo`` (``"challenge"``, ``"payload.plainToken"``).

    As plain text; with ``digest`` as JSON ``{name: echo, digest: hex HMAC-SHA256 of it}``, ``name`` being the last word
    of ``echo``.
    """

    field: str
    value: str
    echo: str
    digest: str = ""

    def asked(self, delivery: Delivery, secrets: Sequence[Key]) -> Reply | None:
        """See Handshake."""
        if self.value.encode() not in delivery.body:
            return None
        text = self._question(delivery.body)
        if not text:
            return None
        if not self.digest:
            return Reply(200, text.encode("utf-8", "surrogatepass"), _PLAIN, _SAFE)
        digest = hmac.digest(accepted(secrets)[0][1], text.encode("utf-8", "surrogatepass"), "sha256")
        return _json({self.echo.rpartition(".")[2]: text, self.digest: digest.hex()})

    def _question(self, body: bytes) -> str:
        try:
            found: Any = fields(body, (self.field, self.echo.partition(".")[0]))
        except UnusableEvent:
            return ""
        if found.get(self.field) != self.value:
            return ""
        for name in self.echo.split("."):
            found = found.get(name) if isinstance(found, dict) else None
        return found if isinstance(found, str) and len(found) <= _LONGEST else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyConfirm(Handshake):
    """When the body's ``field`` is ``value``, call the address in its field ``at``, if that lies on ``host``.

    Whether the subscription is wanted is the signature's affair. Raises UnusableEvent for an address elsewhere.
    """

    field: str
    value: str
    at: str
    host: re.Pattern[str]

    def asked(self, delivery: Delivery, secrets: Sequence[Key]) -> Confirm | None:  # noqa: ARG002
        """See Handshake."""
        if self.value.encode() not in delivery.body:
            return None
        found = fields(delivery.body, (self.field, self.at))
        if found.get(self.field) != self.value:
            return None
        url = found.get(self.at)
        if not isinstance(url, str) or not suitable(url, self.host, query=True):
            raise UnusableEvent(f"{self.at} is not an address of the sender's")
        return Confirm(url, Reply(200))


def _query(query: str) -> dict[str, str]:
    return dict(parse_qsl(query, keep_blank_values=True, max_num_fields=100))


def _json(content: dict[str, str]) -> Reply:
    return Reply(200, json.dumps(content).encode())
