"""``Secret``: a string that shows nothing of itself."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

from moorline import redaction
from moorline.codec import STORING
from moorline.errors import ConfigurationError, Misuse

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema

    from moorline.secrets.tally import Tally

__all__ = ["BOM", "Secret", "bare"]

BOM: Final = "\ufeff"
"""The byte order mark: what editors of Windows put before a text, and nobody sees."""
# Fingerprints tell two secrets of one run apart; made with a key of this process they cannot be used to guess a value.
_PROCESS_KEY = os.urandom(32)
_SHOWN = f"Secret({redaction.MASK!r})"


def bare(text: str) -> str:
    """A value that somebody typed, pasted or piped, without white space and a byte order mark around it."""
    return text.strip().removeprefix(BOM).strip()


class Secret:
    """A credential. ``repr``, ``str``, f-strings, logs, pydantic dumps and tracebacks show ``Secret('***')``.

    ``reveal()`` gives the value. Two secrets are equal if their values are, compared in constant time. The value is
    registered with :mod:`moorline.redaction`, which masks it in all that moorline logs, stores and shows.

    ``not_after`` (seconds since the epoch) is when it stops being accepted, None if it does not. ``tally`` counts its
    uses, where somebody wants to know.

    Raises ConfigurationError, naming *name*, for an empty value or one that is not text.
    """

    __slots__ = ("__reveal", "name", "not_after", "tally")

    def __init__(self, value: str, *, name: str = "", not_after: float | None = None) -> None:
        what = name or "the secret"
        if not isinstance(value, str):
            raise ConfigurationError(f"{what} must be a string, not {type(value).__name__}")
        if not value.strip():
            raise ConfigurationError(f"{what} is empty")
        try:
            value.encode()
        except UnicodeEncodeError:
            # "from None": the original error carries the value.
            raise ConfigurationError(f"{what} is not valid UTF-8") from None
        # Not the value itself: what lists the attributes of an object, or its state, would show it.
        self.__reveal: Callable[[], str] = lambda: value
        self.name = name
        self.not_after = not_after
        self.tally: Tally | None = None
        redaction.register(value)

    def reveal(self) -> str:
        """The value itself. Keep it local: what is derived from it is masked only where redaction recognises it."""
        return self.__reveal()

    @property
    def fingerprint(self) -> str:
        """Six hexadecimal digits that tell secrets apart within this process, and mean nothing in another."""
        return self._digest().hex()[:6]

    def _digest(self) -> bytes:
        return hmac.digest(_PROCESS_KEY, self.__reveal().encode(), hashlib.sha256)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._digest(), other._digest())

    def __hash__(self) -> int:
        return hash(self._digest())

    def __repr__(self) -> str:
        return _SHOWN

    def __str__(self) -> str:
        return _SHOWN

    def __format__(self, spec: str) -> str:
        return format(_SHOWN, spec)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise Misuse(
            "a Secret cannot be pickled, as its value would be written in the clear; "
            "load it again in the other process instead"
        )

    __reduce__ = __getstate__ = __reduce_ex__  # type: ignore[assignment]  # who calls them by hand is told the same

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """A field of this type takes a string (or a Secret) and is dumped as ``Secret('***')``.

        As an argument of a job or a stored Call it is refused: who runs that would be given the mask.
        """
        from pydantic_core import core_schema  # pydantic is heavy, and who uses no model must not pay for it

        return core_schema.no_info_plain_validator_function(
            lambda value: value if isinstance(value, cls) else cls(value),
            serialization=core_schema.plain_serializer_function_ser_schema(
                _dumped, info_arg=True, return_schema=core_schema.str_schema()
            ),
        )


def _dumped(secret: Secret, info: Any) -> str:
    if info.context is STORING:
        raise ValueError("a Secret is not stored; let what runs it load the credential by its name")
    return str(secret)
