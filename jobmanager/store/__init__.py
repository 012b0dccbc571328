"""The durable truth about jobs. Nothing outside this package imports SQLAlchemy."""

from jobmanager.store.store import Store

__all__ = ["Store"]
