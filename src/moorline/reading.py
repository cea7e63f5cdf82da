"""JSON as typed values: models, dataclasses and typed dicts of pydantic's, structs of msgspec's."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Any, Final

from moorline.errors import ConfigurationError, PayloadMismatch

__all__ = ["hints_of", "name_of", "reader"]

_SHOWN: Final = 10  # problems that an error names


def reader(kind: Any) -> Callable[[bytes], Any]:
    """What reads JSON as *kind*, and raises PayloadMismatch that names each place that is wrong, and no value.

    Raises ConfigurationError for what is no type of a payload.
    """
    return _msgspec(kind) if hasattr(kind, "__struct_fields__") else _pydantic(kind)


def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The function's annotations, resolved. Raises ConfigurationError."""
    try:
        return typing.get_type_hints(inspect.unwrap(function), include_extras=True)
    except NameError as error:
        raise ConfigurationError(
            f"model: the annotations of {name_of(function)} cannot be resolved ({error}); give model="
        ) from error


def _pydantic(kind: Any) -> Callable[[bytes], Any]:
    from pydantic import TypeAdapter, ValidationError
    from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError

    try:
        adapter = TypeAdapter(kind)
    except (PydanticUserError, PydanticUndefinedAnnotation) as error:
        raise ConfigurationError(f"model: {name_of(kind)} cannot be read: {str(error).splitlines()[0]}") from error

    def read(text: bytes) -> Any:
        try:
            return adapter.validate_json(text)
        except ValidationError as error:
            found = error.errors(include_url=False, include_context=False, include_input=False)
            problems = [f"{'.'.join(map(str, one['loc'])) or 'payload'}: {one['msg']}" for one in found[:_SHOWN]]
            more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            raise PayloadMismatch(f"it does not fit {name_of(kind)}: {'; '.join(problems)}{more}") from None

    return read


def _msgspec(kind: Any) -> Callable[[bytes], Any]:
    import msgspec

    decoder = msgspec.json.Decoder(kind)

    def read(text: bytes) -> Any:
        try:
            return decoder.decode(text)
        except msgspec.DecodeError as error:  # a ValidationError is one
            raise PayloadMismatch(f"it does not fit {name_of(kind)}: {error}") from None

    return read


def name_of(of: Any) -> str:
    """What a function or type is called in errors."""
    return getattr(of, "__qualname__", None) or repr(of)
