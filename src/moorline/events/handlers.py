"""Who handles what: functions registered for the events of a service.

A type is matched as ``"pull_request"`` (whatever the action), ``"pull_request.closed"`` (that action only), or ``"*"``.
Each matching handler gets a job of its own, so that the failure of one retries that one alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from moorline.errors import ConfigurationError
from moorline.events.verification import scheme_of

if TYPE_CHECKING:
    from moorline.events.event import Event

__all__ = ["ANY", "JOB_PREFIX", "Handler", "Handlers"]

ANY = "*"
JOB_PREFIX = "event:"
"""Before a handler's name, in the name of its jobs."""

_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Handler:
    """A function that takes an Event, async or plain.

    ``name`` is what its jobs are stored under and must stay the same between releases; ``retries`` how often a failed
    run is tried again, so that a job has ``retries + 1`` attempts.
    """

    name: str
    function: Callable[[Event], Any]
    retries: int = 5

    @property
    def job(self) -> str:
        """The name of its jobs."""
        return JOB_PREFIX + self.name


class Handlers:
    """The handlers of one application."""

    def __init__(self) -> None:
        self._named: dict[str, Handler] = {}
        self._subscribed: dict[str, dict[str, list[Handler]]] = {}

    def on(
        self, service: str | type[Any], type: str = ANY, *, name: str | None = None, retries: int = 5
    ) -> Callable[[_Function], _Function]:
        """Register a function for the events of that service and type; returns it unchanged.

        ``name`` is by default ``<service>.<the function's name>``. Several ``on`` over one function make one handler of
        it, which gets one job an event.

        Raises ConfigurationError for a service that sends no webhooks, a pattern that is none, a name that is taken.
        """
        sender, _ = scheme_of(service)
        _check_pattern(type)
        _check_retries(retries)

        def register(function: _Function) -> _Function:
            self._add(sender, type, Handler(_name_for(function, sender, name), function, retries))
            return function

        return register

    def matching(self, service: str, type: str, action: str | None = None) -> list[Handler]:
        """The handlers of an event, in the order of their registration for ``*``, the type, the type and action."""
        patterns = self._subscribed.get(service)
        if patterns is None:
            return []
        found = [*patterns.get(ANY, ()), *patterns.get(type, ())]
        if action:
            found += patterns.get(f"{type}.{action}", ())
        return list(dict.fromkeys(found)) if len(found) > 1 else found

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
                f"name: a handler {handler.name!r} is registered already, with another function or other retries;"
                " give this one a name of its own"
            )
        listed = self._subscribed.setdefault(service, {}).setdefault(pattern, [])
        if known not in listed:
            listed.append(known)


def _check_pattern(pattern: object) -> None:
    if not isinstance(pattern, str) or not pattern or (ANY in pattern and pattern != ANY):
        raise ConfigurationError(f'type: expected "pull_request", "pull_request.closed" or "*", got {pattern!r}')


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not name or not name.isprintable():
        raise ConfigurationError(f"name: expected a non-empty text, got {name!r}")


def _check_retries(retries: object) -> None:
    if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
        raise ConfigurationError(f"retries: expected a whole number, 0 or more, got {retries!r}")


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
