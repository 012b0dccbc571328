"""A reader that is one read ahead returns what the reader behind it would have."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime
from typing import Any

import pyarrow as pa
import pytest
from sqlalchemy.engine import make_url

from jobmanager.errors import Fatal, StopRequested
from jobmanager.jobs.export.datasets import Dataset, DatasetAway
from jobmanager.jobs.export.position import Place
from jobmanager.jobs.export.reader import ReaderClosed
from jobmanager.jobs.export.readers.cancellation import Cancellation
from jobmanager.jobs.export.readers.read_ahead import ReadAhead

YEARS = (datetime(2023, 1, 1), datetime(2025, 1, 1))
COLUMNS = ["id"]
ROWS = 100
MAX_BYTES = 1_000_000
DATASET = Dataset(name="d", url=make_url("x://"), table="t", date_column="at", key="id", date_format=None)


class Numbers:
    """A reader of the numbers from 1 to ROWS, which keeps who has read how many."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []
        self.is_closed = False
        self.may_go_on = threading.Event()  # a read waits for it
        self.may_go_on.set()
        self.is_cancelled = False
        self.opening_error: Exception | None = None

    def columns(self) -> dict[str, pa.DataType]:
        return {"id": pa.int64()}

    def schema(self, chosen: list[str]) -> pa.Schema:
        return pa.schema([(name, pa.int64()) for name in chosen])

    def check(self) -> None:
        raise Fatal("checked")

    def warnings(self, begin: datetime, end: datetime) -> list[str]:
        return ["slow"]

    def identity(self) -> dict[str, str]:
        return {"server": "none"}

    def total(self, begin: datetime, end: datetime) -> int:
        return ROWS

    def count(self, after: Place | None, begin: datetime, end: datetime, limit: int) -> tuple[int, Place | None]:
        return ROWS, None

    def read(
        self, columns: list[str], after: Place | None, begin: datetime, end: datetime, limit: int, max_bytes: int
    ) -> tuple[pa.Table, Place | None]:
        self.asked.append((threading.current_thread().name, limit))
        self.may_go_on.wait()
        if self.is_cancelled:
            raise DatasetAway("cancelled")
        if columns != COLUMNS:
            raise Fatal(f"no column {columns[0]!r}")
        first = after.key + 1 if after else 1
        found = list(range(first, min(first + limit, ROWS + 1)))
        return pa.table({"id": found}), Place(date=0, key=found[-1])

    def cancel(self) -> None:
        self.is_cancelled = True
        self.may_go_on.set()

    def open(self) -> Numbers:
        self.asked.append((threading.current_thread().name, 0))
        self.may_go_on.wait()
        if self.opening_error is not None:
            raise self.opening_error
        return self

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def watched() -> Iterator[Numbers]:
    reader = Numbers()
    yield reader
    reader.may_go_on.set()


def read_ahead(watched: Numbers, *, can_cancel: bool = True) -> ReadAhead:
    cancellation = Cancellation(DATASET)
    if can_cancel:
        cancellation.add(watched.cancel)
    return ReadAhead(watched.open, cancellation)


def opened(watched: Numbers) -> ReadAhead:
    reader = read_ahead(watched)
    reader.columns()
    watched.asked.clear()
    return reader


def reading_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.endswith(("-reads", "-closes"))]


def test_what_was_expected_is_read_once_by_another_thread(watched: Numbers) -> None:
    reader = opened(watched)
    first, place = reader.read(COLUMNS, None, *YEARS, 30, MAX_BYTES)

    reader.expect(COLUMNS, place, *YEARS, 20, MAX_BYTES)
    second, _ = reader.read(COLUMNS, place, *YEARS, 20, MAX_BYTES)

    assert [*first["id"].to_pylist(), *second["id"].to_pylist()] == list(range(1, 51))
    assert watched.asked == [("MainThread-reads", 30), ("MainThread-reads", 20)]


