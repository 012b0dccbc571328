"""Long jobs that people can halt, resume and stop, and that no crash loses."""

from jobmanager.client import AsyncClient, Client
from jobmanager.config import Settings
from jobmanager.errors import Fatal, JobManagerError
from jobmanager.job import Job
from jobmanager.manager import JobManager
from jobmanager.registry import registry

__all__ = ["AsyncClient", "Client", "Fatal", "Job", "JobManager", "JobManagerError", "Settings", "registry"]
