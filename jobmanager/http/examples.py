"""The bodies and answers that the API docs show. A test compares them with what the routes really answer."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from jobmanager.http.wire import JOB_ID

_SIMPLE = {"steps": 60, "type": "Simple"}
_EXPORT = {"from_date": "2024-01-01", "to_date": "2024-03-31", "type": "Export"}

SUBMISSIONS = {
    "Simple": {"summary": "A job that works for a minute", "value": {"Type": "Simple", "args": {"steps": 60}}},
    "Export": {
        "summary": "Rows of a dataset to a CSV file",
        "value": {"Type": "Export", "args": {"from_date": "2024-01-01", "to_date": "2024-03-31", "format": "csv"}},
    },
    "Go layout": {
        "summary": "Dates as the Go service took them",
        "value": {"Type": "Export", "args": {"from_date": "2024-Jan-01", "to_date": "2024-Mar-09"}},
    },
}


def job(status: str, *, summary: str = "", **details: Any) -> dict[str, Any]:
    """Return an example of the answer that shows a job, by default one of type Simple."""
    shown = (details if "type" in details else _SIMPLE | details) | {"jobID": JOB_ID, "status": status}
    return {"summary": summary or status, "value": {"jobID": JOB_ID, "message": "Success", "details": shown}}


def classic_error(error: str, *, job_id: str = JOB_ID, summary: str = "Refused") -> dict[str, Any]:
    """Return an example of an error of the classic routes."""
    return {"summary": summary, "value": {"jobID": job_id, "error": error}}


def problem(status: HTTPStatus, detail: str) -> dict[str, Any]:
    """Return an example of an error as RFC 9457 has it."""
    shown = {"type": "about:blank", "title": status.phrase, "status": int(status), "detail": detail}
    return {"summary": status.phrase, "value": shown}


def _checkpoint(done: int) -> dict[str, Any]:
    return {
        "done": done,
        "total": 60,
        "attempt": 1,
        "checkpoint": {"seq": done, "saved_at": "2024-03-09T12:00:00.000000Z", "done": done},
    }


SUBMITTED = {"Submitted": job("Submitted")}

HALTED = {
    "Halted": job("Halted", summary="It has halted; what is kept is its checkpoint", **_checkpoint(12)),
    "Halting": job("Halting", summary="It has not reached a checkpoint within two seconds", **_checkpoint(11)),
}

RESUMED = {
    "Running": job("Running", summary="It goes on", **(_checkpoint(12) | {"attempt": 2})),
    "Submitted": job("Submitted", summary="It waits for a slot", **_checkpoint(12)),
}

STOPPED = {
    "Stopped": job("Stopped", summary="It has ended and is rolled back", **_checkpoint(12)),
    "Stopping": job("Stopping", summary="It does not answer", **_checkpoint(12), unresponsive=True),
}

SHOWN = {
    "Running": job("Running", summary="A job at work", **_checkpoint(12)),
    "Completed": job(
        "Completed",
        summary="An export that is done",
        **_EXPORT,
        dataset="responses",
        format="csv",
        rows=91250,
        bytes=7300412,
        done=91250,
        total=91250,
        attempt=1,
        checkpoint={"seq": 3, "saved_at": "2024-03-09T12:00:00.000000Z", "done": 91250},
        result={
            "file": "export-1.csv",
            "filename": "responses_2024-01-01_2024-03-31.csv",
            "media_type": "text/csv",
            "rows": 91250,
            "bytes": 7300412,
            "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        },
    ),
    "Failed": job(
        "Failed",
        summary="A job that failed: resume it to try again, or stop it to roll it back",
        **_checkpoint(12),
        error="OSError: [Errno 28] No space left on device",
    ),
}

FILE = {"csv": {"summary": "A CSV file", "value": '"id","score"\n1,9.2\n2,4.5\n'}}

UNREADABLE = {
    "type": classic_error(
        "There is no job type 'Simpel'. Known types: Export, Simple.", job_id="", summary="No such job type"
    ),
    "argument": classic_error(
        "steps: Input should be greater than or equal to 0", job_id="", summary="A wrong argument"
    ),
    "body": classic_error(
        "The body cannot be read: expecting value at line 1, column 1. "
        'It looks like this: {"Type": "Simple", "args": {}}.',
        job_id="",
        summary="No JSON",
    ),
}

FOREIGN = "A page of another site may not change jobs."
TOO_LARGE = "The body is larger than 1048576 bytes."
QUEUE_FULL = "The queue is full: 1000000 jobs are waiting. Try again later."
NO_JOB = f"There is no job '{JOB_ID}'."
NO_FILE = f"Job {JOB_ID} has no file; it is running."
NO_STORE = "The store does not answer. Nothing was changed; try again later."
BROKEN = "Something went wrong here; it was logged."
