"""A hash over the sorted fields of a query, a form or a flat JSON object, which stands among them."""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final
from urllib.parse import urlencode

from moorline.errors import ConfigurationError, InvalidSignature
from moorline.events.delivery import FORM, MAX_FIELDS, pairs, query_of
from moorline.events.scheme import Proof, Scheme
from moorline.events.signatures import (
    Key,
    accepted,
    check_seconds,
    decoded,
    key_bytes,
    mismatch,
    stamped,
    timely,
    written,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from moorline.events.delivery import Delivery

__all__ = ["SignedFields"]

_HASHES: Final = {"md5hash": "", "md5": "md5", "sha1": "sha1", "sha256": "sha256", "sha512": "sha512"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedFields(Scheme):
    """Hex, in the field ``signature``, of all other fields, sorted by name, each as ``&name=value``.

    In values ``&`` and ``=`` are written ``_``; which hash it is stands before the secret, because the account's
    setting belongs to it and a request must not choose: ``"sha512:…"``, ``"sha256:…"``, ``"sha1:…"``, ``"md5:…"`` are
    HMACs; ``"md5hash:…"``, and a secret with nothing before it, an MD5 of the text with the secret behind it, which is
    the weakest: choose another where the account can. The field ``timestamp`` is signed, and must be in time.

    Not the bytes are signed but what they say: what says something twice, or that has a name which could be read as two
    fields, is refused. A GET's query is the event's body.
    """

    forms: bool = True
    signature: str = "sig"
    timestamp: str = "timestamp"
    methods: tuple[str, ...] = ("POST", "GET")
    tolerance: float = 300.0
    keyed: ClassVar[str] = "the signature secret, with its algorithm before it: sha512:, sha256:, sha1:, md5:, md5hash:"
    signs_query: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_seconds("tolerance", self.tolerance)

    @property
    def how(self) -> str:
        """See Scheme."""
        return f"the hash that stands before the secret, of the sorted fields, in the field `{self.signature}`"

    def check(
        self,
        delivery: Delivery,
        secrets: Key | Sequence[Key],
        *,
        now: float | None = None,
        tolerance: float | None = None,
        certificates: Mapping[str, bytes] | None = None,  # noqa: ARG002
    ) -> Proof:
        """See Scheme. Raises InvalidSignature; ConfigurationError when the address of a GET is not known."""
        keys = accepted(secrets, now)
        found = _named(_said(delivery))
        shown = found.pop(self.signature, "")
        if not shown:
            raise InvalidSignature(f"there is no field {self.signature}", reason="missing")
        timestamp = stamped(found.get(self.timestamp, ""))
        text, given = _text(found), decoded(shown, "hex")
        index = next((index for index, key in keys if hmac.compare_digest(_digest(key, text), given)), None)
        if index is None:
            raise mismatch()
        timely(timestamp, now, self.tolerance if tolerance is None else tolerance)
        return Proof(index, timestamp)

    def sign(
        self,
        body: bytes,
        secret: Key,  # noqa: ARG002
        *,
        now: float | None = None,  # noqa: ARG002
        id: str = "",  # noqa: ARG002
        url: str = "",  # noqa: ARG002
        method: str = "POST",  # noqa: ARG002
        key: Key | None = None,  # noqa: ARG002
    ) -> dict[str, str]:
        """The signature lies in the body: see ``seal``."""
        return {"Content-Type": "application/json" if body.startswith(b"{") else FORM}

    def seal(
        self,
        body: bytes,
        secret: Key,
        *,
        now: float | None = None,
        url: str = "",  # noqa: ARG002
        key: Key | None = None,  # noqa: ARG002
    ) -> bytes:
        """The form (which may be a GET's query) or the JSON object with time stamp and signature."""
        is_json = body.startswith(b"{")
        said = [*_of_json(body), (self.timestamp, written(now))] if is_json else pairs(body.decode())
        found = {name: value for name, value in said if name != self.signature} | {self.timestamp: written(now)}
        found[self.signature] = _digest(key_bytes(secret), _text(found)).hex()
        return json.dumps(found).encode() if is_json else urlencode(found).encode()


def _said(delivery: Delivery) -> list[tuple[str, str]]:
    if delivery.method == "GET":
        if delivery.url is None:
            raise ConfigurationError("url: this sender signs the query of its address; give it")
        return pairs(query_of(delivery.url))
    return delivery.form if delivery.media == FORM else _of_json(delivery.body)


def _of_json(body: bytes) -> list[tuple[str, str]]:
    """The fields of a flat object, also those that come twice; numbers as they are written."""
    try:
        said: Any = json.loads(body, object_pairs_hook=list, parse_int=str, parse_float=str, parse_constant=_no_number)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, list) or len(said) > MAX_FIELDS or not body.lstrip().startswith(b"{"):
        raise InvalidSignature("the body is neither a form nor an object", reason="malformed")
    if not all(isinstance(value, str) for _, value in said):
        raise InvalidSignature("a field is neither text nor a number", reason="malformed")
    return [(name, value) for name, value in said]


def _no_number(text: str) -> str:
    raise ValueError(text)


def _named(said: list[tuple[str, str]]) -> dict[str, str]:
    found = dict(said)
    if len(found) != len(said):
        raise InvalidSignature("a field comes twice", reason="malformed")
    if any("&" in name or "=" in name for name in found):
        raise InvalidSignature("a name could be read as two fields", reason="malformed")
    return found


def _text(found: Mapping[str, str]) -> bytes:
    text = "".join([f"&{name}={found[name].replace('&', '_').replace('=', '_')}" for name in sorted(found)])
    return text.encode("utf-8", "surrogatepass")


def _digest(key: bytes, text: bytes) -> bytes:
    name, colon, rest = key.partition(b":")
    algorithm = _HASHES.get(name.decode("latin-1")) if colon else ""
    if colon and algorithm is not None:
        key = rest
    if not key.strip():
        raise ConfigurationError("secrets: an empty secret accepts what anybody signs")
    if algorithm:
        return hmac.digest(key, text, algorithm)
    return hashlib.md5(text + key, usedforsecurity=False).digest()  # the account's default; see the class
