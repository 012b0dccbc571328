"""Describe the datasets to clients: names, columns and faults, never a URL or a driver's error."""

from __future__ import annotations

import time
from dataclasses import dataclass

from jobmanager.config import Settings
from jobmanager.errors import Fatal
from jobmanager.jobs.export.bounded import QueryTimeout
from jobmanager.jobs.export.catalog import configured_datasets, query_columns
from jobmanager.jobs.export.datasets import Dataset, DatasetAway

#: Timeout for one database.
_SECONDS_EACH = 2.0
#: Timeout for all databases together.
_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownDataset:
    """One dataset as clients see it. If *columns* is None, *error* gives the reason."""

    name: str
    date_column: str | None = None
    date_format: str | None = None
    timezone: str | None = None
    #: name and type of each column, in the order of the table
    columns: dict[str, str] | None = None
    error: str | None = None


def show_datasets(settings: Settings) -> list[ShownDataset]:
    """Return all datasets in order of name, including those that cannot be used. Raises ListUnreadable.

    Connects to their databases, one after the other. Blocks for a few seconds at most.
    """
    datasets = configured_datasets(settings)
    deadline = time.monotonic() + _SECONDS
    shown = [_shown(dataset, deadline) for dataset in datasets.values()]
    shown += [ShownDataset(name=name, error=f"{fault}.") for name, fault in datasets.faults.items()]
    return sorted(shown, key=lambda each: each.name)


def _shown(dataset: Dataset, deadline: float) -> ShownDataset:
    columns, error = None, None
    try:
        columns = _query_columns(dataset, deadline)
    except (DatasetAway, Fatal, QueryTimeout) as raised:
        error = str(raised)
    return ShownDataset(
        name=dataset.name,
        date_column=dataset.date_column,
        date_format=dataset.date_format,
        timezone=dataset.timezone,
        columns=columns,
        error=error,
    )


def _query_columns(dataset: Dataset, deadline: float) -> dict[str, str]:
    seconds = min(_SECONDS_EACH, deadline - time.monotonic())
    if seconds <= 0:
        raise QueryTimeout("The databases of other datasets took too long. Try again later.")
    return query_columns(dataset, seconds=seconds)
