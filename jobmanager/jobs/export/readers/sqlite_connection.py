"""The connection of a reader to a SQLite file, by ADBC into Arrow: in C, without the GIL.

Uses ADBC's low-level interface, because its DB-API would import polars and more, which takes long.

Opens the file read-only. No transaction is open between two reads, so that others can write. If the dataset has
`snapshot`, all queries share one transaction.
ADBC brings its own SQLite library, which must not open files that another SQLite library of this process may have open.
The service therefore runs this module in a child process, see sqlite_process.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import quote

import adbc_driver_manager
import adbc_driver_sqlite
import pyarrow as pa

from jobmanager.errors import Fatal
from jobmanager.jobs.export.datasets import Dataset
from jobmanager.jobs.export.readers.errors import away_error

_BUSY_MILLISECONDS = 5_000
#: SQLite's messages for a statement that does not match the table. All other errors mean that the file cannot be read.
_WRONG = re.compile(r"no such (table|column|collation|function)")
#: Arrow types of the values that a statement compares with a date or a key.
_BOUND_TYPES = {int: pa.int64(), float: pa.float64(), str: pa.string(), bytes: pa.binary()}


class Connection:
    """A connection that only reads."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._is_snapshot = False  # True: one transaction lasts until the connection is closed
        with self._translated():
            self._database = adbc_driver_sqlite.connect(f"file:{quote(dataset.url.database or '')}?mode=ro")
            # This connection begins no transaction by itself. If the file has a rollback journal, an open transaction
            # would block writers.
            self._connection = adbc_driver_manager.AdbcConnection(self._database)
        try:
            self.query(f"PRAGMA busy_timeout = {_BUSY_MILLISECONDS}")
            self.query("PRAGMA temp_store = FILE")
            if dataset.snapshot:
                self.query("BEGIN")
                self._is_snapshot = True
        except BaseException:
            self.close()
            raise

    def query(self, sql: str, bounds: list[Any] | None = None, *, batch_rows: int = 1024) -> pa.Table:
        """Return the rows of a query. *bounds*: its parameters. *batch_rows*: must be at least the number of rows."""
        option = adbc_driver_sqlite.StatementOptions.BATCH_ROWS.value
        with self._translated(), adbc_driver_manager.AdbcStatement(self._connection) as statement:
            # The driver takes the type of a column from the first batch. So all rows must be in the first batch.
            statement.set_options(**{option: str(batch_rows)})
            statement.set_sql_query(sql)
            if bounds is not None:
                statement.bind(_as_batch(bounds))
            stream, _ = statement.execute_query()
            with pa.RecordBatchReader.from_stream(stream) as reader:
                return reader.read_all()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run all queries in one transaction, so that they see the same rows. For a snapshot, it is already open."""
        if self._is_snapshot:
            yield
            return
        self.query("BEGIN")
        try:
            yield
        except BaseException:
            # If the rollback fails, too, the connection is unusable. Report the first error, not the rollback's.
            with suppress(Exception):
                self.query("ROLLBACK")
            raise
        self.query("COMMIT")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
        self._database.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (adbc_driver_manager.Error, pa.ArrowException, OSError) as error:
            if _WRONG.search(str(error)):
                raise Fatal(
                    f"The {self._dataset} does not exist, or its columns have changed. Correct the list of datasets, "
                    "or submit a new export."
                ) from None
            raise away_error(self._dataset) from None


def _as_batch(bounds: list[Any]) -> pa.RecordBatch:
    """Return the parameters of a statement as an Arrow batch with explicit types.

    The driver would let Arrow infer the types. Then Arrow searches the disk for a package: 0.3 ms each time.
    """
    arrays = [pa.array([bound], _BOUND_TYPES[type(bound)]) for bound in bounds]
    return pa.record_batch(arrays, names=[str(number) for number in range(len(arrays))])
