"""The durable state of jobs. Only this package and jobs/export import SQLAlchemy."""

from jobmanager.store.database import Watch
from jobmanager.store.opening import note_standstill
from jobmanager.store.store import Store

__all__ = ["Store", "Watch", "note_standstill"]
