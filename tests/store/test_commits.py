"""Writes of many threads share commits, and none of them can spoil another's."""

from __future__ import annotations

import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError

from jobmanager.core.states import Action, Status
from jobmanager.core.values import Checkpoint, NewJob
from jobmanager.errors import LeaseLost, StoreUnavailable
from jobmanager.store import Store, group_commit
from jobmanager.store.group_commit import GroupCommit
from jobmanager.store.sqlite import Database
from tests.gate import gate


def test_thirty_two_threads_write_at_once_and_nothing_is_lost_or_doubled(
    open_store: Any, at_once: Any, kind: str
) -> None:
    store, other = open_store(), open_store()

    def work(thread: int) -> None:
        process = (store, other)[thread % 2]
        for number in range(4):
            process.put(f"{thread}-{number}", type=f"T{thread}")
            assert process.take(1, f"T{thread}") == [f"{thread}-{number}"]
            job = process.get(f"{thread}-{number}")
            process.save(job, cursor=number)
            process.apply(job.id, Action.HALT, actor="ann")
            process.end(job, Action.YIELD)
            with pytest.raises((TypeError, ValueError)):
                process.put("bad", args={"bad": object()})

    at_once([lambda thread=thread: work(thread) for thread in range(32)])

    assert store.count_by_status() == {Status.HALTED: 128}
    seqs = []
    for thread in range(32):
        for number in range(4):
            changes = store.changes(f"{thread}-{number}")
            assert [str(change.action) for change in changes] == ["submit", "claim", "halt", "yield"]
            assert all(before.to_status is after.from_status for before, after in pairwise(changes))
            assert store.get(f"{thread}-{number}").checkpoint.cursor == number
            seqs += [change.seq for change in changes]
    assert len(set(seqs)) == 512
    # A write that fails takes a number with it on PostgreSQL.
    assert kind == "postgresql" or sorted(seqs) == list(range(1, 513))


class Held:
    """A group commit on a real database, whose first transaction lasts until it is let go."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.transactions = 0
        self.began, self.may_go_on = threading.Event(), threading.Event()
        assert isinstance(store.database, Database)
        self._begin = store.database.writer.begin
        self.commits = GroupCommit(self.begin)

    @contextmanager
    def begin(self) -> Iterator[Any]:
        with self._begin() as connection:
            self.transactions += 1
            self.began.set()
            assert self.may_go_on.wait(10)
            yield connection

    def waiting(self) -> int:
        """Return how many writes wait for the next transaction."""
        return len(self.commits.waiting)

    def lines(self) -> list[str]:
        """Return what is kept, in order."""
        return [line.message for line in self.store.log("a")]


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Held]:
    """Return a group commit; PostgreSQL, which groups commits by itself, needs none."""
    store = Store(f"sqlite:///{tmp_path}/jobs.db")
    yield Held(store)
    store.close()


def note(connection: Any, line: str) -> str:
    """Write a line."""
    connection.execute(
        text("INSERT INTO log_lines (job_id, attempt, at, level, message) VALUES ('a', 1, 0, 'INFO', :line)"),
        {"line": line},
    )
    return line


def commit_together(held: Held, writes: list[Any], until: Any) -> list[Any]:
    """Have all writes but the first wait until that is committed, so that they share the next commit."""
    answers: list[Any] = [None] * len(writes)

    def run(index: int) -> None:
        try:
            answers[index] = held.commits.run(writes[index])
        except BaseException as error:
            answers[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(writes))]
    threads[0].start()
    assert held.began.wait(10)
    for thread in threads[1:]:
        thread.start()
    until(lambda: held.waiting() == len(writes) - 1)
    held.may_go_on.set()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    return answers


def test_writes_that_come_before_the_commit_share_it(held: Held, until: Any) -> None:
    lines = [str(number) for number in range(20)]

    answers = commit_together(held, [lambda connection, line=line: note(connection, line) for line in lines], until)

    assert answers == lines
    assert held.transactions == 1
    assert sorted(held.lines()) == sorted(lines)


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt("no"), SystemExit(1)], ids=repr)
def test_one_bad_write_does_not_spoil_the_others_of_its_commit(held: Held, until: Any, error: BaseException) -> None:
    def fail(connection: Any) -> None:
        note(connection, "of the bad one")
        raise error

    writes = [lambda connection, line=line: note(connection, line) for line in ("first", "second", "third")]
    answers = commit_together(held, [*writes[:2], fail, writes[2]], until)

    assert answers == ["first", "second", error, "third"]
    assert sorted(held.lines()) == ["first", "second", "third"]


def test_a_failure_of_the_database_is_told_to_each_thread_and_nothing_is_kept(held: Held, until: Any) -> None:
    def fail(connection: Any) -> None:
        note(connection, "of the bad one")
        raise OperationalError("INSERT secret", {}, Exception("database or disk is full"))

    answers = commit_together(held, [lambda connection: note(connection, "first"), fail, fail], until)

    assert answers[0] == "first"
    for answer in answers[1:]:
        assert isinstance(answer, StoreUnavailable)
        assert "its volume is full" in str(answer)
        assert "secret" not in str(answer)
    assert held.lines() == ["first"]


@pytest.fixture
def _heeds_ctrl_c() -> Iterator[None]:
    """Have Ctrl-C heard: Python ignores it where it was started so, as a shell starts what it puts aside."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.mark.usefixtures("_heeds_ctrl_c")
