"""``Service``: the base of every service. A service is mostly data; this is the part that does something with it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Final, ParamSpec, TypeVar, cast

from moorline.calls.account import Account, KeySource
from moorline.calls.addresses import PublicAddresses
from moorline.calls.call import Call, DurableQueue
from moorline.calls.dialects import (
    BearerKey,
    Endpoints,
    IdempotencyKey,
    RateLimitHeaders,
    hours,
)
from moorline.calls.drivers import drive, perform, perform_async
from moorline.calls.engine import Pipeline
from moorline.calls.exchange import Exchange, Page, Plan
from moorline.calls.faults import ErrorMap
from moorline.calls.forms import segment
from moorline.calls.guards import PROCESS, Guard, Guards
from moorline.calls.hedge import stoppable
from moorline.calls.operations import Operation, listing, operation
from moorline.calls.options import PLAIN
from moorline.calls.paging import Pages
from moorline.calls.parameters import Parameter
from moorline.calls.renewal import FetchedKey, Renewal
from moorline.calls.sending import ServiceContext
from moorline.calls.upload import Upload
from moorline.calls.wiring import Wires
from moorline.clock import SYSTEM, Clock
from moorline.errors import BadAnswer, CallError, ConfigurationError, UnknownJob
from moorline.policies.checks import check_count
from moorline.policies.deadline import deadline
from moorline.policies.policy import Policy
from moorline.secrets.locker import KeyOf

if TYPE_CHECKING:
    import threading

    import httpx2

    from moorline.calls.cache import Cache

__all__ = [
    "BearerKey",
    "Call",
    "Endpoints",
    "ErrorMap",
    "Exchange",
    "IdempotencyKey",
    "Page",
    "Pages",
    "Parameter",
    "Plan",
    "RateLimitHeaders",
    "Service",
    "hours",
    "listing",
    "operation",
    "segment",
]

S = TypeVar("S", bound="Service")
T = TypeVar("T")
U = TypeVar("U")
P = ParamSpec("P")

_MAX_BODY: Final = 16 * 1024 * 1024


class Service(Account):
    """The base of a service. Subclasses fill in the records and add operations; they do no I/O. ``usage`` are a few
    lines that show it at work; ``oauth`` (an OAuth) says how users connect accounts of theirs; ``lacks`` says of an
    operation that others of the category have why it is not there.

    *api_key* is a string, a Secret, or a function returning one (asked for each attempt; an object with ``__call__``
    and ``refresh`` is told to refresh when the service refuses the key, and the call is tried once more); without it
    the variable that ``credentials`` names is read, at each send. *base_url* replaces ``endpoints``;
    ``MOORLINE_SANDBOX_URL`` in the environment points every service at ``<that>/<name>`` and lets the sandbox's test
    keys stand in for missing ones.
    *policy* replaces the class's; *guards* is the registry of breakers and limits to share (the process's own by
    default); *wire* names the library that speaks HTTP: ``httpx2``, or the faster ``pyreqwest`` or ``aiohttp`` (by
    default what ``MOORLINE_WIRE`` says, else ``httpx2``), or it is an httpx2 transport to send through, sync, async or
    both. *max_body* limits answers, in bytes.
    *cache* keeps answers to GETs as HTTP allows; *coalesce* lets equal reads that are under way at the same time share
    one request (``call.using(coalesce=…)`` for one Call).
    *addresses* says where requests may go at all, redirects included, for a *base_url* that a user gave: a
    PublicAddresses. *parameters* are those that the class declares (``account_sid="AC…"``).

    Raises ConfigurationError naming the argument.
    """

    category: ClassVar[str]
    idempotency: ClassVar[IdempotencyKey | None] = None
    limits: ClassVar[RateLimitHeaders] = RateLimitHeaders()
    errors: ClassVar[ErrorMap] = ErrorMap()
    webhooks: ClassVar[Any] = None
    oauth: ClassVar[Any] = None
    docs: ClassVar[str] = ""
    default_headers: ClassVar[Mapping[str, str]] = {}
    default_policy: ClassVar[Policy] = Policy()
    usage: ClassVar[str] = ""
    lacks: ClassVar[Mapping[str, str]] = {}
    redirects_writes: ClassVar[bool] = False
    """Whether it answers writes with a 307 or 308 that is meant to be followed, within its origin."""

    queue: DurableQueue | None = None
    limited_as: str = ""
    """Which of several accounts at the service this object is for, whose limits its calls count against: a name that
    operators see. Empty where there is one alone, that of the key.
    """

    def __init__(
        self,
        api_key: KeySource | None = None,
        *,
        base_url: str | None = None,
        region: str | None = None,
        policy: Policy | None = None,
        guards: Guards | None = None,
        wire: str | httpx2.BaseTransport | httpx2.AsyncBaseTransport | None = None,
        clock: Clock | None = None,
        max_body: int = _MAX_BODY,
        cache: Cache | None = None,
        coalesce: bool = False,
        addresses: PublicAddresses | None = None,
        **parameters: str | None,
    ) -> None:
        check_count(self.name, "max_body", max_body)
        if policy is not None and not isinstance(policy, Policy):
            raise ConfigurationError(f"{self.name}.policy must be a Policy, not {type(policy).__name__}")
        if guards is not None and not isinstance(guards, Guards):
            raise ConfigurationError(f"{self.name}.guards must be a Guards, not {type(guards).__name__}")
        if addresses is not None and not isinstance(addresses, PublicAddresses):
            raise ConfigurationError(f"{self.name}.addresses must be a PublicAddresses")
        super().__init__(api_key, base_url, region, parameters)
        self.addresses = addresses
        self.cache = _checked_cache(self.name, cache)
        self.coalesce = coalesce
        self._layered = cache is not None or coalesce
        self.wire = wire
        self._wires = Wires(self.name, wire, addresses)
        self.policy = policy or self.default_policy
        self.guards = guards or PROCESS
        self.clock = clock or (self.guards.clock if guards else SYSTEM)
        self.max_body = max_body
        self.fetched = self._fetching()
        source = self._key or KeyOf(self._key_variable)
        self.renewal = self.fetched or Renewal(self.name, source, self.key, self.clock, self.refused)
        self._known_guard: tuple[str, Policy, Guards, Guard] | None = None

    def __repr__(self) -> str:
        try:
            return f"<{type(self).__name__} at {self.base_url}>"
        except ConfigurationError:  # whose address depends on the account, of which nothing is known yet
            return f"<{type(self).__name__}>"

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            why = type(self).lacks.get(name)
            raise AttributeError(f"{type(self).__name__} has no {name!r}{'' if why is None else f': {why}'}")

    # What operations are made of -------------------------------------------------------------------------------------

    def get(self, path: str, *, parse: Callable[[Exchange], T], **plan: Any) -> Plan[T]:
        """A GET of *path*; further arguments are those of Plan: ``query``, ``headers``, ``cost``, …."""
        return Plan("GET", path, parse, **plan)

    def post(self, path: str, *, parse: Callable[[Exchange], T], **plan: Any) -> Plan[T]:
        """A POST to *path*: give ``form``, ``json``, ``content`` or ``upload``; ``repeatable=True``: it only reads."""
        return Plan("POST", path, parse, **plan)

    def put(self, path: str, *, parse: Callable[[Exchange], T], **plan: Any) -> Plan[T]:
        """A PUT of *path*."""
        return Plan("PUT", path, parse, **plan)

    def patch(self, path: str, *, parse: Callable[[Exchange], T], **plan: Any) -> Plan[T]:
        """A PATCH of *path*."""
        return Plan("PATCH", path, parse, **plan)

    def delete(self, path: str, *, parse: Callable[[Exchange], T], **plan: Any) -> Plan[T]:
        """A DELETE of *path*."""
        return Plan("DELETE", path, parse, **plan)

    def post_after(
        self,
        read: Plan[U],
        then: Callable[[U], Plan[T] | None],
        *,
        parse: Callable[[Exchange], T],
        keyed: bool = True,
        json: Any = None,
        overtaken: Collection[str] = frozenset(),
    ) -> Plan[T]:
        """A POST that has to know something first: *read* is sent before it, and *then* makes the POST of what that
        gave. Where nothing is left to do *then* gives None, and *parse* makes the result of the read's own answer.

        *then* may raise InvalidRequest. Give *keyed* as the POST has it, and in *json* what is known of its body, in
        which the caller may have named the key, and in *overtaken* the codes of errors that say that another was
        quicker than the POST: then the read is made once more, and *then* asked again. It must decide the same for the
        same object as far as it can: sent again from a queue, the read is made anew, and the POST carries the key of
        the first.
        """

        def decide(exchange: Exchange) -> Plan[T] | None:
            return then(read.parse(exchange))

        first = cast("Plan[Plan[T] | None]", replace(cast("Plan[Any]", read), parse=decide))
        return Plan("POST", read.path, parse, json=json, keyed=keyed, after=first, overtaken=overtaken)

    def request(
        self,
        method: str,
        path: str,
        *,
        form: dict[str, Any] | None = None,
        json: Any = None,
        query: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        repeatable: bool | None = None,
        upload: Upload | None = None,
    ) -> Call[Any]:
        """Any endpoint that has no operation: a Call of its JSON, with everything that operations have. Where a service
        wants idempotency keys in the body, it has one only if *json* names that field (None: a new key).

        Raises ConfigurationError for a method or path that cannot be.
        """
        arguments = {"form": form, "json": json, "query": query, "headers": headers, "repeatable": repeatable}
        return self._request(method, path, **arguments, upload=upload)

    @operation
    def _request(
        self,
        method: str,
        path: str,
        *,
        form: dict[str, Any] | None = None,
        json: Any = None,
        query: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        repeatable: bool | None = None,
        upload: Any = None,
    ) -> Plan[Any]:
        return Plan(
            method.upper(),
            path,
            _data_if_any,
            form=form,
            json=json,
            query=query,
            headers=headers,
            repeatable=repeatable,
            upload=upload,
            blank=True,
            # Which endpoints know a field of the body nobody but the caller can tell: others may refuse it.
            keyed=self.idempotency is None
            or (
                (not self.idempotency.field or (isinstance(json, dict) and self.idempotency.field in json))
                and (not self.idempotency.where or re.fullmatch(self.idempotency.where, path) is not None)
            ),
        )

    # Sending, for Call -----------------------------------------------------------------------------------------------

    def send_call(self, call: Call[Any]) -> Awaitable[Exchange]:
        """Send *call* on the running loop. For ``Call``; use ``await call``."""
        options = call.options
        if call.plan.after is not None:
            from moorline.calls import ahead

            return ahead.send_async(self, call)
        if self._layered or options.hedge is not None or options.coalesce:
            from moorline.calls import layers

            return layers.send_async(self, call) if self.fetched is None else self._layered_with_key(self.fetched, call)
        return self.send_context(self.context_of(call))

    def send_context(self, context: ServiceContext) -> Coroutine[Any, Any, Exchange]:
        """Send one request, with all that its policy says, on the running loop. No coroutine of its own: each one in
        a chain costs every step of those below.
        """
        if self.fetched is not None:
            return self._with_fetched_key(self.fetched, context)
        wire = self._wires.ready(whole=context.whole)
        return self._opening(context) if wire is None else perform_async(context, wire)

    async def _opening(self, context: ServiceContext) -> Exchange:
        """As ``send_context``, where a wire has to be opened first."""
        return await perform_async(context, await self._wires.for_loop(whole=context.whole))

    async def _with_fetched_key(self, fetched: FetchedKey, context: ServiceContext) -> Exchange:
        """As ``send_context``, where the key is not configured but fetched; within the call's own deadline."""
        with _bounded(context.policy.deadline, context.clock):
            try:
                await fetched.ready_async()
            except CallError as error:
                raise _not_sent(error, context.service, context.operation) from error.__cause__
            return await self._opening(context)

    async def _layered_with_key(self, fetched: FetchedKey, call: Call[Any]) -> Exchange:
        """By way of what stands before the pipeline, which looks at the whole request: so the key is fetched first."""
        from moorline.calls import layers

        with _bounded(call.options.applied(self.policy).deadline, self.clock):
            try:
                await fetched.ready_async()
            except CallError as error:
                raise _not_sent(error, self.name, call.operation) from error.__cause__
            return await layers.send_async(self, call)

    def send_call_blocking(self, call: Call[Any]) -> Exchange:
        """Send *call* and block. For ``Call``; use ``call.result()``."""
        options = call.options
        if call.plan.after is not None:
            from moorline.calls import ahead

            return ahead.send(self, call)
        if self._layered or options.hedge is not None or options.coalesce:
            from moorline.calls import layers

            if self.fetched is None:
                return layers.send(self, call)
            with _bounded(options.applied(self.policy).deadline, self.clock):
                try:
                    self.fetched.ready()
                except CallError as error:
                    raise _not_sent(error, self.name, call.operation) from error.__cause__
                return layers.send(self, call)
        return self.send_context_blocking(self.context_of(call))

    def send_context_blocking(self, context: ServiceContext, unwanted: threading.Event | None = None) -> Exchange:
        """As ``send_context``, blocking. Nothing more is sent once the answer is *unwanted*."""
        if self.fetched is None:
            return self._send_blocking(context, unwanted)
        with _bounded(context.policy.deadline, context.clock):
            try:
                self.fetched.ready()
            except CallError as error:
                raise _not_sent(error, context.service, context.operation) from error.__cause__
            return self._send_blocking(context, unwanted)

    def _send_blocking(self, context: ServiceContext, unwanted: threading.Event | None) -> Exchange:
        wire = self._wires.blocking(whole=context.whole)
        if unwanted is None:
            return perform(context, wire)
        return drive(stoppable(Pipeline(context).run(), unwanted), wire, self.clock)

    def parsed(self, call: Call[T], exchange: Exchange) -> T:
        """What the operation promises, read from the answer. Raises BadAnswer where the answer is not of the known
        shape.
        """
        try:
            accept = call.plan.accept
            if accept is not None and exchange.status > 299:
                return cast("T", self._accepted(call, exchange, accept))
            return cast("T", (exchange.parse or call.plan.parse)(exchange))
        except CallError as error:
            self._place(error, call, exchange)
            raise
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError) as error:
            bad = BadAnswer(f"the answer is not of the expected shape ({type(error).__name__})")
            self._place(bad, call, exchange)
            raise bad from error

    def _accepted(self, call: Call[Any], exchange: Exchange, accept: Callable[[CallError], Any]) -> Any:
        """What the Plan makes of an error that is an answer to it."""
        error = self.errors.error(exchange)
        self._place(error, call, exchange)
        error.retryable = False
        return accept(error)

    def _place(self, error: CallError, call: Call[Any], exchange: Exchange) -> None:
        """Say of an error that reading the answer gave, which call and which answer it was."""
        error.service, error.operation = self.name, call.operation
        error.status, error.request_id = exchange.status, exchange.request_id
        error.idempotency_key, error.attempts = call.idempotency_key, exchange.attempts

    def context_of(
        self, call: Call[Any], *, policy: Policy | None = None, kind: type[ServiceContext] = ServiceContext
    ) -> ServiceContext:
        """What the pipeline knows of one sending of *call*, with the Call's own options unless a *policy* is given."""
        if call.idempotency_key is not None:
            call.started(self.clock.wall())
        base = self.base_url if not call.plan.host else self.address(call.plan.host)
        options = call.options
        if policy is None:
            policy = self.policy if options is PLAIN else options.applied(self.policy)
        return kind(self, call, base, policy, self._guard(base, policy, options.tenant))

    def _guard(self, base: str, policy: Policy, tenant: str | None = None) -> Guard:
        """The shared state, looked up once for the usual case: the same address and policy as before."""
        if tenant is not None:
            return self._guard_of(base, policy, tenant)
        known = self._known_guard
        if known is not None and known[0] == base and known[1] is policy and known[2] is self.guards:
            return known[3]
        guard = self._guard_of(base, policy)
        self._known_guard = (base, policy, self.guards, guard)
        return guard

    def _guard_of(self, base: str, policy: Policy, tenant: str = "") -> Guard:
        return self.guards.guard(
            self._guard_name(base), policy, tenant, account=self.limited_as, apart=self.limits.apart
        )

    def _guard_name(self, base: str) -> str:
        """Other addresses of a service fail by themselves: a sandbox that is down must not stop the real one."""
        return self.name if base == self.endpoints.default else f"{self.name} at {base}"

    def passed_on(self, to: str) -> None:
        """Count that a call went to the service *to* instead. For ``Failover``."""
        self.guards.passed_on(self._guard_name(self.base_url), to)

    async def aclose(self) -> None:
        """Close the connections to this service on the running loop, and the blocking ones. A later call opens new
        ones.
        """
        await self._wires.aclose()
        if self.fetched is not None:
            await self.fetched.aclose()

    def close(self) -> None:
        """Close the connections of blocking calls to this service."""
        self._wires.close()
        if self.fetched is not None:
            self.fetched.close()

    @classmethod
    def operation_named(cls, name: str) -> Operation:
        """The operation of that name. Raises UnknownJob when this version of the service has none."""
        method = getattr(cls, "_request" if name == "request" else name, None)
        found = getattr(method, "operation", None)
        if not isinstance(found, Operation):
            raise UnknownJob(f"{cls.name} has no operation {name!r} in this version")
        return found


def _bounded(seconds: float | None, clock: Clock) -> AbstractContextManager[None]:
    return nullcontext() if seconds is None else deadline(seconds, clock=clock)


def _not_sent(error: CallError, service: str, operation: str) -> CallError:
    """*error*, which kept the key from being fetched, as that of the call: whatever it was, this call was not sent."""
    error.service, error.operation, error.outcome = service, operation, "not_sent"
    return error


def _checked_cache(name: str, cache: Any) -> Cache | None:
    if cache is None:
        return None
    from moorline.calls.cache import Cache

    if not isinstance(cache, Cache):
        raise ConfigurationError(f"{name}.cache must be a Cache, not {type(cache).__name__}")
    return cache


def _data_if_any(exchange: Exchange) -> Any:
    return exchange.data
