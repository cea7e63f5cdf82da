"""A secret that the sender shows inside the body, in each event of a delivery."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from moorline.errors import ConfigurationError, InvalidSignature, UnusableEvent
from moorline.events.body import fields, streamed
from moorline.events.scheme import Proof, Scheme
from moorline.events.signatures import Key, accepted, key_bytes, same

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from moorline.events.delivery import Delivery

__all__ = ["SecretInBody"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretInBody(Scheme):
    """For senders that do not sign: every event (see ``each``) has the secret in its top field ``field``.

    Whoever shows it is believed, so it travels by HTTPS only, and it stays in the body that is stored: make it a value
    that opens nothing else. The events of one delivery may show different ones of the accepted secrets; the Proof has
    the last of these, the one that an operator would like to retire.
    """

    field: str
    keyed: ClassVar[str] = "a secret that the sender shows in the body"

    def __post_init__(self) -> None:
        if not self.each or self.each == "lines":
            raise ConfigurationError(f"each: expected where the events with the secret lie, got {self.each!r}")

    @property
    def how(self) -> str:
        """See Scheme."""
        return f"none: the secret is shown in the body, at `{self.each}.{self.field}`"

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
        last = -1
        try:
            for one in streamed(delivery.body, self.each):
                shown = fields(one, (self.field,)).get(self.field)
                if not isinstance(shown, str) or not shown:
                    raise self._missing()
                last = max(last, same(keys, [shown.encode("utf-8", "surrogatepass")]))
        except UnusableEvent as error:
            raise InvalidSignature("the body, which should hold the secret, is not JSON", reason="malformed") from error
        if last < 0:
            raise self._missing()
        return Proof(last)

    def _missing(self) -> InvalidSignature:
        return InvalidSignature(f"there is no {self.field} in each event", reason="missing")

    def seal(
        self,
        body: bytes,
        secret: Key,
        *,
        now: float | None = None,  # noqa: ARG002
        url: str = "",  # noqa: ARG002
        key: Key | None = None,  # noqa: ARG002
    ) -> bytes:
        """The body, written anew, with the secret in each of its events."""
        text = key_bytes(secret).decode("utf-8", "surrogateescape")
        whole = json.loads(body)
        for event in _at(whole, self.each.split(".")):
            event[self.field] = text
        return json.dumps(whole, separators=(",", ":")).encode()


def _at(value: Any, path: Sequence[str]) -> list[dict[str, Any]]:
    if not path:
        return [value] if isinstance(value, dict) else []
    if path[0] == "*":
        return [found for one in value for found in _at(one, path[1:])]
    return _at(value.get(path[0]), path[1:]) if isinstance(value, dict) else []
