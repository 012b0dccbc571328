"""What every test shares: a patient look, and the check that nothing is left behind."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

#: How long anything may take to come true, on a slow machine; a test that succeeds never waits so long.
PATIENCE_SECONDS = 15.0
#: How long a thread or a file may outlive the test that opened it.
_FAREWELL_SECONDS = 5.0
# No test is timed: on a machine that does something else too, any call may take long.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

Until = Callable[..., Any]


def until(look: Callable[[], Any], what: object = "", *, seconds: float = PATIENCE_SECONDS) -> Any:
    """Return what *look* returns as soon as that is true; fail after *seconds*, saying *what* was waited for."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what() if callable(what) else what or look}")
        time.sleep(0.002)
    return found


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need PostgreSQL, and put the campaigns of faults first: they take longest."""
    for item in items:
        if _needs_postgres(item):
            item.add_marker(pytest.mark.database_server)
    items.sort(key=lambda item: item.path.name != "test_campaign.py")


def _needs_postgres(item: pytest.Item) -> bool:
    """Return True if the test uses the fixture `postgres`, or is the PostgreSQL variant of a test of each database."""
    callspec = getattr(item, "callspec", None)
    is_variant = callspec is not None and callspec.params.get("kind") == "postgresql"
    return is_variant or "postgres" in getattr(item, "fixturenames", ())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Have what a test has logged go from process to process, even where half a character is in it."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many faults the campaigns have survived in all."""
    survived: Counter[str] = Counter()
    for report in terminalreporter.getreports("passed"):
        survived.update(dict(report.user_properties).get("faults survived", {}))
    if survived:
        terminalreporter.section(f"{survived.total()} faults survived, and nothing lost")
        terminalreporter.write_line(", ".join(f"{name} {count}" for name, count in survived.most_common()))


@pytest.fixture(name="until", scope="session")
def _until() -> Until:
    return until


@pytest.fixture
def refuse_thread(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, BaseException], threading.Event]:
    """Return a function: the next thread whose name ends so raises *error* when it is started. It returns an Event."""
    start = threading.Thread.start

    def refuse(name: str, error: BaseException) -> threading.Event:
        refused = threading.Event()

        def start_but_once(thread: threading.Thread) -> None:
            if thread.name.endswith(name) and not refused.is_set():
                refused.set()
                raise error
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", start_but_once)
        return refused

    return refuse


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fail a test that leaves a thread of ours, or a connection to a store of its own, behind."""
    folder = tmp_path_factory.getbasetemp()
    threads, files = _our_threads(), _open_files(folder)
    yield
    until(
        lambda: _our_threads() <= threads, lambda: f"left alive: {_our_threads() - threads}", seconds=_FAREWELL_SECONDS
    )
    until(
        lambda: _open_files(folder) <= files,
        lambda: f"left open: {sorted(_open_files(folder) - files)}",
        seconds=_FAREWELL_SECONDS,
    )


def _our_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith(("job-", "jobmanager-"))}


def _open_files(folder: Path) -> set[str]:
    """Return the files in *folder* that this process has open."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:  # the descriptor of the listing itself
            continue
    return {path for path in found if path.startswith(f"{folder}/")}
