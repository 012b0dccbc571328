"""The durable truth about jobs. Nothing outside this package imports SQLAlchemy."""

from jobmanager.store.store import Store, note_standstill

__all__ = ["Store", "note_standstill"]
