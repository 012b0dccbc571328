"""A table of a SQLite file as its schema describes it: columns, names in SQL, rowid, and the uniqueness of the key.

Reads no rows.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from jobmanager.jobs.export.datasets import Dataset
from jobmanager.jobs.export.readers.errors import altered_error
from jobmanager.jobs.export.readers.sqlite_columns import arrow_type
from jobmanager.jobs.export.readers.sqlite_connection import Connection
from jobmanager.jobs.export.schemas import check_table


class Table:
    """The table of a dataset."""

    def __init__(self, dataset: Dataset, connection: Connection, declared: dict[str, str] | None = None) -> None:
        """Does not query the file. *declared*: the expected columns with their types; None: those of the file."""
        self._dataset = dataset
        self._connection = connection
        self._declared = dict(declared or {})
        self._version: int | None = None
        #: the quoted name
        self.name = _quote(dataset.table)
        self.date = self.column(dataset.date_column)
        self.key = self.column(dataset.key)

    def column(self, name: str) -> str:
        """Return the name of a column for SQL, qualified by its table.

        Without the qualification, SQLite would take the name of a missing column for a text.
        """
        return f"{self.name}.{_quote(name)}"

    def types(self) -> dict[str, pa.DataType]:
        """Return name and type of every column, including generated ones. Raises Fatal if date or key is missing."""
        if not self._declared:
            self._declared = self._declared_now()
        columns = {name: arrow_type(declared) for name, declared in self._declared.items()}
        check_table(self._dataset, columns)
        return columns

    def declared(self) -> dict[str, str]:
        """Return name and declared type of every column. Raises Fatal if date or key is missing."""
        self.types()
        return self._declared

    def identities(self) -> dict[str, str]:
        """Return the declared type of each column and its default, if it has one, such as "INTEGER DEFAULT 0".

        The default helps to detect that a column was dropped and added again with the same type.
        """
        found = {row["name"]: row["dflt_value"] for row in self._columns_now()}
        return {
            name: kind if found.get(name) is None else f"{kind} DEFAULT {found[name]}"
            for name, kind in self.declared().items()
        }

    def check_unchanged(self, names: list[str]) -> bool:
        """Raise Fatal if one of the columns has changed since the export began.

        Return False if the schema of the file has changed since the last call: an index may have been added or dropped.
        """
        version = self._connection.query("PRAGMA schema_version")["schema_version"][0].as_py()
        if version == self._version:
            return True
        now, declared = self._declared_now(), self._declared
        for name in names:
            if now.get(name) != declared[name]:
                raise altered_error(self._dataset, name, declared[name], now.get(name))
        self._version = version
        return False

    def is_table(self) -> bool:
        """Return True if the dataset is a table, not a view. Only a table's columns convert values (type affinity)."""
        query = (
            "SELECT 1 AS n FROM pragma_table_list WHERE schema = 'main' AND name = ? COLLATE NOCASE AND type = 'table'"
        )
        return bool(self._connection.query(query, [self._dataset.table]).num_rows)

    def row_id(self) -> str | None:
        """Return a name of the rowid for SQL; None if there is no rowid, or if columns take all its names."""
        query = "SELECT wr FROM pragma_table_list WHERE schema = 'main' AND name = ? COLLATE NOCASE AND type = 'table'"
        found = self._connection.query(query, [self._dataset.table])
        if not found.num_rows or found["wr"][0].as_py():
            return None
        taken = {name.lower() for name in self.declared()}
        free = [name for name in ("rowid", "_rowid_", "oid") if name not in taken]
        return f"{self.name}.{free[0]}" if free else None

    def is_key_certain(self, collation: str) -> bool:
        """Return True if the table's definition rules out NULL keys, and rows with the same date and key.

        *collation*: how dates and keys are compared, see Order.collation.
        """
        row = next(row for row in self._columns_now() if row["name"] == self._dataset.key)
        keys = [other for other in self._columns_now() if other["pk"]]
        if row["pk"] and len(keys) == 1 and row["type"].upper() == "INTEGER" and self.row_id() is not None:
            return True
        return bool(row["notnull"]) and self._has_unique_index(collation)

    def _has_unique_index(self, collation: str) -> bool:
        listed = self._connection.query(f"PRAGMA index_list({self.name})").to_pylist()
        for index in listed:
            if not index["unique"] or index["partial"]:
                continue
            rows = self._connection.query(f"PRAGMA index_xinfo({_quote(index['name'])})").to_pylist()
            rows = [row for row in rows if row["key"]]
            # Keys that are unique in the collation of their column are also unique byte by byte, but not vice versa.
            is_as_fine = collation != "" or all(row["coll"] != "BINARY" for row in rows)
            if is_as_fine and {row["name"] for row in rows} <= {self._dataset.key, self._dataset.date_column}:
                return True
        return False

    def _declared_now(self) -> dict[str, str]:
        return {row["name"]: row["type"] or "" for row in self._columns_now()}

    def _columns_now(self) -> list[dict[str, Any]]:
        rows = self._connection.query(f"PRAGMA table_xinfo({self.name})").to_pylist()
        # 1 marks hidden columns of virtual tables: they serve queries, and hold no data.
        return [row for row in rows if row["hidden"] != 1]


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
