"""Schemas of exported columns, and checks that a table has them. Pure."""

from __future__ import annotations

import pyarrow as pa

from jobmanager.errors import Fatal
from jobmanager.jobs.export.datasets import Dataset


def schema_of(chosen: list[str], columns: dict[str, pa.DataType]) -> pa.Schema:
    """Return the schema of the chosen columns. Raises Fatal if the table lacks one of them."""
    unknown = [name for name in chosen if name not in columns]
    if unknown:
        raise Fatal(f"The table has no column {', '.join(map(repr, unknown))}; its columns: {', '.join(columns)}.")
    return pa.schema([(name, columns[name]) for name in chosen])


def check_table(dataset: Dataset, columns: dict[str, pa.DataType]) -> None:
    """Raise Fatal if the table does not exist (no columns), or lacks the configured date column or key."""
    if not columns:
        raise Fatal(f"The table of dataset {dataset.name!r} does not exist.")
    if not {dataset.date_column, dataset.key} <= columns.keys():
        raise Fatal(f"The table of dataset {dataset.name!r} lacks its date column or its key.")
