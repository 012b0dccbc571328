"""The durable state of jobs. Only this package and the dataset readers in jobs/ import SQLAlchemy."""

from jobmanager.store.store import Store, Watch, note_standstill

__all__ = ["Store", "Watch", "note_standstill"]
