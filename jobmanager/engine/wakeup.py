"""Let threads sleep: the dispatcher until an alarm is set, callers until a status may have changed."""

from __future__ import annotations

import os
import select
import threading
import weakref

from jobmanager.engine.force import unforced

#: How many bytes to read from an alarm's pipe to clear it. The pipe contains fewer: each thread writes one at most.
_MOST_BYTES = 4096


class Alarm:
    """Wakes one thread. Any thread or signal handler may set it: nothing here takes a lock."""

    def __init__(self) -> None:
        self._reading, self._writing = os.pipe()
        for end in (self._reading, self._writing):
            os.set_blocking(end, False)
            # Do not close the pipe earlier: a thread may set the alarm as long as the alarm exists.
            weakref.finalize(self, os.close, end)
        self._is_set = False

    def set(self) -> None:
        """Wake the sleeping thread, or keep the next `wait` from sleeping."""
        if not self._is_set:
            self._is_set = True
            os.write(self._writing, b"!")

    def take(self) -> bool:
        """Clear the alarm, and return True if it was set. Call this before looking for work, to miss none."""
        # Clear the flag before the pipe: then an alarm that is set meanwhile is not lost.
        was_set, self._is_set = self._is_set, False
        try:
            os.read(self._reading, _MOST_BYTES)
        except BlockingIOError:
            return was_set
        return True

    def wait(self, seconds: float, file: int | None) -> bool:
        """Sleep until the alarm is set or the descriptor *file* is readable, for *seconds* at most.

        Returns True if *file* is readable. Does not clear the alarm.
        """
        if self._is_set:
            return False
        ready = select.poll()
        ready.register(self._reading, select.POLLIN)
        if file is not None:
            ready.register(file, select.POLLIN)
        return any(number == file for number, _ in ready.poll(seconds * 1000))


class StatusVersion:
    """A number that grows whenever a status may have changed, in any process. Any thread may call the methods."""

    def __init__(self) -> None:
        self._grown = threading.Condition()  # guards _value, _waiting; notified whenever the number grows
        self._value = 0
        self._waiting = 0  # threads in `wait`

    def value(self) -> int:
        """Return the current number, to be passed to `wait`."""
        return self._value

    def grow(self) -> None:
        """Increase the number, and wake all waiting threads."""
        with self._grown:
            self._value += 1
            self._grown.notify_all()

    def has_waiting(self) -> bool:
        """Return True if any thread is in `wait`."""
        return self._waiting > 0

    def wait(self, seen: int, timeout_seconds: float) -> None:
        """Block until the number differs from *seen*, for *timeout_seconds* at most.

        Raises StopRequested, at once, if force comes due for a job whose code waits here.
        """
        with unforced(wake=self.grow), self._grown:
            self._waiting += 1
            try:
                self._grown.wait_for(lambda: self._value != seen, timeout_seconds)
            finally:
                self._waiting -= 1
