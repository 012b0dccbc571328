"""What it means for a job to move along the table: for its other columns, and for its history.

Pure: decided here from what was read, written by store.py, and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from jobmanager.records import JobRecord
from jobmanager.states import ASKED, ATTENDED, FINAL, Action, Fact, Status, advance

Values = dict[str, Any]

#: Kept as the time of a job that nobody has put off: with the time of the clock, it would wait for as long as that is
#: set back. Shown as the time of its submission.
AT_ONCE = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True, kw_only=True)
class Move:
    """A step of a job along the table, decided by what was read of the job and not written yet."""

    #: as it was read
    job: JobRecord
    action: Action
    to_status: Status
    #: columns to be set, beside those that follow from the action
    values: Values

    def is_idle(self) -> bool:
        """Tell whether a person asks for what is so already."""
        # Force is worth telling each time that it is asked for, as long as there is something to stop.
        is_forced_on = self.to_status is Status.STOPPING and self.values.get("is_forced", False)
        return self.to_status is self.job.status and self.action in ASKED and not is_forced_on

    def seen(self) -> Values:
        """Return what must still hold of the job when it is written."""
        job = self.job
        return {"number_is": job.number, "status_is": job.status, "attempt_is": job.attempt, "owner_is": job.owner}

    def columns(self, now: datetime) -> Values:
        """Return all columns that change."""
        values = _consequences(self.job, self.action, self.to_status, now) | self.values | {"status": self.to_status}
        if "run_at" in values:
            values["waits_until"] = None if values["run_at"] == AT_ONCE else values["run_at"]
        return values

    def change(self, attempt: int, now: datetime) -> Values:
        """Return what is kept of it in the job's history; *attempt* is that which the job has now."""
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
    """Return the move that *action* means for a job; raises NotAllowed."""
    facts = set()
    if not job.has_begun():
        facts.add(Fact.NEVER_BEGAN)
    if action is Action.EXPIRE and values["crashes"] >= max_crashes:
        facts.add(Fact.CRASHED_TOO_OFTEN)
    return Move(job=job, action=action, to_status=advance(job.id, job.status, action, facts), values=values)


def _consequences(job: JobRecord, action: Action, to_status: Status, now: datetime) -> Values:
    """Return what follows for a job's other columns when *action* moves it to *to_status*."""
    values: Values = {}
    if job.running_since is not None and (to_status not in ATTENDED or action in (Action.EXPIRE, Action.RELEASE)):
        # Of an owner that fell silent, nobody knows when it ceased: count no more than its lease.
        until = min(now, job.lease_expires_at) if action is Action.EXPIRE and job.lease_expires_at else now
        values |= {"running_since": None, "ran_seconds": job.run_seconds(until)}
    if to_status in FINAL or to_status is Status.FAILED:
        values |= {"finished_at": now, "owner": None, "lease_expires_at": None}
    match action:
        case Action.CLAIM:
            # Force was asked against the attempt before; it can be asked for anew.
            values |= {"attempt": job.attempt + 1, "started_at": job.started_at or now, "is_forced": False}
            if to_status is Status.RUNNING:
                values |= {"running_since": now, "asked_at": None}
        case Action.HALT:
            values |= {"asked_at": now}
        case Action.STOP:
            # The tries of clean count anew, and it is due at once, whatever the job waited for.
            values |= {"asked_at": now, "failures": 0, "run_at": AT_ONCE, "is_forced": False}
            if to_status is Status.STOPPING:
                values["finished_at"] = None
        case Action.RESUME:
            values |= {"asked_at": now}
            if to_status is Status.SUBMITTED:
                # One that has not begun keeps the time that its submission names; a retry is waited for no longer.
                values |= {"run_at": job.run_at if job.is_scheduled() else AT_ONCE, "finished_at": None}
            if job.status is Status.FAILED:
                values |= {"failures": 0, "crashes": 0, "error": None}
    return values
