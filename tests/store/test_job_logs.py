"""A job's log keeps its newest lines, says how many it has lost, and is read page by page meanwhile."""

from __future__ import annotations

from typing import Any

import pytest

from jobmanager.core.job_log import LogLimits
from jobmanager.core.states import Action
from jobmanager.core.values import LogLine
from jobmanager.errors import LeaseLost, StoreUnavailable

LIMITS = LogLimits(lines=100, bytes=65_536)


@pytest.fixture
def small(open_store: Any) -> Any:
    """Return a store in which logs are short."""
    return open_store(log_limits=LIMITS)


class Talker:
    """Logs for one attempt of a job."""

    def __init__(self, store: Any, attempt: int = 1) -> None:
        self._store = store
        self._attempt = attempt
        self.said = 0

    def say(self, count: int, *, length: int = 20) -> None:
        """Log *count* lines at once, each with its number, padded to *length* characters."""
        lines = [f"{self.said + number}".ljust(length, ".") for number in range(count)]
        self.said += count
        self._store.add_log("a", [self.line(text) for text in lines])

    def line(self, text: str) -> LogLine:
        return LogLine(number=0, attempt=self._attempt, at=self._store.now(), level="INFO", message=text)


def said(lines: list[LogLine]) -> list[int]:
    """Return the numbers that a Talker has said, without notes."""
    return [int(line.message.rstrip(".")) for line in lines if line.attempt]


def test_a_log_within_its_limits_is_kept_whole(small: Any) -> None:
    talker = Talker(small)

    talker.say(100)

    assert said(small.log("a")) == list(range(100))


@pytest.mark.parametrize("at_once", [1, 7, 500, 3000])
def test_of_a_long_log_the_newest_lines_are_kept_and_a_note_tells_of_the_others(small: Any, at_once: int) -> None:
    talker = Talker(small)

    while talker.said < 3000:
        talker.say(at_once)

    note, *rest = small.log("a")
    kept = said(rest)
    dropped = talker.said - len(rest)
    assert (note.attempt, note.level) == (0, "WARNING")
    assert (
        note.message == f"{dropped} earlier lines were dropped: a job's log keeps the newest 100 lines and 65536 bytes."
    )
    assert kept == list(range(dropped, talker.said)), "the newest, without a gap"
    assert 99 <= len(kept) <= 109
    assert all(line.attempt for line in rest), "one note only"


def test_a_log_is_bounded_in_bytes_of_utf_8(small: Any) -> None:
    for _ in range(20):
        small.add_log("a", [Talker(small).line("é" * 2000)] * 3)

    note, *rest = small.log("a")
    assert note.message.startswith(f"{60 - len(rest)} earlier lines were dropped")
    assert 65_536 * 0.9 <= sum(len(line.message.encode()) for line in rest) <= 65_536 * 1.1


def test_the_numbers_of_lines_stay_while_others_are_dropped(small: Any) -> None:
    talker = Talker(small)
    numbers: dict[str, int] = {}

    for _ in range(50):
        talker.say(30)
        for line in small.log("a"):
            if line.attempt:
                assert numbers.setdefault(line.message, line.number) == line.number


def test_who_reads_on_while_lines_are_dropped_gets_each_line_or_a_note_that_counts_it(small: Any) -> None:
    talker = Talker(small)
    after, seen = 0, 0

    for step in range(60):
        talker.say(25)
        if step % 7:
            continue
        while page := small.log("a", after=after, limit=10):
            assert [line.number for line in page] == sorted({line.number for line in page})
            assert page[0].number > after
            for line in page:
                if line.attempt:
                    assert said([line]) == [seen]
                    seen += 1
                else:
                    seen = int(line.message.split()[0])
            after = page[-1].number

    while page := small.log("a", after=after, limit=10):
        seen, after = said(page)[-1] + 1, page[-1].number
    assert seen == talker.said


def test_who_has_read_everything_is_not_shown_the_note(small: Any) -> None:
    talker = Talker(small)
    talker.say(100)
    last = small.log("a")[-1].number

    talker.say(30)

    assert said(small.log("a", after=last)) == list(range(100, 130))
    assert all(line.attempt for line in small.log("a", after=last))


