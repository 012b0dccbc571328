"""Cancel the statement of a reader from a thread other than the reader's own."""

from __future__ import annotations

import logging
from collections.abc import Callable

from jobmanager.jobs.export.datasets import Dataset, DatasetAway

_log = logging.getLogger(__name__)


class Cancellation:
    """Cancels the statements of one reader. A cancelled reader stays cancelled."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self.is_requested = False
        self._cancels: list[Callable[[], None]] = []

    def add(self, cancel: Callable[[], None]) -> None:
        """Add a connection. *cancel* is called in another thread, and ends the running statement, if there is one.

        *cancel* may raise, for example if the connection was closed meanwhile.
        """
        self._cancels.append(cancel)

    def request(self) -> None:
        """Cancel the running statement, and make each later one fail. May block for seconds.

        Repeat the call until the reader's thread has ended: a call between two statements finds nothing to cancel.
        """
        self.is_requested = True
        for cancel in tuple(self._cancels):
            try:
                cancel()
            except Exception:
                # The statement or the connection has ended meanwhile, or the server does not answer. An error must
                # neither spare the statements of the other connections nor end the closing of the reader.
                _log.debug("A statement of dataset %r could not be cancelled.", self._dataset.name, exc_info=True)

    def check(self) -> None:
        """Raise DatasetAway if the reader was cancelled. Called before each statement."""
        if self.is_requested:
            raise self.error()

    def error(self) -> DatasetAway:
        """Return the error for a statement that was cancelled."""
        return DatasetAway(f"The read of dataset {self._dataset.name!r} was cancelled.")
