"""The description of a DuckDB table: its columns, the SQL that selects each, and the type that each is exported with.

Reads no rows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import pyarrow as pa

from jobmanager.jobs.export.datasets import Dataset
from jobmanager.jobs.export.decimals import decimal_type
from jobmanager.jobs.export.readers.duckdb_connection import Connection
from jobmanager.jobs.export.readers.errors import changed_column_error, missing_table_error, unordered_error
from jobmanager.jobs.export.readers.postgresql_columns import IS_JSON
from jobmanager.jobs.export.schemas import check_table

#: The SQL that selects each type, and the exported type. All other types become text.
_TYPES: dict[str, tuple[str, pa.DataType]] = {
    **dict.fromkeys(
        ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER"),
        ("CAST({} AS BIGINT)", pa.int64()),
    ),
    "UBIGINT": ("CAST({} AS DECIMAL(20, 0))", pa.decimal128(20, 0)),
    "BOOLEAN": ("{}", pa.bool_()),
    "DOUBLE": ("{}", pa.float64()),
    "FLOAT": ("CAST(CAST({} AS VARCHAR) AS DOUBLE)", pa.float64()),
    "VARCHAR": ("{}", pa.string()),
    "BLOB": ("{}", pa.binary()),
    "DATE": ("{}", pa.date32()),
    "TIMESTAMP": ("{}", pa.timestamp("us")),
    "TIMESTAMP WITH TIME ZONE": ("{}", pa.timestamp("us", tz="UTC")),
}
_DECIMAL = re.compile(r"DECIMAL\((\d+),\s*(\d+)\)")
#: Types that are exported as JSON: lists, arrays, structs, maps and unions.
_NESTED = re.compile(r"(STRUCT|MAP|UNION)\(.*\)|.*\[\d*\]", re.DOTALL)
_DATE_KINDS = {"DATE": "date", "TIMESTAMP": "naive", "TIMESTAMP WITH TIME ZONE": "aware"}
#: Types that can order the rows: a comparison with a literal follows their sort order.
_KEYS = (*_TYPES, "HUGEINT", "UHUGEINT", "UUID")


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column as DuckDB describes it."""

    name: str
    #: its type as DuckDB writes it
    declared: str

    @property
    def form(self) -> str:
        """Return the SQL that selects the column; {} stands for its name."""
        if _NESTED.fullmatch(self.declared):
            return "CAST(to_json({}) AS VARCHAR)"
        if _DECIMAL.fullmatch(self.declared):
            return "{}"
        return _TYPES.get(self.declared, ("CAST({} AS VARCHAR)", None))[0]

    @property
    def field(self) -> pa.Field:
        """Return the Arrow field: the name and the exported type."""
        if _NESTED.fullmatch(self.declared) or self.declared == "JSON":
            return pa.field(self.name, pa.string(), metadata=IS_JSON)
        if digits := _DECIMAL.fullmatch(self.declared):
            return pa.field(self.name, decimal_type(int(digits[1]), int(digits[2])))
        return pa.field(self.name, _TYPES.get(self.declared, ("", pa.string()))[1])

    @property
    def is_ordered(self) -> bool:
        """Return True if the column can order the rows: a comparison with a literal follows its sort order."""
        return self.declared in _KEYS or _DECIMAL.fullmatch(self.declared) is not None


class Table:
    """The table of a dataset as it was when the reader was opened. `check_unchanged` compares it with the file."""

    def __init__(self, dataset: Dataset, connection: Connection) -> None:
        """Read the description. Raises DatasetAway, or Fatal if the table or a column is missing or unsuitable."""
        self._dataset = dataset
        self._connection = connection
        #: the qualified name
        self.name = self._find()
        self.columns = self._described()
        check_table(dataset, self.types())
        #: the column of the dates, and the unique column that orders rows of equal date
        self.date, self.key = (self.columns[name] for name in (dataset.date_column, dataset.key))
        for column in (self.date, self.key):
            if not column.is_ordered:
                raise unordered_error(dataset, column.name, column.declared)
        self.date_name, self.key_name = (f"t.{_quoted(column.name)}" for column in (self.date, self.key))
        self.order = f"{self.date_name}, {self.key_name}"

    def types(self) -> dict[str, pa.DataType]:
        """Return name and exported type of every column."""
        return {name: column.field.type for name, column in self.columns.items()}

    @property
    def date_kind(self) -> str:
        """Return "date", "naive", "aware" or "": the *kind* of the date column, see `date_conditions`."""
        return _DATE_KINDS.get(self.date.declared, "")

    def selected(self, name: str) -> str:
        """Return the SQL that selects a column."""
        return self.columns[name].form.format(f"t.{_quoted(name)}")

    def selected_key(self) -> str:
        """Return the SQL that selects the key as a place stores it: bytes and text unchanged, other types as text."""
        is_plain = self.key.declared in ("VARCHAR", "BLOB")
        return self.key_name if is_plain else f"CAST({self.key_name} AS VARCHAR)"

    def key_from(self, parameter: str) -> str:
        """Return the SQL that converts a parameter, the key of a place, to the type of the key column."""
        return f"CAST({parameter} AS {self.key.declared})"

    def check_unchanged(self, names: list[str]) -> None:
        """Raise Fatal if the date, the key or one of these columns has changed since the reader was opened."""
        if error := changed_column_error(self._dataset, names, self.columns, self._described()):
            raise error

    def _find(self) -> str:
        found = self._connection.query(
            "SELECT table_schema, table_name FROM information_schema.tables WHERE table_catalog = current_database() "
            "AND (table_name = $1 AND table_schema = current_schema() OR table_schema || '.' || table_name = $1) "
            "ORDER BY table_name = $1 DESC",
            [self._dataset.table],
        )
        if not found:
            raise missing_table_error(self._dataset)
        return ".".join(map(_quoted, found[0]))

    def _described(self) -> dict[str, Column]:
        rows = self._connection.query(f"DESCRIBE {self.name}")
        return {row[0]: Column(name=row[0], declared=row[1]) for row in rows}


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
