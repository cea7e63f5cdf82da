"""Several signatures of one sender, of which the newest that is there decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moorline.errors import ConfigurationError
from moorline.events.scheme import Proof, Scheme
from moorline.events.schemes.hmac_signature import HMACSignature

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from moorline.events.delivery import Delivery
    from moorline.events.signatures import Key

__all__ = ["NewestOf", "Version"]


@dataclass(frozen=True, slots=True)
class Version:
    """One way to sign; it is there when its scheme's header is, and ``marker`` (header, value), if named, says so."""

    scheme: HMACSignature
    marker: tuple[str, str] | None = None

    def is_in(self, headers: Mapping[str, str]) -> bool:
        """Whether a delivery with these headers is signed in this way."""
        marked = self.marker is None or headers.get(self.marker[0].lower()) == self.marker[1]
        return marked and self.scheme.header.lower() in headers


@dataclass(frozen=True, slots=True, kw_only=True)
class NewestOf(Scheme):
    """For senders that changed how they sign, and send several signatures: ``versions``, the newest first.

    The first of them that is there must hold, even if one after it does. That stops who spoils the new signature, not
    who leaves it out: an old one, which may hold no time, then stands for itself. With ``newest_only`` nothing but the
    first version is taken. The secret is one for all.
    """

    versions: tuple[Version, ...]
    newest_only: bool = False

    def __post_init__(self) -> None:
        if not self.versions:
            raise ConfigurationError("versions: at least one is needed")

    @property
    def how(self) -> str:
        """See Scheme."""
        return "; else ".join(version.scheme.how for version in self._taken)

    @property
    def signs_url(self) -> bool:
        """Whether one of them signs the address."""
        return any(version.scheme.signs_url for version in self._taken)

    @property
    def _taken(self) -> tuple[Version, ...]:
        return self.versions[:1] if self.newest_only else self.versions

    def check(
        self,
        delivery: Delivery,
        secrets: Key | Sequence[Key],
        *,
        now: float | None = None,
        tolerance: float | None = None,
        certificates: Mapping[str, bytes] | None = None,
    ) -> Proof:
        """See Scheme. Raises InvalidSignature."""
        chosen = next((one.scheme for one in self._taken if one.is_in(delivery.headers)), None)
        if chosen is None:
            chosen = self.versions[0].scheme  # which says what is wrong with the secrets, before what is missing
        return chosen.check(delivery, secrets, now=now, tolerance=tolerance, certificates=certificates)

    def sign(
        self,
        body: bytes,
        secret: Key,
        *,
        now: float | None = None,
        id: str = "",
        url: str = "",
        method: str = "POST",
        key: Key | None = None,
    ) -> dict[str, str]:
        """The headers of the newest signature."""
        return self.versions[0].scheme.sign(body, secret, now=now, id=id, url=url, method=method, key=key)
