"""Write the rows of a dataset between two dates to a file: exact, however often the job is halted, resumed or killed.

Rows are read by keyset in chunks, and each chunk is appended to a part file. A checkpoint claims the appended bytes
after an fsync. A new attempt truncates the part to the claimed length. Everything that affects the rows is decided once
and kept in the cursor (see plan.py). At the end, the rows are counted once more. This module uses neither HTTP
nor the store.

Arrow and the drivers (see readers/opening.py) take as much memory as the rest of the service, and never release it.
They are imported for the first export, not when the type is registered.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar

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
from jobmanager.jobs.export import table_changes
from jobmanager.jobs.export.bounded import Unanswered, ask_briefly
from jobmanager.jobs.export.datasets import (
    Dataset,
    DatasetAway,
    Datasets,
    ListUnreadable,
    Reader,
    ReaderClosed,
    SettlesTypes,
    Waits,
    load_datasets,
)
from jobmanager.jobs.export.dates import parse_moment
from jobmanager.jobs.export.libraries import missing_package, read_libraries
from jobmanager.jobs.export.output_file import FilesUnusable, Part, PartDamaged, in_our_words, remove_unless_held
from jobmanager.jobs.export.plan import VERSION as PLAN_VERSION
from jobmanager.jobs.export.plan import Plan
from jobmanager.jobs.export.position import Place

if TYPE_CHECKING:
    from jobmanager.jobs.export.formats import Encoding

#: Rows per step of a count, so that a halt never waits for a whole count.
COUNT_STEP = 500_000
#: Rows are counted up to this number (50 ms per million). A larger export has no total, and no count at its end.
COUNT_LIMIT = 100_000_000

T = TypeVar("T")

_LONGEST_DATE = 64
_LONGEST_NAME = 255
_MOST_COLUMNS = 1000
#: Timeout of a submission that compares its columns with the database.
_ASK_SECONDS = 3.0
#: The most column names in an error message.
_LISTED_COLUMNS = 50
#: The fields of the cursor that survive when an export starts over.
_KEPT = ("version", "plan", "warnings", "mark", "counted")


class Export(Job):
    """Writes the rows of a dataset between two dates to a file, in the order of date and key."""

    # A database that is away for a moment must not fail an export.
    max_attempts: ClassVar[int] = 5
    #: limit of the rows in a chunk
    chunk_rows: ClassVar[int] = 25_000
    #: approximate size limit of a chunk with more than one row, in bytes as Arrow stores them
    chunk_bytes: ClassVar[int] = 16 * 1024 * 1024

    class Args(BaseModel):
        """The rows to export, and the format of the file."""

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
            description="The dataset, as the operator named it; optional if there is only one.",
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
            context: dict[str, Any] = info.context or {}
            if context["is_stored"]:
                return self  # the job compares its dataset with its plan
            if (missing := missing_package()) is not None:
                raise ValueError(f"exports need {missing}; the operator must install jobmanager[export]")
            dataset = find_dataset(self.dataset, context["settings"])
            if self.columns is not None:
                _check_columns(self.columns, dataset)
            return self

        def bounds(self) -> tuple[datetime, datetime]:
            """Return the begin and the exclusive end, naive and in UTC."""
            return parse_moment(self.from_date).at, parse_moment(self.to_date).after()

    args: Export.Args

    _plan: Plan | None = None
    _reader: Reader | None = None
    _part: Part | None = None
    _is_finishing = False
    _is_snapshot = False  # True: self._reader holds a snapshot

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        # Not in start: a force that interrupts an import may leave the import lock of that module held.
        self._encoding: Encoding = _rows().ENCODINGS[self.args.format]

    def start(self) -> dict[str, Any]:
        """Append the remaining chunks, count the rows, then make the file."""
        with in_our_words():
            try:
                plan = self._plan = self._kept_plan() or _answered(self._begin)
                made = self._finished_file()
                rows = self._append_chunks(plan) if made is None else made[1]
                checked = self._checked(rows)
                self._close_reader()
                made = made or self._make_file(rows)
                self._remove_leftovers()
                return self._result(*made) | checked
            finally:
                self._let_go()

    def halt(self) -> None:
        """Close the file and the connection while the job is halted.

        A connection that holds a snapshot stays open: a new one would read another snapshot.
        """
        # Keep the lock of a complete part: another attempt might turn it into the same file at the same time.
        if self._is_finishing:
            return
        if self._holds_snapshot():
            self._close_part()
        else:
            self._let_go()

    def flush(self) -> None:
        """Sync the part, so that it holds durably all that the cursor claims."""
        if self._part is not None:
            with in_our_words():
                self._part.sync()

    def details(self) -> dict[str, Any]:
        """Return the dataset, the format, and the rows and bytes written so far."""
        cursor = self.cursor or {}
        told = {"dataset": self._plan.dataset if self._plan else self.args.dataset, "format": self.args.format}
        return told | {"rows": cursor.get("rows", 0), "bytes": cursor.get("bytes", 0)}

    # The plan that all attempts share

    def _kept_plan(self) -> Plan | None:
        """Return the plan in the cursor. Resets the cursor and returns None if the export must start over."""
        if not self.cursor:
            return None
        if self.cursor.get("version") != PLAN_VERSION:
            reason = "another version of the service began it and may write other bytes"
        elif (plan := Plan.from_json(self.cursor["plan"])).snapshot:
            reason = "the snapshot that it read ended with its attempt"
        else:
            return plan
        self.log.warning("The export starts over: %s.", reason)
        self.cursor, self.done, self.total = None, 0, None
        return None

    def _begin(self) -> Plan:
        """Make the plan, check that the dataset can be exported exactly, and set the first cursor."""
        dataset = self._configured(self.args.dataset)
        reader = self._connect(dataset)
        columns = self.args.columns or list(reader.columns())
        reader.schema(columns)  # fails fast if a column is missing
        reader.check()
        warnings = reader.warnings(*self.args.bounds())
        as_text = self._settle(reader, columns)
        plan = Plan.begin(dataset, reader.schema(columns), reader.identity(), as_text)
        for warning in warnings:
            self.log.warning("%s", warning)
        if plan.snapshot:
            self.log.info(
                "The export reads a snapshot: it holds a transaction in the database of dataset %r until it ends.",
                dataset.name,
            )
        mark = table_changes.find_mark(dataset)
        self.cursor = {"version": PLAN_VERSION, "plan": plan.to_json(), "warnings": warnings, "mark": mark}
        return plan

    def _settle(self, reader: Reader, columns: list[str]) -> list[str] | None:
        """Fix one type per column if the format needs it. Return the columns that become text, see Plan.as_text."""
        if not self._encoding.has_types or not isinstance(reader, SettlesTypes):
            return None
        as_text = reader.misfits(columns, *self.args.bounds())
        reader.settle(as_text)
        return as_text

    def _connect(self, dataset: Dataset) -> Reader:
        """Open the reader, which `start` closes at its end."""
        reader = self._reader = open_reader(dataset)
        self._is_snapshot = dataset.snapshot
        if isinstance(reader, Waits):
            reader.on_wait = self._obey
        return reader

    def _obey(self) -> None:
        """Obey a pending halt or stop. Called while the reader waits."""
        if self._is_asked():
            self.checkpoint()

    def _configured(self, name: str | None) -> Dataset:
        """Return the dataset as it is configured now. Raises Fatal, or DatasetAway if the list cannot be read."""
        try:
            return find_dataset(name, self.settings)
        except ListUnreadable as error:
            # The operator may be editing the list: that must not fail running exports.
            raise DatasetAway(f"{error}.") from None
        except ValueError as error:
            raise Fatal(f"{error}.") from None

    def _open_reader(self, plan: Plan) -> Reader:
        """Return the reader; open it if it is closed. Raises Fatal if the dataset no longer matches the plan."""
        return self._reader or _answered(partial(self._reopen_reader, plan))

    def _reopen_reader(self, plan: Plan) -> Reader:
        if plan.snapshot:
            raise DatasetAway(f"The snapshot of dataset {plan.dataset!r} is gone.")
        dataset = self._configured(plan.dataset)
        plan.check_dataset(dataset)
        reader = self._connect(plan.applied(dataset))
        plan.check_columns(reader.columns())
        if plan.as_text is not None and isinstance(reader, SettlesTypes):
            reader.settle(plan.as_text)
        plan.check_database(reader.schema(plan.names()), reader.identity())
        return reader

    # One chunk after the other

    def _append_chunks(self, plan: Plan) -> int:
        """Append all remaining rows. Return the number of rows in the part."""
        self._open_part(plan)
        if "counted" not in self.cursor:
            counted = self._count(plan)
            self.checkpoint({**self.cursor, "counted": counted}, done=0, total=counted)
        while (cursor := self._append_chunk(plan)) is not None:
            counted = cursor["counted"]
            # Rows that were added meanwhile may exceed the count.
            total = None if counted is None else max(counted, cursor["rows"])
            self.checkpoint(cursor, done=cursor["rows"], total=total)
        return self._rows_so_far()

    def _append_chunk(self, plan: Plan) -> dict[str, Any] | None:
        """Append the next rows. Return the cursor that claims them, or None if there were none.

        A function of its own, so that the memory of the rows is freed before the next read or a halt.
        """
        # First: if the part is damaged, this resets the cursor, and the export starts over.
        self._open_part(plan)
        written = self._rows_so_far()
        after = Place.from_json(self.cursor) if "key" in self.cursor else None
        bounds = self.args.bounds()
        try:
            reader = self._open_reader(plan)
            rows, place = reader.read(plan.names(), after, *bounds, self.chunk_rows, self.chunk_bytes)
        except ReaderClosed:
            return dict(self.cursor)  # a halt closed the reader: the caller reads these rows again
        # Again: a halt during the read may have closed the part.
        part = self._open_part(plan)
        if self._rows_so_far() != written:
            return dict(self.cursor)  # the export started over: these are not its next rows
        if place is None:
            return None
        reader.expect(plan.names(), place, *bounds, self.chunk_rows, self.chunk_bytes)
        for piece in self._encoding.body(rows, part.length):
            part.write(piece)
        return {**self.cursor, **place.to_json(), **_claim(part, written + rows.num_rows)}

    def _rows_so_far(self) -> int:
        return int(self.cursor["rows"])

    def _count(self, plan: Plan) -> int | None:
        """Return the number of rows to export, exact unless rows are added or removed; None if counting takes too long.

        Counting in steps needs the order of an index. If the reader has warnings, the export does not count.
        """
        if self.cursor["warnings"]:
            return None
        counted = 0
        place: Place | None = None
        while counted < COUNT_LIMIT:
            step, place = _answered(partial(self._count_step, plan, place))
            counted += step
            if place is None:
                return counted
            self.checkpoint(done=0)
        return None

    def _count_step(self, plan: Plan, after: Place | None) -> tuple[int, Place | None]:
        return self._open_reader(plan).count(after, *self.args.bounds(), COUNT_STEP)

    # The count at the end

    def _checked(self, rows: int) -> dict[str, Any]:
        """Check the rows, once, and return the result's fields on them: whether a count confirmed them, and notes.

        Raises Fatal if rows were lost or doubled.
        """
        assert self._plan is not None
        if self.cursor.get("checked", {}).get("rows") != rows:
            is_checked, note = self._check_rows(self._plan, rows)
            self.checkpoint({**self.cursor, "checked": {"rows": rows, "is_checked": is_checked, "note": note}})
        kept = self.cursor["checked"]
        of_format = self._encoding.notes(self._open_reader(self._plan).schema(self._plan.names()))
        notes = [*self.cursor["warnings"], *_texts(self._plan), *of_format, *([kept["note"]] if kept["note"] else [])]
        return {"rows_checked": kept["is_checked"], "snapshot": self._plan.snapshot, "notes": notes}

    def _check_rows(self, plan: Plan, rows: int) -> tuple[bool, str]:
        """Compare the number of rows written with a count of the table. Return True if they are equal, and a note.

        Raises Fatal if they differ, but the table was not written meanwhile.
        """
        if rows > COUNT_LIMIT:
            return False, f"The rows were not counted at the end: there are more than {COUNT_LIMIT:,}."
        now = _answered(lambda: self._open_reader(plan).total(*self.args.bounds()))
        if plan.snapshot and self.cursor["counted"] not in (None, rows):
            now = self.cursor["counted"]  # a count of the same snapshot: rows were lost or doubled
        if now == rows:
            return True, ""
        was_written = False if plan.snapshot else self._was_written(plan, now)
        difference = _difference(now - rows)
        if was_written is None:
            return False, (
                f"At the end the table had {difference} in the range than the file. It is unknown whether the "
                "table was written while the export ran."
            )
        if was_written:
            return False, (
                f"The table was written while the export ran: at the end it had {difference} in the range than "
                "the file."
            )
        raise Fatal(
            f"The export wrote {rows:,} rows of dataset {plan.dataset!r}, but its table has {now:,} in the range and "
            "was not written meanwhile: rows were lost or doubled. Check that the key is unique and never NULL, and "
            "that the column compares it as its index does; then submit a new export."
        )

    def _was_written(self, plan: Plan, now: int) -> bool | None:
        """Return whether the table was written since the export began; None if that is unknown.

        *now* is the current number of rows in the range. May wait until the database has reported late writes.
        """
        counted, mark = self.cursor.get("counted"), self.cursor["mark"]
        if counted is not None and counted != now:
            return True
        if mark is None:
            return None if counted is None else False
        dataset = self._configured(plan.dataset)
        if table_changes.find_mark(dataset) == mark:
            self.wait(table_changes.late_seconds(dataset))
        return bool(table_changes.find_mark(dataset) != mark)

    # The part

    def _open_part(self, plan: Plan) -> Part:
        """Return the part: the open one, the one that the cursor names, or a new one."""
        if self._part is None:
            self._part = self._reopen_part()
        return self._part or self._begin_part(plan)

    def _reopen_part(self) -> Part | None:
        """Reopen the part that the cursor names, if any. If it is damaged, resets the cursor and returns None."""
        if "part" not in self.cursor:
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
            self.cursor = {name: self.cursor[name] for name in _KEPT if name in self.cursor}
            self.done = 0
            return None

    def _begin_part(self, plan: Plan) -> Part:
        head = self._encoding.head(self._open_reader(plan).schema(plan.names()))
        # Stored before the write, so that the part is closed even if the volume is full.
        part = self._part = Part.create(self._new_part_path())
        part.write(head)
        self.cursor = {**self.cursor, **_claim(part, 0)}
        return part

    def _new_part_path(self) -> Path:
        return self.workdir / f"export-{self.attempt}.{self._encoding.part_extension}.part"

    def _holds_snapshot(self) -> bool:
        return self._reader is not None and self._is_snapshot

    def _let_go(self) -> None:
        """Close the reader and the part. Both are reopened when they are needed."""
        try:
            self._close_reader()
        finally:
            self._close_part()

    def _close_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    def _close_part(self) -> None:
        part, self._part = self._part, None
        if part is not None:
            with closing(part):
                # After a failure, the last claim is saved only after the part is closed.
                part.sync()

    # The file

    def _make_file(self, rows: int) -> tuple[Path, int, str]:
        """Turn the complete part into the file for download. Return its path, its rows and its SHA-256."""
        assert self._plan is not None
        part = self._open_part(self._plan)
        if self._rows_so_far() != rows:
            raise FilesUnusable("The export lost its part while it was halted; another attempt starts over.")
        part.sync()
        self._is_finishing = True
        # Named after its part and thus its attempt: an attempt without a lease cannot replace the file of another.
        # Also named after its rows: if the process dies now, the last checkpoint may claim fewer.
        file = self.workdir / f"{_stem(part.path.name)}-{rows}.{self._encoding.extension}"
        return file, rows, self._encoding.finish(part, file, self.checkpoint)

    def _finished_file(self) -> tuple[Path, int, str] | None:
        """Return path, rows and SHA-256 of the file of an earlier attempt that died before it returned its result.

        Returns None if there is none. Removes a damaged file, but no intact one: if this attempt has lost its lease
        without noticing, that may be the job's result.
        """
        if "part" not in self.cursor:
            return None
        for file in self.workdir.glob(f"{_stem(self.cursor['part'])}-*.{self._encoding.extension}"):
            rows = int(file.stem.rpartition("-")[2])
            claimed = self.cursor["bytes"], self.cursor["sha256"]
            try:
                return file, rows, self._encoding.digest(file, rows, claimed, self.checkpoint)
            except PartDamaged as error:
                self.log.warning("The export continues with its part: %s.", error)
                file.unlink(missing_ok=True)
        return None

    def _remove_leftovers(self) -> None:
        """Remove the parts of earlier attempts that died before their first checkpoint was saved.

        Never removes a finished file: if this attempt has lost its lease, that may be the result of the next one.
        """
        for path in self.workdir.glob("export-*"):
            is_unfinished = path.suffix in (".part", ".unfinished")
            # Not those of later attempts: if there are any, this one has lost its lease without noticing.
            if is_unfinished and int(_stem(path.name).split("-")[1]) < self.attempt:
                remove_unless_held(path)

    def _result(self, path: Path, rows: int, sha256: str) -> dict[str, Any]:
        assert self._plan is not None
        name = re.sub(r"[^\w.+-]", "", f"{self._plan.dataset}_{self.args.from_date}_{self.args.to_date}")
        return {
            "file": path.name,
            "filename": f"{name}.{self._encoding.extension}",
            "media_type": self._encoding.media_type,
            "rows": rows,
            "bytes": path.stat().st_size,
            "sha256": sha256,
        }


def _answered(ask: Callable[[], T]) -> T:
    """Return the result of *ask*. Calls it again, with a new reader, if a halt closed the reader meanwhile."""
    while True:
        try:
            return ask()
        except ReaderClosed:
            continue


def _texts(plan: Plan) -> list[str]:
    """Return a note on each column that is text because of its values."""
    return [
        f"The column {name!r} is text in the file: some of its values do not have its declared type."
        for name in plan.as_text or ()
    ]


def _difference(rows: int) -> str:
    """Return a phrase for a difference in rows.

    >>> _difference(-1200), _difference(1)
    ('1,200 fewer rows', '1 more row')
    """
    return f"{abs(rows):,} {'more' if rows > 0 else 'fewer'} {'row' if abs(rows) == 1 else 'rows'}"


def _claim(part: Part, rows: int) -> dict[str, Any]:
    """Return the cursor's claim about a part with this many rows."""
    return {"rows": rows, "part": part.path.name, "bytes": part.length, "sha256": part.sha256}


