"""How many rows make one chunk: bounded by their number and by their bytes.

The bound depends on the rows alone, so that the chunks of an export do not depend on where it was halted. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

#: The default bound of a chunk, in bytes as Arrow keeps them.
MAX_BYTES = 16 * 1024 * 1024
#: The size of an offset of a text, and of a value in Python that is not a text.
_OFFSET_BYTES = 4
_VALUE_BYTES = 8


def row_bytes(rows: pa.RecordBatch) -> pa.Array:
    """Return about how many bytes each row takes.

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
    """Batches of rows, up to the bound: complete when more rows could not be part of it."""

    def __init__(self, limit: int, max_bytes: int) -> None:
        self._limit = limit
        self._max_bytes = max_bytes
        self._batches: list[pa.RecordBatch] = []
        self._bytes = 0
        #: how many rows were added
        self.rows = 0
        #: how many of them belong to the chunk; at least one, unless there are none
        self.fitting = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Add the rows that come next."""
        self._batches.append(batch)
        if batch.num_rows and not self.is_complete:
            totals = pc.add(pc.cumulative_sum(row_bytes(batch)), self._bytes)
            within = pc.sum(pc.less_equal(totals, self._max_bytes)).as_py() or 0
            self._bytes = totals[-1].as_py()
            self.fitting = min(self._limit, max(1, self.rows + within))
        self.rows += batch.num_rows

    @property
    def is_complete(self) -> bool:
        """Return True if the chunk ends before the last of the rows that were added."""
        return self.fitting < self.rows

    def table(self, schema: pa.Schema) -> pa.Table:
        """Return all rows that were added, those behind the chunk too."""
        return pa.Table.from_batches(self._batches, schema)


def fitting_rows(
    rows: Iterable[Sequence[Any]], limit: int, max_bytes: int
) -> tuple[list[Sequence[Any]], list[Sequence[Any]]]:
    """Return the rows of one chunk, at least one if there are any, and the one behind it; takes no others.

    The size of a row is that of its texts and bytes, and 8 bytes for any other value.
    """
    found: list[Sequence[Any]] = []
    size = 0
    for row in rows:
        size += sum(len(value) if isinstance(value, (str, bytes)) else _VALUE_BYTES for value in row)
        if len(found) == limit or (found and size > max_bytes):
            return found, [row]
        found.append(row)
    return found, []
