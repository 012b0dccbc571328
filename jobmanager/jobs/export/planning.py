"""Decide the plan of an export when it begins, or take it from the cursor of an earlier attempt.

The plan itself, and how it is compared with a dataset, is in plan.py. Writes no rows.
"""

from __future__ import annotations

from jobmanager.job import Job
from jobmanager.jobs.export.plan import VERSION as PLAN_VERSION
from jobmanager.jobs.export.plan import Plan
from jobmanager.jobs.export.reader import FixesTypes, Reader
from jobmanager.jobs.export.source import Source


def kept_plan(job: Job) -> Plan | None:
    """Return the plan in the cursor; None if there is no plan yet.

    If the export must start over, resets the cursor and returns None.
    """
    if not job.cursor:
        return None
    if job.cursor.get("version") != PLAN_VERSION:
        reason = "another version of the service began it and may write other bytes"
    elif (plan := Plan.from_json(job.cursor["plan"])).snapshot:
        reason = "the snapshot that it read ended with its attempt"
    else:
        return plan
    job.log.warning("The export starts over: %s.", reason)
    job.cursor, job.done, job.total = None, 0, None
    return None


def begin_plan(job: Job, source: Source, *, needs_types: bool) -> Plan:
    """Make the plan, and set the first cursor. Raises Fatal if the dataset cannot be exported exactly.

    *needs_types*: the format needs one type per column. Blocks while the database answers.
    """
    dataset = source.load_dataset(job.args.dataset)
    reader = source.connect(dataset)
    columns = job.args.columns or list(reader.columns())
    reader.schema(columns)  # fails fast if a column is missing
    reader.check()
    warnings = reader.warnings(*job.args.bounds())
    as_text = _fix_types(job, reader, columns) if needs_types else None
    plan = Plan.begin(dataset, reader.schema(columns), reader.identity(), as_text)
    for warning in warnings:
        job.log.warning("%s", warning)
    if plan.snapshot:
        job.log.info(
            "The export reads a snapshot: it holds a transaction in the database of dataset %r until it ends.",
            dataset.name,
        )
    mark = source.find_mark(dataset)
    job.cursor = {"version": PLAN_VERSION, "plan": plan.to_json(), "warnings": warnings, "mark": mark}
    return plan


def _fix_types(job: Job, reader: Reader, columns: list[str]) -> list[str] | None:
    """Make the reader return one type per column, and return the columns that become text, for Plan.as_text.

    Returns None for a reader that always returns one type per column.
    """
    if not isinstance(reader, FixesTypes):
        return None
    as_text = reader.mixed_columns(columns, *job.args.bounds())
    reader.fix_types(as_text)
    return as_text
