"""Choose the database by its URL, and open it.

The only module that knows which databases there are.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from importlib.util import find_spec

from sqlalchemy import Connection, and_, select, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from jobmanager.errors import ConfigError, StoreUnavailable
from jobmanager.store import sqlite
from jobmanager.store.database import Database
from jobmanager.store.migrate import bring_up_to_date
from jobmanager.store.owner import boot_id, owner_name_prefix
from jobmanager.store.schema import IS_HELD, jobs, to_json
from jobmanager.urls import check_at_signs


def open_database(url: str, owner: str, clock: Callable[[], datetime] | None) -> Database:
    """Open the database, bring its tables up to date, and register this process as *owner*. Blocks.

    Raises StoreUnavailable or ConfigError. *clock* replaces the machine's clocks for a SQLite file.
    """
    try:
        database = _connect(url, clock)
        _prepare(database, owner)
    except (OSError, DBAPIError) as error:
        raise StoreUnavailable(f"The store cannot be opened: {_cause(error)}.") from error
    return database


def note_standstill(url: str, pid: int) -> None:
    """Mark a process of this machine as stalled, so that its death does not count as a crash.

    Takes no lock of the database, because the process may hold it. Does nothing on PostgreSQL.
    """
    found = make_url(url)
    if found.get_backend_name() == "sqlite" and found.database:
        sqlite.note_standstill(found.database, owner_name_prefix(pid))


def _connect(url: str, clock: Callable[[], datetime] | None) -> Database:
    """Return the database. Does not connect. Raises ConfigError, which does not show the URL and its password."""
    try:
        check_at_signs(url)
    except ValueError as error:
        raise ConfigError(f"JOBMANAGER_DATABASE_URL cannot be used: {error}.") from None
    try:
        kind = make_url(url).get_backend_name()
    except (ArgumentError, ValueError):
        raise ConfigError("JOBMANAGER_DATABASE_URL cannot be used: it is not a URL that SQLAlchemy can read.") from None
    if kind == "sqlite":
        return sqlite.Database(url, to_json, clock=clock)
    if kind == "postgresql":
        if find_spec("psycopg") is None:
            raise ConfigError(
                "JOBMANAGER_DATABASE_URL cannot be used: PostgreSQL needs psycopg, which is not installed. "
                "Install the service as jobmanager[postgresql]."
            )
        from jobmanager.store import postgresql  # noqa: PLC0415 - processes on SQLite need not load its driver

        return postgresql.Database(url, to_json)
    raise ConfigError(f"JOBMANAGER_DATABASE_URL cannot be used: the store can be SQLite or PostgreSQL, not {kind}.")


def _prepare(database: Database, owner: str) -> None:
    """Bring the tables up to date and register this process. Closes the database on failure."""
    try:
        with database.begin_alone() as connection:
            bring_up_to_date(connection)
            if database.has_boot_clock:
                _end_leases_of_earlier_boots(connection, database)
        database.register_owner(owner)
    except BaseException:
        database.close()
        raise


def _end_leases_of_earlier_boots(connection: Connection, database: Database) -> None:
    """End the leases from before this boot of the machine: the boot has reset the lease clock.

    If the system has no boot id, all owners seem to be from an earlier boot. Owners that are alive keep their leases.
    """
    is_earlier = and_(IS_HELD, jobs.c.owner.not_like(f"{boot_id()}:%"))
    earlier = connection.scalars(select(jobs.c.owner).where(is_earlier).distinct()).all()
    dead = [owner for owner in earlier if not database.is_alive(connection, owner)]
    theirs = and_(IS_HELD, jobs.c.owner.in_(dead))
    connection.execute(update(jobs).where(theirs).values(lease_expires_at=database.lease_now()))


def _cause(error: Exception) -> str:
    """Return the cause as a text for the operator who starts the service."""
    return str(error.orig) if isinstance(error, DBAPIError) else str(error)
