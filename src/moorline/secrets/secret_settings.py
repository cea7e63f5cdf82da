"""``SecretSettings``: ``[secrets]``, where credentials are looked for."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field, field_validator

from moorline.errors import ConfigurationError
from moorline.secrets.sources import known
from moorline.secrets.sources.base import Address
from moorline.secrets.sources.environment import check_name
from moorline.setting_kinds import STRICT, Words

__all__ = ["SecretSettings"]


class SecretSettings(BaseModel):
    """``[secrets]``: where credentials are looked for, by the variables that they customarily have."""

    model_config = STRICT

    sources: Annotated[Words, Field(min_length=1)] = ("env:",)
    """Where every one is looked for, in this order: ``env:``, ``dotenv:FILE``, ``file:DIRECTORY``, ``aws-sm:SECRET``,
    ``vault:MOUNT/PATH``, ``keyring:SERVICE``, ``store:``; in the environment separated by commas."""
    names: dict[str, str] = {}
    """Where one is: ``STRIPE_SECRET_KEY = "vault:secret/pay#stripe_key"``. It has to be there at start."""
    required: Words = ()
    """What has to be there at start beside that; in the environment separated by commas."""
    keep: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 86_400.0
    """Seconds that a last good value is used while the place where it is kept is down."""
    refresh: Annotated[float, Field(ge=1, allow_inf_nan=False)] | None = None
    """Seconds after which each place is asked anew; by default what fits it, from 15 (``store:``) to 300."""

    @property
    def configured(self) -> bool:
        """Whether there is anything but the environment."""
        return bool(self.names) or self.sources != ("env:",)

    def uses(self, scheme: str) -> bool:
        """Whether something is looked for there."""
        return any(Address.of(url).scheme == scheme for url in (*self.sources, *self.names.values()))

    @field_validator("sources")
    @classmethod
    def _sources(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for url in value:
            address = Address.of(url)
            if address.field is not None:
                raise ConfigurationError(f"{url}: a source of all secrets has no '#'; that belongs to secrets.names")
            _check_scheme(address)
        return value

    @field_validator("names")
    @classmethod
    def _named(cls, value: dict[str, str]) -> dict[str, str]:
        found = {}
        for name, url in value.items():
            check_name(name)
            try:
                _check_scheme(Address.of(url))
            except ConfigurationError as error:
                raise ConfigurationError(f"{name}: {error}") from None
            found[name.upper()] = url  # in the environment the keys of settings are in any case
        return found

    @field_validator("required")
    @classmethod
    def _required(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            check_name(name)
        return value


def _check_scheme(address: Address) -> None:
    if address.scheme not in known():
        raise ConfigurationError(f"{address}: no source of secrets is called {address.scheme!r}; known: {_listed()}")


def _listed() -> str:
    return ", ".join(f"{one}:" for one in known())
