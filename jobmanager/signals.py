"""The three Events behind `checkpoint()`, and the rules by which they are set.

`halt` means "leave your work at the next checkpoint": it is all that running code looks at.
`resume` wakes a parked thread. `stop` says that the job has to end for good.
"""

from __future__ import annotations

import threading
import time

from jobmanager.errors import Interrupt, TimedOut


class Signals:
    """What other threads tell a job's thread. Every method may be called from any thread."""

    def __init__(self) -> None:
        self.halt = threading.Event()
        self.resume = threading.Event()
        self.stop = threading.Event()
        self.stop_asked_at: float | None = None  # for the first time, by the monotonic clock
        self._lock = threading.Lock()  # guards the combination of Events, and interrupt
        self._interrupt: Interrupt | None = None
        self._is_quiet = False

    @property
    def interrupt(self) -> Interrupt | None:
        """What the thread has to raise instead of going on, if anything but a stop."""
        return self._interrupt

    @property
    def is_quiet(self) -> bool:
        """Tell whether the job is about to be cleaned, so that no halt and no stop disturbs it any more."""
        return self._is_quiet

    def take(self) -> None:
        """Clear what was asked, before the store is asked what holds now; a stop and an interrupt stay.

        Whatever is asked from here on is met at the next checkpoint, or wakes the thread that parks in this one.
        """
        with self._lock:
            if not self.stop.is_set() and self._interrupt is None:
                self.halt.clear()
                self.resume.clear()

    def quiet(self) -> None:
        """From now on pay no heed to halts, stops and timeouts: `clean` is next. Other interrupts are heard."""
        with self._lock:
            self._is_quiet = True
            self.stop.clear()
            if isinstance(self._interrupt, TimedOut):
                self._interrupt = None
            if self._interrupt is None:
                self.halt.clear()

    def ask_halt(self) -> None:
        """Have the thread park at its next checkpoint."""
        with self._lock:
            if not self._is_quiet and not self.stop.is_set() and self._interrupt is None:
                # Resume stays set: the thread that it has to wake may not have looked yet.
                self.halt.set()

    def ask_resume(self) -> None:
        """Wake the thread if it is parked; take back a halt that it has not met yet."""
        with self._lock:
            if not self.stop.is_set() and self._interrupt is None:
                self.halt.clear()
                self.resume.set()

    def ask_stop(self) -> None:
        """Have the thread end for good, whether it works, waits or is parked."""
        with self._lock:
            if self._is_quiet:
                return
            self.stop.set()
            if self.stop_asked_at is None:
                self.stop_asked_at = time.monotonic()
            # Running code looks at halt only, a parked thread waits on resume only.
            self.halt.set()
            self.resume.set()

    def ask_interrupt(self, interrupt: Interrupt) -> None:
        """Have the thread raise *interrupt* at its next checkpoint, or at once if it is parked; the first counts."""
        with self._lock:
            if self._is_quiet and isinstance(interrupt, TimedOut):
                return
            self._interrupt = self._interrupt or interrupt
            self.halt.set()
            self.resume.set()
