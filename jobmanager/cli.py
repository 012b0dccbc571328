"""The `jobmanager` command."""

from __future__ import annotations

import json
from typing import Any

import click

from jobmanager.config import Settings
from jobmanager.errors import ConfigError, JobManagerError, StoreUnavailable
from jobmanager.manager import JobManager
from jobmanager.sample import make_sample
from jobmanager.tokens import check_access
from jobmanager.tokens_cli import token_group
from jobmanager.torture import torture


@click.group()
def main() -> None:
    """Run long jobs that can be halted, resumed and stopped."""


main.add_command(token_group)


@main.command()
@click.option("--bind", "hosts", multiple=True, metavar="HOST", help="An address that is to be bound.")
def check(hosts: tuple[str, ...]) -> None:
    """Tell whether the service could start: whether its settings are right, and its store is of this version."""
    try:
        manager = JobManager()
        check_access(manager.settings, hosts)
        manager.check()
    except StoreUnavailable as error:
        # No reason to refuse: it may come back, and the service tries again.
        click.echo(str(error), err=True)
    except ConfigError as error:
        click.echo(f"The service cannot start. {error}", err=True)
        raise SystemExit(1) from None


@main.command("torture")
@click.argument("type_name", metavar="TYPE")
@click.option("--arg", "pairs", multiple=True, metavar="NAME=VALUE", help="An argument of the job; JSON, or text.")
def torture_command(type_name: str, pairs: tuple[str, ...]) -> None:
    """Prove that a job type can be halted, killed and stopped at every checkpoint, or show where it cannot."""
    try:
        manager = JobManager()
        verdict = torture(manager.types.get(type_name), dict(map(_parse_pair, pairs)), settings=manager.settings)
    except JobManagerError as error:
        raise click.ClickException(str(error)) from None
    click.echo(str(verdict))
    raise SystemExit(0 if verdict.is_sound() else 1)


def _parse_pair(pair: str) -> tuple[str, Any]:
    name, separator, text = pair.partition("=")
    if not separator:
        raise click.BadParameter(f"{pair!r} is not NAME=VALUE", param_hint="--arg")
    try:
        return name, json.loads(text)
    except ValueError:
        return name, text


@main.command()
@click.option("--rows", default=1_000_000, show_default=True, help="How many survey responses to make.")
def sample(rows: int) -> None:
    """Make the sample data that Export can read at once; does nothing where datasets are configured."""
    try:
        settings = Settings.from_env()
    except ConfigError as error:
        raise click.ClickException(str(error)) from None
    if settings.datasets is not None and settings.datasets.exists():
        click.echo(f"Datasets are configured in {settings.datasets}; nothing to do.")
        return
    path = make_sample(settings.data_dir, rows)
    click.echo(f"Made {path}, the dataset 'responses'.")
