"""Driving a receiver and ``verify`` with whatever somebody may send, in-process and without a network or a database.

What must hold: no exception leaves them, a status is 503 or below 500, what is stored could be stored, and no more of a
body is read than the limit and what is drained of a refused one.
"""

from __future__ import annotations

import importlib
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from tests.events.senders.sample import Sample

from moorline import registry
from moorline.clock import ManualClock
from moorline.errors import InvalidSignature, MoorlineError, UnusableEvent
from moorline.events import Inbox, Receiver, verify
from moorline.events.inbox_sql import Stored
from moorline.events.verification import scheme_of

__all__ = ["NOW", "Broken", "Input", "Mutator", "Target", "seeds"]

NOW = 1_790_000_000.0
MAX_BODY = 16 * 1024
MESSAGE = 64 * 1024
MOST_READ = MAX_BODY + 8 * 1024 * 1024 + MESSAGE
"""Bytes of a body: the limit, 8 MiB of what is refused, and one message."""
HOST = "https://shop.example"
GENERIC = "standard_webhooks"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
STRANGE = (
    b"", b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\r\n", b"%00", b"%", b"+", b",", b";", b"=", b'"',
    b"\\ud800", b"\\u0000", b"-1", b"1e999", b"NaN", b"9" * 400, b"null", b"true", b"[]", b"{}", b"[" * 500,
    b'{"a":' * 300, b"payload=", b"payload=%7B%7D", b"v1=", b"t=", b"v1,", b"sha256=", b"\xc2\xa0", b"\xe2\x80\xae",
    b"A" * 300, b"application/x-www-form-urlencoded", b"multipart/form-data; boundary=x", b"gzip", b"identity",
)  # fmt: skip
"""Bytes that parsers trip over."""
HEADERS = (
    b"content-type", b"content-encoding", b"content-length", b"transfer-encoding", b"expect", b"host", b"x-forwarded-for",
    b"x-forwarded-proto", b"x-forwarded-host", b"forwarded", b"authorization", b"cookie",
)  # fmt: skip
METHODS = ("POST", "GET", "HEAD", "PUT", "OPTIONS", "DELETE", "post", "PROPFIND", "")


class Broken(AssertionError):
    """What must hold does not; the message says for which input."""


@dataclass(frozen=True, slots=True)
class Input:
    """One request: ``chunks`` of its body, and whether its sender ``leaves`` before the end."""

    service: str
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    method: str = "POST"
    path: str = ""
    query: bytes = b""
    chunks: tuple[int, ...] = ()
    leaves: bool = False

    def parts(self) -> Iterator[bytes]:
        """The body, cut at ``chunks``, and the rest as servers pass it on: 64 KiB at most."""
        start = 0
        for size in self.chunks:
            yield self.body[start : start + size]
            start += size
        yield from (
            self.body[place : place + MESSAGE] for place in range(start, max(len(self.body), start + 1), MESSAGE)
        )

    def __str__(self) -> str:
        return repr(replace(self, body=self.body[:400]))


class _Store:
    """Takes what a database would take, and keeps nothing."""

    clock = ManualClock(NOW)
    dialect = "sqlite"
    is_open = False

    def before_close(self, callback: Callable[[], None]) -> None:
        """It never closes."""

    def admit(self, within: float) -> None:
        """There is room."""

    async def write(self, apply: Callable[..., Any], payload: Any, **options: Any) -> Any:
        """Whatever is written must fit into both databases."""
        self._check(payload)
        one = Stored("0" * 32, duplicate=False)
        return [one] * len(payload) if isinstance(payload, list) else one

    def notify(self, channel: str, *, delay: float = 0.0) -> None:
        """Nobody listens."""

    def _check(self, value: Any) -> None:
        if isinstance(value, str):
            if "\x00" in value:
                raise Broken("text with NUL, which PostgreSQL refuses")
            value.encode()
        elif isinstance(value, (list, tuple)):
            for part in value:
                self._check(part)


