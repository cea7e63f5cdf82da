"""Connections: the accounts that users and tenants have connected; those that ended first, with the reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode

from moorline.dashboard.noting import note
from moorline.dashboard.page import Confirm, Look, Onward, Page
from moorline.errors import ConfigurationError, ConnectionNotFound
from moorline.identity import vault_sql
from moorline.identity.asking import Refused
from moorline.identity.connection import Connection, State
from moorline.identity.vault_sql import Gone, Which
from moorline.store.steps import perform

if TYPE_CHECKING:
    from moorline.identity.connections import Connections

__all__ = ["listed", "refresh", "revoke"]

PAGE: Final = 50
MOST: Final = 200
_STATES: Final[tuple[State, ...]] = ("ended", "revoking", "good")
_TOLD: Final = {"now": "revoked", "later": "revoked later", "never": "deleted"}


async def listed(look: Look) -> Page:
    """``/connections?state=&owner=&service=&before=&limit=``: without a state those that ended, then the others."""
    state, limit = look.asked("state"), look.number("limit", PAGE, MOST)
    if state is not None and state not in _STATES:
        raise ConfigurationError(f"state: one of {', '.join(_STATES)}")
    owner, service, before = look.asked("owner"), look.asked("service"), look.asked("before")
    open_here = _connections(look)
    parts = []
    for one in _STATES if state is None else (state,):
        found = await look.app.store.read(vault_sql.find, Which(owner, service, None, one, before, limit + 1))
        shown = found[:limit]
        after = shown[-1].id if len(found) > limit else None
        parts.append({"state": one, "connections": [_record(row, open_here) for row in shown], "next": after})
    chosen = {"state": state, "owner": owner, "service": service, "before": before}
    data = {"parts_of": parts, "states": list(_STATES), "filter": chosen, "limit": limit, "now": look.now}
    return Page("connections.html", "Connections", data)


async def revoke(look: Look) -> Confirm | Onward:
    """``POST /connections/{id}/revoke``: take it back, once that is confirmed: the service is told, the tokens are
    deleted. Raises ConnectionNotFound, Refused (409) where it has changed meanwhile.
    """
    row, connections = await _row(look), _connections(look)
    if not look.confirmed:
        facts = [("Owner", row.owner), ("Service", row.service), ("Account", row.account or "not known")]
        question = "Revoke this connection? Its tokens are deleted; its owner has to connect the account again."
        return Confirm(question, f"/connections/{row.id}/revoke", "/connections", "Revoke", (), facts)
    if connections is None:  # it is left from when accounts were connected here: nobody can tell the service
        told = "deleted" if await look.app.store.write(vault_sql.delete, Gone(row.id, row.version)) else None
    else:
        done = await perform(look.app.store, connections.revoked(row))
        told = None if done is None else _TOLD[done.told]
    if told is None:
        raise Refused(409, "This connection has changed meanwhile. Look at it again.")
    await note(look, "connections.revoke", {"connection": row.id, "of": row.owner, "service": row.service, "how": told})
    return Onward("/connections", told)


async def refresh(look: Look) -> Onward:
    """``POST /connections/{id}/refresh``: its token, now. Raises ConnectionNotFound, CallError, ConfigurationError."""
    row = await _row(look)
    await look.app.connections.refreshed(row)
    await note(look, "connections.refresh", {"connection": row.id, "of": row.owner, "service": row.service})
    return Onward("/connections", "refreshed")


async def _row(look: Look) -> Connection:
    (connection_id,) = look.named
    row = await look.app.store.read(vault_sql.load, connection_id)
    if row is None:
        raise ConnectionNotFound(f"no connection has the id {connection_id!r}")
    return row


def _connections(look: Look) -> Connections | None:
    """The application's; None where it connects none."""
    try:
        return look.app.connections
    except ConfigurationError:
        return None


def _record(row: Connection, connections: Connections | None) -> dict[str, Any]:
    here = _is_open(row, connections)
    query = f"?{urlencode({'account': row.account}, quote_via=quote)}" if row.account else ""
    return {
        "id": row.id,
        "owner": row.owner,
        "service": row.service,
        "account": row.account or None,
        "scopes": sorted(row.scopes),
        "state": row.state,
        "reason": row.reason,
        "expires_at": row.expires_at,
        "lost_at": row.lost_at,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
        "reconnect": f"/auth/{quote(row.service, safe='')}/connect{query}" if here else None,
        "refreshable": here and row.state == "good" and row.expires_at is not None,
    }


def _is_open(row: Connection, connections: Connections | None) -> bool:
    """Whether accounts of its service can be connected here, still."""
    try:
        return connections is not None and bool(connections.connect_url(row.service))
    except ConfigurationError:
        return False
