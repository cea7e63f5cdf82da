"""``WebhookSettings``: ``[webhooks]``, what is received and kept, and when it is an alert."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import BaseModel, Field, field_validator, model_validator

from moorline.errors import ConfigurationError
from moorline.events.origin import Origin
from moorline.events.source_settings import SourceSettings, wrong_key
from moorline.events.sources import check_name
from moorline.setting_kinds import STRICT, Seconds, Words

if TYPE_CHECKING:
    from moorline.events.alerts import AlertConfig
    from moorline.events.retention import RetentionConfig

__all__ = ["AlertSettings", "SourceAlertSettings", "WebhookSettings"]


class SourceAlertSettings(BaseModel):
    """``[webhooks.alerts.sources.NAME]``: what differs for one service."""

    model_config = STRICT

    silent_minutes: Annotated[float, Field(ge=0)] | None = None
    """Minutes without an event; 0 for never."""
    failures_percent: Annotated[float, Field(ge=0, le=100)] | None = None
    """Percent of its requests that were forged; 0 for never."""


class AlertSettings(BaseModel):
    """``[webhooks.alerts]``: what is told to the log, to ``app.on_alert`` and to a URL. 0 switches a limit off."""

    model_config = STRICT

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

    model_config = STRICT

    max_body: Annotated[int | None, Field(ge=1_024, le=256 * 1024 * 1024)] = None
    """Bytes of a body; more is answered 413. By default what the sender may send (GitHub: 25 MiB), else 1 MiB."""
    read_timeout: Seconds = 10.0
    """Seconds that a sender has for its whole body; slower is answered 408."""
    public_url: str | None = None
    """The address that the world calls this application by, ``https://shop.example``: some senders sign it."""
    trusted_proxies: Words = ()
    """Addresses or networks whose forwarding headers are believed; in the environment separated by commas."""
    sources: dict[str, SourceSettings] = {}

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
