"""Alembic's environment script. Uses the connection of store/upgrade.py, inside its transaction."""

from __future__ import annotations

from alembic import context

from jobmanager.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite cannot alter most of a table in place
    transactional_ddl=False,  # the caller commits
)
context.run_migrations()
