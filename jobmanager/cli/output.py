"""Format output for a terminal, for a pipe, and as JSON.

Text from servers and jobs (log lines, messages, names) is untrusted: it is printed without control characters, which a
terminal would obey, and never interpreted as markup.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import click
from pydantic import BaseModel
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from jobmanager.client import BulkResult, Change, JobType, LogLine, Progress, Snapshot
from jobmanager.core.printable import clean
from jobmanager.core.states import Status

_STYLES = {
    Status.RUNNING: "cyan",
    Status.COMPLETED: "green",
    Status.FAILED: "red",
    Status.HALTING: "yellow",
    Status.HALTED: "yellow",
    Status.STOPPING: "magenta",
    Status.STOPPED: "magenta",
}
#: Width of lines outside of a terminal, so that nothing is cut.
_PIPE_WIDTH = 1000


class Printer:
    """Prints the output of a command, as text or JSON."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.console = console()

    @property
    def is_terminal(self) -> bool:
        """Return True if the output goes to a terminal, and is not JSON."""
        return self.console.is_terminal and not self.as_json

    def print_text(self, text: str, **data: Any) -> None:
        """Print the *text*, or with --json the *data*."""
        if self.as_json:
            self.json(data)
        else:
            self.print(clean(text))

    def print(self, what: RenderableType) -> None:
        """Print a line, or any object that rich can render."""
        if self.console.is_terminal:
            self.console.print(what, markup=False, highlight=False)
            return
        with self.console.capture() as captured:
            self.console.print(what, markup=False, highlight=False, soft_wrap=True)
        click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))

    def json(self, value: BaseModel | Mapping[str, Any]) -> None:
        """Print one line of JSON, and flush it."""
        data = value.model_dump(mode="json") if isinstance(value, BaseModel) else dict(value)
        if isinstance(value, Snapshot) and value.etag is None:
            del data["etag"]  # a job from a list has no ETag
        click.echo(json.dumps(data, ensure_ascii=not _is_utf8()))
        sys.stdout.flush()

    def job(self, job: Snapshot, changes: Iterable[Change] = ()) -> None:
        """Print all details of a job."""
        if self.as_json:
            self.json(job)
        else:
            self.print(job_sheet(job, changes))

    def jobs(self, jobs: Iterable[Snapshot]) -> None:
        """Print a list of jobs."""
        if not self.as_json:
            self.print(job_table(jobs))
            return
        for job in jobs:
            self.json(job)

    def sweep(self, sweep: BulkResult) -> None:
        """Print the result of a bulk request."""
        if self.as_json:
            self.json(sweep)
            return
        self.print(f"{sweep.changed} of {sweep.matched} jobs changed.")
        for job in sweep.unchanged:
            self.print(f"{job.id}  {clean(job.reason)}")

    def lines(self, lines: Iterable[LogLine]) -> None:
        """Print lines of a log as they arrive."""
        for line in lines:
            if self.as_json:
                self.json(line)
            else:
                self.print(log_line(line))

    def types(self, types: Iterable[JobType]) -> None:
        """Print a list of job types."""
        if not self.as_json:
            self.print(type_table(types))
            return
        for job_type in types:
            self.json(job_type)


def console() -> Console:
    """Return the console; outside of a terminal, without colours and wide enough for any line."""
    # Ignore variables like FORCE_COLOR: the reader of a pipe wants no colours.
    if sys.stdout.isatty():
        return Console()
    return Console(force_terminal=False, color_system=None, width=_PIPE_WIDTH)


def job_table(jobs: Iterable[Snapshot]) -> Table:
    """Return a table of jobs."""
    table = _table("ID", "TYPE", "STATUS", "PROGRESS", "SUBMITTED", "LABELS")
    for job in jobs:
        labels = " ".join(f"{name}={value}" for name, value in job.labels.items())
        table.add_row(
            job.id,
            clean(job.type),
            _status(job),
            progress_text(job.progress),
            _local(job.submitted_at),
            _one_line(labels),
        )
    return table


def type_table(types: Iterable[JobType]) -> Table:
    """Return a table of job types with their arguments."""
    table = _table("TYPE", "DESCRIPTION", "ARGUMENTS")
    for job_type in types:
        needed = job_type.args_schema.get("required", [])
        named = [name if name in needed else f"[{name}]" for name in job_type.args_schema.get("properties", {})]
        table.add_row(clean(job_type.type), _one_line(job_type.description), _one_line(" ".join(named)))
    return table


