"""Jobs to full depth: what is told of them while they run, groups of them, and limits."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_ID = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Add tables."""
    _notes()
    _groups()
    _limits()


def _notes() -> None:
    op.create_table(
        "job_notes",
        sa.Column("job_id", _ID, primary_key=True),
        sa.Column("deliveries", sa.Integer, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("done", sa.Double),
        sa.Column("message", sa.Text),
        sa.Column("result", sa.LargeBinary),
        sa.Column("stop", sa.Text),
        sa.Column("stop_deliveries", sa.Integer, nullable=False, server_default="0"),
    )
    op.create_index("job_notes_at", "job_notes", ["at"])


def _groups() -> None:
    op.create_table(
        "job_groups",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("total", sa.Integer, nullable=False),
        sa.Column("pending", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("finished_at", sa.Double),
        sa.Column("follows", sa.LargeBinary),
    )
    ended = sa.text("finished_at IS NOT NULL")
    op.create_index("job_groups_ended", "job_groups", ["finished_at"], sqlite_where=ended, postgresql_where=ended)
    op.create_table(
        "job_group_members",
        sa.Column("group_id", _ID, primary_key=True),
        sa.Column("job_id", _ID, primary_key=True),
        sa.Column("place", sa.Integer, nullable=False),
        sa.Column("left_at", sa.Double),
        sa.Column("result", sa.LargeBinary),
    )


def _limits() -> None:
    op.create_table(
        "job_limits", sa.Column("id", sa.Text, primary_key=True), sa.Column("next_at", sa.Double, nullable=False)
    )
    op.create_table(
        "job_permits",
        sa.Column("limit_id", sa.Text, primary_key=True),
        sa.Column("worker", _ID, primary_key=True),
        sa.Column("held", sa.Integer, nullable=False),
        sa.Column("until", sa.Double, nullable=False),
    )
    op.create_index("job_permits_worker", "job_permits", ["worker"])
