"""Requests and replies as values, the steps of a flow, and the interpretation of replies.

Does no I/O and does not sleep.
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


#: The error class for each problem type. The server's half of this table is in http/errors.py.
PROBLEMS = {_name_of(error): error for error in _family(JobManagerError)} | {"idempotency-conflict": Conflict}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """An HTTP request."""

    method: str
    #: relative to the URL of the service, percent-encoded
    path: str
    query: tuple[tuple[str, str], ...] = ()
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    #: read timeout; None: the client's timeout
    read_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An HTTP reply."""

    status: int
    #: with names in lower case
    headers: Mapping[str, str]
    #: empty for a stream
    content: bytes = b""


class NoReply(Exception):
    """No reply came, or the connection broke before the reply was complete."""

    def __init__(self, why: str, *, was_sent: bool) -> None:
        super().__init__(why)
        #: True if the server may have processed the request
        self.was_sent = was_sent


@dataclass(frozen=True, slots=True)
class Send:
    """Send the request. The answer to this step is the Reply. If no reply comes, raises NoReply."""

    request: Request


@dataclass(frozen=True, slots=True)
class Open:
    """Like Send, but leave the body of a successful reply to Receive."""

    request: Request


@dataclass(frozen=True, slots=True)
class Receive:
    """Wait for more of the body. The answer is bytes, b"" at the end. If the body breaks off, raises NoReply."""


@dataclass(frozen=True, slots=True)
class Close:
    """Close the open stream."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Sleep."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Emit:
    """Yield a value to the caller's iteration."""

    value: Any


Step = Send | Open | Receive | Close | Pause | Emit
#: A generator that yields steps, receives the answer to each of them, and returns the result.
Flow = Generator[Step, Any, T]


class FlowDriver(Generic[T]):
    """Runs a flow: returns its next step, and passes the answer to the flow."""

    def __init__(self, flow: Flow[T]) -> None:
        self._flow = flow
        self._answer: Any = None
        #: result of the flow; set once the flow has no step left
        self.result: T

    def next(self) -> Step | None:
        """Return the next step, or None at the end. Raises the flow's exception."""
        answer, self._answer = self._answer, None
        try:
            return self._flow.throw(answer) if isinstance(answer, NoReply) else self._flow.send(answer)
        except StopIteration as end:
            self.result = end.value
            return None

    def answer(self, answer: Reply | bytes | NoReply | None) -> None:
        """Set the answer to the last step. `next` passes it on to the flow."""
        self._answer = answer

    def close(self) -> None:
        """Close the flow: its `finally` blocks run."""
        self._flow.close()


def job_path(job_id: str, *rest: str) -> str:
    """Return the path of a job, or of a part of it. Raises UnknownJob if the id cannot be valid.

    >>> job_path("a b", "log")
    '/jobs/a%20b/log'
    """
    if not job_id.strip(".") or "/" in job_id:
        raise UnknownJob(job_id)
    return "/".join(["/jobs", quote(job_id, safe="", errors="replace"), *rest])


def to_json(value: Any) -> bytes:
    """Encode a request body. Raises InvalidRequest if the value is not JSON."""
    try:
        return json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"The value cannot be encoded as JSON: {error}.") from None


def parse_json(reply: Reply) -> Any:
    """Decode the JSON body. Raises Unexpected."""
    try:
        return json.loads(reply.content)
    except (ValueError, RecursionError):
        raise Unexpected(f"The reply is not from a job manager: status {reply.status}, without valid JSON.") from None


def validate(model: type[Model], value: Any) -> Model:
    """Validate the value against *model*. Raises Unexpected."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise Unexpected(
            f"The reply is not from a job manager of this version: {where or 'its value'} is invalid."
        ) from None


def is_temporary(reply: Reply, *, is_repeatable: bool) -> bool:
    """Return True if a retry may succeed, and cannot execute the request twice."""
    if reply.status in (429, 503):
        # If a second execution would do harm, retry only if the 429 or 503 has our problem type. Without the type, it
        # may come from a proxy that has passed the request on.
        return is_repeatable or str(_problem(reply).get("type", "")).startswith(_URN)
    return is_repeatable and reply.status in (502, 504)


def retry_after_seconds(reply: Reply) -> float:
    """Return the Retry-After header in seconds; 0 if it is missing or invalid."""
    told = reply.headers.get("retry-after", "")
    if told.strip().isdecimal():
        return float(told)
    now = time_of(reply)
    try:
        return max(0.0, (parsedate_to_datetime(told) - now).total_seconds()) if now else 0.0
    except (ValueError, TypeError):
        return 0.0


def time_of(reply: Reply) -> datetime | None:
    """Return the Date header, in whole seconds; None if it is missing or invalid."""
    try:
        return parsedate_to_datetime(reply.headers.get("date", ""))
    except (ValueError, TypeError):
        return None


def error_of(reply: Reply, *, job_id: str = "", action: str = "") -> JobManagerError:
    """Convert an error reply to the exception that the JobManager raised, or to Refused."""
    problem = _problem(reply)
    detail = problem.get("detail")
    kind = PROBLEMS.get(str(problem.get("type", "")).removeprefix(_URN))
    if not isinstance(detail, str):
        return Refused(f"The server answered with status {reply.status}.", reply.status)
    if kind is None:
        return Refused(detail, reply.status)
    # Do not call __init__: it would compose another message.
    error = kind.__new__(kind, detail)
    for name, value in _attributes(kind, problem, reply, job_id, action).items():
        setattr(error, name, value)
    return error


def _attributes(
    kind: type[JobManagerError], problem: dict[str, Any], reply: Reply, job_id: str, action: str
) -> dict[str, Any]:
    if issubclass(kind, InvalidRequest):
        return {"field": str(problem.get("field", "")), "faults": _faults(problem.get("errors"))}
    if kind is UnknownJob:
        return {"job_id": job_id}
    if kind is Outdated:
        return {"job_id": job_id, "status": str(problem.get("detail", "")).rpartition(" is ")[2].removesuffix(" now.")}
    if kind is NotAllowed:
        allowed = problem.get("allowed")
        told = {"status": problem.get("job_status", ""), "allowed": tuple(allowed) if isinstance(allowed, list) else ()}
        return {"job_id": job_id, "action": action, **told}
    return {"retry_after_seconds": retry_after_seconds(reply)} if "retry-after" in reply.headers else {}


def _faults(told: Any) -> tuple[Fault, ...]:
    """Return the faults that a problem document lists. Leaves out entries that are not objects of strings."""
    entries = told if isinstance(told, list) else []
    return tuple(
        _fault(each) for each in entries if isinstance(each, dict) and all(isinstance(v, str) for v in each.values())
    )


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
