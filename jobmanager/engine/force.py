"""Interrupt a job's own code from another thread, but never a checkpoint, a log line, `clean` or a call of the store.

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
        """Raise StopRequested inside the job's Python code, wherever it is. C code is interrupted when it returns.

        Not raised while the window is closed; delayed while the job logs. Source: PyThreadState_SetAsyncExc (C API).
        If force strikes between two rounds of a loop, Python 3.12 and later skip the `except` and `finally` around the
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
    def delayed(self) -> Iterator[None]:
        """Delay force while the job's code logs. Otherwise, a logging lock might stay held, and block other threads."""
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
