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
from jobmanager.http.openapi import examples
from jobmanager.http.openapi.operations import problem

UNREADABLE = problem(Unreadable, "The body is not valid JSON, or not the expected JSON type.", examples.UNREADABLE_BODY)
INVALID = problem(
    InvalidRequest,
    "A field is unknown or wrong. The error names each such field and its fault.",
    examples.WRONG_FIELD,
    errors=[{"pointer": "#/prioritty", "detail": "Extra inputs are not permitted"}],
    field="prioritty",
)
INVALID_QUERY = problem(
    InvalidRequest,
    "A parameter is unknown or wrong. The error names each such parameter and its fault.",
    examples.WRONG_PARAMETER,
    errors=[{"parameter": "limit", "detail": "Input should be less than or equal to 500"}],
    field="limit",
)
FOREIGN = problem(
    HTTPStatus.FORBIDDEN,
    "A browser sent the request for a page of another site, or the token's role does not suffice.",
    examples.FOREIGN,
)
NO_JOB = problem(UnknownJob, "No job has this id.", examples.NO_JOB)
OUTDATED = problem(Outdated, "The job has changed: its ETag no longer matches If-Match.", examples.OUTDATED)
NOT_ALLOWED = problem(
    NotAllowed,
    "The job's status does not allow this action; the error names the allowed actions.",
    "A job that is completed cannot be asked to halt (it is final).",
    job_status="completed",
    allowed=[],
)
TOO_LARGE = problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The body is too large.", examples.TOO_LARGE)
BATCH_TOO_LARGE = problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The body is too large.", examples.BATCH_TOO_LARGE)
QUEUE_FULL = problem(
    QueueFull,
    "Too many jobs are waiting, or the token has sent too many requests.",
    examples.QUEUE_FULL,
    headers=["Retry-After"],
)
BROKEN = problem(
    HTTPStatus.INTERNAL_SERVER_ERROR, "Internal error. The details are in the service's log.", examples.BROKEN
)
NO_STORE = problem(StoreUnavailable, "The store does not answer.", examples.NO_STORE, headers=["Retry-After"])
_BATCH_UNDER_WAY = problem(BatchUnderWay, "", examples.BATCH_UNDER_WAY)
NO_BATCH = replace(
    NO_STORE,
    text="This process is storing another batch, or the store does not answer.",
    examples={
        "store": NO_STORE.examples["problem"] | {"summary": "The store does not answer"},
        "batch": _BATCH_UNDER_WAY.examples["problem"] | {"summary": "Another batch is under way"},
    },
)
_TOO_MANY_STREAMS = problem(TooManyStreams, "", examples.TOO_MANY_STREAMS)
NO_STREAM = replace(
    NO_STORE,
    text="Too many streams are open in this process, or the store does not answer.",
    examples={
        "store": NO_STORE.examples["problem"] | {"summary": "The store does not answer"},
        "streams": _TOO_MANY_STREAMS.examples["problem"] | {"summary": "Too many streams"},
    },
)
