"""Arguments as bytes and back, by the annotations of a function's signature.

The format is ``{"v":1,"args":{name: value}}``. Names, not positions, so that what was written by one version of a
program is read by the next one: a parameter that is new there takes its default, one that is gone is a clear error.
For what names cannot mend, a function has a version of its own (``"of"``, if it is not 1) and upgrades from each one.
Pydantic does the work and is loaded when the first arguments are encoded or decoded.
"""

from __future__ import annotations

import inspect
import json
import typing
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from moorline.errors import ConfigurationError, InvalidArguments, PayloadFromNewer

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = ["STORING", "Codec", "Upgrade", "decode_result", "encode_result"]

STORING: Final = {"moorline": "storing"}
"""The context of what is written to be read again: a ``Secret``, which shows nothing of itself, refuses it."""

_HEAD: Final = b'{"v":1,"args":'
_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL)


def _checked(version: int, upgrades: Mapping[int, Upgrade]) -> Mapping[int, Upgrade]:
    if version is True or version < 1:
        raise ConfigurationError(f"version: {version!r} is not a whole number, 1 or more")
    if set(upgrades) != set(range(1, version)) or not all(map(callable, upgrades.values())):
        raise ConfigurationError(
            f"upgrades: version {version} needs a function for each version before it, by its number"
            f" ({', '.join(map(str, range(1, version))) or 'none'}), got {sorted(upgrades)}"
        )
    return upgrades


def encode_result(value: object) -> bytes:
    """What a function returned, as JSON. Raises InvalidArguments when there is no JSON for it."""
    from pydantic_core import PydanticSerializationError, to_json

    try:
        return to_json(value, bytes_mode="base64", inf_nan_mode="constants")
    except (PydanticSerializationError, ValueError) as error:
        raise InvalidArguments(f"the result cannot be stored: {type(value).__name__}: {error}") from None


def decode_result(function: Callable[..., Any], data: bytes) -> Any:
    """What *function* returned, by its annotation; plain JSON values without one. Raises InvalidArguments."""
    from pydantic import ValidationError

    kind = typing.get_type_hints(inspect.unwrap(function), include_extras=True).get("return", Any)
    model = _model("Result", {"value": (Any if kind is object else kind, ...)}, "forbid")
    try:
        return model.model_validate_json(b'{"value":' + data + b"}").__dict__["value"]
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False, include_input=False)[0]["msg"]
        raise InvalidArguments(f"the stored result does not fit the function's annotation: {problem}") from None


def _model(name: str, fields: dict[str, Any], extra: typing.Literal["allow", "forbid"]) -> type[BaseModel]:
    """One for all, since a dataclass within takes the configuration of what it is in."""
    from pydantic import ConfigDict, create_model

    config = ConfigDict(extra=extra, ser_json_bytes="base64", val_json_bytes="base64", ser_json_inf_nan="constants")
    return create_model(name, __config__=config, **fields)


Upgrade = Callable[[dict[str, Any]], dict[str, Any]]
"""From the arguments of one version, as plain JSON values by name, to those of the next."""


