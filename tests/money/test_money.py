from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorline.errors import ConfigurationError
from moorline.money import Money


@pytest.mark.parametrize(
    ("money", "shown"),
    [
        (Money(2000, "USD"), "20.00 USD"),
        (Money(500, "jpy"), "500 JPY"),
        (Money(1234, "kwd"), "1.234 KWD"),
        (Money(-5, "eur"), "-0.05 EUR"),
    ],
)
def test_shown_with_the_currencys_digits(money, shown):
    """An amount is shown with as many digits as ISO 4217 gives its currency."""
    assert str(money) == shown


@given(st.integers(-(10**30), 10**30), st.sampled_from(["usd", "jpy", "kwd", "clf"]))
def test_decimal_and_back(minor, currency):
    """An amount survives the way through its decimal form, however large it is."""
    money = Money(minor, currency)
    assert Money.of(money.decimal, currency) == money


@pytest.mark.parametrize(
    ("amount", "currency", "named"),
    [
        (0.1, "usd", "amount"),
        ("1.005", "usd", "amount"),
        ("x", "usd", "amount"),
        ("NaN", "usd", "amount"),
        ("1e999999999", "usd", "amount"),
        (Decimal("1e-999999"), "usd", "amount"),
        ("1", "us", "currency"),
        ("1", None, "currency"),
    ],
)
def test_bad_amounts_are_named(amount, currency, named):
    """What is no amount of money is refused with an error that names the argument."""
    with pytest.raises(ConfigurationError, match=named):
        Money.of(amount, currency)


@pytest.mark.parametrize("minor", [1.0, "1", True, None])
def test_minor_is_an_integer(minor):
    """A float, a string or a boolean is no count of cents."""
    with pytest.raises(ConfigurationError, match="minor"):
        Money(minor, "usd")
