"""Bring a database to the schema that this version of the code works with, or refuse it.

Alembic does so (see upgrade.py). It is imported only where there is something to do: a process would keep it for good.
"""

from __future__ import annotations

from sqlalchemy import Connection, column, inspect, select, table

#: The last of the migrations; a test compares.
CURRENT = "0005"

_ALEMBIC = table("alembic_version", column("version_num"))


def bring_up_to_date(connection: Connection) -> None:
    """Make or change the tables, in the transaction of *connection*, which no other process may have beside it.

    Does nothing where they are up to date. Raises ConfigError if a newer version of the service made them.
    """
    present = _present(connection)
    if present == CURRENT:
        return
    from jobmanager.store.upgrade import upgrade  # noqa: PLC0415 - see above

    upgrade(connection, present)


def _present(connection: Connection) -> str | None:
    """Return the migration that made the schema; None where there is none yet."""
    if not inspect(connection).has_table(_ALEMBIC.name):
        return None
    present: str | None = connection.execute(select(_ALEMBIC.c.version_num)).scalar()
    return present
