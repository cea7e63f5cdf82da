"""The rotation of credentials: what was decided, who uses what, and how far it is."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

_ID = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Add four tables."""
    op.create_table(
        "key_versions",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("version", sa.Text, primary_key=True),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("since", sa.Double, nullable=False),
        sa.Column("source", sa.Text, nullable=False, server_default=""),
    )
    op.create_table(
        "key_names",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("before", sa.Text),
    )
    op.create_table(
        "key_uses",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("version", sa.Text, primary_key=True),
        sa.Column("process", _ID, primary_key=True),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("origin", sa.Text, nullable=False),
        sa.Column("place", sa.Integer, nullable=False),
        sa.Column("not_before", sa.Double),
        sa.Column("not_after", sa.Double),
        sa.Column("told_at", sa.Double, nullable=False),
        sa.Column("first_at", sa.Double),
        sa.Column("last_at", sa.Double),
        sa.Column("accepted", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("refused", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("refused_at", sa.Double),
    )
    op.create_index("key_uses_told", "key_uses", ["told_at"])
    op.create_table(
        "key_rotations",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("service", sa.Text, nullable=False),
        sa.Column("step", sa.Text, nullable=False),
        sa.Column("facts", sa.Text, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("updated_at", sa.Double, nullable=False),
        sa.Column("ended_at", sa.Double),
    )
    under_way = sa.text("ended_at IS NULL")
    op.create_index(
        "key_rotations_open",
        "key_rotations",
        ["name"],
        unique=True,
        sqlite_where=under_way,
        postgresql_where=under_way,
    )