def job_sheet(job: Snapshot, changes: Iterable[Change]) -> Group:
    """Return all details of a job, with its changes."""
    sheet = Table.grid(padding=(0, 2))
    sheet.add_column(style="bold")
    sheet.add_column(overflow="fold")
    for name, value in _facts(job):
        sheet.add_row(name, value if isinstance(value, Text) else Text(_one_line(value)))
    history = _table("AT", "CHANGE", "ATTEMPT", "BY", "REASON")
    for change in changes:
        history.add_row(
            _local(change.at),
            change_text(change),
            str(change.attempt),
            _one_line(change.actor),
            _one_line(change.reason or ""),
        )
    return Group(sheet, Text(), history) if history.rows else Group(sheet)


def _facts(job: Snapshot) -> Iterable[tuple[str, str | Text]]:
    yield "id", job.id
    yield "type", job.type
    yield "status", _status(job)
    yield "args", json.dumps(job.args, ensure_ascii=False)
    if text := progress_text(job.progress):
        yield "progress", text
    if job.labels:
        yield "labels", " ".join(f"{name}={value}" for name, value in job.labels.items())
    times = (("submitted", job.submitted_at), ("started", job.started_at), ("finished", job.finished_at))
    yield from ((name, _local(at)) for name, at in times if at is not None)
    if job.status is Status.SUBMITTED and job.run_at > job.submitted_at:
        yield "runs at", _local(job.run_at)
    yield "attempt", f"{job.attempt} ({job.failures} failures of {job.max_attempts} allowed, {job.crashes} crashes)"
    if job.checkpoint is not None:
        yield "checkpoint", f"{job.checkpoint.seq}, saved {duration(job.checkpoint.age_seconds)} ago"
    if job.lease is not None:
        yield "held by", job.lease.owner
    for name in ("details", "result", "error"):
        if value := getattr(job, name):
            yield name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if job.allowed:
        yield "allowed", ", ".join(job.allowed)


def progress_text(progress: Progress) -> str:
    """Return the progress of a job as one line.

    >>> progress_text(Progress(done=30, total=60, rate=1.5, eta_seconds=20))
    '30/60 50% 1.5/s 20s left'
    """
    parts = []
    if progress.done is not None:
        parts.append(_number(progress.done) + (f"/{_number(progress.total)}" if progress.total is not None else ""))
        if progress.total:
            parts.append(f"{100 * progress.done / progress.total:.0f}%")
    if progress.eta_seconds is not None:
        parts += [f"{_number(progress.rate or 0)}/s", f"{duration(progress.eta_seconds)} left"]
    if progress.message:
        parts.append(_one_line(progress.message))
    return " ".join(parts)


def change_text(change: Change) -> str:
    """Return the old and the new status."""
    came_from = f"{change.from_status} → " if change.from_status else ""
    return f"{came_from}{change.to_status}" if _is_utf8() else f"{came_from}{change.to_status}".replace("→", "->")


def log_line(line: LogLine) -> str:
    """Return a line of a log, with its time and level."""
    return f"{_local(line.at)} {line.level:<7} {clean(line.message)}"


def duration(seconds: float) -> str:
    """Return a duration in its two largest units.

    >>> duration(3725), duration(59.6), duration(200000)
    ('1h02m', '1m00s', '2d07h')
    """
    whole = round(seconds)
    for unit, size, smaller, less in (("d", 86_400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // less:02}{smaller}"
    return f"{whole}s"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.1f}"


def _status(job: Snapshot) -> Text:
    warnings = [name for name in ("unresponsive", "stuck") if getattr(job, name)]
    return Text(" ".join([job.status, *(f"({name})" for name in warnings)]), style=_STYLES.get(job.status, ""))


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in columns:
        is_id = name in ("ID", "STATUS", "AT", "SUBMITTED")
        table.add_column(name, no_wrap=is_id, overflow="fold", min_width=36 if name == "ID" else None)
    return table


def _local(at: datetime) -> str:
    return f"{at.astimezone():%Y-%m-%d %H:%M:%S}"


def _one_line(text: str) -> str:
    return clean(" ".join(text.split()))


def _is_utf8() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
