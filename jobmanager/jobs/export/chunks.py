"""Limit a chunk by its number of rows and by its bytes.

The end of a chunk depends on the rows alone, so that an export has the same chunks wherever it was halted. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

#: Default size limit of a chunk, in bytes as Arrow stores them.
MAX_BYTES = 16 * 1024 * 1024
#: Bytes counted for the offset of a text or bytes value in Arrow.
_OFFSET_BYTES = 4
#: Bytes counted for a Python value that is neither text nor bytes.
_VALUE_BYTES = 8


def row_bytes(rows: pa.RecordBatch) -> pa.Array:
    """Return the approximate number of bytes of each row.

    >>> row_bytes(pa.record_batch({"n": pa.array([1, 2]), "text": ["four", None]})).to_pylist()
    [16, 12]
    """
    fixed = 0
    sizes = pa.repeat(pa.scalar(0, pa.int64()), rows.num_rows)
    for column in rows.columns:
        if pa.types.is_string(column.type) or pa.types.is_binary(column.type):
            fixed += _OFFSET_BYTES
            lengths = pc.fill_null(pc.binary_length(column), 0).cast(pa.int64())
            sizes = pc.add(sizes, lengths)
        else:
            fixed += max(1, column.type.bit_width // 8)
    return pc.add(sizes, fixed)


class Chunk:
    """Collects batches of rows for one chunk. The chunk is complete once a row beyond its limits was added."""

    def __init__(self, limit: int, max_bytes: int) -> None:
        self._limit = limit
        self._max_bytes = max_bytes
        self._batches: list[pa.RecordBatch] = []
        self._bytes = 0
        #: number of rows added
        self.rows = 0
        #: number of added rows that belong to the chunk; at least one once rows were added
        self.fitting = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Add the next rows."""
        self._batches.append(batch)
        if batch.num_rows and not self.is_complete:
            totals = pc.add(pc.cumulative_sum(row_bytes(batch)), self._bytes)
            within = pc.sum(pc.less_equal(totals, self._max_bytes)).as_py() or 0
            self._bytes = totals[-1].as_py()
            self.fitting = min(self._limit, max(1, self.rows + within))
        self.rows += batch.num_rows

    @property
    def is_complete(self) -> bool:
        """Return True if some of the added rows are beyond the end of the chunk."""
        return self.fitting < self.rows

    def table(self, schema: pa.Schema) -> pa.Table:
        """Return all added rows, including those beyond the end of the chunk."""
        return pa.Table.from_batches(self._batches, schema)


def fitting_rows(
    rows: Iterable[Sequence[Any]], limit: int, max_bytes: int
) -> tuple[list[Sequence[Any]], list[Sequence[Any]]]:
    """Return two lists: the rows of one chunk, and the row after the chunk.

    The second list is empty if *rows* ends with the chunk. The chunk has at least one row, unless *rows* is empty.
    Takes only the returned rows from *rows*. The size of a row is the length of its texts and bytes, plus 8 bytes for
    each other value.
    """
    found: list[Sequence[Any]] = []
    size = 0
    for row in rows:
        size += sum(len(value) if isinstance(value, (str, bytes)) else _VALUE_BYTES for value in row)
        if len(found) == limit or (found and size > max_bytes):
            return found, [row]
        found.append(row)
    return found, []
