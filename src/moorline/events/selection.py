"""Which stored events are meant: a Selection, and how a payload is looked into."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal, TypeAlias

from moorline.errors import ConfigurationError
from moorline.events.handlers import ANY
from moorline.events.where import deeper

__all__ = ["MOST_IDS", "Ended", "Selection", "fits"]

Ended: TypeAlias = Literal["dead", "failed"]
MOST_IDS: Final = 10_000

_ENDED: Final = ("dead", "failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Stored events to which all of this applies; nothing given means every event whose body is still kept.

    - ``ids``: these, by the id in the inbox or by the sender's; at most 10,000.
    - ``service``; ``type``: as in ``app.on``, ``"pull_request"`` or ``"pull_request.closed"``.
    - ``first``, ``last``: from this id in the inbox to that one, both included.
    - ``since``, ``until``: received from then, and before then; seconds since the epoch.
    - ``ended``: ``"dead"``: only the handlers whose last job for the event is dead; ``"failed"``: also those whose last
      job failed and is to be tried again.
    - ``where``: values in the payload, by dotted place: ``{"data.object.customer": "cus_1"}``; a number is an index
      into a list. A text also stands for the number, true, false or null that is written like it.

    Raises ConfigurationError that names the field.
    """

    ids: tuple[str, ...] = ()
    service: str | None = None
    type: str | None = None
    first: str | None = None
    last: str | None = None
    since: float | None = None
    until: float | None = None
    ended: Ended | None = None
    where: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ids: object = self.ids
        if not isinstance(ids, tuple | list) or not all(isinstance(one, str) and one for one in ids):
            raise ConfigurationError("ids: expected a list of ids, none of them empty")
        if len(self.ids) > MOST_IDS:
            raise ConfigurationError(f"ids: at most {MOST_IDS:,} at once, not {len(self.ids):,}; select by other means")
        object.__setattr__(self, "ids", tuple(self.ids))
        for name in ("service", "type", "first", "last"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value.isprintable()):
                raise ConfigurationError(f"{name}: expected a text, got {value!r}")
        if self.type == ANY:
            object.__setattr__(self, "type", None)
        for name in ("since", "until"):
            _check_time(name, getattr(self, name))
        if self.ended is not None and self.ended not in _ENDED:
            raise ConfigurationError(f'ended: expected "dead" or "failed", got {self.ended!r}')
        _check_where(self.where)

    @property
    def is_everything(self) -> bool:
        """Whether nothing is left out."""
        return self == Selection()

    def to_json(self) -> str:
        """What was given, as JSON; ``from_json`` reads it."""
        return json.dumps({name: value for name, value in asdict(self).items() if value not in (None, (), {})})

    @classmethod
    def from_json(cls, text: str) -> Selection:
        """The selection that ``to_json`` wrote."""
        given = json.loads(text)
        return cls(**{**given, "ids": tuple(given.get("ids", ()))})


def fits(payload: Any, where: Mapping[str, Any]) -> bool:
    """Whether each place of *where* is in the payload, with that value."""
    return all(_same(deeper(payload, place.split(".")), value) for place, value in where.items())


def _same(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, str) and not isinstance(found, str):
        # On a command line everything is text.
        return (found is None or isinstance(found, bool | int | float)) and json.dumps(found) == wanted
    return isinstance(found, bool) == isinstance(wanted, bool) and bool(found == wanted)


def _check_time(name: str, value: object) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ConfigurationError(f"{name}: expected seconds since the epoch, got {value!r}")


def _check_where(where: object) -> None:
    if not isinstance(where, Mapping):
        raise ConfigurationError(f"where: expected places and values, got {where!r}")
    for place, value in where.items():
        if not isinstance(place, str) or not all(place.split(".")):
            raise ConfigurationError(f'where: a place is written "data.object.customer", not {place!r}')
        if value is not None and not isinstance(value, str | int | float):
            raise ConfigurationError(f"where: {place} is compared with a text, a number, true, false or null")
