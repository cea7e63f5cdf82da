"""The Event: something that a service told us."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from moorline.errors import EventPruned

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Event"]


@dataclass(frozen=True, slots=True, repr=False)
class Event:
    """A webhook whose signature was checked, with the bytes as they came.

    - ``service``: the sender's name, such as ``"github"``.
    - ``id``: the sender's own id of the event, one per event and receiving endpoint, the same in every redelivery
      (Stripe: ``evt_…``; GitHub: ``<hook id>:<delivery GUID>``). Where a sender gives none it is ``sha256:`` and the
      digest of the body.
    - ``dedup_key``: what it is deduplicated by: the id where the signature covers it; the digest where the id stands in
      a header that nobody signed (GitHub), so that a replay under a new id is noticed; ``once:`` and the signed token
      where the sender signs one in place of the content (Mailgun, PayPal).
    - ``type``: such as ``"payment_intent.succeeded"`` or ``"pull_request"``; ``action``: the finer word that some
      senders put into the body (GitHub's ``"closed"``), else None.
    - ``body``: the raw bytes; ``headers``: lower-case names, secrets in them masked once it was stored.
    - ``received_at``: seconds since the epoch; ``timestamp``: the same, as *signed* by the sender, or None.
    - ``secret_index``: which of the accepted secrets had signed it, counted from 0; ``secret``: what that one is called
      (the name of its variable), if it has a name.
    - ``inbox_id``: the id under which it is stored, None for an Event that is not.
    - ``duplicates``: how often it came again after it was stored.
    - ``once_for``: where ``dedup_key`` is such a token, for how many seconds before this one an event of the same id is
      the same event; 0 on one that comes from the inbox.
    - ``pruned``: whether only its key is kept: body and headers are empty then.
    """

    service: str
    id: str
    type: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    action: str | None = None
    received_at: float = 0.0
    timestamp: float | None = None
    secret_index: int = 0
    inbox_id: str | None = None
    duplicates: int = 0
    secret: str = ""
    dedup_key: str = ""
    pruned: bool = False
    once_for: float = 0.0
    _payload: Any = field(default=..., init=False, compare=False)

    def __post_init__(self) -> None:
        if not self.dedup_key:
            object.__setattr__(self, "dedup_key", self.id)

    @property
    def payload(self) -> Any:
        """The body as Python values, parsed when first asked for: JSON, a form's fields (files among them are
        ``FormFile``), XML as nested dicts.

        Raises UnusableEvent when it is none of these, EventPruned when it is no longer kept.
        """
        if self._payload is ...:  # a value that JSON does not have, and that pickles as itself
            from moorline.events.body import parsed

            if self.pruned:
                raise EventPruned(f"event {self.inbox_id}: its body is no longer kept (webhooks.keep_days)")
            object.__setattr__(self, "_payload", parsed(self.body, self.headers.get("content-type", "")))
        return self._payload

    @property
    def name(self) -> str:
        """``type``, or ``type.action`` where there is an action: what ``on`` matches at its finest."""
        return f"{self.type}.{self.action}" if self.action else self.type

    def __repr__(self) -> str:
        # Neither body nor headers: both may hold what a log must not.
        return f"Event({self.service!r}, {self.id!r}, {self.name!r}, {len(self.body)} bytes)"
