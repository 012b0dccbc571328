"""Rows of a dataset between two dates, to a file: exact, however often it is halted, resumed or killed.

The rows are read by keyset in chunks, each is appended to a part file, and a checkpoint claims what was appended, after
an fsync. Starting again cuts the file back to what was claimed. Knows nothing of HTTP or of the store of jobs.

Arrow and the drivers (see rows.py) take as much memory as the rest of the service, and are never given back: they are
imported when the first export is made, not when the type becomes known.
"""

from __future__ import annotations

import os
import re
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)
from sqlalchemy.engine import make_url

from jobmanager.config import Settings
from jobmanager.errors import Fatal
from jobmanager.job import Job
from jobmanager.jobs.datasets import Dataset, DatasetAway, Reader, load_datasets
from jobmanager.jobs.dates import parse_moment
from jobmanager.jobs.libraries import read_libraries
from jobmanager.jobs.part import Part, PartDamaged, in_our_words, remove_unless_held
from jobmanager.jobs.places import Place

if TYPE_CHECKING:
    import pyarrow as pa

    from jobmanager.jobs.encodings import Encoding

#: The first chunk has no more rows than this: it shows how large they are.
FIRST_ROWS = 1_000
#: Rows are counted this many at a time, so that a halt never waits for a whole count.
COUNT_STEP = 500_000
#: Rows are counted up to here, at 50 ms a million; an export of more shows no total.
COUNT_LIMIT = 100_000_000

_LONGEST_DATE = 64
_LONGEST_NAME = 255
_MOST_COLUMNS = 1000
#: How many names of columns an error lists.
_LISTED_COLUMNS = 50


