"""Run a call that may block for long in a thread of its own, so that the job's thread obeys a halt meanwhile.

The job's thread waits in short steps, because a force can interrupt it only between two steps.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from typing import Generic, Self, TypeVar

#: The job's thread waits in steps of this length.
STEP_SECONDS = 0.05

T = TypeVar("T")


class ThreadCall(Generic[T]):
    """A call in a thread of its own. The call goes on even if its result is no longer wanted."""

    def __init__(self, function: Callable[[], T], *, name: str) -> None:
        """Does not start the call. *name*: the end of the thread's name, a word for its work."""
        self._function = function
        # Used instead of Thread.join: if a force interrupts a join, Python 3.11 considers the thread ended (bpo-45274).
        self._result: Future[T] = Future()
        self._name = f"{threading.current_thread().name}-{name}"

    def start(self) -> Self:
        """Start the call. Raises RuntimeError if no thread can be started: the call has then ended."""
        try:
            threading.Thread(target=self._run, name=self._name, daemon=True).start()
        except BaseException:
            # If a force interrupted the start, the thread may run. Then the call goes on.
            self.cancel()
            raise
        return self

    def cancel(self) -> bool:
        """End the call if it has not begun. Return False if it has begun: it goes on, or has ended by itself."""
        return self._result.cancel()

    def has_ended(self, seconds: float) -> bool:
        """Wait for the end of the call. Return False if it still runs after *seconds*."""
        with suppress(CancelledError, TimeoutError):
            self._result.exception(seconds)
        return self._result.done()

    def result(self, on_wait: Callable[[], None] | None) -> T:
        """Wait for the call, and return its result. Calls *on_wait* repeatedly meanwhile.

        Raises the exceptions of the call and of *on_wait*, and CancelledError if the call was cancelled.
        """
        while not self.has_ended(STEP_SECONDS):
            if on_wait is not None:
                on_wait()
        return self._result.result()

    def _run(self) -> None:
        if not self._result.set_running_or_notify_cancel():
            return
        try:
            found = self._function()
        except BaseException as error:
            self._result.set_exception(error)
        else:
            self._result.set_result(found)
