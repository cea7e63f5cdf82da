"""``[webhooks.sources.NAME]``: a sender of one's own, by settings alone."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import BaseModel, Field, model_validator
from pydantic_core import PydanticCustomError

from moorline.errors import ConfigurationError
from moorline.events.delivery import Reply
from moorline.events.places import HEADER, check_place
from moorline.events.schemes.hmac_signature import HMACSignature
from moorline.events.schemes.shared_secret import SharedSecret
from moorline.events.schemes.standard_webhooks import StandardWebhooks
from moorline.setting_kinds import STRICT

if TYPE_CHECKING:
    from moorline.events.scheme import Scheme

__all__ = ["SourceSettings", "wrong_key"]

_KINDS: Final[dict[str, Any]] = {
    "hmac": HMACSignature,
    "standard_webhooks": StandardWebhooks,
    "shared_secret": SharedSecret,
}
_OURS: Final = ("scheme", "answer", "max_body")  # what the scheme's own record does not have by that name
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

Places = str | tuple[str, ...]


class SourceSettings(BaseModel):
    """A sender of one's own, received under ``/webhooks/NAME``: ``app.on("NAME", …)``."""

    model_config = STRICT

    scheme: Literal["hmac", "standard_webhooks", "shared_secret"]
    """How it proves itself: ``hmac``, ``standard_webhooks`` (Svix too), or ``shared_secret``, which is shown."""
    header: str | None = None
    """The header with the signature, or with the secret that is shown."""
    signed: str | None = None
    """What ``hmac`` signs, such as ``{timestamp}.{body}``; its parts are body, timestamp, id, url and method."""
    prefix: str | None = None
    """What stands before the signature (``sha256=``); for ``standard_webhooks`` how the headers begin (``svix-``)."""
    separator: str | None = None
    """What lies between several entries in the signature's header."""
    algorithm: Literal["sha1", "sha256", "sha384", "sha512"] | None = None
    """The hash of ``hmac``; ``sha256`` unless told otherwise."""
    encoding: Literal["hex", "base64"] | None = None
    """How the signature is written; ``hex`` unless told otherwise."""
    key: Literal["text", "hex", "whsec"] | None = None
    """How the secret is written: as it stands (``text``), in hex, or in base64 (``whsec``)."""
    timestamp: str | None = None
    """Where the signed time stands: ``header:NAME``, or ``entry:PREFIX`` in the signature's header."""
    clock: Literal["seconds", "milliseconds", "iso8601"] | None = None
    """How the signed time is written; ``seconds`` unless told otherwise."""
    tolerance: Annotated[float | None, Field(ge=0, allow_inf_nan=False)] = None
    """Seconds that the signed time may be off, either way; 300 unless told otherwise."""
    id: Places | None = None
    """Where the event's id stands: a field (``data.id``), ``header:NAME``; several are joined. Without it: a digest."""
    type: Places | None = None
    """Where its type stands; of several places the first that holds something counts."""
    action: str | None = None
    """Where a finer word than the type stands."""
    each: str | None = None
    """Where the events lie in a delivery that holds several: ``*``, ``items.*``, ``lines``."""
    env: str | None = None
    """The variable with the secret; ``NAME_WEBHOOK_SECRET`` unless told otherwise."""
    answer: str | None = None
    """The body of the 200 for what is stored: JSON or plain text."""
    max_body: Annotated[int | None, Field(ge=1_024, le=256 * 1024 * 1024)] = None
    """Bytes of a body; more is answered 413."""

    @model_validator(mode="after")
    def _whole(self) -> SourceSettings:
        try:
            self.build("name")
        except ConfigurationError as error:
            raise wrong_key(error) from None
        return self

    def build(self, name: str) -> Scheme:
        """The scheme. Raises ConfigurationError that begins with the key that is wrong."""
        kind = _KINDS[self.scheme]
        given = {key: value for key, value in self if value is not None and key not in _OURS}
        known = {field.name for field in dataclasses.fields(kind)}
        for key in given:
            if key not in known:
                raise ConfigurationError(f"{key}: {self.scheme} has no such thing")
        if self.scheme == "hmac" and self.header is None:
            raise ConfigurationError("header: say in which one the signature stands")
        self._check_texts()
        given.setdefault("env", f"{name.upper().replace('-', '_')}_WEBHOOK_SECRET")
        given.setdefault("typed", self.scheme != "standard_webhooks" and self.type is not None)
        if self.scheme == "standard_webhooks" and self.prefix is not None:
            given.setdefault("id", f"header:{self.prefix}id")
        answer = None if self.answer is None else Reply(200, self.answer.encode(), _media(self.answer))
        scheme: Scheme = kind(**given, answer=answer, largest=self.max_body)
        return scheme

    def _check_texts(self) -> None:
        if self.header is not None and not HEADER.fullmatch(self.header):
            raise ConfigurationError(f"header: {self.header!r} is not the name of a header")
        if self.scheme == "standard_webhooks" and not HEADER.fullmatch(f"{self.prefix or ''}id"):
            raise ConfigurationError(f"prefix: {self.prefix!r} begins the name of no header")
        if self.each and not all(self.each.split(".")):
            raise ConfigurationError(f'each: {self.each!r} is no place; such as "*" or "items.*"')
        if self.timestamp is not None and self.timestamp.startswith("header:"):
            check_place("timestamp", self.timestamp)
        if self.env is not None and not _VARIABLE.fullmatch(self.env):
            raise ConfigurationError("env: expected the name of an environment variable")  # it may be the secret
        for key in ("id", "type", "action"):
            given = getattr(self, key)
            for place in (given,) if isinstance(given, str) else given or ():
                check_place(key, place)


def wrong_key(error: ConfigurationError) -> PydanticCustomError:
    """What pydantic is told of an error that begins with the key."""
    key, _, reason = str(error).partition(": ")
    return PydanticCustomError("wrong_key", "{reason}", {"key": key, "reason": reason})


def _media(answer: str) -> str:
    try:
        json.loads(answer)
    except ValueError:
        return "text/plain; charset=utf-8"
    return "application/json"
