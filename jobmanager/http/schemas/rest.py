"""The bodies, parameters and responses of the REST routes, as pydantic models.

The same models validate, render and document: the API docs show their JSON Schema.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import asdict, fields
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, get_args

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    RootModel,
    Strict,
    StringConstraints,
    field_validator,
)

from jobmanager.config import Settings
from jobmanager.core.json_values import showable
from jobmanager.core.states import FINAL, Action, Status, allowed
from jobmanager.core.values import (
    MOST_LISTED_BYTES,
    Change,
    JobRecord,
    LogLine,
    Page,
    Position,
    Progress,
    Selection,
    Submission,
    Sweep,
)
from jobmanager.errors import InvalidRequest
from jobmanager.http.parsing import MOST_JOBS
from jobmanager.job import Job
from jobmanager.jobs.export.dataset_descriptions import ShownDataset, show_datasets
from jobmanager.jobs.export.datasets import ListUnreadable
from jobmanager.jobs.export.job import Export
from jobmanager.manager import MOST_LABELS, JobManager
from jobmanager.registry import describe, type_name

#: The largest integer that every database can store.
_LARGEST_SEQ = 2**63 - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_LOST_PLUS = re.compile(r"(T\d\d:\d\d[\d:.]*) (\d\d:\d\d)$", re.ASCII)
#: The beginning of an RFC 3339 time. Pydantic would also accept seconds since 1970, as a number or a string.
_BEGIN_OF_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]", re.ASCII)
_LONGEST_TIME = 64
#: The longest cursor or event id that is accepted; the server's own are shorter.
_LONGEST_TOKEN = 64
_LONGEST_NAME = 255


def _in_utc(at: datetime) -> datetime:
    try:
        return at.astimezone(UTC)
    except OverflowError:
        raise ValueError("the time is out of range in UTC") from None


def _check_time(value: Any) -> str:
    """Return the value if it looks like a time. Raises ValueError before any slow parsing."""
    if not isinstance(value, str):
        raise ValueError("a time must be a string in RFC 3339, such as 2024-03-09T12:30:00Z")
    if len(value) > _LONGEST_TIME:
        raise ValueError(f"a time must have at most {_LONGEST_TIME} characters")
    if not _BEGIN_OF_TIME.match(value):
        raise ValueError("a time must be in RFC 3339, such as 2024-03-09T12:30:00Z")
    return value


def _with_plus(text: str) -> str:
    """Restore the + that a query has turned into a space, as in `?submitted_after=$(date -Iseconds)`."""
    return _LOST_PLUS.sub(r"\1+\2", text)


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _check_label(text: str) -> str:
    if not text.partition(":")[0] or ":" not in text:
        raise ValueError("a label must be given as name:value")
    return text


def _check_labels(texts: list[str]) -> list[str]:
    values: dict[str, str] = {}
    for text in texts:
        name, _, value = text.partition(":")
        if values.setdefault(name, value) != value:
            raise ValueError(f"the label {name} is given with two values, but a job has only one")
    return texts


def _or_one(schema: dict[str, Any]) -> None:
    """Change the schema of a list: a single value may stand for a list of one."""
    items = schema.pop("items")
    schema["anyOf"] = [{"type": schema.pop("type"), "items": items}, items]


def _require_a_condition(schema: dict[str, Any]) -> None:
    """Change the schema of a filter: at least one field is required."""
    given = {
        "type": {"type": "string"},
        "submitted_after": {"type": "string"},
        "submitted_before": {"type": "string"},
        "q": {"type": "string"},
        "status": {"minItems": 1},
        "label": {"minItems": 1},
        "all": {"const": True},
    }
    schema["anyOf"] = [{"properties": {name: needed}, "required": [name]} for name, needed in given.items()]


# Of several BeforeValidators, pydantic runs the last one first.
Time = Annotated[AwareDatetime, AfterValidator(_in_utc), BeforeValidator(_check_time)]
#: A time in a query, where an unescaped + becomes a space.
QueryTime = Annotated[AwareDatetime, AfterValidator(_in_utc), BeforeValidator(_with_plus), BeforeValidator(_check_time)]
TypeName = Annotated[str, StringConstraints(max_length=_LONGEST_NAME)]
Label = Annotated[
    str,
    StringConstraints(max_length=2 * _LONGEST_NAME + 1),
    AfterValidator(_check_label),
    Field(json_schema_extra={"pattern": "^[^:]+:"}),
]
StrictInt = Annotated[int, Strict()]
Seconds = Annotated[float, Strict()]
StrictBool = Annotated[bool, Strict()]


class StrictModel(BaseModel):
    """A body or a query in which an unknown field is an error: it may be a misspelt one."""

    model_config = ConfigDict(extra="forbid")


class NewJob(StrictModel):
    """A job to run."""

    type: TypeName = Field(description="The name of the job type.")
    args: dict[str, Any] = Field(default_factory=dict, description="The arguments of the job type.")
    priority: StrictInt = Field(0, ge=-(2**31), lt=2**31, description="Jobs with a higher priority are claimed first.")
    run_at: Time | None = Field(None, description="Do not start the job before this time (RFC 3339, with a time zone).")
    max_attempts: StrictInt | None = Field(
        None, ge=1, lt=2**31, description="Maximum number of attempts; null: the default of the job type."
    )
    timeout_seconds: Seconds | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Maximum run time of an attempt; null: the default of the job type.",
    )
    labels: dict[str, str] = Field(
        default_factory=dict,
        max_length=MOST_LABELS,
        description="Your own names and values, to find jobs by. A name must not contain a colon.",
    )

    def submission(self) -> Submission:
        """Return the job as a Submission for the manager."""
        return Submission(**self.__dict__)


class Batch(RootModel[Annotated[list[NewJob], Field(max_length=MOST_JOBS)]]):
    """Jobs to run."""


class Filter(StrictModel):
    """Filter for jobs. All given conditions must match."""

    status: Annotated[list[Status], BeforeValidator(_as_list)] = Field(
        default_factory=list,
        min_length=1,
        max_length=len(Status),
        description="Jobs with any of these statuses.",
        json_schema_extra=_or_one,
    )
    type: TypeName | None = Field(None, description="The name of the job type.")
    label: Annotated[list[Label], BeforeValidator(_as_list)] = Field(
        default_factory=list,
        min_length=1,
        max_length=MOST_LABELS,
        description="A label of the job, as `name:value`. If several are given, the job must have all.",
        json_schema_extra=_or_one,
    )
    submitted_after: Time | None = Field(None, description="Submitted at this time or later (RFC 3339).")
    submitted_before: Time | None = Field(None, description="Submitted before this time (RFC 3339).")
    q: str | None = Field(
        None,
        min_length=1,
        max_length=255,
        description="The beginning of an id (13 characters or more), part of the type's name, or a label's value.",
    )

    _check_labels = field_validator("label")(_check_labels)

    def selection(self) -> Selection:
        """Return the filter as a Selection for the manager."""
        return Selection(
            statuses=frozenset(self.status),
            type=self.type,
            labels=dict(text.split(":", 1) for text in self.label),
            submitted_after=self.submitted_after,
            submitted_before=self.submitted_before,
            q=self.q,
        )


class ListQuery(Filter):
    """The parameters of a list of jobs."""

    # Lists, as in Filter: parse_query accepts several values for a list only.
    status: list[Status] = Field(
        default_factory=list,
        max_length=len(Status),
        description="Jobs with any of these statuses. May be repeated.",
    )
    label: list[Label] = Field(
        default_factory=list,
        max_length=MOST_LABELS,
        description="A label of the job, as `name:value`. May be repeated: the job must have all.",
    )
    submitted_after: QueryTime | None = Field(None, description="Submitted at this time or later (RFC 3339).")
    submitted_before: QueryTime | None = Field(None, description="Submitted before this time (RFC 3339).")
    limit: int = Field(
        50, ge=1, le=500, description="Maximum number of jobs on a page; a page of large jobs is shorter (about 8 MiB)."
    )
    cursor: str | None = Field(
        None,
        max_length=_LONGEST_TOKEN,
        pattern=r"^[A-Za-z0-9_=-]+$",
        description="Where the page begins: `next_cursor` of the previous page.",
    )


class JobEventQuery(StrictModel):
    """The parameters of a stream of events of one job."""

    last_event_id: str | None = Field(
        None,
        max_length=_LONGEST_TOKEN,
        description="Same as the header Last-Event-ID, which a web page cannot send with its first connection.",
    )


class EventQuery(JobEventQuery):
    """The parameters of a stream of events."""

    status: list[Status] = Field(
        default_factory=list,
        max_length=len(Status),
        description="Changes to any of these statuses, and progress of jobs in them. May be repeated.",
    )
    type: TypeName | None = Field(None, description="Events of jobs of this type.")
    label: list[Label] = Field(
        default_factory=list,
        max_length=MOST_LABELS,
        description="A label of the job, as `name:value`. May be repeated: the job must have all.",
    )

    _check_labels = field_validator("label")(_check_labels)

    def selection(self) -> Selection:
        """Return the filter as a Selection for the manager."""
        labels = dict(text.split(":", 1) for text in self.label)
        return Selection(statuses=frozenset(self.status), type=self.type, labels=labels)


class LogQuery(StrictModel):
    """The parameters of a job's log."""

    after: int = Field(0, ge=0, le=_LARGEST_SEQ, description="Begin after the line with this number.")
    limit: int = Field(1000, ge=1, le=10_000, description="Maximum number of lines on a page.")


