"""What is looked for each minute, or by a name: connections that have ended, and the decisions on a credential."""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

_audit = sa.table("audit", sa.column("id"), sa.column("action"), sa.column("detail"), sa.column("about"))


def upgrade() -> None:
    """Add a column, which earlier decisions get as well, and two indexes."""
    op.create_index("connections_state", "connections", ["state", "updated_at"])
    op.add_column("audit", sa.Column("about", sa.Text))
    _fill(op.get_bind())
    named = sa.text("about IS NOT NULL")
    op.create_index("audit_about", "audit", ["about", "id"], sqlite_where=named, postgresql_where=named)


def _fill(database: sa.Connection) -> None:
    lines = sa.select(_audit.c.id, _audit.c.detail).where(_audit.c.action.like("keys.%"))
    names = [{"line": row.id, "name": json.loads(row.detail).get("name")} for row in database.execute(lines)]
    if names:
        change = sa.update(_audit).where(_audit.c.id == sa.bindparam("line")).values(about=sa.bindparam("name"))
        database.execute(change, names)
