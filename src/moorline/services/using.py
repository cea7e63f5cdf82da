"""The part of an application that is about services: making them, joining several, telling them of itself."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from moorline import registry
from moorline.errors import ConfigurationError
from moorline.policies.policy import Policy

if TYPE_CHECKING:
    from moorline.calls.adapters.functions import Resilient
    from moorline.calls.call import Call
    from moorline.calls.failover import Failover
    from moorline.calls.renewal import FetchedKey
    from moorline.calls.service import Service
    from moorline.clock import Clock
    from moorline.durable import DurableCalls
    from moorline.identity.service_tokens import ServiceTokens
    from moorline.jobs.enqueue import Enqueued
    from moorline.jobs.job import JobHandle
    from moorline.services.monitor import Monitor
    from moorline.services.tracking import Analytics
    from moorline.settings import Settings
    from moorline.store.store import Store

__all__ = ["Using"]

S = TypeVar("S", bound="Service")


class Using:
    """The part of ``Moorline`` that makes services."""

    settings: Settings
    clock: Clock
    store: Store
    _tokens: ServiceTokens | None = None
    _durable: DurableCalls
    _services: dict[str, Service]
    _tellers: list[Analytics | Monitor]

    def service(self, service: type[S], **options: Any) -> S:
        """An instance of that service; ``options`` are those of the class. Calls of the first one can be enqueued.

        Settings under ``[services.NAME]`` hold unless ``options`` say otherwise.
        """
        made = service(**{**self._configured(service, pinned="addresses" in options), **options})
        made.queue = self
        if made.fetched is not None:
            self._share_tokens(made.fetched)
        self._services.setdefault(service.name, made)
        return made

    @property
    def services(self) -> Mapping[str, Service]:
        """The services that it has made so far, by name."""
        return MappingProxyType(self._services)

    def failover(self, *services: Service | type[Service], at_least_once: bool = False) -> Failover:
        """One object for several services of a kind, which asks the next when one cannot: ``app.failover(SendGrid,
        SES)``. A class stands for the application's own instance of it. Its Calls can be enqueued.

        Raises ConfigurationError as ``Failover`` does.
        """
        from moorline.calls.failover import Failover

        return Failover(*self._members(services), at_least_once=at_least_once)

    def analytics(self, *services: Service | type[Service], **options: Any) -> Analytics:
        """One object that tells several vendors what happens, and waits for none: ``app.analytics(Segment, Mixpanel)``.

        A class stands for the application's own instance of it, so that what is said in an outage becomes durable jobs.
        *options* are those of ``Analytics``. It is flushed when the application closes. Raises ConfigurationError as
        that does.
        """
        from moorline.services.tracking import Analytics

        made = Analytics(*self._members(services), **{"clock": self.clock, **options})
        self._tellers.append(made)
        return made

    def monitor(self, *services: Service | type[Service], **options: Any) -> Monitor:
        """One object for errors, metrics, lines of the log and events at several services that watch, none of which it
        waits for: ``app.monitor(Sentry, Datadog)``.

        Classes, outages and the end are as with ``analytics``; *options* are those of ``Monitor``. Raises
        ConfigurationError as that does.
        """
        from moorline.services.monitor import Monitor

        made = Monitor(*self._members(services), **{"clock": self.clock, **options})
        self._tellers.append(made)
        return made

    def _share_tokens(self, fetched: FetchedKey) -> None:
        """Have what it fetches kept for the other processes, where there is a key to encrypt it with."""
        from moorline.calls.token_cache import Tokens

        if not isinstance(fetched, Tokens):
            return
        if self._tokens is None:
            from moorline.identity.service_tokens import ServiceTokens
            from moorline.secrets.rings import configured_ring

            self._tokens = ServiceTokens(self.store, configured_ring)
        fetched.keeper = self._tokens

    def _members(self, services: tuple[Any, ...]) -> list[Any]:
        return [self._own(one) if isinstance(one, type) else one for one in services]

    def enqueue_call(self, call: Call[Any], *, retries: int = 5, **options: Any) -> Enqueued[JobHandle]:
        """Store a Call as a job; what ``Call.enqueue`` does. Options are those of ``EnqueueOptions``.

        Raises ConfigurationError for an option that is none, Misuse for a Call that no queue can carry.
        """
        return self._durable.enqueue(call, retries, options)

    def _own(self, service: type[Service]) -> Service:
        known = self._services.get(getattr(service, "name", ""))
        if known is not None and type(known) is service:
            return known
        if not hasattr(service, "operation_named"):
            raise ConfigurationError(f"services are wanted here, not {service.__name__}")
        return self.service(service)

    def guard(self, name: str, policy: Policy | None = None, **options: Any) -> Resilient:
        """What runs any function through the pipeline: ``app.guard("ledger").call(fn, 5)``; also a decorator.

        It shares breaker, limits and budget with all calls under that *name*, a service's too. Settings under
        ``[services.NAME]`` hold unless *policy* is given; *options* are those of ``moorline.resilient``.

        Raises ConfigurationError naming the argument.
        """
        from moorline.calls.adapters.functions import Resilient

        return Resilient(name, self._policy(name, Policy()) if policy is None else policy, **options)

    def _configured(self, service: type[Service], *, pinned: bool) -> dict[str, Any]:
        """The options that the settings stand for. Requests that are *pinned* to addresses keep to the usual wire."""
        given = self.settings.services.get(service.name)
        options: dict[str, Any] = {} if pinned else {"wire": self.settings.wire}
        if given is None:
            return options
        options["policy"] = self._policy(service.name, service.default_policy)
        if given.wire and not pinned:
            options["wire"] = given.wire
        if given.base_url:
            options["base_url"] = given.base_url
        if given.region:
            options["region"] = given.region
        return options | given.parameters

    def _policy(self, name: str, policy: Policy) -> Policy:
        """*policy* with what ``[services.NAME]`` says otherwise."""
        given = self.settings.services.get(name)
        return policy if given is None else given.applied(policy)

    def _service_for(self, name: str) -> Service:
        known = self._services.get(name)
        if known is None:
            kind: type[Service] = registry.service(name)
            known = self.service(kind)
        return known
