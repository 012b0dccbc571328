"""Convert the values that PostgreSQL returns to the exported types. Pure."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from jobmanager.jobs.export.datasets import Dataset, DatasetAway
from jobmanager.jobs.export.readers.chunk_table import ChunkTable, first_misfit
from jobmanager.jobs.export.readers.errors import encoding_error, not_for_parquet_error, row_of
from jobmanager.jobs.export.readers.postgresql_columns import Column
from jobmanager.jobs.export.readers.postgresql_times import as_texts, is_within_calendar, outside_calendar


def to_types(
    dataset: Dataset, columns: list[Column], found: pa.Table, keys: pa.ChunkedArray, wanted: pa.Schema
) -> pa.Table:
    """Convert each column to its type. If a value does not fit, the column becomes text: see ChunkTable.

    *columns*: descriptions of the columns *wanted*, which are the first columns of *found*. *keys*: the keys of the
    rows, for errors.
    """
    table = ChunkTable()
    for number, (field, column) in enumerate(zip(wanted, columns, strict=True)):
        array = delivered(dataset, found.column(number), column, keys)
        misfits = _misfits(array, field.type)
        if misfits is None:
            table.add(field, array.cast(field.type))
            continue
        first = pc.index(misfits, True).as_py()
        error = not_for_parquet_error(dataset, column.name, column.declared, keys[first].as_py())
        table.add_text(field, _texts(array), error)
    return table.table()


def delivered(dataset: Dataset, array: pa.ChunkedArray, column: Column, keys: pa.ChunkedArray) -> pa.ChunkedArray:
    """Check the values of a column, and return them.

    Raises DatasetAway if their type is unexpected, Unreadable if a text is not valid UTF-8.
    """
    if array.type != column.delivered:
        # The type is unexpected only behind a pooler that mixes the statements of two clients.
        raise DatasetAway(
            f"The server of dataset {dataset.name!r} returned column {column.name!r} as {array.type} "
            f"and not as {column.delivered}."
        )
    if not pa.types.is_string(array.type):
        return array
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        first = first_misfit(array.cast(pa.binary()).to_pylist(), pa.string())
        raise encoding_error(dataset, column.name, row_of(dataset, keys[first].as_py())) from None
    return array


def _misfits(array: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray | None:
    """Return a mask of the values that do not fit Arrow's type; None if all fit."""
    if pa.types.is_temporal(kind):
        return None if is_within_calendar(array) else outside_calendar(array)
    if not pa.types.is_decimal(kind):
        return None
    found = pc.fill_null(pc.is_in(array, pa.array(["NaN", "Infinity", "-Infinity"])), False)
    return found if pc.any(found).as_py() else None


def _texts(array: pa.ChunkedArray) -> pa.ChunkedArray:
    return as_texts(array) if pa.types.is_temporal(array.type) else array
