"""Payloads as typed values: models, dataclasses and typed dicts of pydantic's, structs of msgspec's."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from moorline.errors import ConfigurationError, PayloadMismatch
from moorline.events.body import document

if TYPE_CHECKING:
    from moorline.events.event import Event

__all__ = ["Model", "model_of"]

_SHOWN: Final = 10  # problems that an error names
_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True, slots=True)
class Model:
    """Reads payloads as ``kind``. Raises ConfigurationError for what is no type of a payload."""

    kind: Any
    _read: Callable[[bytes], Any] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        make = _msgspec if hasattr(self.kind, "__struct_fields__") else _pydantic
        object.__setattr__(self, "_read", make(self.kind))

    def read(self, event: Event) -> Any:
        """The payload. Raises PayloadMismatch when it does not fit, UnusableEvent when there is none."""
        text = document(event.body)
        if text.lstrip()[:1] not in (b"{", b"["):
            from pydantic_core import to_json

            text = to_json(event.payload)
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
            f"function: {_name(function)} takes {len(wanted)} arguments; a handler gets two at most"
        )
    if model is not None:
        if len(named) < 2 and not any(one.kind is one.VAR_POSITIONAL for one in signature.parameters.values()):
            raise ConfigurationError(f"model: {_name(function)} takes no second argument for the payload")
        return Model(model)
    if len(wanted) < 2:
        return None
    if wanted[1].annotation is inspect.Parameter.empty:
        raise ConfigurationError(f"model: annotate {wanted[1].name!r} of {_name(function)}, or give model=")
    kind = _hints(function)[wanted[1].name]
    if several and typing.get_origin(kind) in (list, Sequence):
        (kind,) = typing.get_args(kind)
    return Model(kind)


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(inspect.unwrap(function), include_extras=True)
    except NameError as error:
        raise ConfigurationError(
            f"model: the annotations of {_name(function)} cannot be resolved ({error}); give model="
        ) from error


def _pydantic(kind: Any) -> Callable[[bytes], Any]:
    from pydantic import TypeAdapter, ValidationError
    from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError

    try:
        adapter = TypeAdapter(kind)
    except (PydanticUserError, PydanticUndefinedAnnotation) as error:
        raise ConfigurationError(f"model: {_name(kind)} cannot be read: {str(error).splitlines()[0]}") from error

    def read(text: bytes) -> Any:
        try:
            return adapter.validate_json(text)
        except ValidationError as error:
            found = error.errors(include_url=False, include_context=False, include_input=False)
            problems = [f"{'.'.join(map(str, one['loc'])) or 'payload'}: {one['msg']}" for one in found[:_SHOWN]]
            more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            raise PayloadMismatch(f"it does not fit {_name(kind)}: {'; '.join(problems)}{more}") from None

    return read


def _msgspec(kind: Any) -> Callable[[bytes], Any]:
    import msgspec

    decoder = msgspec.json.Decoder(kind)

    def read(text: bytes) -> Any:
        try:
            return decoder.decode(text)
        except msgspec.DecodeError as error:  # a ValidationError is one
            raise PayloadMismatch(f"it does not fit {_name(kind)}: {error}") from None

    return read


def _name(of: Any) -> str:
    return getattr(of, "__qualname__", None) or repr(of)
