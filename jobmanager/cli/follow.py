"""Commands that run until a job ends, or until the user presses Ctrl-C."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import NoReturn, Protocol

import click
from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.text import Text

from jobmanager.cli.options import Connection, complete_jobs, with_filter_options, with_server_options
from jobmanager.cli.output import Printer, change_text, duration, job_table, log_line, progress_text
from jobmanager.client import Change, Client, Job, JobProgress, LogLine
from jobmanager.client.filters import Filters
from jobmanager.client.models import Snapshot, Update
from jobmanager.core.printable import clean
from jobmanager.core.states import Status
from jobmanager.errors import JobManagerError

#: Exit codes of the commands that wait for a job.
EXIT_CODES = {Status.COMPLETED: 0, Status.FAILED: 3, Status.STOPPED: 4, Status.HALTED: 5}
#: Exit code after Ctrl-C, if the job was left as it is.
_INTERRUPTED = 130
#: How long to wait for a halt or a stop that was chosen after Ctrl-C.
_WAIT_SECONDS = 30.0
#: In a pipe or file, the shortest time between two lines of progress.
_LINE_SECONDS = 5.0


def exit_with(job: Snapshot) -> NoReturn:
    """Exit with the code for the job's status."""
    raise SystemExit(EXIT_CODES.get(job.status, 1))


def follow_job(connection: Connection, printer: Printer, job_id: str, *, has_log: bool = True) -> NoReturn:
    """Show the job's progress and log until it is at rest, then exit with the code for its status."""
    with connection.client() as client:
        job = client.get(job_id)
    with connection.client(is_patient=True) as client:
        try:
            last = _show(client.follow(job_id, log_after=0 if has_log else None), _view_of(printer, job))
        except KeyboardInterrupt:
            last = _ask_what_now(connection, job_id)
    exit_with(last)


@click.command()
@click.argument("job_id", metavar="ID", shell_complete=complete_jobs)
@click.option("--log/--no-log", "has_log", default=True, help="Show what the job logs.")
@with_server_options
def follow(connection: Connection, printer: Printer, *, job_id: str, has_log: bool) -> None:
    """Show a job's progress and log until it ends or is halted.

    Exit codes: 0 completed, 3 failed, 4 stopped, 5 halted. After Ctrl-C, choose whether to leave the job as it is (exit
    code 130), halt it, or stop it.
    """
    follow_job(connection, printer, job_id, has_log=has_log)


class View(Protocol):
    """A way to show the updates of a job: as JSON, as lines or with a progress bar."""

    def shown(self) -> AbstractContextManager[object]:
        """Return a context manager to enter while updates are shown."""

    def show(self, update: Update) -> None:
        """Show an update."""


class _JsonView:
    """Prints each update as a line of JSON with its kind."""

    def __init__(self, printer: Printer) -> None:
        self._printer = printer

    def shown(self) -> AbstractContextManager[object]:
        return nullcontext()

    def show(self, update: Update) -> None:
        kind = {Change: "change", JobProgress: "progress", LogLine: "log"}.get(type(update), "job")
        self._printer.json({"event": kind, "data": update.model_dump(mode="json")})


class _LineView:
    """Prints lines, for a pipe or a file."""

    def __init__(self, printer: Printer) -> None:
        self._printer = printer
        self._printed_at = 0.0

    def shown(self) -> AbstractContextManager[object]:
        return nullcontext()

    def show(self, update: Update) -> None:
        if isinstance(update, LogLine):
            self._printer.print(log_line(update))
        elif isinstance(update, Change):
            self._printer.print(f"{update.at.astimezone():%Y-%m-%d %H:%M:%S} {change_text(update)}")
        elif isinstance(update, Snapshot):
            self._printer.print(_ending(update))
        elif progress_text(update) and time.monotonic() - self._printed_at > _LINE_SECONDS:
            self._printed_at = time.monotonic()
            self._printer.print(f"{update.status} {progress_text(update)}")
        sys.stdout.flush()


