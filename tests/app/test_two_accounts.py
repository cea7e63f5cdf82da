"""Two instances of one service in an application."""

from __future__ import annotations

import pytest

from moorline import Money, Moorline
from moorline.errors import Misuse
from moorline.services import Stripe


def test_a_call_of_a_second_instance_is_not_enqueued(app: Moorline) -> None:
    """A worker would send it with the first one's key: the wrong account would be charged."""
    app.service(Stripe, api_key="sk_test_first")
    second = app.service(Stripe, api_key="sk_test_second")
    with pytest.raises(Misuse, match="not the first Stripe"):
        second.create_payment(Money(2000, "usd")).enqueue()
