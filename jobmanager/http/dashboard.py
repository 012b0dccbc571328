"""The dashboard: a page for people, which asks the API what any client may ask it.

It is the same for everybody, so it is open like the API docs: a token is asked for by its scripts, and sent with each
of their requests. Its addresses are relative, and hold wherever it is mounted.
"""

from __future__ import annotations

import json

from flask import Blueprint, make_response, render_template, request
from werkzeug.wrappers import Response

from jobmanager.http.door import open_to_all
from jobmanager.states import ATTENDED, Status, allowed

blueprint = Blueprint("dashboard", __name__)

#: What may be asked of a job, by its status: the page is not to know a table of its own.
_LIFE = json.dumps({status: allowed(status) for status in Status})
#: In which statuses somebody is at work on it, or should be.
_ATTENDED = json.dumps([status for status in Status if status in ATTENDED])


@blueprint.get("/")
@open_to_all
def page() -> Response:
    """Show the dashboard."""
    response = make_response(render_template("jobmanager/dashboard.html", life=_LIFE, attended=_ATTENDED))
    response.headers["Cache-Control"] = "no-cache"  # kept, but looked at again: a new release is seen at once
    response.add_etag()
    return response.make_conditional(request)
