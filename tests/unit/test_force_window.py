"""Force interrupts a job's code, and nothing else of its thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from threading import Thread

import pytest

from jobmanager.engine.force import ForceWindow
from jobmanager.errors import StopRequested


def force_from_another_thread(window: ForceWindow) -> None:
    thread = Thread(target=window.force)
    thread.start()
    thread.join()


def work(seconds: float = 0.05) -> None:
    """Run Python code, which force can interrupt."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        pass


def test_force_interrupts_the_code_that_is_called() -> None:
    window = ForceWindow("7")

    def code() -> None:
        force_from_another_thread(window)
        work()

    with pytest.raises(StopRequested):
        window.call(code)


@pytest.mark.parametrize("outside", [lambda window: None, lambda window: window.call(lambda: None)])
def test_force_spares_the_thread_before_and_after_the_call(outside: Callable[[ForceWindow], None]) -> None:
    window = ForceWindow("7")
    outside(window)

    force_from_another_thread(window)
    work()


class StrikingLock:
    """A lock in whose first release by this thread another thread's force strikes."""

    def __init__(self) -> None:
        self._lock, self._thread, self.strike = threading.Lock(), threading.get_ident(), lambda: None

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        if threading.get_ident() == self._thread:
            strike, self.strike = self.strike, lambda: None
            strike()


def test_force_that_strikes_as_a_call_begins_spares_the_thread_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    lock = StrikingLock()
    with monkeypatch.context() as patch:
        patch.setattr("threading.Lock", lambda: lock)
        window = ForceWindow("7")
    lock.strike = lambda: force_from_another_thread(window)

    with pytest.raises(StopRequested):
        window.call(work)

    force_from_another_thread(window)
    work()


def test_force_spares_a_checkpoint_and_strikes_again_after_it() -> None:
    window = ForceWindow("7")
    reached: list[str] = []

    def code() -> None:
        was_open = window.close()
        force_from_another_thread(window)
        work()
        window.restore(was_open)
        reached.append("after the checkpoint")
        force_from_another_thread(window)
        work()
        reached.append("went on")

    with pytest.raises(StopRequested):
        window.call(code)
    assert reached == ["after the checkpoint"]


def test_force_waits_until_a_line_is_logged() -> None:
    window = ForceWindow("7")
    reached: list[str] = []

    def code() -> None:
        with window.delayed():
            force_from_another_thread(window)
            work()
            reached.append("logged")
        reached.append("went on")

    with pytest.raises(StopRequested):
        window.call(code)
    assert reached == ["logged"]
