"""Credentials that the application keeps itself, encrypted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_ID = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Add a table."""
    op.create_table(
        "secrets",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("stage", sa.Text, nullable=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("not_before", sa.Double),
        sa.Column("not_after", sa.Double),
        sa.Column("created_at", sa.Double, nullable=False),
    )
    op.create_index("secrets_name", "secrets", ["name"])
    op.create_index("secrets_key", "secrets", ["key_id"])
