"""Failover: one object for several services of a kind. A Call goes to the first, and to the next when that cannot."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from moorline import telemetry
from moorline.calls import story
from moorline.calls.call import Call, check_payload
from moorline.calls.options import Options, Unset
from moorline.calls.paging import Pages
from moorline.errors import (
    AllServicesFailed,
    BadAnswer,
    CallerFault,
    CallError,
    CircuitOpen,
    ConfigurationError,
    ConnectFailed,
    CredentialFault,
    OutcomeUnknown,
    UnknownJob,
)
from moorline.policies.deadline import deadline, remaining

if TYPE_CHECKING:
    from moorline.calls.service import Service

__all__ = ["Failover", "FailoverCall"]

T = TypeVar("T")
_log: Final = telemetry.logger("calls")
_CAREFUL: Final = "payments"  # what an error says of them is not proof enough to charge somewhere else
_PAYLOAD: Final = ("failover", "duplicates", "operation", "args", "keys", "pinned", "options")


class Failover:
    """*services* that share operations, in the order of preference: ``Failover(SendGrid(), SES())``.

    It has the operations that all of them have (those of their category's protocol), which make Calls as a service's
    do. Such a Call goes to the first service, and to the next one when that one cannot: its breaker is open (which
    takes no time), nobody answers, it fails after its retries, or its limit lasts longer than the deadline. Each has
    its own credential, address and policy; ``using(timeout=…)`` bounds them all together.

    A caller's fault is raised at once: a bad address is bad everywhere. But what a later service refuses before
    anything is sent (it cannot send at a later time, say) is of that service alone, and the next one is asked. A
    refused credential is logged as an error, and the next service asked. A write of which nobody knows whether it was
    done is never given to another service: OutcomeUnknown is raised, unless *at_least_once* says that twice is better
    than never. Of payments only those move on that never left: an open breaker, a connection that could not be made.
    When all fail, AllServicesFailed has the error of each.

    Raises ConfigurationError for what are no services, or fewer than two.
    """

    def __init__(self, *services: Service | type[Service], at_least_once: bool = False) -> None:
        from moorline.calls.service import Service as Base

        members: list[Any] = [one() if isinstance(one, type) else one for one in services]
        strange = [type(one).__name__ for one in members if not isinstance(one, Base)]
        if strange:
            raise ConfigurationError(f"Failover takes services, not {strange[0]}")
        if len(members) < 2:
            raise ConfigurationError(f"Failover needs two services or more, not {len(members)}")
        if at_least_once and any(one.category == _CAREFUL for one in members):
            raise ConfigurationError("Failover.at_least_once: a payment that is made twice is no better than none")
        self.services: tuple[Service, ...] = tuple(members)
        self.at_least_once = at_least_once

    def __repr__(self) -> str:
        return f"<Failover {self.name}>"

    @property
    def name(self) -> str:
        """The services' names, in their order."""
        return ", ".join(service.name for service in self.services)

    def __getattr__(self, name: str) -> Callable[..., FailoverCall[Any]]:
        if name.startswith("_"):
            raise AttributeError(f"Failover has no attribute {name!r}")
        for service in self.services:
            try:
                service.operation_named(name)
            except UnknownJob:
                raise AttributeError(f"{service.name} has no operation {name!r}, which all of {self!r} must") from None
        return _Operation(self, name)

    def __dir__(self) -> list[str]:
        shared = [
            {name for name in dir(type(service)) if hasattr(getattr(type(service), name), "operation")}
            for service in self.services
        ]
        return sorted({*super().__dir__(), *(name for name in set.intersection(*shared) if name[0] != "_")})


class _Operation:
    """An operation that several services have."""

    def __init__(self, failover: Failover, name: str) -> None:
        self.failover = failover
        self.name = name

    def __call__(self, *args: Any, **kwargs: Any) -> FailoverCall[Any]:
        """The Call of it. Raises what the first service raises for arguments that it refuses."""
        first = _made(self.failover.services[0], self.name, args, kwargs)
        return FailoverCall(
            first.service,
            first.operation,
            args,
            kwargs,
            plan=first.plan,
            failover=self.failover,
            members={0: first},
        )

    def __repr__(self) -> str:
        return f"<{self.name} of {self.failover!r}>"


def _made(service: Service, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call[Any]:
    made = getattr(service, name)(*args, **kwargs)
    if isinstance(made, Pages):
        raise ConfigurationError(f"{name} is a listing, which cannot fail over: pages of one service are no other's")
    return cast("Call[Any]", made)


@dataclass(frozen=True, slots=True, eq=False)
class FailoverCall(Call[T]):
    """A Call that may go to any of several services. ``service`` and ``plan`` are the first one's."""

    failover: Failover = field(default=cast("Failover", None), repr=False)
    # By position, made when they are needed; copies share them, so that a repeated Call carries the same keys.
    members: dict[int, Call[Any]] = field(default_factory=dict, repr=False)
    # The one that may have done it: whoever sends the Call again must not have another do it too.
    pinned: list[int] = field(default_factory=list, repr=False)
    asked: list[int] = field(default_factory=list, repr=False)  # in the last sending

    # Sending ---------------------------------------------------------------------------------------------------------

    def result(self) -> T:
        """Send it and block until one of the services has answered. Raises as ``Call.result`` does."""
        self._check_blocking()
        try:
            with self._bounded():
                return self._answered()
        except CallError as error:
            return cast("T", self._waited(self.instead_of(error)))

    def _answered(self) -> T:
        steps = self._steps()
        try:
            call = next(steps)
            while True:
                try:
                    answer = call.taken(call.service.send_call_blocking(call))
                except CallError as error:
                    call = steps.throw(error)
                else:
                    return cast("T", answer)
        finally:
            steps.close()

    async def _answered_async(self) -> T:
        try:
            with self._bounded():
                return await self._first_answer()
        except CallError as error:
            instead = self.instead_of(error)
            return cast("T", await instead if inspect.isawaitable(instead) else instead)

    async def _first_answer(self) -> T:
        steps = self._steps()
        try:
            call = next(steps)
            while True:
                try:
                    answer = call.taken(await call.service.send_call(call))
                except CallError as error:
                    call = steps.throw(error)
                else:
                    return cast("T", answer)
        finally:
            steps.close()

    def _bounded(self) -> AbstractContextManager[None]:
        """``using(timeout=…)`` is for all services together; each has its own deadline besides."""
        seconds = self.options.timeout
        if isinstance(seconds, Unset) or seconds is None:
            return nullcontext()
        return deadline(seconds, clock=self.service.clock)

    def _steps(self) -> Generator[Call[Any], Any, None]:
        """The Calls to send, one after another, each resumed with the error of the one before. Raises what ends it."""
        errors: list[CallError] = []
        services = self.failover.services
        positions = self.pinned or list(range(len(services)))
        self.asked.clear()
        for position in positions:
            self.asked.append(position)
            later = services[position + 1].name if position < positions[-1] else None
            try:
                yield self.member(position)
            except CallError as error:
                error.service = error.service or services[position].name
                errors.append(error)
                self._check_next(error, position, later)
            except GeneratorExit:  # it answered, or was cancelled, which may be too late
                self._pin(position)
                raise
            if remaining(clock=self.service.clock) == 0:
                break
        if len(errors) == 1:
            raise errors[0]
        raise AllServicesFailed.of(self.operation, errors) from errors[-1]

    def _check_next(self, error: CallError, position: int, later: str | None) -> None:
        """Raise what ends it all: a fault that no other service would forgive, or what must not be done twice."""
        if isinstance(error, CallerFault):
            # The first asked speaks for all: these arguments were made for it. Of a later one's own limits the caller
            # need not know while another can, and if none can, the failure that led to it may pass.
            if not self.asked[:-1] or error.outcome != "not_sent":
                raise error
        elif not self.plan.reads:
            careful = self.failover.services[position].category == _CAREFUL
            if careful and not isinstance(error, (CircuitOpen, ConnectFailed)):
                self._pin(position)
                raise _undecided(error, later) if error.outcome == "unknown" else error
            if isinstance(error, BadAnswer):  # it took the request, and what it said of it cannot be read
                self._pin(position)
                raise error
            if error.outcome == "unknown" and not self.failover.at_least_once:
                self._pin(position)
                raise _undecided(error, later)
        if later is not None:
            self.failover.services[position].passed_on(later)
            write = _log.error if isinstance(error, CredentialFault) else _log.warning
            facts = {"reason": error.message, "error": type(error).__name__, "outcome": error.outcome}
            write("failover", service=error.service, operation=self.operation, next=later, **facts)
            if story.watchers:
                now = self.failover.services[position].clock.wall()
                name, why = error.service, error.message
                story.tell(story.FellBack(at=now, service=name, operation=self.operation, reason=why, to=later))

    def _pin(self, position: int) -> None:
        if not self.plan.reads and not self.failover.at_least_once:
            self.pinned[:] = [position]

    def member(self, position: int) -> Call[Any]:
        """The Call for the service at *position*, with the options of this one. Raises what that service refuses."""
        made = self.members.get(position)
        if made is None:
            service = self.failover.services[position]
            made = self.members[position] = _made(service, self.operation, self.args, self.kwargs)
        return replace(made, options=self.options, raw=self.raw, last=self.last)

    def instead_of(self, error: CallError) -> Any:
        """As of a Call; the last good answer may be that of any of the services that were asked."""
        if self.last is None:
            return Call.instead_of(self, error)
        failed = {each.service: each for each in getattr(error, "errors", ())}
        for position in sorted(self.members):
            call = self.member(position)
            kept = self.last.find(call, failed.get(call.service.name, error))
            if kept is not None:
                return kept if self.raw else call.service.parsed(call, kept)
        return Call.instead_of(replace(self, last=None), error)

    def explain(self) -> str:
        """What happened at each of the services when this Call was last sent."""
        told = [self.members[position].explain() for position in self.asked if position in self.members]
        return "\n".join(told) or Call.explain(self)

    @property
    def services(self) -> tuple[Service, ...]:
        """Where it may be sent."""
        return self.failover.services

    @property
    def repeatable(self) -> bool:
        """Whether sending it again does nothing that sending it once does not: no key is known to all services."""
        return self.plan.reads or self.failover.at_least_once

    # Changing and storing --------------------------------------------------------------------------------------------

    def keyed(self, idempotency_key: str) -> FailoverCall[T]:
        """The same Call with that key at each service that honours keys. Raises ConfigurationError if none does."""
        members: dict[int, Call[Any]] = {}
        for position in range(len(self.services)):
            made = self.member(position)
            members[position] = made if made.idempotency_key is None else made.keyed(idempotency_key)
        if all(made.idempotency_key is None for made in members.values()):
            raise ConfigurationError(f"idempotency_key: none of {self.failover.name} honours one on {self.operation}")
        return replace(self, members=members, pinned=[], asked=[])

    def to_payload(self) -> dict[str, Any]:
        """The Call as JSON, with the names of the services and the key for each. Raises as ``Call.to_payload``."""
        self._check_durable()
        keys: dict[str, Any] = {}
        for position, service in enumerate(self.services):
            try:
                keys[str(position)] = self.member(position).key_payload()
            except CallError as error:  # it refuses these arguments, which matters only if it is ever asked
                _log.warning("failover_refused", service=service.name, operation=self.operation, reason=error.message)
        return {
            "failover": [service.name for service in self.services],
            "duplicates": self.failover.at_least_once,
            "operation": self.operation,
            "args": self.service.operation_named(self.operation).encode(self.args, self.kwargs),
            "keys": keys,
            "pinned": list(self.pinned),
            "options": self.options.to_payload(),
        }

    @staticmethod
    def restored(payload: Mapping[str, Any], resolve: Callable[[str], Service], attempt: int) -> FailoverCall[Any]:
        """The Call of a payload, for ``Call.from_payload``. Raises as that does."""
        check_payload(payload, _PAYLOAD)
        failover = Failover(*(resolve(name) for name in payload["failover"]), at_least_once=payload["duplicates"])
        name = payload["operation"]
        decoders = [service.operation_named(name) for service in failover.services]
        args, kwargs = decoders[0].decode(payload["args"])
        call = _Operation(failover, name)(*args, **kwargs)
        for position, key in payload["keys"].items():
            call.members[int(position)] = call.member(int(position)).with_key_of(key, attempt)
        call.pinned.extend(payload["pinned"])
        return replace(call, options=Options.from_payload(payload["options"]))


def _undecided(error: CallError, later: str | None) -> CallError:
    """*error* as OutcomeUnknown, which says why nobody else was asked."""
    if isinstance(error, OutcomeUnknown):
        return error
    also = f"; not given to {later}, which might do it a second time" if later else ""
    told = OutcomeUnknown(f"{error.message}{also}")
    vars(told).update({name: value for name, value in vars(error).items() if name != "message"})
    told.__cause__ = error
    return told
