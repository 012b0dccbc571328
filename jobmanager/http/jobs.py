"""Jobs as resources."""

from __future__ import annotations

import re
from http import HTTPStatus

from flask import Blueprint, request, send_file
from werkzeug.wrappers import Response

from jobmanager.http import examples
from jobmanager.http.docs import Answer, describe, header_parameter, job_id_parameter, problem
from jobmanager.http.door import manager

blueprint = Blueprint("jobs", __name__, url_prefix="/jobs")

_ONE_RANGE = re.compile(r"bytes=\s*(\d+-\d*|-\d+)\s*")


@blueprint.get("/<job_id>/artifact")
@describe(
    tag="jobs",
    text="The media type is the file's own, as in `text/csv`. A download that broke off goes on with Range.",
    parameters=[
        job_id_parameter(),
        header_parameter("Range", "The part of the file that is wanted.", shown="bytes=0-99"),
        header_parameter("If-None-Match", "The ETag of the file that the client has.", shown='"9f86d081884c7d65"'),
    ],
    answers={
        200: Answer(text="The file.", model=bytes, examples=examples.FILE, headers=["Content-Disposition", "ETag"]),
        206: Answer(
            text="The part of the file that Range asked for.",
            model=bytes,
            examples=examples.FILE,
            headers=["Content-Range", "ETag"],
        ),
        304: Answer(text="The file is what If-None-Match says.", headers=["ETag"]),
        404: problem(HTTPStatus.NOT_FOUND, "No job has this id, or it has no file.", examples.NO_FILE),
        416: problem(
            HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
            "The file does not have the part that Range asked for.",
            "The server cannot provide the requested range.",
            headers=["Content-Range"],
        ),
        500: problem(HTTPStatus.INTERNAL_SERVER_ERROR, "A mistake of the service; it is in its log.", examples.BROKEN),
        503: problem(
            HTTPStatus.SERVICE_UNAVAILABLE, "The store does not answer.", examples.NO_STORE, headers=["Retry-After"]
        ),
    },
)
def artifact(job_id: str) -> Response:
    """Download the file that a completed job made."""
    found = manager().artifact(job_id)
    _heed_one_range()
    return send_file(
        found.path,
        mimetype=found.media_type,
        as_attachment=True,
        download_name=found.filename,
        etag=found.etag,
        conditional=True,
    )


def _heed_one_range() -> None:
    """Have any other Range than one of bytes, of a GET, ignored: RFC 9110 §14.2; Werkzeug would answer 416."""
    if request.method != "GET" or not _ONE_RANGE.fullmatch(request.headers.get("Range", "")):
        request.environ.pop("HTTP_RANGE", None)
