"""Jobs as resources."""

from __future__ import annotations

from flask import Blueprint, send_file
from werkzeug.wrappers import Response

from jobmanager.http import wire
from jobmanager.http.docs import describe, job_id_parameter
from jobmanager.http.door import manager

blueprint = Blueprint("jobs", __name__, url_prefix="/jobs")


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
    return send_file(
        found.path,
        mimetype=found.media_type,
        as_attachment=True,
        download_name=found.filename,
        etag=found.etag,
        conditional=True,
    )
