"""A table of PostgreSQL as the catalog describes it: its columns, and the order in which its rows are exported.

Runs queries of the catalog only; reads no rows.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from psycopg import sql
from psycopg.rows import dict_row

from jobmanager.jobs.export.datasets import Dataset
from jobmanager.jobs.export.readers.errors import changed_column_error, missing_table_error, unusable_error
from jobmanager.jobs.export.readers.postgresql_columns import Column, column_of
from jobmanager.jobs.export.readers.postgresql_session import Session
from jobmanager.jobs.export.schemas import check_table

#: The *kind* of each date type, see `date_conditions`.
_DATE_KINDS = {"date": "date", "timestamp": "naive", "timestamptz": "aware"}
_RELATIONS = """
    SELECT c.oid, n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
        AND (c.relname = %(table)s AND pg_table_is_visible(c.oid) OR n.nspname || '.' || c.relname = %(table)s)
    ORDER BY c.relname = %(table)s DESC
"""
#: The columns of a table. For a column whose type is a domain, kind and modifier are those of the base type.
_COLUMNS = """
    WITH RECURSIVE typed AS (
        SELECT attname, attnum, format_type(atttypid, atttypmod) AS declared, attnotnull,
            atttypid AS type, atttypmod AS modifier, attcollation
        FROM pg_attribute WHERE attrelid = {relation} AND attnum > 0 AND NOT attisdropped
        UNION ALL
        SELECT attname, attnum, declared, attnotnull, typbasetype, typtypmod, attcollation
        FROM typed JOIN pg_type ON pg_type.oid = type WHERE typtype = 'd'
    )
    SELECT attname::text AS name, attnum::int AS number, declared, modifier, NOT attnotnull AS is_nullable,
        attcollation::bigint AS collation,
        coalesce(collisdeterministic, true) AND typname <> 'citext' AS is_deterministic,
        CASE WHEN typtype = 'c' THEN 'composite'
            WHEN typcategory = 'A' AND typelem = 'json'::regtype THEN 'json array'
            WHEN typcategory = 'A' THEN 'array'
            WHEN typnamespace = 'pg_catalog'::regnamespace THEN typname::text
            ELSE 'other' END AS kind
    FROM typed JOIN pg_type ON pg_type.oid = type LEFT JOIN pg_collation ON pg_collation.oid = attcollation
    WHERE typtype <> 'd' ORDER BY attnum
"""
#: The valid indexes without expressions. The operator class shows whether an index compares as citext.
_INDEXES = """
    SELECT array_agg(k.attnum::int ORDER BY k.ordinal) AS columns,
        max(k.compared_by::bigint) FILTER (WHERE k.attnum = %(key)s) AS collation,
        bool_or(o.opcname = 'citext_ops') AS is_citext,
        i.indisunique AND i.indpred IS NULL AS is_unique
    FROM pg_index i
    CROSS JOIN LATERAL unnest(i.indkey::int2[], i.indcollation::oid[], i.indclass::oid[])
        WITH ORDINALITY AS k (attnum, compared_by, class, ordinal)
    JOIN pg_opclass o ON o.oid = k.class
    WHERE i.indrelid = %(relation)s AND i.indisvalid AND i.indexprs IS NULL AND k.ordinal <= i.indnkeyatts
    GROUP BY i.indexrelid, i.indisunique, i.indpred
