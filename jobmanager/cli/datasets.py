"""The `jobmanager datasets` commands, for the operator on the host. They connect to the databases of the datasets."""

from __future__ import annotations

from dataclasses import asdict

import click

from jobmanager.cli.options import with_json_option
from jobmanager.cli.output import Printer
from jobmanager.config import Settings
from jobmanager.jobs.export.catalog import configured_datasets
from jobmanager.jobs.export.dataset_check import Findings, check_dataset
from jobmanager.jobs.export.datasets import Datasets, ListUnreadable


@click.group("datasets")
def datasets_group() -> None:
    """Check the datasets that Export can read.

    They are configured in the file that JOBMANAGER_DATASETS names.
    """


@datasets_group.command("check")
@click.argument("names", metavar="[NAME]...", nargs=-1)
@with_json_option
def check(names: tuple[str, ...], printer: Printer) -> None:
    """Test all datasets, or only those named, and print what an export would do.

    Tests the connection, the table, the key and the dates. The exit code is 1 if a dataset cannot be exported.
    """
    settings = Settings.from_env()
    try:
        datasets = configured_datasets(settings)
    except ListUnreadable as error:
        raise click.ClickException(f"{error}.") from None
    known = sorted({*datasets, *datasets.faults})
    if unknown := [name for name in names if name not in known]:
        raise click.ClickException(f"There is no dataset {unknown[0]!r} in {settings.datasets}.")
    if not known:
        raise click.ClickException(f"No dataset is configured in {settings.datasets}.")
    found = [_findings(name, datasets) for name in names or known]
    for findings in found:
        printer.print_text(_as_text(findings), **asdict(findings))
    raise SystemExit(0 if all(findings.is_usable() for findings in found) else 1)


def _findings(name: str, datasets: Datasets) -> Findings:
    if name in datasets.faults:
        return Findings(name=name, error=f"{datasets.faults[name]}.")
    return check_dataset(datasets[name])


def _as_text(findings: Findings) -> str:
    """Return the findings as lines of text."""
    lines = [f"{findings.name}: {'it can be exported' if findings.is_usable() else 'IT CANNOT BE EXPORTED'}"]
    if findings.error:
        lines.append(f"  error     {findings.error}")
    lines += [f"  warning   {warning}" for warning in findings.warnings]
    if findings.columns:
        columns = ", ".join(f"{name} ({kind})" for name, kind in findings.columns.items())
        lines.append(f"  columns   {columns}")
    if findings.is_usable():
        lines.append(f"  order     {findings.date_column}, then {findings.key}")
        lines.append(f"  dates     {findings.date_format}; the first are {', '.join(findings.dates) or 'none'}")
        lines.append(f"  rows      {_rows(findings)}")
    return "\n".join(lines)


def _rows(findings: Findings) -> str:
    if findings.rows is None:
        return "not counted: without an index, counting takes as long as an export"
    return f"{'more than ' if findings.is_more else ''}{findings.rows:,} with a date"
