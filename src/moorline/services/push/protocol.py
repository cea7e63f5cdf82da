"""What all push services have in common: the notification, a result for each token, and which tokens are dead."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from moorline.errors import CallError
from moorline.services.limits import encodable, refused

if TYPE_CHECKING:
    from moorline.calls.call import Call
    from moorline.calls.group import Group

__all__ = ["Push", "PushReport", "PushResult", "PushService", "merged", "one_each", "report"]


@dataclass(frozen=True, slots=True)
class Push:
    """One notification. *data* goes to the application, texts only; without *title* and *body* it is silent.

    *ttl* is in seconds (0: now or never), *priority* ``high`` wakes a sleeping telephone; of several with the same
    *collapse_key* the device shows the last. *android*, *ios* and *web* are the provider's own fields for that
    platform, passed through by their names. Raises InvalidRequest naming the field.
    """

    title: str | None = None
    body: str | None = field(default=None, repr=False)
    data: Mapping[str, str] = field(default_factory=dict, repr=False)
    image: str | None = None
    url: str | None = None
    ttl: int | None = None
    priority: Literal["normal", "high"] | None = None
    collapse_key: str | None = None
    badge: int | None = None
    sound: str | None = None
    android: Mapping[str, Any] = field(default_factory=dict, repr=False)
    ios: Mapping[str, Any] = field(default_factory=dict, repr=False)
    web: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not (self.title or self.body or self.data or self.android or self.ios or self.web):
            raise refused("body", "or title or data is needed")
        for name in ("title", "body", "image", "url", "collapse_key", "sound"):
            if getattr(self, name) is not None:
                encodable(name, getattr(self, name))
        for name, value in self.data.items():
            encodable("data", name)
            encodable(f"data[{name}]", value)
        ttl: object = self.ttl
        if ttl is not None and (isinstance(ttl, bool) or not isinstance(ttl, int) or ttl < 0):
            raise refused("ttl", "must be a whole number of seconds, 0 or more")
        if self.priority not in (None, "normal", "high"):
            raise refused("priority", "must be normal or high")


@dataclass(frozen=True, slots=True)
class PushResult:
    """What became of the notification for one *target* (a token, or what the provider has in its place).

    *dead* tells that the target will never work again: delete it. *error* is the typed failure, whose ``retryable``
    says whether another try may help; None for what was taken.
    """

    target: str
    id: str | None = None
    dead: bool = False
    error: CallError | None = field(default=None, compare=False)
    raw: Any = field(default=None, repr=False, compare=False)

    @property
    def ok(self) -> bool:
        """Whether the provider took it."""
        return self.error is None and not self.dead


@dataclass(frozen=True, slots=True)
class PushReport:
    """One result for each target, in their order."""

    results: tuple[PushResult, ...]

    @property
    def sent(self) -> int:
        """How many were taken."""
        return sum(one.ok for one in self.results)

    @property
    def dead(self) -> tuple[str, ...]:
        """The targets to delete."""
        return tuple(one.target for one in self.results if one.dead)

    @property
    def failed(self) -> tuple[PushResult, ...]:
        """Those that were not taken and are not dead."""
        return tuple(one for one in self.results if not one.ok and not one.dead)

    @property
    def again(self) -> tuple[str, ...]:
        """The targets for which another try may help, and cannot reach anybody twice."""
        return tuple(one.target for one in self.failed if one.error is not None and one.error.retryable)


class PushService(Protocol):
    """The operations that every push service has. What a *target* is differs: FCM's are tokens, OneSignal's
    subscription ids, SNS's endpoint ARNs.
    """

    def send(self, push: Push, target: str) -> Call[PushResult]:
        """Notify one device. A dead target is no error: it is a result with ``dead``."""
        ...

    def send_many(self, push: Push, targets: Iterable[str]) -> Group[PushReport]:
        """Notify many devices: ``await`` it or ask for its ``result()``; one result for each, whatever became of the
        others.
        """
        ...

    def send_topic(self, push: Push, topic: str) -> Call[PushResult]:
        """Notify all who subscribed to *topic*."""
        ...


def merged(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """*ours* with the provider's own fields over it, those within fields too."""
    found = dict(ours)
    for name, value in theirs.items():
        both = isinstance(value, Mapping) and isinstance(found.get(name), Mapping)
        found[name] = merged(found[name], value) if both else value
    return found


def one_each(targets: Iterable[str]) -> tuple[str, ...]:
    """The targets in their order, each once. Raises InvalidRequest for none at all, and for a text in their place."""
    if isinstance(targets, str):
        raise refused("targets", "must be several, not one text")
    found = tuple(dict.fromkeys(targets))
    if not found:
        raise refused("targets", "needs at least one")
    return found


def report(targets: tuple[str, ...]) -> Callable[[list[Any]], PushReport]:
    """What makes a report of one Call's result, or error, for each of *targets*."""

    def join(found: list[Any]) -> PushReport:
        results = zip(targets, found, strict=True)
        return PushReport(
            tuple(PushResult(target, error=one) if isinstance(one, CallError) else one for target, one in results)
        )

    return join
