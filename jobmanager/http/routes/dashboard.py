"""The dashboard: a web page that uses the same API as any other client.

The page is the same for every user, so it needs no token (nor do the API docs). Its scripts ask for a token and send it
with each request. The addresses in the page are relative, so they work under any prefix.
"""

from __future__ import annotations

import json

from flask import Blueprint, make_response, render_template, request
from werkzeug.wrappers import Response

from jobmanager.core.states import ATTENDED, Status, allowed
from jobmanager.http.context import open_to_all

blueprint = Blueprint("dashboard", __name__)

#: The allowed actions by status, so that the page needs no table of its own.
_LIFE = json.dumps({status: allowed(status) for status in Status})
#: The statuses in which a thread works on the job, unless its process has died.
_ATTENDED = json.dumps([status for status in Status if status in ATTENDED])


@blueprint.get("/")
@open_to_all
def page() -> Response:
    """Show the dashboard."""
    response = make_response(render_template("jobmanager/dashboard.html", life=_LIFE, attended=_ATTENDED))
    response.headers["Cache-Control"] = "no-cache"  # browsers revalidate their copy, so a new release shows at once
    response.add_etag()
    return response.make_conditional(request)
