"""Commands that send single requests to a server."""

from __future__ import annotations

import sys
from typing import Any, NoReturn

import click

from jobmanager.cli.follow import exit_with, follow_job
from jobmanager.cli.options import (
    Connection,
    TimeParam,
    complete_jobs,
    complete_types,
    parse_args,
    parse_labels,
    with_filter_options,
    with_server_options,
)
from jobmanager.cli.output import Printer
from jobmanager.client import Client, Job
from jobmanager.client.filters import Filters
from jobmanager.core.printable import clean
from jobmanager.errors import JobManagerError

#: How long halt, resume and stop wait by default until the job is halted, running or stopped.
_WAIT_SECONDS = 10.0

_ids = click.argument("job_ids", metavar="[ID]...", nargs=-1, shell_complete=complete_jobs)
_id = click.argument("job_id", metavar="ID", shell_complete=complete_jobs)
_all = click.option("--all", "is_all", is_flag=True, help="Select all jobs that match the other options.")
_reason = click.option("--reason", help="Reason; stored with the change.")
_wait = click.option(
    "--wait", default=_WAIT_SECONDS, show_default=True, metavar="SECONDS", help="Longest time to wait for the result."
)


@click.command()
@click.argument("type_name", metavar="TYPE", shell_complete=complete_types)
@click.option("--arg", "pairs", multiple=True, metavar="NAME=VALUE", help="Argument of the job: JSON, or else text.")
@click.option("--priority", default=0, help="Jobs of higher priority are claimed first.")
@click.option("--run-at", type=TimeParam(), help="Earliest time to run the job.")
@click.option("--max-attempts", type=int, help="Attempts before a failure is final.")
@click.option("--timeout", "timeout_seconds", type=float, metavar="SECONDS", help="Longest time for one attempt.")
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="NAME=VALUE",
    callback=parse_labels,
    help="Label to find the job by; repeat for several.",
)
@click.option("--key", help="Idempotency key: submitting again with it makes no second job.")
@click.option("--wait", "waits", is_flag=True, help="Wait until the job ends or is halted.")
@click.option("--follow", "follows", is_flag=True, help="Show the job's progress and log until it ends or is halted.")
@with_server_options
def submit(
    connection: Connection,
    printer: Printer,
    *,
    type_name: str,
    pairs: tuple[str, ...],
    labels: dict[str, str],
    key: str | None,
    waits: bool,
    follows: bool,
    **options: Any,
) -> None:
    """Submit a job of the given TYPE and print its id.

    Exit codes with --wait or --follow: 0 completed, 3 failed, 4 stopped, 5 halted.
    """
    if waits and follows:
        raise click.UsageError("Use either --wait or --follow, not both.")
    args = parse_args(pairs)
    with connection.client() as client:
        job = client.submit(type_name, args, labels=labels, idempotency_key=key, **options)
    if follows:
        follow_job(connection, printer, job.id)
    elif waits:
        with connection.client(is_patient=True) as client:
            job = client.wait(job.id)
        printer.job(job)
        exit_with(job)
    elif printer.as_json:
        printer.json(job)
    else:
        printer.print(job.id)


@click.command("list")
@click.option("-n", "--limit", default=50, show_default=True, help="Maximum number of jobs; 0: all.")
@click.option("-q", "--query", "q", help="Start of an id, part of a type's name, or value of a label.")
@with_filter_options
@with_server_options
def list_command(connection: Connection, printer: Printer, *, limit: int, q: str | None, filters: Filters) -> None:
    """List jobs, newest first."""
    filters["q"] = q
    with connection.client() as client:
        printer.jobs(client.list(limit=limit or None, **filters))


@click.command()
@_id
@with_server_options
def show(connection: Connection, printer: Printer, *, job_id: str) -> None:
    """Show a job and its changes."""
    with connection.client() as client:
        job = client.get(job_id)
        printer.job(job, () if printer.as_json else job.changes())


@click.command()
@_ids
@_all
@with_filter_options
@_reason
@_wait
@with_server_options
def halt(connection: Connection, printer: Printer, **options: Any) -> None:
    """Halt jobs: pause them and keep their state. Select them by ID, or with --all and --type, --status …"""
    _control("halt", connection, printer, **options)


@click.command()
@_ids
@_all
@with_filter_options
@_reason
@_wait
@click.option(
    "--spread", "spread_seconds", default=0.0, metavar="SECONDS", help="With --all: spread the jobs over this time."
)
@with_server_options
def resume(connection: Connection, printer: Printer, *, spread_seconds: float, **options: Any) -> None:
    """Resume halted or failed jobs. Select them by ID, or with --all and --type, --status …"""
    if spread_seconds and not options["is_all"]:
        raise click.UsageError("--spread needs --all.")
    more: dict[str, Any] = {"spread_seconds": spread_seconds} if spread_seconds else {}
    _control("resume", connection, printer, **options, **more)