class Control(StrictModel):
    """The options of a halt, a resume or a stop."""

    reason: str | None = Field(None, max_length=1000, description="The reason; it is stored with the change.")


class StopControl(Control):
    """The options of a stop."""

    force: StrictBool = Field(
        False, description="Interrupt Python code that does not respond; abandon its thread if needed."
    )


class _Sweeping(Filter):
    model_config = ConfigDict(json_schema_extra=_require_a_condition)

    all: StrictBool = Field(False, description="True to select every job; required if no other condition is given.")

    def chosen(self) -> Selection:
        """Return the selection of jobs. Raises InvalidRequest if it selects every job without `all`."""
        selection = self.selection()
        if selection.is_everything() and not self.all:
            raise InvalidRequest(
                'Select jobs by status, type, label, submitted_after, submitted_before or q, or send {"all": true}.',
                field="all",
            )
        return selection


class HaltMany(Control, _Sweeping):
    """Which jobs to halt."""


class ResumeMany(Control, _Sweeping):
    """Which jobs to resume."""

    spread_seconds: Seconds = Field(
        0,
        ge=0,
        le=7 * 24 * 3600,
        description="Spread the starts over this time: the oldest job first, the newest at the end.",
    )


class StopMany(StopControl, _Sweeping):
    """Which jobs to stop."""