class _BarView:
    """Shows a progress bar at the bottom of a terminal, and prints the log above it."""

    def __init__(self, printer: Printer, job: Job) -> None:
        self._printer = printer
        self._bar = Progress(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.fields[status]}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[text]}", markup=False),
            console=printer.console,
        )
        self._task: TaskID = self._bar.add_task("", total=None, status=str(job.status), text=clean(job.type))

    def shown(self) -> AbstractContextManager[object]:
        return self._bar

    def show(self, update: Update) -> None:
        if isinstance(update, LogLine):
            self._printer.print(log_line(update))
        elif isinstance(update, Change):
            self._bar.update(self._task, status=str(update.to_status))
        elif isinstance(update, Snapshot):
            self._update(update.status, update.progress.done, update.progress.total, progress_text(update.progress))
            self._bar.stop()
            self._printer.print(_ending(update))
        else:
            self._update(update.status, update.done, update.total, progress_text(update))

    def _update(self, status: Status, done: float | None, total: float | None, text: str) -> None:
        # A bar without a total pulses. If the job does not run, give the bar a total, so that it does not pulse.
        known = total if total is not None or status is Status.RUNNING else max(1.0, done or 0)
        self._bar.update(self._task, status=str(status), completed=done or 0, total=known, text=text)


def _view_of(printer: Printer, job: Job) -> View:
    if printer.as_json:
        return _JsonView(printer)
    return _BarView(printer, job) if printer.is_terminal else _LineView(printer)


def _show(updates: Iterable[Update], view: View) -> Snapshot:
    """Show the updates and return the last one: the job, at rest."""
    with view.shown():
        for update in updates:
            view.show(update)
            if isinstance(update, Snapshot):
                return update
    raise AssertionError("a job's updates end with the job")


def _ending(job: Snapshot) -> str:
    text = f"{clean(job.type)} {job.id} is {job.status} after {duration(job.run_seconds)} of work."
    return f"{text} {clean(job.error)}" if job.error and job.status is Status.FAILED else text


def _ask_what_now(connection: Connection, job_id: str) -> Snapshot:
    """After Ctrl-C, ask whether to leave, halt or stop the job. Halt or stop the job, and return it.

    Exits if the user leaves the job, or if stdin is not a terminal.
    """
    choice = "leave"
    if sys.stdin.isatty():
        click.echo(err=True)
        try:
            choice = click.prompt(
                "Leave the job running, halt it (it can be resumed), or stop it for good?",
                type=click.Choice(["leave", "halt", "stop"]),
                default="leave",
                err=True,
            )
        except (click.Abort, KeyboardInterrupt):
            click.echo(err=True)
    if choice == "leave":
        click.echo(f"Job {job_id} goes on.", err=True)
        raise SystemExit(_INTERRUPTED)
    with connection.client() as client:
        send = client.halt if choice == "halt" else client.stop
        job = send(job_id, wait=_WAIT_SECONDS)
    click.echo(_ending(job), err=True)
    return job


@click.command()
@click.option("-n", "--limit", default=0, help="Number of jobs; 0: as many as fit.")
@click.option("--interval", default=1.0, show_default=True, metavar="SECONDS", help="Time between two updates.")
@with_filter_options
@with_server_options
def watch(connection: Connection, printer: Printer, *, limit: int, interval: float, filters: Filters) -> None:
    """Show a live table of jobs, newest first, until Ctrl-C.

    In a pipe or with --json, print each change of a job's status instead, one per line.
    """
    with connection.client() as client:
        next(client.list(limit=1, **filters), None)  # fail fast if there is no server
    try:
        with connection.client(is_patient=True) as client:
            if printer.is_terminal:
                _watch_table(client, printer, limit, interval, filters)
            else:
                _print_changes(client, printer, filters)
    except KeyboardInterrupt:
        raise SystemExit(0) from None


def _watch_table(client: Client, printer: Printer, limit: int, interval: float, filters: Filters) -> None:
    with Live(console=printer.console, auto_refresh=False) as live:
        while True:
            rows = limit or max(1, printer.console.height - 3)
            try:
                shown = job_table(client.list(limit=rows, **filters))
            except JobManagerError as error:
                live.update(Text(str(error)), refresh=True)
                raise
            live.update(Group(shown), refresh=True)
            time.sleep(max(0.1, interval))


def _print_changes(client: Client, printer: Printer, filters: Filters) -> None:
    for change in client.events(**filters):
        if printer.as_json:
            printer.json(change)
            continue
        why = f" ({clean(change.reason)})" if change.reason else ""
        at = f"{change.at.astimezone():%Y-%m-%d %H:%M:%S}"
        printer.print(f"{at} {change.job_id} {change_text(change)} by {clean(change.actor)}{why}")
        sys.stdout.flush()


COMMANDS = (follow, watch)
