"""Write the rows of a dataset between two dates to a file: exact, however often the job is halted, resumed or killed.

Rows are read in chunks, by keyset pagination. Each chunk is appended to a part file. A checkpoint claims the appended
bytes after an fsync, and a new attempt truncates the part to the claimed length. All decisions that affect the rows are
made once and kept in the cursor (see plan.py). At the end, the rows are counted once more. This module uses neither
HTTP nor the store.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar

from jobmanager.job import Job
from jobmanager.jobs.export.args import ExportArgs
from jobmanager.jobs.export.artifact import Artifact, MadeFile, claim
from jobmanager.jobs.export.catalog import load_arrow
from jobmanager.jobs.export.counting import RowCounter
from jobmanager.jobs.export.output_file import translate_os_errors
from jobmanager.jobs.export.plan import Plan
from jobmanager.jobs.export.planning import begin_plan, kept_plan
from jobmanager.jobs.export.position import Place, Unstorable
from jobmanager.jobs.export.reader import ReaderClosed, ReadsAhead
from jobmanager.jobs.export.readers.errors import InvalidJson, invalid_json_error, unstorable_error
from jobmanager.jobs.export.source import Source, retry_if_closed

if TYPE_CHECKING:
    from jobmanager.jobs.export.formats import Encoding


class Export(Job):
    """Writes the rows of a dataset between two dates to a file, in the order of date and key."""

    # A database that is away for a moment must not fail an export.
    max_attempts: ClassVar[int] = 5
    #: maximum number of rows in a chunk
    chunk_rows: ClassVar[int] = 25_000
    #: approximate size limit of a chunk, in bytes as Arrow stores them; a chunk has at least one row even so
    chunk_bytes: ClassVar[int] = 16 * 1024 * 1024

    class Args(ExportArgs):
        """The rows to export, and the format of the file."""

    args: Export.Args

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        # Import here, not in start. There, a force could interrupt the import and leave the module's import lock held.
        self._encoding: Encoding = load_arrow().ENCODINGS[self.args.format]
        self._plan: Plan | None = None
        self._source = Source(self.settings, self._obey)
        self._artifact = Artifact(self, self._source, self._encoding)
        self._counter = RowCounter(self, self._source)

    def start(self) -> dict[str, Any]:
        """Append the remaining chunks, count the rows, make the file for download, and return the job's result."""
        with translate_os_errors():
            try:
                plan = self._plan = kept_plan(self) or retry_if_closed(self._begin_plan)
                made = self._artifact.find_finished()
                rows = self._append_chunks(plan) if made is None else made.rows
                checked = self._check_and_report(plan, rows)
                self._source.close()
                made = made or self._artifact.finish(plan, rows)
                self._artifact.remove_leftovers()
                return self._result(plan, made) | checked
            finally:
                self._close_all()

    def halt(self) -> None:
        """Close the file and the connection while the job is halted.

        A connection that holds a snapshot stays open: a new one would read another snapshot.
        """
        # Keep the lock of a part that becomes the file: otherwise another attempt might make the same file meanwhile.
        if self._artifact.is_finishing:
            return
        if self._source.holds_snapshot:
            self._artifact.close()
        else:
            self._close_all()

    def flush(self) -> None:
        """Sync the part, so that all bytes that the cursor claims are durable."""
        with translate_os_errors():
            self._artifact.sync()

    def details(self) -> dict[str, Any]:
        """Return the dataset, the format, and the rows and bytes written so far."""
        cursor = self.cursor or {}
        return {
            "dataset": self._plan.dataset if self._plan else self.args.dataset,
            "format": self.args.format,
            "rows": cursor.get("rows", 0),
            "bytes": cursor.get("bytes", 0),
        }

    def _begin_plan(self) -> Plan:
        return begin_plan(self, self._source, needs_types=self._encoding.has_types)

    def _append_chunks(self, plan: Plan) -> int:
        """Append all remaining rows. Return the number of rows in the part."""
        self._artifact.open_part(plan)
        if "counted" not in self.cursor:
            counted = self._counter.count(plan)
            self.checkpoint({**self.cursor, "counted": counted}, done=0, total=counted)
        while (cursor := self._append_chunk(plan)) is not None:
            counted = cursor["counted"]
            # The export may have more rows than were counted, because some were added meanwhile.
            total = None if counted is None else max(counted, cursor["rows"])
            self.checkpoint(cursor, done=cursor["rows"], total=total)
        return self._rows_so_far()

    def _append_chunk(self, plan: Plan) -> dict[str, Any] | None:
        """Append the next chunk. Return the cursor that claims it; None if no rows are left.

        If a halt closed the reader, or the export started over, appends no rows and returns the current cursor. Call
        again in this case.
        This is a function of its own, so that the memory of the rows is freed before the next read or a halt.
        """
        # Open the part first: if it is damaged, this resets the cursor, and the export starts over.
        self._artifact.open_part(plan)
        written = self._rows_so_far()
        after = Place.from_json(self.cursor) if "key" in self.cursor else None
        columns, bounds = plan.names(), self.args.bounds()
        try:
            reader = self._source.reader(plan)
            rows, place = reader.read(columns, after, *bounds, self.chunk_rows, self.chunk_bytes)
        except ReaderClosed:
            return dict(self.cursor)  # a halt closed the reader: the caller reads these rows again
        # Open the part again: a halt during the read may have closed it.
        part = self._artifact.open_part(plan)
        if self._rows_so_far() != written:
            return dict(self.cursor)  # the export started over: these are not its next rows
        if place is None:
            return None
        if isinstance(reader, ReadsAhead):
            reader.expect(columns, place, *bounds, self.chunk_rows, self.chunk_bytes)
        try:
            for piece in self._encoding.body(rows, part.length):
                part.write(piece)
            return {**self.cursor, **place.to_json(), **claim(part, written + rows.num_rows)}
        except InvalidJson as error:
            raise invalid_json_error(self._source.load_dataset(plan.dataset), error, rows, after) from None
        except Unstorable as error:
            raise unstorable_error(self._source.load_dataset(plan.dataset), error) from None

    def _rows_so_far(self) -> int:
        return int(self.cursor["rows"])

    def _check_and_report(self, plan: Plan, rows: int) -> dict[str, Any]:
        """Check the number of rows by a count, and return the fields of the job's result that report on the rows.

        Raises Fatal if rows were lost or doubled.
        """
        is_checked, note = self._counter.check(plan, rows)
        of_format = self._encoding.notes(self._source.reader(plan).schema(plan.names()))
        notes = [*self.cursor["warnings"], *_text_notes(plan), *of_format, *([note] if note else [])]
        return {"rows_checked": is_checked, "snapshot": plan.snapshot, "notes": notes}

    def _result(self, plan: Plan, made: MadeFile) -> dict[str, Any]:
        name = re.sub(r"[^\w.+-]", "", f"{plan.dataset}_{self.args.from_date}_{self.args.to_date}")
        return {
            "file": made.path.name,
            "filename": f"{name}.{self._encoding.extension}",
            "media_type": self._encoding.media_type,
            "rows": made.rows,
            "bytes": made.path.stat().st_size,
            "sha256": made.sha256,
        }

    def _obey(self) -> None:
        """Obey a pending halt or stop. Called while the reader waits."""
        if self._is_asked():
            self.checkpoint()

    def _close_all(self) -> None:
        """Close the reader and the part. Both are reopened when they are needed."""
        try:
            self._source.close()
        finally:
            self._artifact.close()


def _text_notes(plan: Plan) -> list[str]:
    """Return a note on each column that is exported as text, because some values do not have its declared type."""
    return [
        f"The column {name!r} is text in the file: some of its values do not have its declared type."
        for name in plan.as_text or ()
    ]
