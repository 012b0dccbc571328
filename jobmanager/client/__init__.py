"""A client of the service for Python: the REST routes as typed methods, sync and async.

    with Client("http://127.0.0.1:8080") as client:
        job = client.submit("Simple", {"steps": 3}).wait()

What the server refuses is raised as the JobManager itself raises it (jobmanager.errors). What may be sent again is: a
submission carries an idempotency key, so that it makes one job however often it takes.
What happens in which order is written once, without input and output (core.py, tails.py); sync.py and aio.py do what
it says. Knows nothing of Flask, the store or the engine.
"""

from jobmanager.client.aio import AsyncClient, AsyncJob
from jobmanager.client.errors import Damaged, Refused, Unexpected, Unreachable
from jobmanager.client.sync import Client, Job
from jobmanager.client.values import (
    AT_REST,
    Change,
    Checkpoint,
    JobProgress,
    JobType,
    Lease,
    LogLine,
    Progress,
    Snapshot,
    Sweep,
    Unchanged,
)
from jobmanager.records import Submission

__all__ = [
    "AT_REST",
    "AsyncClient",
    "AsyncJob",
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
    "Sweep",
    "Unchanged",
    "Unexpected",
    "Unreachable",
]