class ProgressShown(BaseModel):
    """The progress of a job at its last checkpoint."""

    done: float | int | None = Field(description="Units of work done.")
    total: float | int | None = Field(description="Units of work in all.")
    message: str | None = Field(description="A message from the job.")
    rate: float | None = Field(description="Units done per second of work; time spent halted does not count.")
    eta_seconds: float | None = Field(description="Time left at this rate; null if the job does not run.")


class CheckpointShown(BaseModel):
    """The saved state: the job continues from here, even after a crash."""

    seq: int = Field(description="Increases by one with every saved checkpoint.")
    saved_at: datetime = Field(description="When the checkpoint was saved.")
    age_seconds: float = Field(description="Time since the checkpoint was saved.")
    done: float | int | None = Field(description="Units of work done at the checkpoint.")


class LeaseShown(BaseModel):
    """The lease of the process that holds the job."""

    owner: str = Field(description="The process: boot id, host, process id, and a part that makes it unique.")
    expires_at: datetime = Field(description="When other processes take over the job, unless the lease is renewed.")
    seconds_left: float = Field(description="Time until the lease expires.")


class JobShown(BaseModel):
    """A job."""

    id: str = Field(description="The job's id.")
    type: str = Field(description="The name of the job type.")
    status: Status = Field(description="The status of the job.")
    args: dict[str, Any] = Field(description="The arguments as submitted.")
    shortened: list[str] = Field(
        description="Which of `args`, `details` and `result` are left out: a list omits values of more than "
        f"{MOST_LISTED_BYTES // 1024} KiB. Get the job itself to see them. Always empty for a single job."
    )
    priority: int = Field(description="Jobs with a higher priority are claimed first.")
    labels: dict[str, str] = Field(description="The client's own names and values.")
    submitted_at: datetime = Field(description="When the job was submitted.")
    run_at: datetime = Field(description="The job is not claimed before this time.")
    started_at: datetime | None = Field(description="When the first attempt began.")
    finished_at: datetime | None = Field(description="When the job completed, stopped or failed.")
    asked_at: datetime | None = Field(description="When the last halt, resume or stop was requested.")
    attempt: int = Field(description="How many attempts have begun, including the current one.")
    max_attempts: int = Field(description="Maximum number of attempts before a failure is final.")
    failures: int = Field(description="Errors raised by the job's code since it was last resumed.")
    crashes: int = Field(description="How often its process has crashed since the job last saved a new cursor.")
    timeout_seconds: float | None = Field(description="Maximum run time of an attempt.")
    run_seconds: float = Field(description="Time spent working so far, without halts and waits.")
    progress: ProgressShown
    checkpoint: CheckpointShown | None = Field(description="The saved state; null before the first checkpoint.")
    lease: LeaseShown | None = Field(description="The process that holds the job; null if none does.")
    expected_halt_seconds: float | None = Field(
        description="How long a halt may take now, by the gaps between checkpoints; null if the job does not run."
    )
    unresponsive: bool = Field(description="True if the job does not respond to a stop: stop it with `force`.")
    stuck: bool = Field(description="True if the job runs but has saved no checkpoint for longer than its type allows.")
    forced: bool = Field(description="True if the job is being stopped by force.")
    allowed: list[Action] = Field(description="The actions that are allowed now.")
    details: dict[str, Any] = Field(description="Details from the job type: for an Export, its rows and bytes so far.")
    result: Any = Field(description="What the job returned: for an Export, its file, rows, bytes and SHA-256.")
    error: str | None = Field(description="Why the job, or its last attempt, failed.")


