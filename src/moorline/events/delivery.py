"""What passes between a sender and us: the delivery that it makes, and the reply that it gets."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import parse_qsl, urlsplit

from moorline.clock import SYSTEM
from moorline.errors import ConfigurationError, InvalidSignature

__all__ = ["FORM", "MAX_FIELDS", "MULTIPART", "Delivers", "Delivery", "Reply", "media_of", "pairs", "query_of"]

FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data"

MAX_FIELDS = 1000
"""Fields of a query or form; what has more is read as having none."""


class Delivery:
    """One request of a sender's, as it came.

    ``headers`` have lower-case names; ``body`` is the raw bytes; ``url`` is the address as the sender called it, with
    its query, or None where it is not known; ``token`` is what follows the service's name in the path;
    ``received_at`` is in seconds since the epoch, by default this machine's time.
    """

    def __init__(
        self,
        headers: Mapping[str, str],
        body: bytes = b"",
        *,
        method: str = "POST",
        url: str | Callable[[], str] | None = None,
        token: str = "",
        received_at: float | None = None,
    ) -> None:
        self.headers = headers
        self.body = body
        self.method = method
        self.token = token
        self.received_at = SYSTEM.wall() if received_at is None else received_at
        self._url = url

    @cached_property
    def url(self) -> str | None:
        """Found when first asked for: few schemes sign it."""
        return self._url() if callable(self._url) else self._url

    @property
    def media(self) -> str:
        """See ``media_of``."""
        return media_of(self.headers)

    @cached_property
    def query(self) -> list[tuple[str, str]]:
        """The fields of the URL's query, decoded, in their order."""
        return pairs(query_of(self.url)) if self.url else []

    @cached_property
    def form(self) -> list[tuple[str, str]]:
        """The fields of a form body, decoded, in their order, without files; none when the body is something else.

        Raises UnusableEvent for ``multipart/form-data`` that cannot be read.
        """
        if self.media == MULTIPART:
            from moorline.events.forms import parts

            fields = parts(self.body, self.headers["content-type"])
            return [(one.name, decoded) for one in fields if isinstance(decoded := one.value, str)]
        if self.media != FORM:
            return []
        return pairs(self.body.decode("utf-8", "replace"))

    def texts(self, names: Collection[str]) -> list[tuple[str, str]]:
        """Those fields of a form body, decoded, in their order. Raises UnusableEvent for a body that is no form."""
        from moorline.events.forms import texts

        return texts(self.body, self.headers["content-type"], names)

    @property
    def is_form(self) -> bool:
        """Whether the body is said to be a form, of either kind."""
        return self.media in (FORM, MULTIPART)

    def as_form(self) -> Delivery:
        """A GET, whose fields stand in the address, as the form that it would be by POST; any other as it is."""
        if self.method != "GET":
            return self
        body = query_of(self.url or "").encode("utf-8", "surrogatepass")
        headers = {**self.headers, "content-type": FORM}
        return Delivery(headers, body, method=self.method, url=self.url, token=self.token, received_at=self.received_at)


def query_of(url: str) -> str:
    """The query of an address, whose host may be whatever a stranger wrote. Raises InvalidSignature."""
    try:
        return urlsplit(url).query
    except ValueError:
        raise InvalidSignature("the address is none", reason="malformed") from None


def media_of(headers: Mapping[str, str]) -> str:
    """The media type, in lower case, without its parameters; empty when none is named."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def pairs(text: str) -> list[tuple[str, str]]:
    """The fields of an encoded form or query, blank ones too; none of one with more than ``MAX_FIELDS``."""
    try:
        return parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        return []


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as it is sent. Raises ConfigurationError naming what cannot be sent.

    Another status than 2xx makes most senders deliver the event again, which is then a duplicate and not answered by a
    function; 3xx and 410 are never sent, because senders follow the one and give up the endpoint at the other.
    """

    status: int = 200
    body: bytes = b""
    media: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not 200 <= self.status <= 599 or 300 <= self.status <= 399 or self.status == _GONE:
            raise ConfigurationError(f"status: {self.status!r} cannot answer a sender")
        if not _is(self.body, bytes):
            raise ConfigurationError(f"body: expected bytes, got {type(self.body).__name__}")
        for name, value in (("media", self.media), *self.headers):
            if not (_is(name, str) and _is(value, str) and name and f"{name}{value}".isprintable()):
                raise ConfigurationError(f"headers: {name!r} cannot be sent")


_GONE = 410


def _is(value: object, kind: type) -> bool:
    return isinstance(value, kind)


@dataclass(frozen=True, slots=True)
class Delivers:
    """What a sender does: ``within`` is how many seconds it waits for the answer (None: not known), ``retries`` how it
    tries again, in words, for people.
    """

    within: float | None = None
    retries: str = "not known"
