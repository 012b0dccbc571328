"""The durable state of jobs. Only this package and the dataset readers in jobs/ import SQLAlchemy."""

from jobmanager.store.store import Store, note_standstill

__all__ = ["Store", "note_standstill"]