class Codec:
    """Encodes and decodes the arguments of *function*; ``skip_first`` leaves ``self`` out.

    *upgrades* says for each earlier version how its arguments become those of the next one; ConfigurationError if one
    is missing.

    Annotations may be whatever pydantic understands: dataclasses, datetimes, Decimal, Money, bytes (as base64), models,
    and containers of these. A parameter without annotation takes plain JSON values.
    """

    __slots__ = (
        "_fields", "_function", "_head", "_model", "_needed", "_parameters", "_plain", "_read", "_signature",
        "_skip_first", "_upgrades", "_version",
    )  # fmt: skip

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        skip_first: bool = False,
        version: int = 1,
        upgrades: Mapping[int, Upgrade] | None = None,
    ) -> None:
        self._upgrades = _checked(version, upgrades or {})
        self._version = version
        self._head = _HEAD if version == 1 else b'{"v":1,"of":%d,"args":' % version
        self._function = function
        self._skip_first = skip_first
        self._signature: inspect.Signature | None = None
        self._parameters: dict[str, inspect.Parameter] = {}
        self._plain: dict[str, inspect.Parameter] = {}  # all of them, if each may be given in either way
        self._needed: frozenset[str] = frozenset()
        self._fields: dict[str, str] | None = None  # of the model, each with its parameter's name, if all are plain
        self._model: type[BaseModel] | None = None
        self._read: Callable[[bytes], BaseModel]

    def encode(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """The call's arguments as bytes. Raises InvalidArguments naming the argument that does not fit."""
        model = self._prepared()
        return self._encoded(model, self._given(args, kwargs))

    def encode_partly(self, args: tuple[Any, ...], kwargs: dict[str, Any], later: object) -> tuple[bytes, list[str]]:
        """As ``encode``, without the arguments that are *later*; and the names of those."""
        self._prepared()
        given = self._given(args, kwargs)
        missing = [name for name, value in given.items() if value is later]
        for name in missing:
            kind = self._parameters[name].kind if name in self._parameters else inspect.Parameter.VAR_KEYWORD
            if kind is inspect.Parameter.VAR_KEYWORD:
                raise InvalidArguments(f"{self._name}: argument {name!r} is none of its own, so it cannot come later")
        known = {name: value for name, value in given.items() if value is not later}
        return self._encoded(self._make_model(frozenset(missing)), known), missing

    def _encoded(self, model: type[BaseModel], given: dict[str, Any]) -> bytes:
        # Straight to pydantic's core, and nothing imported on the way: this is half of what enqueueing costs.
        try:
            values = model.__pydantic_validator__.validate_python(given)
        except ValueError as error:
            raise self._refused(error) from None
        try:
            return (
                self._head
                + model.__pydantic_serializer__.to_json(values, by_alias=True, exclude_unset=True, context=STORING)
                + b"}"
            )
        except ValueError as error:
            from pydantic_core import PydanticSerializationError

            if not isinstance(error, PydanticSerializationError):
                raise
            raise InvalidArguments(f"{self._name}: {self._unserializable(given)}: {error}") from None

    def decode(self, data: bytes) -> tuple[list[Any], dict[str, Any]]:
        """What ``encode`` was given, as positional and keyword arguments, ready for the call.

        Raises InvalidArguments when the bytes are not that, or do not fit the function as it is now; PayloadFromNewer
        when they are of a version that this program does not know yet.
        """
        if self._model is None:
            self._prepared()
        head = self._head
        body = data[len(head) : -1] if data.startswith(head) and data.endswith(b"}") else self._body(data)
        try:
            values = self._read(body)
        except ValueError as error:
            raise self._refused(error) from None
        fields = self._fields
        if fields is not None and len(values.__pydantic_fields_set__) == len(fields):
            return [], {fields[field]: value for field, value in values.__dict__.items()}
        return self._arguments(values)

    def _refused(self, error: ValueError) -> Exception:
        from pydantic import ValidationError

        return InvalidArguments(self._message(error)) if isinstance(error, ValidationError) else error

    @property
    def _name(self) -> str:
        return getattr(self._function, "__qualname__", repr(self._function))

    def _body(self, data: bytes) -> bytes:
        """Of an envelope that is not as this program writes it."""
        try:
            envelope = json.loads(data)
        except ValueError:
            raise InvalidArguments(f"{self._name}: the stored arguments are not JSON") from None
        if not isinstance(envelope, dict) or envelope.get("v") != 1 or not isinstance(envelope.get("args"), dict):
            raise InvalidArguments(f"{self._name}: the stored arguments are of a format that this version cannot read")
        return json.dumps(self._upgraded(envelope.get("of", 1), envelope["args"])).encode()

    def _upgraded(self, of: object, arguments: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(of, int) or of < 1:
            raise InvalidArguments(f"{self._name}: the stored arguments are of version {of!r}, which is none")
        if of > self._version:
            raise PayloadFromNewer(
                f"{self._name}: the stored arguments are of version {of}, and this program knows up to {self._version}"
            )
        for version in range(of, self._version):
            arguments = self._upgrades[version](arguments)
            if not isinstance(arguments, dict):
                raise InvalidArguments(f"{self._name}: the upgrade from version {version} gave no arguments by name")
        return arguments

    def _given(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        assert self._signature is not None
        plain = self._plain
        if plain:
            given: dict[str, Any] = dict(zip(plain, args))  # noqa: B905 -- too many are seen below
            if not kwargs and len(args) == len(plain):
                return given
            given.update(kwargs)
            # Each argument once, none unknown, none missing: what binding would come to, in a tenth of the time.
            if len(given) == len(args) + len(kwargs) and self._needed <= given.keys() <= plain.keys():
                return given
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise InvalidArguments(f"{self._name}: {error}") from None
        given = dict(bound.arguments)
        for name, parameter in self._parameters.items():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                given.update(given.pop(name, {}))
        return given

    def _arguments(self, values: BaseModel) -> tuple[list[Any], dict[str, Any]]:
        positional: list[Any] = []
        keywords: dict[str, Any] = dict(values.__pydantic_extra__ or {})
        fields = values.__dict__
        for index, (name, parameter) in enumerate(self._parameters.items()):
            field = f"f{index}"
            if field not in values.__pydantic_fields_set__:
                continue  # the function's own default
            if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                positional = self._all_positional(keywords, positional) + list(fields[field])
            elif parameter.kind in _POSITIONAL:
                positional.append(fields[field])
            else:
                keywords[name] = fields[field]
        return positional, keywords

    def _all_positional(self, keywords: dict[str, Any], positional: list[Any]) -> list[Any]:
        """With ``*args`` present, the parameters before it can only be given by position."""
        before = [
            name
            for name, parameter in self._parameters.items()
            if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD and name in keywords
        ]
        return positional + [keywords.pop(name) for name in before]

    def _prepared(self) -> type[BaseModel]:
        if self._model is None:
            signature = inspect.signature(self._function)
            parameters = list(signature.parameters.values())[1 if self._skip_first else 0 :]
            self._signature = signature.replace(parameters=parameters)
            self._parameters = {parameter.name: parameter for parameter in parameters}
            if all(parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for parameter in parameters):
                self._plain = self._parameters
                self._needed = frozenset(one.name for one in parameters if one.default is inspect.Parameter.empty)
            model = self._make_model()
            if len(self._plain) == len(self._parameters):
                self._fields = {f"f{index}": name for index, name in enumerate(self._plain)}
            self._read = model.__pydantic_validator__.validate_json
            self._model = model  # last: other threads go by it
        return self._model

    def _make_model(self, without: frozenset[str] = frozenset()) -> type[BaseModel]:
        from pydantic import Field
        from pydantic.errors import PydanticUserError

        hints = self._hints()
        fields: dict[str, Any] = {}
        extra: typing.Literal["allow", "forbid"] = "forbid"
        for index, (name, parameter) in enumerate(self._parameters.items()):
            kind = hints.get(name, Any)
            kind = Any if kind is object else kind
            if name in without:
                continue
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                extra = "allow"
                continue
            if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                fields[f"f{index}"] = (list[kind], Field(default=None, alias=name))  # type: ignore[valid-type]
            elif parameter.default is inspect.Parameter.empty:
                fields[f"f{index}"] = (kind, Field(alias=name))
            else:
                fields[f"f{index}"] = (kind, Field(default=None, alias=name))
        try:
            return _model("Arguments", fields, extra)
        except PydanticUserError as error:
            reason = str(error).splitlines()[0]
            raise ConfigurationError(f"{self._name}: an argument's type cannot be stored: {reason}") from error

    def _hints(self) -> dict[str, Any]:
        function = inspect.unwrap(self._function)
        try:
            return typing.get_type_hints(function, include_extras=True)
        except NameError as error:
            raise ConfigurationError(f"{self._name}: the annotations cannot be resolved: {error}") from error

    def _unserializable(self, given: dict[str, Any]) -> str:
        from pydantic_core import to_json

        for name, value in given.items():
            try:
                to_json(value)
            except ValueError:
                return f"argument {name!r} cannot be stored"
        return "an argument cannot be stored"

    def _message(self, error: Any) -> str:
        """Names each argument that is wrong. Holds no value: a value may be a secret."""
        problems = []
        for problem in error.errors(include_url=False, include_context=False, include_input=False):
            place = ".".join(str(part) for part in problem["loc"]) or "arguments"
            problems.append(f"argument {place!r}: {problem['msg']}")
        return f"{self._name}: " + "; ".join(problems)
