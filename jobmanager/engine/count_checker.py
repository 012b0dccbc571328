"""Check the counts of jobs from time to time, in a thread of its own."""

from __future__ import annotations

import logging
import threading

from jobmanager.errors import JobManagerError
from jobmanager.store import Store

_log = logging.getLogger(__name__)


class CountChecker:
    """Starts a thread for each check. A check of ten million jobs takes seconds, and must not block the dispatcher."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._thread: threading.Thread | None = None  # of the latest check

    def start(self) -> None:
        """Start a check, unless one is under way. Does not block."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._correct_count, name="jobmanager-counts", daemon=True)
            self._thread.start()

    def join(self, timeout_seconds: float) -> None:
        """Wait for a check under way, for *timeout_seconds* at most."""
        if self._thread is not None:
            self._thread.join(timeout_seconds)

    def _correct_count(self) -> None:
        try:
            missed = self._store.correct_count()
        except JobManagerError as error:
            _log.warning("The counts of jobs could not be checked: %s", error)
            return
        if missed:
            told = ", ".join(f"{number:+} {name} {status}" for (name, status), number in sorted(missed.items()))
            _log.warning("The counts of jobs were wrong and are corrected now: %s.", told)
