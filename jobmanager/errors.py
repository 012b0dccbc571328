"""Every error the service raises, as one tree.

    JobManagerError
    ├── ConfigError            a setting is wrong; the process must not start
    ├── InvalidRequest         the request can never succeed; names the field
    │   ├── UnknownType        no job type has that name
    │   └── Unreadable         the body cannot be read at all
    ├── NotFound               no such job, or no such part of a job
    │   └── UnknownJob
    ├── NotAllowed             the job's status does not allow the action
    ├── Outdated               the job has changed since the client read it
    ├── Conflict               the idempotency key was used for another submission
    ├── Unauthenticated        no token, or an invalid one
    ├── Forbidden              the token's role does not suffice
    ├── RateLimited            the token has sent too many requests; retry later
    ├── TokensUnavailable      the file of tokens cannot be used; retry later
    ├── QueueFull              too many jobs wait; retry later
    ├── TooManyStreams         too many streams are open; retry later
    ├── BatchUnderWay          another batch is being stored; retry later
    └── StoreUnavailable       the store does not answer; retry later
    Fatal                      raised by a job's code: do not try again

    Interrupt (BaseException)  unwinds a job's code; control flow, not an error
    ├── StopRequested          the job has to end for good
    ├── Unwind                 the attempt has to end, its job goes on later
    ├── TimedOut               the attempt ran longer than its timeout
    └── LeaseLost              another attempt owns the job now; write nothing more

Interrupts derive from BaseException so that a job's `except Exception` cannot swallow them.
This module does not depend on HTTP: the map from errors to statuses is in http/errors.py.
"""

from __future__ import annotations

from collections.abc import Iterable

#: A wrong field of a request, as a path of names and numbers, and a text that describes the problem.
Fault = tuple[tuple[str | int, ...], str]


class JobManagerError(Exception):
    """Base class of the errors that callers of the JobManager have to expect."""


class ConfigError(JobManagerError):
    """A setting has a value that the service cannot start with. The message names the setting."""


class InvalidRequest(JobManagerError):
    """A request that can never succeed as it is. `field` is a dotted path into the request, or "".

    `faults` has the path of each wrong field, and a text that describes the problem.
    """

    def __init__(self, message: str, *, field: str = "", faults: Iterable[Fault] = ()) -> None:
        super().__init__(message)
        self.field = field
        self.faults = tuple(faults) or ((((field,), message),) if field else ())

    def moved(self, under: tuple[str | int, ...]) -> InvalidRequest:
        """Return this error with *under*, the path of the faulty part of the request, in front of each path."""
        if not under:
            return self
        path = ".".join(map(str, under))
        faults = [((*under, *where), text) for where, text in self.faults] or [(under, str(self))]
        return InvalidRequest(f"{path}: {self}", field=f"{path}.{self.field}" if self.field else path, faults=faults)


class UnknownType(InvalidRequest):
    """No job type is registered under the name that was submitted."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        shown = repr(name) if len(name) <= 80 else f"{name[:80]!r}…"
        super().__init__(f"There is no job type {shown}. Known types: {', '.join(sorted(known))}.", field="type")


class Unreadable(InvalidRequest):
    """A body that cannot be read at all: not valid JSON, or not the expected kind of JSON."""


class NotFound(JobManagerError):
    """The requested thing does not exist."""


class UnknownJob(NotFound):
    """No job has this id."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"There is no job {job_id!r}.")
        self.job_id = job_id


class NotAllowed(JobManagerError):
    """The job's status does not allow the action. `allowed` names the actions that a person may request."""

    def __init__(self, job_id: str, status: str, action: str, allowed: Iterable[str]) -> None:
        self.job_id, self.status, self.action, self.allowed = job_id, status, action, tuple(allowed)
        choice = f"allowed: {', '.join(self.allowed)}" if self.allowed else "it is final"
        super().__init__(f"A job that is {status} cannot be asked to {action} ({choice}).")


class Outdated(JobManagerError):
    """The job has changed since the client read it, so the request was meant for an earlier version."""

    def __init__(self, job_id: str, status: str) -> None:
        super().__init__(f"The job has changed since you looked at it; it is {status} now.")
        self.job_id, self.status = job_id, status


class Conflict(JobManagerError):
    """The idempotency key belongs to another submission."""


class Unauthenticated(JobManagerError):
    """The request has no valid token.

    *has_token*: True if it has a token, which is unknown, revoked or expired. The response does not say which of the
    three.
    """

    def __init__(self, *, has_token: bool) -> None:
        super().__init__(
            "The token is not valid." if has_token else "This needs a token, sent as: Authorization: Bearer TOKEN."
        )
        self.has_token = has_token


class Forbidden(JobManagerError):
    """The token is valid, but its role does not allow this."""

    def __init__(self, name: str, role: str, needed: str) -> None:
        super().__init__(f"The token {name!r} has the role {role}; this needs the role {needed}.")


class RateLimited(JobManagerError):
    """The token has used up its requests. Try again after `retry_after_seconds`."""

    def __init__(self, rate: int, *, retry_after_seconds: int) -> None:
        super().__init__(f"This token may send {rate} requests a minute. Try again later.")
        self.retry_after_seconds = retry_after_seconds


class TokensUnavailable(JobManagerError):
    """The file of tokens cannot be read, or is invalid. The message is for the operator."""

    retry_after_seconds = 5


class QueueFull(JobManagerError):
    """As many jobs wait as JOBMANAGER_QUEUE_LIMIT allows. Try again after `retry_after_seconds`."""

    def __init__(self, limit: int, *, retry_after_seconds: int = 5) -> None:
        super().__init__(f"The queue is full: {limit} jobs are waiting. Try again later.")
        self.retry_after_seconds = retry_after_seconds


class TooManyStreams(JobManagerError):
    """As many streams are open as JOBMANAGER_STREAMS allows in this process. Try again later."""

    retry_after_seconds = 5

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} streams are open, which is the limit. Try again later.")


class BatchUnderWay(JobManagerError):
    """This process is storing another batch. Its memory has room for one at a time."""

    retry_after_seconds = 5

    def __init__(self) -> None:
        super().__init__("Another batch is being stored. Try again later.")


class StoreUnavailable(JobManagerError):
    """The store did not answer, or its volume is full. Nothing was changed."""

    retry_after_seconds = 2


class Fatal(Exception):
    """Raise this from a job's code if trying again cannot help: the job fails at once."""


class Interrupt(BaseException):
    """Unwinds a job's code from inside `checkpoint()` or `wait()`."""


class StopRequested(Interrupt):
    """The job has to end for good; `clean` runs next."""


class Unwind(Interrupt):
    """This attempt has to end (parked too long, shutdown). The job goes on in another one."""


class TimedOut(Interrupt):
    """The attempt ran longer than its `timeout_seconds`. Counts as a failure."""


class LeaseLost(Interrupt):
    """Another attempt owns the job, or none does: this thread may write nothing more."""
