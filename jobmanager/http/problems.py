"""The error responses that the docs of many routes share."""

from __future__ import annotations

from dataclasses import replace
from http import HTTPStatus

from jobmanager.errors import (
    BatchUnderWay,
    InvalidRequest,
    NotAllowed,
    Outdated,
    QueueFull,
    StoreUnavailable,
    TooManyStreams,
    UnknownJob,
    Unreadable,
)
from jobmanager.http import examples
from jobmanager.http.docs import problem

UNREADABLE = problem(Unreadable, "The body is no JSON, or not of the kind that is asked for.", examples.UNREADABLE_BODY)
INVALID = problem(
    InvalidRequest,
    "A field is unknown or wrong; the error names each, and says what is wrong.",
    examples.WRONG_FIELD,
    errors=[{"pointer": "#/prioritty", "detail": "Extra inputs are not permitted"}],
    field="prioritty",
)
INVALID_QUERY = problem(
    InvalidRequest,
    "A parameter is unknown or wrong; the error names each, and says what is wrong.",
    examples.WRONG_PARAMETER,
    errors=[{"parameter": "limit", "detail": "Input should be less than or equal to 500"}],
    field="limit",
)
FOREIGN = problem(
    HTTPStatus.FORBIDDEN,
    "A browser asked on behalf of a page of another site, or the token's role does not suffice.",
    examples.FOREIGN,
)
NO_JOB = problem(UnknownJob, "No job has this id.", examples.NO_JOB)
OUTDATED = problem(
    Outdated, "The job has changed since the client looked: it is not as If-Match says.", examples.OUTDATED
)
NOT_ALLOWED = problem(
    NotAllowed,
    "The job's status does not allow it; the error says what is allowed.",
    "A job that is completed cannot be asked to {verb} (it is final).",
    job_status="completed",
    allowed=[],
)
TOO_LARGE = problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The body is too large.", examples.TOO_LARGE)
BATCH_TOO_LARGE = problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The body is too large.", examples.BATCH_TOO_LARGE)
QUEUE_FULL = problem(
    QueueFull, "Too many jobs wait, or the token has asked too often.", examples.QUEUE_FULL, headers=["Retry-After"]
)
BROKEN = problem(HTTPStatus.INTERNAL_SERVER_ERROR, "A mistake of the service; it is in its log.", examples.BROKEN)
NO_STORE = problem(StoreUnavailable, "The store does not answer.", examples.NO_STORE, headers=["Retry-After"])
_BATCH_UNDER_WAY = problem(BatchUnderWay, "", examples.BATCH_UNDER_WAY)
NO_BATCH = replace(
    NO_STORE,
    text="This process stores another batch, or the store does not answer.",
    examples={
        "store": NO_STORE.examples["problem"] | {"summary": "The store is away"},
        "batch": _BATCH_UNDER_WAY.examples["problem"] | {"summary": "Another batch is under way"},
    },
)
_TOO_MANY_STREAMS = problem(TooManyStreams, "", examples.TOO_MANY_STREAMS)
NO_STREAM = replace(
    NO_STORE,
    text="As many streams are open in this process as there may be, or the store does not answer.",
    examples={
        "store": NO_STORE.examples["problem"] | {"summary": "The store is away"},
        "streams": _TOO_MANY_STREAMS.examples["problem"] | {"summary": "Too many streams"},
    },
)
