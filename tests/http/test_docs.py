"""The API docs: every route, every answer, with examples that are true, and nothing from a foreign host."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import Any

import pytest
from flask.testing import FlaskClient
from jsonschema import Draft202012Validator, FormatChecker
from openapi_spec_validator import OpenAPIV31SpecValidator
from pydantic import BaseModel, Field
from werkzeug.test import TestResponse

from jobmanager import Job, JobManager, Settings
from jobmanager.auth.tokens import Role, TokenFile
from jobmanager.core.states import FINAL, Status
from jobmanager.core.values import JobRecord, Selection
from jobmanager.http import create_app
from jobmanager.registry import Registry

#: What is not documented: files of the pages, the docs themselves, and ways to them.
UNDOCUMENTED = {
    "jobmanager.static",
    "jobmanager.docs.static",
    "jobmanager.dashboard.page",
    "jobmanager.docs.page",
    "jobmanager.docs.page_as_file",
    "jobmanager.docs.specification",
    "jobmanager.classic.swagger",
}

Operation = tuple[str, str]
#: A method, a path and a status that the docs name.
Documented = tuple[str, str, int]

#: What the docs have to name, written down so that an answer that vanishes from them is missed.
STEERING = (200, 403, 404, 409, 500, 503)
ASKING = (200, 202, 400, 403, 404, 409, 412, 413, 422, 500, 503)
ASKING_MANY = (200, 400, 403, 413, 422, 500, 503)
ANSWERS: dict[Operation, tuple[int, ...]] = {
    ("POST", "/submit"): (200, 400, 403, 413, 429, 500, 503),
    ("GET", "/halt/{job_id}"): STEERING,
    ("POST", "/halt/{job_id}"): STEERING,
    ("GET", "/resume/{job_id}"): STEERING,
    ("POST", "/resume/{job_id}"): STEERING,
    ("GET", "/stop/{job_id}"): STEERING,
    ("POST", "/stop/{job_id}"): STEERING,
    ("GET", "/details/{job_id}"): (200, 404, 500, 503),
    ("POST", "/jobs"): (202, 400, 403, 413, 422, 429, 500, 503),
    ("POST", "/jobs/batch"): (202, 400, 403, 413, 422, 429, 500, 503),
    ("GET", "/jobs"): (200, 422, 500, 503),
    ("GET", "/jobs/{job_id}"): (200, 304, 404, 500, 503),
    ("GET", "/jobs/{job_id}/changes"): (200, 404, 500, 503),
    ("GET", "/jobs/{job_id}/log"): (200, 404, 422, 500, 503),
    ("POST", "/jobs/{job_id}/halt"): ASKING,
    ("POST", "/jobs/{job_id}/resume"): ASKING,
    ("POST", "/jobs/{job_id}/stop"): ASKING,
    ("POST", "/jobs/halt"): ASKING_MANY,
    ("POST", "/jobs/resume"): ASKING_MANY,
    ("POST", "/jobs/stop"): ASKING_MANY,
    ("GET", "/events"): (200, 422, 500, 503),
    ("GET", "/jobs/{job_id}/events"): (200, 204, 404, 422, 500, 503),
    ("GET", "/job-types"): (200,),
    ("GET", "/job-types/{name}"): (200, 404),
    ("GET", "/datasets"): (200,),
    ("GET", "/jobs/{job_id}/artifact"): (200, 206, 304, 404, 416, 500, 503),
    ("GET", "/metrics"): (200, 500),
    ("GET", "/health/live"): (200,),
    ("GET", "/health/ready"): (200, 500, 503),
}
#: What needs no token.
OPEN = {("GET", "/health/live"), ("GET", "/health/ready")}
#: What may be answered wherever a token is needed: there is none, it has asked too often, it cannot be checked.
ANSWERS |= {
    operation: tuple(sorted({*statuses, 401, 429, 503}))
    for operation, statuses in ANSWERS.items()
    if operation not in OPEN
}
EVERY_ANSWER = [(method, path, status) for (method, path), statuses in ANSWERS.items() for status in statuses]


@pytest.fixture(scope="module")
def specification(quiet: FlaskClient) -> dict[str, Any]:
    return dict(quiet.get("/apispec.json").json)


def operations(specification: dict[str, Any]) -> Iterator[tuple[Operation, dict[str, Any]]]:
    for path, methods in specification["paths"].items():
        for method, operation in methods.items():
            yield (method.upper(), path), operation


def bodies(specification: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the content of every body and of every answer that has one, with a name for it."""
    for (method, path), operation in operations(specification):
        contents = {"body": operation.get("requestBody", {}).get("content", {})}
        contents |= {status: answer.get("content", {}) for status, answer in operation["responses"].items()}
        for which, content in contents.items():
            for media_type, described in content.items():
                yield f"{method} {path} {which} {media_type}", described


