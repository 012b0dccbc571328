"""The store's database as a SQLite file, for the processes of one machine."""

from jobmanager.store.sqlite.database import Database
from jobmanager.store.sqlite.owners import note_standstill

__all__ = ["Database", "note_standstill"]
