"""How the rows of a SQLite table are ordered, and the segments of a range that are read one after the other.

Chooses the order by the indexes that the table has. Reads no rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import pyarrow as pa

from jobmanager.errors import Fatal
from jobmanager.jobs.export.datasets import Dataset
from jobmanager.jobs.export.position import Place
from jobmanager.jobs.export.readers.errors import duplicate_key_error
from jobmanager.jobs.export.readers.sqlite_connection import Connection
from jobmanager.jobs.export.readers.sqlite_dates import Dates
from jobmanager.jobs.export.readers.sqlite_table import Table
from jobmanager.jobs.export.readers.sqlite_values import bound


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """How the rows of a range compare, and whether an index has them in that order."""

    #: COLLATE clause for date and key in every comparison; "": their columns keep their own collations
    collation: str
    #: True if an index has the rows in the order of date and key
    is_indexed: bool
    #: True if an index has the rows in the order of the date, even if not in the order of the key
    has_dates: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A part of the range that is read from its beginning to its end."""

    #: a FROM clause without the word FROM
    source: str
    condition: str
    #: the parameters of the condition
    bounds: list[Any]
    #: an ORDER BY clause without the words ORDER BY
    order: str


class RowOrder:
    """Chooses the order in which the rows of one table are read, and splits a range into segments in that order."""

    def __init__(self, table: Table, dates: Dates, connection: Connection) -> None:
        self._table = table
        self._dates = dates
        self._connection = connection
        self._chosen: Order | None = None

    def choose(self, begin: datetime, end: datetime) -> Order:
        """Return how date and key compare: byte by byte, or in their columns' own collations.

        Prefers the comparison for which an index has the rows in order; byte by byte if both are equally good.
        Queries the file at the first call. Later calls return the same order, until `forget` is called.
        """
        if self._chosen is None:
            orders = [self._explained(collation, begin, end) for collation in (" COLLATE BINARY", "")]
            self._chosen = next(
                (order for order in orders if order.is_indexed),
                next((order for order in orders if order.has_dates), orders[0]),
            )
        return self._chosen

    def forget(self) -> None:
        """Forget the chosen order, because the indexes may have changed: the next call of `choose` chooses again."""
        self._chosen = None

    def segments(self, after: Place | None, begin: datetime, end: datetime) -> list[Segment]:
        """Return the segments to read, one after the other, for the rows of [begin, end) after *after*.

        Without *after*, returns one segment. Otherwise returns two. The first has the remaining rows with the date of
        *after*, and the second has the rows with later dates. The single condition `(date, key) > (?, ?) AND date < ?`
        would be slow: SQLite 3.40 does not look up the key in its index, and scans all rows of a date for each chunk.
        """
        order = self.choose(begin, end)
        whole = self._range(order, begin, end)
        if after is None:
            return [whole]
        date, key = self._table.date + order.collation, self._table.key + order.collation
        high = whole.bounds[1]
        at, behind = bound(after.date), bound(after.key)
        return [
            replace(whole, condition=f"{date} = ? AND {key} > ?", bounds=[at, behind]),
            replace(whole, condition=whole.condition.replace(">=", ">", 1), bounds=[at, high]),
        ]

    def _explained(self, collation: str, begin: datetime, end: datetime) -> Order:
        tried = Order(collation=collation, is_indexed=True, has_dates=True)
        segment = self._range(tried, begin, end)
        plan = self._connection.query(
            f"EXPLAIN QUERY PLAN SELECT {self._table.name}.* FROM {segment.source} WHERE {segment.condition} "
            f"ORDER BY {segment.order} LIMIT 1",
            segment.bounds,
        )["detail"].to_pylist()
        is_sorted = any("TEMP B-TREE FOR" in step for step in plan)
        is_scan = not any(step.startswith("SEARCH") for step in plan)
        sorts_all = any("TEMP B-TREE FOR ORDER BY" in step for step in plan)
        return replace(tried, is_indexed=not is_sorted and not is_scan, has_dates=not sorts_all and not is_scan)

    def _range(self, order: Order, begin: datetime, end: datetime) -> Segment:
        low, high, exact = self._dates.bounds(begin, end)
        date, key = self._table.date + order.collation, self._table.key + order.collation
        return Segment(
            source=self._table.name,
            condition=f"{date} >= ? AND {date} < ?{exact}",
            bounds=[low, high],
            order=date if self._table.date == self._table.key else f"{date}, {key}",
        )


def select(connection: Connection, selected: str, segment: Segment, limit: int, *, offset: int = 0) -> pa.Table:
    """Select up to *limit* rows of a segment, in its order. *selected*: the expressions to select, in SQL."""
    return connection.query(
        f"SELECT {selected} FROM {segment.source} WHERE {segment.condition} ORDER BY {segment.order} "
        f"LIMIT {limit}" + (f" OFFSET {offset}" if offset else ""),
        segment.bounds,
        batch_rows=max(1, limit),
    )


def ambiguous_key_error(dataset: Dataset, order: Order, date: Any, key: Any) -> Fatal:
    """Return the error for several rows with the same date and key, compared as in *order*."""
    way = "byte by byte" if order.collation else "in the collation of its column, which an index has"
    return duplicate_key_error(dataset, date, key, way)
