"""The API in somebody's own application: under a prefix, twice if need be, and leaving alone what is not its own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from flask import Blueprint, Flask, Response, abort, request
from flask.testing import FlaskClient
from openapi_spec_validator import OpenAPIV31SpecValidator
from werkzeug.test import TestResponse

from jobmanager import Job, JobManager, Settings
from jobmanager.auth.tokens import Role, TokenFile
from jobmanager.http import blueprint, create_app
from jobmanager.registry import Registry


class Extra(Job):
    """A type that one of two managers has."""

    def start(self) -> None:
        """Do nothing."""


class Host:
    """An application of somebody else's, with ways of its own, that has two managers mounted."""

    def __init__(self, one: JobManager, two: JobManager) -> None:
        self.app = app = Flask("host", static_folder=None)
        app.config["MAX_CONTENT_LENGTH"] = 10
        app.register_error_handler(404, lambda error: ("the host's 404", 404))
        app.register_error_handler(413, lambda error: ("the host's 413", 413))
        app.register_error_handler(403, lambda error: ("the host's 403", 403))
        app.register_error_handler(Exception, lambda error: ("the host's error", 500))
        app.add_url_rule("/", view_func=self.home, methods=["GET", "POST"])
        app.add_url_rule("/broken", view_func=self.broken)
        app.register_blueprint(blueprint(one), url_prefix="/jm")
        app.register_blueprint(blueprint(two, name="second"), url_prefix="/deep/er")
        self.client = app.test_client()

    def home(self) -> str:
        return f"at home {len(request.get_data())}"

    def broken(self) -> Response:
        raise RuntimeError("the host's own mistake")


@pytest.fixture(scope="module")
def managers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[JobManager, JobManager]]:
    folder = tmp_path_factory.mktemp("embedding")
    types = Registry()
    types.register(Extra)
    one = JobManager(Settings(data_dir=folder / "one", slots=0), Registry())
    two = JobManager(Settings(data_dir=folder / "two", slots=0, tokens=folder / "tokens"), types)
    with one, two:
        one.submit("Simple")
        two.submit("Simple")
        yield one, two


@pytest.fixture(scope="module")
def host(managers: tuple[JobManager, JobManager]) -> Host:
    return Host(*managers)


@pytest.fixture(scope="module")
def secret(managers: tuple[JobManager, JobManager]) -> str:
    tokens = managers[1].settings.tokens
    assert tokens is not None
    return TokenFile(tokens).add("ann", Role.ADMIN, now=datetime.now(UTC))


@pytest.fixture
def client(host: Host) -> FlaskClient:
    return host.client


