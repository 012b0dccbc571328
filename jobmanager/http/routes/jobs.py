"""Submit, list and show jobs, their changes, their logs and their files."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from http import HTTPStatus
from urllib.parse import urlencode

from flask import Blueprint, request, send_file
from werkzeug.wrappers import Response

from jobmanager.core.repeatable import Repeatable
from jobmanager.core.values import Submission
from jobmanager.errors import InvalidRequest, UnknownJob
from jobmanager.http import parsing, validation
from jobmanager.http.context import actor, address_of, manager, token
from jobmanager.http.openapi import examples
from jobmanager.http.openapi.operations import (
    ON_A_JOB,
    ResponseDoc,
    describe,
    header_parameter,
    job_id_parameter,
    problem,
    query_parameters,
)
from jobmanager.http.openapi.responses import (
    BATCH_TOO_LARGE,
    BROKEN,
    FOREIGN,
    INVALID,
    INVALID_QUERY,
    NO_BATCH,
    NO_JOB,
    NO_STORE,
    QUEUE_FULL,
    TOO_LARGE,
    UNREADABLE,
)
from jobmanager.http.ranges import ignore_other_ranges
from jobmanager.http.responses import render, render_job
from jobmanager.http.schemas import cursors, request_models, response_models
from jobmanager.http.security import MAX_BATCH_BYTES
from jobmanager.http.waiting import batch_at_a_time

#: The largest body, in bytes, whose jobs are all in memory at once. The objects may take thirty times the memory of
#: their text.
_SMALL_BATCH = 2 * 1024 * 1024

blueprint = Blueprint("jobs", __name__, url_prefix="/jobs")


@blueprint.post("")
@describe(
    name="submit_job",
    tag="jobs",
    text="After the answer 202, the job is stored and no crash loses it. With an Idempotency-Key, it is safe to repeat "
    "the request: the same submission sent again, even at the same instant, is answered with the existing job.",
    parameters=[
        header_parameter(
            "Idempotency-Key",
            "Identifies this submission for at least a day. A different submission with the same key is refused. Each "
            "token has its own keys.",
            shown="9a1f2c44-import-of-may",
        )
    ],
    body=(request_models.NewJob, examples.NEW_JOBS),
    answers={
        202: ResponseDoc(
            text="The job is stored and will run.",
            model=response_models.JobShown,
            examples=examples.JOB_SUBMITTED,
            headers=["Location", "ETag"],
            leads_to=ON_A_JOB,
        ),
        400: UNREADABLE,
        403: FOREIGN,
        413: TOO_LARGE,
        422: INVALID,
        429: QUEUE_FULL,
        500: BROKEN,
        503: NO_STORE,
    },
)
def submit() -> Response:
    """Submit a job."""
    new_job = validation.validated(request_models.NewJob, parsing.parse_object(request.get_data(), examples.NEW_JOB))
    sent = token()
    job = manager().submit(
        **dict(new_job),
        idempotency_key=request.headers.get("Idempotency-Key"),
        idempotency_scope="" if sent is None else sent.name,
        actor=actor(),
    )
    response = render_job(job, HTTPStatus.ACCEPTED)
    response.location = address_of("jobs.show", job_id=job.id)
    return response


@blueprint.post("/batch")
@describe(
    name="submit_jobs",
    tag="jobs",
    text="Either all jobs are stored, or none. Send a JSON array, or one object per line (NDJSON): up to 100,000 jobs, "
    "1 MiB each, 64 MiB in all. A process stores one batch at a time: another batch waits for up to five seconds and "
    "is then answered with 503.",
    body=(request_models.Batch, examples.BATCH),
    answers={
        202: ResponseDoc(text="All jobs are stored and will run.", model=response_models.Ids, examples=examples.IDS),
        400: UNREADABLE,
        403: FOREIGN,
        413: BATCH_TOO_LARGE,
        422: INVALID,
        429: QUEUE_FULL,
        500: BROKEN,
        503: NO_BATCH,
    },
)
def submit_batch() -> Response:
    """Submit many jobs at once."""
    body = parsing.read_once(request.stream, MAX_BATCH_BYTES)
    with batch_at_a_time():
        batch = Repeatable(lambda: _submissions(body))
        try:
            # A small body is parsed once, which is faster; a large body is parsed twice, a part at a time.
            ids = manager().submit_all(list(batch) if len(body) <= _SMALL_BATCH else batch, actor=actor())
        except InvalidRequest:
            # Parse the whole body. If it is unreadable or has too many jobs, that error takes precedence.
            deque(parsing.parse_many(body, examples.NEW_JOB), maxlen=0)
            raise
    return render(response_models.Ids(ids=ids), HTTPStatus.ACCEPTED)


def _submissions(body: bytes | bytearray) -> Iterator[Submission]:
    """Return an iterator over the jobs of a batch, parsed lazily. It raises Unreadable or InvalidRequest."""
    values = parsing.parse_many(body, examples.NEW_JOB)
    return map(request_models.NewJob.submission, validation.validated_each(request_models.NewJob, values))


@blueprint.get("")
@describe(
    name="list_jobs",
    tag="jobs",
    text="A page of jobs, newest first. `next_cursor` and the header Link lead to the next page. Jobs that are "
    "submitted in the meantime do not shift it.",
    parameters=query_parameters(request_models.ListQuery),
    answers={
        200: ResponseDoc(
            text="The page; every page but the last has the header Link with rel=next.",
            model=response_models.JobList,
            examples=examples.JOB_LIST,
        ),
        422: INVALID_QUERY,
        500: BROKEN,
        503: NO_STORE,
    },
)
def index() -> Response:
    """List jobs."""
    query = validation.parse_query(request_models.ListQuery, request.args)
    page = manager().find(query.selection(), before=cursors.from_cursor(query.cursor), limit=query.limit)
    shown = response_models.show_page(page, manager())
    response = render(shown)
    if shown.next_cursor is not None:
        others = [(name, value) for name, value in request.args.items(multi=True) if name != "cursor"]
        target = f"{address_of('jobs.index')}?{urlencode([*others, ('cursor', shown.next_cursor)])}"
        response.headers["Link"] = f'<{target}>; rel="next"'
    return response


@blueprint.get("/<job:job_id>")
@describe(
    name="get_job",
    tag="jobs",
    text="The whole job: status, progress with rate and ETA, checkpoint, lease, and allowed actions. Use its ETag as "
    "If-None-Match here, and as If-Match of a halt, a resume or a stop.",
    parameters=[
        job_id_parameter(),
        header_parameter("If-None-Match", "The ETag of the job that the client has.", shown='"5ea1c0ffee5ea1c0.12"'),
    ],
    answers={
        200: ResponseDoc(
            text="The job.", model=response_models.JobShown, examples=examples.JOBS, headers=["ETag"], leads_to=ON_A_JOB
        ),
        304: ResponseDoc(text="The job still has the ETag in If-None-Match.", headers=["ETag"]),
        404: NO_JOB,
        500: BROKEN,
        503: NO_STORE,
    },
)
def show(job_id: str) -> Response:
    """Show a job."""
    return render_job(manager().get(job_id)).make_conditional(request)


@blueprint.get("/<job:job_id>/changes")
@describe(
    name="get_changes",
    tag="jobs",
    text="Every change of the job's status: when it was requested and when it took effect, in which attempt, by whom "
    "and why.",
    parameters=[job_id_parameter()],
    answers={
        200: ResponseDoc(text="The changes.", model=response_models.Changes, examples=examples.CHANGES),
        404: NO_JOB,
        500: BROKEN,
        503: NO_STORE,
    },
)
def changes(job_id: str) -> Response:
    """List the changes of a job."""
    return render(
        response_models.Changes(changes=[response_models.show_change(each) for each in manager().changes(job_id)])
    )


@blueprint.get("/<job:job_id>/log")
@describe(
    name="get_log",
    tag="jobs",
    text="What the job logged, and the tracebacks of its errors. A page has up to `limit` lines and about 1 MiB of "
    "messages, but at least one line. To get the next page, pass the number of the last line as `after`, until a page "
    "is empty. Only the newest lines are kept; if earlier lines were dropped, the first line says how many.",
    parameters=[job_id_parameter(), *query_parameters(request_models.LogQuery)],
    answers={
        200: ResponseDoc(text="The lines.", model=response_models.Lines, examples=examples.LINES),
        404: NO_JOB,
        422: INVALID_QUERY,
        500: BROKEN,
        503: NO_STORE,
    },
)
def log(job_id: str) -> Response:
    """Read the log of a job."""
    query = validation.parse_query(request_models.LogQuery, request.args)
    return render(response_models.show_lines(manager().log(job_id, after=query.after, limit=query.limit)))


@blueprint.get("/<job:job_id>/artifact")
@describe(
    name="download",
    tag="jobs",
    text="The media type is that of the file, such as `text/csv`. Use Range to continue an interrupted download.",
    parameters=[
        job_id_parameter(),
        header_parameter("Range", "The part of the file to send.", shown="bytes=0-99"),
        header_parameter("If-None-Match", "The ETag of the file that the client has.", shown='"9f86d081884c7d65"'),
    ],
    answers={
        200: ResponseDoc(
            text="The file.", model=bytes, examples=examples.FILE, headers=["Content-Disposition", "ETag"]
        ),
        206: ResponseDoc(
            text="The part of the file that Range selects.",
            model=bytes,
            examples=examples.FILE,
            headers=["Content-Range", "ETag"],
        ),
        304: ResponseDoc(text="The file still has the ETag in If-None-Match.", headers=["ETag"]),
        404: problem(UnknownJob, "No job has this id, or it has no file.", examples.NO_FILE),
        416: problem(
            HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
            "The file ends before the part that Range selects.",
            "The server cannot provide the requested range.",
            headers=["Content-Range"],
        ),
        500: BROKEN,
        503: NO_STORE,
    },
)
def artifact(job_id: str) -> Response:
    """Download the file that a completed job made."""
    found = manager().artifact(job_id)
    ignore_other_ranges()
    response = send_file(
        found.path,
        mimetype=found.media_type,
        as_attachment=True,
        download_name=found.filename,
        etag=found.etag,
        conditional=True,
    )
    if ";" in found.media_type:
        # Flask adds a charset to every text type, even to one that has a charset.
        response.content_type = found.media_type
    return response
