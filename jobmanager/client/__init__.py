"""Python client of the service: the REST routes as typed methods, sync and async.

    with Client("http://127.0.0.1:8080") as client:
        job = client.submit("Simple", {"steps": 3}).wait()

Raises the same errors as the JobManager (jobmanager.errors). Retries every request that is safe to send twice. A single
submission is safe, because it carries an idempotency key: its retries create one job.
The logic is written once, without network I/O (flows.py, following.py); sync.py and aio.py execute it. Does not import
Flask, the store or the engine.
"""

from jobmanager.client.aio import AsyncClient, AsyncJob
from jobmanager.client.errors import Damaged, Refused, Unexpected, Unreachable
from jobmanager.client.models import (
    AT_REST,
    BulkResult,
    Change,
    Checkpoint,
    JobProgress,
    JobType,
    Lease,
    LogLine,
    Progress,
    Snapshot,
    Unchanged,
)
from jobmanager.client.sync import Client, Job
from jobmanager.core.values import Submission

__all__ = [
    "AT_REST",
    "AsyncClient",
    "AsyncJob",
    "BulkResult",
    "Change",
    "Checkpoint",
    "Client",
    "Damaged",
    "Job",
    "JobProgress",
    "JobType",
    "Lease",
    "LogLine",
    "Progress",
    "Refused",
    "Snapshot",
    "Submission",
    "Unchanged",
    "Unexpected",
    "Unreachable",
]
