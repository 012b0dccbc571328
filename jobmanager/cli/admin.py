"""Commands that work on this machine without a server. They read the settings of the service."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from datetime import datetime, timedelta
from importlib.util import find_spec

import click
from click.core import ParameterSource
from click.shell_completion import get_completion_class

from jobmanager.auth.tokens import check_access
from jobmanager.cli.datasets import datasets_group
from jobmanager.cli.options import TimeParam, parse_args, with_json_option
from jobmanager.cli.output import Printer
from jobmanager.cli.tokens import token_group
from jobmanager.config import Settings, misspelt
from jobmanager.errors import ConfigError, StoreUnavailable
from jobmanager.jobs.export.sample import make_sample
from jobmanager.manager import JobManager
from jobmanager.testing.proof import torture


@click.command(context_settings={"ignore_unknown_options": True})
@click.option(
    "--host", envvar="HOST", default="127.0.0.1", show_default=True, show_envvar=True, help="Address to bind."
)
@click.option("--port", envvar="PORT", default=8080, show_default=True, show_envvar=True, help="Port to bind.")
@click.option("--workers", type=click.IntRange(1), help="Number of processes; default: WEB_CONCURRENCY, or 1.")
@click.option("--threads", type=click.IntRange(1), help="Request threads per process; default: 16.")
@click.argument("gunicorn_options", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def serve(
    ctx: click.Context,
    *,
    host: str,
    port: int,
    workers: int | None,
    threads: int | None,
    gunicorn_options: tuple[str, ...],
) -> None:
    """Run the service with gunicorn until a signal ends it. Other options are passed to gunicorn."""
    arguments = {"--workers": workers, "--threads": threads}
    if any(ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE for name in ("host", "port")):
        arguments["--bind"] = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"  # type: ignore[assignment]
    options = [f"{name}={value}" for name, value in arguments.items() if value is not None]
    command = [sys.executable, "-m", "gunicorn", "--config", _config_file(), *options, *gunicorn_options]
    # Replace this process, so that signals reach gunicorn and its workers do not inherit our imports.
    os.execv(sys.executable, [*command, "jobmanager.wsgi:app"])


def _config_file() -> str:
    found = find_spec("jobmanager.gunicorn_conf")
    assert found is not None
    assert found.origin is not None
    return found.origin


@click.command()
@click.option("--bind", "hosts", multiple=True, metavar="HOST", help="Check this address of the service, too.")
@with_json_option
def check(printer: Printer, hosts: tuple[str, ...]) -> None:
    """Check that the service can start.

    Its settings have to be valid, and its store has to have the right version.
    """
    for name, meant in misspelt().items():
        click.echo(f"Unknown setting {name} (ignored). Did you mean {meant}?", err=True)
    try:
        manager = JobManager()
        check_access(manager.settings, hosts)
        manager.check()
    except StoreUnavailable as error:
        # Only warn: the service can start without the store, and retries until the store comes back.
        click.echo(str(error), err=True)
    except ConfigError as error:
        click.echo(f"The service cannot start. {error}", err=True)
        raise SystemExit(1) from None
    if printer.as_json:
        printer.json({"can_start": True})


@click.command("torture")
@click.argument("type_name", metavar="TYPE")
@click.option("--arg", "pairs", multiple=True, metavar="NAME=VALUE", help="Argument of the job: JSON, or else text.")
@with_json_option
def torture_command(printer: Printer, type_name: str, pairs: tuple[str, ...]) -> None:
    """Prove that a job type can be halted, killed and stopped at every checkpoint, or show where that fails."""
    manager = JobManager()
    verdict = torture(manager.types.get(type_name), parse_args(pairs), settings=manager.settings)
    printer.print_text(str(verdict), is_sound=verdict.is_sound(), report=str(verdict))
    raise SystemExit(0 if verdict.is_sound() else 1)


@click.command()
@click.option("--rows", default=1_000_000, show_default=True, help="Number of survey responses to make.")
@with_json_option
def sample(printer: Printer, rows: int) -> None:
    """Make sample data for Export. Does nothing if datasets are configured."""
    settings = Settings.from_env()
    if settings.datasets is not None and settings.datasets.exists():
        printer.print_text(
            f"Datasets are configured in {settings.datasets}; nothing to do.",
            made=None,
            datasets=str(settings.datasets),
        )
        return
    path = make_sample(settings.data_dir, rows)
    printer.print_text(f"Made {path}, the dataset 'responses'.", made=str(path), datasets=str(settings.datasets))


@click.command()
@click.option("--before", type=TimeParam(), help="Remove jobs that finished before this time.")
@click.option("--days", type=click.FloatRange(min=0), help="Remove jobs that finished more than this many days ago.")
@click.option(
    "--keep", type=click.IntRange(min=0), help="Remove all but this many of the newest completed and stopped jobs."
)
@with_json_option
def prune(printer: Printer, before: datetime | None, days: float | None, keep: int | None) -> None:
    """Remove finished jobs for good, with their changes, logs and files.

    Opens the store itself (JOBMANAGER_DATABASE_URL, JOBMANAGER_DATA_DIR), so no server has to run.
    """
    if before is None and days is None and keep is None:
        raise click.UsageError("Select jobs with --before, --days or --keep.")
    if before is not None and days is not None:
        raise click.UsageError("Use either --before or --days, not both.")
    # No slots: this process must not claim waiting jobs.
    with JobManager(replace(Settings.from_env(), slots=0)) as manager:
        if days is not None:
            before = _ago(manager.now(), days)
        removed = manager.prune(before=before, keep=keep)
    printer.print_text(f"Removed {removed} jobs.", removed=removed)


@click.command()
@click.argument("pid", type=click.IntRange(min=1))
@with_json_option
def release(printer: Printer, pid: int) -> None:
    """Hand over the jobs of a process that hangs and will be killed.

    PID is a process of this machine. Its jobs do not count a crash. Opens the store itself. gunicorn's master runs this
    command before it kills a worker.
    """
    # Do not open the store here: the process that hangs may hold the store's lock until it is killed. So
    # release_process() first notes that the process hangs, and then opens the store.
    manager = JobManager(replace(Settings.from_env(), slots=0))
    try:
        released = manager.release_process(pid)
    finally:
        manager.close()
    printer.print_text(f"Handed over {released} jobs of process {pid}.", released=released)


def _ago(now: datetime, days: float) -> datetime:
    try:
        return now - timedelta(days=days)
    except OverflowError:
        raise click.BadParameter("the time would be before the year 1.", param_hint="--days") from None


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a script that completes commands, options, job types and ids in a shell.

    For bash, add eval "$(jobmanager completion bash)" to ~/.bashrc; for zsh likewise. For fish, add
    jobmanager completion fish | source to ~/.config/fish/config.fish.
    """
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(ctx.find_root().command, {}, "jobmanager", "_JOBMANAGER_COMPLETE").source())


COMMANDS: tuple[click.Command, ...] = (
    serve,
    check,
    prune,
    release,
    sample,
    torture_command,
    datasets_group,
    token_group,
    completion,
)
