"""Read the rows of a SQLite table so that every value arrives unchanged, within a limit of bytes.

The forms in which columns are selected are in sqlite_columns.py. If the values of a column do not fit its form, the
column is read again in another form. The order of the rows is chosen in sqlite_order.py.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from jobmanager.errors import Fatal
from jobmanager.jobs.export import mixed_columns
from jobmanager.jobs.export.datasets import Dataset
from jobmanager.jobs.export.readers.errors import encoding_error
from jobmanager.jobs.export.readers.sqlite_columns import (
    Form,
    NotText,
    Selected,
    Unfit,
    fitting,
    form_of,
    size,
    sizes,
)
from jobmanager.jobs.export.readers.sqlite_connection import Connection
from jobmanager.jobs.export.readers.sqlite_order import Segment, select
from jobmanager.jobs.export.readers.sqlite_table import Table

#: The most columns in one query. SQLite allows 2,000.
MOST_SELECTED = 1_500
#: Rows are read without reading their sizes first, unless one of their values is large. A value is large if a read
#: with only such values would fill more than this many chunks.
_FEW_CHUNKS = 4
_SHORTEST_LARGE = 32
_ANY_LENGTH = 2**62


class Rows:
    """Reads the rows of one table, each column in its form."""

    def __init__(self, dataset: Dataset, table: Table, connection: Connection) -> None:
        self._dataset = dataset
        self._table = table
        self._connection = connection
        self._forms: dict[str, Form] = {}
        self._has_large_rows = False

    def read(self, names: list[str], segments: list[Segment], limit: int, max_bytes: int) -> dict[str, Any]:
        """Return the columns of the next rows. Returns as many rows as *limit* and *max_bytes* allow, at least one.

        If rows may be large, reads their sizes first. Otherwise reads the rows, and then measures how many fit.
        """
        limit = max(1, min(limit, max_bytes // (8 * len(names))))
        while True:
            try:
                if self._has_large_rows:
                    return self._measured(names, segments, limit, max_bytes)
                texts = sum(self._form(name) not in (Form.INTEGER, Form.REAL) for name in names)
                largest = max(_SHORTEST_LARGE, _FEW_CHUNKS * max_bytes // (limit * max(1, texts)))
                pieces = self._pieces(names, segments, limit, largest)
                row_sizes = [sizes(list(piece)) for piece in pieces]
                number = fitting(pa.chunked_array(row_sizes, pa.int64()), max_bytes)
                return _columns(names, pieces, number)
            except Unfit:
                self._has_large_rows = True

    def _measured(self, names: list[str], segments: list[Segment], limit: int, max_bytes: int) -> dict[str, Any]:
        columns = [self._table.column(name) for name in names]
        found: list[pa.Array] = []
        left = limit
        for segment in segments:
            rows = select(self._connection, f"{size(columns)} AS bytes", segment, left)["bytes"].combine_chunks()
            found.append(rows.cast(pa.int64()))
            left -= len(rows)
            if not left:
                break
        row_sizes = pa.chunked_array(found, pa.int64())
        number = fitting(row_sizes, max_bytes)
        self._has_large_rows = 8 * (pc.sum(row_sizes).as_py() or 0) > max_bytes
        return _columns(names, self._pieces(names, segments, number, _ANY_LENGTH), number)

    def _pieces(self, names: list[str], segments: list[Segment], limit: int, largest: int) -> list[list[pa.Array]]:
        """Return the columns of the next rows of each segment. Raises Unfit if a value is larger than *largest*."""
        pieces: list[list[pa.Array]] = []
        for segment in segments:
            pieces.append(self._piece(names, segment, limit, largest))
            limit -= len(pieces[-1][0])
            if not limit:
                break
        return pieces

    def _piece(self, names: list[str], segment: Segment, limit: int, largest: int) -> list[pa.Array]:
        found: dict[str, pa.Array] = {}
        left = list(names)
        while left:
            group, left = self._group(left, largest)
            expressions = ", ".join(sql for one in group.values() for sql in one.expressions())
            rows = select(self._connection, expressions, segment, limit)
            arrays = [column.combine_chunks() for column in rows.columns]
            for name, selected in group.items():
                own, arrays = arrays[: selected.width()], arrays[selected.width() :]
                try:
                    found[name] = selected.values(own)
                except NotText as error:
                    raise self._encoding_error(name, segment, error.row) from None
                except Unfit as error:
                    if error.is_large or (selected.is_text() and largest < _ANY_LENGTH):
                        raise Unfit(is_large=True) from None
                    self._forms[name] = Form.ANY
                    left.append(name)
        return [found[name] for name in names]

    def _group(self, names: list[str], largest: int) -> tuple[dict[str, Selected], list[str]]:
        """Return as many columns as fit into one query, and the names of the others."""
        group: dict[str, Selected] = {}
        width = 0
        for index, name in enumerate(names):
            selected = Selected(sql=self._table.column(name), form=self._form(name), largest=largest)
            width += selected.width()
            if width > MOST_SELECTED:
                return group, names[index:]
            group[name] = selected
        return group, []

    def _form(self, name: str) -> Form:
        if not self._forms:
            is_table = self._table.is_table()
            self._forms = {name: form_of(kind, is_table=is_table) for name, kind in self._table.declared().items()}
        return self._forms[name]

    def _encoding_error(self, name: str, segment: Segment, row: int) -> Fatal:
        """Return the error for a text that is not valid UTF-8. The error does not show the text."""
        found = select(self._connection, f"quote({self._table.key}) AS key", segment, 1, offset=row)["key"].to_pylist()
        key = found[0] if found else "?"
        return encoding_error(self._dataset, name, f"the row with {self._dataset.key} = {key}")


def _columns(names: list[str], pieces: list[list[pa.Array]], number: int) -> dict[str, pa.ChunkedArray]:
    """Return the first *number* rows of the pieces, as columns by name."""
    return {
        name: mixed_columns.joined([piece[index] for piece in pieces]).slice(0, number)
        for index, name in enumerate(names)
    }