def _stem(part_name: str) -> str:
    """Return the name of a part without its extensions.

    >>> _stem("export-1.csv.part")
    'export-1'
    """
    return part_name.partition(".")[0]


def open_reader(dataset: Dataset) -> Reader:
    """Connect to the dataset's database. Blocks. Raises DatasetAway or Fatal."""
    reader: Reader = _rows().open_reader(dataset)
    return reader


def _rows() -> Any:
    """Import and return the module that reads and writes rows. Raises Fatal if a package is missing."""
    if (missing := missing_package()) is not None:
        raise Fatal(f"Exports need {missing}, which is not installed. Install the service as jobmanager[export].")
    read_libraries("pyarrow")
    from jobmanager.jobs.export.readers import opening  # noqa: PLC0415 - see the head of this module

    return opening


def find_dataset(name: str | None, settings: Settings) -> Dataset:
    """Return the dataset of that name; if *name* is None, the only one. Raises ValueError that lists the datasets."""
    datasets = configured_datasets(settings)
    names = sorted({*datasets, *datasets.faults})
    if not names:
        raise ValueError("no dataset is configured; the operator must add one to the list of datasets")
    if name is None and len(names) > 1:
        raise ValueError(f"dataset must be one of: {', '.join(names)}")
    wanted = names[0] if name is None else name
    if wanted in datasets.faults:
        raise ValueError(datasets.faults[wanted])
    if wanted not in datasets:
        raise ValueError(f"there is no dataset {wanted!r}; known datasets: {', '.join(names)}")
    return datasets[wanted]


