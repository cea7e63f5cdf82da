"""Payloads as typed values: models, dataclasses and typed dicts of pydantic's, structs of msgspec's."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from moorline.errors import ConfigurationError
from moorline.events.body import document
from moorline.reading import hints_of, name_of, reader

if TYPE_CHECKING:
    from moorline.events.event import Event

__all__ = ["Model", "model_of"]

_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True, slots=True)
class Model:
    """Reads payloads as ``kind``. Raises ConfigurationError for what is no type of a payload."""

    kind: Any
    _read: Callable[[bytes], Any] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_read", reader(self.kind))

    def read(self, event: Event) -> Any:
        """The payload. Raises PayloadMismatch when it does not fit, UnusableEvent when there is none."""
        text = document(event.body)
        if text.lstrip()[:1] not in (b"{", b"["):
            from pydantic_core import to_json

            text = to_json(event.payload, bytes_mode="base64")
        return self._read(text)


def model_of(function: Callable[..., Any], model: Any, *, several: bool) -> Model | None:
    """What the function's second argument is read as: *model*, or its own annotation; None if it takes the event alone.

    With *several* the function takes lists, so that the annotation is a list of them. Raises ConfigurationError.
    """
    try:
        signature = inspect.signature(function)
    except ValueError:  # some of C's functions have none
        signature = inspect.Signature()
    named = [one for one in signature.parameters.values() if one.kind in _POSITIONAL]
    wanted = [one for one in named if one.default is inspect.Parameter.empty]
    if len(wanted) > 2:
        raise ConfigurationError(
            f"function: {name_of(function)} takes {len(wanted)} arguments; a handler gets two at most"
        )
    if model is not None:
        if len(named) < 2 and not any(one.kind is one.VAR_POSITIONAL for one in signature.parameters.values()):
            raise ConfigurationError(f"model: {name_of(function)} takes no second argument for the payload")
        return Model(model)
    if len(wanted) < 2:
        return None
    if wanted[1].annotation is inspect.Parameter.empty:
        raise ConfigurationError(f"model: annotate {wanted[1].name!r} of {name_of(function)}, or give model=")
    kind = hints_of(function)[wanted[1].name]
    if several and typing.get_origin(kind) in (list, Sequence):
        (kind,) = typing.get_args(kind)
    return Model(kind)
