"""For a SQLite table without an index: sort its rows once, into a temporary table that is read chunk by chunk.

Keeps only date, key and rowid of each row. A rollback removes the temporary table: call `forget` after a rollback.
"""

from __future__ import annotations

from jobmanager.jobs.export.datasets import Dataset
from jobmanager.jobs.export.position import Place
from jobmanager.jobs.export.readers.errors import null_key_error
from jobmanager.jobs.export.readers.sqlite_connection import Connection
from jobmanager.jobs.export.readers.sqlite_order import Order, Segment, ambiguous_key_error
from jobmanager.jobs.export.readers.sqlite_table import Table
from jobmanager.jobs.export.readers.sqlite_values import bound


class SortedRows:
    """The rows of one table, sorted into a temporary table."""

    def __init__(self, dataset: Dataset, table: Table, connection: Connection) -> None:
        self._dataset = dataset
        self._table = table
        self._connection = connection
        #: the last place read from the temporary table, and its position there; None if the rows are not sorted
        self._until: tuple[Place | None, int] | None = None

    @property
    def is_in_use(self) -> bool:
        """Return True if the rows are sorted.

        Sorting also checks that no key is NULL, and that no two rows have the same date and key.
        """
        return self._until is not None

    def forget(self) -> None:
        """Forget the temporary table: the next call of `segment` sorts the rows again."""
        self._until = None

    def segment(self, after: Place | None, segments: list[Segment], row_id: str) -> Segment:
        """Return the rows after *after* as one sorted segment. *segments*: the same rows, unsorted.

        Sorts the rows first, unless *after* is the last place that was read from the temporary table.
        """
        if self._until is None or self._until[0] != after:
            self._sort(segments, row_id)
            self._until = (after, 0)
        # Leave out a row whose date or key has changed since the rows were sorted. This is no new kind of gap: every
        # reader leaves out a row that moves to before the current place.
        return Segment(
            source=f"temp.sorted AS sorted CROSS JOIN {self._table.name} ON {row_id} = sorted.row",
            condition=f"sorted.rowid > ? AND {self._table.date} = sorted.date AND {self._table.key} = sorted.key",
            bounds=[self._until[1]],
            order="sorted.rowid",
        )

    def keep_position(self, place: Place) -> None:
        """Remember that the rows were read up to *place*. Does nothing if the rows are not sorted."""
        if self._until is None:
            return
        query = (
            "SELECT max(rowid) AS n FROM (SELECT sorted.rowid FROM temp.sorted AS sorted "
            "WHERE sorted.rowid > ? AND sorted.date = ? AND sorted.key = ? LIMIT 1)"
        )
        found = self._connection.query(query, [self._until[1], bound(place.date), bound(place.key)])
        self._until = (place, found["n"][0].as_py())

    def _sort(self, segments: list[Segment], row_id: str) -> None:
        """Store date, key and rowid of the rows, sorted, in a temporary table.

        Raises Fatal if two rows have the same date and key, or a key is NULL.
        """
        self._connection.query("DROP TABLE IF EXISTS temp.sorted")
        self._connection.query("CREATE TEMP TABLE sorted (date, key, row)")
        for segment in segments:
            self._connection.query(
                f"INSERT INTO temp.sorted SELECT {self._table.date}, {self._table.key}, {row_id} "
                f"FROM {segment.source} WHERE {segment.condition} ORDER BY {segment.order}",
                segment.bounds,
            )
        if self._connection.query("SELECT 1 FROM temp.sorted WHERE key IS NULL LIMIT 1").num_rows:
            raise null_key_error(self._dataset)
        equal = "a.date = b.date AND a.key = b.key"
        pairs = "temp.sorted a CROSS JOIN temp.sorted b ON b.rowid = a.rowid + 1"
        order = Order(collation=" COLLATE BINARY", is_indexed=False, has_dates=False)
        for row in self._connection.query(f"SELECT a.date, a.key FROM {pairs} WHERE {equal} LIMIT 1").to_pylist():
            raise ambiguous_key_error(self._dataset, order, row["date"], row["key"])
