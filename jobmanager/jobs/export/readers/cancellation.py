"""Cancel the statement of a reader from another thread than the one that reads."""

from __future__ import annotations

from collections.abc import Callable

from jobmanager.jobs.export.datasets import Dataset, DatasetAway


class Cancellation:
    """Whether a reader was cancelled, and how to cancel the statements of its connections. Never reset."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self.is_requested = False
        self._cancels: list[Callable[[], None]] = []

    def add(self, cancel: Callable[[], None]) -> None:
        """Add a connection. *cancel* ends its running statement, if there is one; another thread calls it."""
        self._cancels.append(cancel)

    def request(self) -> None:
        """Cancel the running statement, and make each later one fail. May block for seconds.

        Call it until the reader's thread has ended: between two statements there is nothing to cancel.
        """
        self.is_requested = True
        for cancel in tuple(self._cancels):
            cancel()

    def check(self) -> None:
        """Raise DatasetAway if the reader was cancelled. Called before each statement."""
        if self.is_requested:
            raise self.error()

    def error(self) -> DatasetAway:
        """Return the error for a statement that was cancelled."""
        return DatasetAway(f"The read of dataset {self._dataset.name!r} was cancelled.")
