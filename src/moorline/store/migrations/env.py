"""Alembic runs this; the connection, inside a transaction, comes from ``Store.migrate``."""

from __future__ import annotations

from alembic import context

context.configure(connection=context.config.attributes["connection"])
with context.begin_transaction():
    context.run_migrations()
