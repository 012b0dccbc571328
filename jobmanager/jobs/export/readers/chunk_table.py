"""Make the table of a chunk from its columns. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from jobmanager.errors import Fatal

#: Metadata key of a table that Parquet cannot hold, because a column is text in this chunk alone. The value is the
#: error message of an export to Parquet.
NOT_FOR_PARQUET = b"jobmanager not for parquet"
#: The exceptions that Arrow raises for a value that does not fit a type.
MISFITS = (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeError)


class ChunkTable:
    """The columns of one chunk, added one by one. A column with a value that does not fit its type is added as text."""

    def __init__(self) -> None:
        self._fields: list[pa.Field] = []
        self._arrays: list[pa.ChunkedArray] = []
        self._reasons: list[str] = []

    def add(self, field: pa.Field, array: pa.ChunkedArray) -> None:
        """Add a column whose values all fit."""
        self._fields.append(field)
        self._arrays.append(array)

    def add_text(self, field: pa.Field, texts: pa.ChunkedArray, error: Fatal) -> None:
        """Add a column as text. *error*: the error of an export to Parquet, see errors.not_for_parquet_error."""
        self.add(field.with_type(pa.string()), texts)
        self._reasons.append(str(error))

    def table(self) -> pa.Table:
        """Return the table. If a column was added as text, the metadata has the first error for Parquet."""
        metadata = {NOT_FOR_PARQUET: self._reasons[0].encode()} if self._reasons else None
        return pa.table(self._arrays, schema=pa.schema(self._fields, metadata))


def first_misfit(values: Sequence[Any], kind: pa.DataType) -> int:
    """Return the index of the first value that does not fit a type. The caller ensures that there is one."""
    return next(index for index, value in enumerate(values) if not _fits(value, kind))


def _fits(value: Any, kind: pa.DataType) -> bool:
    try:
        pa.array([value], kind)
    except MISFITS:
        return False
    return True
