"""What services answer about keys that they make, list and delete: the shapes that several of them share.

Facts: the services' own modules, each of which names the fields.
"""

from __future__ import annotations

from collections.abc import Callable

from moorline.calls.exchange import Exchange
from moorline.calls.minting import Minted
from moorline.errors import CallError, NotFound
from moorline.secrets.secret import Secret
from moorline.services.answers import items, record, text

__all__ = ["called", "gone", "minted"]


def minted(variable: str, secret: str, id: str) -> Callable[[Exchange], Minted]:
    """Reads a new key of that *variable* from the fields *secret* and *id* of the answer. Raises BadAnswer."""

    def read(exchange: Exchange) -> Minted:
        answer = record(exchange.data)
        return Minted(Secret(text(answer, secret), name=variable), text(answer, id))

    return read


def called(label: str, within: str, id: str) -> Callable[[Exchange], list[str]]:
    """Reads the field *id* of those keys in the list *within* whose ``name`` is *label*. Raises BadAnswer."""

    def read(exchange: Exchange) -> list[str]:
        found = [record(one, "a key") for one in items(record(exchange.data).get(within), within)]
        return [text(one, id) for one in found if one.get("name") == label]

    return read


def gone(error: CallError) -> bool | None:
    """What deleting a key gives where there is none: False; None for every other error, which is raised."""
    return False if isinstance(error, NotFound) else None
