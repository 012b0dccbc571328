"""The store's database as a PostgreSQL server, for the processes of any number of machines."""

from jobmanager.store.postgresql.database import Database

__all__ = ["Database"]
