"""Requests that were refused, to be looked at: so that a signature can be debugged."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from moorline.store.schema import rejected

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.engine import Connection

__all__ = ["Refusal", "refusal_by_id", "refusals"]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request and why it was refused; never its body. ``at`` is seconds since the epoch, ``size`` bytes, if known.

    ``digest`` is that of the body, to compare with what the sender says it sent; ``headers`` have secrets masked.
    """

    id: str
    service: str
    at: float
    status: int
    reason: str
    method: str
    headers: Mapping[str, str]
    size: int | None
    digest: str | None


def refusals(connection: Connection, service: str | None, limit: int) -> list[Refusal]:
    """The newest first."""
    query = sa.select(rejected).order_by(rejected.c.id.desc()).limit(limit)
    if service is not None:
        query = query.where(rejected.c.service == service)
    return [_refusal(row) for row in connection.execute(query)]


def refusal_by_id(connection: Connection, id: str) -> Refusal | None:
    """The one of that id."""
    row = connection.execute(sa.select(rejected).where(rejected.c.id == id)).one_or_none()
    return None if row is None else _refusal(row)


def _refusal(row: sa.Row[Any]) -> Refusal:
    values = row._asdict()
    return Refusal(**(values | {"headers": json.loads(values["headers"])}))
