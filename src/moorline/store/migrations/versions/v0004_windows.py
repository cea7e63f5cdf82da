"""Unique keys that hold for some time, whatever becomes of the job."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_ID = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Add a column that is empty in what is there, and a table."""
    op.add_column("jobs", sa.Column("unique_until", sa.Double))
    op.create_table(
        "job_windows",
        sa.Column("unique_key", sa.Text, primary_key=True),
        sa.Column("job_id", _ID, nullable=False),
        sa.Column("until", sa.Double, nullable=False),
    )
    op.create_index("job_windows_until", "job_windows", ["until"])
