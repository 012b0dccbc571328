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
from jobmanager.errors import InvalidRequest
from jobmanager.http.bodies import MOST_JOBS
from jobmanager.job import Job
from jobmanager.jobs.datasets import ListUnreadable
from jobmanager.jobs.export import Export
from jobmanager.jobs.shown_datasets import ShownDataset, show_datasets
from jobmanager.json_values import showable
from jobmanager.manager import MOST_LABELS, JobManager
from jobmanager.records import (
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
from jobmanager.registry import describe, type_name
from jobmanager.states import FINAL, Action, Status, allowed

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
        raise ValueError("it is out of range in UTC") from None


def _check_time(value: Any) -> str:
    """Return the value if it looks like a time. Raises ValueError before any slow parsing."""
    if not isinstance(value, str):
        raise ValueError("a time is a string in RFC 3339, as in 2024-03-09T12:30:00Z")
    if len(value) > _LONGEST_TIME:
        raise ValueError(f"a time has at most {_LONGEST_TIME} characters")
    if not _BEGIN_OF_TIME.match(value):
        raise ValueError("a time is given in RFC 3339, as in 2024-03-09T12:30:00Z")
    return value


def _with_plus(text: str) -> str:
    """Restore the + that a query has turned into a space, as in `?submitted_after=$(date -Iseconds)`."""
    return _LOST_PLUS.sub(r"\1+\2", text)


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _check_label(text: str) -> str:
    if not text.partition(":")[0] or ":" not in text:
        raise ValueError("a label is given as name:value")
    return text


def _check_labels(texts: list[str]) -> list[str]:
    values: dict[str, str] = {}
    for text in texts:
        name, _, value = text.partition(":")
        if values.setdefault(name, value) != value:
            raise ValueError(f"no job has two values of the label {name}")
    return texts


def _or_one(schema: dict[str, Any]) -> None:
    """Change the schema of a list: a single value may stand for a list of one."""
    items = schema.pop("items")
    schema["anyOf"] = [{"type": schema.pop("type"), "items": items}, items]


def _say_which(schema: dict[str, Any]) -> None:
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
Whole = Annotated[int, Strict()]
Seconds = Annotated[float, Strict()]
Truth = Annotated[bool, Strict()]


class Strictly(BaseModel):
    """A body or a query in which an unknown field is an error: it may be a misspelt one."""

    model_config = ConfigDict(extra="forbid")


class NewJob(Strictly):
    """A job to run."""

    type: TypeName = Field(description="The name of the job type.")
    args: dict[str, Any] = Field(default_factory=dict, description="The arguments of the job type.")
    priority: Whole = Field(0, ge=-(2**31), lt=2**31, description="Higher is claimed first.")
    run_at: Time | None = Field(None, description="Not before this time (RFC 3339, with its time zone).")
    max_attempts: Whole | None = Field(
        None, ge=1, lt=2**31, description="Tries in all before a failure is final; null: as the type says."
    )
    timeout_seconds: Seconds | None = Field(
        None, gt=0, allow_inf_nan=False, description="Most time one attempt may run; null: as the type says."
    )
    labels: dict[str, str] = Field(
        default_factory=dict,
        max_length=MOST_LABELS,
        description="Names and values of your own, to find jobs by. A name has no colon.",
    )

    def submission(self) -> Submission:
        """Return the job as a Submission for the manager."""
        return Submission(**self.__dict__)


class Batch(RootModel[Annotated[list[NewJob], Field(max_length=MOST_JOBS)]]):
    """Jobs to run."""


class Filter(Strictly):
    """Which jobs are meant: those of which all holds that is given."""

    status: Annotated[list[Status], BeforeValidator(_as_list)] = Field(
        default_factory=list,
        min_length=1,
        max_length=len(Status),
        description="Any of these statuses.",
        json_schema_extra=_or_one,
    )
    type: TypeName | None = Field(None, description="The name of the job type.")
    label: Annotated[list[Label], BeforeValidator(_as_list)] = Field(
        default_factory=list,
        min_length=1,
        max_length=MOST_LABELS,
        description="A label that the job has, as `name:value`; of several, all of them.",
        json_schema_extra=_or_one,
    )
    submitted_after: Time | None = Field(None, description="Submitted at this time or later (RFC 3339).")
    submitted_before: Time | None = Field(None, description="Submitted before this time (RFC 3339).")
    q: str | None = Field(
        None,
        min_length=1,
        max_length=255,
        description="The beginning of an id (13 characters or more), a part of the type's name, or a label's value.",
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
        description="Any of these statuses; may be given several times.",
    )
    label: list[Label] = Field(
        default_factory=list,
        max_length=MOST_LABELS,
        description="A label as `name:value`; may be given several times, then all have to hold.",
    )
    submitted_after: QueryTime | None = Field(None, description="Submitted at this time or later (RFC 3339).")
    submitted_before: QueryTime | None = Field(None, description="Submitted before this time (RFC 3339).")
    limit: int = Field(
        50, ge=1, le=500, description="How many jobs a page has, at most; large jobs make it shorter (about 8 MiB)."
    )
    cursor: str | None = Field(
        None,
        max_length=_LONGEST_TOKEN,
        pattern=r"^[A-Za-z0-9_=-]+$",
        description="Where the page begins: `next_cursor` of the page before.",
    )


class JobEventQuery(Strictly):
    """The parameters of a stream of what happens to one job."""

    last_event_id: str | None = Field(
        None,
        max_length=_LONGEST_TOKEN,
        description="As the header Last-Event-ID, for a page's first connection, which cannot send one.",
    )


class EventQuery(JobEventQuery):
    """The parameters of a stream of what happens."""

    status: list[Status] = Field(
        default_factory=list,
        max_length=len(Status),
        description="Changes to any of these statuses; may be given several times.",
    )
    type: TypeName | None = Field(None, description="Jobs of this type.")
    label: list[Label] = Field(
        default_factory=list,
        max_length=MOST_LABELS,
        description="A label as `name:value`; may be given several times, then all have to hold.",
    )

    _check_labels = field_validator("label")(_check_labels)

    def selection(self) -> Selection:
        """Return the filter as a Selection for the manager."""
        told = dict(text.split(":", 1) for text in self.label)
        return Selection(statuses=frozenset(self.status), type=self.type, labels=told)


class LogQuery(Strictly):
    """The parameters of a job's log."""

    after: int = Field(0, ge=0, le=_LARGEST_SEQ, description="Begin behind the line of this number.")
    limit: int = Field(1000, ge=1, le=10_000, description="How many lines, at most.")


class Control(Strictly):
    """What may be said with a halt, a resume or a stop."""

    reason: str | None = Field(None, max_length=1000, description="Why; it is kept with the change.")


class StopControl(Control):
    """What may be said with a stop."""

    force: Truth = Field(False, description="Interrupt Python code that does not answer; abandon what does not end.")


class _Sweeping(Filter):
    model_config = ConfigDict(json_schema_extra=_say_which)

    all: Truth = Field(False, description="True where every job is meant: a filter that leaves none out says so.")

    def chosen(self) -> Selection:
        """Return the selection of jobs. Raises InvalidRequest if it selects every job without `all`."""
        selection = self.selection()
        if selection.is_everything() and not self.all:
            raise InvalidRequest(
                'Name the jobs: by status, type, label, submitted_after, submitted_before or q, or say {"all": true}.',
                field="all",
            )
        return selection


class HaltMany(Control, _Sweeping):
    """Which jobs to halt."""


class ResumeMany(Control, _Sweeping):
    """Which jobs to resume."""

    spread_seconds: Seconds = Field(
        0, ge=0, le=7 * 24 * 3600, description="Over how much time: the oldest begins at once, the newest at its end."
    )


class StopMany(StopControl, _Sweeping):
    """Which jobs to stop."""


class ProgressShown(BaseModel):
    """How far a job is, as it told at its last checkpoint."""

    done: float | int | None = Field(description="Units of work done.")
    total: float | int | None = Field(description="Units of work in all.")
    message: str | None = Field(description="What the job says about itself.")
    rate: float | None = Field(description="Units done in a second at work; time spent halted does not count.")
    eta_seconds: float | None = Field(description="How much longer it takes at this rate, while it runs.")


class CheckpointShown(BaseModel):
    """What is kept: here the job goes on, whatever happens."""

    seq: int = Field(description="Grows by one with every checkpoint saved.")
    saved_at: datetime = Field(description="When it was saved.")
    age_seconds: float = Field(description="How long ago that was.")
    done: float | int | None = Field(description="Units of work done by then.")


class LeaseShown(BaseModel):
    """Which process holds the job."""

    owner: str = Field(description="The process: boot, host, process id, and what makes it unique.")
    expires_at: datetime = Field(description="When others take the job, if this process falls silent.")
    seconds_left: float = Field(description="How long until then.")


class JobShown(BaseModel):
    """A job."""

    id: str = Field(description="The job's id.")
    type: str = Field(description="The name of the job type.")
    status: Status = Field(description="Where the job stands.")
    args: dict[str, Any] = Field(description="The arguments, as they were given.")
    shortened: list[str] = Field(
        description="Which of `args`, `details` and `result` are left out, as a list leaves out those of more than "
        f"{MOST_LISTED_BYTES // 1024} KiB: look at the job itself for them. Always empty for a single job."
    )
    priority: int = Field(description="Higher is claimed first.")
    labels: dict[str, str] = Field(description="Names and values of the client's own.")
    submitted_at: datetime = Field(description="When it was submitted.")
    run_at: datetime = Field(description="It is not claimed before this time.")
    started_at: datetime | None = Field(description="When its first attempt began.")
    finished_at: datetime | None = Field(description="When it was completed or stopped, or failed.")
    asked_at: datetime | None = Field(description="When the halt, resume or stop that came last was asked for.")
    attempt: int = Field(description="How many times the job was executed, the present one included.")
    max_attempts: int = Field(description="Tries in all before a failure is final.")
    failures: int = Field(description="Errors raised by the job's code since it was last resumed.")
    crashes: int = Field(description="Deaths of its process under it since it last saved a new cursor.")
    timeout_seconds: float | None = Field(description="Most time one attempt may run.")
    run_seconds: float = Field(description="Time at work so far, without halts and waits.")
    progress: ProgressShown
    checkpoint: CheckpointShown | None = Field(description="What is kept; null before the first checkpoint.")
    lease: LeaseShown | None = Field(description="Who holds the job; null if nobody does.")
    expected_halt_seconds: float | None = Field(
        description="How long a halt may take now, by the gaps between the job's checkpoints; null if it does not run."
    )
    unresponsive: bool = Field(description="True if the job does not answer a stop: stop it with `force`.")
    stuck: bool = Field(description="True if it runs, but has saved no checkpoint for longer than its type allows.")
    forced: bool = Field(description="True if it is being stopped by force.")
    allowed: list[Action] = Field(description="What may be asked of it now.")
    details: dict[str, Any] = Field(description="What its type tells: an Export its rows and bytes so far.")
    result: Any = Field(description="What the job returned; for an Export its file, rows, bytes and SHA-256.")
    error: str | None = Field(description="Why it failed, or why its last attempt did.")


class JobList(BaseModel):
    """A page of a list of jobs."""

    jobs: list[JobShown] = Field(description="The jobs, the newest first.")
    next_cursor: str | None = Field(description="Where the next page begins; null on the last one.")


class Ids(BaseModel):
    """The ids of new jobs."""

    ids: list[str] = Field(description="In the order of the submissions.")


class Unchanged(BaseModel):
    """A job that did not change."""

    id: str = Field(description="The job's id.")
    reason: str = Field(description="Why it did not.")


class SweepShown(BaseModel):
    """What came of asking many jobs at once. What they were asked for may be under way: halting, not yet halted."""

    matched: int = Field(description="How many jobs the filter selected.")
    changed: int = Field(description="How many of them changed.")
    changed_ids: list[str] = Field(description="The jobs that changed.")
    unchanged: list[Unchanged] = Field(description="The jobs that did not, and why.")


class ChangeShown(BaseModel):
    """A change of a job's status."""

    seq: int = Field(description="Grows with every change of any job.")
    job_id: str = Field(description="The job's id.")
    action: str = Field(description="What happened: `halt` was asked for, `yield` is what the job's code did then.")
    from_status: Status | None = Field(description="The status before; null for the submission.")
    to_status: Status = Field(description="The status after.")
    attempt: int = Field(description="The attempt that was under way.")
    actor: str = Field(description="Who asked: a token's name, a client's address, or engine.")
    reason: str | None = Field(description="Why, where that was told.")
    asked_at: datetime = Field(description="When it was asked for.")
    at: datetime = Field(description="When it took effect.")


class Changes(BaseModel):
    """What happened to a job."""

    changes: list[ChangeShown] = Field(description="The changes, the oldest first.")


class ProgressTold(BaseModel):
    """How far a job is, as a stream tells it."""

    job_id: str = Field(description="The job's id.")
    status: Status = Field(description="Where the job stands.")
    done: float | int | None = Field(description="Units of work done.")
    total: float | int | None = Field(description="Units of work in all.")
    message: str | None = Field(description="What the job says about itself.")
    rate: float | None = Field(description="Units done in a second at work; time spent halted does not count.")
    eta_seconds: float | None = Field(description="How much longer it takes at this rate, while it runs.")
    checkpoint_seq: int = Field(description="Grows by one with every checkpoint saved.")


class LineShown(BaseModel):
    """A line that a job logged."""

    number: int = Field(description="Its place: pass the last one as `after` to read on.")
    attempt: int = Field(description="The attempt that logged it; 0 for the note that earlier lines were dropped.")
    at: datetime = Field(description="When it was logged.")
    level: str = Field(description="How grave it is, as in INFO or ERROR.")
    message: str = Field(description="The text.")


class Lines(BaseModel):
    """Lines of a job's log."""

    lines: list[LineShown] = Field(description="The lines, the oldest first.")


class TypeShown(BaseModel):
    """A job type."""

    type: str = Field(description="The name to submit.")
    description: str = Field(description="What it does.")
    args_schema: dict[str, Any] = Field(description="The JSON Schema of its arguments.")
    resumable: bool = Field(description="True if a new thread can go on where another stood.")
    max_running: int | None = Field(description="How many may run at once, over all processes.")
    max_attempts: int = Field(description="Tries in all, unless a submission says otherwise.")
    timeout_seconds: float | None = Field(description="Most time one attempt may run, unless a submission says so.")
    stuck_after_seconds: float | None = Field(description="Without a checkpoint for this long it is shown as stuck.")


class Types(BaseModel):
    """The job types that can be submitted."""

    job_types: list[TypeShown] = Field(description="By name.")


class ColumnShown(BaseModel):
    """A column of a dataset."""

    name: str = Field(description="Its name, as `columns` of an Export takes it.")
    type: str = Field(description="The type that it is exported with, as Apache Arrow names it.")


class DatasetShown(BaseModel):
    """A dataset that Export can read."""

    name: str = Field(description="Its name, as `dataset` of an Export takes it.")
    date_column: str | None = Field(description="The column that from_date and to_date are compared with.")
    date_format: str | None = Field(description="How that column keeps dates, if the operator has set it.")
    timezone: str | None = Field(description="The zone of dates without an offset; null for UTC.")
    columns: list[ColumnShown] | None = Field(description="The columns, in the order of the table.")
    error: str | None = Field(description="Why there are no columns, in a sentence.")


class Datasets(BaseModel):
    """The datasets that Export can read."""

    datasets: list[DatasetShown] = Field(description="By name.")
    formats: list[str] = Field(description="The formats of a file, as `format` of an Export takes them.")
    error: str | None = Field(description="Why no dataset is known, if the operator's list cannot be read.")


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
            raise ValueError("it is no number of a job")
        return Position(submitted_at=_EPOCH + at * _MICROSECOND, number=number)
    except (ValueError, OverflowError, binascii.Error):
        raise InvalidRequest("The cursor is none that was given: begin without one.", field="cursor") from None


def _to_cursor(position: Position | None) -> str | None:
    if position is None:
        return None
    at = (position.submitted_at - _EPOCH) // _MICROSECOND
    return base64.urlsafe_b64encode(f"{at}.{position.number}".encode("ascii")).decode("ascii")


def _seconds(begin: datetime, end: datetime) -> float:
    return (end - begin).total_seconds()