def examples_of(content: dict[str, Any]) -> list[Any]:
    """Return the examples of a body or an answer; there has to be one."""
    shown = [content["example"]] if "example" in content else [each["value"] for each in content["examples"].values()]
    assert shown
    return shown


def validator(specification: dict[str, Any], schema: dict[str, Any]) -> Draft202012Validator:
    whole = schema | {"components": specification["components"]}
    return Draft202012Validator(whole, format_checker=FormatChecker())


def test_the_specification_is_valid_openapi(specification: dict[str, Any]) -> None:
    errors = [error.message for error in OpenAPIV31SpecValidator(specification).iter_errors()]

    assert errors == []
    assert specification["openapi"].startswith("3.")


def test_every_route_is_documented_and_no_other(quiet: FlaskClient, specification: dict[str, Any]) -> None:
    rules = [rule for rule in quiet.application.url_map.iter_rules() if rule.endpoint not in UNDOCUMENTED]
    routes = {
        (method, re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule))
        for rule in rules
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }

    assert {operation for operation, _ in operations(specification)} == routes


def test_every_operation_has_a_summary_a_text_and_a_tag_that_is_explained(specification: dict[str, Any]) -> None:
    tags = {tag["name"] for tag in specification["tags"] if tag["description"]}

    for name, operation in operations(specification):
        assert operation["summary"].endswith("."), name
        assert operation["description"].endswith("."), name
        assert set(operation["tags"]) <= tags, name
        for parameter in operation.get("parameters", []):
            assert parameter["description"], name


def test_every_answer_is_documented_with_what_it_means(specification: dict[str, Any]) -> None:
    documented = {
        name: tuple(sorted(int(status) for status in operation["responses"]))
        for name, operation in operations(specification)
    }

    assert documented == ANSWERS
    for name, operation in operations(specification):
        for status, answer in operation["responses"].items():
            assert answer["description"].endswith("."), f"{name} {status}"
            assert ("Retry-After" in answer.get("headers", {})) == (status in ("429", "503")), f"{name} {status}"


def test_every_body_has_examples_that_its_schema_allows(specification: dict[str, Any]) -> None:
    seen = 0
    for name, content in bodies(specification):
        for example in examples_of(content):
            errors = validator(specification, content["schema"]).iter_errors(example)
            assert [error.message for error in errors] == [], name
            seen += 1
    assert seen > 40


@pytest.mark.parametrize(
    "body",
    [
        {"Type": "Simpel"},
        {"args": {}},
        {"Type": "Export"},
        {"Type": "Simple", "args": []},
        {"Type": "Simple", "args": {"steps": -1}},
    ],
)
def test_the_schema_of_a_submission_refuses_what_the_route_refuses(
    quiet: FlaskClient, specification: dict[str, Any], body: dict[str, Any]
) -> None:
    schema = {"$ref": "#/components/schemas/ClassicSubmission"}

    assert not validator(specification, schema).is_valid(body)
    assert quiet.post("/submit", json=body).status_code == 400


def test_the_arguments_of_every_job_type_are_described(settings: Settings, types: Registry) -> None:
    @types.register
    class Paint(Job):
        """Paints a fence."""

        class Args(BaseModel):
            colour: str = Field(description="The colour of the fence.")

        def start(self) -> None:
            """Do nothing."""

    specification = create_app(JobManager(settings, types)).test_client().get("/apispec.json").json

    schemas = specification["components"]["schemas"]
    assert schemas["PaintSubmission"]["description"] == "Paints a fence."
    assert schemas["PaintSubmission"]["required"] == ["Type", "args"]
    assert schemas["PaintArgs"]["properties"]["colour"]["description"] == "The colour of the fence."
    assert {"$ref": "#/components/schemas/PaintSubmission"} in schemas["ClassicSubmission"]["oneOf"]
    for name in ("ExportArgs", "SimpleArgs"):
        for field, described in schemas[name]["properties"].items():
            assert described["description"], f"{name}.{field}"


class Note(Job):
    """Writes a file of ten bytes."""

    def start(self) -> dict[str, str]:
        """Write it."""
        (self.workdir / "note").write_bytes(b"0123456789")
        return {"file": "note", "sha256": "5ea1"}