"""


class Table:
    """The table of a dataset as it was when the reader was opened. `check_unchanged` compares it with the catalog."""

    def __init__(self, dataset: Dataset, session: Session) -> None:
        """Read the description from the catalog. Raises DatasetAway, or Fatal if the table or a column is missing."""
        self._dataset = dataset
        self._session = session
        self._relation, schema, table = self._find()
        #: the qualified name
        self.name = sql.Identifier(schema, table)
        self.columns = self._catalog_columns()
        check_table(dataset, self.types())
        #: the column of the dates, and the unique column that orders rows of equal date
        self.date, self.key = (self.columns[name] for name in (dataset.date_column, dataset.key))
        #: OID of the collation that orders the keys; True if a unique index rules out rows with the same date and key
        self.collation, self.is_proven_unique = self._order_of_key()
        self.date_name, key_name = (sql.Identifier("t", column.name) for column in (self.date, self.key))
        #: the key as every statement compares it
        self.key_name = sql.Composed([key_name, self._collate()])

    def types(self) -> dict[str, pa.DataType]:
        """Return name and exported type of every column."""
        return {name: column.field.type for name, column in self.columns.items()}

    @property
    def date_kind(self) -> str:
        """Return "date", "naive", "aware" or "": the *kind* of the date column, see `date_conditions`."""
        return _DATE_KINDS.get(self.date.kind, "")

    def catalog_query(self) -> sql.Composed:
        """Return the query that reads the columns from the catalog. `check_unchanged` takes the rows of its result."""
        return sql.SQL(_COLUMNS).format(relation=self._relation)

    def check_unchanged(self, names: list[str], rows: list[dict[str, Any]]) -> None:
        """Raise Fatal if the date, the key or one of the columns *names* has changed. *rows*: see `catalog_query`."""
        now = {row["name"]: column_of(row) for row in rows}
        if error := changed_column_error(self._dataset, names, self.columns, now):
            raise error

    def altered_error(self) -> Exception:
        """Return the error for a statement that names a column that no longer exists. Reads the catalog.

        Raises Fatal if the table no longer exists.
        """
        self._find()
        now = self._catalog_columns()
        return changed_column_error(self._dataset, self.columns, self.columns, now) or unusable_error(self._dataset)

    def _find(self) -> tuple[int, str, str]:
        """Return OID, schema and name of the table. Raises Fatal if it does not exist."""
        found = self._session.query(sql.SQL(_RELATIONS), params={"table": self._dataset.table})
        if not found:
            raise missing_table_error(self._dataset)
        return found[0][0], found[0][1], found[0][2]

    def _catalog_columns(self) -> dict[str, Column]:
        rows = self._session.query(self.catalog_query(), row_factory=dict_row)
        return {row["name"]: column_of(row) for row in rows}

    def _order_of_key(self) -> tuple[int, bool]:
        """Return the collation that orders the keys, and True if a unique index rules out rows with equal date and key.

        By default, the collation is the one of the key column. It is the collation of an index instead if that index
        helps the export and no index with the column's own collation does. An index on (date, key) helps. But if the
        column's collation treats different texts as equal, a unique index that distinguishes these texts helps instead.
        """
        numbers = self.date.number, self.key.number
        given = {"relation": self._relation, "key": self.key.number}
        indexes = self._session.query(sql.SQL(_INDEXES), params=given, row_factory=dict_row)
        serving = [index for index in indexes if tuple(index["columns"][:2]) == numbers]
        unique = [index for index in indexes if index["is_unique"] and set(index["columns"]) <= set(numbers)]
        own, key = self.key.collation, self.key
        others = [index["collation"] for index in serving if index["collation"] not in (own, None)]
        if not key.is_deterministic:
            others = [index["collation"] for index in unique if index["collation"] not in (own, None)]
        elif any(index["collation"] == own for index in serving):
            others = []
        collation = others[0] if others and self._tells_apart(others[0]) else own
        return collation, any(self._excludes_ties(index, collation) for index in unique)

    def _excludes_ties(self, index: dict[str, Any], collation: int) -> bool:
        """Return True if a unique index rules out rows whose date and key are equal in the order of the export.

        *collation*: the collation that orders the keys.
        """
        if index["collation"] is None:
            return True  # the index does not have the key: the dates alone are unique
        if self.key.is_deterministic or collation != self.key.collation:
            return True
        # Texts that the column treats as equal may differ in the index. So the index rules out ties only if it compares
        # texts as the column does.
        is_citext = self.key.declared.rpartition(".")[2] == "citext"
        return bool(index["collation"] == collation and index["is_citext"] == is_citext)

    def _tells_apart(self, collation: int) -> bool:
        query = sql.SQL("SELECT collisdeterministic FROM pg_collation WHERE oid = {}").format(collation)
        # The operators of citext ignore the letter case in every collation.
        return self.key.kind != "other" and bool(self._session.query(query)[0][0])

    def _collate(self) -> sql.Composable:
        """Return the COLLATE clause for the key; empty if the export orders keys by their column's own collation."""
        if self.collation == self.key.collation:
            return sql.SQL("")
        query = sql.SQL(
            "SELECT nspname, collname FROM pg_collation c JOIN pg_namespace n ON n.oid = collnamespace WHERE c.oid = {}"
        )
        return sql.SQL(" COLLATE {}").format(sql.Identifier(*self._session.query(query.format(self.collation))[0]))
