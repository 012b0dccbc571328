"""A process that is frozen while it writes to a SQLite file holds up the others, but not without an end."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from jobmanager import JobManager, Settings
from jobmanager.core.values import NewJob
from jobmanager.errors import StoreUnavailable
from jobmanager.registry import Registry
from jobmanager.store import Store, group_commit
from jobmanager.store.sqlite import writer

PATIENCE = 0.4
WRITE_AND_WAIT = """
import sys
from jobmanager.store import Store
def write(connection):
    print("writes", flush=True)
    sys.stdin.read()
store = Store(sys.argv[1])
store.database.run(write)
store.close()
"""


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the URL of a store whose writers wait for less than a second."""
    monkeypatch.setattr(group_commit, "PATIENCE_SECONDS", PATIENCE)
    monkeypatch.setattr(writer, "PATIENCE_SECONDS", PATIENCE)
    return f"sqlite:///{tmp_path}/jobs.db"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    """Return a store that is open before anything is frozen."""
    opened = Store(url)
    yield opened
    opened.close()


@pytest.fixture
def frozen(url: str, store: Store) -> Iterator[subprocess.Popen[bytes]]:
    """Return a process that was frozen in the middle of a write."""
    command = [sys.executable, "-c", WRITE_AND_WAIT, url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writes\n"
        process.send_signal(signal.SIGSTOP)
        yield process
        process.kill()


def add(store: Store, job_id: str) -> None:
    """Submit a job."""
    store.add([NewJob(id=job_id, type="T", args={})], actor="test")


def test_a_write_behind_a_frozen_process_fails_in_the_end_and_is_not_written_later(
    store: Store, frozen: subprocess.Popen[bytes], until: Any
) -> None:
    first = threading.Thread(target=add, args=(store, "first"))
    first.start()
    until(lambda: store.database.commits.asked_at is not None)

    with pytest.raises(StoreUnavailable, match="another process has held the write lock"):
        add(store, "second")
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        add(store, "third")
    assert time.monotonic() - began < PATIENCE, "the third need not wait to know"
    frozen.kill()
    first.join(10)

    add(store, "fourth")
    assert {job_id for _, job_id in _added(store)} == {"first", "fourth"}


def test_all_but_one_of_those_who_came_while_something_was_written_are_told_so_too(
    store: Store, url: str, until: Any
) -> None:
    is_writing, may_end, is_frozen = threading.Event(), threading.Event(), threading.Event()
    group: Any = store.database.commits
    group.largest = 1  # as where the first commit has as many as it takes
    begin = group.begin
    command = [sys.executable, "-c", WRITE_AND_WAIT, url]
    answers: list[Any] = []

    def write(_connection: Any) -> None:
        is_writing.set()
        may_end.wait(10)

    def try_to_add(number: int) -> None:
        try:
            add(store, str(number))
        except StoreUnavailable as error:
            answers.append(error)

    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:

        @contextmanager
        def begin_second() -> Iterator[Any]:
            assert process.stdout is not None
            assert process.stdout.readline() == b"writes\n"
            process.send_signal(signal.SIGSTOP)
            is_frozen.set()
            group.begin = begin
            with begin() as connection:
                yield connection

        first = threading.Thread(target=lambda: store.database.run(write))
        first.start()
        assert is_writing.wait(10)
        group.begin = begin_second
        others = [threading.Thread(target=try_to_add, args=(number,)) for number in range(8)]
        for thread in others:
            thread.start()
        until(lambda: len(group.waiting) == 8)
        may_end.set()

        until(lambda: len(answers) == 7)

        assert is_frozen.wait(20), "it took the turn"
        process.kill()
        for thread in [first, *others]:
            thread.join(10)
    assert len(_added(store)) == 1


def test_a_frozen_process_that_goes_on_in_time_is_noticed_by_nobody(
    store: Store, frozen: subprocess.Popen[bytes], at_once: Any
) -> None:
    thaw = threading.Timer(PATIENCE / 4, frozen.kill)
    thaw.start()

    at_once([lambda number=number: add(store, str(number)) for number in range(8)])

    thaw.join()
    assert len(_added(store)) == 8


@pytest.mark.usefixtures("frozen")
def test_reading_goes_on(store: Store) -> None:
    assert store.count() == {}
    store.ping()


@pytest.mark.usefixtures("frozen")
def test_a_start_says_what_it_waits_for_and_gives_up_at_last(
    url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "WORTH_TELLING_SECONDS", PATIENCE / 2)

    with caplog.at_level(logging.WARNING), pytest.raises(StoreUnavailable, match="cannot be opened: another process"):
        Store(url)

    assert caplog.messages == ["Waiting to start: another process is writing to the store."]


def test_a_start_goes_on_as_soon_as_it_can(url: str, frozen: subprocess.Popen[bytes]) -> None:
    thaw = threading.Timer(PATIENCE / 4, frozen.kill)
    thaw.start()

    Store(url).close()

    thaw.join()


def test_a_store_that_is_closed_meanwhile_is_let_go_of_when_that_is_over(
    store: Store, frozen: subprocess.Popen[bytes], until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "FAREWELL_SECONDS", PATIENCE)
    leader = threading.Thread(target=add, args=(store, "late"))
    leader.start()
    until(lambda: store.database.commits.asked_at is not None)

    store.close()

    frozen.kill()
    leader.join(10)
    assert not leader.is_alive()
    with pytest.raises(StoreUnavailable, match="closed"):
        add(store, "later")


@pytest.mark.usefixtures("frozen")
def test_requests_do_not_wait_in_turns_for_a_start_that_cannot_be(url: str, tmp_path: Path, at_once: Any) -> None:
    manager = JobManager(Settings(data_dir=tmp_path, database_url=url, slots=0), Registry())

    def ask() -> float:
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match="cannot be opened: another process"):
            manager.get("a")
        return time.monotonic() - began

    assert max(at_once([ask] * 8)) < 4 * PATIENCE


def _added(store: Store) -> list[tuple[str, str]]:
    return [(news.change.action, news.change.job_id) for news in store.news(after=0)]
