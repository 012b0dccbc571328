"""What a thread sleeps on that others wake, in this process by a call and in another one by the kernel."""

from __future__ import annotations

import os
import select
import weakref


class Alarm:
    """Wakes one thread. Any thread may set it, and a signal handler too: nothing here takes a lock."""

    def __init__(self) -> None:
        self._file = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        # Closed no sooner: somebody may set it as long as it is there.
        weakref.finalize(self, os.close, self._file)
        self._is_set = False

    def set(self) -> None:
        """Wake the thread that sleeps, or the next one that is about to."""
        if not self._is_set:
            self._is_set = True
            os.eventfd_write(self._file, 1)

    def take(self) -> bool:
        """Tell whether it was set since this was asked last, before what it was set for is looked after."""
        # In this order: what is set meanwhile stays set.
        was_set, self._is_set = self._is_set, False
        try:
            os.eventfd_read(self._file)
        except BlockingIOError:
            return was_set
        return True

    def wait(self, seconds: float, file: int | None) -> bool:
        """Sleep until it is set, or *file*, the descriptor of one, can be read; but for no more than *seconds*.

        Returns whether the file can be read.
        """
        if self._is_set:
            return False
        ready = select.poll()
        ready.register(self._file, select.POLLIN)
        if file is not None:
            ready.register(file, select.POLLIN)
        return any(number == file for number, _ in ready.poll(seconds * 1000))
