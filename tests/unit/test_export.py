"""An export is exact, whatever happens to it: halts, other processes, crashes, full disks, writers at the same time."""

from __future__ import annotations

import contextlib
import csv
import errno
import fcntl
import hashlib
import io
import json
import logging
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet
import pytest

from jobmanager.config import Settings
from jobmanager.errors import Fatal, StopRequested, Unwind
from jobmanager.job import Job
from jobmanager.jobs.export import catalog, counting, formats, output_file
from jobmanager.jobs.export.artifact import Artifact
from jobmanager.jobs.export.datasets import DatasetAway
from jobmanager.jobs.export.job import Export
from jobmanager.jobs.export.output_file import FilesUnusable, NoSpace, PartHeld
from jobmanager.jobs.export.readers.sqlalchemy import SqlReader
from jobmanager.jobs.export.readers.sqlite import SqliteReader
from jobmanager.registry import parse_args
from jobmanager.signals import Signals

FORMATS = ("csv", "jsonl", "parquet")
COMMENTS = (None, "", "fine", 'she said "no"', "a, b", "one\ntwo\r\nthree", "naïve – 日本 🙂", "\ttab", "null", "1")
#: (id, submitted_at, score, comment); three rows share each date, more than once across the end of a chunk
ROWS = [
    (n, f"2024-03-{1 + n // 12:02} 10:{(n // 3) % 4:02}:00", None if n % 7 == 3 else n / 4, COMMENTS[n % len(COMMENTS)])
    for n in range(40)
]
NAMES = ("id", "submitted_at", "score", "comment")
MARCH = {"from_date": "2024-03-01", "to_date": "2024-03-31"}


class SmallExport(Export):
    """An export of small chunks."""

    chunk_rows: ClassVar[int] = 7


class Crash(BaseException):
    """The process dies."""


class Keeper:
    """Stands behind one attempt: saves every checkpoint, and does *act* at the one of number *at*, from 0."""

    def __init__(self, folder: Path, at: int = -1, act: Callable[[Job], None] = lambda job: None) -> None:
        self.signals = Signals()
        self.due = 0.0
        self.count = 0
        self.saved: dict[str, Any] = {"cursor": None, "done": None, "total": None, "details": {}}
        self._folder, self._at, self._act = folder, at, act

    def wait_for_request(self, seconds: float) -> bool:
        return self.signals.halt.wait(seconds)

    def folder(self) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder

    def reach_checkpoint(self, job: Job) -> None:
        is_time = self.count == self._at
        self.count += 1
        if is_time and self._act is crash:
            crash(job)
        job.flush()
        told = {"cursor": job.cursor, "done": job.done, "total": job.total, "details": job.details()}
        self.saved = json.loads(json.dumps(told))
        if is_time:
            self._act(job)


def halt(job: Job) -> None:
    job.halt()
    job.resume()


def unwind(job: Job) -> None:
    raise Unwind(job.job_id)


def crash(job: Job) -> None:
    raise Crash(job.job_id)


_WRITER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=0)
for statement in sys.stdin:
    connection.execute(statement)
    print("done", flush=True)
"""


@contextmanager
def another_process(path: Path) -> Iterator[Callable[[str], None]]:
    """Yield what executes a statement in another process: locks of files keep processes out, not threads."""
    command = [sys.executable, "-c", _WRITER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def execute(statement: str) -> None:
            print(statement, file=process.stdin, flush=True)
            assert process.stdout.readline() == "done\n", statement

        yield execute
        process.stdin.close()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """The settings of a process that may export ROWS as the dataset "responses"."""
    with closing(sqlite3.connect(tmp_path / "data.db")) as connection, connection:
        connection.execute(
            "CREATE TABLE responses (id INTEGER PRIMARY KEY, submitted_at TEXT, score REAL, comment TEXT)"
        )
        connection.execute("CREATE INDEX by_date ON responses (submitted_at, id)")
        connection.executemany("INSERT INTO responses VALUES (?, ?, ?, ?)", ROWS)
    (tmp_path / "datasets.toml").write_text(
        '[responses]\nurl = "sqlite:///data.db"\ntable = "responses"\ndate_column = "submitted_at"\nkey = "id"\n'
    )
    return Settings(data_dir=tmp_path)


@pytest.fixture(autouse=True)
def _no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read SQLite files in this process: to start a child for each of so many exports would take an hour."""
    monkeypatch.setattr(catalog, "open_reader", SqliteReader)