@pytest.mark.parametrize("limit", [19, 21])
def test_rows_that_were_not_expected_are_read_again(watched: Numbers, limit: int) -> None:
    reader = opened(watched)
    _, place = reader.read(COLUMNS, None, *YEARS, 30, MAX_BYTES)
    reader.expect(COLUMNS, place, *YEARS, 20, MAX_BYTES)

    found, _ = reader.read(COLUMNS, place, *YEARS, limit, MAX_BYTES)

    assert found["id"].to_pylist() == list(range(31, 31 + limit))


def test_an_error_is_raised_where_the_rows_are_asked_for(watched: Numbers) -> None:
    reader = opened(watched)

    reader.expect(["nothing"], None, *YEARS, 20, MAX_BYTES)

    with pytest.raises(Fatal, match="no column 'nothing'"):
        reader.read(["nothing"], None, *YEARS, 20, MAX_BYTES)


def test_closing_it_cancels_a_read_that_is_under_way(watched: Numbers, until: Callable[..., None]) -> None:
    reader = opened(watched)
    watched.may_go_on.clear()
    reader.expect(COLUMNS, None, *YEARS, 20, MAX_BYTES)
    until(lambda: watched.asked)

    with closing(reader):
        assert not reader.is_ready(0.01)

    assert watched.is_cancelled
    assert watched.is_closed
    until(lambda: not reading_threads(), reading_threads)


def test_it_is_ready_once_the_expected_rows_are_there(watched: Numbers) -> None:
    reader = opened(watched)
    assert reader.is_ready(0), "nothing is expected"
    watched.may_go_on.clear()
    reader.expect(COLUMNS, None, *YEARS, 20, MAX_BYTES)
    assert not reader.is_ready(0.01)

    watched.may_go_on.set()

    assert reader.is_ready(15)
    assert reader.read(COLUMNS, None, *YEARS, 20, MAX_BYTES)[0].num_rows == 20
    assert len(watched.asked) == 1


def test_other_questions_are_answered_by_the_reader_even_while_it_reads(watched: Numbers) -> None:
    reader = opened(watched)
    reader.expect(COLUMNS, None, *YEARS, 20, MAX_BYTES)

    assert reader.columns() == watched.columns()
    assert reader.count(None, *YEARS, 1000) == (ROWS, None)
    assert reader.total(*YEARS) == ROWS
    assert reader.warnings(*YEARS) == ["slow"]
    assert reader.identity() == {"server": "none"}
    with pytest.raises(Fatal, match="checked"):
        reader.check()


def test_it_is_opened_in_another_thread_when_it_is_first_used(watched: Numbers) -> None:
    reader = read_ahead(watched)
    assert watched.asked == []

    assert reader.schema(COLUMNS).names == COLUMNS
    assert reader.columns() == watched.columns()

    assert watched.asked == [("MainThread-reads", 0)]


def test_an_opening_that_fails_is_tried_again_by_the_next_call(watched: Numbers) -> None:
    watched.opening_error = DatasetAway("away")
    reader = read_ahead(watched)
    with pytest.raises(DatasetAway, match="away"):
        reader.total(*YEARS)
    watched.opening_error = None

    assert reader.total(*YEARS) == ROWS


@pytest.mark.parametrize("opening_error", [None, DatasetAway("away")])
def test_a_reader_that_is_closed_while_it_opens_is_closed_when_it_is_open(
    watched: Numbers, until: Callable[..., None], opening_error: Exception | None
) -> None:
    watched.opening_error = opening_error
    reader = read_ahead(watched, can_cancel=False)
    reader.on_wait = reader.close
    watched.may_go_on.clear()

    with pytest.raises(ReaderClosed):
        reader.columns()

    assert not watched.is_closed
    watched.may_go_on.set()
    until(lambda: not reading_threads(), reading_threads)
    assert watched.is_closed is (opening_error is None)


def test_a_call_that_cannot_be_cancelled_does_not_delay_a_halt(watched: Numbers, until: Callable[..., None]) -> None:
    reader = read_ahead(watched, can_cancel=False)
    reader.columns()
    reader.on_wait = reader.close
    watched.may_go_on.clear()

    with pytest.raises(ReaderClosed):
        reader.read(COLUMNS, None, *YEARS, 20, MAX_BYTES)

    assert not watched.is_closed, "its connection is still in use"
    watched.may_go_on.set()
    until(lambda: watched.is_closed)


