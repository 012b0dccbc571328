"""Jobs as resources."""

from __future__ import annotations

import re

from flask import Blueprint, request, send_file
from werkzeug.wrappers import Response

from jobmanager.http import wire
from jobmanager.http.docs import describe, job_id_parameter
from jobmanager.http.door import manager

blueprint = Blueprint("jobs", __name__, url_prefix="/jobs")

_ONE_RANGE = re.compile(r"bytes=\s*(\d+-\d*|-\d+)\s*")


@blueprint.get("/<job_id>/artifact")
@describe(
    tag="jobs",
    parameters=[job_id_parameter()],
    answers={
        200: (bytes, "The file. Parts of it are served too (Range), and If-None-Match is heeded."),
        206: (bytes, "The part of the file that Range asked for."),
        304: (None, "The file is what If-None-Match says."),
        404: (wire.Problem, "No job has this id, or it has no file."),
        416: (wire.Problem, "The file does not have the part that Range asked for."),
        503: (wire.Problem, "The store does not answer; try again after Retry-After seconds."),
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
