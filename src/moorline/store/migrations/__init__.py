"""The schema's history, run by Alembic through ``Store.migrate``."""
