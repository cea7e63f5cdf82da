"""``operation`` and ``listing``: what makes a method that describes a request one that makes a Call of it."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, cast

from moorline.calls.call import Call
from moorline.calls.exchange import Page, Plan
from moorline.calls.paging import Pages
from moorline.codec import Codec

if TYPE_CHECKING:
    from moorline.calls.service import Service

__all__ = ["Operation", "listing", "operation"]

S = TypeVar("S", bound="Service")
T = TypeVar("T")
P = ParamSpec("P")


class Operation:
    """An operation of a service class: its name, and its arguments as JSON and back."""

    __slots__ = ("_codec", "_decorated", "name")

    def __init__(self, name: str, method: Callable[..., Any], decorated: Callable[..., Any]) -> None:
        self.name = name
        self._decorated = decorated
        self._codec = Codec(method, skip_first=True)

    def encode(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The arguments as a JSON value. Raises InvalidArguments."""
        return json.loads(self._codec.encode(args, dict(kwargs)))

    def decode(self, stored: Any) -> tuple[list[Any], dict[str, Any]]:
        """What ``encode`` was given. Raises InvalidArguments."""
        return self._codec.decode(json.dumps(stored).encode())

    def call(self, service: Service, args: list[Any], kwargs: dict[str, Any]) -> Call[Any]:
        """The Call of this operation with these arguments."""
        made = self._decorated(service, *args, **kwargs)
        return made.page() if isinstance(made, Pages) else cast("Call[Any]", made)


def operation(method: Callable[Concatenate[S, P], Plan[T]]) -> Callable[Concatenate[S, P], Call[T]]:
    """Make a method that returns a Plan one that returns a Call of it. The arguments must have a JSON form."""
    name = method.__name__.lstrip("_")

    @functools.wraps(method)
    def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> Call[T]:
        return Call.of(self, name, method(self, *args, **kwargs), args, kwargs)

    call.operation = Operation(name, method, call)  # type: ignore[attr-defined]
    return call


def listing(method: Callable[Concatenate[S, P], Plan[Page[T]]]) -> Callable[Concatenate[S, P], Pages[T]]:
    """Make a method that returns the Plan of a first page one that returns the Pages from there on."""
    name = method.__name__.lstrip("_")

    @functools.wraps(method)
    def pages(self: S, /, *args: P.args, **kwargs: P.kwargs) -> Pages[T]:
        return Pages(self, name, method(self, *args, **kwargs), args, kwargs)

    pages.operation = Operation(name, method, pages)  # type: ignore[attr-defined]
    return pages