@click.command()
@_ids
@_all
@with_filter_options
@_reason
@_wait
@click.option("--force", is_flag=True, help="Interrupt code that reaches no checkpoint.")
@click.option("--yes", is_flag=True, help="With --all: do not ask for confirmation.")
@with_server_options
def stop(connection: Connection, printer: Printer, *, force: bool, yes: bool, **options: Any) -> None:
    """Stop jobs for good and roll back their work. Select them by ID, or with --all and --type, --status …"""
    if options["is_all"] and not yes and sys.stdin.isatty() and printer.is_terminal:
        click.confirm("Stop all of these jobs for good?", abort=True)
    _control("stop", connection, printer, force=force, **options)


def _control(
    verb: str,
    connection: Connection,
    printer: Printer,
    *,
    job_ids: tuple[str, ...],
    is_all: bool,
    filters: Filters,
    reason: str | None,
    wait: float,
    **more: Any,
) -> None:
    """Halt, resume or stop the jobs with these ids, or with --all the jobs that match the filters."""
    if is_all == bool(job_ids):
        raise click.UsageError("Select jobs either by ID or with --all.")
    if not is_all and any(filters.values()):
        raise click.UsageError("Filters such as --type and --status need --all.")
    with connection.client() as client:
        if is_all:
            printer.sweep(getattr(client, f"{verb}_all")(all=True, reason=reason, **filters, **more))
        else:
            _control_each(verb, client, printer, job_ids, reason=reason, wait=wait, **more)


def _control_each(verb: str, client: Client, printer: Printer, job_ids: tuple[str, ...], **options: Any) -> NoReturn:
    """Halt, resume or stop each job, print the jobs, and exit: with 1 if a job could not be changed."""
    jobs: list[Job] = []
    for job_id in job_ids:
        try:
            jobs.append(getattr(client, verb)(job_id, **options))
        except JobManagerError as error:
            # Go on with the other jobs.
            why = f"{job_id}: {error}" if len(job_ids) > 1 else str(error)
            click.echo(f"Error: {clean(why)}", err=True)
    if jobs:
        printer.jobs(jobs)
    raise SystemExit(0 if len(jobs) == len(job_ids) else 1)


@click.command()
@_id
@click.option("--after", default=0, metavar="NUMBER", help="Start after the line with this number.")
@with_server_options
def log(connection: Connection, printer: Printer, *, job_id: str, after: int) -> None:
    """Print the log of a job."""
    with connection.client() as client:
        printer.lines(client.log(job_id, after=after))


@click.command()
@_id
@click.option(
    "-o", "--output", metavar="FILE", help="Target file, or - for stdout; default: the job's own name for it."
)
@with_server_options
def download(connection: Connection, printer: Printer, *, job_id: str, output: str | None) -> None:
    """Download the file that a completed job made, and verify its SHA-256.

    Run the command again to continue a download that broke off.
    """
    with connection.client(is_patient=True) as client:
        _check_job_exists(connection, job_id)
        if output == "-":
            client.download(job_id, sys.stdout.buffer)
            return
        path = client.download(job_id, output)
    if path is not None:
        size = path.stat().st_size
        printer.print_text(f"{path} ({size:,} bytes)", path=str(path), bytes=size)


def _check_job_exists(connection: Connection, job_id: str) -> None:
    """Fail fast if the server or the job does not exist: the download itself would retry for minutes."""
    with connection.client() as client:
        client.get(job_id)


@click.command()
@click.argument("type_name", metavar="[TYPE]", required=False, shell_complete=complete_types)
@with_server_options
def types(connection: Connection, printer: Printer, *, type_name: str | None) -> None:
    """List the job types. With a TYPE, print the JSON Schema of its arguments."""
    with connection.client() as client:
        _print_types(client, printer, type_name)


def _print_types(client: Client, printer: Printer, type_name: str | None) -> None:
    found = client.job_types()
    if type_name is None:
        printer.types(found)
        return
    chosen = next((job_type for job_type in found if job_type.type == type_name), None)
    if chosen is None:
        raise click.ClickException(f"There is no job type {type_name!r}.")
    if printer.as_json:
        printer.json(chosen)
    else:
        printer.console.print_json(data=chosen.args_schema)


COMMANDS = (submit, list_command, show, halt, resume, stop, log, download, types)
