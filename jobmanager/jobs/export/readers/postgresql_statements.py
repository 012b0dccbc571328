"""The SQL that reads the rows of a PostgreSQL table. Values are literals, because COPY takes no parameters.

Runs no statement itself. But building a query may run another one, which detects the date format: see date_bounds.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from psycopg import sql

from jobmanager.jobs.export.position import Place
from jobmanager.jobs.export.readers.date_bounds import DateBounds
from jobmanager.jobs.export.readers.postgresql_columns import Column
from jobmanager.jobs.export.readers.postgresql_table import Table

#: Number of values sampled from each end of the date column, to detect its format.
_SAMPLE_ROWS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class RowQuery:
    """A SELECT of rows, with the positions of its date and its key column."""

    text: sql.Composed
    date: int
    key: int


class Statements:
    """Builds the queries of one reader: for rows, counts and checks."""

    def __init__(self, table: Table, dates: DateBounds) -> None:
        self._table = table
        self._dates = dates

    def rows(self, columns: list[str], after: Place | None, begin: datetime, end: datetime, limit: int) -> RowQuery:
        """Return the SELECT of the next rows of [begin, end) after *after*."""
        selected = [_selected(self._table.columns[name]) for name in columns]
        date, key = _selected(self._table.date), self._selected_key()
        # The place of a row is its date and key. Add each of the two unless it is selected already.
        for place in (date, key):
            if place not in selected:
                selected.append(place)
        text = sql.SQL("SELECT {} {} ORDER BY {} LIMIT {}").format(
            # The columns are named by number, because names must be unique.
            sql.SQL(", ").join(
                sql.SQL("{} AS {}").format(name, sql.Identifier(str(number))) for number, name in enumerate(selected)
            ),
            self._source(after, begin, end),
            self._order(),
            limit,
        )
        return RowQuery(text=text, date=selected.index(date), key=selected.index(key))

    def count(self, after: Place | None, begin: datetime, end: datetime) -> sql.Composed:
        """Return the query that counts the rows of [begin, end) after *after*."""
        return sql.SQL("SELECT count(*) {}").format(self._source(after, begin, end))

    def place_at(self, number: int, after: Place | None, begin: datetime, end: datetime) -> sql.Composed:
        """Return the query for date and key of row *number* of [begin, end), counted from 1 after *after*."""
        return sql.SQL("SELECT {}, {} {} ORDER BY {} LIMIT 1 OFFSET {}").format(
            self._table.date_name, self._selected_key(), self._source(after, begin, end), self._order(), number - 1
        )

    def null_keys(self) -> sql.Composed:
        """Return the query that finds a row whose key is NULL, if there is one."""
        return sql.SQL("SELECT 1 FROM {} AS t WHERE {} IS NULL AND {} IS NOT NULL LIMIT 1").format(
            self._table.name, self._table.key_name, self._table.date_name
        )

    def ties(self) -> sql.Composed:
        """Return the query that finds a date and key that several rows have, if there are such rows."""
        return sql.SQL(
            "SELECT {date}::text, min({key}::text) FROM {table} AS t WHERE {date} IS NOT NULL "
            "GROUP BY {date}, {order} HAVING count(*) > 1 LIMIT 1"
        ).format(
            date=self._table.date_name,
            key=sql.Identifier("t", self._table.key.name),
            order=self._table.key_name,
            table=self._table.name,
        )

    def columns_with_check(self, after: Place | None) -> sql.Composed:
        """Return the query for the columns in the catalog, each with two conditions on the place *after*.

        "lost": a row with the date of *after* has a NULL key. "tied": several rows have the date and key of *after*.
        """
        return sql.SQL("SELECT c.*, {} AS lost, {} AS tied FROM ({}) AS c").format(
            *self._lost(after), self._table.catalog_query()
        )

    def unreadable_texts(self, number: int, query: RowQuery) -> sql.Composed:
        """Return a query that fails if a text in column *number* of *query* cannot be converted to UTF-8."""
        return sql.SQL("SELECT count(octet_length(convert_to({}, 'UTF8'))) FROM ({}) AS c").format(
            sql.Identifier("c", str(number)), query.text
        )

    def _lost(self, after: Place | None) -> tuple[sql.Composable, sql.Composable]:
        """Return the conditions "lost" and "tied", see `columns_with_check`.

        If a condition cannot be true, returns a false condition that names the table. The statement must name the table
        in any case, because naming it locks the table.
        """
        table = self._table
        touch = sql.SQL("EXISTS (SELECT 1 FROM {} AS t WHERE false)").format(table.name)
        if after is None:
            return touch, touch
        same_date = sql.SQL("FROM {} AS t WHERE {} = {}").format(table.name, table.date_name, after.date)
        null = sql.SQL("EXISTS (SELECT 1 {} AND {} IS NULL)").format(same_date, table.key_name)
        several = sql.SQL("(SELECT count(*) FROM (SELECT 1 {} AND {} = {} LIMIT 2) AS same) > 1").format(
            same_date, table.key_name, after.key
        )
        return null if table.key.is_nullable else touch, touch if table.is_proven_unique else several

    def _source(self, after: Place | None, begin: datetime, end: datetime) -> sql.Composable:
        """Return FROM and WHERE for the rows of [begin, end) after *after*."""
        conditions = [
            sql.SQL("{} {} {}").format(self._table.date_name, sql.SQL(operator), bound)
            for operator, bound in self._dates.conditions(begin, end)
        ]
        if after is not None:
            conditions.append(sql.SQL("({}) > ({}, {})").format(self._order(), after.date, after.key))
        return sql.SQL("FROM {} AS t WHERE {}").format(self._table.name, sql.SQL(" AND ").join(conditions))

    def _order(self) -> sql.Composable:
        return sql.SQL("{}, {}").format(self._table.date_name, self._table.key_name)

    def _selected_key(self) -> sql.Composable:
        """Return the SQL that selects the key as a place stores it."""
        name = sql.Identifier("t", self._table.key.name)
        return name if self._table.key.is_plain_key else sql.SQL("CAST({} AS text)").format(name)


def date_sample(table: Table) -> sql.Composed:
    """Return the query for a sample of the date column: its first and last values."""
    ends = [
        sql.SQL(
            "(SELECT {date} AS at FROM {table} AS t WHERE {date} IS NOT NULL ORDER BY {date} {way} LIMIT {n})"
        ).format(date=table.date_name, table=table.name, way=sql.SQL(way), n=_SAMPLE_ROWS)
        for way in ("ASC", "DESC")
    ]
    return sql.SQL(" UNION ALL ").join(ends)


def _selected(column: Column) -> sql.Composable:
    return sql.SQL(column.form).format(sql.Identifier("t", column.name))
