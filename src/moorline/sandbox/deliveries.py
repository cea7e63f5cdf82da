"""Webhooks that go out: who registered for what, the signed requests, and a log of every delivery.

A delivery is tried once (the vendors' retries over hours are of no use in a test): ask for ``repeat`` to see
duplicates, which carry the same id and body and a fresh signature.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx2

from moorline.clock import SYSTEM, Clock
from moorline.errors import ConfigurationError
from moorline.sandbox.standin import Emission, Registration, StandIn

__all__ = ["Deliveries", "Target"]

_KEPT = 2000


@dataclass(frozen=True, slots=True)
class Target:
    """A registered receiver. ``events`` are names or ``*``; each event is sent ``repeat`` times.

    ``broken`` signs wrongly; ``secrets`` with several entries signs with each where the vendor's header can hold them.
    """

    id: str
    service: str
    url: str
    secrets: tuple[str, ...]
    events: tuple[str, ...] = ("*",)
    repeat: int = 1
    broken: bool = False

    def wants(self, event: str) -> bool:
        """``issues`` registers for all actions of it, ``issues.opened`` for one."""
        return any(wish in ("*", event, event.partition(".")[0]) for wish in self.events)

    def shown(self) -> dict[str, Any]:
        """As JSON, without the secrets."""
        return {
            "id": self.id,
            "service": self.service,
            "url": self.url,
            "secrets": len(self.secrets),
            "events": list(self.events),
            "repeat": self.repeat,
            "broken_signature": self.broken,
        }


def parse_target(record: object, registrations: Mapping[str, Registration], id: str) -> Target:
    """Read a target from JSON. Raises ConfigurationError naming the wrong key."""
    if not isinstance(record, dict):
        raise ConfigurationError("a webhook target is a JSON object with 'service' and 'url'")
    known = {"service", "url", "secret", "secrets", "events", "repeat", "broken_signature", "id", "ping"}
    for key in record:
        if key not in known:
            raise ConfigurationError(f"webhook: unknown key {key!r}; known: {', '.join(sorted(known))}")
    service, url = record.get("service"), record.get("url")
    if not isinstance(service, str) or service not in registrations:
        raise ConfigurationError(f"webhook: 'service' must be one of {', '.join(sorted(registrations))}")
    if not isinstance(url, str) or urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise ConfigurationError("webhook: 'url' must be an http or https URL")
    return Target(
        id=_text(record, "id", id),
        service=service,
        url=url,
        secrets=_secrets(record, registrations[service]),
        events=_texts(record, "events", ("*",)),
        repeat=_repeat(record.get("repeat", 1)),
        broken=bool(record.get("broken_signature", False)),
    )


def _secrets(record: dict[str, Any], registration: Registration) -> tuple[str, ...]:
    if "secret" in record:
        return (_text(record, "secret", ""),)
    default = (registration.secret,) if registration.secret else ()
    return _texts(record, "secrets", default)


def _text(record: dict[str, Any], key: str, default: str) -> str:
    value = record.get(key, default)
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"webhook: {key!r} must be text")
    return value


def _texts(record: dict[str, Any], key: str, default: tuple[str, ...]) -> tuple[str, ...]:
    value = record.get(key, default)
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) and item for item in value):
        raise ConfigurationError(f"webhook: {key!r} must be a list of texts")
    return tuple(value)


def _repeat(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1000:
        raise ConfigurationError("'repeat' must be a whole number from 1 to 1000")
    return value


@dataclass(slots=True)
class Deliveries:
    """Sends emissions to targets in the background and remembers the outcome of each, newest last."""

    clock: Clock = SYSTEM
    targets: dict[str, Target] = field(default_factory=dict)
    log: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=_KEPT))
    client: httpx2.AsyncClient | None = None
    _running: set[asyncio.Task[None]] = field(default_factory=set)
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def send(self, service: str, stand_in: StandIn, emission: Emission) -> None:
        """Send to every target of the service that wants the event; returns at once."""
        for target in list(self.targets.values()):
            if target.service == service and target.wants(emission.event):
                task = asyncio.get_running_loop().create_task(self.deliver(target, stand_in, emission))
                self._running.add(task)
                task.add_done_callback(self._running.discard)

    async def settle(self) -> None:
        """Wait until nothing is under way."""
        while self._running:
            await asyncio.wait(list(self._running))

    async def deliver(
        self, target: Target, stand_in: StandIn, emission: Emission, *, broken: bool = False, repeat: int | None = None
    ) -> None:
        """Send one emission to one target, ``repeat`` times one after the other."""
        for turn in range(1, (repeat or target.repeat) + 1):
            signed = stand_in.sign(
                emission,
                url=target.url,
                secrets=target.secrets,
                hook_id=target.id,
                broken=broken or target.broken,
            )
            entry: dict[str, Any] = {
                "number": next(self._numbers),
                "service": target.service,
                "target": target.id,
                "url": target.url,
                "event": emission.event,
                "id": emission.id,
                "repeat": turn,
                "broken_signature": broken or target.broken,
                "sent_at": self.clock.wall(),
                "status": None,
                "error": None,
            }
            try:
                response = await self._client().post(
                    signed.url or target.url,
                    content=emission.body if signed.body is None else signed.body,
                    headers=dict(signed.headers),
                )
                entry["status"] = response.status_code
            except httpx2.TransportError as error:
                entry["error"] = f"{type(error).__name__}: {error}"
            entry["ms"] = round((self.clock.wall() - entry["sent_at"]) * 1000, 1)
            self.log.append(entry)

    def _client(self) -> httpx2.AsyncClient:
        if self.client is None:
            # Proxies of the environment must not see webhooks that go to the same machine.
            self.client = httpx2.AsyncClient(timeout=10.0, trust_env=False)
        return self.client

    async def close(self) -> None:
        """Stop what is under way and close the connections."""
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        if self.client is not None:
            await self.client.aclose()
            self.client = None
