"""Errors that only a client raises, besides those of the JobManager (jobmanager.errors).

JobManagerError
├── Refused        an HTTP error without a class of its own: 413, 500 …
├── Unexpected     the reply is not from a job manager
├── Unreachable    no reply came, or the connection broke off
└── Damaged        a download differs from the file that the job made
"""

from __future__ import annotations

from jobmanager.errors import JobManagerError


class Refused(JobManagerError):
    """The server refused the request; `status` is the HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Unexpected(JobManagerError):
    """The reply is not one that a job manager sends."""


class Unreachable(JobManagerError):
    """No reply came within the client's retry time. The server may still have executed the request."""


class Damaged(JobManagerError):
    """The downloaded bytes are not those of the file that the job made, for example because the SHA-256 differs."""
