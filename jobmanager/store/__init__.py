"""The durable state of jobs. Only this package and the dataset readers in jobs/ import SQLAlchemy."""

from jobmanager.store.opening import note_standstill
from jobmanager.store.store import Store

__all__ = ["Store", "note_standstill"]