class Export(Job):
    """Writes the rows of a dataset between two dates to a file, in the order of date and key."""

    # A database that is away for a moment should not end an export.
    max_attempts: ClassVar[int] = 5
    #: rows read, and appended to the file, at once: no more than these,
    chunk_rows: ClassVar[int] = 25_000
    #: and only as many as fit into this, as Arrow keeps them, if they are like those of the chunk before
    chunk_bytes: ClassVar[int] = 16 * 1024 * 1024

    class Args(BaseModel):
        """What to export."""

        model_config = ConfigDict(extra="forbid")

        from_date: str = Field(
            max_length=_LONGEST_DATE,
            description="The first day or time, as in 2024-03-09, 2024-Mar-09 or 2024-03-09T12:30:00 (UTC).",
            examples=["2024-01-01", "2024-Jan-01"],
        )
        to_date: str = Field(
            max_length=_LONGEST_DATE,
            description="The last day, which is included whole; or a time, which is not included.",
            examples=["2024-03-31", "2024-Mar-31"],
        )
        dataset: str | None = Field(
            None,
            max_length=_LONGEST_NAME,
            description="The dataset, as the operator named it; may be left out if there is one only.",
        )
        format: Literal["csv", "jsonl", "parquet"] = Field("csv", description="The format of the file.")
        columns: list[Annotated[str, StringConstraints(max_length=_LONGEST_NAME)]] | None = Field(
            None,
            min_length=1,
            max_length=_MOST_COLUMNS,
            description="The columns, in this order; all of them by default.",
        )

        @field_validator("from_date", "to_date")
        @classmethod
        def _is_moment(cls, text: str) -> str:
            parse_moment(text)
            return text

        @model_validator(mode="after")
        def _is_range(self) -> Export.Args:
            begin, end = parse_moment(self.from_date), parse_moment(self.to_date)
            if begin.at > end.at and begin.at >= end.after():
                raise ValueError("from_date must not be after to_date")
            return self

        @model_validator(mode="after")
        def _is_configured(self, info: ValidationInfo) -> Export.Args:
            context: dict[str, Settings] = info.context or {}
            dataset = find_dataset(self.dataset, context["settings"])
            if self.columns is not None:
                _check_columns(self.columns, dataset)
            return self

        def bounds(self) -> tuple[datetime, datetime]:
            """Return begin and exclusive end, naive and in UTC."""
            return parse_moment(self.from_date).at, parse_moment(self.to_date).after()

    args: Export.Args

    _reader: Reader | None = None
    _part: Part | None = None
    _is_finishing = False

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        # Not in start, which force may interrupt: nobody could import any more what it left locked.
        self._encoding: Encoding = _rows().ENCODINGS[self.args.format]

    def start(self) -> dict[str, Any]:
        """Append the chunks that are left, then make the file."""
        self._dataset = self._configured()
        with in_our_words():
            try:
                made = self._finished_file()
                if made is None:
                    rows = self._append_chunks()
                    made = self._make_file(rows)
                self._remove_leftovers()
                return self._result(*made)
            finally:
                self._let_go()

    def halt(self) -> None:
        """Close the file and the connection for as long as the job is halted."""
        # The lock of a complete part is kept: else another attempt might turn it into the same file at the same time.
        if not self._is_finishing:
            self._let_go()

    def flush(self) -> None:
        """Make durable what the cursor claims."""
        if self._part is not None:
            with in_our_words():
                self._part.sync()

    def details(self) -> dict[str, Any]:
        """Tell what is written so far."""
        cursor = self.cursor or {}
        told = {"dataset": self._dataset.name, "format": self.args.format}
        return told | {"rows": cursor.get("rows", 0), "bytes": cursor.get("bytes", 0)}

    def _configured(self) -> Dataset:
        try:
            return find_dataset(self.args.dataset, self.settings)
        except ValueError as error:
            raise Fatal(f"{error}.") from None

    # One chunk after the other

    def _append_chunks(self) -> int:
        """Append all rows that the part lacks; returns how many it holds then."""
        begin, end = self.args.bounds()
        self._open_part()
        if not self.cursor:
            self.total = self._count(begin, end)
        while (cursor := self._append_chunk(begin, end)) is not None:
            self.checkpoint(cursor, done=cursor["rows"], total=self.total)
        return self._rows_so_far()

    def _append_chunk(self, begin: datetime, end: datetime) -> dict[str, Any] | None:
        """Append the next rows; returns the cursor that claims them, or None if there were none.

        A function of its own, so that the rows are let go before the next are read, or the job is halted.
        """
        after = Place.from_json(self.cursor) if self.cursor else None
        limit = self.cursor["next_rows"] if self.cursor else min(FIRST_ROWS, self.chunk_rows)
        reader, columns = self._open_reader(), self._columns()
        rows, place = reader.read(columns, after, begin, end, limit)
        if place is None:
            return None
        next_rows = self._next_rows(rows)
        reader.expect(columns, place, begin, end, next_rows)
        part = self._open_part()
        for piece in self._encoding.body(rows, part.length):
            part.write(piece)
        cursor = place.to_json() | {"rows": self._rows_so_far() + rows.num_rows, "next_rows": next_rows}
        return cursor | {"part": part.path.name, "bytes": part.length, "sha256": part.sha256}

    def _next_rows(self, rows: pa.Table) -> int:
        """Return how many rows to read after *rows*; kept in the cursor, so that chunks do not depend on halts."""
        fitting = self.chunk_bytes * rows.num_rows // max(1, rows.nbytes)
        return int(max(1, min(fitting, self.chunk_rows)))

    def _rows_so_far(self) -> int:
        return int(self.cursor["rows"]) if self.cursor else 0

    def _count(self, begin: datetime, end: datetime) -> int | None:
        """Return how many rows there are to export: exact, if nobody adds any; None if there are too many to count."""
        counted = 0
        place: Place | None = None
        while counted < COUNT_LIMIT:
            step, place = self._open_reader().count(place, begin, end, COUNT_STEP)
            counted += step
            if place is None:
                return counted
            self.checkpoint(done=0)
        return None

    def _open_part(self) -> Part:
        """Return the part, opened where the cursor says, or begun."""
        if self._part is None:
            self._part = self._reopen_part()
        return self._part or self._begin_part()

    def _reopen_part(self) -> Part | None:
        """Go on with the part that the cursor names; None, and the export starts over, if it is not what it was."""
        if not self.cursor:
            return None
        try:
            return Part.reopen(
                self.workdir / self.cursor["part"],
                length=self.cursor["bytes"],
                sha256=self.cursor["sha256"],
                copy_to=self._new_part_path(),
                on_block=self.checkpoint,
            )
        except PartDamaged as error:
            self.log.warning("The export starts over: the part file cannot be used, %s.", error)
            self.cursor, self.done, self.total = None, 0, None
            return None

    def _begin_part(self) -> Part:
        head = self._encoding.head(self._open_reader().schema(self._columns()))
        # Kept before anything is written, so that it is closed even if the volume is full.
        part = self._part = Part.create(self._new_part_path())
        part.write(head)
        return part

    def _new_part_path(self) -> Path:
        return self.workdir / f"export-{self.attempt}.{self._encoding.part_extension}.part"

    def _open_reader(self) -> Reader:
        if self._reader is None:
            reader: Any = open_reader(self._dataset)
            if hasattr(reader, "on_wait"):
                # It waits for another process: a halt or a stop is obeyed meanwhile.
                reader.on_wait = self._obey
            self._reader = reader
        return self._reader

    def _obey(self) -> None:
        """Obey a halt or a stop, if there is one, and save nothing else."""
        if self._is_asked():
            self.checkpoint()

    def _columns(self) -> list[str]:
        return self.args.columns or list(self._open_reader().columns())

    def _let_go(self) -> None:
        """Close what is open; it is opened again when it is needed."""
        reader, part = self._reader, self._part
        self._reader = self._part = None
        if reader is not None:
            reader.close()
        if part is not None:
            with closing(part):
                # After a failure, the last claim is saved when the part is closed already.
                part.sync()

    # The file

    def _make_file(self, rows: int) -> tuple[Path, int, str]:
        """Turn the complete part into the file that is downloaded; returns it, its rows and its SHA-256."""
        part = self._open_part()
        part.sync()
        self._is_finishing = True
        # Named after its part, and so after an attempt: one that lost its lease unaware cannot replace another's file.
        # And after its rows: it may hold more than the last checkpoint tells, should nobody live to tell the result.
        file = self.workdir / f"{_stem(part.path.name)}-{rows}.{self._encoding.extension}"
        return file, rows, self._encoding.finish(part, file, self.checkpoint)

    def _finished_file(self) -> tuple[Path, int, str] | None:
        """Return the file, its rows and its SHA-256, if an earlier attempt has made it but did not live to tell.

        Touches no file that is whole: it may have been told of by now, should this attempt have lost its lease unaware.
        """
        if not self.cursor:
            return None
        for file in self.workdir.glob(f"{_stem(self.cursor['part'])}-*.{self._encoding.extension}"):
            rows = int(file.stem.rpartition("-")[2])
            claimed = self.cursor["bytes"], self.cursor["sha256"]
            try:
                return file, rows, self._encoding.digest(file, rows, claimed, self.checkpoint)
            except PartDamaged as error:
                self.log.warning("The export goes on from its part: %s.", error)
                file.unlink(missing_ok=True)
        return None

    def _remove_leftovers(self) -> None:
        """Remove what earlier attempts have begun that died before their first checkpoint was saved.

        Never a finished file: it may be the result of the attempt that took over, should this one have lost its lease.
        """
        for path in self.workdir.glob("export-*"):
            is_unfinished = path.suffix in (".part", ".unfinished")
            # Later attempts are none of our business: if there are any, this one has lost its lease unaware.
            if is_unfinished and int(_stem(path.name).split("-")[1]) < self.attempt:
                remove_unless_held(path)

    def _result(self, path: Path, rows: int, sha256: str) -> dict[str, Any]:
        name = re.sub(r"[^\w.+-]", "", f"{self._dataset.name}_{self.args.from_date}_{self.args.to_date}")
        return {
            "file": path.name,
            "filename": f"{name}.{self._encoding.extension}",
            "media_type": self._encoding.media_type,
            "rows": rows,
            "bytes": path.stat().st_size,
            "sha256": sha256,
        }


