"""Force interrupts a job's code, and nothing else of its thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from threading import Thread

import pytest

from jobmanager.engine.force import ForceWindow, unforced
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


def test_force_waits_until_a_delay_has_ended() -> None:
    window = ForceWindow("7")
    reached: list[str] = []

    def code() -> None:
        with unforced():
            force_from_another_thread(window)
            work()
            reached.append("end of the delay")
        reached.append("went on")

    with pytest.raises(StopRequested):
        window.call(code)
    assert reached == ["end of the delay"]


def test_force_waits_until_the_outermost_delay_has_ended() -> None:
    window = ForceWindow("7")
    reached: list[str] = []

    def code() -> None:
        with unforced():
            with unforced():
                force_from_another_thread(window)
            work()
            with unforced():
                work()
            reached.append("end of the delay")
        reached.append("went on")

    with pytest.raises(StopRequested):
        window.call(code)
    assert reached == ["end of the delay"]


def test_force_strikes_again_after_a_delay() -> None:
    window = ForceWindow("7")

    def code() -> None:
        with pytest.raises(StopRequested), unforced():
            force_from_another_thread(window)
        with unforced():
            pass
        force_from_another_thread(window)
        work()

    with pytest.raises(StopRequested):
        window.call(code)


def test_force_that_waits_wakes_the_code_that_it_waits_for() -> None:
    window = ForceWindow("7")
    woken = threading.Event()

    def code() -> None:
        with unforced(wake=woken.set):
            Thread(target=window.force).start()
            assert woken.wait(20)

    with pytest.raises(StopRequested):
        window.call(code)


def test_another_thread_of_the_job_does_not_delay_force() -> None:
    window = ForceWindow("7")
    is_delaying, is_over = threading.Event(), threading.Event()

    def delay() -> None:
        with unforced():
            is_delaying.set()
            is_over.wait(20)

    def code() -> None:
        thread.start()
        assert is_delaying.wait(20)
        force_from_another_thread(window)
        work()

    thread = Thread(target=delay)
    try:
        with pytest.raises(StopRequested):
            window.call(code)
    finally:
        is_over.set()
        thread.join()


def test_no_delay_outlasts_the_call() -> None:
    window = ForceWindow("7")
    window.call(lambda: None)

    with unforced():
        force_from_another_thread(window)
        work()


def test_a_job_that_is_run_within_a_job_delays_the_force_of_the_outer_one() -> None:
    outer, inner = ForceWindow("7"), ForceWindow("8")
    reached: list[str] = []

    def code() -> None:
        with unforced():
            force_from_another_thread(outer)
            work()
            reached.append("end of the delay")
        reached.append("went on")

    with pytest.raises(StopRequested):
        outer.call(lambda: inner.call(code))
    assert reached == ["end of the delay"]
