"""Read the headers that all REST routes share, limit long polls and batches, and render responses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

from flask import Response, request
from pydantic import BaseModel

from jobmanager.core.states import UNDER_WAY, Action
from jobmanager.core.values import JobRecord
from jobmanager.errors import BatchUnderWay, InvalidRequest
from jobmanager.http.context import current_mount, manager
from jobmanager.http.errors import IF_MATCH
from jobmanager.http.schemas import response_models

#: The longest wait that a request may ask for.
MOST_WAIT_SECONDS = 30
#: How long a request may wait without one of the places for waiting. Most jobs halt sooner.
MOMENT_SECONDS = 0.1

#: The longest headers that are parsed, in characters.
_LONGEST_PREFER = 1000
_LONGEST_IF_MATCH = 4000
#: How long a batch waits while another batch is stored.
_BATCH_WAIT_SECONDS = 5.0

_WAIT = re.compile(r'(?:^|,)\s*wait\s*=\s*"?(\d{1,9})"?\s*(?:;[^,]*)?(?=,|$)', re.IGNORECASE)


def preferred_wait() -> int:
    """Return the wait that the client prefers, in seconds (`Prefer: wait=N`, RFC 7240 §4.3); 0 without one."""
    header = ",".join(request.headers.getlist("Prefer"))
    if len(header) > _LONGEST_PREFER:
        return 0  # a server may ignore a preference: RFC 7240 §2
    preferred = _WAIT.search(header)
    return min(MOST_WAIT_SECONDS, int(preferred[1])) if preferred else 0


@contextmanager
def preferred_wait_limit() -> Iterator[float]:
    """Yield how many seconds to wait: as many as the client prefers, or a moment if too many requests wait already."""
    with wait_limit(preferred_wait()) as seconds:
        yield seconds


@contextmanager
def wait_limit(wanted: float) -> Iterator[float]:
    """Yield how many seconds the request may wait: *wanted* if a place for waiting is free, else a moment.

    Does not block. Each waiting request holds one of the threads that answer requests, and some must be left for
    others. A request in the spare thread, which answers while all others are held, waits only a moment.
    """
    places = current_mount().waits
    is_spare = getattr(request.environ.get("gunicorn.socket"), "is_in_spare_thread", False)
    if wanted <= MOMENT_SECONDS or is_spare or not places.acquire(blocking=False):
        yield min(wanted, MOMENT_SECONDS)
        return
    try:
        yield wanted
    finally:
        places.release()


@contextmanager
def batch_at_a_time() -> Iterator[None]:
    """Hold the lock for reading and storing a batch: one batch at a time in each process.

    Blocks up to five seconds for the lock, then raises BatchUnderWay. A waiting batch holds a thread, so it takes one
    of the places for waiting; raises BatchUnderWay at once if none is free.
    """
    lock, places = current_mount().batch, current_mount().waits
    if not lock.acquire(blocking=False):
        if not places.acquire(blocking=False):
            raise BatchUnderWay
        try:
            if not lock.acquire(timeout=_BATCH_WAIT_SECONDS):
                raise BatchUnderWay
        finally:
            places.release()
    try:
        yield
    finally:
        lock.release()


def expected_versions() -> set[str] | None:
    """Return the job versions that `If-Match` names (RFC 9110 §13.1.1); None if any version will do.

    Saving a checkpoint does not change the version: progress does not count. Raises InvalidRequest if the header is too
    long.
    """
    header = request.headers.get("If-Match", "")
    if len(header) > _LONGEST_IF_MATCH:
        raise InvalidRequest(f"If-Match has at most {_LONGEST_IF_MATCH} characters.", field=IF_MATCH)
    tags = request.if_match
    if not header or tags.star_tag:
        return None
    # Werkzeug returns None for an empty tag.
    return {response_models.version_of(tag) for tag in tags.as_set() if tag is not None}


def render(model: BaseModel, status: HTTPStatus = HTTPStatus.OK) -> Response:
    """Return a JSON response with the model."""
    return Response(model.model_dump_json(), status, mimetype="application/json")


def render_job(job: JobRecord, status: HTTPStatus = HTTPStatus.OK) -> Response:
    """Return a response that shows the job, with its ETag."""
    shown = response_models.show_job(job, manager())
    response = render(shown, status)
    response.set_etag(response_models.etag_of(shown, job.version()))
    return response


def render_action(action: Action, job: JobRecord, *, wait: float) -> Response:
    """Return the response to a halt, resume or stop that waited up to *wait* seconds: 202 if it is still under way."""
    response = render_job(job, HTTPStatus.ACCEPTED if job.status in UNDER_WAY[action] else HTTPStatus.OK)
    if wait > MOMENT_SECONDS:
        response.headers["Preference-Applied"] = f"wait={wait:g}"
    return response
