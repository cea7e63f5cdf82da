"""``Scheme``: how one kind of sender signs, as a record that checks deliveries, and makes them for tests.

Schemes know no vendor; a service's file says which scheme it uses and where id and type are found::

    webhooks = HMACSignature(header="X-Hub-Signature-256", prefix="sha256=", env="GITHUB_WEBHOOK_SECRET", …)

The base fixes the order: ``check`` proves who sent it, ``read`` finds the facts. A scheme of its own fills in ``check``
and ``sign``, and where the signature stands within the body, ``seal``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from moorline.events.delivery import Delivers, Delivery, Reply
from moorline.events.places import Located, Verified

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from moorline.events.handshakes import Handshake
    from moorline.events.signatures import Key

__all__ = ["NeedsCertificate", "Proof", "Scheme"]


_UNKNOWN: Final = Delivers()


@dataclass(frozen=True, slots=True)
class Proof:
    """What the check of a signature found: which of the accepted secrets (from 0), and the *signed* time, if any."""

    secret_index: int = 0
    timestamp: float | None = None


class NeedsCertificate(Exception):
    """The check needs the certificate at ``url``, whose address was found fit to be asked."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.url = url


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme(Located, ABC):
    """``env`` names the environment variable that customarily holds the secret.

    ``answer`` is what a sender gets for what was stored; ``handshakes`` are its questions that are no events;
    ``methods`` those that it delivers by; ``unsigned`` is the status for a delivery without any signature;
    ``largest`` how many bytes a body may have, where that is more than usual; ``delivers`` tells people what to expect.
    """

    answer: Reply | None = None
    handshakes: tuple[Handshake, ...] = ()
    methods: tuple[str, ...] = ("POST",)
    unsigned: int = 401
    largest: int | None = None
    delivers: Delivers = _UNKNOWN

    keyed: ClassVar[str] = "a secret"
    """What ``secrets`` are for this scheme, in words, for people."""
    in_path: ClassVar[bool] = False
    """Whether the secret may stand in the path, behind the service's name."""
    signs_query: ClassVar[bool] = False
    """Whether a GET's query is signed, which is then its event's body."""

    @property
    @abstractmethod
    def how(self) -> str:
        """How a delivery is proved, in words, for people."""

    @property
    def signs_url(self) -> bool:
        """Whether the address, as the sender called it, is needed for the check."""
        return False

    @property
    def secret_headers(self) -> tuple[str, ...]:
        """The headers, in lower case, in which the secret itself is shown: they are masked wherever they are kept."""
        return ()

    @abstractmethod
    def check(
        self,
        delivery: Delivery,
        secrets: Key | Sequence[Key],
        *,
        now: float | None = None,
        tolerance: float | None = None,
        certificates: Mapping[str, bytes] | None = None,
    ) -> Proof:
        """Check one delivery; ``now`` in seconds since the epoch, ``certificates`` are PEM by URL.

        Raises InvalidSignature; NeedsCertificate for one that ``certificates`` do not hold; ConfigurationError for a
        secret that cannot be used.
        """

    def verify(
        self,
        delivery: Delivery,
        secrets: Key | Sequence[Key],
        *,
        now: float | None = None,
        tolerance: float | None = None,
        certificates: Mapping[str, bytes] | None = None,
    ) -> Verified:
        """Check one delivery and find its facts. Raises as ``check`` does, and UnusableEvent for what is no event."""
        proof = self.check(delivery, secrets, now=now, tolerance=tolerance, certificates=certificates)
        return self.read(delivery, proof.secret_index, proof.timestamp)

    def sign(
        self,
        body: bytes,  # noqa: ARG002
        secret: Key,  # noqa: ARG002
        *,
        now: float | None = None,  # noqa: ARG002
        id: str = "",  # noqa: ARG002
        url: str = "",  # noqa: ARG002
        method: str = "POST",  # noqa: ARG002
        key: Key | None = None,  # noqa: ARG002
    ) -> dict[str, str]:
        """The headers that a sender would add: for tests and the sandbox; none where all is in the body (see ``seal``).

        ``id`` is the delivery's, where it is signed; ``key`` the private key in PEM, for schemes that sign with one.
        """
        return {}

    def seal(
        self,
        body: bytes,
        secret: Key,  # noqa: ARG002
        *,
        now: float | None = None,  # noqa: ARG002
        url: str = "",  # noqa: ARG002
        key: Key | None = None,  # noqa: ARG002
    ) -> bytes:
        """The body with its signature in it, for senders that sign there; others' comes back as it is."""
        return body

    def address(self, url: str, body: bytes) -> str:  # noqa: ARG002
        """The URL that a sender would call, for those that add to it."""
        return url
