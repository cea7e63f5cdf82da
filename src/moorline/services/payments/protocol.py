"""What all payment services have in common: the values, the words for a payment's state, and the operations.

No service has to inherit from :class:`PaymentsService`; having the operations is enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, Protocol

from moorline.money import Money

if TYPE_CHECKING:
    from moorline.calls.call import Call
    from moorline.calls.service import Pages
    from moorline.events.event import Event

__all__ = [
    "Payment",
    "PaymentEvent",
    "PaymentEventKind",
    "PaymentStatus",
    "PaymentsService",
    "Refund",
    "RefundStatus",
    "RequiredAction",
]


class PaymentStatus(StrEnum):
    """Where a payment stands, in words that are the same for every provider."""

    NEEDS_METHOD = "needs_method"
    """No way to pay is attached, or the last one was declined."""
    NEEDS_CONFIRMATION = "needs_confirmation"
    """Complete, and not tried yet."""
    REQUIRES_ACTION = "requires_action"
    """The customer must do something: 3-D Secure, an approval page. See ``Payment.action``."""
    PROCESSING = "processing"
    """Under way; the result comes later, by webhook."""
    AUTHORIZED = "authorized"
    """The money is held and waits for capture."""
    SUCCEEDED = "succeeded"
    """Captured: the money is taken."""
    CANCELED = "canceled"
    """Given up; nothing is held."""
    FAILED = "failed"
    """Ended without money, for good."""
    UNKNOWN = "unknown"
    """A state newer than this program; see ``vendor_status``."""


class RefundStatus(StrEnum):
    """Where a refund stands."""

    PENDING = "pending"
    REQUIRES_ACTION = "requires_action"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class RequiredAction:
    """What the customer must do: ``redirect`` them to *url*, or hand *client_secret* to the provider's ``sdk``.

    *client_secret* lets the holder finish this one payment: give it to that customer's browser and to nobody else.
    """

    kind: Literal["redirect", "sdk", "other"]
    url: str | None = None
    client_secret: str | None = field(default=None, repr=False)
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Payment:
    """A payment as the provider shows it. *captured* is what was taken, *capturable* what is held and may be captured.

    *vendor_status* is the provider's own word; *raw* its whole answer.
    """

    id: str
    status: PaymentStatus
    vendor_status: str
    amount: Money
    captured: Money
    capturable: Money
    live: bool
    created_at: datetime | None = None
    action: RequiredAction | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    client_secret: str | None = field(default=None, repr=False)
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Refund:
    """Money given back. *payment_id* is None where the provider does not say which payment it belongs to."""

    id: str
    status: RefundStatus
    vendor_status: str
    amount: Money
    payment_id: str | None = None
    reason: str | None = None
    failure_reason: str | None = None
    created_at: datetime | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


class PaymentEventKind(StrEnum):
    """What happened to a payment, in words that are the same for every provider."""

    CREATED = "created"
    PROCESSING = "processing"
    REQUIRES_ACTION = "requires_action"
    APPROVED = "approved"
    """The customer agreed; the money is not taken yet: capture it."""
    AUTHORIZED = "authorized"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    REFUND_PENDING = "refund_pending"
    REFUNDED = "refunded"
    """A refund, full or partial, went through."""
    REFUND_FAILED = "refund_failed"
    DISPUTED = "disputed"


@dataclass(frozen=True, slots=True)
class PaymentEvent:
    """What a provider told of a payment.

    *payment_id* is the id that the operations take, *refund_id* that of the refund it is about, *amount* what the event
    is about (the refund's, for a refund), *reference* your own name for it, where the provider repeats it. *payment*
    and *refund* are there where the event holds the whole of them. *reason* is why it failed, in the provider's words.
    """

    kind: PaymentEventKind
    vendor_type: str
    payment_id: str | None = None
    refund_id: str | None = None
    amount: Money | None = None
    reference: str | None = None
    reason: str | None = None
    at: datetime | None = None
    payment: Payment | None = None
    refund: Refund | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


class PaymentsService(Protocol):
    """The operations that every payment service has. Amounts are :class:`moorline.Money`, never floats.

    All raise errors of :mod:`moorline.errors`. A refusal by the bank is PaymentDeclined; a need for the customer is no
    error, it is a payment with ``status`` ``requires_action``.
    """

    def create_payment(
        self,
        amount: Money,
        *,
        payment_method: str | None = None,
        capture: bool = True,
        metadata: Mapping[str, str] | None = None,
        **extra: object,
    ) -> Call[Payment]:
        """Start a payment, and try it at once if *payment_method* is given; ``capture=False`` only holds the money."""
        ...

    def get_payment(self, payment_id: str) -> Call[Payment]:
        """The payment as it is now."""
        ...

    def capture_payment(self, payment_id: str, amount: Money | None = None) -> Call[Payment]:
        """Take what is held, or *amount* of it; the rest is released."""
        ...

    def cancel_payment(self, payment_id: str) -> Call[Payment]:
        """Give a payment up that is not captured."""
        ...

    def refund(self, payment_id: str, amount: Money | None = None) -> Call[Refund]:
        """Give back *amount*, or all that is left."""
        ...

    def list_payments(self) -> Pages[Payment]:
        """All payments, newest first."""
        ...

    @classmethod
    def read_event(cls, event: Event) -> PaymentEvent | None:
        """What an event of this service means; None for one that has no common meaning."""
        ...
