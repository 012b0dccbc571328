"""Save the checkpoints of attempts.

Changes no status. Returns the job's current status, so that the attempt learns of a requested halt or stop.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from jobmanager.core.states import Status
from jobmanager.core.transitions import Values
from jobmanager.core.values import Checkpoint, LogLine
from jobmanager.errors import LeaseLost
from jobmanager.store import statements
from jobmanager.store.database import Database
from jobmanager.store.job_logs import JobLogs
from jobmanager.store.owner import Owner
from jobmanager.store.schema import to_json


class Checkpoints:
    """Saves checkpoints, each in one commit with the log lines that the job wrote before it."""

    def __init__(self, database: Database, logs: JobLogs, owner: Owner) -> None:
        self._database = database
        self._logs = logs
        self._owner = owner

    def save(
        self, job_id: str, attempt: int, saved: Checkpoint | None, details: Values | None, lines: Sequence[LogLine]
    ) -> Status:
        """Save a checkpoint of an attempt of this process, renew its lease, and return the job's current status.

        *saved* is None if nothing is new since the last checkpoint. This method sets `seq` and `saved_at`. A cursor of
        None leaves the saved cursor as it is. A cursor that differs from the saved one resets `crashes`. Committed when
        this returns. Raises LeaseLost or StoreUnavailable.
        """
        values: Values = {"lease_expires_at": self._owner.lease_end()}
        if saved is not None:
            values |= {"done": saved.done, "total": saved.total, "message": saved.message}
            values["gap_seconds"] = saved.gap_seconds
            values["saved_at"] = self._database.now()
            if saved.cursor is not None:
                values["cursor"] = saved.cursor
        if details is not None:
            values["details"] = details
        statement = statements.save_checkpoint(tuple(values))
        owned = {"id_is": job_id, "attempt_is": attempt, "owner_is": self._owner.name}
        if "cursor" in values:
            owned["cursor_is"] = to_json(values["cursor"])

        def write(connection: Connection) -> Status:
            rows = self._database.execute(connection, statement, values | owned)
            if not rows:
                raise LeaseLost(job_id)
            return Status(rows[0][0])

        return self._logs.run_with_lines(job_id, lines, write)
