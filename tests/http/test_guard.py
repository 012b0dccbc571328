"""Which requests are refused before a route runs: of other machines, for other hosts, and of other sites' pages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import EnvironBuilder, TestResponse, run_wsgi_app

from jobmanager import JobManager, Settings
from jobmanager.auth.tokens import Role, TokenFile
from jobmanager.http import create_app, refusal_log
from jobmanager.registry import Registry

NOBODY = "0190f3a4-5b6c-7d8e-9fa0-b1c2d3e4f506"
POWERSHELL = "Mozilla/5.0 (Windows NT; Windows NT 10.0; en-US) WindowsPowerShell/5.1.19041.1"
BROWSER = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"


@dataclass(frozen=True, kw_only=True)
class Route:
    """A route of each kind that the guard tells apart."""

    method: str
    path: str
    changes_jobs: bool = False
    is_probe: bool = False


ROUTES = {
    "classic GET": Route(method="GET", path=f"/stop/{NOBODY}", changes_jobs=True),
    "classic POST": Route(method="POST", path=f"/halt/{NOBODY}", changes_jobs=True),
    "submit": Route(method="POST", path="/submit", changes_jobs=True),
    "bulk": Route(method="POST", path="/jobs/stop", changes_jobs=True),
    "list": Route(method="GET", path="/jobs"),
    "details": Route(method="GET", path=f"/details/{NOBODY}"),
    "page": Route(method="GET", path="/"),
    "docs": Route(method="GET", path="/apidocs/"),
    "specification": Route(method="GET", path="/apispec.json"),
    "file": Route(method="GET", path="/static/apidocs.js"),
    "metrics": Route(method="GET", path="/metrics"),
    "live": Route(method="GET", path="/health/live", is_probe=True),
    "ready": Route(method="GET", path="/health/ready", is_probe=True),
}


def ask(client: FlaskClient, route: Route, **environ: str) -> TestResponse:
    """Ask a route, with these variables in the environment of the request."""
    # A body that no route accepts: what is not refused by the guard changes nothing either.
    body = b"{" if route.method == "POST" else None
    return client.open(route.path, method=route.method, data=body, environ_overrides=environ, buffered=True)


# The client's address and the Host

MODES: dict[str, dict[str, Any]] = {
    "private": {},
    "private with hosts": {"hosts": ("jobs.lan", "[fd00::7]:8080")},
    "insecure": {"insecure": True},
    "insecure with hosts": {"insecure": True, "hosts": ("jobs.lan", "[fd00::7]:8080")},
    "tokens": {"tokens": "tokens"},
    "tokens with hosts": {"tokens": "tokens", "hosts": ("jobs.lan", "[fd00::7]:8080")},
}
#: Modes in which any Host will do.
ANY_HOST = ("insecure", "tokens")
LOCAL = ["localhost", "LocalHost:8080", "localhost.", "a.localhost:1", "127.0.0.1:8080", "127.8.8.8", "[::1]:80"]
LOCAL += ["[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]"]
BOUND = ["198.51.100.7", "198.51.100.7:8080"]
LISTED = ["jobs.lan", "JOBS.lan:8080", "[fd00:0::7]:8080"]
FOREIGN = ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "evillocalhost", "192.0.2.7", "0.0.0.0"]
FOREIGN += ["[::2]", "[fd00::7]", "[fd00::7]:80", "", "a b", "localhost:x", "http://localhost", "a@localhost", "[::1"]


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, FlaskClient]]:
    """A client for each mode; with tokens it sends one of an admin."""
    folder = tmp_path_factory.mktemp("guard")
    secret = TokenFile(folder / "tokens").add("ada", Role.ADMIN, now=datetime.now(UTC))
    managers, clients = [], {}
    for mode, how in MODES.items():
        tokens = {"tokens": folder / "tokens"} if "tokens" in how else {}
        manager = JobManager(Settings(data_dir=folder / "var", slots=0, **how | tokens), Registry())
        managers.append(manager)
        clients[mode] = create_app(manager).test_client()
        if tokens:
            clients[mode].environ_base["HTTP_AUTHORIZATION"] = f"Bearer {secret}"
        clients[mode].get("/jobs")  # opens the store
    yield clients
    for manager in managers:
        manager.close()


@pytest.mark.parametrize(("mode", "host"), list(product(MODES, [*LOCAL, *BOUND, *LISTED, *FOREIGN])))
def test_only_hosts_that_the_service_answers_for_are_served(
    services: dict[str, FlaskClient], mode: str, host: str
) -> None:
    is_known = host in (*LOCAL, *BOUND) or (host in LISTED and "hosts" in mode) or mode in ANY_HOST

    for route in ROUTES.values():
        answer = ask(services[mode], route, HTTP_HOST=host, SERVER_NAME="198.51.100.7")

        assert (answer.status_code != 421) == (is_known or route.is_probe), f"{route}: {answer.text}"


def test_a_wrong_host_is_told_with_the_setting_in_the_shape_of_the_route(services: dict[str, FlaskClient]) -> None:
    rest, classic = (
        ask(services["private"], ROUTES[name], HTTP_HOST="evil.example") for name in ("bulk", "classic GET")
    )

    detail = "The service does not answer for the host 'evil.example'. Use localhost or 127.0.0.1, or add the host to "
    assert rest.mimetype == "application/problem+json"
    assert (rest.json["title"], rest.json["detail"]) == ("Misdirected Request", f"{detail}JOBMANAGER_HOSTS.")
    assert classic.json == {"jobID": NOBODY, "error": f"{detail}JOBMANAGER_HOSTS."}


def test_a_name_that_the_server_took_from_the_host_header_is_no_bound_address(
    services: dict[str, FlaskClient],
) -> None:
    answer = ask(services["private"], ROUTES["list"], HTTP_HOST="evil.example", SERVER_NAME="evil.example")

    assert answer.status_code == 421


@pytest.mark.parametrize(
    ("protocol", "mode", "status"),
    [(protocol, mode, status) for protocol, status in (("HTTP/1.0", 200), ("HTTP/1.1", 400)) for mode in MODES],
)
def test_a_request_without_a_host_is_refused_unless_it_is_of_http_1_0(
    services: dict[str, FlaskClient], protocol: str, mode: str, status: int
) -> None:
    client = services[mode]
    environ = EnvironBuilder("/jobs", environ_base=client.environ_base).get_environ()
    del environ["HTTP_HOST"]

    _, answered, _ = run_wsgi_app(client.application, environ | {"SERVER_PROTOCOL": protocol}, buffered=True)

    assert int(answered.split()[0]) == status


@pytest.mark.parametrize(
    ("mode", "address"),
    list(product(MODES, ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1", "", "192.0.2.2", "fd00::1", "x"])),
)
def test_without_tokens_only_this_machine_is_served_whatever_is_bound(
    services: dict[str, FlaskClient], mode: str, address: str
) -> None:
    is_local = address == "" or address.startswith(("127.", "::"))

    for route in ROUTES.values():
        answer = ask(services[mode], route, REMOTE_ADDR=address)

        is_refused = answer.status_code == 403 and "only this machine" in answer.text
        assert is_refused == (mode.startswith("private") and not is_local and not route.is_probe), route
        assert not is_refused or re.search("JOBMANAGER_TOKENS.*JOBMANAGER_INSECURE=1", answer.text)


def test_a_server_that_gives_no_client_address_is_not_trusted(services: dict[str, FlaskClient]) -> None:
    environ = EnvironBuilder("/jobs").get_environ()
    environ.pop("REMOTE_ADDR", None)

    _, status, _ = run_wsgi_app(services["private"].application, environ, buffered=True)

    assert status.startswith("403")


@pytest.mark.parametrize("path", ["/apidocs", "//apidocs"])
def test_no_redirect_leads_to_the_host_that_the_request_names(services: dict[str, FlaskClient], path: str) -> None:
    for mode in ANY_HOST:
        answer = services[mode].get(environ_overrides={"HTTP_HOST": "evil.example", "PATH_INFO": path})

        assert answer.status_code == 308
        assert re.match("/[^/]", answer.headers["Location"])


# Pages of other sites

SITES = [None, "same-origin", "none", "same-site", "cross-site", "Same-Origin", "bogus", ""]
OWN_ORIGINS = ["http://localhost:8080", "https://localhost:8080", "http://LOCALHOST:8080"]
ORIGINS = [None, *OWN_ORIGINS, "http://localhost", "http://localhost:9", "https://evil.example", "null", "x"]
OWN_REFERER, FOREIGN_REFERER = "http://localhost:8080/?job=1", "http://evil.example/localhost:8080"
REFERERS = [None, OWN_REFERER, FOREIGN_REFERER]
CHANGES = {name: route for name, route in ROUTES.items() if route.changes_jobs}
#: User agents, and the languages that they ask for.
AGENTS = [("curl/8.5.0", None), (POWERSHELL, None), (BROWSER, "de")]
#: Without the metrics, which take long to count for so many requests: see below.
READS = {name: route for name, route in ROUTES.items() if not route.changes_jobs and name != "metrics"}


def headers(**values: str | None) -> dict[str, str]:
    """Return the environment of a request to localhost:8080 with these headers, without those that are None."""
    given = {f"HTTP_{name}": value for name, value in values.items() if value is not None}
    return {"HTTP_HOST": "localhost:8080"} | given


@pytest.mark.parametrize(("name", "site"), list(product(CHANGES, SITES)))
def test_only_our_own_pages_and_clients_that_are_no_browsers_change_jobs(
    services: dict[str, FlaskClient], name: str, site: str | None
) -> None:
    route = CHANGES[name]
    for origin, referer, (agent, language) in product(ORIGINS, REFERERS, AGENTS):
        sent = headers(SEC_FETCH_SITE=site, ORIGIN=origin, REFERER=referer, USER_AGENT=agent, ACCEPT_LANGUAGE=language)
        if site is not None:
            is_own = site in ("same-origin", "none")
        elif origin is not None:
            is_own = origin in OWN_ORIGINS
        elif referer is not None:
            is_own = referer == OWN_REFERER
        else:
            # Any page can have Referer left out. For a POST browsers send Origin, if nothing else.
            is_own = route.method == "POST" or language is None

        for mode in ("private", "insecure", "tokens"):
            answer = ask(services[mode], route, **sent)

            # No page of another site can send a token.
            is_safe = mode == "tokens" and (site, origin, referer) == (None, None, None)
            assert (answer.status_code != 403) == (is_own or is_safe), f"{mode} {sent}: {answer.text}"


@pytest.mark.parametrize(("name", "site"), list(product(READS, SITES)))
def test_pages_of_other_sites_may_link_here_and_load_nothing_from_here(
    services: dict[str, FlaskClient], name: str, site: str | None
) -> None:
    for mode, dest, origin in product(
        [None, "navigate", "no-cors", "cors"],
        [None, "document", "iframe", "embed", "image"],
        [None, "http://localhost:8080", "https://evil.example"],
    ):
        sent = headers(SEC_FETCH_SITE=site, SEC_FETCH_MODE=mode, SEC_FETCH_DEST=dest, ORIGIN=origin)
        if site is None:
            may_read = origin in (None, "http://localhost:8080")
        else:
            follows_link = mode == "navigate" and dest in (None, "document")
            may_read = site in ("same-origin", "none") or follows_link

        answer = ask(services["insecure"], READS[name], **sent)

        assert (answer.status_code != 403) == may_read, sent


def test_pages_of_other_sites_may_not_load_the_metrics(services: dict[str, FlaskClient]) -> None:
    ours, foreign = (
        ask(services["insecure"], ROUTES["metrics"], **headers(SEC_FETCH_SITE=site, SEC_FETCH_MODE="no-cors"))
        for site in ("same-origin", "cross-site")
    )

    assert (ours.status_code, foreign.status_code) == (200, 403)


def test_an_origin_with_its_default_port_is_that_of_a_host_without_one(services: dict[str, FlaskClient]) -> None:
    pairs = [("jobs.lan", "https://jobs.lan"), ("jobs.lan:443", "https://jobs.lan"), ("jobs.lan", "http://jobs.lan:80")]
    pairs += [("[fd00::1]:8080", "http://[fd00::1]:8080")]

    for host, origin in pairs:
        answer = ask(services["insecure"], ROUTES["bulk"], HTTP_HOST=host, HTTP_ORIGIN=origin)

        assert answer.status_code == 400, (host, origin)


# Bodies of GET requests


class _NeverSent:
    """The body of a client that does not send it: reading it would wait for ever."""

    def read(self, *_: int) -> bytes:
        raise AssertionError("the body was read")

    readline = read


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
@pytest.mark.parametrize("how", ["chunked", "of a length", "of a huge length"])
def test_the_body_of_a_request_that_has_no_use_for_one_is_ignored(
    services: dict[str, FlaskClient], method: str, how: str
) -> None:
    length = {"of a length": {"CONTENT_LENGTH": "10"}, "of a huge length": {"CONTENT_LENGTH": "9999999999"}}
    body = length.get(how, {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True})
    for path in ("/jobs", "/health/live", f"/details/{NOBODY}", "/"):
        environ = EnvironBuilder(path, method=method, environ_base={"REMOTE_ADDR": "127.0.0.1"}).get_environ()

        _, status, _ = run_wsgi_app(
            services["private"].application, environ | body | {"wsgi.input": _NeverSent()}, buffered=True
        )

        assert status.split()[0] in ("200", "404"), path


# What is refused leaves a trace


class Clock:
    """A clock that a test sets."""

    seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(refusal_log, "limit", refusal_log.Limit(clock))
    return clock


def test_a_refused_request_leaves_one_line_without_its_token(
    services: dict[str, FlaskClient], clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    asked = {"headers": {"Authorization": "Bearer jm_wrong"}, "environ_overrides": {"REMOTE_ADDR": "192.0.2.7"}}

    services["tokens"].get("/jobs/a%0Ab%1b\u202e?token=jm_wrong", **asked)
    ask(services["private"], ROUTES["list"], HTTP_HOST="evil\nexample")
    ask(services["private"], ROUTES["submit"], HTTP_SEC_FETCH_SITE="cross-site")
    ask(services["private"], ROUTES["list"])

    lines = [(record.name, record.levelname, record.getMessage()) for record in caplog.records]
    assert lines == [
        ("jobmanager.http.refusal_log", "WARNING", message)
        for message in (
            r"'GET /jobs/a\nb\x1b\u202e' from 192.0.2.7 was refused with 401. The token is not valid.",
            r"'GET /jobs' from 127.0.0.1 was refused with 421. The service does not answer for the host "
            r"'evil\nexample'. Use localhost or 127.0.0.1, or add the host to JOBMANAGER_HOSTS.",
            "'POST /submit' from 127.0.0.1 was refused with 403. A page of another site may not change jobs.",
        )
    ]


def test_a_flood_of_refused_requests_is_one_line_a_second_that_counts_the_rest(
    services: dict[str, FlaskClient], clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    def flood(count: int) -> None:
        for _ in range(count):
            ask(services["private"], ROUTES["list"], HTTP_HOST="evil.example")

    flood(5)
    ask(services["private"], ROUTES["list"], REMOTE_ADDR="192.0.2.7")
    clock.seconds += 0.999
    flood(3)
    clock.seconds += 0.001
    flood(1)
    clock.seconds += 1
    flood(1)

    statuses = [re.search(r"with (\d+)", record.getMessage())[1] for record in caplog.records]
    assert statuses == ["421", "403", "421", "421"]
    counted = [re.search(r"(\d+) more", record.getMessage()) for record in caplog.records]
    assert [found and found[1] for found in counted] == [None, None, "7", None]
