"""The JSON of the classic routes.

The models are also documentation: the API docs show their JSON Schema.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from jobmanager.core.json_values import showable
from jobmanager.core.states import Status
from jobmanager.core.values import JobRecord
from jobmanager.errors import InvalidRequest
from jobmanager.http import parsing
from jobmanager.http.schemas.problems import leave_out_nulls
from jobmanager.job import Job

JOB_ID = "0190f3a4-5b6c-7d8e-9fa0-b1c2d3e4f506"

_EXAMPLE = '{"Type": "Simple", "args": {}}'


class ClassicSubmission(BaseModel):
    """A job to run. Field names are case-insensitive (`Type`, `type`); other fields are ignored."""

    Type: str = Field(description="The name of the job type.")
    args: dict[str, Any] | None = Field(None, description="The arguments of the job type; may be missing or null.")


class ClassicCheckpoint(BaseModel):
    """The saved state: the job continues from here, even after a crash."""

    seq: int = Field(description="Increases by one with every saved checkpoint.")
    saved_at: datetime = Field(description="When the checkpoint was saved.")
    done: float | None = Field(description="Units of work done, if the type counts them.")


class ClassicDetails(BaseModel):
    """The state of a job. Fields without a value are left out.

    There are more fields than these: the arguments as submitted, and the details that the job type reports, such as the
    rows and bytes of an Export so far.
    """

    model_config = ConfigDict(extra="allow", json_schema_extra=leave_out_nulls)

    jobID: str = Field(description="The job's id.")  # noqa: N815 - the name on the wire
    status: str = Field(
        description="The status of the job.", json_schema_extra={"enum": [status.capitalize() for status in Status]}
    )
    type: str | None = Field(None, description="The name of the job type.")
    done: float | None = Field(None, description="Units of work done.")
    total: float | None = Field(None, description="Units of work in all.")
    message: str | None = Field(None, description="A message from the job.")
    attempt: int | None = Field(None, description="How many attempts have begun, including the current one.")
    checkpoint: ClassicCheckpoint | None = Field(None, description="The saved state.")
    result: Any = Field(None, description="What the job returned: for an Export, its file, rows, bytes and SHA-256.")
    error: str | None = Field(None, description="Why the job, or its last attempt, failed.")
    unresponsive: bool | None = Field(None, description="True if the job does not respond to a stop.")
    stuck: bool | None = Field(
        None, description="True if the job runs but has saved no checkpoint for longer than its type allows."
    )


class ClassicAnswer(BaseModel):
    """The job that the request names or submits."""

    jobID: str = Field(description="The job's id.")  # noqa: N815 - the name on the wire
    message: str = Field(description="Always Success.")
    details: ClassicDetails


class ClassicError(BaseModel):
    """An error; nothing was changed."""

    jobID: str = Field(description="The id of the job in the request, or empty.")  # noqa: N815 - the name on the wire
    error: str = Field(description="What is wrong, in a sentence.")


def parse_classic(body: bytes) -> tuple[str, dict[str, Any]]:
    """Return the job type and the arguments of a submission, parsed as in the Go service. Raises InvalidRequest."""
    fields = {name.casefold(): value for name, value in parsing.parse_object(body, _EXAMPLE).items()}
    name, args = fields.get("type"), fields.get("args")
    if not isinstance(name, str) or not name:
        raise InvalidRequest(f'"Type" must name a job type. Valid example: {_EXAMPLE}.', field="type")
    if args is None:
        args = {}
    if not isinstance(args, dict):
        raise InvalidRequest(f'"args" must be a JSON object, not {parsing.json_type_name(args)}.', field="args")
    return name, args


def classic_answer(
    job: JobRecord, job_type: type[Job] | None, *, is_unresponsive: bool, is_stuck: bool
) -> dict[str, Any]:
    """Return a job in the format of the Go service: arguments, details and state of the job in one object.

    Leaves out arguments that *job_type* does not declare. If *job_type* is None (the type is unknown), leaves out all
    arguments.
    """
    declared = job_type.Args.model_fields if job_type else {}
    details: dict[str, Any] = {name: value for name, value in job.args.items() if name in declared}
    details = showable(details | job.details | _own_fields(job))
    details |= {"jobID": job.id, "status": job.status.capitalize()}
    if is_unresponsive:
        details["unresponsive"] = True
    if is_stuck:
        details["stuck"] = True
    return {"jobID": job.id, "message": "Success", "details": details}


def _own_fields(job: JobRecord) -> dict[str, Any]:
    """Return the fields that every job has, such as `attempt`. Leaves out fields that have no value yet."""
    kept = job.checkpoint
    own = {
        "type": job.type,
        "done": kept.done,
        "total": kept.total,
        "message": kept.message,
        "attempt": job.attempt or None,
        "result": job.result,
        "error": job.error,
    }
    if kept.seq:
        own["checkpoint"] = {"seq": kept.seq, "saved_at": format_time(kept.saved_at), "done": kept.done}
    return {name: value for name, value in own.items() if value is not None}


def format_time(at: datetime | None) -> str | None:
    """Return the time in RFC 3339, in UTC; None for None."""
    return at.isoformat().replace("+00:00", "Z") if at else None
