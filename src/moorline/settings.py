"""What a program can be told: ``moorline.toml`` beside it, the environment over that, arguments over both.

Each error names the key as it is written in the file and as it is spelled in the environment.
"""

from __future__ import annotations

import os
import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from moorline.calls.service_settings import ServiceSettings
from moorline.calls.wiring import Wire
from moorline.errors import ConfigurationError
from moorline.events.webhook_settings import AlertSettings, SourceAlertSettings, WebhookSettings
from moorline.identity.user_settings import AccountSettings, SignInSettings
from moorline.jobs.worker_settings import WorkerSettings
from moorline.secrets.secret_settings import SecretSettings
from moorline.setting_kinds import STRICT, Words

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

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
_NO_TABLE: Final = ("model_type", "dict_type")  # as pydantic calls it


class DashboardSettings(BaseModel):
    """``[dashboard]``: for whom ``/dashboard`` is open. For nobody, unless ``users`` are named, or the environment has
    a ``MOORLINE_DASHBOARD_TOKEN`` of at least 16 characters to be entered there.
    """

    model_config = STRICT

    users: Words = ()
    """Ids of users who may look and act once they have signed in; in the environment separated by commas."""
    idle: Annotated[float, Field(ge=60)] = 1_800.0
    """Seconds that a session by token lasts without a request."""
    longest: Annotated[float, Field(ge=60, le=31_622_400)] = 43_200.0
    """Seconds that it lasts at all."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.idle > self.longest:
            raise ValueError(f"idle must be at most longest ({self.longest:g})")
        return self


class LogSettings(BaseModel):
    """``[log]``: what is written to standard error."""

    model_config = STRICT

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """The least grave lines that are written."""
    format: Literal["auto", "json", "console"] = "auto"
    """``auto`` is ``console`` on a terminal and ``json`` elsewhere."""


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
    elif problem["type"] in _NO_TABLE:
        reason = f"expected a table, [{'.'.join(place)}]"
    return f"{'.'.join(place)} ({_file().name}) or {PREFIX}{'__'.join(place).upper()} (environment): {reason}"