@dataclass
class Target:
    """What the inputs are given to."""

    receiver: Receiver = field(init=False)
    statuses: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        store: Any = _Store()
        self.receiver = Receiver(Inbox(store), secrets_of, max_body=MAX_BODY, public_url=HOST, clock=ManualClock(NOW))
        self.receiver.fetch = _fetched

    async def receive(self, given: Input) -> int:
        """Give it to the receiver; the status, 0 for no answer. Raises Broken."""
        parts = list(given.parts())
        read = 0
        sent: list[Mapping[str, Any]] = []

        async def receive() -> dict[str, Any]:
            nonlocal read
            if not parts:
                return {"type": "http.disconnect"}
            part = parts.pop(0)
            read += len(part)
            if given.leaves and not parts:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": part, "more_body": bool(parts)}

        async def send(message: Mapping[str, Any]) -> None:
            sent.append(message)

        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": given.method, "scheme": "http",
            "path": given.path, "raw_path": given.path.encode("utf-8", "surrogatepass"), "query_string": given.query,
            "root_path": "", "headers": [(name.lower(), value) for name, value in given.headers],
            "client": ("203.0.113.9", 1234), "server": ("127.0.0.1", 80),
        }  # fmt: skip
        try:
            await self.receiver(scope, receive, send)
        except Exception as error:
            raise Broken(f"{error!r} for {given}") from error
        status = int(sent[0]["status"]) if sent else 0
        if status > 503 or 500 <= status < 503 or (status == 0 and not given.leaves):
            raise Broken(f"status {status} for {given}")
        if read > MOST_READ:
            raise Broken(f"{read} bytes read of {given}")
        self.statuses[status] = self.statuses.get(status, 0) + 1
        return status

    def verify(self, given: Input) -> bool:
        """Give it to ``verify``; whether it was accepted. Raises Broken."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in given.headers}
        try:
            verify(
                given.service, headers=headers, body=given.body, secrets=secrets_of(given.service),
                url=f"{HOST}{given.path}" + (f"?{given.query.decode('latin-1')}" if given.query else ""),
                method=given.method, now=NOW, certificates=_certificates(given.service),
            )  # fmt: skip
        except (InvalidSignature, UnusableEvent):
            return False
        except Exception as error:
            raise Broken(f"{error!r} for {given}") from error
        return True


def _certificates(service: str) -> Mapping[str, bytes]:
    return {} if service == GENERIC else sample_of(service).certificates or {}


async def _fetched(url: str) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\nbm9uZQ==\n-----END CERTIFICATE-----\n"


def seeds() -> list[Input]:
    """A good delivery of every service that sends webhooks, by its sample, and of the generic scheme."""
    names = [name for name in registry.names() if getattr(registry.service(name), "webhooks", None) is not None]
    return [_seed(sample_of(name)) for name in names] + [_generic()]


def sample_of(name: str) -> Sample:
    """The sample of that sender."""
    sample: Sample = importlib.import_module(f"tests.events.senders.{name}").SAMPLE
    return sample


def _seed(sample: Sample) -> Input:
    made = sample.signed()
    parts = urlsplit(made.url)
    headers = tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in made.headers.items())
    return Input(sample.service, headers, made.body, made.method, parts.path, parts.query.encode())


def _generic() -> Input:
    given = Input(GENERIC, ((b"content-type", b"application/json"),), b'{"type":"a.b"}', path=f"/webhooks/{GENERIC}")
    return signed(given)


def secrets_of(service: str) -> tuple[str, ...]:
    """What the receiver is configured with for that service."""
    return (SECRET if service == GENERIC else sample_of(service).secret,)


def signed(given: Input) -> Input:
    """The input with a good signature of its sender's, over its body as it is now; as it is where that cannot be."""
    scheme: Any = scheme_of(given.service)[1]
    secret, key = (
        (SECRET, None) if given.service == GENERIC else (sample_of(given.service).secret, sample_of(given.service).key)
    )
    url = f"{HOST}{given.path}" + (f"?{given.query.decode('latin-1')}" if given.query else "")
    try:
        body = scheme.seal(given.body, secret, now=NOW, url=url, key=key)
        made = scheme.sign(body, secret, now=NOW, id="msg_1", url=url, method=given.method, key=key)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, MoorlineError):
        return given  # a body that its sender could not sign
    names = {name.lower().encode() for name in made}
    kept = tuple(header for header in given.headers if header[0].lower() not in names)
    added = tuple((name.encode(), value.encode("latin-1", "replace")) for name, value in made.items())
    return replace(given, headers=kept + added, body=body)


