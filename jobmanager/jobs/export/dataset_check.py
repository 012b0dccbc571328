"""Check for the operator whether a dataset can be exported, and whether the export would be slow."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from jobmanager.errors import Fatal
from jobmanager.jobs.export import catalog
from jobmanager.jobs.export.datasets import Dataset, DatasetAway
from jobmanager.jobs.export.reader import Reader

#: Rows are counted up to this number. If there are more, the report says "more than" this number.
COUNTED_ROWS = 1_000_000

_EVER = (datetime.min, datetime.max)
_SAMPLES = 3


@dataclass(slots=True, kw_only=True)
class Findings:
    """The results of a check. After an error, the fields that were not checked yet have their defaults."""

    name: str
    #: why the dataset cannot be exported; None: it can be exported
    error: str | None = None
    #: reasons why an export is slow
    warnings: list[str] = field(default_factory=list)
    columns: dict[str, str] = field(default_factory=dict)
    date_column: str | None = None
    key: str | None = None
    #: the configured date format; if none is configured, the detected one
    date_format: str | None = None
    #: the first values of the date column, as they are exported
    dates: list[str] = field(default_factory=list)
    #: number of rows; None: not counted, because of an error or because counting would take long
    rows: int | None = None
    #: True if the table has more than *rows* rows
    is_more: bool = False

    def is_usable(self) -> bool:
        """Return True if the dataset can be exported."""
        return self.error is None


def check_dataset(dataset: Dataset) -> Findings:
    """Check a dataset as an export would. Blocks until the database has answered.

    A problem of the dataset is returned as *error*, not raised. Errors of the database are logged.
    """
    findings = Findings(name=dataset.name, date_column=dataset.date_column, key=dataset.key)
    try:
        with closing(catalog.open_reader(dataset)) as reader:
            _examine(dataset, reader, findings)
    except (DatasetAway, Fatal) as error:
        findings.error = str(error)
    return findings


def _examine(dataset: Dataset, reader: Reader, findings: Findings) -> None:
    findings.columns = {name: str(kind) for name, kind in reader.columns().items()}
    findings.warnings = reader.warnings(*_EVER)
    reader.check()
    findings.date_format = dataset.date_format or reader.identity().get("date_format")
    rows, _ = reader.read([dataset.date_column], None, *_EVER, _SAMPLES, 1024 * 1024)
    findings.dates = [_text(value) for value in rows.column(0).to_pylist()]
    if findings.warnings:
        return
    counted, place = reader.count(None, *_EVER, COUNTED_ROWS)
    findings.rows, findings.is_more = counted, place is not None


def _text(value: Any) -> str:
    return value.isoformat(sep=" ") if isinstance(value, datetime) else str(value)