def authorized(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def test_every_route_is_there_under_the_prefix_and_nowhere_else(host: Host, managers: Any) -> None:
    def under(app: Flask, prefix: str) -> set[tuple[str, frozenset[str]]]:
        return {
            (rule.rule.removeprefix(prefix), frozenset(rule.methods))
            for rule in app.url_map.iter_rules()
            if rule.rule.startswith(f"{prefix}/") and rule.endpoint.split(".")[0] in ("jobmanager", "second")
        }

    ours = under(create_app(managers[0]), "")

    assert len(ours) > 25
    assert under(host.app, "/jm") == ours
    assert under(host.app, "/deep/er") == ours
    assert under(host.app, "") == {
        (f"{prefix}{rule}", methods) for prefix in ("/jm", "/deep/er") for rule, methods in ours
    }


def test_a_job_is_submitted_steered_and_looked_at_under_the_prefix(client: FlaskClient) -> None:
    submitted = client.post("/jm/submit", json={"Type": "Simple"})
    job_id = submitted.json["jobID"]

    assert submitted.status_code == 200
    assert client.get(f"/jm/halt/{job_id}").json["details"]["status"] == "Halted"
    assert client.post(f"/jm/jobs/{job_id}/stop", json={}).json["status"] in ("stopping", "stopped")
    assert client.get(f"/jm/jobs/{job_id}/changes").json["changes"][0]["actor"] == "127.0.0.1"
    assert client.get("/jm/health/ready").json == {"status": "ok"}
    assert client.get("/jm/job-types/Simple").json["type"] == "Simple"


@pytest.mark.parametrize("script_name", ["", "/behind/proxy"])
def test_locations_and_links_lead_back_under_the_prefix(client: FlaskClient, script_name: str) -> None:
    whole = {"SCRIPT_NAME": script_name}

    submitted = client.post("/jm/jobs", json={"type": "Simple"}, environ_overrides=whole)
    client.post("/jm/jobs", json={"type": "Simple"})
    page = client.get("/jm/jobs?limit=1", environ_overrides=whole)

    location = submitted.headers["Location"]
    link = re.match('<(.*?)>; rel="next"', page.headers["Link"])[1]
    assert location == f"{script_name}/jm/jobs/{submitted.json['id']}"
    assert link.startswith(f"{script_name}/jm/jobs?limit=1&cursor=")
    for address in (location, link):
        assert client.get(address.removeprefix(script_name)).status_code == 200
    for old in ("/jm/swagger/", "/jm/apidocs/index.html"):
        moved = client.get(old, environ_overrides=whole)
        assert moved.headers["Location"] == f"{script_name}/jm/apidocs/"


def test_errors_of_its_own_are_answered_in_its_own_way(client: FlaskClient) -> None:
    unknown = client.get("/jm/details/x")
    rest = client.get("/jm/jobs/x")
    foreign = client.post("/jm/jobs", json={}, headers={"Sec-Fetch-Site": "cross-site"})
    large = client.post("/jm/submit", data=b"x" * (1024 * 1024 + 1))
    headed = client.head("/jm/halt/x")

    assert (unknown.status_code, unknown.json) == (404, {"jobID": "x", "error": "There is no job 'x'."})
    assert rest.json["type"] == "urn:jobmanager:problem:unknown-job"
    assert (foreign.status_code, foreign.mimetype) == (403, "application/problem+json")
    assert large.json == {"jobID": "", "error": "The body is larger than 1048576 bytes."}
    assert headed.status_code == 405


def test_the_application_s_errors_limits_and_headers_stay_its_own(client: FlaskClient) -> None:
    small = client.post("/", data=b"x" * 10)
    large = client.post("/", data=b"x" * 11)
    foreign = client.post("/", data=b"", headers={"Sec-Fetch-Site": "cross-site"})

    assert (small.status_code, small.text) == (200, "at home 10")
    assert (large.status_code, large.text) == (413, "the host's 413")
    assert foreign.status_code == 200
    assert client.get("/nope").text == "the host's 404"
    assert client.get("/jm/nope").text == "the host's 404"
    assert client.get("/broken").text == "the host's error"
    for response in (small, large, client.get("/nope"), client.get("/broken")):
        assert "Content-Security-Policy" not in response.headers
        assert "Cache-Control" not in response.headers
    assert "Content-Security-Policy" in client.get("/jm/jobs").headers


def test_two_managers_in_one_application_know_nothing_of_each_other(
    client: FlaskClient, managers: tuple[JobManager, JobManager], secret: str
) -> None:
    one, two = (manager.submit("Simple").id for manager in managers)
    headers = authorized(secret)

    assert client.get(f"/jm/details/{one}").status_code == 200
    assert client.get(f"/jm/details/{two}").status_code == 404
    assert client.get(f"/deep/er/details/{two}", headers=headers).status_code == 200
    assert client.get(f"/deep/er/details/{one}", headers=headers).status_code == 404
    assert client.post("/jm/jobs", json={"type": "Extra"}).status_code == 422
    assert client.post("/deep/er/jobs", json={"type": "Extra"}, headers=headers).status_code == 202


def test_tokens_guard_the_manager_they_are_of_and_no_other_route(client: FlaskClient, secret: str) -> None:
    closed = client.get("/deep/er/jobs")
    classic = client.get("/deep/er/halt/x")

    assert closed.status_code == 401
    assert closed.json["type"] == "urn:jobmanager:problem:unauthenticated"
    assert classic.json["jobID"] == "x"
    assert client.get("/deep/er/health/live").status_code == 200
    assert client.get("/jm/jobs").status_code == 200
    assert client.get("/").status_code == 200
    job = client.post("/deep/er/jobs", json={"type": "Simple"}, headers=authorized(secret)).json
    changes = client.get(f"/deep/er/jobs/{job['id']}/changes", headers=authorized(secret)).json["changes"]
    assert changes[0]["actor"] == "ann"


@pytest.mark.parametrize("script_name", ["", "/behind/proxy"])
@pytest.mark.parametrize(("prefix", "has_extra"), [("/jm", False), ("/deep/er", True)])
def test_the_docs_are_those_of_the_prefix(
    client: FlaskClient, secret: str, prefix: str, has_extra: bool, script_name: str
) -> None:
    def get(path: str) -> TestResponse:
        mounted_at = {"SCRIPT_NAME": script_name}
        path = path.removeprefix(script_name)
        return client.get(path, environ_overrides=mounted_at, headers=authorized(secret), buffered=True)

    page = get(f"{script_name}{prefix}/apidocs/")
    addresses = re.findall(r'(?:src|href|data-specification)="(.*?)"', page.text)
    specification = get(f"{script_name}{prefix}/apispec.json").json

    assert page.status_code == 200
    assert len(addresses) == 5
    for address in addresses:
        assert address.startswith(f"{script_name}{prefix}/"), address
        assert get(address).status_code == 200, address
    assert specification["servers"] == [{"url": f"{script_name}{prefix}"}]
    assert {"/submit", "/jobs", "/health/live"} <= specification["paths"].keys()
    assert not [path for path in specification["paths"] if path.startswith(("/jm", "/deep"))]
    assert ("ExtraArgs" in specification["components"]["schemas"]) == has_extra
    assert list(OpenAPIV31SpecValidator(specification).iter_errors()) == []


def test_the_docs_at_the_root_name_the_root(quiet: FlaskClient) -> None:
    assert quiet.get("/apispec.json").json["servers"] == [{"url": "/"}]


def test_it_may_be_mounted_inside_a_blueprint_under_a_name_of_the_application_s(settings: Settings) -> None:
    app = Flask("host")
    outer = Blueprint("outer", __name__, url_prefix="/outer")
    with JobManager(replace(settings, slots=0), Registry()) as manager:
        outer.register_blueprint(blueprint(manager), url_prefix="/inner", name="renamed")
        app.register_blueprint(outer)
        client = app.test_client()

        submitted = client.post("/outer/inner/jobs", json={"type": "Simple"})

        assert submitted.headers["Location"].startswith("/outer/inner/jobs/")
        assert client.get("/outer/inner/details/x").json == {"jobID": "x", "error": "There is no job 'x'."}
        assert "/jobs" in client.get("/outer/inner/apispec.json").json["paths"]


def test_what_the_application_asks_of_every_request_holds_for_these_too(settings: Settings) -> None:
    app = Flask("host")
    app.before_request(lambda: abort(401) if request.path.startswith("/jm/") else None)
    app.register_blueprint(blueprint(JobManager(settings, Registry())), url_prefix="/jm")

    response = app.test_client().get("/jm/jobs")

    assert response.status_code == 401
    assert response.mimetype == "application/problem+json"


def test_two_of_the_same_name_are_refused_when_they_are_mounted(settings: Settings) -> None:
    app = Flask("host")
    app.register_blueprint(blueprint(JobManager(settings, Registry())), url_prefix="/one")

    with pytest.raises(ValueError, match="jobmanager"):
        app.register_blueprint(blueprint(JobManager(settings, Registry())), url_prefix="/two")


def test_the_guide_s_application_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "embedding.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("atexit.register", lambda close: None)
    namespace: dict[str, Any] = {"__name__": "guide"}

    exec(code, namespace)

    client = namespace["app"].test_client()
    try:
        job = client.post("/jobs-api/jobs", json={"type": "Simple", "args": {"steps": 0}})
        assert job.status_code == 202
        assert job.headers["Location"].startswith("/jobs-api/jobs/")
        assert client.get("/").text == "My own application"
    finally:
        namespace["manager"].close()
