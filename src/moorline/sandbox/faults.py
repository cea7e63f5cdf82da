"""What goes wrong on request: which fault applies to a request is decided here, without I/O and with a seed.

A fault is one of

``latency``    the answer takes ``seconds`` longer; stacks with other faults
``status``     an error answer: ``status`` (429, 500, 503, …), with ``retry_after``, ``headers``, ``body`` if given
``dropped``    the connection is cut before a byte of the answer
``truncated``  the answer's body stops in the middle, and the connection is cut
``malformed``  a complete HTTP answer whose JSON is broken: cut, garbled, HTML, or not text, chosen by the seed

and applies to requests of ``service``, ``method`` and ``path`` (a shell pattern), skipping the first ``after`` of them,
then to ``count`` of them (None: all), each with ``probability``. ``processed`` says whether the service does its work
first: the fault that loses an answer, not a request.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

from moorline.errors import ConfigurationError

__all__ = ["Fault", "Faults", "Ruling", "broken_json"]

Kind = Literal["latency", "status", "dropped", "truncated", "malformed"]
_NUMBERS: dict[str, tuple[float, float]] = {
    "seconds": (0, 600),
    "status": (400, 599),
    "after": (0, 1e9),
    "count": (1, 1e9),
    "probability": (0, 1),
}
_WHOLE = frozenset({"status", "after", "count"})


@dataclass(frozen=True, slots=True)
class Fault:
    """One rule. ``retry_after`` goes out as given: seconds, or the text of an HTTP date."""

    kind: Kind
    service: str | None = None
    method: str | None = None
    path: str = "*"
    count: int | None = None
    after: int = 0
    probability: float = 1.0
    seconds: float = 0.0
    status: int = 503
    retry_after: str | float | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None
    processed: bool | None = None

    @classmethod
    def parse(cls, record: object) -> Fault:
        """Read one from JSON. Raises ConfigurationError naming the key that is unknown or out of range."""
        if not isinstance(record, dict):
            raise ConfigurationError("a fault is a JSON object with at least a 'kind'")
        known = {item.name for item in fields(cls)}
        for key in record:
            if key not in known:
                raise ConfigurationError(f"fault: unknown key {key!r}; known: {', '.join(sorted(known))}")
        if record.get("kind") not in get_args(Kind):
            raise ConfigurationError(f"fault: 'kind' must be one of {', '.join(get_args(Kind))}")
        for key, (low, high) in _NUMBERS.items():
            _check_number(key, record.get(key), low, high)
        for key in ("service", "method", "path"):
            if not isinstance(record.get(key, ""), str | None):
                raise ConfigurationError(f"fault: {key!r} must be text")
        headers = record.get("headers", {})
        if not isinstance(headers, dict) or not all(_sendable(value) for value in headers.values()):
            raise ConfigurationError("fault: 'headers' must be an object of texts without line breaks")
        if record.get("retry_after") is not None and not _sendable(record["retry_after"]):
            raise ConfigurationError("fault: 'retry_after' must be seconds or the text of a date")
        if not isinstance(record.get("processed"), bool | None):
            raise ConfigurationError("fault: 'processed' must be true or false")
        return cls(**{key: value for key, value in record.items() if value is not None or key == "body"})

    @property
    def acts(self) -> bool:
        """Whether the service does its work although the answer goes wrong."""
        return self.kind in ("latency", "truncated", "malformed") if self.processed is None else self.processed

    def fits(self, service: str, method: str, path: str) -> bool:
        """Whether the rule speaks of this request; ``path`` is without the service's prefix."""
        if self.service not in (None, service):
            return False
        if self.method is not None and self.method.upper() != method:
            return False
        return fnmatchcase(path, self.path)


def _sendable(value: object) -> bool:
    """Whether it can be a header's value."""
    if isinstance(value, str):
        return value.isascii() and value.isprintable()
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_number(key: str, value: object, low: float, high: float) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ConfigurationError(f"fault: {key!r} must be a number from {low:g} to {high:g}, not {value!r}")
    if key in _WHOLE and not isinstance(value, int):
        raise ConfigurationError(f"fault: {key!r} must be a whole number, not {value!r}")


@dataclass(frozen=True, slots=True)
class Ruling:
    """What happens to one request: seconds of delay, and the fault that shapes the answer, if any."""

    delay: float = 0.0
    fault: Fault | None = None
    number: int = 0


class _Armed:
    """A fault with its counters and its own random source, so that faults do not disturb each other's dice."""

    def __init__(self, number: int, fault: Fault, seed: int) -> None:
        self.number = number
        self.fault = fault
        self.random = random.Random(f"{seed}/{number}")
        self.seen = 0
        self.hits = 0

    def strikes(self, service: str, method: str, path: str) -> bool:
        if not self.fault.fits(service, method, path) or self.spent:
            return False
        self.seen += 1
        if self.seen <= self.fault.after:
            return False
        if self.fault.probability < 1.0 and self.random.random() >= self.fault.probability:
            return False
        self.hits += 1
        return True

    @property
    def spent(self) -> bool:
        return self.fault.count is not None and self.hits >= self.fault.count


class Faults:
    """All armed faults. The same seed, faults and requests give the same rulings."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._armed: list[_Armed] = []
        self._numbers = 0

    def add(self, fault: Fault) -> int:
        """Arm one; answers its number."""
        self._numbers += 1
        self._armed.append(_Armed(self._numbers, fault, self.seed))
        return self._numbers

    def clear(self, service: str | None = None, number: int | None = None) -> int:
        """Disarm all, those of one service, or one; answers how many."""
        keep = [
            armed
            for armed in self._armed
            if (service is not None and armed.fault.service != service)
            or (number is not None and armed.number != number)
        ]
        gone = len(self._armed) - len(keep)
        self._armed = keep
        return gone

    def rule(self, service: str, method: str, path: str) -> Ruling:
        """Decide about one request. Delays add up; of the other faults the first that strikes counts."""
        delay = 0.0
        for armed in self._armed:
            if not armed.strikes(service, method, path):
                continue
            if armed.fault.kind == "latency":
                delay += armed.fault.seconds
            else:
                return Ruling(delay, armed.fault, armed.number * 1_000_003 + armed.hits)
        return Ruling(delay)

    def listing(self) -> list[dict[str, Any]]:
        """The armed faults and what they did, as JSON."""
        return [
            {
                "number": armed.number,
                **{item.name: getattr(armed.fault, item.name) for item in fields(armed.fault)},
                "seen": armed.seen,
                "hits": armed.hits,
                "spent": armed.spent,
            }
            for armed in self._armed
        ]


def broken_json(body: bytes, *, seed: int) -> bytes:
    """The body spoilt in one of the ways that gateways and half-written files spoil it. Never valid JSON."""
    dice = random.Random(seed)
    cut = dice.randrange(1, len(body)) if len(body) > 1 else 0
    return dice.choice(
        [
            body[:cut] if body[:1] in (b"{", b"[") else body[:cut] + b"{",
            body + b'{"trailing":',
            b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>",
            b"\xff\xfe" + body,
            b"{'single': 'quotes', }",
        ]
    )