def configured_datasets(settings: Settings) -> Datasets:
    """Return the datasets that can be exported, with the faults of the others. Raises ListUnreadable."""
    datasets = load_datasets(settings.datasets) if settings.datasets else Datasets()
    for name in [name for name, dataset in datasets.items() if _is_store(dataset, settings)]:
        del datasets[name]
        datasets.faults[name] = f"dataset {name!r} is the service's own database, which cannot be exported"
    return datasets


def _is_store(dataset: Dataset, settings: Settings) -> bool:
    """Return True if the dataset is the service's own SQLite file.

    ADBC brings its own SQLite library. When one library of a process closes a file, the kernel drops the locks that the
    other has on it: the store would be damaged. Source: "How To Corrupt An SQLite Database File", 2.2.1.
    """
    store = make_url(settings.database_url)
    if {store.get_backend_name(), dataset.url.get_backend_name()} != {"sqlite"}:
        return False
    return os.path.realpath(store.database or "") == os.path.realpath(dataset.url.database or "")


def columns_of(dataset: Dataset) -> dict[str, str]:
    """Return name and type of each column, in the order of the table. Blocks. Raises DatasetAway or Fatal."""
    with closing(open_reader(dataset)) as reader:
        return {name: str(kind) for name, kind in reader.columns().items()}


def ask_columns(dataset: Dataset, *, seconds: float) -> dict[str, str]:
    """Return `columns_of(dataset)` for an HTTP request. Also raises Unanswered.

    Blocks for at most *seconds* for the database. The first import of its driver takes extra time.
    """
    _rows().load_reader(dataset)
    return ask_briefly(lambda: columns_of(dataset), seconds=seconds)


def _check_columns(columns: list[str], dataset: Dataset) -> None:
    """Raise ValueError if the columns repeat, or if the table lacks some. Skips the latter if its database is away."""
    if len(set(columns)) < len(columns):
        raise ValueError("columns must not name a column twice")
    try:
        known = list(ask_columns(dataset, seconds=_ASK_SECONDS))
    except (DatasetAway, Fatal, Unanswered):
        return  # the job will check them again when it runs
    unknown = [column for column in columns if column not in known]
    if unknown:
        raise ValueError(f"unknown columns {_listed(unknown)}; known columns: {_listed(known)}")


def _listed(names: list[str]) -> str:
    more = len(names) - _LISTED_COLUMNS
    return ", ".join(names[:_LISTED_COLUMNS]) + (f" and {more} more" if more > 0 else "")