def test_lines_of_earlier_attempts_count(open_store: Any) -> None:
    first, second = open_store(log_limits=LIMITS), open_store(log_limits=LIMITS)
    Talker(first).say(5)
    there = Talker(second, attempt=2)
    there.said = 5
    there.say(105)
    here = Talker(first, attempt=3)
    here.said = 110

    here.say(20)

    note, *rest = first.log("a")
    assert len(rest) <= 110
    assert said(rest) == list(range(130 - len(rest), 130))
    assert int(note.message.split()[0]) == 130 - len(rest)


def test_a_log_of_an_earlier_version_is_cut_when_the_job_logs_again(open_store: Any) -> None:
    Talker(open_store()).say(5000)
    talker = Talker(open_store(log_limits=LIMITS), attempt=2)
    talker.said = 5000

    talker.say(1)

    note, *rest = open_store().log("a")
    assert said(rest) == list(range(4901, 5001))[-len(rest) :]
    assert int(note.message.split()[0]) == 5001 - len(rest)


def test_logs_of_other_jobs_are_left_alone(small: Any) -> None:
    small.add_log("b", [Talker(small).line("of b")])

    Talker(small).say(500)

    assert [line.message for line in small.log("b")] == ["of b"]


def test_lines_come_with_the_checkpoint_or_not_at_all(small: Any) -> None:
    small.run("a")
    talker = Talker(small)
    talker.say(105)

    with pytest.raises(LeaseLost):
        small.checkpoint("a", 7, None, None, [talker.line("105")] * 20)
    assert said(small.log("a")) == list(range(105))
    small.checkpoint("a", 1, None, None, [talker.line("105")] * 20)

    note, *rest = small.log("a")
    assert int(note.message.split()[0]) == 125 - len(rest)


def test_a_log_is_counted_again_if_nobody_knows_whether_lines_were_committed(
    small: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    talker = Talker(small)
    talker.say(100)

    def commit_and_fail(write: Any) -> Any:
        run(write)
        raise StoreUnavailable("The connection was lost before the answer came.")

    run = small.database.run
    monkeypatch.setattr(small.database, "run", commit_and_fail)
    with pytest.raises(StoreUnavailable):
        talker.say(8)
    monkeypatch.undo()
    talker.say(5)

    note, *rest = small.log("a")
    assert int(note.message.split()[0]) == 113 - len(rest)


def test_a_commit_that_fails_is_not_counted(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    talker = Talker(small)
    talker.say(100)

    def run_and_fail(write: Any) -> Any:
        def fail(connection: Any) -> Any:
            write(connection)
            raise StoreUnavailable("away")

        return run(fail)

    run = small.database.run
    monkeypatch.setattr(small.database, "run", run_and_fail)
    with pytest.raises(StoreUnavailable):
        talker.say(50)
    monkeypatch.undo()
    talker.said = 100
    talker.say(5)

    assert said(small.log("a")) == list(range(105)), "nothing was dropped"


def test_a_page_is_bounded_by_the_bytes_of_its_messages(store: Any) -> None:
    talker = Talker(store)
    talker.say(300, length=10_000)

    pages, after = [], 0
    while page := store.log("a", after=after, limit=10_000):
        pages.append(page)
        after = page[-1].number

    assert [line for page in pages for line in said(page)] == list(range(300))
    assert [len(page) for page in pages] == [105, 105, 90]


def test_a_page_has_one_line_at_least(store: Any) -> None:
    store.add_log("a", [Talker(store).line("x" * (3 << 20)), Talker(store).line("next")])

    first = store.log("a")

    assert [len(line.message) for line in first] == [3 << 20]
    assert [line.message for line in store.log("a", after=first[0].number)] == ["next"]


@pytest.mark.parametrize("levels", [101, 254, 960, 985])
def test_values_of_an_earlier_version_are_read_however_deep_they_are(store: Any, levels: int) -> None:
    deep = "[" * levels + "1" + "]" * levels
    store.run("a")
    store.execute(
        "UPDATE jobs SET args = :args, cursor = :deep, details = :args, result = :deep",
        args=f'{{"v": {deep[1:-1]}}}',
        deep=deep,
    )

    def read_far_down(frames: int) -> Any:
        return read_far_down(frames - 1) if frames else store.get("a")

    for job in (store.get("a"), read_far_down(200), store.apply("a", Action.HALT, actor="ann").job):
        value, depth = job.checkpoint.cursor, 0
        while isinstance(value, list):
            (value,), depth = value, depth + 1
        assert (value, depth) == (1, levels)
        assert isinstance(job.args["v"], list)