def test_a_closed_reader_asks_its_database_no_more(watched: Numbers) -> None:
    reader = opened(watched)
    reader.close()

    reader.expect(COLUMNS, None, *YEARS, 20, MAX_BYTES)
    with pytest.raises(ReaderClosed):
        reader.read(COLUMNS, None, *YEARS, 20, MAX_BYTES)
    with pytest.raises(ReaderClosed):
        reader.columns()

    assert watched.asked == []


#: Why a thread may not start: the system has no more of them, or a force interrupts the start.
NO_THREAD = [RuntimeError("can't start new thread"), StopRequested("7")]


@pytest.mark.parametrize("error", NO_THREAD, ids=lambda error: type(error).__name__)
def test_a_call_whose_thread_cannot_be_started_does_not_keep_the_connection_open(
    watched: Numbers, refuse_thread: Any, until: Callable[..., None], error: BaseException
) -> None:
    reader = opened(watched)
    refuse_thread("-reads", error)
    with pytest.raises(type(error)):
        reader.identity()

    reader.close()

    until(lambda: watched.is_closed)
    until(lambda: not reading_threads(), reading_threads)
    assert not watched.is_cancelled, "there was no statement to cancel"


def test_a_call_whose_thread_cannot_be_started_does_not_block_the_next_one(
    watched: Numbers, refuse_thread: Any
) -> None:
    reader = opened(watched)
    reader.on_wait = lambda: pytest.fail("it waits for a call that was never started")
    refuse_thread("-reads", RuntimeError("can't start new thread"))
    with pytest.raises(RuntimeError, match="can't start new thread"):
        reader.total(*YEARS)

    assert reader.total(*YEARS) == ROWS


def test_rows_whose_reading_could_not_be_started_are_not_mistaken_for_others(
    watched: Numbers, refuse_thread: Any
) -> None:
    reader = opened(watched)
    reader.expect(COLUMNS, None, *YEARS, 20, MAX_BYTES)
    assert reader.is_ready(15)
    refuse_thread("-reads", RuntimeError("can't start new thread"))
    with pytest.raises(RuntimeError, match="can't start new thread"):
        reader.expect(COLUMNS, None, *YEARS, 30, MAX_BYTES)

    assert reader.read(COLUMNS, None, *YEARS, 30, MAX_BYTES)[0].num_rows == 30


def test_without_a_thread_for_it_a_close_cancels_the_read_and_closes_the_connection_itself(
    watched: Numbers, refuse_thread: Any, until: Callable[..., None]
) -> None:
    reader = opened(watched)
    watched.may_go_on.clear()
    reader.expect(COLUMNS, None, *YEARS, 20, MAX_BYTES)
    until(lambda: watched.asked)
    refused = refuse_thread("-closes", RuntimeError("can't start new thread"))

    reader.close()

    assert refused.is_set()
    assert watched.is_cancelled
    assert watched.is_closed


def test_a_close_that_a_force_interrupted_can_be_repeated(
    watched: Numbers, refuse_thread: Any, until: Callable[..., None]
) -> None:
    reader = opened(watched)
    refuse_thread("-closes", StopRequested("7"))
    with pytest.raises(StopRequested):
        reader.close()
    with pytest.raises(ReaderClosed):
        reader.columns()

    reader.close()

    until(lambda: watched.is_closed)


def test_an_error_of_one_cancel_does_not_spare_the_other_statements_or_the_connection(
    watched: Numbers, until: Callable[..., None]
) -> None:
    def fail() -> None:
        raise ConnectionError("the connection was closed")

    cancellation = Cancellation(DATASET)
    cancellation.add(fail)
    cancellation.add(watched.cancel)
    reader = ReadAhead(watched.open, cancellation)
    reader.columns()
    watched.may_go_on.clear()
    reader.expect(COLUMNS, None, *YEARS, 20, MAX_BYTES)
    until(lambda: len(watched.asked) == 2)

    reader.close()

    until(lambda: watched.is_closed)
    assert watched.is_cancelled
