"""A table of MariaDB or MySQL as information_schema describes it: its columns, its order, and its names in SQL.

Reads no rows.
"""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa

from jobmanager.jobs.export.datasets import Dataset
from jobmanager.jobs.export.readers.errors import changed_column_error, missing_table_error, unordered_error
from jobmanager.jobs.export.readers.mysql_columns import Column, column_of
from jobmanager.jobs.export.readers.mysql_connection import Connection
from jobmanager.jobs.export.schemas import check_table

_COLUMNS = """
    SELECT column_name, column_type, data_type, numeric_precision, numeric_scale, is_nullable, collation_name
    FROM information_schema.columns WHERE table_schema = {} AND table_name = {} ORDER BY ordinal_position
"""
#: The unique indexes. is_other is 0 if an index has only the given columns, and none by a prefix; otherwise 1.
_UNIQUE = """
    SELECT index_name, max(CASE WHEN sub_part IS NULL AND column_name IN ({}) THEN 0 ELSE 1 END) AS is_other
    FROM information_schema.statistics
    WHERE table_schema = {} AND table_name = {} AND non_unique = 0 GROUP BY index_name
"""
_INDEXES = """
    SELECT group_concat(column_name ORDER BY seq_in_index) FROM information_schema.statistics
    WHERE table_schema = {} AND table_name = {} GROUP BY index_name
"""
_DATE_KINDS = {"date": "date", "datetime": "naive", "timestamp": "naive"}
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?(e[-+]?[0-9]+)?", re.IGNORECASE)


class Table:
    """The table of a dataset as it was when the reader was opened. `check_unchanged` compares it with the server."""

    def __init__(self, dataset: Dataset, connection: Connection) -> None:
        """Read the description. Raises DatasetAway, or Fatal if the table or a column is missing or unsuitable."""
        self._dataset = dataset
        self._connection = connection
        self._schema, self._name, self.columns = self._find()
        #: the qualified name
        self.name = f"{_quoted(self._schema)}.{_quoted(self._name)}"
        check_table(dataset, self.types())
        #: the column of the dates, and the unique column that orders rows of equal date
        self.date, self.key = (self.columns[name] for name in (dataset.date_column, dataset.key))
        for column in (self.date, self.key):
            if not column.is_ordered:
                raise unordered_error(dataset, column.name, column.declared)
        self.date_name, self.key_name = (f"t.{_quoted(column.name)}" for column in (self.date, self.key))
        self.order = f"{self.date_name}, {self.key_name}"
        #: True if a unique index rules out rows with the same date and key
        self.is_proven_unique = self._has_unique_index()

    def types(self) -> dict[str, pa.DataType]:
        """Return name and exported type of every column."""
        return {name: column.field.type for name, column in self.columns.items()}

    @property
    def date_kind(self) -> str:
        """Return "date", "naive" or "": the *kind* of the date column, see `date_conditions`."""
        return _DATE_KINDS.get(self.date.kind, "")

    def selected(self, name: str) -> str:
        """Return the SQL that selects a column."""
        return self.columns[name].form.format(f"t.{_quoted(name)}")

    def has_index(self) -> bool:
        """Return True if an index has the rows in the order of the export."""
        wanted = [self.date.name, self.key.name]
        indexes = self._connection.query(_INDEXES.format(literal(self._schema), literal(self._name)))
        return any((columns or "").split(",")[:2] == wanted for (columns,) in indexes)

    def check_unchanged(self, names: list[str]) -> None:
        """Raise Fatal if the date, the key or one of these columns has changed since the reader was opened."""
        now = self._catalog_columns(self._schema, self._name)
        if error := changed_column_error(self._dataset, names, self.columns, now):
            raise error

    def _find(self) -> tuple[str, str, dict[str, Column]]:
        """Return schema, name and columns. If no table has the whole configured name, takes the name as schema.table.

        Raises Fatal if there is no such table.
        """
        schema, name = self._dataset.url.database or "", self._dataset.table
        columns = self._catalog_columns(schema, name)
        if not columns and "." in name:
            schema, _, name = name.rpartition(".")
            columns = self._catalog_columns(schema, name)
        if not columns:
            raise missing_table_error(self._dataset)
        return schema, name, columns

    def _catalog_columns(self, schema: str, name: str) -> dict[str, Column]:
        rows = self._connection.query(_COLUMNS.format(literal(schema), literal(name)))
        return {row[0]: column_of(row) for row in rows}

    def _has_unique_index(self) -> bool:
        # An index compares texts as its column does. So rows that differ in a unique index also differ in date or key.
        ours = ", ".join(literal(column.name) for column in (self.date, self.key))
        unique = self._connection.query(_UNIQUE.format(ours, literal(self._schema), literal(self._name)))
        return any(is_other == "0" for _, is_other in unique)


def value_literal(value: Any, column: Column) -> str:
    """Return a value as an SQL literal that the server compares with the column without converting the column."""
    if isinstance(value, bytes):
        return f"x'{value.hex()}'"
    if column.is_number and _NUMBER.fullmatch(str(value)):
        return str(value)
    return literal(str(value))


def literal(text: str) -> str:
    """Return a text as an SQL literal of its bytes, which needs no escapes in any sql_mode."""
    return f"_utf8mb4 x'{text.encode().hex()}'"


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"