def test_a_thread_that_ctrl_c_takes_away_while_it_waits_strands_no_other(held: Held, until: Any) -> None:
    def interrupt() -> None:
        until(lambda: held.waiting() == 1)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    leader = threading.Thread(target=lambda: held.commits.run(lambda connection: note(connection, "first")))
    leader.start()
    assert held.began.wait(10)
    interrupter = threading.Thread(target=interrupt)
    interrupter.start()

    with pytest.raises(KeyboardInterrupt):
        held.commits.run(lambda connection: note(connection, "taken away"))
    interrupter.join(10)
    other = threading.Thread(target=lambda: held.commits.run(lambda connection: note(connection, "other")), daemon=True)
    other.start()
    until(lambda: held.waiting() == 1)
    held.may_go_on.set()

    for thread in (leader, other):
        thread.join(10)
        assert not thread.is_alive()
    assert held.lines() == ["first", "other"]


@pytest.mark.usefixtures("_heeds_ctrl_c")
def test_a_thread_that_ctrl_c_takes_away_while_others_are_about_to_come_strands_none(
    held: Held, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    held.may_go_on.set()
    monkeypatch.setattr(group_commit, "GATHER_SECONDS", 30.0)
    held.commits.last_size = 2

    def interrupt() -> None:
        until(lambda: held.waiting() == 1)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        held.commits.run(lambda connection: note(connection, "taken away"))
    interrupter.join(10)
    monkeypatch.undo()

    other = threading.Thread(target=lambda: held.commits.run(lambda connection: note(connection, "other")), daemon=True)
    other.start()
    other.join(10)
    assert not other.is_alive()
    assert held.lines() == ["other"]


def interrupt_main_thread() -> None:
    """Press Ctrl-C."""
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


@pytest.mark.usefixtures("_heeds_ctrl_c")
def test_after_ctrl_c_while_another_program_has_the_file_all_can_write_again(tmp_path: Path, until: Any) -> None:
    store = Store(f"sqlite:///{tmp_path}/jobs.db")
    other = sqlite3.connect(tmp_path / "jobs.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")

    def interrupt() -> None:
        until(lambda: store.database.commits.asked_at is not None)
        interrupt_main_thread()
        other.execute("COMMIT")

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        store.add([NewJob(id="a", type="T", args={})], actor="test")
    interrupter.join(10)

    store.add([NewJob(id="b", type="T", args={})], actor="test")
    other.execute("BEGIN IMMEDIATE")
    other.close()
    store.close()


@pytest.mark.usefixtures("_heeds_ctrl_c")
def test_after_ctrl_c_in_the_middle_of_a_statement_the_same_process_can_write_again(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/jobs.db")
    is_armed = [True]

    @event.listens_for(store.database.engine, "do_execute")
    def do_execute(_cursor: Any, statement: str, _parameters: Any, _context: Any) -> None:
        if "labels" in statement and is_armed:
            is_armed.clear()
            interrupt_main_thread()

    with pytest.raises(KeyboardInterrupt):
        store.add([NewJob(id="a", type="T", args={}, labels={"k": "v"})], actor="test")

    store.add([NewJob(id="b", type="T", args={}, labels={"k": "v"})], actor="test")
    assert [news.change.job_id for news in store.news(after=0)] == ["b"]
    store.close()


@pytest.mark.usefixtures("_heeds_ctrl_c")
def test_ctrl_c_during_a_commit_writes_nothing_twice_and_others_are_told_to_look(held: Held, until: Any) -> None:
    writer: Any = held.store.database.writer
    send = writer.send

    def send_and_interrupt(driver: Any, words: str) -> None:
        send(driver, words)
        if words == "COMMIT" and threading.current_thread() is threading.main_thread():
            interrupt_main_thread()

    writer.send = send_and_interrupt
    answers: list[Any] = []

    def write() -> None:
        try:
            answers.append(held.commits.run(lambda connection: note(connection, "other")))
        except StoreUnavailable as error:
            answers.append(error)

    other = threading.Thread(target=lambda: (held.began.wait(10), write()))
    let_go = threading.Thread(target=lambda: (until(lambda: held.waiting() == 1), held.may_go_on.set()))
    other.start()
    let_go.start()

    with pytest.raises(KeyboardInterrupt):
        held.commits.run(lambda connection: note(connection, "mine"))

    other.join(10)
    let_go.join(10)
    assert held.lines() == ["mine", "other"]
    assert isinstance(answers[0], StoreUnavailable)
    assert "Check if it was stored, then try again" in str(answers[0])


def test_where_no_transaction_can_be_opened_all_who_wait_hear_so_at_once(held: Held, until: Any) -> None:
    tried = []

    @contextmanager
    def fail() -> Iterator[Any]:
        tried.append(1)
        until(lambda: held.waiting() == 7)
        raise OperationalError("BEGIN", {}, Exception("no such host"))
        yield

    held.commits.begin = fail
    answers: list[Any] = []

    def write() -> None:
        try:
            held.commits.run(lambda connection: note(connection, "late"))
        except StoreUnavailable as error:
            answers.append(error)

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert len(answers) == 8
    assert len(tried) == 1


def test_an_attempt_that_lost_its_job_is_never_told_to_another_thread(held: Held, until: Any) -> None:
    begin = held.commits.begin
    tried = []

    @contextmanager
    def begin_but_once() -> Iterator[Any]:
        tried.append(1)
        if len(tried) == 2:
            raise OperationalError("BEGIN", {}, Exception("disk I/O error"))
        with begin() as connection:
            yield connection

    def lose(_connection: Any) -> None:
        raise LeaseLost("a")

    held.commits.begin = begin_but_once
    answers = commit_together(held, [lambda connection: note(connection, "first"), lose], until)

    assert [type(answer) for answer in answers] == [StoreUnavailable] * 2


def test_what_is_read_after_a_write_returned_has_it(open_store: Any, at_once: Any) -> None:
    store, other = open_store(), open_store()

    def work(thread: int) -> None:
        for number in range(10):
            store.put(f"{thread}-{number}")
            assert other.get(f"{thread}-{number}").status is Status.SUBMITTED

    at_once([lambda thread=thread: work(thread) for thread in range(8)])


def test_a_halt_and_the_end_of_its_attempt_at_one_instant_are_both_recorded_or_one_refused(
    open_store: Any, at_once: Any
) -> None:
    store, other = open_store(), open_store()
    for number in range(15):
        job = store.run(str(number))

        def halt(job_id: str = job.id) -> Any:
            try:
                return other.apply(job_id, Action.HALT, actor="ann").job.status
            except Exception as error:
                return type(error).__name__

        answer, _ = at_once([halt, lambda job=job: store.end(job, Action.COMPLETE)])

        actions = store.trail(job.id)
        assert store.get(job.id).status is Status.COMPLETED
        assert (answer, actions[2:]) in [(Status.HALTING, ["halt", "complete"]), ("NotAllowed", ["complete"])]


def test_a_stop_and_a_checkpoint_at_one_instant_leave_neither_out(open_store: Any, at_once: Any) -> None:
    store, other = open_store(), open_store()
    for number in range(15):
        job = store.run(str(number))

        status, applied = at_once(
            [
                lambda job=job: store.checkpoint(job.id, 1, Checkpoint(cursor=1), None),
                lambda job=job: other.apply(job.id, Action.STOP),
            ]
        )

        assert status in {Status.RUNNING, Status.STOPPING}
        assert applied.job.status is Status.STOPPING
        assert store.get(job.id).checkpoint.cursor == 1
        store.end(job, Action.YIELD)


class AlternatingCommits(GroupCommit):
    """A group commit whose leader asks for the write lock, and gets it, between any two looks of another thread."""

    @property
    def asked_at(self) -> float | None:
        """Return when the leader asked for the lock; None if it has the lock."""
        self._asked_at = None if self._asked_at is not None else time.monotonic()
        return self._asked_at

    @asked_at.setter
    def asked_at(self, _at: float | None) -> None:
        self._asked_at: float | None = None


def test_a_write_that_comes_as_the_leader_gets_the_lock_is_stored(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/jobs.db")
    assert isinstance(store.database, Database)
    commits = AlternatingCommits(store.database.writer.begin)

    for number in range(4):
        assert commits.run(lambda connection, line=str(number): note(connection, line)) == str(number)

    assert [line.message for line in store.log("a")] == ["0", "1", "2", "3"]
    store.close()


def test_after_a_commit_that_failed_nothing_of_it_is_kept_and_the_next_one_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(f"sqlite:///{tmp_path}/jobs.db")
    assert isinstance(store.database, Database)
    send = store.database.writer.send

    def fail(driver: Any, words: str) -> None:
        if words == "COMMIT":
            raise OperationalError("COMMIT", {}, sqlite3.OperationalError("disk I/O error"))
        send(driver, words)

    with monkeypatch.context() as patch:
        patch.setattr(store.database.writer, "send", fail)
        with pytest.raises(StoreUnavailable, match="Nothing was changed"):
            store.add([NewJob(id="lost", type="T", args={})], actor="test")
    store.add([NewJob(id="kept", type="T", args={})], actor="test")

    assert [news.change.job_id for news in store.news(after=0)] == ["kept"]
    assert store.correct_count() == {}, "the jobs were counted as they are"
    store.close()


@pytest.mark.parametrize("writes", [1, 3])
def test_what_may_have_been_committed_is_not_written_again(held: Held, until: Any, writes: int) -> None:
    writer: Any = held.store.database.writer
    send = writer.send

    def send_and_fail(driver: Any, words: str) -> None:
        send(driver, words)
        if words == "COMMIT":
            writer.send = send
            raise AssertionError("an error after the commit")

    writer.send = send_and_fail
    answers: list[Any] = []

    def write(line: str) -> None:
        try:
            answers.append(held.commits.run(lambda connection: note(connection, line)))
        except StoreUnavailable as error:
            answers.append(str(error))

    threads = [threading.Thread(target=write, args=(str(number),)) for number in range(writes)]
    threads[0].start()
    assert held.began.wait(10)
    for thread in threads[1:]:
        thread.start()
    until(lambda: held.waiting() == writes - 1)
    held.may_go_on.set()
    for thread in threads:
        thread.join(10)

    assert sorted(held.lines()) == [str(number) for number in range(writes)]
    assert answers == ["The write was interrupted. Check if it was stored, then try again."] * writes


@pytest.mark.database_server
def test_a_commit_whose_answer_is_lost_is_not_reported_as_undone(request: pytest.FixtureRequest) -> None:
    server = make_url(request.getfixturevalue("cleared_postgres"))
    with gate(server) as proxy:
        store = Store(f"postgresql://{server.username}@127.0.0.1:{proxy.port}/{server.database}")
        store.add([NewJob(id="before", type="T", args={})], actor="test")

        proxy.lose_answer_to(b"COMMIT")
        with pytest.raises(StoreUnavailable, match="Check if it was stored"):
            store.add([NewJob(id="committed", type="T", args={})], actor="test")
        assert store.get("committed").id == "committed"
        proxy.lose_answer_to(b"COMMIT")
        with pytest.raises(StoreUnavailable, match="Check if it was stored"):
            store.apply("committed", Action.HALT, actor="ann")

        assert store.get("committed").status is Status.HALTED
        assert store.correct_count() == {}
        store.close()
