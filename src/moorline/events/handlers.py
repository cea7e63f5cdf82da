"""Who handles what: functions registered for the events of a service.

A type is matched as ``"pull_request"`` (whatever the action), ``"pull_request.closed"`` (that action only), or ``"*"``.
Each matching handler gets a job of its own, so that the failure of one retries that one alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, get_args

from moorline.errors import ConfigurationError
from moorline.events.models import Model, model_of
from moorline.events.ordering import Key, Ordering
from moorline.events.verification import scheme_of
from moorline.events.where import Filter, Where, filter_of
from moorline.jobs.enqueue import check_retries
from moorline.jobs.intake import Batching
from moorline.jobs.order import OnDead

if TYPE_CHECKING:
    from moorline.events.event import Event
    from moorline.events.scheme import Scheme

__all__ = ["ANY", "JOB_PREFIX", "Handler", "HandlerOptions", "Handlers", "OnMismatch", "check_pattern"]

OnMismatch = Literal["dead", "skip"]

ANY = "*"
JOB_PREFIX = "event:"
"""Before a handler's name, in the name of its jobs."""

_Function = TypeVar("_Function", bound=Callable[..., Any])


class HandlerOptions(TypedDict, total=False):
    """How a handler is run; see ``Handlers.on``."""

    where: Where | None
    model: Any
    on_mismatch: OnMismatch
    key: Key | None
    on_dead: OnDead
    batch: int | None
    linger: float


