"""What a program can be told: ``moorline.toml`` beside it, the environment over that, arguments over both.

Each error names the key as it is written in the file and as it is spelled in the environment.
"""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from moorline.calls.wiring import Wire
from moorline.errors import ConfigurationError
from moorline.events.origin import Origin
from moorline.events.source_settings import SourceSettings, wrong_key
from moorline.events.sources import check_name
from moorline.policies.breaker import Breaker
from moorline.policies.bulkhead import Bulkhead
from moorline.policies.policy import Policy
from moorline.policies.rate import RateLimit
from moorline.policies.retry import Retry
from moorline.secrets.secret_settings import SecretSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from moorline.events.alerts import AlertConfig
    from moorline.events.retention import RetentionConfig
    from moorline.jobs.limits import Limit

__all__ = [
    "AlertSettings",
    "DashboardSettings",
    "LogSettings",
    "SecretSettings",
    "ServiceSettings",
    "Settings",
    "SignInSettings",
    "SourceAlertSettings",
    "WebhookSettings",
    "WorkerSettings",
    "load",
]

FILE = "moorline.toml"
PREFIX = "MOORLINE_"
# Other variables of ours, which are as near to a setting as a misspelled one.
_NO_SETTINGS: Final = ("app", "dashboard_token")

P = TypeVar("P", Policy, Retry, Breaker, Bulkhead)

Seconds = Annotated[float, Field(gt=0)]
_STRICT = ConfigDict(extra="forbid", frozen=True)


