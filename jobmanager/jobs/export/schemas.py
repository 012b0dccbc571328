"""Schemas of exported columns, and checks that a table has them. Pure."""

from __future__ import annotations

import pyarrow as pa

from jobmanager.errors import Fatal
from jobmanager.jobs.export.datasets import Dataset
from jobmanager.jobs.export.readers.errors import missing_table_error


def schema_of(dataset: Dataset, chosen: list[str], columns: dict[str, pa.DataType]) -> pa.Schema:
    """Return the schema of the chosen columns. Raises Fatal if the table lacks one of them."""
    unknown = [name for name in chosen if name not in columns]
    if unknown:
        raise Fatal(
            f"The {dataset} has no column {', '.join(map(repr, unknown))}. Submit an export of the columns that it "
            f"has: {', '.join(columns)}."
        )
    return pa.schema([(name, columns[name]) for name in chosen])


def check_table(dataset: Dataset, columns: dict[str, pa.DataType]) -> None:
    """Raise Fatal if the table does not exist (*columns* is empty), or lacks the configured date column or key."""
    if not columns:
        raise missing_table_error(dataset)
    for setting, name in (("date_column", dataset.date_column), ("key", dataset.key)):
        if name not in columns:
            raise Fatal(
                f"The {dataset} has no column {name!r}, which is configured as its {setting}. Configure one of the "
                f"columns that it has: {', '.join(columns)}."
            )
