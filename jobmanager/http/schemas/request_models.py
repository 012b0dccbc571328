"""The bodies and queries of the REST routes, as pydantic models.

Each model validates requests, and documents them: the API docs show its JSON Schema under the name of the class.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    RootModel,
    Strict,
    StringConstraints,
    field_validator,
)

from jobmanager.core.states import Status
from jobmanager.core.values import Selection, Submission
from jobmanager.errors import InvalidRequest
from jobmanager.http.parsing import MOST_JOBS
from jobmanager.http.schemas.cursors import LARGEST_SEQ
from jobmanager.submission import MOST_LABELS

_LOST_PLUS = re.compile(r"(T\d\d:\d\d[\d:.]*) (\d\d:\d\d)$", re.ASCII)
#: The beginning of an RFC 3339 time. Pydantic would also accept seconds since 1970, as a number or a string.
_BEGIN_OF_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]", re.ASCII)
_LONGEST_TIME = 64
#: The longest cursor or event id that is accepted; the server's own are shorter.
_LONGEST_TOKEN = 64
_LONGEST_NAME = 255


def _in_utc(at: datetime) -> datetime:
    try:
        return at.astimezone(UTC)
    except OverflowError:
        raise ValueError("the time is out of range in UTC") from None


def _check_time(value: Any) -> str:
    """Return the value if it may be an RFC 3339 time, else raise ValueError. Runs before pydantic's parsing."""
    if not isinstance(value, str):
        raise ValueError("a time must be a string in RFC 3339, such as 2024-03-09T12:30:00Z")
    if len(value) > _LONGEST_TIME:
        raise ValueError(f"a time must have at most {_LONGEST_TIME} characters")
    if not _BEGIN_OF_TIME.match(value):
        raise ValueError("a time must be in RFC 3339, such as 2024-03-09T12:30:00Z")
    return value


def _with_plus(text: str) -> str:
    """Restore the + that a query has turned into a space, as in `?submitted_after=$(date -Iseconds)`."""
    return _LOST_PLUS.sub(r"\1+\2", text)


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _check_label(text: str) -> str:
    if not text.partition(":")[0] or ":" not in text:
        raise ValueError("a label must be given as name:value")
    return text


def _check_labels(texts: list[str]) -> list[str]:
    values: dict[str, str] = {}
    for text in texts:
        name, _, value = text.partition(":")
        if values.setdefault(name, value) != value:
            raise ValueError(f"the label {name} is given with two values, but a job has only one")
    return texts


def _or_one(schema: dict[str, Any]) -> None:
    """Change the schema of a list in place: a single value is valid, too."""
    items = schema.pop("items")
    schema["anyOf"] = [{"type": schema.pop("type"), "items": items}, items]


def _require_a_condition(schema: dict[str, Any]) -> None:
    """Change the schema of a filter in place: at least one field is required."""
    given = {
        "type": {"type": "string"},
        "submitted_after": {"type": "string"},
        "submitted_before": {"type": "string"},
        "q": {"type": "string"},
        "status": {"minItems": 1},
        "label": {"minItems": 1},
        "all": {"const": True},
    }
    schema["anyOf"] = [{"properties": {name: needed}, "required": [name]} for name, needed in given.items()]


# Of several BeforeValidators, pydantic runs the last one first.
Time = Annotated[AwareDatetime, AfterValidator(_in_utc), BeforeValidator(_check_time)]
#: A time in a query, where an unescaped + becomes a space.
QueryTime = Annotated[AwareDatetime, AfterValidator(_in_utc), BeforeValidator(_with_plus), BeforeValidator(_check_time)]
TypeName = Annotated[str, StringConstraints(max_length=_LONGEST_NAME)]
Label = Annotated[
    str,
    StringConstraints(max_length=2 * _LONGEST_NAME + 1),
    AfterValidator(_check_label),
    Field(json_schema_extra={"pattern": "^[^:]+:"}),
]
StrictInt = Annotated[int, Strict()]
Seconds = Annotated[float, Strict()]
StrictBool = Annotated[bool, Strict()]


class StrictModel(BaseModel):
    """Base class of bodies and queries. An unknown field is an error, because it may be misspelt."""

    model_config = ConfigDict(extra="forbid")


class NewJob(StrictModel):
    """A job to run."""

    type: TypeName = Field(description="The name of the job type.")
    args: dict[str, Any] = Field(default_factory=dict, description="The arguments of the job type.")
    priority: StrictInt = Field(0, ge=-(2**31), lt=2**31, description="Jobs with a higher priority are claimed first.")
    run_at: Time | None = Field(None, description="Do not start the job before this time (RFC 3339, with a time zone).")
    max_attempts: StrictInt | None = Field(
        None, ge=1, lt=2**31, description="Maximum number of attempts; null: the default of the job type."
    )
    timeout_seconds: Seconds | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Maximum run time of an attempt; null: the default of the job type.",
    )
    labels: dict[str, str] = Field(
        default_factory=dict,
        max_length=MOST_LABELS,
        description="Your own names and values, to find jobs by. A name must not contain a colon.",
    )

    def submission(self) -> Submission:
        """Return the job as a Submission for the manager."""
        return Submission(**self.__dict__)


