"""Decide how long the dispatcher may sleep before it polls the store again.

An idle process spends most of its CPU time on waking up. Longer intervals save CPU, but a commit is noticed later.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

from jobmanager.engine.wakeup import Alarm
from jobmanager.store import Watch

#: Poll interval for commits of other processes. Notifications wake the engine sooner, but no more often than this. They
#: may be lost, so polling is needed all the same.
WATCH_SECONDS = 0.02
#: Poll interval of an idle process that cannot receive notifications.
DEAF_WATCH_SECONDS = 0.04
#: Poll interval of an idle process that can receive notifications.
IDLE_WATCH_SECONDS = 0.25
#: A process without jobs and without waiting callers counts as idle if nothing has happened for this long.
LULL_SECONDS = 1.0


class Listener:
    """Lets the dispatcher sleep until there may be something to do. For the dispatcher's thread."""

    def __init__(self, wake: Alarm, now: Callable[[], datetime], clock: Callable[[], float] = time.monotonic) -> None:
        """*now* returns the time by the store's clock, which decides when a job is due."""
        self._wake = wake
        self._now = now
        self._clock = clock
        self._acted_at = float("-inf")  # when there was last something to do (monotonic)
        self._heard_at = float("-inf")  # when a commit was last announced or found (monotonic)
        #: when the next waiting job becomes due; None if there is none
        self.due_at: datetime | None = None

    def is_due(self) -> bool:
        """Return True if a waiting job has become due."""
        return self.due_at is not None and self.due_at <= self._now()

    def note_commit(self) -> None:
        """Note that a commit was found. For the next WATCH_SECONDS, notifications do not end a sleep."""
        self._heard_at = self._clock()

    def note_work(self) -> None:
        """Note that there was something to do: the process is not idle."""
        self._acted_at = self._clock()

    def sleep(self, watch: Watch, *, is_busy: bool) -> None:
        """Sleep until there may be something to do. *is_busy*: the process has jobs, or callers that wait."""
        patience = self._patience(watch.fileno(), is_busy)
        deaf_until = self._heard_at + WATCH_SECONDS - self._clock()
        if deaf_until > 0:
            self._wake.wait(min(deaf_until, patience), None)
            patience -= deaf_until
        if patience > 0 and self._wake.wait(patience, watch.fileno()):
            self._heard_at = self._clock()

    def _patience(self, ear: int | None, is_busy: bool) -> float:
        """Return the seconds until the next poll. *ear*: the descriptor of notifications; None if there are none."""
        if is_busy or self._clock() - self._acted_at < LULL_SECONDS:
            return WATCH_SECONDS
        if ear is None:
            return DEAF_WATCH_SECONDS
        if self.due_at is None:
            return IDLE_WATCH_SECONDS
        until_due = (self.due_at - self._now()).total_seconds()
        return max(WATCH_SECONDS, min(until_due, IDLE_WATCH_SECONDS))
