"""A secret that the sender shows instead of signing: in the path, a header, or as a password."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from moorline.errors import InvalidSignature
from moorline.events.scheme import Proof, Scheme
from moorline.events.signatures import Key, accepted, key_bytes, same

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from moorline.events.delivery import Delivery

__all__ = ["SharedSecret"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedSecret(Scheme):
    """For senders that do not sign: whoever shows the secret is believed, so it travels by HTTPS only.

    It is taken from the end of the path (``/webhooks/datadog/<secret>``), from the header ``header``, from
    ``Authorization`` as it stands or behind ``Bearer``, and from Basic authentication, where the secret is
    ``user:password`` or the password alone. Nothing of the body is vouched for but that its sender knew the secret.
    """

    forms: bool = True
    header: str = ""
    keyed: ClassVar[str] = "a secret that the sender shows: the end of the path, a header, or user:password"
    in_path: ClassVar[bool] = True

    @property
    def how(self) -> str:
        """See Scheme."""
        header = f"`{self.header}`, " if self.header else ""
        return f"none: the secret is shown in the path, {header}or `Authorization`"

    @property
    def secret_headers(self) -> tuple[str, ...]:
        """See Scheme."""
        return (self.header.lower(), "authorization") if self.header else ("authorization",)

    def vouches_for(self, place: str) -> bool:  # noqa: ARG002
        """Who knows the secret made all of it."""
        return True

    def check(
        self,
        delivery: Delivery,
        secrets: Key | Sequence[Key],
        *,
        now: float | None = None,
        tolerance: float | None = None,  # noqa: ARG002
        certificates: Mapping[str, bytes] | None = None,  # noqa: ARG002
    ) -> Proof:
        """See Scheme. Raises InvalidSignature; there is no signed time."""
        keys = accepted(secrets, now)
        shown = self._shown(delivery)
        if not shown:
            raise InvalidSignature("no secret is shown in the path or a header", reason="missing")
        return Proof(same(keys, [text.encode("utf-8", "surrogatepass") for text in shown]))

    def _shown(self, delivery: Delivery) -> list[str]:
        shown = [delivery.token] if delivery.token else []
        if self.header and delivery.headers.get(self.header.lower()):
            shown.append(delivery.headers[self.header.lower()])
        authorization = delivery.headers.get("authorization", "")
        if authorization:
            shown.append(authorization)
            kind, _, rest = authorization.partition(" ")
            if kind.lower() == "bearer":
                shown.append(rest.strip())
            elif kind.lower() == "basic":
                both = _basic(rest.strip())
                shown += [both, both.partition(":")[2]]
        return [text for text in shown if text]

    def sign(
        self,
        body: bytes,  # noqa: ARG002
        secret: Key,
        *,
        now: float | None = None,  # noqa: ARG002
        id: str = "",  # noqa: ARG002
        url: str = "",  # noqa: ARG002
        method: str = "POST",  # noqa: ARG002
        key: Key | None = None,  # noqa: ARG002
    ) -> dict[str, str]:
        """The header that a sender would add: ``header``, or Basic authentication."""
        text = key_bytes(secret).decode("utf-8", "surrogateescape")
        if self.header:
            return {self.header: text}
        both = text if ":" in text else f"moorline:{text}"
        return {"Authorization": "Basic " + base64.b64encode(both.encode()).decode()}


def _basic(text: str) -> str:
    try:
        return binascii.a2b_base64(text.encode("ascii"), strict_mode=True).decode()
    except ValueError:
        return ""
