"""What Alembic runs: the connection is the one that store/migrate.py opened, inside its transaction."""

from __future__ import annotations

from alembic import context

from jobmanager.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite cannot alter most of a table in place
    transactional_ddl=False,  # the transaction is ours
)
context.run_migrations()
