"""Interrupt a job's own code from another thread, but never a checkpoint, a log line, `clean` or a call of the store.

A job's code may call the manager. Each part of it that takes a lock or uses the store does so within `unforced`.
This module decides neither when force is due (see watchdog.py) nor what happens after it.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

from jobmanager.errors import StopRequested

T = TypeVar("T")


class ForceWindow:
    """Open while the job's own code is on top of its thread's stack: only then may force interrupt the thread.

    Any thread may call `force`; the other methods are for the job's thread.
    """

    def __init__(self, job_id: str) -> None:
        self._job_id = job_id
        self._lock = threading.Lock()  # guards all that follow; held for assignments only
        self._thread_id: int | None = None  # of the thread that is in `call`
        self._is_open = False
        self._is_delaying = False  # the job's code is in `delayed`: force waits until it has left
        self._is_force_due = False
        self._wake: Callable[[], None] | None = None  # called if force comes due in `delayed`

    def force(self) -> None:
        """Raise StopRequested inside the job's Python code, wherever it is. C code is interrupted when it returns.

        Not raised while the window is closed; delayed by `delayed`. Source: PyThreadState_SetAsyncExc (C API).
        If force strikes between two rounds of a loop, Python 3.12 and later skip the `except` and `finally` around the
        loop in the same function (https://github.com/python/cpython/issues/130279).
        """
        wake = None
        with self._lock:
            if self._is_open and self._thread_id is not None:
                target, error = ctypes.c_ulong(self._thread_id), ctypes.py_object(StopRequested)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(target, error)
            else:
                self._is_force_due, wake = self._is_delaying, self._wake
        if wake is not None:
            wake()

    def call(self, code: Callable[[], T]) -> T:
        """Call into the job's code. Until the call returns, force may interrupt it."""
        outer = _current.window  # of a job whose code runs a job with jobmanager.testing; only the outer is ever forced
        try:
            # Within the try: a force may strike as soon as the lock is released.
            with self._lock:
                self._thread_id, self._is_open = threading.get_ident(), True
            _current.window = outer or self
            return code()
        finally:
            _current.window = outer
            with self._lock:
                # Clear the thread, too: it runs another job next, which force must not hit.
                self._thread_id, self._is_open = None, False

    def close(self) -> bool:
        """Close the window while the job's code is in a checkpoint. Return True if it was open, for `restore`."""
        with self._lock:
            was_open, self._is_open = self._is_open, False
        return was_open

    def restore(self, was_open: bool) -> None:
        """Set the window as it was before `close`, when a checkpoint returns to the job's code."""
        with self._lock:
            self._is_open = was_open

    @contextmanager
    def delayed(self, wake: Callable[[], None] | None = None) -> Iterator[None]:
        """Delay force until the block is left, and raise StopRequested then. Does nothing while the window is closed.

        *wake* is called in the thread that forces, so that a block which waits ends at once.
        """
        was_open = False
        try:
            # Within the try: a force from just before may strike as soon as the lock is released.
            with self._lock:
                was_open, self._is_open = self._is_open, False
                if was_open:
                    self._is_delaying, self._wake = True, wake
            yield
        finally:
            is_due = False
            if was_open:
                with self._lock:
                    self._is_open, self._is_delaying, self._wake = True, False, None
                    is_due, self._is_force_due = self._is_force_due, False
            if is_due:
                raise StopRequested(self._job_id)


class _Current(threading.local):
    """The window of the job whose code this thread runs, if any. Not a ContextVar: threads may share a context."""

    window: ForceWindow | None = None


_current = _Current()
_NO_DELAY = nullcontext()


def unforced(wake: Callable[[], None] | None = None) -> AbstractContextManager[None]:
    """Delay force if this thread runs a job's code; see ForceWindow.delayed. Otherwise, do nothing.

    Force in the block might leave a lock held that other threads need, or a commit half done.
    """
    window = _current.window
    return _NO_DELAY if window is None else window.delayed(wake)
