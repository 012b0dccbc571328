"""The three Events behind `checkpoint()`, and the rules by which they are set.

`halt` means "leave your work at the next checkpoint": running code checks no other Event.
`resume` wakes a parked thread. `stop` means that the job has to end for good.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from jobmanager.errors import Interrupt, TimedOut


class Signals:
    """Requests of other threads to a job's thread. Any thread may call every method."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.halt = threading.Event()
        self.resume = threading.Event()
        self.stop = threading.Event()
        self.stop_asked_at: float | None = None  # time of the first stop (monotonic)
        self._lock = threading.Lock()  # guards the combination of Events, and interrupt
        self._clock = clock
        self._interrupt: Interrupt | None = None
        self._is_ignoring = False

    @property
    def interrupt(self) -> Interrupt | None:
        """The exception that the thread has to raise at its next checkpoint, if any. A stop is not an interrupt."""
        return self._interrupt

    @property
    def is_ignoring_requests(self) -> bool:
        """True if the job is about to be cleaned: halts, stops and timeouts are ignored."""
        return self._is_ignoring

    def clear_requests(self) -> None:
        """Clear halt and resume, before the job's status is read from the store. A stop and an interrupt stay.

        Later requests take effect at the next checkpoint, or wake the thread if it parks in the current one.
        """
        with self._lock:
            if not self.stop.is_set() and self._interrupt is None:
                self.halt.clear()
                self.resume.clear()

    def ignore_requests(self) -> None:
        """Ignore halts, stops and timeouts from now on: `clean` is next. Other interrupts still count."""
        with self._lock:
            self._is_ignoring = True
            self.stop.clear()
            if isinstance(self._interrupt, TimedOut):
                self._interrupt = None
            if self._interrupt is None:
                self.halt.clear()

    def ask_halt(self) -> None:
        """Make the thread park at its next checkpoint."""
        with self._lock:
            if not self._is_ignoring and not self.stop.is_set() and self._interrupt is None:
                # Do not clear resume: the thread that it has to wake may not have checked it yet.
                self.halt.set()

    def ask_resume(self) -> None:
        """Wake the thread if it is parked. Cancel a halt that has not taken effect yet."""
        with self._lock:
            if not self.stop.is_set() and self._interrupt is None:
                self.halt.clear()
                self.resume.set()

    def ask_stop(self) -> None:
        """Make the thread end its job for good, whether it works, waits or is parked."""
        with self._lock:
            if self._is_ignoring:
                return
            self.stop.set()
            if self.stop_asked_at is None:
                self.stop_asked_at = self._clock()
            # Running code checks halt only, a parked thread waits on resume only.
            self.halt.set()
            self.resume.set()

    def ask_interrupt(self, interrupt: Interrupt) -> None:
        """Make the thread raise *interrupt* at its next checkpoint, or at once if it is parked.

        If another interrupt was requested before, keeps that one.
        """
        with self._lock:
            if self._is_ignoring and isinstance(interrupt, TimedOut):
                return
            self._interrupt = self._interrupt or interrupt
            self.halt.set()
            self.resume.set()