class JobList(BaseModel):
    """A page of a list of jobs."""

    jobs: list[JobShown] = Field(description="The jobs, newest first.")
    next_cursor: str | None = Field(description="Where the next page begins; null on the last page.")


class Ids(BaseModel):
    """The ids of new jobs."""

    ids: list[str] = Field(description="The ids, in the order of the submissions.")


class Unchanged(BaseModel):
    """A job that did not change."""

    id: str = Field(description="The job's id.")
    reason: str = Field(description="Why the job did not change.")


class SweepShown(BaseModel):
    """The result of a bulk request. The jobs that changed may not be done yet: halting, not yet halted."""

    matched: int = Field(description="How many jobs the filter selected.")
    changed: int = Field(description="How many of them changed.")
    changed_ids: list[str] = Field(description="The jobs that changed.")
    unchanged: list[Unchanged] = Field(description="The jobs that did not change, and why.")


class ChangeShown(BaseModel):
    """A change of a job's status."""

    seq: int = Field(description="Increases with every change of any job.")
    job_id: str = Field(description="The job's id.")
    action: str = Field(description="What happened: `halt` is a request, `yield` the response of the job's code.")
    from_status: Status | None = Field(description="The status before; null for the submission.")
    to_status: Status = Field(description="The status after.")
    attempt: int = Field(description="The attempt at that time; 0 before the first.")
    actor: str = Field(description="Who requested the change: a token's name, a client's address, or `engine`.")
    reason: str | None = Field(description="The reason, if one was given.")
    asked_at: datetime = Field(description="When the change was requested.")
    at: datetime = Field(description="When the change took effect.")


class Changes(BaseModel):
    """The changes of a job."""

    changes: list[ChangeShown] = Field(description="The changes, oldest first.")


class ProgressTold(BaseModel):
    """The data of a `progress` event."""

    job_id: str = Field(description="The job's id.")
    status: Status = Field(description="The status of the job.")
    done: float | int | None = Field(description="Units of work done.")
    total: float | int | None = Field(description="Units of work in all.")
    message: str | None = Field(description="A message from the job.")
    rate: float | None = Field(description="Units done per second of work; time spent halted does not count.")
    eta_seconds: float | None = Field(description="Time left at this rate; null if the job does not run.")
    checkpoint_seq: int = Field(description="Increases by one with every saved checkpoint.")


