"""Count the rows of an export in its database, once before the first chunk and once after the last chunk.

The first count is the job's total. The second count shows whether rows were lost or doubled. Exports no rows.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from jobmanager.errors import Fatal
from jobmanager.job import Job
from jobmanager.jobs.export import table_changes
from jobmanager.jobs.export.plan import Plan
from jobmanager.jobs.export.position import Place
from jobmanager.jobs.export.source import Source, retry_if_closed

#: Rows per step of a count. A halt waits for one step at most, not for the whole count.
COUNT_STEP = 500_000
#: Rows are counted up to this number (50 ms per million). A larger export has no total, and no count at its end.
COUNT_LIMIT = 100_000_000


class RowCounter:
    """Counts the rows of one export. Reads and sets the cursor of its job."""

    def __init__(self, job: Job, source: Source) -> None:
        self._job = job
        self._source = source

    def count(self, plan: Plan) -> int | None:
        """Return the number of rows to export; None if counting would take too long. Obeys a halt after each step.

        Counting takes too long if there are more than COUNT_LIMIT rows, or if the reader warns, for example of a
        missing index. The number is exact unless rows are added or removed meanwhile.
        """
        if self._job.cursor["warnings"]:
            return None
        counted = 0
        place: Place | None = None
        while counted < COUNT_LIMIT:
            step, place = retry_if_closed(partial(self._count_step, plan, place))
            counted += step
            if place is None:
                return counted
            self._job.checkpoint(done=0)
        return None

    def _count_step(self, plan: Plan, after: Place | None) -> tuple[int, Place | None]:
        begin, end = self._job.args.bounds()
        return self._source.reader(plan).count(after, begin, end, COUNT_STEP)

    def check(self, plan: Plan, rows: int) -> tuple[bool, str]:
        """Compare the number of rows written with a count of the table.

        Returns True and an empty note if the numbers are equal. Otherwise returns False and a note for the client on
        the difference, or on why the rows were not counted. Keeps the outcome in the cursor, so that a later attempt
        does not count again. Raises Fatal if rows were lost or doubled.
        """
        if self._job.cursor.get("checked", {}).get("rows") != rows:
            is_checked, note = self._compare(plan, rows)
            checked = {"rows": rows, "is_checked": is_checked, "note": note}
            self._job.checkpoint({**self._job.cursor, "checked": checked})
        kept: dict[str, Any] = self._job.cursor["checked"]
        return kept["is_checked"], kept["note"]

    def _compare(self, plan: Plan, rows: int) -> tuple[bool, str]:
        """Count the rows of the table, and return the outcome; see `check`.

        Raises Fatal if the numbers differ although the table was not written during the export.
        """
        if rows > COUNT_LIMIT:
            return False, f"The rows were not counted at the end: there are more than {COUNT_LIMIT:,}."
        now = retry_if_closed(lambda: self._source.reader(plan).total(*self._job.args.bounds()))
        if plan.snapshot and self._job.cursor["counted"] not in (None, rows):
            now = self._job.cursor["counted"]  # counted in the same snapshot: a difference is an error
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
        dataset = self._source.load_dataset(plan.dataset)
        raise Fatal(
            f"The export wrote {rows:,} rows of {dataset}, which has {now:,} in the range and was not written "
            f"meanwhile: rows were lost or doubled. Check that its key, the column {dataset.key!r}, is unique and "
            "never NULL, and that the column compares it as its index does; then submit a new export."
        )

    def _was_written(self, plan: Plan, now: int) -> bool | None:
        """Return True if the table was written since the export began, False if not, None if that is unknown.

        *now*: the current number of rows in the range. May wait until the database has reported late writes.
        """
        counted, mark = self._job.cursor.get("counted"), self._job.cursor["mark"]
        if counted is not None and counted != now:
            return True
        if mark is None:
            return None if counted is None else False
        dataset = self._source.load_dataset(plan.dataset)
        if self._source.find_mark(dataset) == mark:
            self._job.wait(table_changes.late_seconds(dataset))
        return bool(self._source.find_mark(dataset) != mark)


def _difference(rows: int) -> str:
    """Return a phrase for a difference in rows.

    >>> _difference(-1200), _difference(1)
    ('1,200 fewer rows', '1 more row')
    """
    return f"{abs(rows):,} {'more' if rows > 0 else 'fewer'} {'row' if abs(rows) == 1 else 'rows'}"
