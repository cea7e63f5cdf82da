"""``SignInSettings`` and ``AccountSettings``: ``[sign_in]`` and ``[accounts]``, what users are let do."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, Field, model_validator

from moorline.setting_kinds import STRICT, Words

__all__ = ["AccountSettings", "SignInSettings"]


class SignInSettings(BaseModel):
    """``[sign_in]``: who signs users in, at ``/auth/{provider}/login``. Nobody does unless it says so."""

    model_config = STRICT

    providers: Words = ()
    """``google``, ``github``, ``microsoft``, and those of ``issuers``; in the environment separated by commas."""
    issuers: dict[str, str] = {}
    """OpenID providers by names of your choice: ``{okta = "https://dev-1.okta.com"}``."""
    idle: Annotated[float, Field(ge=60)] = 86_400.0
    """Seconds that a session lasts without a request."""
    longest: Annotated[float, Field(ge=60)] = 1_209_600.0
    """Seconds that a session lasts at all."""


class AccountSettings(BaseModel):
    """``[accounts]``: where users connect accounts of theirs, at ``/auth/connections``. Nowhere unless it says so."""

    model_config = STRICT

    services: Words = ()
    """Services by name: ``["hubspot"]``; in the environment separated by commas."""
    scopes: dict[str, tuple[str, ...]] = {}
    """What is needed of each account, by service: ``{hubspot = ["crm.objects.contacts.read"]}``."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        for name in self.scopes:
            if name not in self.services:
                raise ValueError(f"scopes: {name!r} is none of the services")
        return self