class Mutator:
    """Makes inputs from seeds, the same from the same number."""

    def __init__(self, seed: int, inputs: Sequence[Input]) -> None:
        self.chance = random.Random(seed)
        self.inputs = inputs

    def next(self) -> Input:
        """Another input: a third are signed anew after they were changed, so that parsing and storing are reached."""
        chance = self.chance
        given = chance.choice(self.inputs)
        if chance.random() < 0.7:
            given = replace(
                given, body=self._document(given.body) if chance.random() < 0.5 else self._bytes(given.body)
            )
        again = chance.random() < 0.34
        if again:
            given = signed(given)
        if chance.random() < (0.3 if again else 0.8):
            given = replace(given, headers=self._headers(given.headers))
        if chance.random() < 0.1:
            given = replace(given, method=chance.choice(METHODS))
        if chance.random() < 0.1:
            given = replace(given, path=self._path(given.path))
        if chance.random() < 0.1:
            given = replace(given, query=self._bytes(b"hub.challenge=1&validationToken=x&crc_token=y"))
        if chance.random() < 0.3:
            chunks = tuple(chance.randrange(0, 400) for _ in range(chance.randrange(1, 6)))
            given = replace(given, chunks=chunks, leaves=chance.random() < 0.1)
        if chance.random() < 0.001:
            given = replace(
                given, body=given.body * (1 + chance.choice((MAX_BODY, 600 * MAX_BODY)) // len(given.body or b"x"))
            )
        return given

    def _bytes(self, data: bytes) -> bytes:
        chance = self.chance
        for _ in range(chance.choice((1, 1, 1, 2, 4))):
            place = chance.randrange(len(data) + 1)
            kind = chance.randrange(5)
            if kind == 0:
                data = data[:place] + chance.choice(STRANGE) + data[place:]
            elif kind == 1:
                data = data[:place] + data[place + chance.randrange(1, 9) :]
            elif kind == 2 and data:
                place = min(place, len(data) - 1)
                data = data[:place] + bytes([data[place] ^ (1 << chance.randrange(8))]) + data[place + 1 :]
            elif kind == 3:
                other = chance.choice(self.inputs).body
                cut = chance.randrange(len(other) + 1)
                data = data[:place] + other[cut : cut + 64]
            else:
                data = data[:place] + data[place // 2 : place] + data[place:]
        return data[:4096]

    def _document(self, body: bytes) -> bytes:
        """The JSON with one value replaced, where it is JSON."""
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            return self._bytes(body)
        inner, key = document, None
        while isinstance(inner, dict) and inner:
            parent, key = inner, self.chance.choice(list(inner))
            inner = inner[key]
            if self.chance.random() < 0.5:
                break
        if key is not None:
            token = self.chance.choice(STRANGE)
            values: tuple[Any, ...] = (
                token.decode("utf-8", "replace"),
                None,
                0,
                -1,
                2**70,
                1.5,
                True,
                [],
                {},
                [inner],
                {"id": inner},
            )
            parent[key] = self.chance.choice(values)
            if self.chance.random() < 0.1:
                parent[key] = "\ud800\x00"
        return json.dumps(document, ensure_ascii=self.chance.random() < 0.5).encode("utf-8", "surrogatepass")

    def _headers(self, headers: tuple[tuple[bytes, bytes], ...]) -> tuple[tuple[bytes, bytes], ...]:
        chance = self.chance
        changed = list(headers)
        place = chance.randrange(len(changed)) if changed else 0
        kind = chance.randrange(4) if changed else 3
        if kind == 0:
            changed[place] = (changed[place][0], self._bytes(changed[place][1]))
        elif kind == 1:
            del changed[place]
        elif kind == 2:
            changed.append((changed[place][0], chance.choice((changed[place][1], *STRANGE))))
        else:
            changed.append((chance.choice(HEADERS), chance.choice(STRANGE)))
        return tuple(changed)

    def _path(self, path: str) -> str:
        changed = self._bytes(path.encode()).decode("utf-8", "replace")
        return changed if changed.startswith("/") else "/webhooks/" + changed
