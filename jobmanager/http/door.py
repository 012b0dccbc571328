"""What routes share: the way to the manager, the name of who asks, and addresses.

The API may be mounted several times, each time for a manager of its own. Which one is meant, the request tells.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar, cast

from flask import current_app, g, request, url_for
from werkzeug.routing import BaseConverter

from jobmanager import hosts
from jobmanager.errors import Forbidden
from jobmanager.http.requests import Files
from jobmanager.http.restricted import Restricted
from jobmanager.manager import JobManager
from jobmanager.tokens import Role, Token, TokenFile

#: The key of the JobManager among the extensions of an application that `create_app` made.
EXTENSION = "jobmanager"

#: How many requests of a process may have themselves kept waiting at once, beside the streams: of its 16 threads.
MOST_WAITS = 4

View = TypeVar("View", bound=Callable[..., Any])

_OPEN = "is_open_to_all"
_OPEN_IN_PART = "is_open_in_part"
#: Files of pages, which nobody needs a token for.
_STATIC = frozenset({"static", "docs.static"})


class Mount(Files):
    """The whole API of one manager."""

    def __init__(self, manager: JobManager, name: str) -> None:
        super().__init__(name, "jobmanager.http", static_folder="static", template_folder="templates")
        self.manager = manager
        tokens = manager.settings.tokens
        #: None: whoever reaches the service may do everything
        self.tokens = None if tokens is None else TokenFile(tokens)
        #: hosts that requests may name, see Settings
        self.hosts = hosts.parse_all(manager.settings.hosts)
        #: places of requests that have themselves kept waiting: each takes a thread, and some must be left for others
        self.waits = threading.BoundedSemaphore(MOST_WAITS)
        #: held while a batch is read and stored: two of them at once might not fit into memory
        self.batch = threading.Lock()
        #: OpenAPI descriptions, by the name under which the blueprint is registered and the job types that they show
        self.specifications: dict[tuple[str, frozenset[str]], dict[str, Any]] = {}


def open_to_all(view: View) -> View:
    """Have a view be served without a token: it shows nothing of any job."""
    setattr(view, _OPEN, True)
    return view


def open_in_part(view: View) -> View:
    """Serve a view without a token too; a token that is sent is checked, and the view may show it more."""
    setattr(view, _OPEN_IN_PART, True)
    return open_to_all(view)


def is_open(view: Callable[..., Any]) -> bool:
    """Tell whether a view is served without a token."""
    return getattr(view, _OPEN, False)


def is_open_request() -> bool:
    """Tell whether what is asked for is served without a token."""
    if endpoint() in _STATIC:
        return True
    view = current_app.view_functions[str(request.endpoint)]
    return is_open(view) and not (getattr(view, _OPEN_IN_PART, False) and "HTTP_AUTHORIZATION" in request.environ)


def mounted() -> Mount:
    """Return what the request is for."""
    return called().mount


def endpoint() -> str:
    """Return the endpoint without the name of what it is mounted as; "" where there is no such route."""
    return called().endpoint if request.endpoint is not None else ""


class Called(NamedTuple):
    """What a request is for."""

    mount: Mount
    #: under which it is registered
    name: str
    endpoint: str


def called() -> Called:
    """Return what is asked for; found once for each request."""
    found = g.get("jobmanager_called")
    if found is None:
        found = g.jobmanager_called = _find_called()
    return cast(Called, found)


def _find_called() -> Called:
    for name in request.blueprints:
        if isinstance(found := current_app.blueprints[name], Mount):
            return Called(found, name, str(request.endpoint).removeprefix(f"{name}."))
    raise RuntimeError("this is no request for the job manager")


def address_of(endpoint: str, **values: Any) -> str:
    """Return the address of a route, under the prefix that the request came by."""
    return url_for(f"{called().name}.{endpoint}", **values)


class JobIdConverter(BaseConverter):
    """The part of a path that names a job: any text but the names of routes that stand in the same place."""

    regex = "(?!(?:batch|halt|resume|stop)(?:/|$))[^/]+"


def manager() -> JobManager:
    """Return the JobManager, as far as whoever asks may see it."""
    whole, asking = mounted().manager, token()
    if asking is None or asking.types is None:
        return whole
    return cast(JobManager, Restricted(whole, asking.types))


def token() -> Token | None:
    """Return the token of whoever asks; None where there are no tokens, or none is needed."""
    return cast("Token | None", g.get("jobmanager_token"))


def still_let_in() -> Callable[[], bool]:
    """Return what tells, after the request too, whether whoever asks would still be let in."""
    tokens, asking = mounted().tokens, token()
    if tokens is None or asking is None:
        return lambda: True
    return lambda: tokens.holds(asking, now=datetime.now(UTC))


def actor() -> str:
    """Return who asks, to be kept with the change: the token's name, or else the client's address."""
    asking = token()
    return asking.name if asking is not None else request.remote_addr or "local"


def require(role: Role) -> None:
    """Raise Forbidden if whoever asks has a token whose role does not suffice."""
    asking = token()
    if asking is not None and not asking.role.includes(role):
        raise Forbidden(asking.name, asking.role, role)
