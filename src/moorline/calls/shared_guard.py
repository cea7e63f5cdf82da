"""What one guard asks the shared store and tells it: may this attempt be made, how did it end, may it be repeated."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from moorline.calls.shared_store import Message, Question, SharedStore
from moorline.policies.quota import Quota

if TYPE_CHECKING:
    from moorline.policies.allowance import Reading
    from moorline.policies.breaker import Breaker, Terms
    from moorline.policies.gate import Gate
    from moorline.policies.rate import RateLimit

__all__ = ["Agreed", "SharedGuard"]

_SCARCE: Final = 500.0  # remaining calls, above which a limit needs no counting by all
_RARE: Final = 0.2  # of the limit, below which it does
_LONGEST_NAME: Final = 200  # of a limit: names come from headers
_LONGEST: Final = 366 * 86_400.0  # seconds
_VERSION: Final = 1  # of what is stored: programs of two versions may run at the same time


class Agreed:
    """What all processes let an attempt have. Settled once, like the permit of the local breaker; what it took of the
    limits is given back where it was never sent.
    """

    __slots__ = ("_answer", "_cost", "_guard", "_lane", "_settled")

    def __init__(self, guard: SharedGuard, answer: Message, lane: str, cost: float) -> None:
        self._guard = guard
        self._answer = answer
        self._lane = lane
        self._cost = cost
        self._settled = False

    def settle(self, *, worked: bool | None, elapsed: float) -> None:
        """As ``Permit.settle``."""
        if not self._settled:
            self._settled = True
            for message in self._guard.settled(self._answer, worked=worked, elapsed=elapsed):
                self._guard.store.tell(message)

    def unsent(self) -> None:
        """It was never sent."""
        self._guard.store.tell(self._guard.refund(self._lane, self._cost))


class SharedGuard:
    """The shared side of a ``Guard``: the names of its parts in the store, and the rules that hold for them.

    Processes whose rules differ share nothing of that part, so that a change of configuration that is being rolled out
    confuses nobody. Of a tenant or an account only a digest is stored.
    """

    def __init__(
        self,
        store: SharedStore,
        name: str,
        breaker: Breaker | None,
        terms: Terms,
        rates: Iterable[RateLimit],
        budget: float | None,
        tenant: str = "",
        account: str = "",
    ) -> None:
        self.store = store
        self._rules = {} if breaker is None else asdict(breaker)
        self._slow = terms.slow
        self._terms = {"lease": terms.lease, "slow": None if math.isinf(terms.slow) else terms.slow}
        self._quotas = [_quota(rate) for rate in rates]
        self._budget = budget
        gate = f":{_digest(self._quotas)}" if self._quotas else ""
        # In braces is what a cluster looks at: the parts of a service lie together.
        service = f"moorline:{_VERSION}:{{" + name.replace("{", "(").replace("}", ")")[:200] + "}"
        self._keys = {
            "service": service,
            "breaker": "" if breaker is None else f"{service}:breaker:{_digest(self._rules)}",
            "gate": f"{service}:gate{gate}:{_digest(account)}" if account else f"{service}:gate{gate}",
            "budget": f"{service}:budget:{budget:g}:{_digest(tenant)}" if budget is not None else "",
        }
        self._keep = max((rate["burst"] / rate["rate"] for rate in self._quotas), default=0.0)

    # Questions -------------------------------------------------------------------------------------------------------

    def admit(self, lane: str, cost: float, longest: float, *, first: bool, ruled: bool) -> Question:
        """Whether an attempt may be made that waits less than *longest* seconds. The *first* of a call earns a share of
        a retry. *ruled* tells whether the shared breaker has a say: an operator may have forced the local one.
        """
        keys = self._keys if ruled else {**self._keys, "breaker": ""}
        message: Message = {
            "do": "admit",
            "keys": keys,
            "rules": self._rules,
            **self._terms,
            "quotas": self._quotas,
            "keep": self._keep,
            "lane": lane,
            "cost": cost,
            "longest": None if math.isinf(longest) else longest,
            "earned": self._budget or 0.0 if first else 0.0,
        }

        def undone(answer: Message) -> list[Message]:
            if "no" in answer:
                return []
            return [*self.settled(answer, worked=None, elapsed=0.0), self.refund(lane, cost)]

        return Question(message, undone)

    def retry(self) -> Question:
        """Whether the budget of all processes pays for one more retry."""
        return Question(self._about_budget("retry"), lambda answer: [] if "no" in answer else [self.unretried()])

    def agreed(self, answer: Message, lane: str, cost: float) -> Agreed:
        """What an attempt holds that was let pass."""
        return Agreed(self, answer, lane, cost)

    # What is told ----------------------------------------------------------------------------------------------------

    def unretried(self) -> Message:
        """A retry that was paid for was not made."""
        return self._about_budget("unretry")

    def _about_budget(self, deed: str) -> Message:
        return {"do": deed, "keys": {"service": self._keys["service"], "budget": self._keys["budget"]}}

    def settled(self, answer: Message, *, worked: bool | None, elapsed: float) -> list[Message]:
        """What to tell at once of an attempt that ended. Good answers are only counted, and told with the next
        question.
        """
        generation, probe = answer.get("generation"), answer.get("probe")
        if generation is None or (worked is None and probe is None):
            return []
        message: Message = {
            "keys": {"service": self._keys["service"], "breaker": self._keys["breaker"]},
            "rules": self._rules,
            "generation": generation,
        }
        if worked and probe is None:
            good = {**message, "do": "worked", "calls": 0, "slowed": 0, "slow": self._terms["slow"]}
            self.store.count(good, slow=elapsed > self._slow)
            return []
        return [{**message, "do": "settle", "probe": probe, "worked": worked, "elapsed": elapsed, **self._terms}]

    def refund(self, lane: str, cost: float) -> Message:
        """What an attempt took of the limits was not used."""
        return {"do": "refund", "keys": self._gate, "quotas": self._quotas, "lane": lane, "cost": cost}

    def heard(self, gate: Gate, operation: str, readings: Sequence[Reading], close: float) -> None:
        """An answer to *operation* said something of limits: *readings*, of which *gate* may have learnt more, and for
        how many seconds it wants nobody to call.
        """
        for reading in readings:
            if reading.sound and reading.closed:
                told = {"readings": [], "close": reading.resets_in or 0.0, "lane": reading.bucket}
                self.store.tell({"do": "heard", "keys": self._gate, **told})
        scarce = [
            {
                **reading._asdict(),
                "limit": None if reading.limit is None else max(reading.limit, reading.remaining),
                **dict(zip(("lane", "refill", "slides"), gate.known_of(reading, operation), strict=True)),
            }
            for reading in readings
            if reading.sound
            and not reading.closed
            and _is_scarce(reading)
            and len(reading.bucket + reading.policy) <= _LONGEST_NAME
        ]
        if scarce or close > 0:
            lane, seconds = gate.lane_of(operation), min(max(close, 0.0), _LONGEST)
            self.store.tell({"do": "heard", "keys": self._gate, "readings": scarce, "close": seconds, "lane": lane})

    @property
    def _gate(self) -> dict[str, str]:
        return {"service": self._keys["service"], "gate": self._keys["gate"]}


def _is_scarce(reading: Reading) -> bool:
    return reading.remaining <= _SCARCE or (reading.limit is not None and reading.remaining < _RARE * reading.limit)


def _quota(rate: RateLimit) -> dict[str, Any]:
    burst = rate.limit if rate.burst is None else rate.burst
    return {"rate": rate.limit / rate.per, "burst": burst, "text": f"{Quota(rate, 0.0)}, for all processes"}


def _digest(value: Any) -> str:
    return hashlib.blake2b(repr(value).encode(), digest_size=8).hexdigest()
