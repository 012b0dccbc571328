"""Long jobs that people can halt, resume and stop, and that no crash loses."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from jobmanager.config import Settings
from jobmanager.errors import Fatal, JobManagerError
from jobmanager.job import Job
from jobmanager.manager import JobManager
from jobmanager.registry import registry

if TYPE_CHECKING:
    from jobmanager.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client", "Fatal", "Job", "JobManager", "JobManagerError", "Settings", "registry"]


def __getattr__(name: str) -> Any:
    """Import the clients lazily: a server needs neither them nor httpx."""
    if name in ("AsyncClient", "Client"):
        return getattr(import_module("jobmanager.client"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
