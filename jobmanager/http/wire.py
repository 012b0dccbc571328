"""What goes over the wire: how bodies are read, and how jobs are shown by the classic routes.

The models are the documentation too: their JSON Schema is in the API docs.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from jobmanager.errors import InvalidRequest
from jobmanager.job import Job
from jobmanager.records import JobRecord

JOB_ID = "0190f3a4-5b6c-7d8e-9fa0-b1c2d3e4f506"

#: How deep arrays and objects of a body may lie in each other. Far below what Python's recursion limit lets through,
#: which is less where the stack is deeper: what one thread could write, another could not read.
MAX_DEPTH = 100

_TOO_DEEP = f"arrays and objects in it lie more than {MAX_DEPTH} deep in each other"
_EXAMPLE = 'It looks like this: {"Type": "Simple", "args": {}}.'


class ClassicSubmission(BaseModel):
    """A job to run. Names of fields are read in any case (`Type`, `type`); further fields are ignored."""

    Type: str = Field(description="The name of the job type.", examples=["Simple"])
    args: dict[str, Any] | None = Field(None, description="The arguments of the job type; see its schema.")


class ClassicDetails(BaseModel):
    """What is known about a job. Each type adds what is its own: an Export its dates, rows and bytes."""

    model_config = ConfigDict(extra="allow")

    jobID: str = Field(examples=[JOB_ID])  # noqa: N815 - the name on the wire
    status: str = Field(
        description="Submitted, Running, Halting, Halted, Stopping, Stopped, Completed or Failed.", examples=["Running"]
    )


class ClassicAnswer(BaseModel):
    """The job that was asked about."""

    jobID: str = Field(examples=[JOB_ID])  # noqa: N815 - the name on the wire
    message: str = Field(examples=["Success"])
    details: ClassicDetails


class ClassicError(BaseModel):
    """What was wrong with a request; nothing was changed."""

    jobID: str = Field(description="The job that was asked about, or empty.", examples=[""])  # noqa: N815
    error: str = Field(examples=["There is no job type 'Simpel'. Known types: Export, Simple."])


class Problem(BaseModel):
    """What was wrong with a request (RFC 9457); nothing was changed."""

    type: str = Field(examples=["about:blank"])
    title: str = Field(examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=[f"There is no job '{JOB_ID}'."])
    field: str | None = Field(None, description="The field that is wrong, as a dotted path.")


class Health(BaseModel):
    """Whether the service works."""

    status: str = Field(examples=["ok"])


def parse_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object that *body* holds; raises InvalidRequest that says what is wrong, and where."""
    try:
        value = json.loads(body.decode("utf-8-sig"), parse_constant=_refuse_constant)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()  # what cannot be stored is refused here
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"The body cannot be read: {_fault(error)}. {_EXAMPLE}") from None
    if not isinstance(value, dict):
        raise InvalidRequest(f"The body must be a JSON object, not {_kind(value)}. {_EXAMPLE}")
    if _is_deeper(value, MAX_DEPTH):
        raise InvalidRequest(f"The body cannot be read: {_TOO_DEEP}. {_EXAMPLE}")
    return value


def parse_classic(body: bytes) -> tuple[str, dict[str, Any]]:
    """Return type and arguments of a submission, read as the Go service did; raises InvalidRequest."""
    fields = {name.casefold(): value for name, value in parse_object(body).items()}
    name, args = fields.get("type"), fields.get("args")
    if not isinstance(name, str) or not name:
        raise InvalidRequest(f'"Type" must name a job type. {_EXAMPLE}', field="type")
    if args is None:
        args = {}
    if not isinstance(args, dict):
        raise InvalidRequest(f'"args" must be a JSON object, not {_kind(args)}.', field="args")
    return name, args


def classic_answer(job: JobRecord, job_type: type[Job] | None, *, is_unresponsive: bool) -> dict[str, Any]:
    """Show a job as the Go service did: of its arguments those its type declares, then what it tells of itself."""
    declared = job_type.Args.model_fields if job_type else {}
    details: dict[str, Any] = {name: value for name, value in job.args.items() if name in declared}
    details |= job.details | _told(job)
    details |= {"jobID": job.id, "status": job.status.capitalize()}
    if is_unresponsive:
        details["unresponsive"] = True
    return {"jobID": job.id, "message": "Success", "details": details}


def _told(job: JobRecord) -> dict[str, Any]:
    """Return what the service knows about the job, without what is not there yet."""
    kept = job.checkpoint
    told = {
        "type": job.type,
        "done": kept.done,
        "total": kept.total,
        "message": kept.message,
        "attempt": job.attempt or None,
        "result": job.result,
        "error": job.error,
    }
    if kept.seq:
        told["checkpoint"] = {"seq": kept.seq, "saved_at": format_time(kept.saved_at), "done": kept.done}
    return {name: value for name, value in told.items() if value is not None}


def format_time(at: datetime | None) -> str | None:
    """Return the time as RFC 3339 has it, in UTC."""
    return at.isoformat().replace("+00:00", "Z") if at else None


def _refuse_constant(name: str) -> None:
    raise InvalidRequest(f"The body cannot be read: {name} is no JSON. {_EXAMPLE}")


def _fault(error: Exception) -> str:
    """Return what is wrong with a body, without repeating it."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg.lower()} at line {error.lineno}, column {error.colno}"
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    if isinstance(error, UnicodeEncodeError):
        return "half of a surrogate pair is no text"
    return _TOO_DEEP if isinstance(error, RecursionError) else "a number in it is too large"


def _is_deeper(value: Any, levels: int) -> bool:
    """Tell whether arrays and objects lie more than *levels* deep in each other."""
    layer = [value]
    for _ in range(levels + 1):
        boxes = [box.values() if isinstance(box, dict) else box for box in layer if isinstance(box, (dict, list))]
        if not boxes:
            return False
        layer = [inner for box in boxes for inner in box]
    return True


def _kind(value: Any) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