@dataclass(frozen=True, slots=True)
class Handler:
    """A function that takes an Event (with ``batching`` a list of them), async or plain.

    ``name`` is what its jobs are stored under and must stay the same between releases; ``retries`` how often a failed
    run is tried again, so that a job has ``retries + 1`` attempts. With a ``model`` the payload is its second argument.
    """

    name: str
    function: Callable[..., Any] = field(hash=False)
    retries: int = field(default=5, hash=False)
    where: Filter | None = field(default=None, hash=False)
    model: Model | None = field(default=None, hash=False)
    on_mismatch: OnMismatch = field(default="dead", hash=False)
    ordering: Ordering | None = field(default=None, hash=False)
    batching: Batching | None = field(default=None, hash=False)

    job: str = field(init=False, repr=False, compare=False)
    """The name of its jobs."""
    attempts: int = field(init=False, repr=False, compare=False)
    """How often each of them is tried."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "job", JOB_PREFIX + self.name)
        object.__setattr__(self, "attempts", self.retries + 1)

    def key_of(self, event: Event | None) -> str | None:
        """The order key of its job for that event, if it has one."""
        return None if self.ordering is None or event is None else self.ordering.of(event, self.job)

    @property
    def is_async(self) -> bool:
        """Whether the function runs on the loop, not in a thread."""
        call = getattr(self.function, "__call__", None)  # noqa: B004 -- an object's own
        return inspect.iscoroutinefunction(self.function) or inspect.iscoroutinefunction(call)


class Handlers:
    """The handlers of one application."""

    def __init__(self, sender: Callable[[Any], str] | None = None) -> None:
        """``sender`` gives the name under which events of what is named to ``on`` come; by default the service's."""
        self._sender = service_name if sender is None else sender
        self._named: dict[str, Handler] = {}
        self._subscribed: dict[str, dict[str, list[Handler]]] = {}

    def on(
        self,
        service: str | type[Any] | Scheme,
        type: str = ANY,
        *,
        name: str | None = None,
        retries: int = 5,
        where: Where | None = None,
        model: Any = None,
        on_mismatch: OnMismatch = "dead",
        key: Key | None = None,
        on_dead: OnDead = "block",
        batch: int | None = None,
        linger: float = 1.0,
    ) -> Callable[[_Function], _Function]:
        """Register a function for the events of that service and type; returns it unchanged.

        - ``name``: by default ``<service>.<the function's name>``. Several ``on`` over one function make one handler of
          it, which gets one job an event.
        - ``where``: a plain function of the event, or values by their places (``{"pull_request.merged": True}``); asked
          in the worker, before the handler. An event that does not fit is done, with the reason ``filtered``.
        - ``model``: what the payload is read as and passed as second argument, else the annotation of that argument. A
          payload that does not fit goes to the dead letters at once, or with ``on_mismatch="skip"`` is done.
        - ``key``: a place or a cheap plain function; events of one key are handled in the order of their coming. A dead
          one blocks its key until it is retried or skipped, or, with ``on_dead="skip"``, not at all.
        - ``batch``: the function takes a list of up to so many events, and waits at most ``linger`` seconds for more.

        Raises ConfigurationError for a service that sends no webhooks, a pattern that is none, a name that is taken, an
        option that cannot be.
        """
        sender = self._sender(service)
        check_pattern(type)
        check_retries(retries)
        if on_mismatch not in get_args(OnMismatch):
            raise ConfigurationError(f'on_mismatch: expected "dead" or "skip", got {on_mismatch!r}')
        if on_dead != "block" and key is None:
            raise ConfigurationError("on_dead: it says what becomes of a key, and there is none: give key=")
        chosen = None if where is None else filter_of(where)
        ordering = None if key is None else Ordering(key, on_dead)
        batching = None if batch is None else Batching(batch, linger)

        def register(function: _Function) -> _Function:
            own = _name_for(function, sender, name)
            read = model_of(function, model, several=batching is not None)
            self._add(sender, type, Handler(own, function, retries, chosen, read, on_mismatch, ordering, batching))
            return function

        return register

    @property
    def senders(self) -> list[str]:
        """The names of those whose events are handled, sorted."""
        return sorted(self._subscribed)

    def matching(self, service: str, type: str, action: str | None = None) -> list[Handler]:
        """The handlers of an event, in the order of their registration for ``*``, the type, the type and action."""
        patterns = self._subscribed.get(service)
        if patterns is None:
            return []
        found = [*patterns.get(ANY, ()), *patterns.get(type, ())]
        if action:
            found += patterns.get(f"{type}.{action}", ())
        return list(dict.fromkeys(found)) if len(found) > 1 else found

    def planned(self, event: Event) -> list[tuple[Handler, str | None]]:
        """The handlers of an event, each with the order key of its job if it has one."""
        return [(handler, handler.key_of(event)) for handler in self.matching(event.service, event.type, event.action)]

    def named(self, name: str) -> Handler | None:
        """The handler of that name, or None."""
        return self._named.get(name)

    def __iter__(self) -> Any:
        return iter(self._named.values())

    def __len__(self) -> int:
        return len(self._named)

    def _add(self, service: str, pattern: str, handler: Handler) -> None:
        known = self._named.setdefault(handler.name, handler)
        if known != handler:
            raise ConfigurationError(
                f"name: a handler {handler.name!r} is registered already, with another function or other options;"
                " give this one a name of its own"
            )
        listed = self._subscribed.setdefault(service, {}).setdefault(pattern, [])
        if known not in listed:
            listed.append(known)


def service_name(service: str | type[Any] | Scheme) -> str:
    """The name of a service that sends webhooks. Raises ConfigurationError for one that does not."""
    return scheme_of(service)[0]


def check_pattern(pattern: object) -> None:
    """Raises ConfigurationError unless it is a type, a type with an action, or ``*``."""
    if not isinstance(pattern, str) or not pattern or (ANY in pattern and pattern != ANY):
        raise ConfigurationError(f'type: expected "pull_request", "pull_request.closed" or "*", got {pattern!r}')


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not name or not name.isprintable():
        raise ConfigurationError(f"name: expected a non-empty text, got {name!r}")


def _name_for(function: Callable[..., Any], sender: str, name: str | None) -> str:
    if not callable(function):
        raise ConfigurationError(f"on(...) decorates a function, got {function!r}")
    if name is not None:
        _check_name(name)
        return name
    own = getattr(function, "__name__", None)
    if own is None or own == "<lambda>":
        raise ConfigurationError(f"name: {function!r} has no name of its own; pass name=")
    return f"{sender}.{own}"
