"""The `jobmanager` command."""

from __future__ import annotations

import click

from jobmanager.config import Settings
from jobmanager.errors import JobManagerError
from jobmanager.sample import make_sample


@click.group()
def main() -> None:
    """Run long jobs that can be halted, resumed and stopped."""


@main.command()
@click.option("--rows", default=1_000_000, show_default=True, help="How many survey responses to make.")
def sample(rows: int) -> None:
    """Make the sample data that Export can read at once; does nothing where datasets are configured."""
    try:
        settings = Settings.from_env()
    except JobManagerError as error:
        raise click.ClickException(str(error)) from None
    if settings.datasets is not None and settings.datasets.exists():
        click.echo(f"Datasets are configured in {settings.datasets}; nothing to do.")
        return
    path = make_sample(settings.data_dir, rows)
    click.echo(f"Made {path}, the dataset 'responses'.")