def _split(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


class SourceAlertSettings(BaseModel):
    """``[webhooks.alerts.sources.NAME]``: what differs for one service."""

    model_config = _STRICT

    silent_minutes: Annotated[float, Field(ge=0)] | None = None
    """Minutes without an event; 0 for never."""
    failures_percent: Annotated[float, Field(ge=0, le=100)] | None = None
    """Percent of its requests that were forged; 0 for never."""


class AlertSettings(BaseModel):
    """``[webhooks.alerts]``: what is told to the log, to ``app.on_alert`` and to a URL. 0 switches a limit off."""

    model_config = _STRICT

    silent_minutes: Annotated[float, Field(ge=0)] = 0.0
    """Minutes without an event of a service that sent some before."""
    failures_percent: Annotated[float, Field(ge=0, le=100)] = 50.0
    """Percent of a service's requests that were forged, of at least 10 in 15 minutes."""
    backlog_seconds: Annotated[float, Field(ge=0)] = 300.0
    """Seconds that the oldest event has waited for its handler."""
    secret_days: Annotated[float, Field(ge=0)] = 14.0
    """Days before a signing secret ends, where its end is known."""
    refused_minutes: Annotated[float, Field(ge=0)] = 15.0
    """Minutes since a service has refused a key, and not taken it since."""
    ended_connections: Annotated[float, Field(ge=0)] = 1.0
    """Connected accounts at a service that have ended within a day."""
    url: Annotated[str | None, Field(repr=False)] = None
    """Where alerts are posted as JSON: https, or http on this machine."""
    sources: dict[str, SourceAlertSettings] = {}
    """By the name of a service: ``silent_minutes`` and ``failures_percent`` of its own."""

    @field_validator("url")
    @classmethod
    def _allowed(cls, value: str | None) -> str | None:
        if value is not None:
            from moorline.events.alert_post import check_alert_url

            try:
                check_alert_url(value)
            except ConfigurationError as error:
                raise ValueError(str(error).removeprefix("url: ")) from None
        return value

    def config(self) -> AlertConfig:
        """The limits, as ``AlertWatch`` takes them."""
        from moorline.events.alerts import AlertConfig, Limits

        names = ("silent_minutes", "failures_percent")
        common = {name: getattr(self, name) for name in names}
        own = {
            service: {name: given for name in names if (given := getattr(source, name)) is not None}
            for service, source in self.sources.items()
        }
        return AlertConfig(
            limits=Limits(**_without_zeros(common)),
            services={service: Limits(**_without_zeros(common | given)) for service, given in own.items()},
            backlog_seconds=self.backlog_seconds or None,
            secret_days=self.secret_days or None,
            refused_minutes=self.refused_minutes or None,
            ended_connections=self.ended_connections or None,
        )


def _without_zeros(limits: dict[str, float]) -> dict[str, float | None]:
    return {name: value or None for name, value in limits.items()}


class WebhookSettings(BaseModel):
    """``[webhooks]``: limits of ``POST /webhooks/{service}``."""

    model_config = _STRICT

    max_body: Annotated[int | None, Field(ge=1_024, le=256 * 1024 * 1024)] = None
    """Bytes of a body; more is answered 413. By default what the sender may send (GitHub: 25 MiB), else 1 MiB."""
    read_timeout: Seconds = 10.0
    """Seconds that a sender has for its whole body; slower is answered 408."""
    public_url: str | None = None
    """The address that the world calls this application by, ``https://shop.example``: some senders sign it."""
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = ()
    """Addresses or networks whose forwarding headers are believed; in the environment separated by commas."""
    sources: dict[str, SourceSettings] = {}

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return _split(value)

    @field_validator("sources")
    @classmethod
    def _named(cls, value: dict[str, SourceSettings]) -> dict[str, SourceSettings]:
        for name in value:
            try:
                check_name(name)
            except ConfigurationError as error:
                raise wrong_key(ConfigurationError(f"{name}{str(error).removeprefix('name')}")) from None
        return value

    @field_validator("public_url", "trusted_proxies")
    @classmethod
    def _known(cls, value: Any) -> Any:
        if isinstance(value, tuple):
            Origin(None, value)
        else:
            Origin(value)
        return value

    keep_days: Annotated[float, Field(ge=1)] = 30.0
    """Days that an event's body and headers are kept; then it can be neither shown nor replayed."""
    dedup_days: Annotated[float, Field(ge=1)] = 30.0
    """Days that a second delivery of an event is known to be one; at least ``keep_days``."""
    compress_over: Annotated[int, Field(ge=0)] = 2048
    """Bytes; larger bodies are compressed (zstd) before they are stored; 0 for never."""

    alerts: AlertSettings = AlertSettings()

    def retention(self) -> RetentionConfig:
        """What is kept, as ``Retention`` takes it."""
        from moorline.events.retention import RetentionConfig

        return RetentionConfig(keep_days=self.keep_days, dedup_days=self.dedup_days, compress_over=self.compress_over)

    @model_validator(mode="after")
    def _key_outlives_body(self) -> Self:
        if self.dedup_days < self.keep_days:
            raise ValueError(f"dedup_days must be at least keep_days ({self.keep_days:g}): a body goes with its key")
        return self

    max_wait: Seconds = 1.0
    """Seconds that an event may have to wait for its commit, as estimated; more is answered 503."""


class LimitSettings(BaseModel):
    """``[worker.limits.QUEUE]``: how many of a queue's jobs begin in a time, or run at once, over all workers."""

    model_config = _STRICT

    limit: Annotated[int, Field(ge=1)] | None = None
    """So many jobs begin in ``per`` seconds."""
    per: Seconds = 1.0
    """Seconds in which ``limit`` jobs begin."""
    burst: Annotated[int, Field(ge=1)] | None = None
    """How many of them may begin at once; by default all."""
    concurrency: Annotated[int, Field(ge=1)] | None = None
    """So many run at once."""

    def build(self) -> Limit:
        """Raises ConfigurationError if it says nothing."""
        from moorline.jobs.limits import Limit
        from moorline.policies.rate import RateLimit

        rate = None if self.limit is None else RateLimit(self.limit, self.per, self.burst)
        return Limit(rate, self.concurrency)


class WorkerSettings(BaseModel):
    """``[worker]``: how jobs are run."""

    model_config = _STRICT

    concurrency: Annotated[int, Field(ge=1, le=10_000)] = 50
    """Jobs in flight in one process."""
    processes: Annotated[int, Field(ge=1, le=1_000)] | None = None
    """Processes for jobs that compute (``process=True``); by default as many as there are cores."""
    lease: Seconds = 30.0
    """Seconds without a heartbeat after which a worker's jobs are taken over."""
    grace: Annotated[float, Field(ge=0)] = 25.0
    """Seconds that running jobs have after SIGTERM; what is unfinished then is given back."""
    queues: Annotated[tuple[str, ...], NoDecode, Field(min_length=1)] = ("default",)
    """The queues that are worked; in the environment separated by commas."""
    ageing: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 60.0
    """Seconds of waiting that make up for a step of priority, so that no job waits for ever; 0: none do."""

    limits: dict[str, LimitSettings] = {}
    """By queue: how many of its jobs begin in a time, or run at once, over all workers that share the database."""

    @field_validator("queues", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return _split(value)


class SignInSettings(BaseModel):
    """``[sign_in]``: who signs users in, at ``/auth/{provider}/login``. Nobody does unless it says so."""

    model_config = _STRICT

    providers: Annotated[tuple[str, ...], NoDecode] = ()
    """``google``, ``github``, ``microsoft``, and those of ``issuers``; in the environment separated by commas."""
    issuers: dict[str, str] = {}
    """OpenID providers by names of your choice: ``{okta = "https://dev-1.okta.com"}``."""
    idle: Annotated[float, Field(ge=60)] = 86_400.0
    """Seconds that a session lasts without a request."""
    longest: Annotated[float, Field(ge=60)] = 1_209_600.0
    """Seconds that a session lasts at all."""

    @field_validator("providers", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return _split(value)


class AccountSettings(BaseModel):
    """``[accounts]``: where users connect accounts of theirs, at ``/auth/connections``. Nowhere unless it says so."""

    model_config = _STRICT

    services: Annotated[tuple[str, ...], NoDecode] = ()
    """Services by name: ``["hubspot"]``; in the environment separated by commas."""
    scopes: dict[str, tuple[str, ...]] = {}
    """What is needed of each account, by service: ``{hubspot = ["crm.objects.contacts.read"]}``."""

    @field_validator("services", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return _split(value)

    @model_validator(mode="after")
    def _known(self) -> Self:
        for name in self.scopes:
            if name not in self.services:
                raise ValueError(f"scopes: {name!r} is none of the services")
        return self


class DashboardSettings(BaseModel):
    """``[dashboard]``: for whom ``/dashboard`` is open. For nobody, unless ``users`` are named, or the environment has
    a ``MOORLINE_DASHBOARD_TOKEN`` of at least 16 characters to be entered there.
    """

    model_config = _STRICT

    users: Annotated[tuple[str, ...], NoDecode] = ()
    """Ids of users who may look and act once they have signed in; in the environment separated by commas."""
    idle: Annotated[float, Field(ge=60)] = 1_800.0
    """Seconds that a session by token lasts without a request."""
    longest: Annotated[float, Field(ge=60, le=31_622_400)] = 43_200.0
    """Seconds that it lasts at all."""

    @field_validator("users", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return _split(value)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.idle > self.longest:
            raise ValueError(f"idle must be at most longest ({self.longest:g})")
        return self


class LogSettings(BaseModel):
    """``[log]``: what is written to standard error."""

    model_config = _STRICT

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """The least grave lines that are written."""
    format: Literal["auto", "json", "console"] = "auto"
    """``auto`` is ``console`` on a terminal and ``json`` elsewhere."""


class ServiceSettings(BaseModel):
    """``[services.NAME]``: what differs from the service's defaults. Seconds throughout."""

    model_config = _STRICT

    base_url: str | None = None
    """Where requests go instead of the service's own address."""
    region: str | None = None
    """The region, for services that have several: ``eu`` (SendGrid), ``eu-west-1`` (SES)."""
    parameters: dict[str, str] = Field(default_factory=dict)
    """What the service needs beside its key: ``{account_sid = "AC…"}``; its page names them."""
    deadline: Seconds | None = None
    """Seconds for a whole call, waits and body included."""
    attempt_timeout: Seconds | None = None
    """Seconds for one attempt."""
    retries: Annotated[int, Field(ge=0, le=100)] | None = None
    """How often a call that failed is sent again, where that is safe."""
    breaker_failures: Annotated[int, Field(ge=1)] | None = None
    """Failures in a row after which the breaker opens."""
    breaker_reset: Seconds | None = None
    """Seconds after which it lets one probe through."""
    rate: Annotated[tuple[RateLimit, ...] | None, NoDecode, Field(min_length=1)] = None
    """Our own limits, each as calls/seconds: ``["10/1", "1000/3600"]``; in the environment separated by commas."""
    bulkhead: Annotated[int, Field(ge=1)] | None = None
    """Attempts in flight at a time; one more is refused, or waits where the service's policy has a queue."""
    admission: Annotated[int, Field(ge=1)] | None = None
    """Calls under way at a time, those that wait included; one more is refused."""
    retry_budget: Annotated[float, Field(ge=0)] | None = None
    """The part of the calls that may be repeats: 0.2 allows 20 %, and one a second besides."""
    wire: Wire | None = None
    """The library that speaks HTTP, where it is another than for the rest."""

    @field_validator("rate", mode="before")
    @classmethod
    def _limits(cls, value: object) -> object:
        given = value.split(",") if isinstance(value, str) else value
        return tuple(_limit(one) for one in given) if isinstance(given, (list, tuple)) else given

    def applied(self, policy: Policy) -> Policy:
        """*policy* with what is said here otherwise."""
        own: dict[str, Any] = {"deadline": self.deadline, "attempt_timeout": self.attempt_timeout, "rate": self.rate}
        own |= {"admission": self.admission}
        if policy.retry is not None:
            own["retry"] = _changed(policy.retry, retries=self.retries, budget=self.retry_budget)
        if policy.breaker is not None:
            own["breaker"] = _changed(policy.breaker, failures=self.breaker_failures, reset=self.breaker_reset)
        if self.bulkhead is not None:
            own["bulkhead"] = _changed(policy.bulkhead or Bulkhead(self.bulkhead), limit=self.bulkhead)
        return _changed(policy, **own)


_LIMIT: Final = re.compile(r"([0-9]{1,9})/([0-9]{1,9}(?:\.[0-9]{1,6})?)")


def _limit(text: object) -> RateLimit:
    """The limit that *text* says. Raises ValueError."""
    found = _LIMIT.fullmatch(text.strip()) if isinstance(text, str) else None
    if found is None or not int(found[1]) or not float(found[2]):
        raise ValueError('each limit must be calls/seconds, both more than zero, such as "100/60"')
    return RateLimit(int(found[1]), per=float(found[2]))


def _changed(part: P, **given: Any) -> P:
    """*part* of a policy with those values that are given."""
    return replace(part, **{name: value for name, value in given.items() if value is not None})


class Settings(BaseSettings):
    """Where events and jobs are kept, such as ``sqlite:///shop.db`` or ``postgresql://USER:PASSWORD@HOST/NAME``."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    database_url: Annotated[str, Field(repr=False)] = "sqlite:///moorline.db"
    """Where events and jobs are kept: ``sqlite:///FILE`` or ``postgresql://USER:PASSWORD@HOST/NAME``."""
    queue_url: Annotated[str | None, Field(repr=False)] = None
    """Where jobs wait, if not in the database: ``redis://HOST:6379/0``, ``redis+sentinel://HOST,HOST/NAME``,
    ``redis+cluster://HOST``, ``amqp://USER:PASSWORD@HOST/VHOST``, ``sqs://REGION``; ``rediss`` and ``amqps``
    for TLS."""
    connections: Annotated[dict[str, str], Field(repr=False)] = {}
    """Servers of other programs, by names that stand for them in URLs: with ``shop = "amqp://USER:PASSWORD@HOST"`` the
    queue ``orders`` there is ``shop://orders``."""
    migrate: bool = True
    """Bring the schema up to date at start."""
    max_waiting: Annotated[int, Field(ge=1)] = 10_000
    """Writes that may wait for a commit; more is refused with 503 (and StoreOverloaded)."""
    statement_timeout: Annotated[float, Field(gt=0, le=86_400)] = 10.0
    """Seconds that PostgreSQL has for a statement that writes, half of them for a lock (reading: three times as long;
    migrations: no end). A connection that is silent for a little longer is closed, and another one made."""
    max_payload: Annotated[int, Field(ge=1)] = 1_048_576
    """Bytes that the arguments of a job may take; larger ones are refused when it is enqueued."""
    wire: Wire = "httpx2"
    """The library that speaks HTTP; ``pyreqwest`` and ``aiohttp`` (extra ``fast``) are several times as fast."""
    shared_url: Annotated[str | None, Field(repr=False)] = None
    """A Redis or Valkey server over which processes share breakers, limits and retry budgets: ``redis://HOST:6379/0``."""
    tap: bool = True
    """Let ``moorline calls`` of the same user look at this process, at a socket that nobody else can open."""
    webhooks: WebhookSettings = WebhookSettings()
    worker: WorkerSettings = WorkerSettings()
    sign_in: SignInSettings = SignInSettings()
    accounts: AccountSettings = AccountSettings()
    dashboard: DashboardSettings = DashboardSettings()
    log: LogSettings = LogSettings()
    secrets: SecretSettings = SecretSettings()
    services: dict[str, ServiceSettings] = {}

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, value: str) -> str:
        if value.partition(":")[0].partition("+")[0] not in ("sqlite", "postgresql", "postgres"):
            raise ValueError("must begin with sqlite:/// or postgresql://")
        return value

    @field_validator("queue_url")
    @classmethod
    def _known_queue(cls, value: str | None) -> str | None:
        if value is not None:
            from moorline.jobs.brokers.choice import SCHEMES

            if value.partition("://")[0] not in SCHEMES:
                raise ValueError(f"must begin with one of {', '.join(SCHEMES)}, then ://")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments over the environment over the file."""
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=_file())


def _file() -> Path:
    return Path(os.environ.get("MOORLINE_SETTINGS", FILE))


def load(**given: Any) -> Settings:
    """Read the settings; ``given`` wins over the environment, that over the file; None means not given.

    Raises ConfigurationError that names each wrong key.
    """
    named = os.environ.get("MOORLINE_SETTINGS")
    if named and not Path(named).is_file():
        raise ConfigurationError(f"MOORLINE_SETTINGS names {named!r}, and there is no such file")
    _refuse_misspelled()
    try:
        return Settings(**{key: value for key, value in given.items() if value is not None})
    except ValidationError as error:
        raise ConfigurationError("; ".join(_sentence(dict(one)) for one in error.errors())) from None
    except SettingsError as error:
        raise ConfigurationError(f"environment, {PREFIX}*: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{_file()} is not valid TOML: {error}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{_file()} is not valid TOML: not UTF-8 at byte {error.start}") from None
    except OSError as error:
        raise ConfigurationError(f"{_file()} cannot be read: {error.strerror}") from error


def _refuse_misspelled() -> None:
    """A variable that is nearly one of ours was meant to be it; other programs' variables are left alone."""
    tops = [PREFIX + name.upper() for name in (*Settings.model_fields, *_NO_SETTINGS)]
    known = [*tops, *(PREFIX + name.upper() for name in _parts(Settings))]
    for name in os.environ:
        top = name.upper().partition("__")[0]
        if top.startswith(PREFIX) and top not in tops:
            for given in (name.upper(), top):
                close = get_close_matches(given, known, n=1, cutoff=0.85)
                if close:
                    said = f"{name} (environment) is no setting of moorline; did you mean {close[0]}?"
                    raise ConfigurationError(said)


def _parts(model: type[BaseModel]) -> Iterator[str]:
    """The settings within those of *model*: ``worker__concurrency``."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            inner = field.annotation
            yield from (f"{name}__{part}" for part in (*inner.model_fields, *_parts(inner)))


def _sentence(problem: Mapping[str, Any]) -> str:
    # The value itself is left out: a database URL holds a password.
    place = [str(part) for part in problem["loc"]]
    if problem["type"] == "wrong_key":
        place.append(str(problem["ctx"]["key"]))
    reason = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        reason = "is no setting of moorline"
    return f"{'.'.join(place)} ({_file().name}) or {PREFIX}{'__'.join(place).upper()} (environment): {reason}"
