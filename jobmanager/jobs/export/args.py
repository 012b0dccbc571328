"""The arguments of an export, and the checks of the arguments when a client submits an export.

The dataset of a stored job is not checked here: the job compares its dataset with its plan, see source.py.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)

from jobmanager.errors import Fatal
from jobmanager.jobs.export.bounded import QueryTimeout
from jobmanager.jobs.export.catalog import find_dataset, query_columns
from jobmanager.jobs.export.datasets import Dataset, DatasetAway
from jobmanager.jobs.export.dates import parse_moment
from jobmanager.jobs.export.libraries import missing_package

_LONGEST_DATE = 64
_LONGEST_NAME = 255
_MOST_COLUMNS = 1000
#: Timeout of the query that checks the columns of a submission.
_QUERY_SECONDS = 3.0
#: The most column names in an error message.
_LISTED_COLUMNS = 50


class ExportArgs(BaseModel):
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
    def _check_moment(cls, text: str) -> str:
        parse_moment(text)
        return text

    @model_validator(mode="after")
    def _check_range(self) -> Self:
        begin, end = parse_moment(self.from_date), parse_moment(self.to_date)
        if begin.at > end.at and begin.at >= end.after():
            raise ValueError("from_date must not be after to_date")
        return self

    @model_validator(mode="after")
    def _check_dataset(self, info: ValidationInfo) -> Self:
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
        """Return the begin and the exclusive end of the range, naive and in UTC."""
        return parse_moment(self.from_date).at, parse_moment(self.to_date).after()


def _check_columns(columns: list[str], dataset: Dataset) -> None:
    """Raise ValueError if a column is named twice, or if the table lacks a column.

    If the database cannot be read, checks only for columns named twice. The job checks the table when it runs.
    """
    if len(set(columns)) < len(columns):
        raise ValueError("columns must not name a column twice")
    try:
        known = list(query_columns(dataset, seconds=_QUERY_SECONDS))
    except (DatasetAway, Fatal, QueryTimeout):
        return  # the job checks the columns when it runs
    unknown = [column for column in columns if column not in known]
    if unknown:
        raise ValueError(f"unknown columns {_joined(unknown)}; known columns: {_joined(known)}")


def _joined(names: list[str]) -> str:
    more = len(names) - _LISTED_COLUMNS
    return ", ".join(names[:_LISTED_COLUMNS]) + (f" and {more} more" if more > 0 else "")
