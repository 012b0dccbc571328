"""The file of an export: the part that chunks are appended to, and the file for download that is made from the part.

The cursor always describes the part: it claims the part's name, length, SHA-256 and number of rows. Reads no rows.
Locks, truncation and copies of a part are in output_file.py.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobmanager.job import Job
from jobmanager.jobs.export.output_file import FilesUnusable, Part, PartDamaged, remove_unless_locked
from jobmanager.jobs.export.plan import Plan
from jobmanager.jobs.export.source import Source

if TYPE_CHECKING:
    from jobmanager.jobs.export.formats import Encoding

#: The fields of the cursor that survive when an export starts over.
_KEPT = ("version", "plan", "warnings", "mark", "counted")


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeFile:
    """A complete file for download."""

    path: Path
    rows: int
    sha256: str


class Artifact:
    """Writes the part of one attempt, and turns it into the file for download. Reads and sets the job's cursor."""

    def __init__(self, job: Job, source: Source, encoding: Encoding) -> None:
        self._job = job
        self._source = source
        self._encoding = encoding
        self._part: Part | None = None
        #: True once `finish` has begun to turn the complete part into the file
        self.is_finishing = False

    def open_part(self, plan: Plan) -> Part:
        """Return the open part. If no part is open, reopens the part that the cursor names, or begins a new one.

        If the part that the cursor names is damaged, resets the cursor and begins a new part: the export starts over.
        """
        if self._part is None:
            self._part = self._reopen_part()
        return self._part or self._begin_part(plan)

    def sync(self) -> None:
        """Make all appended rows durable (fsync)."""
        if self._part is not None:
            self._part.sync()

    def close(self) -> None:
        """Sync and close the part, if it is open. `open_part` reopens it."""
        part, self._part = self._part, None
        if part is not None:
            with closing(part):
                # Sync now. After a failure, the last checkpoint is saved after this close, and must claim only synced
                # bytes.
                part.sync()

    def finish(self, plan: Plan, rows: int) -> MadeFile:
        """Turn the complete part into the file for download.

        Raises FilesUnusable if the part no longer has *rows* rows, because it was lost while the job was halted.
        """
        part = self.open_part(plan)
        if self._job.cursor["rows"] != rows:
            raise FilesUnusable("The export lost its part while it was halted; another attempt starts over.")
        part.sync()
        self.is_finishing = True
        # The file's name contains the part's name. Only one attempt writes a part. So an attempt that has lost its
        # lease cannot replace the file of another attempt. The file's name also contains the number of rows, because
        # the last checkpoint may claim fewer: `find_finished` needs the number if the process dies now.
        path = self._job.workdir / f"{_stem(part.path.name)}-{rows}.{self._encoding.extension}"
        return MadeFile(path=path, rows=rows, sha256=self._encoding.finish(part, path, self._job.checkpoint))

    def find_finished(self) -> MadeFile | None:
        """Return the file that an earlier attempt finished before it died; None if there is no such file.

        Removes a damaged file, but never an intact one: if this attempt has lost its lease without noticing, the intact
        file may be the job's result.
        """
        cursor = self._job.cursor
        if "part" not in cursor:
            return None
        for path in self._job.workdir.glob(f"{_stem(cursor['part'])}-*.{self._encoding.extension}"):
            rows = int(path.stem.rpartition("-")[2])
            claimed = cursor["bytes"], cursor["sha256"]
            try:
                sha256 = self._encoding.digest(path, rows, claimed, self._job.checkpoint)
                return MadeFile(path=path, rows=rows, sha256=sha256)
            except PartDamaged as error:
                self._job.log.warning("The export continues with its part: %s.", error)
                path.unlink(missing_ok=True)
        return None

    def remove_leftovers(self) -> None:
        """Remove the parts of earlier attempts that died before their first checkpoint was saved.

        Never removes a finished file: if this attempt has lost its lease, that file may be a later attempt's result.
        """
        for path in self._job.workdir.glob("export-*"):
            is_unfinished = path.suffix in (".part", ".unfinished")
            # Keep the files of later attempts: if there are any, this attempt has lost its lease without noticing.
            if is_unfinished and int(_stem(path.name).split("-")[1]) < self._job.attempt:
                remove_unless_locked(path)

    def _reopen_part(self) -> Part | None:
        """Reopen the part that the cursor names. Return None if the cursor names no part.

        If the part is damaged, resets the cursor and returns None.
        """
        cursor = self._job.cursor
        if "part" not in cursor:
            return None
        try:
            return Part.reopen(
                self._job.workdir / cursor["part"],
                length=cursor["bytes"],
                sha256=cursor["sha256"],
                copy_to=self._new_part_path(),
                on_block=self._job.checkpoint,
            )
        except PartDamaged as error:
            self._job.log.warning("The export starts over: the part file cannot be used, %s.", error)
            self._job.cursor = {name: self._job.cursor[name] for name in _KEPT if name in self._job.cursor}
            self._job.done = 0
            return None

    def _begin_part(self, plan: Plan) -> Part:
        head = self._encoding.head(self._source.reader(plan).schema(plan.names()))
        # Store the part before the write. If the write fails because the volume is full, `close` still closes the part.
        part = self._part = Part.create(self._new_part_path())
        part.write(head)
        self._job.cursor = {**self._job.cursor, **claim(part, 0)}
        return part

    def _new_part_path(self) -> Path:
        return self._job.workdir / f"export-{self._job.attempt}.{self._encoding.extension}.part"


def claim(part: Part, rows: int) -> dict[str, Any]:
    """Return the fields of the cursor that describe a part. *rows*: the number of rows in the part."""
    return {"rows": rows, "part": part.path.name, "bytes": part.length, "sha256": part.sha256}


def _stem(part_name: str) -> str:
    """Return the name of a part without its extensions.

    >>> _stem("export-1.csv.part")
    'export-1'
    """
    return part_name.partition(".")[0]
