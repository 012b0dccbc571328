"""The effects of a transition on a job's other columns and on its history.

Pure: decides from the values that were read. Only store/lifecycle.py writes the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from jobmanager.core.states import ASKED, ATTENDED, FINAL, Action, Fact, Status, advance
from jobmanager.core.values import JobRecord

Values = dict[str, Any]

#: The stored `run_at` of a job without a delay. To store the time of submission would delay the job if the clock were
#: set back. A JobRecord shows the time of submission in place of this constant.
AT_ONCE = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True, kw_only=True)
class Move:
    """A transition of a job, decided from the values that were read and not yet written."""

    #: the job as it was read
    job: JobRecord
    action: Action
    to_status: Status
    #: columns to set, in addition to those that follow from the action
    values: Values

    def is_idle(self) -> bool:
        """Return True if there is nothing to write, because a person requests a status that the job already has."""
        # A forced stop of a stopping job is always written, even if it is repeated: the job's owner has to be notified.
        is_forced_on = self.to_status is Status.STOPPING and self.values.get("is_forced", False)
        return self.to_status is self.job.status and self.action in ASKED and not is_forced_on

    def expected(self) -> Values:
        """Return the values that the job must still have when the move is written."""
        job = self.job
        return {"number_is": job.number, "status_is": job.status, "attempt_is": job.attempt, "owner_is": job.owner}

    def columns(self, now: datetime) -> Values:
        """Return all columns to set, with their values."""
        values = _consequences(self.job, self.action, self.to_status, now) | self.values | {"status": self.to_status}
        if "run_at" in values:
            values["waits_until"] = None if values["run_at"] == AT_ONCE else values["run_at"]
        return values

    def change(self, attempt: int, now: datetime) -> Values:
        """Return the move as an entry of the job's history; *attempt* is the job's attempt after the move."""
        job, action = self.job, self.action
        return {
            "job_id": job.id,
            "action": action,
            "from_status": job.status,
            "to_status": self.to_status,
            "attempt": attempt,
            "asked_at": job.asked_at if action in (Action.YIELD, Action.CLAIM) and job.asked_at else now,
            "at": now,
        }


def decide(job: JobRecord, action: Action, values: Values, *, max_crashes: int) -> Move:
    """Return the move that *action* causes; raises NotAllowed. For EXPIRE, *values* must contain `crashes`."""
    facts = set()
    if not job.has_begun():
        facts.add(Fact.NEVER_BEGAN)
    if action is Action.EXPIRE and values["crashes"] >= max_crashes:
        facts.add(Fact.CRASHED_TOO_OFTEN)
    return Move(job=job, action=action, to_status=advance(job.id, job.status, action, facts), values=values)


def _consequences(job: JobRecord, action: Action, to_status: Status, now: datetime) -> Values:
    """Return the columns to set, besides the status, when *action* moves a job to *to_status*."""
    values: Values = {}
    if job.running_since is not None and (to_status not in ATTENDED or action in (Action.EXPIRE, Action.RELEASE)):
        # If the lease expired, the end of the work is unknown: count no time after the end of the lease.
        until = min(now, job.lease_expires_at) if action is Action.EXPIRE and job.lease_expires_at else now
        values |= {"running_since": None, "ran_seconds": job.run_seconds(until)}
    if to_status in FINAL or to_status is Status.FAILED:
        values |= {"finished_at": now, "owner": None, "lease_expires_at": None}
    match action:
        case Action.CLAIM:
            # Force was requested against the previous attempt. For the new attempt, it has to be requested again.
            values |= {"attempt": job.attempt + 1, "started_at": job.started_at or now, "is_forced": False}
            if to_status is Status.RUNNING:
                values |= {"running_since": now, "asked_at": None}
        case Action.HALT:
            values |= {"asked_at": now}
        case Action.STOP:
            # Reset the number of failed cleans, and drop any delay: `clean` is due at once.
            values |= {"asked_at": now, "failures": 0, "run_at": AT_ONCE, "is_forced": False}
            if to_status is Status.STOPPING:
                values["finished_at"] = None
        case Action.RESUME:
            values |= {"asked_at": now}
            if to_status is Status.SUBMITTED:
                # A job that has not begun keeps its scheduled time; a pending retry becomes due at once.
                values |= {"run_at": job.run_at if job.is_scheduled() else AT_ONCE, "finished_at": None}
            if job.status is Status.FAILED:
                values |= {"failures": 0, "crashes": 0, "error": None}
    return values
