"""Interrupt a job's code from another thread, and only there: never in the store, a checkpoint, a log line or `clean`.

This module decides neither when force is due (see watchdog.py) nor what happens after it.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from jobmanager.errors import StopRequested

T = TypeVar("T")


class ForceWindow:
    """Open while the job's own code is on top of its thread's stack: only then may force interrupt the thread.

    Any thread may call `force`; the other methods are for the job's thread.
    """

    def __init__(self, job_id: str) -> None:
        self._job_id = job_id
        self._lock = threading.Lock()  # guards _thread_id, _is_open, _is_logging, _is_force_due
        self._thread_id: int | None = None  # of the thread that is in `call`
        self._is_open = False
        self._is_logging = False  # the job's code is logging: force waits until it has finished
        self._is_force_due = False

    def force(self) -> None:
        """Raise StopRequested inside the job's Python code, wherever it is; in C code, only when that returns.

        Not raised while the window is closed; delayed while the job logs. Source: PyThreadState_SetAsyncExc (C API).
        If it strikes between two rounds of a loop, Python 3.12 and later skip the `except` and `finally` around the
        loop in the same function (https://github.com/python/cpython/issues/130279).
        """
        with self._lock:
            if self._is_open and self._thread_id is not None:
                target, error = ctypes.c_ulong(self._thread_id), ctypes.py_object(StopRequested)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(target, error)
            else:
                self._is_force_due = self._is_logging

    def call(self, code: Callable[[], T]) -> T:
        """Call into the job's code. Until the call returns, force may interrupt it."""
        try:
            # Within the try: a force may strike as soon as the lock is released.
            with self._lock:
                self._thread_id, self._is_open = threading.get_ident(), True
            return code()
        finally:
            with self._lock:
                # Without its thread, too: from here on, force would hit another job in this thread.
                self._thread_id, self._is_open = None, False

    def close(self) -> bool:
        """Close the window while the job's code is in a checkpoint. Return True if it was open, for `restore`."""
        with self._lock:
            was_open, self._is_open = self._is_open, False
        return was_open

    def restore(self, was_open: bool) -> None:
        """Return to the job's code from a checkpoint."""
        with self._lock:
            self._is_open = was_open

    @contextmanager
    def delayed(self) -> Iterator[None]:
        """Delay force while the job's code logs: a logging lock left held would block every thread that logs."""
        with self._lock:
            was_open, self._is_open = self._is_open, False
            self._is_logging = was_open
        try:
            yield
        finally:
            with self._lock:
                self._is_open = self._is_open or was_open
                self._is_logging = False
                is_due, self._is_force_due = self._is_force_due, False
        if is_due:
            raise StopRequested(self._job_id)
