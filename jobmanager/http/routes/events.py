"""Follow jobs by server-sent events.

Each stream holds one of the threads that serve requests. So the number of streams is limited, and a client that does
not read is disconnected.
"""

from __future__ import annotations

from http import HTTPStatus

from flask import Blueprint, Response, request

from jobmanager.core.states import FINAL
from jobmanager.errors import InvalidRequest
from jobmanager.http import validation
from jobmanager.http.client_connection import ClientConnection
from jobmanager.http.context import manager
from jobmanager.http.event_stream import EventStream
from jobmanager.http.openapi import examples
from jobmanager.http.openapi.operations import (
    ResponseDoc,
    describe,
    header_parameter,
    job_id_parameter,
    query_parameters,
)
from jobmanager.http.openapi.responses import BROKEN, INVALID_QUERY, NO_JOB, NO_STREAM
from jobmanager.http.schemas import request_models
from jobmanager.observability import metrics

blueprint = Blueprint("events", __name__)

_LAST_EVENT_ID = header_parameter(
    "Last-Event-ID", "The id of the last event that the client has seen. Browsers send it automatically.", shown="4711"
)


@blueprint.get("/events")
@describe(
    name="follow_jobs",
    tag="events",
    text="Server-sent events. `change` reports a change of a job's status, with the data of "
    "`GET /jobs/{job_id}/changes`. `progress` reports the progress of a job at its last checkpoint, and may combine "
    "several checkpoints. The stream begins now, or after `Last-Event-ID`: a client that reconnects with it misses no "
    "change, unless the job was removed. If there are filters, an event is sent only if its job matches all of them. "
    "After ten seconds without events, a line that begins with a colon keeps the connection alive. An id without data "
    "may follow it; keep that id like any other. A client that does not read for ten seconds is disconnected.",
    parameters=[_LAST_EVENT_ID, *query_parameters(request_models.EventQuery)],
    answers={
        200: ResponseDoc(
            text="The stream; it is open until either side closes it.", model=str, examples=examples.STREAM
        ),
        422: INVALID_QUERY,
        500: BROKEN,
        503: NO_STREAM,
    },
)
def index() -> Response:
    """Follow the changes and the progress of jobs."""
    query = validation.parse_query(request_models.EventQuery, request.args)
    subscription = manager().follow(query.selection(), after=_last_event_id(query))
    return _stream_response(EventStream(subscription, manager()))


@blueprint.get("/jobs/<job:job_id>/events")
@describe(
    name="follow_job",
    tag="events",
    text="Server-sent events of one job, as at `/events`. The first event is `job`, with the data of "
    "`GET /jobs/{job_id}`, so that a page can show the job. Then comes every `change` since the job was submitted, or "
    "after `Last-Event-ID`, and then new events as they happen. After the change to completed or stopped, a last `job` "
    "event has the result, and the stream ends. A client that has seen every change and reconnects is answered with "
    "204, so that browsers do not try again.",
    parameters=[job_id_parameter(), _LAST_EVENT_ID, *query_parameters(request_models.JobEventQuery)],
    answers={
        200: ResponseDoc(
            text="The stream; it ends when the job is completed or stopped.", model=str, examples=examples.STREAM_OF_JOB
        ),
        204: ResponseDoc(text="The job is completed or stopped, and the client has seen every change."),
        404: NO_JOB,
        422: INVALID_QUERY,
        500: BROKEN,
        503: NO_STREAM,
    },
)
def of_job(job_id: str) -> Response:
    """Follow the changes and the progress of a job."""
    query = validation.parse_query(request_models.JobEventQuery, request.args)
    after = _last_event_id(query)
    job = manager().get(job_id)
    if job.status in FINAL and after is not None and manager().changes(job_id)[-1].seq <= after:
        return Response(status=HTTPStatus.NO_CONTENT)
    subscription = manager().follow(job_id=job_id, after=after or 0)
    return _stream_response(EventStream(subscription, manager(), job_id=job_id))


def _last_event_id(query: request_models.JobEventQuery) -> int | None:
    """Return the number of the last change that the client has seen; None if it sent no id. Raises InvalidRequest."""
    event_id = request.headers.get("Last-Event-ID") or query.last_event_id
    if not event_id:
        return None
    if not (event_id.isascii() and event_id.isdecimal() and len(event_id) <= 18):
        raise InvalidRequest("Invalid Last-Event-ID. Send the id of an event, or none.", field="last_event_id")
    return int(event_id)


def _stream_response(stream: EventStream) -> Response:
    client = ClientConnection(request.environ)
    response = Response(client.send_when_writable(stream, is_over=stream.is_over), mimetype="text/event-stream")
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"  # otherwise nginx buffers the events
    response.call_on_close(stream.close)
    metrics.stream_began()
    response.call_on_close(metrics.stream_ended)
    response.call_on_close(client.close_after_response)
    return response
