"""Moorline: one object that joins the rooms for an application. It wires; the logic is in the rooms."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from moorline import settings as _settings
from moorline.asgi import Receive, Scope, Send, health, lifespan
from moorline.calls.guards import PROCESS, open_breakers
from moorline.calls.tap import close_tap, open_tap
from moorline.clock import SYSTEM, Clock
from moorline.dashboard.showing import Showing
from moorline.durable import DurableCalls
from moorline.errors import ConfigurationError, StoreError
from moorline.events.accepting import EnvironmentSecrets
from moorline.events.answers import Answers
from moorline.events.ending import ending_secrets, senders, with_secrets
from moorline.events.handlers import HandlerOptions, Handlers
from moorline.events.handling import worked
from moorline.events.inbox import Inbox
from moorline.events.own import Beside, own_event
from moorline.events.receiver import Receiver, below_mount
from moorline.events.relay import Relay
from moorline.events.sources import Sources
from moorline.identity.connecting import Connecting
from moorline.identity.loading import Loading
from moorline.identity.rotation.keys import Keys
from moorline.identity.signing_in import SigningIn
from moorline.jobs.brokers.choice import broker_at
from moorline.jobs.foreign.messages import Messages, Messaging
from moorline.jobs.registry import Jobs
from moorline.jobs.schedules import Schedules
from moorline.jobs.working import Working
from moorline.services.using import Using
from moorline.store import Store
from moorline.telemetry import logger

if TYPE_CHECKING:
    from moorline.events.alert_watch import AlertWatch
    from moorline.events.alerts import Alert
    from moorline.events.event import Event
    from moorline.events.retention import Retention
    from moorline.events.scheme import Scheme
    from moorline.identity.connection import Connection, What
    from moorline.identity.vault import Teller
    from moorline.jobs.chores import Chore
    from moorline.jobs.worker import Worker

__all__ = ["Moorline"]

F = TypeVar("F", bound=Callable[..., Any])

_CHORE_SECONDS = 60.0
_SCHEDULE_SECONDS = 1.0
_UPKEEP_SECONDS = 300.0

log = logger("app")


class Moorline(Messaging, Using, Working, SigningIn, Connecting, Loading, Showing):
    """An application: its database, jobs, handlers and services, and the ASGI application that receives webhooks.

    Reads ``moorline.toml`` and the environment (``MOORLINE_DATABASE_URL``, …); ``database_url`` wins over both. Nothing
    is opened before it is needed. Serve it (``moorline serve module:app``) or mount it in another ASGI application.

    Raises ConfigurationError that names each wrong setting.
    """

    def __init__(
        self, database_url: str | None = None, *, settings: _settings.Settings | None = None, clock: Clock = SYSTEM
    ) -> None:
        if settings is not None and database_url is not None:
            raise ConfigurationError("give database_url or settings, not both")
        self.settings = _settings.load(database_url=database_url) if settings is None else settings
        self.clock = clock
        if self.settings.shared_url:
            PROCESS.share(self.settings.shared_url)
        self.store = Store(
            self.settings.database_url,
            clock=clock,
            max_waiting=self.settings.max_waiting,
            auto_migrate=self.settings.migrate,
            statement_timeout=self.settings.statement_timeout,
        )
        self._look_for_secrets(self.settings.secrets)
        self.keys = Keys(self.store, lambda: self.own_secrets)
        self.sources = Sources()
        for name, source in self.settings.webhooks.sources.items():
            self.sources.add(name, source.build(name))
        self.handlers = Handlers(self.sources.sender)
        self.answers = Answers(self.sources.sender)
        self._queue_url = self.settings.queue_url
        queue, waiting, queues = self.settings.queue_url, self.settings.max_waiting, self.settings.worker.queues
        broker = broker_at(queue, self.store, queues=queues, clock=clock, max_waiting=waiting)
        self.jobs = Jobs(broker, clock=clock, max_payload=self.settings.max_payload, store=self.store)
        for name, limit in self.settings.worker.limits.items():
            self.jobs.limit_queue(name, limit.build())
        self.schedules = Schedules(self.store, self.jobs.broker)
        self._syncs = {}
        self._messages = Messages(self.jobs, self.settings.connections)
        self.relay = None if queue is None else Relay(self.store, self.jobs.broker)
        self.inbox = Inbox(
            self.store,
            self.handlers,
            compress_over=self.settings.webhooks.compress_over,
            max_wait=self.settings.webhooks.max_wait,
            relay=self.relay,
        )
        self._services = {}
        self._tellers = []
        self._durable = DurableCalls(self.jobs, self._services, self._service_for, self._service_of)
        self._alert_hooks: list[Callable[[Alert], object]] = _posting(self.settings.webhooks.alerts.url)
        self._alert_config = self.settings.webhooks.alerts.config()
        self._opening: asyncio.Future[Store] | None = None
        self._relaying: asyncio.Task[int] | None = None
        self._tapped = False
        self._webhook_secrets = EnvironmentSecrets(self.sources.scheme, _sandbox_secrets)
        self.receiver = Receiver(
            self.inbox,
            self._webhook_secrets,
            self.sources.scheme,
            max_body=self.settings.webhooks.max_body,
            body_timeout=self.settings.webhooks.read_timeout,
            public_url=self.settings.webhooks.public_url,
            trusted_proxies=self.settings.webhooks.trusted_proxies,
            answers=self.answers,
            clock=clock,
        )
        if self.settings.sign_in.providers:
            self._sign_in_by_settings(**self.settings.sign_in.model_dump())
        self._connect_by_settings(**self.settings.accounts.model_dump())

    def __repr__(self) -> str:
        return f"Moorline({self.store!r}, jobs={len(self.jobs.names())}, handlers={len(self.handlers)})"

    # --- what an application says of itself

    def source(self, name: str, scheme: Scheme) -> None:
        """Receive what *scheme* checks under ``/webhooks/<name>``: ``app.source("partner", HMACSignature(…))``.

        After that ``app.on("partner", …)`` handles it. ``[webhooks.sources.NAME]`` does the same by settings. Raises
        ConfigurationError for a name that is none or is taken.
        """
        self.sources.add(name, scheme)

    def on(
        self,
        service: str | type[Any] | Scheme,
        type: str = "*",
        *,
        name: str | None = None,
        retries: int = 5,
        **options: Unpack[HandlerOptions],
    ) -> Callable[[F], F]:
        """Handle a service's events: ``@app.on(GitHub, "pull_request.closed")``, async or plain, with one Event.

        *service* may also be the name of a source, or its scheme. Each handler of an event has a job of its own.
        ``options``: ``where`` filters, ``model`` types the payload, ``key`` keeps an order, ``batch`` gives several
        events at once; see ``Handlers.on``, which also says what ConfigurationError is raised for.
        """
        register = self.handlers.on(service, type, name=name, retries=retries, **options)

        def decorate(function: F) -> F:
            done = register(function)
            for handler in self.handlers:
                if handler.job not in self.jobs.names():
                    self.jobs.handler(handler.job, worked(handler, self.inbox), batch=handler.batching)
            return done

        return decorate

    def answer(self, service: str | type[Any], type: str = "*", *, within: float = 2.5) -> Callable[[F], F]:
        """Answer a service's events: what the function returns within so many seconds is sent, else the usual answer.

        For senders that want one, such as Slack for its commands. The event is stored before, and its handlers run in
        any case. Raises ConfigurationError as ``Answers.on`` does.
        """
        return self.answers.on(service, type, within=within)

    # --- opening and closing

    async def open(self) -> Self:
        """Connect to the database and bring it up to date. Opening twice is harmless.

        What ``[secrets]`` says is loaded, so that a credential that is missing is found out now. Raises StoreError, and
        ConfigurationError that names each credential that is missing.

        With a ``queue_url`` it also begins to relay the jobs of events there; one process does it at a time.
        """
        loop = asyncio.get_running_loop()
        if not self.store.is_open:
            if self._opening is None or self._opening.done() or self._opening.get_loop() is not loop:
                # One try for all who wait: a database that hangs is not asked by each request in turn.
                self._opening = asyncio.ensure_future(asyncio.to_thread(self._opened_store))
            await asyncio.shield(self._opening)
        try:
            await self._load_secrets(self.settings.secrets)
            await asyncio.to_thread(self.dashboard_open)  # of a token that is too short one hears now
        except ConfigurationError:
            await asyncio.to_thread(self.store.close)
            raise
        if self.relay is not None and (
            self._relaying is None or self._relaying.done() or self._relaying.get_loop() is not loop
        ):
            self._relaying = asyncio.create_task(self.relay.run(), name="moorline-relay")
            self._relaying.add_done_callback(_relay_ended)
        if self.settings.tap and not self._tapped:
            self._tapped = True
            open_tap()
        return self

    def _opened_store(self) -> Store:
        store = self.store.open()
        try:
            self.keys.begin()
        except BaseException:
            store.close()
            raise
        return store

    async def close(self) -> None:
        """Write what waits, disconnect, close the services' connections."""
        for teller in self._tellers:  # while what cannot be sent can still become jobs
            await teller.aflush(spill=True)
        if self._tapped:
            self._tapped = False
            await asyncio.to_thread(close_tap)
        for service in self._services.values():
            await service.aclose()
        await self._close_sign_in()
        await self._close_connections()
        relaying, self._relaying = self._relaying, None
        if self.relay is not None and relaying is not None:
            self.relay.stop()
            await asyncio.wait([relaying])
        await asyncio.to_thread(self._messages.publisher.close)
        if self._broadcast is not None:
            await asyncio.to_thread(self._broadcast.close)
        await asyncio.to_thread(self.jobs.broker.close)
        await self._close_secrets(self.settings.secrets)
        await asyncio.to_thread(self.store.close)

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    @contextlib.contextmanager
    def opened(self) -> Iterator[Inbox]:
        """Open for the length of a block, blocking: for scripts and commands."""
        with self._opened_store():
            try:
                yield self.inbox
            finally:
                self._messages.publisher.close()
                self.jobs.broker.close()

    @contextlib.asynccontextmanager
    async def running(self, *, worker: bool = False) -> AsyncIterator[Self]:
        """Open for the length of a block, with a worker in this loop if wanted: for another framework's lifespan."""
        async with self, self._working() if worker else self.watching():
            yield self

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Look for alerts: where no worker is alive, nobody else would tell of it."""
        from moorline.jobs.chores import look_after
        from moorline.store.ids import new_id

        looks = look_after(self._alert_chore(), f"receiver-{new_id(self.clock.wall())}", log, random.Random())
        task = asyncio.create_task(looks, name="moorline-alerts")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    @contextlib.asynccontextmanager
    async def _working(self) -> AsyncIterator[None]:
        running = self.worker()
        task = asyncio.create_task(running.run(signals=False), name="moorline-worker")
        await asyncio.sleep(0)  # until it has begun it cannot be stopped, and the block may be a short one
        try:
            yield
        finally:
            running.stop()
            await task

    def worker(self, *, concurrency: int | None = None, queues: Sequence[str] | None = None) -> Worker:
        """A worker for the jobs and handlers of this application, with the settings' values unless told otherwise."""
        from moorline.jobs.worker import Worker

        chosen = self.settings.worker
        return Worker(
            self.jobs,
            concurrency=chosen.concurrency if concurrency is None else concurrency,
            processes=chosen.processes,
            lease=chosen.lease,
            grace=chosen.grace,
            queues=chosen.queues if queues is None else queues,
            clock=self.clock,
            ageing=chosen.ageing,
            chores=self._chores(),
            companions=self._messages.companions(),
        )

    def _chores(self) -> list[Chore]:
        from moorline.jobs.chores import Chore

        retention = self.retention()
        pruning = Chore("retention", _CHORE_SECONDS, lambda worker: retention.run_once(holder=worker))
        chores = [pruning, self._alert_chore(), Chore("upkeep", _UPKEEP_SECONDS, self.upkeep().run_once)]
        if len(self.schedules):
            chores.append(Chore("schedules", _SCHEDULE_SECONDS, self.schedules.run_once))
        return chores

    def _alert_chore(self) -> Chore:
        from moorline.jobs.chores import Chore

        return Chore("alerts", _CHORE_SECONDS, self.alerts().run_once)

    def retention(self) -> Retention:
        """What prunes and compresses stored events, by the settings under ``[webhooks]``; workers run it."""
        from moorline.events.retention import Retention

        return Retention(self.store, self.settings.webhooks.retention())

    def alerts(self, *to: Any, breaker_minutes: float | None = 5.0, dead_letters: float | None = 1.0) -> AlertWatch:
        """What looks for alerts, by ``[webhooks.alerts]``; workers and receivers run it every minute.

        ``app.alerts(Sentry, Datadog)`` tells each alert to these as well: services that watch (a class stands for the
        application's own instance), a Monitor, or functions as for ``on_alert``. From then on a breaker that has not
        been closed for *breaker_minutes*, and so many *dead_letters*, are alerts too; None is never.

        Raises ConfigurationError for what is none of these, and for limits that are not above 0.
        """
        from moorline.events.alert_watch import AlertWatch

        if to:
            from moorline.services.alerting import hook

            config = replace(self._alert_config, breaker_minutes=breaker_minutes, dead_letters=dead_letters)
            self._alert_hooks += [hook(one, self._own) for one in to]
            self._alert_config = config
        facts: dict[str, Any] = {"secrets": self._ending_secrets, "breakers": open_breakers}
        return AlertWatch(self.store, self._alert_config, tell=self._alert_hooks, **facts)

    def _ending_secrets(self) -> Iterator[tuple[str, str, float]]:
        yield from ending_secrets(senders(self.sources), self._webhook_secrets)
        for name, service in self._services.items():
            if service.key_ends is not None:
                yield name, *service.key_ends

    def on_alert(self, function: F) -> F:
        """Call the function, async or plain, with each ``moorline.events.Alert``: when it begins, and when it is over.

        It is called in one of the workers, or where webhooks are received. What it raises is logged, and the alert is
        told to it again, every minute for an hour.
        """
        self._alert_hooks.append(function)
        return function

    # --- looking

    async def events(self, *, service: str | None = None, type: str | None = None, limit: int = 50) -> list[Event]:
        """The newest stored events."""
        return await self.inbox.recent(service=service, type=type, limit=limit)

    def webhook_paths(self) -> list[str]:
        """The paths that are open: one for each service that has a scheme and a secret here."""
        return [f"/webhooks/{name}" for name, _ in with_secrets(senders(self.sources), self._webhook_secrets)]

    # --- the ASGI application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve ``/webhooks/{service}``, ``/healthz`` and ``/readyz``, ``/auth/…`` where users can sign in, or connect
        accounts, and ``/dashboard`` where it is open.
        """
        if scope["type"] == "lifespan":
            await lifespan(self, receive, send)
            return
        path = below_mount(scope) if "path" in scope else ""
        if scope["type"] == "http" and path in ("/healthz", "/readyz"):
            await health(self, path, scope, send)
            return
        if not self.store.is_open:
            # Mounted in an application that does not pass its lifespan on. The receiver answers 503 if it fails.
            with contextlib.suppress(StoreError):
                await self.open()
        if scope["type"] == "http" and self._connect is not None and self._connect.serves(scope, path, self._signing):
            await self._connect(scope, receive, send, path)
            return
        if scope["type"] == "http" and self._signing is not None and self._signing.serves(path):
            await self._signing(scope, receive, send, path)
            return
        if scope["type"] == "http" and (shown := self._dashboard_at(path)) is not None:
            await shown(scope, receive, send, path)
            return
        await self.receiver(scope, receive, send)

    def _connection_teller(self) -> Teller:
        def tell(row: Connection, what: What) -> Beside:
            payload, at = row.to_dict(), self.clock.wall()
            return self.inbox.beside(own_event("connection", what, f"{row.id}.{row.version}.{what}", payload, at))

        return tell


def _sandbox_secrets(service: str) -> Sequence[str]:
    """Beside the sandbox its own secrets are accepted where the environment holds none."""
    if not os.environ.get("MOORLINE_SANDBOX_URL"):
        return ()
    from moorline.sandbox.standin import registrations

    record = registrations().get(service)
    return (record.secret,) if record is not None and record.secret else ()


def _relay_ended(task: asyncio.Task[int]) -> None:
    """It ends by itself only for what time does not mend."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("relay_ended", reason=str(error))


def _posting(url: str | None) -> list[Callable[[Alert], object]]:
    if url is None:
        return []
    from moorline.events.alert_post import AlertPost

    return [AlertPost(url)]
