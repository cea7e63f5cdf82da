"""The broker on the store's own database, SQLite or PostgreSQL."""

from __future__ import annotations

from moorline.jobs.brokers.sql_insert import insert_jobs

__all__ = ["insert_jobs"]
