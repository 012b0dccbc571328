"""Convert values of SQLite: those of a place for a checkpoint, and those of a column to its fixed type. Pure."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import pyarrow as pa

from jobmanager.jobs.export import mixed_columns
from jobmanager.jobs.export.datasets import Dataset
from jobmanager.jobs.export.position import Place
from jobmanager.jobs.export.readers.errors import misfit_error, rows_between


def place_of(date: Any, key: Any) -> Place:
    """Return the place of a row, in a form that JSON can store: infinity becomes a decimal."""
    return Place(date=_storable(date), key=_storable(key))


def bound(value: Any) -> Any:
    """Return the date or the key of a place as SQLite stores it."""
    return float(value) if isinstance(value, Decimal) else value


def has_null(keys: pa.ChunkedArray) -> bool:
    """Return True if one of the keys is NULL."""
    return None in keys.to_pylist() if pa.types.is_union(keys.type) else keys.null_count > 0


def to_fixed_type(
    dataset: Dataset, declared: str, column: pa.ChunkedArray, field: pa.Field, keys: pa.ChunkedArray
) -> pa.ChunkedArray:
    """Convert a column to its fixed type.

    Raises Fatal if a value does not fit. The message names the column, but does not show the value.
    """
    if column.type == field.type:
        return column
    if not mixed_columns.has_value(column):
        return pa.chunked_array([pa.nulls(len(column), field.type)])
    if pa.types.is_string(field.type):
        return mixed_columns.as_texts(column)
    try:
        # Only numbers: Arrow would cast a text to bytes.
        if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
            return column.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        pass
    raise misfit_error(
        dataset,
        field.name,
        rows_between(dataset, keys[0].as_py(), keys[-1].as_py()),
        f"does not fit its declared type, {declared or 'none'}",
        "Export again: a Parquet file then has text in this column. CSV and JSON Lines take any value.",
    )


def _storable(value: Any) -> Any:
    return Decimal(value) if isinstance(value, float) and math.isinf(value) else value