class Deaf(Job):
    """Reaches no checkpoint before it is forced."""

    def start(self) -> None:
        """Sleep in Python code, so that force ends it."""
        while True:
            time.sleep(0.01)


class Broken(JobManager):
    """Has a mistake everywhere."""

    def _ask(self, *_: Any, **__: Any) -> JobRecord:
        raise RuntimeError("a mistake")

    submit = submit_all = halt = resume = stop = get = ping = _ask  # type: ignore[assignment]
    halt_all = resume_all = stop_all = find = changes = log = follow = metrics = _ask  # type: ignore[assignment]


@pytest.fixture(scope="module")
def provoke(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return what makes the service answer as the docs say, with the id of a fitting job."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "away" / "jobmanager.db").mkdir(parents=True)
    types = Registry()
    types.register(Note)
    types.register(Deaf)
    managers = {
        "whole": JobManager(Settings(data_dir=folder / "whole"), types),
        "full": JobManager(Settings(data_dir=folder / "full", queue_limit=1, slots=0), types),
        "away": JobManager(Settings(data_dir=folder / "away"), types),
        "broken": Broken(Settings(data_dir=folder / "broken"), types),
        "guarded": JobManager(Settings(data_dir=folder / "guarded", tokens=folder / "tokens", slots=0), types),
        "unguarded": JobManager(Settings(data_dir=folder / "unguarded", tokens=folder / "no tokens"), types),
    }
    clients = {name: create_app(manager).test_client() for name, manager in managers.items()}
    busy = TokenFile(folder / "tokens").add("busy", Role.ADMIN, now=datetime.now(UTC), rate=1)
    _HEADERS[429] = {"Authorization": f"Bearer {busy}"}
    job_id = managers["whole"].submit("Note").id
    managers["whole"].wait(job_id, unless=("submitted", "running"), wait=10)
    managers["full"].submit("Note")

    def answer(method: str, path: str, status: int) -> TestResponse:
        service = _service(method, path, status)
        if service == "guarded":
            clients[service].get("/job-types", headers=_HEADERS[429])  # the one request of this minute
        fitting = _job_id(managers["whole"], path, status, job_id)
        headers = dict(_HEADERS.get(status, {}))
        if (path, status) == ("/jobs/{job_id}", 304):
            headers["If-None-Match"] = clients["whole"].get(f"/jobs/{fitting}").headers["ETag"]
        response = clients[service].open(
            path.replace("{job_id}", fitting).replace("{name}", "Simpel" if status == 404 else "Simple"),
            method=method,
            headers=headers,
            query_string="limit=x" if (method, status) == ("GET", 422) else "",
            data=_body(path, status) if method == "POST" else None,
            buffered=path != "/events" or status != 200,  # that would go on for ever
        )
        if (method == "POST" or _is_steering(path)) and service == "whole" and status < 300:
            managers["whole"].stop_all(Selection(), force=True)
            deadline = time.monotonic() + 10
            while managers["whole"].find(Selection(statuses=frozenset(Status) - FINAL)).jobs:
                assert time.monotonic() < deadline, "jobs do not stop"
                time.sleep(0.005)
        return response

    yield answer
    for manager in managers.values():
        manager.close()


def _service(method: str, path: str, status: int) -> str:
    """Return which of the services answers with the status."""
    if status == 503 and path.startswith(("/job-types", "/datasets", "/metrics")):
        return "unguarded"
    if (method, status) == ("POST", 429) and path in ("/submit", "/jobs", "/jobs/batch"):
        return "full"
    return {401: "guarded", 429: "guarded", 500: "broken", 503: "away"}.get(status, "whole")


_HEADERS = {
    200: {"Prefer": "wait=10"},
    204: {"Last-Event-ID": "1000000"},
    206: {"Range": "bytes=2-4"},
    304: {"If-None-Match": '"5ea1"'},
    403: {"Sec-Fetch-Site": "cross-site"},
    412: {"If-Match": '"5ea1.1"'},
    416: {"Range": "bytes=99-"},
}


def _is_steering(path: str) -> bool:
    return path.endswith(("submit", "/halt", "/resume", "/stop")) or path.startswith(("/halt", "/resume", "/stop"))


def _body(path: str, status: int) -> bytes:
    """Return a body that the route at the path answers with the status."""
    if status == 413:
        return b" " * (64 * 1024 * 1024 + 1) if path.endswith("/batch") else b" " * (1024 * 1024 + 1)
    if status == 422:
        return b'[{"prioritty": 1}]' if path.endswith("/batch") else b'{"prioritty": 1}'
    if path.startswith("/jobs"):
        whole = {"/jobs": b'{"type": "Simple"}', "/jobs/batch": b'[{"type": "Simple"}, {"type": "Simple"}]'}
        bulk = b"" if "{job_id}" in path else b'{"all": true}'
        return b"{" if status == 400 else whole.get(path, bulk)
    return b"{}" if status == 400 else b'{"Type": "Simple"}'


def _job_id(manager: JobManager, path: str, status: int, completed_id: str) -> str:
    """Return a job of which the route at the path answers with the status."""
    if status == 404:
        return "0190f3a4-5b6c-7d8e-9fa0-b1c2d3e4f506"
    if status not in (200, 202) or path == "/submit" or not _is_steering(path):
        return completed_id
    job = manager.submit("Simple" if status == 200 else "Deaf")
    manager.wait(job.id, unless=("submitted",), wait=10)
    if "resume" in path:
        # A job that waits for its time is not claimed: what a resume asks for is under way.
        job = manager.submit("Simple", run_at=manager.now() + timedelta(days=1) if status == 202 else None)
        return manager.halt(job.id, wait=10).id if status == 200 else job.id
    return job.id


@pytest.mark.parametrize(("method", "path", "status"), EVERY_ANSWER)
def test_every_documented_answer_is_given_as_documented(
    provoke: Any, specification: dict[str, Any], method: str, path: str, status: int
) -> None:
    documented = specification["paths"][path][method.lower()]["responses"][str(status)]

    response = provoke(method, path, status)

    assert response.status_code == status, response.text
    for header in documented.get("headers", {}):
        assert header in response.headers
    for media_type, content in documented.get("content", {}).items():
        if media_type == "*/*":
            continue
        assert response.mimetype == media_type
        if media_type.startswith("text/"):
            response.close()
            continue
        errors = validator(specification, content["schema"]).iter_errors(response.json)
        assert [error.message for error in errors] == []
        assert response.json.keys() in [example.keys() for example in examples_of(content)]


@pytest.mark.parametrize(
    ("method", "path", "status"), [answer for answer in EVERY_ANSWER if answer[2] in (401, 403, 412, 413, 500, 503)]
)
def test_the_example_of_an_error_is_what_is_said(
    provoke: Any, specification: dict[str, Any], method: str, path: str, status: int
) -> None:
    ((_, content),) = specification["paths"][path][method.lower()]["responses"][str(status)]["content"].items()

    response = provoke(method, path, status)

    assert {**response.json, "jobID": ""} in [{**example, "jobID": ""} for example in examples_of(content)]


class _Loads(HTMLParser):
    """Collects what a page loads, and the scripts and styles written into it."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        address = values.get("src") or (values.get("href") if tag == "link" else None)
        if address:
            self.loaded.append(address)
        elif tag in ("script", "style"):
            self.inline.append(tag)


def loads(page: str) -> _Loads:
    parser = _Loads()
    parser.feed(page)
    return parser


def test_the_page_loads_its_parts_from_here_and_each_is_there(quiet: FlaskClient) -> None:
    page = loads(quiet.get("/apidocs/").text)

    assert len(page.loaded) >= 4
    assert page.inline == []
    for address in page.loaded:
        assert re.match(r"/[^/]", address), address
        response = quiet.get(address, buffered=True)
        assert response.status_code == 200, address
        assert response.data, address


def test_the_styles_load_nothing_from_elsewhere(quiet: FlaskClient) -> None:
    sheets = [address for address in loads(quiet.get("/apidocs/").text).loaded if address.endswith(".css")]

    assert sheets
    for address in sheets:
        text = quiet.get(address, buffered=True).text
        assert "@import" not in text
        wanted = re.findall(r"url\(\s*[\"']?([^\"')]{1,60})", text)
        assert [target for target in wanted if not target.startswith(("data:", "#"))] == []


def test_our_scripts_name_no_other_host_and_ask_no_validator(quiet: FlaskClient) -> None:
    text = quiet.get("/static/apidocs.js", buffered=True).text

    assert "//" not in re.sub(r"^//.*$", "", text, flags=re.MULTILINE)
    assert "validatorUrl: null" in text


@pytest.mark.parametrize("path", ["/apidocs/index.html", "/swagger-ui/oauth2-redirect.html"])
def test_other_pages_of_the_docs_load_nothing_from_elsewhere_either(quiet: FlaskClient, path: str) -> None:
    response = quiet.get(path, follow_redirects=True, buffered=True)

    for address in loads(response.text).loaded:
        assert "//" not in address, address
