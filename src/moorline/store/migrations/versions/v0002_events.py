"""Events to full depth: compressed bodies, senders' ids, order by key, outbox, refused requests, counts, replays."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_ID = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Add columns that are empty in what is there, and tables."""
    op.add_column("events", sa.Column("sender_id", sa.Text))
    op.add_column("events", sa.Column("secret", sa.Text))
    op.add_column("events", sa.Column("encoding", sa.Text))
    _partial_index("events_sender", "events", ["sender_id"], "sender_id IS NOT NULL")
    op.add_column("jobs", sa.Column("order_key", sa.Text))
    _partial_index(
        "jobs_ordered",
        "jobs",
        ["order_key", "id"],
        "order_key IS NOT NULL AND state IN ('ready', 'running', 'blocked', 'dead')",
    )
    _partial_index("jobs_outbox", "jobs", ["id"], "state = 'outbox'")
    _rejected()
    _counts()
    _replays()
    _compress_fast()


def _compress_fast() -> None:
    """PostgreSQL compresses bodies as they come, by default with pglz, which costs ten times what LZ4 does."""
    connection = op.get_bind()
    if connection.dialect.name != "postgresql":
        return
    methods = sa.text("SELECT enumvals FROM pg_settings WHERE name = 'default_toast_compression'")
    if "lz4" in (connection.execute(methods).scalar() or ()):
        op.execute("ALTER TABLE events ALTER COLUMN body SET COMPRESSION lz4")


def _partial_index(name: str, table: str, columns: list[str], where: str) -> None:
    op.create_index(name, table, columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def _rejected() -> None:
    op.create_table(
        "rejected",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("service", sa.Text, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("method", sa.Text, nullable=False),
        sa.Column("headers", sa.Text, nullable=False),
        sa.Column("size", sa.Integer),
        sa.Column("digest", sa.Text),
    )
    op.create_index("rejected_service", "rejected", ["service", "id"])


def _counts() -> None:
    op.create_table(
        "event_counts",
        sa.Column("service", sa.Text, primary_key=True),
        sa.Column("minute", sa.BigInteger, primary_key=True),
        sa.Column("stored", sa.Integer, nullable=False, server_default="0"),
        sa.Column("duplicates", sa.Integer, nullable=False, server_default="0"),
        sa.Column("forged", sa.Integer, nullable=False, server_default="0"),
        sa.Column("refused", sa.Integer, nullable=False, server_default="0"),
    )


def _replays() -> None:
    op.create_table(
        "replays",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("finished_at", sa.Double),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("selection", sa.Text, nullable=False),
        sa.Column("handler", sa.Text),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("total", sa.Integer, nullable=False, server_default="0"),
        sa.Column("events", sa.Integer, nullable=False, server_default="0"),
        sa.Column("jobs", sa.Integer, nullable=False, server_default="0"),
        sa.Column("rate", sa.Double),
        sa.Column("position", _ID),
        sa.Column("reason", sa.Text),
    )
    op.create_table(
        "audit",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
    )
