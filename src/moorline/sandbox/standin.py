"""What a stand-in is: the request it gets, the answer it gives, and the record that registers it.

A stand-in is a class with ``async handle(ask) -> Answer`` and a few small methods (:class:`StandIn`); its file in
``sandbox/services/`` ends with ``STAND_IN = Registration(...)``. Nothing else has to know of it.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol
from urllib.parse import parse_qsl

from moorline.clock import SYSTEM, Clock
from moorline.errors import ConfigurationError

__all__ = ["Answer", "Ask", "Emission", "Registration", "Signed", "StandIn", "Surroundings", "registrations"]

_ALPHABET = "0123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


async def _no_work() -> None:
    return None


@dataclass(frozen=True, slots=True)
class Ask:
    """A request as a stand-in sees it. ``path`` starts after the service's prefix, ``headers`` are lower-case.

    ``base`` is the service's own root as the client spells it, for links in answers. ``work()`` is awaited where the
    vendor takes its time: after the checks that answer at once and while locks are held. Injected latency goes there.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes
    base: str
    work: Callable[[], Awaitable[None]] = _no_work

    @property
    def parameters(self) -> list[tuple[str, str]]:
        """The query's pairs, decoded, in their order; blank values kept."""
        return parse_qsl(self.query, keep_blank_values=True)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer: ``content`` is a JSON value, bytes that go out as they are, or None for no body at all."""

    status: int
    content: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def encoded(self) -> tuple[bytes, dict[str, str]]:
        """The body's bytes, and the headers with a content type that fits."""
        headers = {name.lower(): value for name, value in self.headers.items()}
        if self.content is None:
            return b"", headers
        if isinstance(self.content, bytes):
            headers.setdefault("content-type", "text/plain; charset=utf-8")
            return self.content, headers
        headers.setdefault("content-type", "application/json; charset=utf-8")
        return json.dumps(self.content, ensure_ascii=False, separators=(",", ":")).encode(), headers


@dataclass(frozen=True, slots=True)
class Emission:
    """A webhook to send: the event's name as targets filter it, the raw body, and the id that repeats carry again."""

    event: str
    body: bytes
    id: str


@dataclass(frozen=True, slots=True)
class Signed:
    """A webhook's request: its headers, and body and address where signing changes them."""

    headers: Mapping[str, str]
    body: bytes | None = None
    url: str | None = None


@dataclass(slots=True)
class Surroundings:
    """What a stand-in is given: the time, a seeded source of ids, and a way to send webhooks to whoever registered."""

    seed: int = 0
    clock: Clock = SYSTEM
    emit: Callable[[Emission], None] = lambda _: None
    random: Random = field(init=False)

    def __post_init__(self) -> None:
        self.random = Random(self.seed)

    def id(self, prefix: str, length: int = 24) -> str:
        """A new id in the vendors' manner: ``pi_`` and letters; the same ones for the same seed."""
        return prefix + "".join(self.random.choices(_ALPHABET, k=length))

    def now(self) -> int:
        """Whole seconds since the epoch."""
        return int(self.clock.wall())


class StandIn(Protocol):
    """The behaviour of one service."""

    async def handle(self, ask: Ask) -> Answer:
        """Answer as the vendor would: authenticate, validate, change the state, send webhooks."""
        ...

    def snapshot(self) -> dict[str, Any]:
        """The state as JSON, for ``GET /_sandbox/state``."""
        ...

    def failure(self, status: int) -> Answer:
        """The vendor's own error shape for an injected status (429, 500, 503, …)."""
        ...

    def sample(self, event: str) -> bytes:
        """A body of that event that the stand-in makes itself; raises ConfigurationError when it knows none."""
        ...

    def sign(self, emission: Emission, *, url: str, secrets: tuple[str, ...], hook_id: str, broken: bool) -> Signed:
        """The webhook's request to *url*; with ``broken`` the signature does not fit. See :mod:`.signing`."""
        ...


@dataclass(frozen=True, slots=True)
class Registration:
    """The record of one stand-in. ``events`` are those that it sends by itself; ``ping`` is sent to a new target."""

    name: str
    make: Callable[[Surroundings], StandIn]
    secret: str | None = None
    events: tuple[str, ...] = ()
    ping: str | None = None


def registrations() -> dict[str, Registration]:
    """All stand-ins by name, found by looking into the folder."""
    from moorline.sandbox import services  # the folder's modules import this one

    found: dict[str, Registration] = {}
    for module in pkgutil.iter_modules(services.__path__):
        if module.name.startswith("_"):  # a stand-in's own tables
            continue
        record = getattr(importlib.import_module(f"{services.__name__}.{module.name}"), "STAND_IN", None)
        if not isinstance(record, Registration):
            raise ConfigurationError(f"sandbox/services/{module.name}.py defines no STAND_IN = Registration(...)")
        found[record.name] = record
    return found
