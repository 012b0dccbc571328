"""Job types by name: the built-in ones, those of entry points, and those registered by hand.

Holds classes only. Makes no jobs and starts nothing.
"""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from importlib.metadata import entry_points
from itertools import islice
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from jobmanager.config import Settings
from jobmanager.core.json_values import check_json
from jobmanager.errors import Fault, InvalidRequest, UnknownType
from jobmanager.job import Job

ENTRY_POINT_GROUP = "jobmanager.jobs"

#: Most faults of a request that are reported.
MOST_FAULTS = 100
#: Most characters of all reported faults. Each character of a field name counts as _WEIGHT_OF_NAMES characters: clients
#: choose the names, and a response contains each of them twice, escaped.
_LONGEST_FAULTS = 20_000
_WEIGHT_OF_NAMES = 6
#: Most characters of each name in a path, and of each text.
_LONGEST_NAME = 100
_LONGEST_TEXT = 1000

JobType = TypeVar("JobType", bound=type[Job])

_log = logging.getLogger(__name__)


class Registry:
    """The job types of a process. Filled before jobs run; reading it needs no lock."""

    def __init__(self) -> None:
        self._types: dict[str, type[Job]] = {}

    def register(self, job_type: JobType) -> JobType:
        """Add a job type under its name, and return it, so that this method serves as a decorator.

        Raises TypeError if it is not a usable job type, ValueError if another type has its name.
        """
        if not (isinstance(job_type, type) and issubclass(job_type, Job)):
            raise TypeError(f"{job_type!r} is not a subclass of Job")
        name = type_name(job_type)
        if job_type.start is Job.start:
            raise TypeError(f"{name} has to define start()")
        if not issubclass(job_type.Args, BaseModel):
            raise TypeError(f"{name}.Args has to be a pydantic BaseModel")
        if self._types.get(name, job_type) is not job_type:
            raise ValueError(f"the job type {name!r} already exists: {self._types[name].__qualname__}")
        self._types[name] = job_type
        return job_type

    def load_entry_points(self) -> None:
        """Register the job types of installed packages. Log and skip those that cannot be loaded."""
        for point in entry_points(group=ENTRY_POINT_GROUP):
            try:
                self.register(point.load())
            except Exception:
                _log.exception("The job type %r of %r cannot be used.", point.name, point.value)

    def get(self, name: str) -> type[Job]:
        """Return the type with that name. Raises UnknownType."""
        if name not in self._types:
            raise UnknownType(name, self._types)
        return self._types[name]

    def only(self, names: Collection[str]) -> Registry:
        """Return a registry of the types with these names."""
        some = Registry()
        some._types = {name: job_type for name, job_type in self._types.items() if name in names}
        return some

    def __contains__(self, name: str) -> bool:
        return name in self._types

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._types))

    def max_running(self) -> dict[str, int]:
        """Return by type how many jobs may run at once. Leaves out the types without a limit."""
        return {name: kind.max_running for name, kind in self._types.items() if kind.max_running is not None}


#: The registry of the process: the default of every JobManager.
registry = Registry()


def type_name(job_type: type[Job]) -> str:
    """Return the name that clients submit."""
    return job_type.__dict__.get("type") or job_type.__name__


def describe(job_type: type[Job]) -> str:
    """Return the description of a type: its docstring."""
    return inspect.cleandoc(job_type.__doc__ or "")


def check_args(args: dict[str, Any]) -> None:
    """Raise InvalidRequest if the arguments of a new job are not valid JSON, too large, or nested too deep.

    Call this before `parse_args`: a type's own validators may be slow.
    """
    try:
        check_json(args, "args")
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"{error}.", field="args") from None


def parse_args(job_type: type[Job], args: dict[str, Any], settings: Settings, *, is_stored: bool = False) -> BaseModel:
    """Return the validated arguments. Raises InvalidRequest, which lists the faults.

    The validation context has the "settings", and "is_stored": if True, the job was accepted before, and validators
    skip the rules for submissions.
    """
    try:
        return job_type.Args.model_validate(args, context={"settings": settings, "is_stored": is_stored})
    except ValidationError as error:
        raise invalid(error, under=("args",)) from None


def invalid(error: ValidationError, *, under: tuple[str | int, ...] = ()) -> InvalidRequest:
    """Return the InvalidRequest for an error of pydantic. The validated value is the part *under* of the request.

    Reports at most the first MOST_FAULTS faults, and the number of the others.
    """
    faults = first_faults(faults_of(error))
    text = sentence_of(faults)
    if (more := error.error_count() - len(faults)) > 0:
        text += f"; and {more} more"
    return refusal_of([((*under, *where), fault) for where, fault in faults], text)


def refusal_of(faults: list[Fault], message: str) -> InvalidRequest:
    """Return the error that reports these faults (at least one). Its `field` is the path of the first fault."""
    return InvalidRequest(message, field=".".join(map(str, faults[0][0])), faults=faults)


def first_faults(faults: Iterable[Fault]) -> list[Fault]:
    """Return the first faults, cut to the size of an answer: at least one, at most MOST_FAULTS."""
    found: list[Fault] = []
    length = 0
    for where, text in islice(faults, MOST_FAULTS):
        path = tuple(_shortened(part, _LONGEST_NAME) for part in where)
        shown = _shortened(text, _LONGEST_TEXT)
        length += len(shown) + _WEIGHT_OF_NAMES * sum(len(str(part)) for part in path)
        if found and length > _LONGEST_FAULTS:
            break
        found.append((path, shown))
    return found


def sentence_of(faults: list[Fault]) -> str:
    """Return one sentence that lists the faults, without repeating the values that were sent."""
    return "; ".join(f"{'.'.join(map(str, where))}: {text}" if where else text for where, text in faults)


def faults_of(error: ValidationError) -> Iterator[Fault]:
    """Yield the first MOST_FAULTS faults that pydantic found.

    Source of the messages: pydantic, which puts "Value error, " before the messages of our own validators.
    """
    for problem in _first_problems(error):
        yield tuple(problem["loc"]), problem["msg"].removeprefix("Value error, ")


def _first_problems(error: ValidationError) -> Iterator[Mapping[str, Any]]:
    """Yield the first MOST_FAULTS errors as pydantic describes them.

    Pydantic has no limit of its own: 100,000 errors take 100 MB as dicts, and a tenth of that as JSON.
    """
    if error.error_count() <= MOST_FAULTS:
        yield from error.errors(include_url=False, include_context=False, include_input=False)
        return
    text = error.json(include_url=False, include_context=False, include_input=False)
    decode, end = json.JSONDecoder().raw_decode, 0
    for _ in range(MOST_FAULTS):
        problem, end = decode(text, end + 1)  # after the bracket or the comma
        yield problem


def _shortened(value: Any, longest: int) -> Any:
    """Return a text cut to *longest* characters, or a number as it is."""
    return f"{value[:longest]}…" if isinstance(value, str) and len(value) > longest else value
