"""Amounts in the units of a service that counts some currencies otherwise than ISO 4217, which Money follows."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from moorline.errors import BadAnswer
from moorline.money import Money
from moorline.services.limits import refused

__all__ = ["CurrencyUnits"]


@dataclass(frozen=True, slots=True)
class CurrencyUnits:
    """Those of *service*, which takes at most *most* of them. Of the currencies in *finer* it counts hundredths, where
    ISO 4217 knows none; of those in *coarser* whole units, where ISO 4217 knows hundredths; of those in *tens*
    thousandths, of which the last digit must be 0.
    """

    service: str
    most: int
    finer: AbstractSet[str]
    coarser: AbstractSet[str]
    tens: AbstractSet[str] = frozenset()

    def sent(self, name: str, amount: Money, *, least: int = 1) -> int:
        """*amount* as the service counts it. Raises InvalidRequest naming the argument *name*."""
        if not isinstance(amount, Money):
            raise refused(name, f"must be Money, not {type(amount).__name__}")
        value, code = amount.minor, amount.currency.upper()
        if amount.currency in self.finer:
            value *= 100
        elif amount.currency in self.coarser:
            value, rest = divmod(value, 100)
            if rest:
                raise refused(name, f"must be whole {code}: {self.service} counts no hundredths of them")
        elif amount.currency in self.tens and value % 10:
            raise refused(name, f"{self.service} takes two decimals of {code} at most, not {amount}")
        if not least <= value <= self.most:
            raise refused(name, f"must be from {least} to {self.most} of the smallest unit, not {value}")
        return value

    def read(self, units: int, currency: str) -> Money:
        """The Money of so many *units* in an answer. Raises BadAnswer."""
        code = currency.lower()
        if code in self.coarser:
            units *= 100
        elif code in self.finer:
            units, rest = divmod(units, 100)
            if rest:
                raise BadAnswer("the answer's amount is a fraction that ISO 4217 does not know")
        try:
            return Money(units, code)
        except ValueError:
            raise BadAnswer("the answer's currency is not an ISO 4217 code") from None