def _stem(part_name: str) -> str:
    """Return the name of a part without what tells its kind.

    >>> _stem("export-1.csv.part")
    'export-1'
    """
    return part_name.partition(".")[0]


def open_reader(dataset: Dataset) -> Reader:
    """Connect to the dataset's database; raises DatasetAway, Fatal."""
    reader: Reader = _rows().open_reader(dataset)
    return reader


def _rows() -> Any:
    """Return the module that reads and writes rows."""
    read_libraries("pyarrow", "adbc_driver_manager", "adbc_driver_sqlite", "adbc_driver_postgresql")
    from jobmanager.jobs import rows  # noqa: PLC0415 - see the head of this module

    return rows


def find_dataset(name: str | None, settings: Settings) -> Dataset:
    """Return the dataset of that name, or the only one; raises ValueError with a sentence that names the choice."""
    datasets = load_datasets(settings.datasets) if settings.datasets else {}
    if not datasets:
        raise ValueError("no dataset is configured; the operator has to name one in the list of datasets")
    known = ", ".join(sorted(datasets))
    if name is None and len(datasets) == 1:
        (name,) = datasets
    if name is None:
        raise ValueError(f"dataset must be one of: {known}")
    if name not in datasets:
        raise ValueError(f"there is no dataset {name!r}; known datasets: {known}")
    if _is_store(datasets[name], settings):
        raise ValueError(f"dataset {name!r} is the service's own database, which cannot be exported")
    return datasets[name]


def _is_store(dataset: Dataset, settings: Settings) -> bool:
    """Tell whether the dataset is the service's own SQLite file.

    ADBC brings a SQLite of its own. When one library of a process closes a file, the kernel drops the locks that the
    other has on it: the store would be damaged. Source: "How To Corrupt An SQLite Database File", 2.2.1.
    """
    store = make_url(settings.database_url)
    if {store.get_backend_name(), dataset.url.get_backend_name()} != {"sqlite"}:
        return False
    return os.path.realpath(store.database or "") == os.path.realpath(dataset.url.database or "")


def _check_columns(columns: list[str], dataset: Dataset) -> None:
    """Raise ValueError that names the columns which the table does not have, if its database can be asked."""
    if len(set(columns)) < len(columns):
        raise ValueError("columns must not name one twice")
    try:
        with closing(open_reader(dataset)) as reader:
            known = list(reader.columns())
    except (DatasetAway, Fatal):
        return  # the job finds out, and says so, when it runs
    unknown = [column for column in columns if column not in known]
    if unknown:
        raise ValueError(f"unknown columns {_listed(unknown)}; there are: {_listed(known)}")


def _listed(names: list[str]) -> str:
    more = len(names) - _LISTED_COLUMNS
    return ", ".join(names[:_LISTED_COLUMNS]) + (f" and {more} more" if more > 0 else "")
