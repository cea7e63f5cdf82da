"""What an operation asks for (``Plan``) and what came back (``Exchange``), free of any HTTP library."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from moorline.calls.dialects import check_header
from moorline.calls.forms import encode_form
from moorline.calls.upload import Upload
from moorline.errors import Attempt, BadAnswer, CallError, ConfigurationError
from moorline.policies.checks import check_seconds

__all__ = ["Exchange", "Page", "Plan"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
_UNREAD: Final = object()
_read_json: Final = json.JSONDecoder().raw_decode
_LINK: Final = re.compile(r'<([^>]*)>((?:\s*;\s*[\w*]+\s*=\s*(?:"[^"]*"|[^\s",;]+))*)')
_RELATION: Final = re.compile(r';\s*rel\s*=\s*(?:"([^"]*)"|([^\s",;]+))', re.IGNORECASE)
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
IDEMPOTENT: Final = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"})
_BODIES: Final = ("form", "json", "content", "upload")
READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_CHANGES: Final = frozenset({"PUT", "PATCH", "DELETE"})


class Exchange:
    """One answer of a service: ``status``, ``headers`` (names in lower case), ``body``, ``request_id``, ``attempts``.

    ``data`` is the body as JSON, read on first use. ``header(name)`` takes any case. ``age`` is seconds since the
    service said so, 0 for what it said just now; ``from_cache`` tells that the body was kept from an earlier answer,
    ``stale`` that the service could not be asked and this is its last good answer.
    """

    __slots__ = (
        "_data",
        "age",
        "attempts",
        "body",
        "from_cache",
        "headers",
        "method",
        "open",
        "parse",
        "request_id",
        "stale",
        "status",
        "url",
    )

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        body: bytes = b"",
        *,
        method: str = "GET",
        url: str = "",
        request_id: str | None = None,
        attempts: tuple[Attempt, ...] = (),
    ) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.method = method
        self.url = url
        self.request_id = request_id
        self.attempts = attempts
        self.age = 0.0
        self.from_cache = self.stale = False
        self.open: Any = None  # the wire's own response, where the body is still to be read
        self.parse: Callable[[Exchange], Any] | None = None  # how to read it, where it is not as the Call's plan says
        self._data: Any = _UNREAD

    def copy(self, *, age: float = 0.0, from_cache: bool = False, stale: bool = False) -> Exchange:
        """The same answer for another caller, who may change what it reads from it."""
        other = Exchange(
            self.status,
            dict(self.headers),
            self.body,
            method=self.method,
            url=self.url,
            request_id=self.request_id,
            attempts=self.attempts,
        )
        other.age, other.from_cache, other.stale = age, from_cache, stale
        return other

    @property
    def data(self) -> Any:
        """The body as JSON; None when there is no body.

        Raises BadAnswer when it is not JSON: malformed, truncated, or nested too deeply.
        """
        if self._data is _UNREAD:
            self._data = self._read()
        return self._data

    @property
    def names(self) -> Collection[str]:
        """The names of the headers, in lower case."""
        return self.headers.keys()

    def header(self, name: str, default: str | None = None) -> str | None:
        """The value of the header *name*, in any case; repeated ones are joined by commas."""
        return self.headers.get(name.lower(), default)

    def link(self, relation: str = "next") -> str | None:
        """The address that the ``Link`` header names for *relation*, or None."""
        for address, parameters in _LINK.findall(self.headers.get("link", "")):
            for quoted, bare in _RELATION.findall(parameters):
                if relation in (quoted or bare).split():
                    return str(address)
        return None

    def _read(self) -> Any:
        if not self.body:
            return None
        try:  # as most services write it: without looking for the encoding, and for spaces around
            text = self.body.decode()
            value, end = _read_json(text)
            if end == len(text):
                return value
        except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
            pass
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(self.body)
        # Out of the block, as the error of the decoder holds the whole body, and would be this one's context.
        kind = self.headers.get("content-type", "no content type").split(";")[0]
        raise BadAnswer(f"the answer is not JSON ({len(self.body)} bytes of {kind[:60]})", status=self.status)

    def __repr__(self) -> str:
        return f"<Exchange {self.method} {self.status}, {len(self.body)} bytes>"


@dataclass(frozen=True, slots=True)
class Plan(Generic[T_co]):
    """A request that a service wants made, and how to read its answer. Operations return one; see ``Service.get``
    and its like.

    *path* is relative to the service's base URL, or a whole URL of the same origin. At most one of *form*, *json*,
    *content* and *upload* is given. *parse* takes the Exchange of a 2xx answer. *repeatable* overrides what the method
    says of safety: True for a POST that only reads, and with *acts* for one that changes something and may be repeated
    all the same (an upsert), though not be sent twice at once. *keyed* is False for a write of which the service, which
    honours idempotency keys elsewhere, honours none. *undone* are codes, beside the service's own, which say that this
    request did nothing, so that it may be repeated. *after* is a read that is sent before it: its *parse* gives the
    Plan to send in place of this one, or None where nothing is left to do, and then *parse* gets what the read found;
    *overtaken* are the codes of errors that say that another did it in between: then the read is made once more, and
    where that finds nothing left to do, it is the result;
    see ``Service.post_after``. *blank* tells that a 2xx answer may be empty, *text* that it is no
    JSON: *parse* reads its bytes. *cost* is what each attempt takes from the limits of the service and from our own,
    where the usual operation takes 1. *accept* is shown the typed error of any other answer: what it gives is the
    Call's result where that error is an answer and no failure (a device that is gone); None means that it is one.
    *host* names another of the service's addresses (``Endpoints.hosts``) that it goes to. *bucket* is the part of the
    service whose limits it counts against, where the service names such parts; by default it is the operation.

    Raises ConfigurationError for a method that is none, several bodies, a body on a GET, or a cost that is no positive
    number.
    """

    method: str
    path: str
    parse: Callable[[Exchange], T_co] = field(repr=False)
    form: Mapping[str, object] | None = field(default=None, repr=False)
    json: Any = field(default=None, repr=False)
    content: bytes | None = field(default=None, repr=False)
    upload: Upload | None = field(default=None, repr=False)
    query: Mapping[str, object] | None = field(default=None, repr=False)
    headers: Mapping[str, str] | None = field(default=None, repr=False)
    repeatable: bool | None = None
    keyed: bool = True
    undone: Collection[str] = ()
    blank: bool = False
    text: bool = False
    cost: float = 1.0
    acts: bool = False
    accept: Callable[[CallError], T_co | None] | None = field(default=None, repr=False)
    after: Plan[Plan[Any] | None] | None = field(default=None, repr=False)
    overtaken: Collection[str] = frozenset()
    host: str = ""
    bucket: str = ""
    frozen: tuple[bytes | None, str | None] | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if type(self.cost) is not float or self.cost != 1.0:
            check_seconds("Plan", "cost", self.cost)
        if self.method not in METHODS:
            raise ConfigurationError(f"method must be one of {', '.join(METHODS)}, not {self.method!r}")
        if self.headers:
            for name, text in self.headers.items():
                check_header("headers", name, text)
        if self.form is None and self.json is None and self.content is None and self.upload is None:
            return
        bodies = [name for name in _BODIES if getattr(self, name) is not None]
        if len(bodies) > 1:
            raise ConfigurationError(f"{' and '.join(bodies)} were both given; a request has one body")
        if bodies and self.method in ("GET", "HEAD"):
            raise ConfigurationError(f"{bodies[0]} was given, but a {self.method} request has no body; use query")
        if self.upload is not None and not isinstance(self.upload, Upload):
            raise ConfigurationError(f"upload must be a moorline.Upload, not {type(self.upload).__name__}")

    def freeze(self) -> tuple[bytes | None, str | None]:
        """The body and its type, once and for all: what is sent again under one key must not have changed meanwhile.

        Raises ConfigurationError for a body that has no such form.
        """
        found = self._encoded()
        object.__setattr__(self, "frozen", found)
        return found

    def _encoded(self) -> tuple[bytes | None, str | None]:
        if self.form is not None:
            return encode_form(self.form).encode("ascii"), "application/x-www-form-urlencoded"
        if self.json is not None:
            try:
                text = json.dumps(self.json, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
                return text.encode(), "application/json"
            except (TypeError, ValueError) as error:
                raise ConfigurationError(f"the body cannot be sent as JSON: {error}") from None
        return self.content, None if self.upload is None else self.upload.content_type

    @property
    def reads(self) -> bool:
        """Whether it changes nothing at the service, so that it may be sent twice, at once, and to another."""
        if self.upload is not None or self.acts or self.method in _CHANGES:  # an upload has one source
            return False
        return self.method in READS if self.repeatable is None else self.repeatable


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a listing: its *items*, and the Plan of the next page (None at the end)."""

    items: tuple[T, ...]
    next: Plan[Page[T]] | None = None
