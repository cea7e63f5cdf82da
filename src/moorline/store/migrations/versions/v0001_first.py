"""The first schema: events, jobs, their errors, workers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_ID = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Make everything."""
    _events()
    _jobs()
    _job_indexes()
    if op.get_bind().dialect.name == "postgresql":
        # Each job is written three times in seconds: vacuum long before the default of a fifth of the table.
        op.execute(
            "ALTER TABLE jobs SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 2000,"
            " autovacuum_analyze_scale_factor = 0.05, fillfactor = 80)"
        )
    op.create_table(
        "job_errors",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("job_id", _ID, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("traceback", sa.Text, nullable=False),
    )
    op.create_index("job_errors_job", "job_errors", ["job_id", "id"])
    op.create_table(
        "workers",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("queues", sa.Text, nullable=False),
        sa.Column("started_at", sa.Double, nullable=False),
        sa.Column("lease_until", sa.Double, nullable=False),
    )
    op.create_table(
        "meta",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )


def _events() -> None:
    op.create_table(
        "events",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("service", sa.Text, nullable=False),
        sa.Column("delivery_key", sa.Text, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("action", sa.Text),
        sa.Column("received_at", sa.Double, nullable=False),
        sa.Column("signed_at", sa.Double),
        sa.Column("secret_index", sa.Integer, nullable=False, server_default="0"),
        sa.Column("headers", sa.Text, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("duplicates", sa.Integer, nullable=False, server_default="0"),
    )
    op.create_index("events_delivery", "events", ["service", "delivery_key"], unique=True)
    if op.get_bind().dialect.name == "postgresql":
        # Bodies are read seldom and written under load: PostgreSQL's own compression costs more than the disk.
        op.execute("ALTER TABLE events ALTER COLUMN body SET STORAGE EXTERNAL")


def _jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("queue", sa.Text, nullable=False),
        sa.Column("priority", sa.SmallInteger, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("run_at", sa.Double, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("max_attempts", sa.Integer, nullable=False),
        sa.Column("deliveries", sa.Integer, nullable=False, server_default="0"),
        sa.Column("crashes", sa.Integer, nullable=False, server_default="0"),
        sa.Column("snoozes", sa.Integer, nullable=False, server_default="0"),
        sa.Column("worker", _ID),
        sa.Column("event_id", _ID),
        sa.Column("unique_key", sa.Text),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("started_at", sa.Double),
        sa.Column("finished_at", sa.Double),
        sa.Column("last_error", sa.Text),
        sa.Column("reason", sa.Text),
    )


def _job_indexes() -> None:
    _partial("jobs_ready", ["queue", "priority", "run_at", "id"], "state = 'ready' AND crashes = 0")
    _partial("jobs_suspect", ["queue", "run_at"], "state = 'ready' AND crashes > 0")
    _partial("jobs_running", ["worker"], "state = 'running'")
    _partial("jobs_unique", ["unique_key"], "unique_key IS NOT NULL AND state IN ('ready', 'running')", unique=True)
    _partial("jobs_ended", ["finished_at"], "state IN ('done', 'cancelled')")
    _partial("jobs_dead", ["id"], "state = 'dead'")
    _partial("jobs_of_event", ["event_id"], "event_id IS NOT NULL")


def _partial(name: str, columns: list[str], where: str, *, unique: bool = False) -> None:
    op.create_index(name, "jobs", columns, unique=unique, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
