"""What the conformance suite needs to know of a sender: a delivery of its kind, and the secrets on both sides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from moorline import registry
from moorline.events.scheme import Scheme

NOW = 1_790_000_000.0


@dataclass(frozen=True)
class Signed:
    """A delivery as it would come."""

    headers: dict[str, str]
    body: bytes
    url: str
    method: str

    def to_verify(self) -> dict[str, Any]:
        """The arguments of ``moorline.events.verify`` for it."""
        return {"headers": self.headers, "body": self.body, "url": self.url, "method": self.method}


@dataclass(frozen=True)
class Handshake:
    """A question of the sender's and the answer that it wants.

    ``body`` is signed as a delivery is (None: it is not signed at all, and comes by GET or with an empty body);
    ``query`` stands in the address; ``answer`` is the whole body of the 200.
    """

    answer: bytes
    body: bytes | None = None
    query: str = ""
    method: str = "POST"
    media: str = "text/plain"
    environment: Mapping[str, str] = field(default_factory=dict)
    confirms: str = ""


@dataclass(frozen=True)
class Sample:
    """A delivery of the sender's kind.

    ``secret`` and ``other`` are what we are configured with; ``key`` and ``other_key`` what the sender signs with, for
    asymmetric schemes (PEM). ``signature`` names the header with the signature, empty when it is in the body.
    ``id``, ``type``, ``action``: what is to be found. ``events``: how many the delivery holds. ``timed``: whether a
    time is signed. ``changed`` spoils what is signed. ``certificates`` as ``verify`` takes them, for ``key``; those of
    ``other_key`` stand under the same URL in ``other_certificates``. ``late`` is how many seconds old a delivery may be.
    """

    service: str
    body: bytes
    secret: str
    other: str
    id: str
    type: str
    timed: bool
    signature: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    action: str | None = None
    events: int = 1
    url: str = ""
    method: str = "POST"
    key: bytes | None = None
    other_key: bytes | None = None
    certificates: Mapping[str, bytes] | None = None
    other_certificates: Mapping[str, bytes] | None = None
    answer: bytes | None = None
    handshakes: tuple[Handshake, ...] = ()
    changed: Callable[[Signed], Signed] | None = None
    late: float = 300.0

    @property
    def scheme(self) -> Scheme:
        """The scheme of the service's record."""
        scheme: Scheme = registry.service(self.service).webhooks
        return scheme

    @property
    def address(self) -> str:
        """Where the sender delivers, without what it adds."""
        return self.url or f"https://shop.example/webhooks/{self.service}"

    def signed(self, *, other: bool = False, now: float = NOW, body: bytes | None = None, id: str = "msg_1") -> Signed:
        """The delivery, signed with the first secret or the other one."""
        secret, key = (self.other, self.other_key) if other else (self.secret, self.key)
        url = self.scheme.address(self.address, self.body if body is None else body)
        sealed = self.scheme.seal(self.body if body is None else body, secret, now=now, url=url, key=key)
        headers = self.scheme.sign(sealed, secret, now=now, id=id, url=url, method=self.method, key=key)
        return Signed({**self.headers, **headers}, sealed, url, self.method)

    def spoiled(self) -> Signed:
        """The delivery with one changed byte in what is signed."""
        good = self.signed()
        if self.changed is not None:
            return self.changed(good)
        body = bytearray(good.body)
        body[len(body) // 2] ^= 1
        return Signed(good.headers, bytes(body), good.url, good.method)


def with_a_wrong_secret(signed: Signed) -> Signed:
    """For ``changed``, where nothing of the body is signed: one changed letter in the secret that is shown."""
    shown = signed.headers["Authorization"]
    return Signed({**signed.headers, "Authorization": shown[:-3] + "AAA"}, signed.body, signed.url, signed.method)
