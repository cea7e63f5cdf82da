"""How often in a row a job was put off by others than its own function."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Add a column, which is 0 in what is there."""
    op.add_column("jobs", sa.Column("postponed", sa.Integer, nullable=False, server_default="0"))
