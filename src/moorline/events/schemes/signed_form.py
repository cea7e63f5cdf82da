"""A keyed hash over the address that was called, and the fields of the form behind it, sorted and joined."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final
from urllib.parse import parse_qsl

from moorline.errors import ConfigurationError, InvalidSignature
from moorline.events.delivery import FORM, Delivery, query_of
from moorline.events.scheme import Proof, Scheme
from moorline.events.signatures import Key, accepted, decoded, encoded, key_bytes, match, mismatch, present

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["SignedForm"]

_PORTS: Final = {"http": "80", "https": "443"}
_ALGORITHMS: Final = {"HMAC_SHA1": "sha1", "HMAC_SHA256": "sha256"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedForm(Scheme):
    """HMAC over the address and what was sent, base64, in the header ``header``.

    - A form by POST: the address, then each field's name and value without anything between, sorted by name; of a name
      that comes several times the distinct values, sorted.
    - A GET: the address, which holds the fields; its query is the event's body.
    - Another body by POST: the address, in whose query ``digest`` is the hex SHA-256 of the body.

    The address counts with and without its port. The hash is SHA-1 unless the header ``settings`` names
    ``algorithm=HMAC_SHA256``; nothing else is taken. Names and values have nothing between them, so a signature fits
    other ways to part the same text: events are known by that text (``dedup="content"``), not by a field that could be
    parted anew. No time is signed.
    """

    forms: bool = True
    header: str
    digest: str = "bodySHA256"
    settings: str = ""
    methods: tuple[str, ...] = ("POST", "GET")
    dedup: str = "content"
    signs_query: ClassVar[bool] = True

    @property
    def how(self) -> str:
        """See Scheme."""
        return f"HMAC-SHA1 or -SHA256 of the address and the sorted form, base64, in `{self.header}`"

    @property
    def signs_url(self) -> bool:
        """The address is signed."""
        return True

    def may_repeat(self, identity: str) -> bool:
        """Only what has no id, which stands in the signed text."""
        return self.repeats_after > 0 and not identity

    def content(self, delivery: Delivery, body: bytes) -> bytes:  # noqa: ARG002
        """The signed text: another order of the fields, or another way to write them, is no other event."""
        after = self._after(delivery)
        *_, bare = _spellings(delivery.url or "")
        return _raw(bare + after)

    def check(
        self,
        delivery: Delivery,
        secrets: Key | Sequence[Key],
        *,
        now: float | None = None,
        tolerance: float | None = None,  # noqa: ARG002
        certificates: Mapping[str, bytes] | None = None,  # noqa: ARG002
    ) -> Proof:
        """See Scheme. Raises InvalidSignature; ConfigurationError when the address is not known."""
        keys = accepted(secrets, now)
        signature = decoded(present(delivery.headers, self.header), "base64")
        if delivery.url is None:
            raise ConfigurationError("url: this sender signs the address that it calls; give it")
        algorithm = self._algorithm(delivery)
        after = self._after(delivery)
        for url in _spellings(delivery.url):
            try:
                return Proof(match(_raw(url + after), algorithm, keys, [signature]))
            except InvalidSignature:
                continue
        raise mismatch()

    def sign(
        self,
        body: bytes,
        secret: Key,
        *,
        now: float | None = None,  # noqa: ARG002
        id: str = "",  # noqa: ARG002
        url: str = "",
        method: str = "POST",
        key: Key | None = None,  # noqa: ARG002
    ) -> dict[str, str]:
        """The header that a sender would add; ``url`` is what ``address`` gives."""
        headers = {} if self._told(url) else {"content-type": FORM}
        text = _raw(url + self._after(Delivery(headers, body, method=method, url=url)))
        return {self.header: encoded(hmac.digest(key_bytes(secret), text, "sha1"), "base64")}

    def address(self, url: str, body: bytes) -> str:
        """With the digest of a body that is no form."""
        if not body.lstrip().startswith((b"{", b"[")):
            return url
        return f"{url}{'&' if '?' in url else '?'}{self.digest}={hashlib.sha256(body).hexdigest()}"

    def _algorithm(self, delivery: Delivery) -> str:
        told = delivery.headers.get(self.settings.lower(), "") if self.settings else ""
        for part in told.split(","):
            name, _, value = part.strip().partition("=")
            if name == "algorithm":
                if value.upper() not in _ALGORITHMS:
                    raise InvalidSignature("an algorithm that is not known here", reason="malformed")
                return _ALGORITHMS[value.upper()]
        return "sha1"

    def _after(self, delivery: Delivery) -> str:
        """What is signed behind the address. Raises InvalidSignature for a body that the signature does not cover."""
        told = self._told(delivery.url or "")
        if delivery.method == "GET":
            if told:
                raise InvalidSignature("a GET with the digest of a body", reason="malformed")
            return ""
        if delivery.media == FORM:
            if not delivery.form:  # a signature of the address alone must not vouch for a body
                raise InvalidSignature("a form without fields, or with too many", reason="malformed")
            return _joined(delivery.form)
        if len(told) != 1:
            raise InvalidSignature(f"no {self.digest} in the address, and no form", reason="malformed")
        if not hmac.compare_digest(hashlib.sha256(delivery.body).hexdigest().encode(), _raw(told[0])):
            raise mismatch()
        return ""

    def _told(self, url: str) -> list[str]:
        return [value for name, value in parse_qsl(query_of(url)) if name == self.digest]


def _joined(fields: list[tuple[str, str]]) -> str:
    return "".join([name + value for name, value in sorted(set(fields))])


def _spellings(url: str) -> Iterator[str]:
    """The address with its port (the scheme's own where none is named), and without."""
    scheme, _, rest = url.partition("://")
    end = next((at for at, letter in enumerate(rest) if letter in "/?#"), len(rest))
    place, after = rest[:end], rest[end:]
    user, at, host = place.rpartition("@")
    name, colon, port = host.rpartition(":")
    if not colon or not port.isdigit():  # no port, or the colons of an IPv6 address
        name, port = host, _PORTS.get(scheme.lower(), "443")
    yield f"{scheme}://{user}{at}{name}:{port}{after}"
    yield f"{scheme}://{user}{at}{name}{after}"


def _raw(text: str) -> bytes:
    # "surrogatepass" encodes whatever a str can hold: a strange field must end in a mismatch, not in a UnicodeError.
    return text.encode("utf-8", "surrogatepass")