@pytest.fixture(params=["adbc", "sqlalchemy"])
def _each_reader(request: pytest.FixtureRequest, _no_child: None, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "sqlalchemy":
        monkeypatch.setattr(catalog, "open_reader", SqlReader)


def make(
    settings: Settings, keeper: Keeper, attempt: int = 1, *, kind: type[Export] = SmallExport, **args: Any
) -> Export:
    """Return an attempt that goes on from what *keeper* has saved."""
    job = kind(
        keeper,
        job_id="j",
        attempt=attempt,
        args=parse_args(kind, MARCH | args, settings),
        cursor=keeper.saved["cursor"],
        settings=settings,
        log=logging.getLogger("test"),
    )
    job.done, job.total = keeper.saved["done"], keeper.saved["total"]
    return job


def run(settings: Settings, folder: Path, **args: Any) -> tuple[dict[str, Any], bytes]:
    """Export without a disturbance; returns the result and the file."""
    result = make(settings, Keeper(folder), **args).start()
    return result, (folder / result["file"]).read_bytes()


def read_back(data: bytes, file_format: str) -> list[tuple[Any, ...]]:
    """Return the rows of a file as tuples, as a user of the format reads them; CSV has texts only."""
    if file_format == "csv":
        return [tuple(row) for row in csv.reader(io.StringIO(data.decode(), newline=""))][1:]
    if file_format == "jsonl":
        return [tuple(json.loads(line).values()) for line in data.decode().splitlines()]
    return [tuple(row.values()) for row in pa.parquet.read_table(io.BytesIO(data)).to_pylist()]


def as_texts(rows: list[tuple[Any, ...]]) -> list[tuple[str, ...]]:
    return [
        tuple("" if value is None else f"{value:g}" if value.__class__ is float else str(value) for value in row)
        for row in rows
    ]


@pytest.mark.usefixtures("_each_reader")
@pytest.mark.parametrize("file_format", FORMATS)
def test_an_export_holds_every_row_in_order_as_it_is_in_the_table(settings: Settings, file_format: str) -> None:
    result, data = run(settings, settings.data_dir / "job", format=file_format)

    expected = as_texts(ROWS) if file_format == "csv" else ROWS
    assert read_back(data, file_format) == expected
    assert result["rows"] == len(ROWS)
    assert result["bytes"] == len(data)
    assert result["sha256"] == hashlib.sha256(data).hexdigest()
    assert result["filename"] == f"responses_2024-03-01_2024-03-31.{file_format}"
    assert [path.name for path in (settings.data_dir / "job").iterdir()] == [result["file"]]


def test_csv_tells_an_empty_text_from_no_value_and_has_one_header(settings: Settings) -> None:
    lines = run(settings, settings.data_dir / "job")[1].split(b"\n")

    assert lines[0] == b'"id","submitted_at","score","comment"'
    assert lines[1] == b'0,"2024-03-01 10:00:00",0,'
    assert lines[2] == b'1,"2024-03-01 10:00:00",0.25,""'
    assert sum(line == lines[0] for line in lines) == 1


def test_every_reader_gives_the_same_bytes(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    by_adbc = [run(settings, settings.data_dir / name, format=name)[1] for name in FORMATS]
    monkeypatch.setattr(catalog, "open_reader", SqlReader)

    by_sqlalchemy = [run(settings, settings.data_dir / f"{name}2", format=name)[1] for name in FORMATS]

    assert by_adbc == by_sqlalchemy


@pytest.mark.parametrize("act", [halt, unwind, crash], ids=["halted", "unwound", "killed"])
@pytest.mark.parametrize("file_format", FORMATS)
def test_an_export_interrupted_at_any_checkpoint_is_byte_identical(
    settings: Settings, file_format: str, act: Callable[[Job], None]
) -> None:
    _, undisturbed = run(settings, settings.data_dir / "undisturbed", format=file_format)
    counter = Keeper(settings.data_dir / "count")
    make(settings, counter, format=file_format).start()

    for at in range(counter.count):
        folder = settings.data_dir / f"job{at}"
        keeper = Keeper(folder, at, act)
        job = make(settings, keeper, format=file_format)
        try:
            result = job.start()
        except (Unwind, Crash):
            _leave_more_than_was_claimed(folder, keeper)
            successor = make(settings, keeper, attempt=2, format=file_format)
            result = successor.start()
        assert (folder / result["file"]).read_bytes() == undisturbed, f"interrupted at checkpoint {at}"
        assert result["rows"] == len(ROWS)
        assert len(list(folder.iterdir())) <= 2
    assert counter.count >= len(ROWS) // SmallExport.chunk_rows


def _leave_more_than_was_claimed(folder: Path, keeper: Keeper) -> None:
    """Append what a process may have written after its last checkpoint."""
    if keeper.saved["cursor"] and (folder / keeper.saved["cursor"]["part"]).exists():
        with open(folder / keeper.saved["cursor"]["part"], "ab") as file:
            file.write(b'torn "garbage\n\x00')


@pytest.mark.usefixtures("_each_reader")
@pytest.mark.parametrize("file_format", FORMATS)
def test_an_export_interrupted_at_every_checkpoint_is_byte_identical(settings: Settings, file_format: str) -> None:
    _, undisturbed = run(settings, settings.data_dir / "undisturbed", format=file_format)
    keeper, attempt, result = Keeper(settings.data_dir / "job", 0, unwind), 0, None

    while result is None:
        attempt += 1
        # It grows: Parquet is converted in one attempt.
        keeper = _successor_of(keeper, settings.data_dir / "job", at=1 + attempt // 2)
        try:
            result = make(settings, keeper, attempt, format=file_format).start()
        except Unwind:
            assert attempt < 100

    assert (settings.data_dir / "job" / result["file"]).read_bytes() == undisturbed
    assert attempt >= 4


def _successor_of(keeper: Keeper, folder: Path, at: int) -> Keeper:
    successor = Keeper(folder, at, unwind)
    successor.saved = keeper.saved
    return successor


@pytest.mark.parametrize("file_format", FORMATS)
def test_an_export_that_died_after_its_file_was_complete_makes_the_same_file(
    settings: Settings, file_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed, _ = run(settings, settings.data_dir / "undisturbed", format=file_format)
    keeper = Keeper(settings.data_dir / "job")
    with monkeypatch.context() as patch:
        job = make(settings, keeper, format=file_format)
        patch.setattr(Artifact, "remove_leftovers", lambda _: crash(job))
        with pytest.raises(Crash):
            job.start()

    again = make(settings, keeper, attempt=2, format=file_format).start()

    assert again == undisturbed
    assert [path.name for path in (settings.data_dir / "job").iterdir()] == [again["file"]]


@pytest.mark.parametrize("left", ["whole", "cut off", "empty"])
def test_a_parquet_file_that_was_damaged_before_it_was_reported_is_made_again(
    settings: Settings, left: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, undisturbed = run(settings, settings.data_dir / "undisturbed", format="parquet")
    folder = settings.data_dir / "job"
    keeper = Keeper(folder)
    job = make(settings, keeper, format="parquet")
    with monkeypatch.context() as patch:
        patch.setattr(Artifact, "remove_leftovers", lambda _: crash(job))
        with pytest.raises(Crash):
            job.start()
    (file,) = folder.iterdir()
    file.write_bytes({"whole": undisturbed, "cut off": undisturbed[:-1], "empty": b""}[left])

    result = make(settings, keeper, attempt=2, format="parquet").start()

    assert [path.name for path in folder.iterdir()] == [result["file"]]
    assert (folder / result["file"]).read_bytes() == undisturbed


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("wakes_at", [0, 1, 10**6], ids=["its first checkpoint", "its second", "its end"])
def test_an_attempt_that_wakes_when_its_successor_has_made_the_file_leaves_that_alone(
    settings: Settings, file_format: str, wakes_at: int
) -> None:
    folder = settings.data_dir / "job"
    keeper = Keeper(folder, 2, unwind)
    with pytest.raises(Unwind):
        make(settings, keeper, format=file_format).start()
    successor = Keeper(folder)
    successor.saved = keeper.saved
    made = make(settings, successor, attempt=3, format=file_format).start()
    whole = (folder / made["file"]).read_bytes()

    # Frozen just before it began; what it knows is what was saved by then.
    late = Keeper(folder, wakes_at, crash)
    late.saved = keeper.saved
    with contextlib.suppress(Crash):
        make(settings, late, attempt=2, format=file_format).start()

    assert (folder / made["file"]).read_bytes() == whole
    assert hashlib.sha256(whole).hexdigest() == made["sha256"]


def test_a_finished_file_that_was_damaged_is_not_taken_for_the_result(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, undisturbed = run(settings, settings.data_dir / "undisturbed")
    folder = settings.data_dir / "job"
    keeper = Keeper(folder)
    job = make(settings, keeper)
    with monkeypatch.context() as patch:
        patch.setattr(Artifact, "remove_leftovers", lambda _: crash(job))
        with pytest.raises(Crash):
            job.start()
    (file,) = folder.iterdir()
    file.write_bytes(b"x" + undisturbed[1:])

    result = make(settings, keeper, attempt=2).start()

    assert (folder / result["file"]).read_bytes() == undisturbed


def test_an_attempt_that_wakes_when_its_successor_writes_the_file_leaves_that_alone(settings: Settings) -> None:
    _, undisturbed = run(settings, settings.data_dir / "undisturbed")
    folder = settings.data_dir / "job"

    def be_overtaken(job: Job) -> None:
        job.halt()  # the file is closed, and the process frozen
        successor = Keeper(folder, 0, lambda successor: resume_late(job))
        successor.saved = keeper.saved
        outcome.update(make(settings, successor, attempt=2).start())
        raise Crash

    def resume_late(job: Job) -> None:
        with pytest.raises(PartHeld):
            make(settings, keeper, attempt=1).start()

    outcome: dict[str, Any] = {}
    keeper = Keeper(folder, 3, be_overtaken)
    with pytest.raises(Crash):
        make(settings, keeper, attempt=1).start()

    assert outcome["sha256"] == hashlib.sha256(undisturbed).hexdigest()
    assert (folder / outcome["file"]).read_bytes() == undisturbed


@pytest.mark.parametrize("harm", ["missing", "shorter", "changed"])
def test_a_damaged_part_is_noticed_and_the_export_starts_over(
    settings: Settings, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    _, undisturbed = run(settings, settings.data_dir / "undisturbed")
    keeper = Keeper(settings.data_dir / "job", 3, unwind)
    with pytest.raises(Unwind):
        make(settings, keeper).start()
    path = settings.data_dir / "job" / keeper.saved["cursor"]["part"]
    data = path.read_bytes()
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes(data[:-1] if harm == "shorter" else data.replace(b"fine", b"fide"))

    result = make(settings, keeper, attempt=2).start()

    assert (settings.data_dir / "job" / result["file"]).read_bytes() == undisturbed
    assert harm in caplog.text
    assert "starts over" in caplog.text


def test_an_attempt_that_lost_its_lease_unaware_cannot_harm_the_file_of_its_successor(settings: Settings) -> None:
    _, undisturbed = run(settings, settings.data_dir / "undisturbed")
    folder = settings.data_dir / "job"
    outcome: dict[str, Any] = {}

    def be_overtaken(job: Job) -> None:
        successor = Keeper(folder)
        successor.saved = keeper.saved
        outcome.update(make(settings, successor, attempt=2).start())

    keeper = Keeper(folder, 3, be_overtaken)
    frozen = make(settings, keeper, attempt=1).start()  # goes on to its end, as if it had never heard

    assert (folder / outcome["file"]).read_bytes() == undisturbed
    assert outcome["file"] != frozen["file"]
    assert outcome["sha256"] == hashlib.sha256(undisturbed).hexdigest()


def test_the_part_stays_locked_while_a_parquet_file_is_made_even_if_that_is_halted(settings: Settings) -> None:
    folder = settings.data_dir / "job"

    def look(job: Job) -> None:
        job.halt()
        with open(folder / job.cursor["part"], "rb") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        looked.append(True)

    counter = Keeper(settings.data_dir / "count")
    make(settings, counter, format="parquet").start()
    looked: list[bool] = []

    make(settings, Keeper(folder, counter.count - 2, look), format="parquet").start()

    assert looked


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_full_volume_fails_the_job_with_that_reason_and_it_goes_on_from_its_last_chunk(
    settings: Settings, file_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, undisturbed = run(settings, settings.data_dir / "undisturbed", format=file_format)
    keeper = Keeper(settings.data_dir / "job")
    with monkeypatch.context() as patch:
        patch.setattr(output_file, "open", _open_on_small_volume(600), raising=False)
        job = make(settings, keeper, format=file_format)
        with pytest.raises(NoSpace, match="no space left on the volume of the job's files"):
            job.start()
    claimed = keeper.saved["cursor"]
    kept = (settings.data_dir / "job" / claimed["part"]).stat().st_size if claimed else 0

    result = make(settings, keeper, attempt=2, format=file_format).start()

    assert job.cursor == claimed, "nothing of the chunk that failed counts"
    assert claimed is None or kept >= claimed["bytes"] > 0
    assert (settings.data_dir / "job" / result["file"]).read_bytes() == undisturbed


def _open_on_small_volume(size: int) -> Callable[..., io.FileIO]:
    class File(io.FileIO):
        def write(self, data: Any) -> int:
            room = size - self.tell()
            if room <= 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.name)
            return super().write(data[:room])

    return lambda path, mode="r", buffering=-1, opener=None: File(path, mode.replace("b", ""), opener=opener)


def test_a_volume_that_is_full_when_the_parquet_file_is_made_keeps_the_rows(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = Keeper(settings.data_dir / "undisturbed")
    whole = make(settings, counter, format="parquet").start()
    undisturbed = (settings.data_dir / "undisturbed" / whole["file"]).read_bytes()
    folder = settings.data_dir / "job"
    keeper = Keeper(folder)

    with monkeypatch.context() as patch:
        patch.setattr(output_file, "open", _open_on_small_volume(counter.saved["cursor"]["bytes"] + 10), raising=False)
        with pytest.raises(NoSpace):
            make(settings, keeper, format="parquet").start()

    assert keeper.saved["cursor"]["rows"] == len(ROWS)
    result = make(settings, keeper, attempt=2, format="parquet").start()
    assert (folder / result["file"]).read_bytes() == undisturbed


def test_what_the_file_system_says_is_told_without_paths(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, *_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(output_file, "open", fail, raising=False)

    with pytest.raises(FilesUnusable) as caught:
        make(settings, Keeper(settings.data_dir / "job")).start()

    assert "Permission denied" in str(caught.value)
    assert str(settings.data_dir) not in str(caught.value)


@pytest.mark.parametrize(
    ("from_date", "to_date", "begin", "end"),
    [
        ("2024-03-02", "2024-03-02", "2024-03-02", "2024-03-03"),
        ("2024-Mar-02", "2024-Mar-03", "2024-03-02", "2024-03-04"),
        ("2024-03-01T10:01:00", "2024-03-02T10:02:00", "2024-03-01 10:01:00", "2024-03-02 10:02:00"),
        ("2024-03-01T12:01:00+02:00", "2024-03-02T11:02:00+01:00", "2024-03-01 10:01:00", "2024-03-02 10:02:00"),
        ("2024-03-01T10:01:00.5", "2024-03-01T10:02:00.000001", "2024-03-01 10:01:01", "2024-03-01 10:02:01"),
        ("0001-01-01", "9999-12-31", "", "9"),
    ],
)
@pytest.mark.usefixtures("_each_reader")
def test_the_edges_of_the_range_are_right_to_the_row(
    settings: Settings, from_date: str, to_date: str, begin: str, end: str
) -> None:
    _, data = run(settings, settings.data_dir / "job", from_date=from_date, to_date=to_date)

    assert [int(row[0]) for row in read_back(data, "csv")] == [row[0] for row in ROWS if begin <= row[1] < end]


@pytest.mark.usefixtures("_each_reader")
@pytest.mark.parametrize("file_format", FORMATS)
def test_an_empty_range_makes_a_valid_file_without_rows(settings: Settings, file_format: str) -> None:
    result, data = run(
        settings, settings.data_dir / "job", format=file_format, from_date="2030-01-01", to_date="2030-01-01"
    )

    assert result["rows"] == 0
    assert read_back(data, file_format) == []
    if file_format == "csv":
        assert data == b'"id","submitted_at","score","comment"\n'
    if file_format == "parquet":
        assert pa.parquet.read_schema(io.BytesIO(data)).names == list(NAMES)


@pytest.mark.usefixtures("_each_reader")
@pytest.mark.parametrize("file_format", FORMATS)
def test_columns_come_in_the_order_asked_for(settings: Settings, file_format: str) -> None:
    _, data = run(settings, settings.data_dir / "job", format=file_format, columns=["comment", "id"])

    expected = [(row[3], row[0]) for row in ROWS]
    assert read_back(data, file_format) == (as_texts(expected) if file_format == "csv" else expected)


def test_parquet_has_a_row_group_for_each_chunk(settings: Settings) -> None:
    _, data = run(settings, settings.data_dir / "job", format="parquet")

    groups = pa.parquet.read_metadata(io.BytesIO(data))
    assert [groups.row_group(index).num_rows for index in range(groups.num_row_groups)] == [7, 7, 7, 7, 7, 5]


@pytest.mark.parametrize("act", [unwind, crash], ids=["unwound", "killed"])
def test_large_rows_are_read_few_at_a_time_and_interruptions_do_not_change_how_many(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, act: Callable[[Job], None]
) -> None:
    with closing(sqlite3.connect(settings.data_dir / "data.db")) as connection, connection:
        connection.execute("UPDATE responses SET comment = ? WHERE id >= 20", ("x" * 1000,))
    monkeypatch.setattr(SmallExport, "chunk_bytes", 2500)
    _, undisturbed = run(settings, settings.data_dir / "undisturbed", format="parquet")
    keeper = Keeper(settings.data_dir / "job", 4, act)
    with pytest.raises((Unwind, Crash)):
        make(settings, keeper, format="parquet").start()

    result = make(settings, keeper, attempt=2, format="parquet").start()

    assert (settings.data_dir / "job" / result["file"]).read_bytes() == undisturbed
    groups = pa.parquet.read_metadata(io.BytesIO(undisturbed))
    sizes = [groups.row_group(index).num_rows for index in range(groups.num_row_groups)]
    assert sum(sizes) == len(ROWS)
    assert sizes[:2] == [7, 7]
    assert 1 <= min(sizes[4:]) <= max(sizes[4:]) <= 3, "a row has 1,000 bytes, a chunk about 2,500"


@pytest.mark.parametrize("size", [1, 100, 1000])
def test_json_lines_do_not_depend_on_how_much_is_made_at_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    _, usual = run(settings, settings.data_dir / "usual", format="jsonl")
    monkeypatch.setattr(formats, "BYTES_AT_ONCE", size)

    _, data = run(settings, settings.data_dir / "job", format="jsonl")

    assert data == usual


@pytest.mark.usefixtures("_each_reader")
@pytest.mark.parametrize("journal_mode", ["wal", "delete"])
def test_others_may_write_to_the_table_while_it_is_exported(settings: Settings, journal_mode: str) -> None:
    with another_process(settings.data_dir / "data.db") as execute:
        execute(f"PRAGMA journal_mode = {journal_mode}")

        def write(job: Job) -> None:
            execute("BEGIN IMMEDIATE")
            execute("DELETE FROM responses WHERE id = 0")  # exported already
            execute("INSERT INTO responses VALUES (1000, '2024-03-30 10:00:00', 1, 'late')")
            execute("COMMIT")

        keeper = Keeper(settings.data_dir / "job", 2, write)
        result = make(settings, keeper).start()

    rows = read_back((settings.data_dir / "job" / result["file"]).read_bytes(), "csv")
    assert [int(row[0]) for row in rows] == [*(row[0] for row in ROWS), 1000]


def test_a_table_that_another_keeps_locked_is_waited_for_or_said_to_be_away(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobmanager.jobs.export.readers.sqlite_connection._BUSY_MILLISECONDS", 50)
    with another_process(settings.data_dir / "data.db") as execute:
        execute("BEGIN EXCLUSIVE")

        with pytest.raises(DatasetAway, match="'responses' cannot be read"):
            make(settings, Keeper(settings.data_dir / "job")).start()

        execute("ROLLBACK")
    assert make(settings, Keeper(settings.data_dir / "job")).start()["rows"] == len(ROWS)


def test_a_lost_database_is_reported_and_a_retry_continues_from_the_last_checkpoint(settings: Settings) -> None:
    _, undisturbed = run(settings, settings.data_dir / "undisturbed")
    database, elsewhere = settings.data_dir / "data.db", settings.data_dir / "elsewhere.db"

    def go_away(job: Job) -> None:
        job.halt()
        database.rename(elsewhere)

    keeper = Keeper(settings.data_dir / "job", 4, go_away)
    with pytest.raises(DatasetAway) as caught:
        make(settings, keeper).start()
    elsewhere.rename(database)
    rows_kept = keeper.saved["done"]
    second = Keeper(settings.data_dir / "job")
    second.saved = keeper.saved

    result = make(settings, second, attempt=2).start()

    assert not isinstance(caught.value, Fatal)
    for secret in (str(settings.data_dir), "data.db", "sqlite", "SELECT"):
        assert secret not in str(caught.value)
    assert rows_kept == 4 * SmallExport.chunk_rows
    assert (settings.data_dir / "job" / result["file"]).read_bytes() == undisturbed


def test_progress_counts_rows_of_a_known_total_and_a_halted_export_tells_what_is_kept(settings: Settings) -> None:
    keeper = Keeper(settings.data_dir / "job", 3, unwind)

    with pytest.raises(Unwind):
        make(settings, keeper).start()

    assert (keeper.saved["done"], keeper.saved["total"]) == (21, len(ROWS))
    size = (settings.data_dir / "job" / keeper.saved["cursor"]["part"]).stat().st_size
    assert keeper.saved["details"] == {"dataset": "responses", "format": "csv", "rows": 21, "bytes": size}


@pytest.mark.usefixtures("_each_reader")
@pytest.mark.parametrize("step", [1, 3, 13, 39, 40, 41])
def test_the_total_is_exact_and_counting_can_be_halted(
    settings: Settings, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "COUNT_STEP", step)
    keeper = Keeper(settings.data_dir / "job", 0, halt)
    job = make(settings, keeper)

    job.start()

    assert job.total == len(ROWS)


def test_what_is_too_much_to_count_has_no_total(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "COUNT_STEP", 5)
    monkeypatch.setattr(counting, "COUNT_LIMIT", 20)
    job = make(settings, Keeper(settings.data_dir / "job"))

    assert job.start()["rows"] == len(ROWS)
    assert job.total is None


def test_a_halted_export_holds_neither_file_nor_connection(settings: Settings) -> None:
    def look(job: Job) -> None:
        job.halt()
        links = [os.readlink(f"/proc/self/fd/{name}") for name in _descriptors()]
        opened.extend(link for link in links if link.startswith(str(settings.data_dir)))
        looked.append(True)

    opened: list[str] = []
    looked: list[bool] = []

    make(settings, Keeper(settings.data_dir / "job", 2, look)).start()

    assert looked
    assert opened == []


def _descriptors() -> Iterator[str]:
    for name in os.listdir("/proc/self/fd"):
        if os.path.lexists(f"/proc/self/fd/{name}"):
            yield name


@pytest.mark.slow
@pytest.mark.parametrize("file_format", FORMATS)
def test_clean_removes_everything_at_any_checkpoint_and_may_be_repeated(settings: Settings, file_format: str) -> None:
    def stop(job: Job) -> None:
        raise StopRequested(job.job_id)

    at = 0
    while True:
        keeper = Keeper(settings.data_dir / "job", at, stop)
        try:
            make(settings, keeper, format=file_format).start()
        except StopRequested:
            at += 1
            for attempt in (2, 3):
                make(settings, keeper, attempt, format=file_format).clean()
            assert not (settings.data_dir / "job").exists()
        else:
            break
    assert at > 3


@pytest.mark.usefixtures("_each_reader")
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("DROP TABLE responses", "The table 'responses' of dataset 'responses' does not exist."),
        (
            "ALTER TABLE responses RENAME submitted_at TO at",
            "has no column 'submitted_at'",
        ),
        ("ALTER TABLE responses RENAME comment TO remark", "has no column 'comment'"),
    ],
)
def test_a_table_that_has_changed_meanwhile_fails_the_job_for_good(settings: Settings, change: str, says: str) -> None:
    job = make(settings, Keeper(settings.data_dir / "job"), columns=["id", "comment"])
    with closing(sqlite3.connect(settings.data_dir / "data.db")) as connection, connection:
        connection.execute(change)

    with pytest.raises(Fatal, match=says):
        job.start()


def test_a_dataset_that_is_no_longer_configured_fails_the_job_for_good(settings: Settings) -> None:
    job = make(settings, Keeper(settings.data_dir / "job"))
    (settings.data_dir / "datasets.toml").write_text("")

    with pytest.raises(Fatal, match="no dataset is configured"):
        job.start()


def test_the_name_of_the_file_is_safe_whatever_the_dates(settings: Settings) -> None:
    result, _ = run(settings, settings.data_dir / "job", from_date="2024-03-01T10:00:00+02:00", to_date="2024-03-09")

    assert result["filename"] == "responses_2024-03-01T100000+0200_2024-03-09.csv"
