"""A reader that is one read ahead returns what the reader behind it would have."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime

import pyarrow as pa
import pytest

from jobmanager.errors import Fatal
from jobmanager.jobs.export.datasets import DatasetAway
from jobmanager.jobs.export.position import Place
from jobmanager.jobs.export.readers.read_ahead import ReadAhead

YEARS = (datetime(2023, 1, 1), datetime(2025, 1, 1))
COLUMNS = ["id"]
ROWS = 100
MAX_BYTES = 1_000_000


class Numbers:
    """A reader of the numbers from 1 to ROWS, which keeps who has read how many."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []
        self.is_closed = False
        self.may_go_on = threading.Event()  # a read waits for it
        self.may_go_on.set()
        self.is_cancelled = False

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

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def watched() -> Iterator[Numbers]:
    reader = Numbers()
    yield reader
    reader.may_go_on.set()


def test_what_was_expected_is_read_once_by_another_thread(watched: Numbers) -> None:
    reader = ReadAhead(watched)
    first, place = reader.read(COLUMNS, None, *YEARS, 30, MAX_BYTES)

    reader.expect(COLUMNS, place, *YEARS, 20, MAX_BYTES)
    second, _ = reader.read(COLUMNS, place, *YEARS, 20, MAX_BYTES)

    assert [*first["id"].to_pylist(), *second["id"].to_pylist()] == list(range(1, 51))
    assert watched.asked == [("MainThread-reads", 30), ("MainThread-reads", 20)]


@pytest.mark.parametrize("limit", [19, 21])
def test_rows_that_were_not_expected_are_read_again(watched: Numbers, limit: int) -> None:
    reader = ReadAhead(watched)
    _, place = reader.read(COLUMNS, None, *YEARS, 30, MAX_BYTES)
    reader.expect(COLUMNS, place, *YEARS, 20, MAX_BYTES)

    found, _ = reader.read(COLUMNS, place, *YEARS, limit, MAX_BYTES)

    assert found["id"].to_pylist() == list(range(31, 31 + limit))


def test_an_error_is_raised_where_the_rows_are_asked_for(watched: Numbers) -> None:
    reader = ReadAhead(watched)

    reader.expect(["nothing"], None, *YEARS, 20, MAX_BYTES)

    with pytest.raises(Fatal, match="no column 'nothing'"):
        reader.read(["nothing"], None, *YEARS, 20, MAX_BYTES)


def test_closing_it_cancels_a_read_that_is_under_way(watched: Numbers, until: Callable[..., None]) -> None:
    reader = ReadAhead(watched)
    watched.may_go_on.clear()
    reader.expect(COLUMNS, None, *YEARS, 20, MAX_BYTES)
    until(lambda: watched.asked)

    with closing(reader):
        assert not reader.is_ready(0.01)

    assert watched.is_cancelled
    assert watched.is_closed
    assert [thread.name for thread in threading.enumerate() if thread.name.endswith("-reads")] == []


def test_it_is_ready_once_the_expected_rows_are_there(watched: Numbers) -> None:
    reader = ReadAhead(watched)
    assert reader.is_ready(0), "nothing is expected"
    watched.may_go_on.clear()
    reader.expect(COLUMNS, None, *YEARS, 20, MAX_BYTES)
    assert not reader.is_ready(0.01)

    watched.may_go_on.set()

    assert reader.is_ready(15)
    assert reader.read(COLUMNS, None, *YEARS, 20, MAX_BYTES)[0].num_rows == 20
    assert len(watched.asked) == 1


def test_other_questions_are_answered_by_the_reader_even_while_it_reads(watched: Numbers) -> None:
    reader = ReadAhead(watched)
    reader.expect(COLUMNS, None, *YEARS, 20, MAX_BYTES)

    assert reader.columns() == watched.columns()
    assert reader.count(None, *YEARS, 1000) == (ROWS, None)
    assert reader.total(*YEARS) == ROWS
    assert reader.warnings(*YEARS) == ["slow"]
    assert reader.identity() == {"server": "none"}
    with pytest.raises(Fatal, match="checked"):
        reader.check()
