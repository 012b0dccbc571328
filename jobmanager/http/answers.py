"""What the REST routes share: what their requests may say in headers, and how they answer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

from flask import Response, request
from pydantic import BaseModel

from jobmanager.errors import BatchUnderWay, InvalidRequest
from jobmanager.http import resources
from jobmanager.http.door import manager, mounted
from jobmanager.http.errors import IF_MATCH
from jobmanager.records import JobRecord
from jobmanager.states import UNDER_WAY, Action

#: The longest that a request may have itself kept waiting.
MOST_WAIT_SECONDS = 30
#: How long a request may wait without a place among those that wait: most jobs halt sooner.
MOMENT_SECONDS = 0.1

#: How long a header may be that is taken apart here.
_LONGEST_PREFER = 1000
_LONGEST_IF_MATCH = 4000
#: How long a batch waits for another one to be stored.
_BATCH_WAIT_SECONDS = 5.0

_WAIT = re.compile(r'(?:^|,)\s*wait\s*=\s*"?(\d{1,9})"?\s*(?:;[^,]*)?(?=,|$)', re.IGNORECASE)


def preferred_wait() -> int:
    """Return how many seconds the client wants to wait for what it asks: `Prefer: wait=N`, RFC 7240 §4.3."""
    told = ",".join(request.headers.getlist("Prefer"))
    if len(told) > _LONGEST_PREFER:
        return 0  # what a client prefers may be ignored: RFC 7240 §2
    preferred = _WAIT.search(told)
    return min(MOST_WAIT_SECONDS, int(preferred[1])) if preferred else 0


@contextmanager
def preferred_place() -> Iterator[float]:
    """Yield how many seconds to wait, as the client prefers. A preference may be ignored (RFC 7240 §2)."""
    with place_to_wait(preferred_wait()) as seconds:
        yield seconds


@contextmanager
def place_to_wait(wanted: float) -> Iterator[float]:
    """Yield how many seconds the request may wait: *wanted* if it gets one of the places for that, else a moment.

    Each wait holds one of the threads that answer requests, and some must be left for others. A request in the spare
    thread, which answers while all others are held, waits only a moment.
    """
    places = mounted().waits
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
    """Let one batch of the process be read and stored; raises BatchUnderWay if another one takes too long.

    Those that wait take a thread each, so they have their places among the requests that may wait.
    """
    lock, places = mounted().batch, mounted().waits
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
    """Return the versions of the job that `If-Match` names (RFC 9110 §13.1.1); None where any will do.

    What counts is what became of the job, not its progress: a checkpoint that was saved meanwhile is no other version.
    """
    told = request.headers.get("If-Match", "")
    if len(told) > _LONGEST_IF_MATCH:
        raise InvalidRequest(f"If-Match has at most {_LONGEST_IF_MATCH} characters.", field=IF_MATCH)
    tags = request.if_match
    if not told or tags.star_tag:
        return None
    # Werkzeug makes a tag that is None of what is no tag.
    return {resources.version_of(tag) for tag in tags.as_set() if tag is not None}


def render(model: BaseModel, status: HTTPStatus = HTTPStatus.OK) -> Response:
    """Return the answer that shows what the model holds."""
    return Response(model.model_dump_json(), status, mimetype="application/json")


def render_job(job: JobRecord, status: HTTPStatus = HTTPStatus.OK) -> Response:
    """Return the answer that shows a job, with its ETag."""
    shown = resources.show_job(job, manager())
    response = render(shown, status)
    response.set_etag(resources.etag_of(shown, job.version()))
    return response


def render_asked(action: Action, job: JobRecord, *, wait: float) -> Response:
    """Return the answer to a halt, a resume or a stop, after so many seconds at most: 202 while it is under way."""
    response = render_job(job, HTTPStatus.ACCEPTED if job.status in UNDER_WAY[action] else HTTPStatus.OK)
    if wait > MOMENT_SECONDS:
        response.headers["Preference-Applied"] = f"wait={wait:g}"
    return response
