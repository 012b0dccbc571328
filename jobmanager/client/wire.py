"""Requests and replies as values, the steps that a flow consists of, and what a reply means.

Does no input or output, and sleeps for nobody.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, Generic, TypeVar
from urllib.parse import quote, unquote

from pydantic import BaseModel, ValidationError

from jobmanager.client.errors import Refused, Unexpected
from jobmanager.errors import (
    Conflict,
    Fault,
    InvalidRequest,
    JobManagerError,
    NotAllowed,
    Outdated,
    UnknownJob,
)

T = TypeVar("T")
Model = TypeVar("Model", bound=BaseModel)

_URN = "urn:jobmanager:problem:"


def _family(error: type[JobManagerError]) -> Iterator[type[JobManagerError]]:
    yield error
    for child in error.__subclasses__():
        if child.__module__ == error.__module__:
            yield from _family(child)


def _name_of(error: type[JobManagerError]) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "-", error.__name__).lower()


#: What a problem of this name is raised as; the server's half of this table is in http/errors.py.
PROBLEMS = {_name_of(error): error for error in _family(JobManagerError)} | {"idempotency-conflict": Conflict}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is sent."""

    method: str
    #: below the URL of the service, quoted
    path: str
    query: tuple[tuple[str, str], ...] = ()
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    #: how long the server may be silent; None: as usual
    read_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back."""

    status: int
    #: by names in lower case
    headers: Mapping[str, str]
    #: empty where it is a stream
    content: bytes = b""


class Lost(Exception):
    """No answer came, or it broke off."""

    def __init__(self, why: str, *, was_sent: bool) -> None:
        super().__init__(why)
        #: the server may have done what it was asked
        self.was_sent = was_sent


@dataclass(frozen=True, slots=True)
class Send:
    """Send the request; the answer to this step is the Reply, or Lost is raised."""

    request: Request


@dataclass(frozen=True, slots=True)
class Open:
    """Send the request and leave the body of its answer to Receive, if it is one of success; otherwise as Send."""

    request: Request


@dataclass(frozen=True, slots=True)
class Receive:
    """Wait for more of the body; the answer to this step is bytes, none at its end, or Lost is raised."""


@dataclass(frozen=True, slots=True)
class Close:
    """Let go of what was opened."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Sleep."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Emit:
    """Hand a value to whoever iterates."""

    value: Any


Step = Send | Open | Receive | Close | Pause | Emit
#: What is to be done, step by step, each answered before the next; it returns what came of it.
Flow = Generator[Step, Any, T]


class Course(Generic[T]):
    """A flow on its way: gives the next step, and takes the answer to it."""

    def __init__(self, flow: Flow[T]) -> None:
        self._flow = flow
        self._answer: Any = None
        #: what came of it, once there is no step left
        self.result: T

    def next(self) -> Step | None:
        """Return what is to be done now, or None at the end; raises what the flow raises."""
        answer, self._answer = self._answer, None
        try:
            return self._flow.throw(answer) if isinstance(answer, Lost) else self._flow.send(answer)
        except StopIteration as end:
            self.result = end.value
            return None

    def tell(self, answer: Reply | bytes | Lost | None) -> None:
        """Take the answer to the step."""
        self._answer = answer

    def close(self) -> None:
        """Have the flow let go of what it holds."""
        self._flow.close()


def job_path(job_id: str, *rest: str) -> str:
    """Return the path of a job, or of something of it; raises UnknownJob for what can be no id.

    >>> job_path("a b", "log")
    '/jobs/a%20b/log'
    """
    if not job_id.strip(".") or "/" in job_id:
        raise UnknownJob(job_id)
    return "/".join(["/jobs", quote(job_id, safe="", errors="replace"), *rest])


def to_json(value: Any) -> bytes:
    """Return the value as a body; raises InvalidRequest if it is none."""
    try:
        return json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"This cannot be sent as JSON: {error}.") from None


def read_json(reply: Reply) -> Any:
    """Return what the body says; raises Unexpected."""
    try:
        return json.loads(reply.content)
    except (ValueError, RecursionError):
        raise Unexpected(f"What answers is no job manager: status {reply.status}, and no JSON.") from None


def read(model: type[Model], value: Any) -> Model:
    """Return the value as the model has it; raises Unexpected."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise Unexpected(f"What answers is no job manager of this version: {where or 'the answer'} is wrong.") from None


def is_temporary(reply: Reply, *, is_repeatable: bool) -> bool:
    """Tell whether the same request may be answered better later, and may be sent again without doing it twice."""
    if reply.status in (429, 503):
        # A proxy says 503 as well, and does not say whether it has passed on the request.
        return is_repeatable or _problem(reply).get("type", "").startswith(_URN)
    return is_repeatable and reply.status in (502, 504)


def retry_after_seconds(reply: Reply) -> float:
    """Return how long the server wants to be left alone."""
    told = reply.headers.get("retry-after", "")
    if told.strip().isdecimal():
        return float(told)
    now = time_of(reply)
    try:
        return max(0.0, (parsedate_to_datetime(told) - now).total_seconds()) if now else 0.0
    except (ValueError, TypeError):
        return 0.0


def time_of(reply: Reply) -> datetime | None:
    """Return when the server answered, by its own clock, in whole seconds; None if it did not tell."""
    try:
        return parsedate_to_datetime(reply.headers.get("date", ""))
    except (ValueError, TypeError):
        return None


def error_of(reply: Reply, *, job_id: str = "", action: str = "") -> JobManagerError:
    """Return what the reply of a failure is raised as: the error that the JobManager raised there, where it was one."""
    problem = _problem(reply)
    detail = problem.get("detail")
    kind = PROBLEMS.get(str(problem.get("type", "")).removeprefix(_URN))
    if not isinstance(detail, str):
        return Refused(f"The server answered with status {reply.status}.", reply.status)
    if kind is None:
        return Refused(detail, reply.status)
    # Made without __init__, which would make up a message of its own.
    error = kind.__new__(kind, detail)
    for name, value in _attributes(kind, problem, reply, job_id, action).items():
        setattr(error, name, value)
    return error


def _attributes(
    kind: type[JobManagerError], problem: dict[str, Any], reply: Reply, job_id: str, action: str
) -> dict[str, Any]:
    if issubclass(kind, InvalidRequest):
        faults = tuple(_fault(each) for each in problem.get("errors", ()))
        return {"field": problem.get("field", ""), "faults": faults}
    if kind is UnknownJob:
        return {"job_id": job_id}
    if kind is Outdated:
        return {"job_id": job_id, "status": str(problem.get("detail", "")).rpartition(" is ")[2].removesuffix(" now.")}
    if kind is NotAllowed:
        told = {"status": problem.get("job_status", ""), "allowed": tuple(problem.get("allowed", ()))}
        return {"job_id": job_id, "action": action, **told}
    return {"retry_after_seconds": retry_after_seconds(reply)} if "retry-after" in reply.headers else {}


def _fault(told: dict[str, str]) -> Fault:
    if "pointer" not in told:
        return (told.get("parameter", ""),), told.get("detail", "")
    parts = [unquote(part).replace("~1", "/").replace("~0", "~") for part in told["pointer"].split("/")[1:]]
    return tuple(int(part) if part.isdecimal() else part for part in parts), told.get("detail", "")


def _problem(reply: Reply) -> dict[str, Any]:
    try:
        told = json.loads(reply.content)
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}