class Batch(RootModel[Annotated[list[NewJob], Field(max_length=MOST_JOBS)]]):
    """Jobs to run."""


class Filter(StrictModel):
    """Filter for jobs. All given conditions must match."""

    status: Annotated[list[Status], BeforeValidator(_as_list)] = Field(
        default_factory=list,
        min_length=1,
        max_length=len(Status),
        description="Jobs with any of these statuses.",
        json_schema_extra=_or_one,
    )
    type: TypeName | None = Field(None, description="The name of the job type.")
    label: Annotated[list[Label], BeforeValidator(_as_list)] = Field(
        default_factory=list,
        min_length=1,
        max_length=MOST_LABELS,
        description="A label of the job, as `name:value`. If several are given, the job must have all.",
        json_schema_extra=_or_one,
    )
    submitted_after: Time | None = Field(None, description="Submitted at this time or later (RFC 3339).")
    submitted_before: Time | None = Field(None, description="Submitted before this time (RFC 3339).")
    q: str | None = Field(
        None,
        min_length=1,
        max_length=255,
        description="The beginning of an id (13 characters or more), part of the type's name, or a label's value.",
    )

    _check_labels = field_validator("label")(_check_labels)

    def selection(self) -> Selection:
        """Return the filter as a Selection for the manager."""
        return Selection(
            statuses=frozenset(self.status),
            type=self.type,
            labels=dict(text.split(":", 1) for text in self.label),
            submitted_after=self.submitted_after,
            submitted_before=self.submitted_before,
            q=self.q,
        )


class ListQuery(Filter):
    """The parameters of a list of jobs."""

    # These must be lists: parse_query accepts several values of a parameter only if its field is a list.
    status: list[Status] = Field(
        default_factory=list,
        max_length=len(Status),
        description="Jobs with any of these statuses. May be repeated.",
    )
    label: list[Label] = Field(
        default_factory=list,
        max_length=MOST_LABELS,
        description="A label of the job, as `name:value`. May be repeated: the job must have all.",
    )
    submitted_after: QueryTime | None = Field(None, description="Submitted at this time or later (RFC 3339).")
    submitted_before: QueryTime | None = Field(None, description="Submitted before this time (RFC 3339).")
    limit: int = Field(
        50, ge=1, le=500, description="Maximum number of jobs on a page; a page of large jobs is shorter (about 8 MiB)."
    )
    cursor: str | None = Field(
        None,
        max_length=_LONGEST_TOKEN,
        pattern=r"^[A-Za-z0-9_=-]+$",
        description="Where the page begins: `next_cursor` of the previous page.",
    )


class JobEventQuery(StrictModel):
    """The parameters of a stream of events of one job."""

    last_event_id: str | None = Field(
        None,
        max_length=_LONGEST_TOKEN,
        description="Same as the header Last-Event-ID, which a web page cannot send with its first connection.",
    )


class EventQuery(JobEventQuery):
    """The parameters of a stream of events."""

    status: list[Status] = Field(
        default_factory=list,
        max_length=len(Status),
        description="Changes to any of these statuses, and progress of jobs in them. May be repeated.",
    )
    type: TypeName | None = Field(None, description="Events of jobs of this type.")
    label: list[Label] = Field(
        default_factory=list,
        max_length=MOST_LABELS,
        description="A label of the job, as `name:value`. May be repeated: the job must have all.",
    )

    _check_labels = field_validator("label")(_check_labels)

    def selection(self) -> Selection:
        """Return the filter as a Selection for the manager."""
        labels = dict(text.split(":", 1) for text in self.label)
        return Selection(statuses=frozenset(self.status), type=self.type, labels=labels)


class LogQuery(StrictModel):
    """The parameters of a job's log."""

    after: int = Field(0, ge=0, le=LARGEST_SEQ, description="Begin after the line with this number.")
    limit: int = Field(1000, ge=1, le=10_000, description="Maximum number of lines on a page.")


class Control(StrictModel):
    """The options of a halt, a resume or a stop."""

    reason: str | None = Field(None, max_length=1000, description="The reason; it is stored with the change.")


class StopControl(Control):
    """The options of a stop."""

    force: StrictBool = Field(
        False, description="Interrupt Python code that does not respond; abandon its thread if needed."
    )


class _Sweeping(Filter):
    model_config = ConfigDict(json_schema_extra=_require_a_condition)

    all: StrictBool = Field(False, description="True to select every job; required if no other condition is given.")

    def chosen(self) -> Selection:
        """Return the selection of jobs. Raises InvalidRequest if there is no condition and `all` is not set."""
        selection = self.selection()
        if selection.is_everything() and not self.all:
            raise InvalidRequest(
                'Select jobs by status, type, label, submitted_after, submitted_before or q, or send {"all": true}.',
                field="all",
            )
        return selection


class HaltMany(Control, _Sweeping):
    """Which jobs to halt."""


class ResumeMany(Control, _Sweeping):
    """Which jobs to resume."""

    spread_seconds: Seconds = Field(
        0,
        ge=0,
        le=7 * 24 * 3600,
        description="Spread the starts over this time: the oldest job first, the newest at the end.",
    )


class StopMany(StopControl, _Sweeping):
    """Which jobs to stop."""
