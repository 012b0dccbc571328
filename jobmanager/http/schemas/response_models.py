"""The responses of the REST routes, as pydantic models, and functions that build them from the manager's values.

Each model renders responses, and documents them: the API docs show its JSON Schema under the name of the class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from datetime import datetime
from typing import Any, get_args

from pydantic import BaseModel, Field

from jobmanager.config import Settings
from jobmanager.core.json_values import showable
from jobmanager.core.states import FINAL, Action, Status, allowed
from jobmanager.core.values import MOST_LISTED_BYTES, BulkResult, Change, JobRecord, LogLine, Page, Progress
from jobmanager.http.schemas.cursors import to_cursor
from jobmanager.job import Job
from jobmanager.jobs.export.dataset_descriptions import ShownDataset, show_datasets
from jobmanager.jobs.export.datasets import ListUnreadable
from jobmanager.jobs.export.job import Export
from jobmanager.registry import describe, type_name
from jobmanager.visible_jobs import VisibleJobs


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


def show_job(job: JobRecord, manager: VisibleJobs) -> JobShown:
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


#: The fields of JobShown that `show_job` copies from the record.
_AS_THEY_ARE = (set(JobShown.model_fields) & {field.name for field in fields(JobRecord)}) - {"checkpoint"}


def show_page(page: Page, manager: VisibleJobs) -> JobList:
    """Return the response model of a page of jobs."""
    return JobList(jobs=[show_job(job, manager) for job in page.jobs], next_cursor=to_cursor(page.next))


def show_sweep(sweep: BulkResult) -> SweepShown:
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
    """Return the response model of all datasets, or of the error if their list cannot be read.

    Connects to the databases of the datasets, for a few seconds at most.
    """
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
    """Return the ETag of a job's response: *version*, a dot, and the state that can change within a version."""
    seq = shown.checkpoint.seq if shown.checkpoint else 0
    return f"{version}.{seq}{'u' if shown.unresponsive else ''}{'s' if shown.stuck else ''}"


def version_of(etag: str) -> str:
    """Return the version of the job that an ETag names.

    >>> version_of("5ea1.12u")
    '5ea1'
    """
    return etag.partition(".")[0]


def _seconds(begin: datetime, end: datetime) -> float:
    return (end - begin).total_seconds()
