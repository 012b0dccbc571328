"""The example bodies and responses in the API docs. A test compares them with real responses."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

from jobmanager.http.schemas.classic import JOB_ID

_SIMPLE = {"steps": 60, "type": "Simple"}
_EXPORT = {"from_date": "2024-01-01", "to_date": "2024-03-31", "type": "Export"}

SUBMISSIONS = {
    "Simple": {"summary": "A job that works for a minute", "value": {"Type": "Simple", "args": {"steps": 60}}},
    "Export": {
        "summary": "Export rows of a dataset to a CSV file",
        "value": {"Type": "Export", "args": {"from_date": "2024-01-01", "to_date": "2024-03-31", "format": "csv"}},
    },
    "Go layout": {
        "summary": "Dates in the format of the Go service",
        "value": {"Type": "Export", "args": {"from_date": "2024-Jan-01", "to_date": "2024-Mar-09"}},
    },
}


def job(status: str, *, summary: str = "", **details: Any) -> dict[str, Any]:
    """Return an example response of the classic routes with a job, by default of type Simple."""
    shown = (details if "type" in details else _SIMPLE | details) | {"jobID": JOB_ID, "status": status}
    return {"summary": summary or status, "value": {"jobID": JOB_ID, "message": "Success", "details": shown}}


def classic_error(error: str, *, job_id: str = JOB_ID, summary: str = "Refused") -> dict[str, Any]:
    """Return an example error of the classic routes."""
    return {"summary": summary, "value": {"jobID": job_id, "error": error}}


def problem(status: HTTPStatus, detail: str, *, type: str = "about:blank", **more: Any) -> dict[str, Any]:  # noqa: A002
    """Return an example error of the REST routes (RFC 9457)."""
    shown = {"type": type, "title": status.phrase, "status": int(status), "detail": detail}
    return {"summary": status.phrase, "value": shown | more}


def _checkpoint(done: int) -> dict[str, Any]:
    return {
        "done": done,
        "total": 60,
        "attempt": 1,
        "checkpoint": {"seq": done, "saved_at": "2024-03-09T12:00:00.000000Z", "done": done},
    }


SUBMITTED = {"Submitted": job("Submitted")}

HALTED = {
    "Halted": job("Halted", summary="The job has halted; its checkpoint is kept", **_checkpoint(12)),
    "Halting": job("Halting", summary="The job has not reached a checkpoint within two seconds", **_checkpoint(11)),
}

RESUMED = {
    "Running": job("Running", summary="The job runs again", **(_checkpoint(12) | {"attempt": 2})),
    "Submitted": job("Submitted", summary="The job waits for a slot", **_checkpoint(12)),
}

STOPPED = {
    "Stopped": job("Stopped", summary="The job has ended and is rolled back", **_checkpoint(12)),
    "Stopping": job("Stopping", summary="The job does not respond", **_checkpoint(12), unresponsive=True),
}

SHOWN = {
    "Running": job("Running", summary="A running job", **_checkpoint(12)),
    "Completed": job(
        "Completed",
        summary="A completed export",
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
            "file": "export-1-91250.csv",
            "filename": "responses_2024-01-01_2024-03-31.csv",
            "media_type": "text/csv",
            "rows": 91250,
            "bytes": 7300412,
            "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        },
    ),
    "Failed": job(
        "Failed",
        summary="A failed job: resume it to try again, or stop it to roll it back",
        **_checkpoint(12),
        error="OSError: [Errno 28] No space left on device",
    ),
}

FILE = {"csv": {"summary": "A CSV file", "value": '"id","score"\n1,9.2\n2,4.5\n'}}

UNREADABLE = {
    "type": classic_error(
        "There is no job type 'Simpel'. Known types: Export, Simple.", job_id="", summary="An unknown job type"
    ),
    "argument": classic_error(
        "steps: Input should be greater than or equal to 0", job_id="", summary="An invalid argument"
    ),
    "body": classic_error(
        'The body cannot be read: expecting value at line 1, column 1. Valid example: {"Type": "Simple", "args": {}}.',
        job_id="",
        summary="Not JSON",
    ),
}

FOREIGN = "A page of another site may not change jobs."
NO_TOKEN = "This needs a token, sent as: Authorization: Bearer TOKEN."
RATE_LIMITED = "This token may send 60 requests a minute. Try again later."
TOKENS_AWAY = "The service cannot read its tokens. The details are in its log. Try again later."
TOO_LARGE = "The body is larger than 1048576 bytes."
BATCH_TOO_LARGE = "The body is larger than 67108864 bytes."
QUEUE_FULL = "The queue is full: 1000000 jobs are waiting. Try again later."
NO_JOB = f"There is no job '{JOB_ID}'."
NO_FILE = f"Job {JOB_ID} has no file; it is running."
NO_STORE = "The store does not answer. Nothing was changed; try again later."
BATCH_UNDER_WAY = "Another batch is being stored. Try again later."
TOO_MANY_STREAMS = "8 streams are open, which is the limit. Try again later."
BROKEN = "Internal error. The details are in the service's log."

# The REST routes

#: Valid bodies, which the error for an unreadable body shows.
NEW_JOB = '{"type": "Simple", "args": {"steps": 60}}'
CONTROL = '{"reason": "the disk fills up"}'

NEW_JOBS = {
    "Simple": {"summary": "A job that works for a minute", "value": {"type": "Simple", "args": {"steps": 60}}},
    "Export": {
        "summary": "An export with a label, tried up to three times",
        "value": {
            "type": "Export",
            "args": {"from_date": "2024-01-01", "to_date": "2024-03-31", "format": "csv"},
            "labels": {"customer": "acme"},
            "max_attempts": 3,
        },
    },
    "later": {
        "summary": "A job that starts no earlier than a given time",
        "value": {"type": "Simple", "args": {}, "run_at": "2030-01-01T02:00:00+01:00", "priority": 5},
    },
}
BATCH = {
    "two": {
        "summary": "Two jobs",
        "value": [{"type": "Simple"}, {"type": "Simple", "args": {"steps": 5}, "priority": 1}],
    }
}
IDS = {"ids": {"summary": "Two jobs", "value": {"ids": [JOB_ID, "0190f3a4-5b6c-7d8e-9fa0-b1c2d3e4f507"]}}}

_AT = "2024-03-09T12:00:00Z"
_LATER = "2024-03-09T12:00:12.345678Z"


def shown(status: str, *, summary: str = "", done: int | None = None, **more: Any) -> dict[str, Any]:
    """Return an example job in the format of the REST routes, by default of type Simple."""
    kept = {"seq": done, "saved_at": _LATER, "age_seconds": 0.4, "done": done} if done else None
    lease = {"owner": "6fca1a06:host:4711:93a1c0de", "expires_at": "2024-03-09T12:00:27Z", "seconds_left": 14.2}
    value: dict[str, Any] = {
        "id": JOB_ID,
        "type": "Simple",
        "status": status,
        "args": {"steps": 60},
        "shortened": [],
        "priority": 0,
        "labels": {},
        "submitted_at": _AT,
        "run_at": _AT,
        "started_at": _AT if done else None,
        "finished_at": None,
        "asked_at": None,
        "attempt": 1 if done else 0,
        "max_attempts": 1,
        "failures": 0,
        "crashes": 0,
        "timeout_seconds": None,
        "run_seconds": float(done or 0),
        "progress": {
            "done": done,
            "total": 60 if done else None,
            "message": None,
            "rate": 1.0 if done else None,
            "eta_seconds": 48.0 if status == "running" else None,
        },
        "checkpoint": kept,
        "lease": lease if status in ("running", "halting", "stopping") else None,
        "expected_halt_seconds": 0.0002 if status in ("running", "halting") else None,
        "unresponsive": False,
        "stuck": False,
        "forced": False,
        "allowed": _ALLOWED[status],
        "details": {},
        "result": None,
        "error": None,
    }
    return {"summary": summary or status, "value": value | more}


def _change(seq: int, action: str, begin: str | None, end: str, **more: Any) -> dict[str, Any]:
    change = {"seq": seq, "job_id": JOB_ID, "action": action, "from_status": begin, "to_status": end, "attempt": 1}
    return change | {"actor": "engine", "reason": None, "asked_at": _LATER, "at": _LATER} | more


_ALLOWED: dict[str, list[str]] = {
    "submitted": ["halt", "stop"],
    "running": ["halt", "stop"],
    "halting": ["resume", "stop"],
    "halted": ["resume", "stop"],
    "stopping": [],
    "stopped": [],
    "failed": ["resume", "stop"],
}

JOB_SUBMITTED = {"submitted": shown("submitted")}
JOBS = {
    "running": shown("running", summary="A running job", done=12),
    "halted": shown("halted", summary="A halted job", done=12, asked_at=_LATER),
    "failed": shown(
        "failed", summary="A failed job", done=12, failures=1, finished_at=_LATER, error="OSError: not today"
    ),
}
JOBS_ASKED = {
    "halt": {"halted": JOBS["halted"], "halting": shown("halting", done=11, asked_at=_LATER)},
    "resume": {
        "running": shown("running", done=12, attempt=2),
        "submitted": shown("submitted", summary="The job waits for a slot", done=12, asked_at=_LATER),
    },
    "stop": {
        "stopped": shown("stopped", done=12, asked_at=_LATER, finished_at=_LATER),
        "stopping": shown("stopping", done=12, asked_at=_LATER),
    },
}
JOB_LIST = {
    "page": {
        "summary": "A page with another one after it",
        "value": {"jobs": [JOBS["running"]["value"]], "next_cursor": "MTcwOTk4NTYwMDAwMDAwMC40Mg=="},
    }
}
REASONS = {"reason": {"summary": "With a reason", "value": {"reason": "the disk fills up"}}}
FILTERS = {
    "type": {"summary": "All running exports", "value": {"status": ["running"], "type": "Export"}},
    "label": {"summary": "All jobs of a customer", "value": {"label": ["customer:acme"], "reason": "customer request"}},
    "all": {"summary": "Every job", "value": {"all": True}},
}
SWEEPS = {
    "sweep": {
        "summary": "One job changed, one did not",
        "value": {
            "matched": 2,
            "changed": 1,
            "changed_ids": [JOB_ID],
            "unchanged": [{"id": "0190f3a4-5b6c-7d8e-9fa0-b1c2d3e4f507", "reason": "It is already halted."}],
        },
    }
}
CHANGES = {
    "halted": {
        "summary": "Submitted, claimed and halted",
        "value": {
            "changes": [
                _change(1, "submit", None, "submitted", attempt=0, actor="127.0.0.1"),
                _change(2, "claim", "submitted", "running"),
                _change(3, "halt", "running", "halting", actor="127.0.0.1", reason="the disk fills up"),
                _change(4, "yield", "halting", "halted"),
            ]
        },
    }
}


def stream(*events: tuple[str, str, dict[str, Any]]) -> str:
    """Return an example stream; *events* are the name, the id and the data of each event."""
    stream = "retry: 2000\n\n"
    for name, event_id, data in events:
        stream += f"event: {name}\n" + (f"id: {event_id}\n" if event_id else "") + f"data: {json.dumps(data)}\n\n"
    return stream


_PROGRESS = {
    "job_id": JOB_ID,
    "status": "running",
    "done": 12,
    "total": 60,
    "message": None,
    "rate": 1.0,
    "eta_seconds": 48.0,
    "checkpoint_seq": 12,
}
_CLAIM = ("change", "2", _change(2, "claim", "submitted", "running"))
STREAM = {
    "begun": {"summary": "A job starts and makes progress", "value": stream(_CLAIM, ("progress", "", _PROGRESS))},
}
STREAM_OF_JOB = {
    "begun": {
        "summary": "The job, its changes so far, and its progress",
        "value": stream(("job", "", JOBS["running"]["value"]), _CLAIM, ("progress", "", _PROGRESS)),
    }
}
METRICS = {
    "metrics": {
        "summary": "An excerpt",
        "value": "# HELP jobmanager_jobs Jobs, by type and status.\n# TYPE jobmanager_jobs gauge\n"
        'jobmanager_jobs{status="running",type="Simple"} 3.0\n',
    }
}
LINES = {
    "lines": {
        "summary": "One line",
        "value": {"lines": [{"number": 1, "attempt": 1, "at": _LATER, "level": "INFO", "message": "read 50000 rows"}]},
    }
}
_TYPE = {
    "type": "Simple",
    "description": "Works in a loop, one unit after the other.",
    "args_schema": {"type": "object", "properties": {"steps": {"type": "integer", "default": 60}}},
    "resumable": True,
    "max_running": None,
    "max_attempts": 1,
    "timeout_seconds": None,
    "stuck_after_seconds": 300.0,
}
TYPE = {"type": {"summary": "A job type", "value": _TYPE}}
DATASETS = {
    "datasets": {
        "summary": "A dataset whose database cannot be read, and a working one",
        "value": {
            "datasets": [
                {
                    "name": "orders",
                    "date_column": "ordered_at",
                    "date_format": "unix",
                    "timezone": "Europe/Vienna",
                    "columns": None,
                    "error": "The database of dataset 'orders' cannot be read; its error is in the service's log.",
                },
                {
                    "name": "responses",
                    "date_column": "submitted_at",
                    "date_format": None,
                    "timezone": None,
                    "columns": [{"name": "id", "type": "int64"}, {"name": "submitted_at", "type": "string"}],
                    "error": None,
                },
            ],
            "formats": ["csv", "jsonl", "parquet"],
            "error": None,
        },
    }
}
TYPES = {"types": {"summary": "The job types", "value": {"job_types": [_TYPE]}}}

UNREADABLE_BODY = (
    "The body cannot be read: expecting value at line 1, column 1. "
    'Valid example: {"type": "Simple", "args": {"steps": 60}}.'
)
WRONG_FIELD = "prioritty: Extra inputs are not permitted"
WRONG_PARAMETER = "limit: Input should be less than or equal to 500"
NO_TYPE = "There is no job type 'Simpel'."
OUTDATED = "The job has changed since you looked at it; it is completed now."
