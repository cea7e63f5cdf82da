"""Connections: the accounts that users and tenants have connected; those that ended first, with the reason."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote

from moorline.dashboard.noting import note
from moorline.dashboard.page import Confirm, Look, Onward, Page
from moorline.errors import ConfigurationError, ConnectionNotFound
from moorline.identity import vault_sql
from moorline.identity.connection import Connection
from moorline.identity.vault_sql import Which

__all__ = ["listed", "revoke"]

PAGE: Final = 50
MOST: Final = 200
_STATES: Final = ("ended", "good")


async def listed(look: Look) -> Page:
    """``/connections?state=&owner=&service=&before=&limit=``: without a state those that ended, then the good ones."""
    state, limit = look.asked("state"), look.number("limit", PAGE, MOST)
    if state is not None and state not in _STATES:
        raise ConfigurationError(f"state: one of {', '.join(_STATES)}")
    owner, service, before = look.asked("owner"), look.asked("service"), look.asked("before")
    parts = []
    for one in _STATES if state is None else (state,):
        which = Which(owner, service, None, one, before, limit + 1)
        found = await look.app.store.read(vault_sql.find, which)
        shown = found[:limit]
        after = shown[-1].id if len(found) > limit else None
        parts.append({"state": one, "connections": [_record(row) for row in shown], "next": after})
    chosen = {"state": state, "owner": owner, "service": service, "before": before}
    return Page(
        "connections.html", "Connections", {"parts_of": parts, "filter": chosen, "limit": limit, "now": look.now}
    )


async def revoke(look: Look) -> Confirm | Onward:
    """``POST /connections/{id}/revoke``: take it away, once that is confirmed. Raises ConnectionNotFound."""
    (connection_id,) = look.named
    row = await look.app.store.read(vault_sql.load, connection_id)
    if row is None:
        raise ConnectionNotFound(f"no connection has the id {connection_id!r}")
    if not look.confirmed:
        facts = [("Owner", row.owner), ("Service", row.service), ("Account", row.account or "not known")]
        question = "Forget this connection? Its tokens are deleted here; the owner has to connect the account again."
        return Confirm(question, f"/connections/{row.id}/revoke", "/connections", "Forget it", (), facts)
    await look.app.store.write(vault_sql.delete, row.id)
    await note(look, "connections.revoke", {"connection": row.id, "owner": row.owner, "service": row.service})
    return Onward("/connections", "revoked")


def _record(row: Connection) -> dict[str, Any]:
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
        "reconnect": f"/auth/{quote(row.service, safe='')}/connect",
    }
