"""Last good answers: what ``Call.or_last_good`` gives when a service fails, and how old it is."""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from moorline import telemetry
from moorline.calls.exchange import Exchange
from moorline.calls.identity import identity
from moorline.calls.lru import Lru
from moorline.errors import CallerFault, CallError, ConfigurationError, CredentialFault
from moorline.policies.checks import check_seconds

if TYPE_CHECKING:
    from moorline.calls.call import Call
    from moorline.calls.guards import Guards

__all__ = ["LastGood", "store_of"]

_MAX_BYTES: Final = 32 * 1024 * 1024
_MAX_ENTRIES: Final = 1_000
_OVERHEAD: Final = 500  # bytes of an entry beside its body, about


class _Kept(NamedTuple):
    exchange: Exchange
    at: float


Store = Lru[bytes, _Kept]
_stores: Final[weakref.WeakKeyDictionary[Guards, Store]] = weakref.WeakKeyDictionary()
_lock: Final = threading.Lock()


def store_of(guards: Guards) -> Store:
    """The last good answers of all services that share *guards*: 1,000 of them or 32 MiB, the least used go first."""
    with _lock:
        found = _stores.get(guards)
        if found is None:
            found = _stores[guards] = Lru("last good answers", max_bytes=_MAX_BYTES, max_entries=_MAX_ENTRIES)
        return found


@dataclass(slots=True)
class LastGood:
    """The wish of one Call: answers of at most *max_age* seconds will do (None: of any age).

    *age* is that of the answer which the last sending gave; None when the service itself answered.
    """

    max_age: float | None
    age: float | None = field(default=None, compare=False)

    @classmethod
    def wanted(cls, call: Call[Any], max_age: float | None) -> LastGood:
        """The wish, checked. Raises ConfigurationError for a Call that is no read, and for an age that is none."""
        if max_age is not None:
            check_seconds("or_last_good", "max_age", max_age)
        if not call.plan.reads:
            raise ConfigurationError(
                f"or_last_good: {call.service.name}.{call.operation} is a {call.plan.method} that may act; "
                "an earlier answer would tell of another deed. Only reads have a last good answer"
            )
        return cls(max_age)

    def keep(self, call: Call[Any], exchange: Exchange) -> None:
        """Remember the good answer of *call*."""
        self.age = None
        if exchange.stale:
            return
        service = call.service
        size = _OVERHEAD + len(exchange.body) + sum(len(name) + len(text) for name, text in exchange.headers.items())
        kept = _Kept(exchange.copy(), service.clock.monotonic() - exchange.age)
        store_of(service.guards).put(_key(call), kept, size)

    def find(self, call: Call[Any], error: CallError) -> Exchange | None:
        """The last good answer to the same request by the same credential, if there is one that is young enough.

        None for an *error* that is the caller's fault, or says that this credential may no longer see the answer.
        """
        self.age = None
        if isinstance(error, (CallerFault, CredentialFault)):
            return None
        service = call.service
        try:
            kept = store_of(service.guards).get(_key(call))
        except ConfigurationError:  # the key was taken away meanwhile
            return None
        if kept is None:
            return None
        age = max(service.clock.monotonic() - kept.at, 0.0)
        if self.max_age is not None and age > self.max_age:
            return None
        self.age = age
        found = kept.exchange.copy(age=age, stale=True)
        found.attempts = error.attempts
        log = telemetry.logger("calls")
        log.warning(
            "last_good_answer",
            service=service.name,
            operation=call.operation,
            age=round(age, 1),
            instead_of=type(error).__name__,
        )
        return found


def _key(call: Call[Any]) -> bytes:
    """Of the request as it would be sent now: address, arguments, credential."""
    request = call.service.context_of(call.aside()).request()
    return call.service.name.encode() + b" " + identity(request, call.options.tenant)
