"""A reader that is one read ahead returns what the reader behind it would have."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pytest

from jobmanager.errors import Fatal
from jobmanager.jobs.datasets import load_datasets
from jobmanager.jobs.places import Place
from jobmanager.jobs.read_ahead import ReadAhead
from jobmanager.jobs.sqlite_reader import SqliteReader
from jobmanager.sample import make_sample

YEARS = (datetime(2023, 1, 1), datetime(2025, 1, 1))
COLUMNS = ["id", "comment"]
ROWS = 100


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sample")
    make_sample(path, ROWS)
    return path


class Watched(SqliteReader):
    """A reader that keeps who has it read how many rows."""

    asked: list[tuple[str, int]]

    def read(
        self,
        columns: list[str],
        after: Place | None,
        begin: datetime,
        end: datetime,
        limit: int,
        max_bytes: int = 2**24,
    ) -> tuple[pa.Table, Place | None]:
        vars(self).setdefault("asked", []).append((threading.current_thread().name, limit))
        return super().read(columns, after, begin, end, limit)


@pytest.fixture
def watched(folder: Path) -> Iterator[Watched]:
    (dataset,) = load_datasets(folder / "datasets.toml").values()
    reader = Watched(dataset)
    yield reader
    reader.close()


def test_what_was_expected_is_read_once_by_another_thread(watched: Watched) -> None:
    reader = ReadAhead(watched)
    first, place = reader.read(COLUMNS, None, *YEARS, 30)

    reader.expect(COLUMNS, place, *YEARS, 20)
    second, _ = reader.read(COLUMNS, place, *YEARS, 20)

    assert [*first["id"].to_pylist(), *second["id"].to_pylist()] == list(range(1, 51))
    assert watched.asked == [("MainThread", 30), ("MainThread-reads", 20)]


@pytest.mark.parametrize("limit", [19, 21])
def test_what_was_not_expected_is_read_anew(watched: Watched, limit: int) -> None:
    reader = ReadAhead(watched)
    _, place = reader.read(COLUMNS, None, *YEARS, 30)
    reader.expect(COLUMNS, place, *YEARS, 20)

    found, _ = reader.read(COLUMNS, place, *YEARS, limit)

    assert found["id"].to_pylist() == list(range(31, 31 + limit))


def test_an_error_is_raised_where_the_rows_are_asked_for(watched: Watched) -> None:
    reader = ReadAhead(watched)

    reader.expect(["nothing"], None, *YEARS, 20)

    with pytest.raises(Fatal, match="no column 'nothing'"):
        reader.read(["nothing"], None, *YEARS, 20)


def test_closing_it_waits_for_the_thread_and_forgets_what_nobody_asked_for(folder: Path) -> None:
    (dataset,) = load_datasets(folder / "datasets.toml").values()
    with closing(ReadAhead(SqliteReader(dataset))) as reader:
        reader.expect(COLUMNS, None, *YEARS, 20)

    assert [thread.name for thread in threading.enumerate() if thread.name.endswith("-reads")] == []


def test_columns_and_counts_come_from_the_reader_even_while_it_reads(watched: Watched) -> None:
    reader = ReadAhead(watched)
    reader.expect(COLUMNS, None, *YEARS, 20)

    assert reader.columns() == watched.columns()
    assert reader.count(None, *YEARS, 1000) == (ROWS, None)
