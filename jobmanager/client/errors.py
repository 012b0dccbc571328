"""What only a client meets, beside the errors that the JobManager itself raises (jobmanager.errors).

JobManagerError
├── Refused        the server says no, for a reason that is about no job: 413, 500 …
├── Unexpected     what answers is no job manager
├── Unreachable    nothing answers, or it fell silent
└── Damaged        a download is not the file that the job made
"""

from __future__ import annotations

from jobmanager.errors import JobManagerError


class Refused(JobManagerError):
    """The server refused; `status` is that of HTTP."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Unexpected(JobManagerError):
    """The answer is none that a job manager gives."""


class Unreachable(JobManagerError):
    """Nothing answers, for as long as the client was to try; what was asked for may have happened all the same."""


class Damaged(JobManagerError):
    """What was downloaded is not what the job made: its SHA-256 differs."""