class LineShown(BaseModel):
    """A line that a job logged."""

    number: int = Field(description="The number of the line: pass the last one as `after` to get the next page.")
    attempt: int = Field(description="The attempt that logged it; 0 for the note that earlier lines were dropped.")
    at: datetime = Field(description="When the line was logged.")
    level: str = Field(description="The log level, such as INFO or ERROR.")
    message: str = Field(description="The text.")


class Lines(BaseModel):
    """Lines of a job's log."""

    lines: list[LineShown] = Field(description="The lines, oldest first.")


class TypeShown(BaseModel):
    """A job type."""

    type: str = Field(description="The name of the job type, as submitted.")
    description: str = Field(description="What the job does.")
    args_schema: dict[str, Any] = Field(description="The JSON Schema of its arguments.")
    resumable: bool = Field(description="True if a new thread can continue from the checkpoint.")
    max_running: int | None = Field(description="Maximum number that runs at once, over all processes; null: no limit.")
    max_attempts: int = Field(description="Maximum number of attempts, unless the submission sets it.")
    timeout_seconds: float | None = Field(description="Maximum run time of an attempt, unless the submission sets it.")
    stuck_after_seconds: float | None = Field(description="Time without a checkpoint after which it is shown as stuck.")


class Types(BaseModel):
    """The job types that can be submitted."""

    job_types: list[TypeShown] = Field(description="The job types, sorted by name.")


class ColumnShown(BaseModel):
    """A column of a dataset."""

    name: str = Field(description="The name of the column, for `columns` of an Export.")
    type: str = Field(description="The Apache Arrow type that the column is exported with.")


class DatasetShown(BaseModel):
    """A dataset that Export can read."""

    name: str = Field(description="The name of the dataset, for `dataset` of an Export.")
    date_column: str | None = Field(description="The column that from_date and to_date are compared with.")
    date_format: str | None = Field(description="How that column stores dates, if the operator has set it.")
    timezone: str | None = Field(description="The time zone of dates without an offset; null for UTC.")
    columns: list[ColumnShown] | None = Field(description="The columns, in the order of the table.")
    error: str | None = Field(description="Why there are no columns, in a sentence.")


class Datasets(BaseModel):
    """The datasets that Export can read."""

    datasets: list[DatasetShown] = Field(description="The datasets, sorted by name.")
    formats: list[str] = Field(description="The file formats, for `format` of an Export.")
    error: str | None = Field(description="Why there are no datasets, if the operator's list cannot be read.")


def show_job(job: JobRecord, manager: JobManager) -> JobShown:
    """Return the response model of a job."""
    now, kept = manager.now(), job.checkpoint
    return JobShown(
        progress=ProgressShown(
            done=kept.done,
            total=kept.total,
            message=kept.message,
            rate=job.rate(),
            eta_seconds=job.eta_seconds(now),
        ),
        checkpoint=CheckpointShown(
            seq=kept.seq, saved_at=kept.saved_at, age_seconds=_seconds(kept.saved_at, now), done=kept.done
        )
        if kept.saved_at is not None
        else None,
        lease=LeaseShown(
            owner=job.owner, expires_at=job.lease_expires_at, seconds_left=_seconds(now, job.lease_expires_at)
        )
        if job.owner is not None and job.lease_expires_at is not None
        else None,
        run_seconds=job.run_seconds(now),
        expected_halt_seconds=job.expected_halt_seconds(),
        unresponsive=manager.is_unresponsive(job),
        stuck=manager.is_stuck(job),
        forced=job.is_forced and job.status not in FINAL,
        allowed=allowed(job.status),
        **{name: showable(getattr(job, name)) for name in _AS_THEY_ARE},
    )


#: The fields of JobShown that are copied from the record.
_AS_THEY_ARE = (set(JobShown.model_fields) & {field.name for field in fields(JobRecord)}) - {"checkpoint"}


