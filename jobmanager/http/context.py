"""Find the mount, the manager, the token and the actor of a request, and build addresses.

An application may mount the API several times, each time with another manager. The endpoint of a request shows which
of these mounts the request is for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar, cast

from flask import current_app, g, request, url_for
from werkzeug.routing import BaseConverter

from jobmanager.auth.tokens import Role, Token, TokenFile
from jobmanager.core import hosts
from jobmanager.errors import Forbidden
from jobmanager.http.ranges import FilesBlueprint
from jobmanager.manager import JobManager
from jobmanager.visible_jobs import VisibleJobs

#: The key of the JobManager in `app.extensions`, if `create_app` made the application.
EXTENSION = "jobmanager"

#: Most requests of a process that may wait at once. Each holds one of its 16 threads. Streams have their own limit.
MOST_WAITS = 4

#: Methods whose bodies are ignored and not read.
METHODS_WITHOUT_BODY = ("GET", "HEAD", "OPTIONS")
#: Classic routes that change jobs, even if requested with GET.
_CHANGING_VIEWS = frozenset({"classic.halt", "classic.resume", "classic.stop"})

View = TypeVar("View", bound=Callable[..., Any])

_OPEN = "is_open_to_all"
_OPTIONAL_TOKEN = "takes_optional_token"
#: Endpoints of the pages' static files, which need no token.
_STATIC = frozenset({"static", "docs.static"})


class Mount(FilesBlueprint):
    """The whole API of one manager, as a blueprint."""

    def __init__(self, manager: JobManager, name: str) -> None:
        super().__init__(name, "jobmanager.http", static_folder="static", template_folder="templates")
        self.manager = manager
        tokens = manager.settings.tokens
        #: None: there are no tokens, and every client that reaches the service may do everything
        self.tokens = None if tokens is None else TokenFile(tokens)
        #: the hosts that requests may be addressed to, see Settings
        self.hosts = hosts.parse_all(manager.settings.hosts)
        #: limits how many requests wait at once: each holds a thread, and other requests need threads, too
        self.wait_slots = threading.BoundedSemaphore(MOST_WAITS)
        #: held while a batch is parsed and stored: two batches at once might not fit into memory
        self.batch_lock = threading.Lock()
        #: cache of OpenAPI descriptions, by the name of the blueprint and the job types that they show
        self.specifications: dict[tuple[str, frozenset[str]], dict[str, Any]] = {}


def open_to_all(view: View) -> View:
    """Mark a view that is served without a token. Use it only for views that show nothing of any job."""
    setattr(view, _OPEN, True)
    return view


def open_with_optional_token(view: View) -> View:
    """Mark a view that is served without a token. If a token is sent, it is checked, and the view may show more."""
    setattr(view, _OPTIONAL_TOKEN, True)
    return open_to_all(view)


def is_open(view: Callable[..., Any]) -> bool:
    """Return True if a view is served without a token."""
    return getattr(view, _OPEN, False)


def is_open_request() -> bool:
    """Return True if the request is served without checking a token."""
    if endpoint() in _STATIC:
        return True
    view = current_app.view_functions[str(request.endpoint)]
    return is_open(view) and not (getattr(view, _OPTIONAL_TOKEN, False) and "Authorization" in request.headers)


def is_change_request() -> bool:
    """Return True if the request may change jobs."""
    return request.method not in METHODS_WITHOUT_BODY or endpoint() in _CHANGING_VIEWS


def current_mount() -> Mount:
    """Return the mount that the request is for."""
    return target().mount


def endpoint() -> str:
    """Return the endpoint without the name of the mount; "" if the request matches no route."""
    return target().endpoint if request.endpoint is not None else ""


class Target(NamedTuple):
    """The mount and the endpoint that a request is for."""

    mount: Mount
    #: the name under which the mount is registered
    name: str
    endpoint: str


def target() -> Target:
    """Return the mount and the endpoint of the request; cached for the request."""
    found = g.get("jobmanager_target")
    if found is None:
        found = g.jobmanager_target = _find_target()
    return cast(Target, found)


def _find_target() -> Target:
    for name in request.blueprints:
        if isinstance(found := current_app.blueprints[name], Mount):
            return Target(found, name, str(request.endpoint).removeprefix(f"{name}."))
    raise RuntimeError("this request is not for the job manager")


def address_of(endpoint: str, **values: Any) -> str:
    """Return the path of a route, with the prefix under which the request reached the API."""
    return url_for(f"{target().name}.{endpoint}", **values)


class JobIdConverter(BaseConverter):
    """URL converter for job ids: any text except `batch`, `halt`, `resume` and `stop`, which are routes."""

    regex = "(?!(?:batch|halt|resume|stop)(?:/|$))[^/]+"


def manager() -> VisibleJobs:
    """Return the manager of the request, limited to the job types that its token may see."""
    whole, sent = current_mount().manager, token()
    return whole if sent is None or sent.types is None else whole.visible_to(sent.types)


def token() -> Token | None:
    """Return the token of the request; None if there are no tokens or the route needs none."""
    return cast("Token | None", g.get("jobmanager_token"))


def token_check() -> Callable[[], bool]:
    """Return a function that returns True while the token of this request is valid. Without a token, it returns True.

    A stream may call the function after the request has ended. The function raises TokensUnavailable.
    """
    tokens, sent = current_mount().tokens, token()
    if tokens is None or sent is None:
        return lambda: True
    return lambda: tokens.holds(sent, now=datetime.now(UTC))


def actor() -> str:
    """Return the name to store with a change: the token's name, or else the client's address."""
    sent = token()
    return sent.name if sent is not None else request.remote_addr or "local"


def require(role: Role) -> None:
    """Raise Forbidden if the request has a token whose role does not suffice."""
    sent = token()
    if sent is not None and not sent.role.includes(role):
        raise Forbidden(sent.name, sent.role, role)
