"""Listed fields of a JSON body, signed within it by the key of a certificate."""

from __future__ import annotations

import hmac
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

from moorline.errors import ConfigurationError, InvalidSignature, UnusableEvent
from moorline.events.body import unambiguous
from moorline.events.certificates import Hash, Issuer, is_signed_by, signed_with
from moorline.events.scheme import Proof, Scheme
from moorline.events.signatures import (
    Key,
    accepted,
    check_seconds,
    decoded,
    encoded,
    key_bytes,
    mismatch,
    stamped,
    timely,
    written,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from moorline.events.delivery import Delivery

__all__ = ["CertifiedFields"]

_HASHES: Final[dict[str, Hash]] = {"1": "sha1", "2": "sha256"}


@dataclass(frozen=True, slots=True, kw_only=True)
class CertifiedFields(Scheme):
    """RSA over ``name LF value LF`` of each listed field, in their order; values as they are after JSON decoding.

    - ``signed``: for each value of the field ``kind`` the lists of fields that may be signed (the first is what we
      sign); ``optional`` ones count only where they are there; ``free`` is the one that may hold line breaks: if a
      second could, one text would be the signature's of several bodies.
    - ``signature``, ``version``, ``certificate``, ``timestamp``: the names of the fields with those; ``versions`` are
      the accepted ones, of ``"1"`` (SHA-1) and ``"2"`` (SHA-256). The version is not signed: whoever can break SHA-1
      chooses it, so give ``("2",)`` where the sender can.
    - ``owner``: the signed field that says whose message it is. The certificate is the same for all customers of the
      sender, so the secrets are the owners that we take, whole or with ``*`` at the end behind ``bounded``.

    ``issuer`` and ``named`` as in CertifiedChecksum. ``resent`` is for how many seconds a sender may try again.
    """

    signed: Mapping[str, tuple[tuple[str, ...], ...]]
    owner: str
    issuer: Issuer
    bounded: re.Pattern[str]
    kind: str = "Type"
    free: str = "Message"
    optional: tuple[str, ...] = ()
    signature: str = "Signature"
    version: str = "SignatureVersion"
    versions: tuple[str, ...] = ("1", "2")
    certificate: str = "SigningCertURL"
    timestamp: str = "Timestamp"
    named: str = ""
    tolerance: float = 300.0
    resent: float = 0.0

    keyed: ClassVar[str] = "the topics that are taken, whole or with * at the end: they are signed"

    def __post_init__(self) -> None:
        if not self.versions or set(self.versions) - _HASHES.keys():
            raise ConfigurationError(f"versions: expected some of {', '.join(_HASHES)}, got {self.versions!r}")
        always = {self.owner, self.timestamp, self.kind}
        if any(always - set(names) for listed in self.signed.values() for names in listed):
            raise ConfigurationError(f"signed: {', '.join(sorted(always))} must always be signed")
        check_seconds("tolerance", self.tolerance)
        check_seconds("resent", self.resent)

    @property
    def how(self) -> str:
        """See Scheme."""
        hashes = " or ".join(f"RSA-{_HASHES[version].upper()}" for version in self.versions)
        return f"{hashes} by a certificate's key over listed fields, in the body's `{self.signature}`"

    def check(
        self,
        delivery: Delivery,
        secrets: Key | Sequence[Key],
        *,
        now: float | None = None,
        tolerance: float | None = None,
        certificates: Mapping[str, bytes] | None = None,
    ) -> Proof:
        """See Scheme. Raises InvalidSignature, NeedsCertificate."""
        keys = accepted(secrets, now, read=self._owner)
        found = self._envelope(delivery.body)
        # Before anybody is asked for a certificate: a stranger does not know the topic.
        index = _taken(keys, _text(found, self.owner))
        timestamp = stamped(_text(found, self.timestamp), "iso8601")
        resent = self.resent if tolerance is None else 0.0
        timely(timestamp, now, self.tolerance if tolerance is None else tolerance, resent=resent)
        algorithm = self._algorithm(found)
        lists = self._lists(found)
        public = self.issuer.key(_text(found, self.certificate), certificates)
        signature = decoded(_text(found, self.signature), "base64")
        if not any(is_signed_by(public, signature, self._signed(found, names), algorithm) for names in lists):
            raise mismatch()
        return Proof(index, timestamp)

    def seal(
        self,
        body: bytes,
        secret: Key,
        *,
        now: float | None = None,
        url: str = "",  # noqa: ARG002
        key: Key | None = None,
    ) -> bytes:
        """The JSON object with owner, time, version and signature in it; its own version and certificate are kept."""
        found: dict[str, Any] = json.loads(body)
        stamp = written(now, "iso8601").replace("Z", ".000Z")
        found |= {self.owner: key_bytes(secret).decode(), self.timestamp: stamp}
        found = {self.version: self.versions[-1], self.certificate: self.named} | found
        text = self._signed(found, self._lists(found)[0])
        signature = signed_with(key, text, _HASHES[found[self.version]])
        return json.dumps(found | {self.signature: encoded(signature, "base64")}, ensure_ascii=False).encode()

    def _envelope(self, body: bytes) -> dict[str, Any]:
        try:
            found = unambiguous(body)
        except UnusableEvent as error:
            raise InvalidSignature(str(error), reason="malformed") from error
        if not isinstance(found, dict) or not found.get(self.signature):
            raise InvalidSignature(f"the body has no {self.signature}", reason="missing")
        return found

    def _algorithm(self, found: Mapping[str, Any]) -> Hash:
        version = _text(found, self.version)
        if version not in self.versions:
            raise InvalidSignature(f"{self.version} is none of {', '.join(self.versions)}", reason="malformed")
        return _HASHES[version]

    def _lists(self, found: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
        kind = _text(found, self.kind)
        if kind not in self.signed:
            raise InvalidSignature(f"{self.kind} is none of {', '.join(self.signed)}", reason="malformed")
        return self.signed[kind]

    def _signed(self, found: Mapping[str, Any], names: tuple[str, ...]) -> bytes:
        parts: list[str] = []
        for name in names:
            if name in self.optional and found.get(name) is None:
                continue
            value = _text(found, name)
            if name != self.free and "\n" in value:
                raise InvalidSignature(f"{name} has a line break", reason="malformed")
            parts += (name, value)
        # "surrogatepass" encodes whatever a str can hold: a strange text must end in a mismatch.
        return "".join([part + "\n" for part in parts]).encode("utf-8", "surrogatepass")

    def _owner(self, secret: Key) -> bytes:
        """An accepted owner. Raises ConfigurationError for one that is open to strangers."""
        text = key_bytes(secret)
        if text.endswith(b"*") and self.bounded.match(text.decode("utf-8", "replace")) is None:
            raise ConfigurationError("secrets: before the * must stand so much that it can be nobody else's")
        return text


def _text(found: Mapping[str, Any], name: str) -> str:
    value = found.get(name)
    if not isinstance(value, str):
        raise InvalidSignature(f"the body has no {name}", reason="malformed")
    return value


def _taken(keys: Sequence[tuple[int, bytes]], owner: str) -> int:
    """The place of the accepted owner that this is. Raises InvalidSignature."""
    shown = owner.encode("utf-8", "surrogatepass")
    for index, taken in keys:
        if taken.endswith(b"*"):
            if shown.startswith(taken[:-1]):
                return index
        elif hmac.compare_digest(taken, shown):
            return index
    raise InvalidSignature("it is none of the accepted topics", reason="mismatch")
