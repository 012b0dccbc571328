"""The reader of a running export: opened when it is needed, closed while the job is halted.

Decides when to connect, and compares the dataset with the plan each time. Reads no rows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from jobmanager.config import Settings
from jobmanager.errors import Fatal
from jobmanager.jobs.export import catalog, table_changes
from jobmanager.jobs.export.datasets import Dataset, DatasetAway, ListUnreadable
from jobmanager.jobs.export.plan import Plan
from jobmanager.jobs.export.reader import FixesTypes, Reader, ReaderClosed, Waits
from jobmanager.jobs.export.thread_call import ThreadCall

T = TypeVar("T")


class Source:
    """The dataset of an export, with at most one open reader."""

    def __init__(self, settings: Settings, on_wait: Callable[[], None]) -> None:
        """*on_wait* is called repeatedly while a reader waits; it may raise, or close this source."""
        self._settings = settings
        self._on_wait = on_wait
        self._reader: Reader | None = None
        self._is_snapshot = False  # True: self._reader holds a snapshot

    @property
    def holds_snapshot(self) -> bool:
        """Return True if the reader is open and holds a snapshot: a new one would read another snapshot."""
        return self._reader is not None and self._is_snapshot

    def load_dataset(self, name: str | None) -> Dataset:
        """Return the dataset as it is configured now.

        Raises Fatal if the dataset cannot be used, DatasetAway if the operator's list cannot be read.
        """
        try:
            return catalog.find_dataset(name, self._settings)
        except ListUnreadable as error:
            # The operator may be editing the list. An edit must not fail running exports.
            raise DatasetAway(f"{error}.") from None
        except ValueError as error:
            raise Fatal(f"{error}.") from None

    def connect(self, dataset: Dataset) -> Reader:
        """Open a reader, which `close` closes. Blocks, but obeys a halt.

        Raises DatasetAway, Fatal, and ReaderClosed if a halt closed the reader meanwhile.
        """
        reader = self._reader = catalog.open_reader(dataset)
        if isinstance(reader, Waits):
            reader.on_wait = self._on_wait
        reader.columns()  # connects, and takes the snapshot
        self._is_snapshot = dataset.snapshot
        return reader

    def reader(self, plan: Plan) -> Reader:
        """Return the reader; open it if it is closed. Raises Fatal if the dataset no longer matches the plan."""
        return self._reader or retry_if_closed(partial(self._reopen, plan))

    def close(self) -> None:
        """Close the reader. The next call of `reader` opens another one."""
        if self._reader is not None:
            self._reader.close()
        # Not before: if a force interrupts the closing, the next call of `close` has to close the reader.
        self._reader, self._is_snapshot = None, False

    def find_mark(self, dataset: Dataset) -> str | None:
        """Return table_changes.find_mark(dataset). Blocks, but obeys a halt."""
        return ThreadCall(partial(table_changes.find_mark, dataset), name="marks").start().result(self._on_wait)

    def _reopen(self, plan: Plan) -> Reader:
        if plan.snapshot:
            raise DatasetAway(f"The snapshot of dataset {plan.dataset!r} is gone.")
        dataset = self.load_dataset(plan.dataset)
        plan.check_dataset(dataset)
        reader = self.connect(plan.applied(dataset))
        plan.check_columns(dataset, reader.columns())
        if plan.as_text is not None and isinstance(reader, FixesTypes):
            reader.fix_types(plan.as_text)
        plan.check_database(dataset, reader.schema(plan.names()), reader.identity())
        return reader


def retry_if_closed(call: Callable[[], T]) -> T:
    """Return the result of *call*. Calls it again, with a new reader, if a halt closed the reader meanwhile."""
    while True:
        try:
            return call()
        except ReaderClosed:
            continue
