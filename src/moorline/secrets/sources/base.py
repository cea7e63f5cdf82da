"""``Source``: one kind of place where credentials are kept. The modules beside this one, and others, fill it in.

A source knows how to fetch a *unit*, which is what it gives at once: a file, or a document with several fields. It does
so blocking, within its own time limits. When it is asked, what is kept meanwhile, and what becomes of a failure is not
its business: see ``moorline.secrets.kept``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final, NamedTuple, Protocol, Self

from moorline.clock import SYSTEM, Clock
from moorline.errors import ConfigurationError
from moorline.secrets.secret import Secret
from moorline.secrets.versions import Found, Stage, Version, fingerprint

__all__ = ["LARGEST", "Address", "Content", "Place", "Source", "Writable"]

LARGEST: Final = 65_536
"""Bytes that a secret may have: as many as AWS Secrets Manager takes."""


class Address(NamedTuple):
    """Where a credential is kept: ``scheme:path?options#field``; *field* is None where it is not said."""

    scheme: str
    path: str
    field: str | None = None

    @classmethod
    def of(cls, url: str) -> Self:
        """*url*, taken apart. Raises ConfigurationError for what is none."""
        scheme, colon, rest = url.partition(":")
        if not colon or not scheme.replace("-", "").isalnum() or scheme != scheme.lower():
            raise ConfigurationError(f"{url!r} does not say where a secret is kept: it begins with no scheme and ':'")
        path, sharp, name = rest.partition("#")
        if sharp and not name:
            raise ConfigurationError(f"{url!r}: nothing follows its '#'")
        return cls(scheme, path, name or None)

    def options(self, *known: str) -> tuple[str, dict[str, str]]:
        """The path, and what follows its ``?``. Raises ConfigurationError for an option that is not *known*."""
        from urllib.parse import parse_qsl

        path, _, query = self.path.partition("?")
        found = dict(parse_qsl(query, keep_blank_values=True))
        for name in found:
            if name not in known:
                raise ConfigurationError(f"{self}: it has no option {name!r}; known: {', '.join(known)}")
        return path, found

    def __str__(self) -> str:
        return f"{self.scheme}:{self.path}" + ("" if self.field is None else f"#{self.field}")


@dataclass(frozen=True, slots=True)
class Content:
    """One version of a unit: a *text*, or several *fields*; *id* as the source calls it, "" if it does not.

    *not_before* and *not_after* are seconds since the epoch. Neither text nor fields are shown.
    """

    id: str = ""
    stage: Stage = "current"
    text: str | None = field(default=None, repr=False)
    fields: Mapping[str, str] | None = field(default=None, repr=False)
    not_before: float | None = None
    not_after: float | None = None


class Place(Protocol):
    """Where one credential is looked for."""

    @property
    def where(self) -> str:
        """The place, for people: no secret."""
        ...

    def now(self) -> Found:
        """What is there, as far as is known: each call of a service asks.

        Raises SecretUnavailable where that cannot be said.
        """
        ...

    def refresh(self) -> None:
        """Ask for it anew, if anything is kept of it."""
        ...


class Source(ABC):
    """The base of what fetches. One is made for each URL without its field; *whole* tells that the URL names one
    credential, not a place for all of them.
    """

    scheme: ClassVar[str]
    ttl: ClassVar[float] = 60.0
    """Seconds that what was fetched is good for; it is fetched again before they are over."""
    look: ClassVar[float | None] = None
    """Seconds between two looks at ``stamp``, for sources that can be watched."""

    clock: Clock = SYSTEM
    """The clock of those who look here."""

    def __init__(self, address: Address, *, whole: bool = False) -> None:
        self.address = address._replace(field=None)
        self.whole = whole

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.address}>"

    def unit(self, name: str) -> str:
        """Which unit holds *name*: by default each name is one of its own."""
        return name

    @abstractmethod
    def fetch(self, unit: str) -> Sequence[Content]:
        """What the unit holds now, the version in use first; nothing where it is not there.

        Raises SecretUnavailable (or OSError) where that cannot be said, ConfigurationError for what cannot be used.
        """

    def stamp(self, unit: str) -> object:
        """Something that is another when the unit has changed, and costs little to look at."""
        del unit
        return None

    def where(self, name: str) -> str:
        """Where *name* is looked for, for people."""
        return str(self.address._replace(field=name))

    def picked(self, contents: Sequence[Content], name: str, called: str) -> Found:
        """What *contents* hold of *name*, as versions; *called* is what the Secrets are called."""
        versions: dict[Secret, Version] = {}
        problems = []
        for content in contents:
            value = content.text if content.fields is None else content.fields.get(name)
            if value is None:
                continue
            try:
                if len(value.encode(errors="replace")) > LARGEST:
                    raise ConfigurationError(f"{called} is larger than {LARGEST} bytes")  # noqa: TRY301
                secret = Secret(value, name=called, not_after=content.not_after)
            except ConfigurationError as error:
                problems.append(ConfigurationError(f"{error} (in {self.where(name)})"))
                continue
            at = self.where(name) + (f"@{content.id}" if content.id else "")
            made = Version(secret, content.id or fingerprint(secret), content.stage, content.not_before, at)
            versions.setdefault(secret, made)
        first = next(iter(versions.values()), None)
        failure = problems[0] if problems and (first is None or first.stage != "current") else None
        return Found(versions.values(), problems, failure=failure)

    def tend(self) -> None:  # noqa: B027 (most need nothing)
        """Do what keeps the way there open: called at least every 15 seconds. Failures are its own business."""

    def close(self) -> None:  # noqa: B027 (most have none)
        """Let go of connections."""


class Writable(Source):
    """A source that values can be put into."""

    changed: Callable[[str], None] = staticmethod(lambda _: None)
    """Told of a name whose versions have changed here."""

    @abstractmethod
    def put_sync(self, name: str, secret: Secret, *, stage: Stage = "current", not_before: float | None = None) -> str:
        """Keep another version, blocking; its id. One that is *current* makes the one that was the previous one."""

    @abstractmethod
    def mark_sync(self, name: str, id: str, stage: Stage) -> bool:
        """Give a version another stage, blocking; whether there is one of that id."""

    @abstractmethod
    def remove_sync(self, name: str, id: str) -> bool:
        """Let go of a version, blocking; whether there was one of that id."""
