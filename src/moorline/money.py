"""``Money``: an integer amount of a currency's smallest unit, so that no cent is lost to a float."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from moorline.errors import ConfigurationError

__all__ = ["Money"]

# ISO 4217: currencies whose smallest unit is not a hundredth. All others have two digits.
_DIGITS: Final[dict[str, int]] = {
    **dict.fromkeys(
        [
            "bif",
            "clp",
            "djf",
            "gnf",
            "isk",
            "jpy",
            "kmf",
            "krw",
            "pyg",
            "rwf",
            "ugx",
            "uyi",
            "vnd",
            "vuv",
            "xaf",
            "xof",
            "xpf",
        ],
        0,
    ),
    **dict.fromkeys(["bhd", "iqd", "jod", "kwd", "lyd", "omr", "tnd"], 3),
    **dict.fromkeys(["clf", "uyw"], 4),
}
_CODE_LENGTH: Final = 3
_LONGEST: Final = 60  # digits; "1e999999999" must not become an integer of that length


@dataclass(frozen=True, slots=True)
class Money:
    """``Money(2000, "usd")`` is 20.00 USD: *minor* counts the smallest unit (cents; yen; a thousandth of a Kuwaiti
    dinar).

    The currency is an ISO 4217 code in any case, kept in lower case.

    Raises ConfigurationError for a *minor* that is not an integer or a *currency* that is not three letters.
    """

    minor: int
    currency: str

    def __post_init__(self) -> None:
        minor: Any = self.minor  # callers without type checker pass anything
        if not isinstance(minor, int) or isinstance(minor, bool):
            raise ConfigurationError(
                f"minor must be an integer of the currency's smallest unit, not {type(self.minor).__name__}; "
                'for a decimal amount use Money.of("20.00", "usd")'
            )
        object.__setattr__(self, "currency", _code(self.currency))

    @classmethod
    def of(cls, amount: Decimal | str | int, currency: str) -> Money:
        """Money from a decimal amount: ``Money.of("20.00", "usd")``. A float is refused, as it cannot hold 0.10.

        Raises ConfigurationError when *amount* is no number, or has more digits than the currency.
        """
        code = _code(currency)
        if isinstance(amount, bool) or not isinstance(amount, (Decimal, str, int)):
            raise ConfigurationError(f"amount must be a Decimal, a string or an integer, not {type(amount).__name__}")
        try:
            exact = Decimal(amount)
        except InvalidOperation:
            raise ConfigurationError(f"amount {amount!r} is not a decimal number") from None
        if not exact.is_finite():
            raise ConfigurationError(f"amount must be a finite number, not {amount}")
        digits = _DIGITS.get(code, 2)
        sign, coefficient, exponent = exact.as_tuple()
        assert isinstance(exponent, int)  # finite
        # Integers throughout: Decimal arithmetic rounds to the context's precision.
        whole = int("".join(map(str, coefficient)) or "0")
        shift = exponent + digits
        if not -_LONGEST < shift < _LONGEST:
            raise ConfigurationError(f"amount {amount} is outside of what an amount of money can be")
        if shift < 0:
            whole, lost = divmod(whole, 10**-shift)
            if lost:
                raise ConfigurationError(f"amount {amount} has more than the {digits} decimal places of {code.upper()}")
        else:
            whole *= 10**shift
        return cls(-whole if sign else whole, code)

    @property
    def decimal(self) -> Decimal:
        """The amount in the currency's main unit, exact: ``Decimal("20.00")``."""
        digits = _DIGITS.get(self.currency, 2)
        return Decimal((int(self.minor < 0), tuple(map(int, str(abs(self.minor)))), -digits))

    def __str__(self) -> str:
        return f"{self.decimal:f} {self.currency.upper()}"


def _code(currency: Any) -> str:
    if (
        not isinstance(currency, str)
        or len(currency) != _CODE_LENGTH
        or not (currency.isascii() and currency.isalpha())
    ):
        raise ConfigurationError(f"currency must be a three-letter ISO 4217 code such as 'usd', not {currency!r}")
    return currency.lower()