def show_page(page: Page, manager: JobManager) -> JobList:
    """Return the response model of a page of jobs."""
    return JobList(jobs=[show_job(job, manager) for job in page.jobs], next_cursor=_to_cursor(page.next))


def show_sweep(sweep: Sweep) -> SweepShown:
    """Return the response model of a bulk request."""
    return SweepShown(
        matched=len(sweep.changed) + len(sweep.unchanged),
        changed=len(sweep.changed),
        changed_ids=sweep.changed,
        unchanged=[Unchanged(id=job_id, reason=reason) for job_id, reason in sweep.unchanged.items()],
    )


def show_change(change: Change) -> ChangeShown:
    """Return the response model of a change."""
    return ChangeShown(**{name: getattr(change, name) for name in ChangeShown.model_fields})


def show_progress(progress: Progress, now: datetime) -> ProgressTold:
    """Return the data of a `progress` event."""
    kept = progress.checkpoint
    return ProgressTold(
        job_id=progress.job_id,
        status=progress.status,
        done=kept.done,
        total=kept.total,
        message=kept.message,
        rate=progress.rate(),
        eta_seconds=progress.eta_seconds(now),
        checkpoint_seq=kept.seq,
    )


def show_lines(lines: Sequence[LogLine]) -> Lines:
    """Return the response model of lines of a log."""
    return Lines(lines=[LineShown(**{name: getattr(line, name) for name in LineShown.model_fields}) for line in lines])


def show_type(job_type: type[Job]) -> TypeShown:
    """Return the response model of a job type."""
    return TypeShown(
        type=type_name(job_type),
        description=describe(job_type),
        args_schema=job_type.Args.model_json_schema(),
        resumable=job_type.resumable,
        max_running=job_type.max_running,
        max_attempts=job_type.max_attempts,
        timeout_seconds=job_type.timeout_seconds,
        stuck_after_seconds=job_type.stuck_after_seconds,
    )


def list_datasets(settings: Settings) -> Datasets:
    """Return the response model of all datasets. Connects to their databases, for a few seconds at most."""
    formats = list(get_args(Export.Args.model_fields["format"].annotation))
    try:
        found = show_datasets(settings)
    except ListUnreadable as error:
        return Datasets(datasets=[], formats=formats, error=f"{error}.")
    return Datasets(datasets=[_dataset_shown(each) for each in found], formats=formats, error=None)


def _dataset_shown(dataset: ShownDataset) -> DatasetShown:
    columns = None if dataset.columns is None else [{"name": n, "type": t} for n, t in dataset.columns.items()]
    return DatasetShown.model_validate(asdict(dataset) | {"columns": columns})


def etag_of(shown: JobShown, version: str) -> str:
    """Return the ETag of a job as shown; the part before the dot is the version of the job."""
    seq = shown.checkpoint.seq if shown.checkpoint else 0
    return f"{version}.{seq}{'u' if shown.unresponsive else ''}{'s' if shown.stuck else ''}"


def version_of(etag: str) -> str:
    """Return the version of the job that an ETag names.

    >>> version_of("5ea1.12u")
    '5ea1'
    """
    return etag.partition(".")[0]


def from_cursor(cursor: str | None) -> Position | None:
    """Decode a cursor into a position in the list of jobs. Raises InvalidRequest."""
    if cursor is None:
        return None
    try:
        at, number = map(int, base64.urlsafe_b64decode(cursor.encode("ascii")).decode("ascii").split("."))
        if not 0 <= number <= _LARGEST_SEQ:
            raise ValueError("it is not the number of a job")
        return Position(submitted_at=_EPOCH + at * _MICROSECOND, number=number)
    except (ValueError, OverflowError, binascii.Error):
        raise InvalidRequest("Invalid cursor. Start again from the first page.", field="cursor") from None


def _to_cursor(position: Position | None) -> str | None:
    if position is None:
        return None
    at = (position.submitted_at - _EPOCH) // _MICROSECOND
    return base64.urlsafe_b64encode(f"{at}.{position.number}".encode("ascii")).decode("ascii")


def _seconds(begin: datetime, end: datetime) -> float:
    return (end - begin).total_seconds()
