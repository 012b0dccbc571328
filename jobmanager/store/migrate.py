"""Migrate a database to the schema of this version of the code, or refuse it.

Imports Alembic (see upgrade.py) only if there is something to migrate: once imported, Alembic stays in memory.
"""

from __future__ import annotations

from sqlalchemy import Connection, column, inspect, select, table

#: The last migration; a test compares this with the scripts.
CURRENT = "0005"

_ALEMBIC = table("alembic_version", column("version_num"))


def bring_up_to_date(connection: Connection) -> None:
    """Create or migrate the tables in the transaction of *connection*, which must exclude other migrating processes.

    Does nothing if the tables are up to date. Raises ConfigError if a newer version of the service made the tables.
    """
    present = _present(connection)
    if present == CURRENT:
        return
    from jobmanager.store.upgrade import upgrade  # noqa: PLC0415 - see above

    upgrade(connection, present)


def _present(connection: Connection) -> str | None:
    """Return the current migration of the schema; None if there are no tables yet."""
    if not inspect(connection).has_table(_ALEMBIC.name):
        return None
    present: str | None = connection.execute(select(_ALEMBIC.c.version_num)).scalar()
    return present
