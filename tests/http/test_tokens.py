"""Who may do what: every route asks for a token and a role, and says no in the same words whatever is behind it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from openapi_spec_validator import OpenAPIV31SpecValidator
from werkzeug.test import TestResponse

from jobmanager import Job, JobManager, Settings
from jobmanager.auth.tokens import Role, TokenFile
from jobmanager.http import create_app, event_stream
from jobmanager.registry import Registry

NOBODY = "0190f3a4-5b6c-7d8e-9fa0-b1c2d3e4f506"
#: What is served to everybody.
OPEN = {
    ("GET", "/health/live"),
    ("GET", "/health/ready"),
    ("GET", "/"),
    ("GET", "/apidocs/"),
    ("GET", "/apidocs/index.html"),
    ("GET", "/apispec.json"),
    ("GET", "/static/<path:filename>"),
    ("GET", "/swagger-ui/<path:filename>"),
    ("GET", "/swagger/"),
    ("GET", "/swagger/index.html"),
}
#: What a viewer may ask for: whatever changes nothing.
VIEWED = re.compile(r"GET /(details|jobs|job-types|datasets|metrics|events)\b.*|GET /")


class Other(Job):
    """A type that not everybody may see."""

    def start(self) -> None:
        """Do nothing."""


@dataclass(frozen=True, kw_only=True)
class House:
    """A service with tokens, and what its operator holds in the hand."""

    app: Flask
    tokens: TokenFile

    def add(self, name: str, role: Role, **how: Any) -> FlaskClient:
        """Return a client that sends a new token."""
        return self.client(self.tokens.add(name, role, now=datetime.now(UTC), **how))

    def client(self, secret: str | None) -> FlaskClient:
        """Return a client that sends the token."""
        client = self.app.test_client()
        if secret is not None:
            client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {secret}"
        return client


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("tokens")
    types = Registry()
    types.register(Other)
    settings = Settings(data_dir=folder / "var", tokens=folder / "tokens", slots=0)
    with JobManager(settings, types) as manager:
        manager.submit("Simple")
        house = House(app=create_app(manager), tokens=TokenFile(folder / "tokens"))
        house.add("first", Role.VIEWER)
        yield house


@pytest.fixture(scope="module")
def viewer(house: House) -> FlaskClient:
    return house.add("vera", Role.VIEWER)


@pytest.fixture(scope="module")
def operator(house: House) -> FlaskClient:
    return house.add("otto", Role.OPERATOR)


@pytest.fixture(scope="module")
def admin(house: House) -> FlaskClient:
    return house.add("ada", Role.ADMIN)


def routes(app: Flask) -> list[tuple[str, str]]:
    rules = app.url_map.iter_rules()
    return sorted((method, rule.rule) for rule in rules for method in rule.methods - {"OPTIONS", "HEAD"})


def ask(client: FlaskClient, method: str, rule: str) -> TestResponse:
    path = re.sub(r"<job:job_id>", NOBODY, rule).replace("<name>", "Simple").replace("<path:filename>", "apidocs.js")
    if path == "/events":
        # A stream, which has no end: of it, only the head is asked for.
        method = "HEAD"
    return client.open(path, method=method, json={} if method == "POST" else None, buffered=True)


def test_every_route_but_the_open_ones_asks_for_a_token(house: House) -> None:
    for method, rule in routes(house.app):
        response = ask(house.client(None), method, rule)

        if (method, rule) in OPEN:
            assert response.status_code in (200, 302, 404), rule
        else:
            assert response.status_code == 401, rule
            assert response.headers["WWW-Authenticate"] == 'Bearer realm="jobmanager"'
            assert response.headers["Cache-Control"] == "no-store"


def test_a_viewer_may_look_and_change_nothing(house: House, viewer: FlaskClient) -> None:
    for method, rule in routes(house.app):
        if (method, rule) not in OPEN:
            status = ask(viewer, method, rule).status_code

            assert (status != 403) == bool(VIEWED.fullmatch(f"{method} {rule}")), f"{method} {rule}: {status}"
            assert status != 401


def test_an_operator_may_use_every_route(house: House, operator: FlaskClient) -> None:
    for method, rule in routes(house.app):
        assert ask(operator, method, rule).status_code not in (401, 403), rule


@pytest.mark.parametrize("path", ["/jobs/{id}/stop", "/jobs/stop"])
def test_only_an_admin_may_stop_by_force(operator: FlaskClient, admin: FlaskClient, path: str) -> None:
    job_id = operator.post("/submit", json={"Type": "Simple"}).json["jobID"]
    body = {"force": True} | ({} if "{id}" in path else {"q": job_id})

    refused = operator.post(path.format(id=job_id), json=body)
    granted = admin.post(path.format(id=job_id), json=body)

    assert refused.status_code == 403
    assert refused.json["type"] == "urn:jobmanager:problem:forbidden"
    assert refused.json["detail"] == "The token 'otto' has the role operator; this needs the role admin."
    assert granted.status_code == 200, granted.json


@pytest.mark.parametrize(
    "header",
    [
        "Bearer",
        "Bearer ",
        "Bearer nonsense",
        "Bearer jm_" + "A" * 43,
        "bearer \xe9\xff",
        "Bearer " + "x" * 5000,
        "Basic dmVyYTpzZWNyZXQ=",
        "nonsense",
        "Bearer realm=x",
    ],
)
def test_whatever_is_no_token_is_refused_alike(house: House, header: str) -> None:
    response = house.client(None).get("/jobs", headers={"Authorization": header})

    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"].startswith('Bearer realm="jobmanager"')
    assert response.json["type"] == "urn:jobmanager:problem:unauthenticated"
    assert "nonsense" not in response.text


def test_unknown_expired_and_revoked_tokens_are_told_apart_by_nobody(house: House) -> None:
    expired = house.tokens.add("old", Role.ADMIN, now=datetime.now(UTC), expires_at=datetime.now(UTC))
    revoked = house.tokens.add("gone", Role.ADMIN, now=datetime.now(UTC))
    assert house.client(revoked).get("/jobs").status_code == 200
    house.tokens.revoke("gone")

    answers = [house.client(secret).get("/jobs") for secret in ("jm_unknown", expired, revoked)]

    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.data for answer in answers}) == 1
    for answer in answers:
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="jobmanager", error="invalid_token"'


def test_the_scheme_is_read_in_any_case(house: House) -> None:
    secret = house.tokens.add("cased", Role.VIEWER, now=datetime.now(UTC))

    assert house.client(None).get("/jobs", headers={"Authorization": f"bEARER {secret}"}).status_code == 200


def test_the_classic_routes_say_no_in_their_own_shape(house: House, viewer: FlaskClient) -> None:
    nobody = house.client(None).get(f"/halt/{NOBODY}")
    refused = viewer.get(f"/halt/{NOBODY}")

    assert nobody.status_code == 401
    assert nobody.json == {"jobID": NOBODY, "error": "This needs a token, sent as: Authorization: Bearer TOKEN."}
    assert refused.status_code == 403
    assert refused.json == {
        "jobID": NOBODY,
        "error": "The token 'vera' has the role viewer; this needs the role operator.",
    }


def test_who_may_not_change_a_job_does_not_learn_whether_it_is_there(
    house: House, viewer: FlaskClient, operator: FlaskClient
) -> None:
    job_id = operator.post("/submit", json={"Type": "Simple"}).json["jobID"]

    for client in (house.client(None), viewer):
        there, not_there = (client.get(f"/stop/{each}") for each in (job_id, NOBODY))
        assert there.status_code == not_there.status_code
        assert there.text.replace(job_id, NOBODY) == not_there.text


def test_every_change_is_recorded_under_the_name_of_the_token(
    operator: FlaskClient, admin: FlaskClient, viewer: FlaskClient
) -> None:
    job_id = operator.post("/jobs", json={"type": "Simple"}).json["id"]
    (batched,) = operator.post("/jobs/batch", json=[{"type": "Simple"}]).json["ids"]

    admin.post(f"/jobs/{job_id}/halt")
    operator.get(f"/resume/{job_id}")
    admin.post("/jobs/stop", json={"q": job_id})

    changes = viewer.get(f"/jobs/{job_id}/changes").json["changes"]
    assert [change["actor"] for change in changes] == ["otto", "ada", "otto", "ada"]
    assert [change["actor"] for change in viewer.get(f"/jobs/{batched}/changes").json["changes"]] == ["otto"]


def test_without_tokens_changes_are_recorded_under_the_address(quiet: FlaskClient) -> None:
    job_id = quiet.post("/submit", json={"Type": "Simple"}).json["jobID"]

    assert quiet.get(f"/jobs/{job_id}/changes").json["changes"][0]["actor"] == "127.0.0.1"


@pytest.fixture
def broken(tmp_path: Path) -> Iterator[House]:
    """A service whose file of tokens a test may break."""
    tokens = TokenFile(tmp_path / "tokens")
    with JobManager(Settings(data_dir=tmp_path / "var", tokens=tokens.path, slots=0), Registry()) as manager:
        yield House(app=create_app(manager), tokens=tokens)


@pytest.mark.parametrize("how", ["nonsense", "missing", "folder"])
def test_a_file_of_tokens_that_cannot_be_used_closes_the_service(
    broken: House, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    admin = broken.add("ada", Role.ADMIN)
    assert admin.get("/jobs").status_code == 200
    good = broken.tokens.path.read_bytes()
    broken.tokens.path.unlink()
    if how == "nonsense":
        broken.tokens.path.write_bytes(good + b"nonsense")
    elif how == "folder":
        broken.tokens.path.mkdir()

    answers = [client.get("/jobs") for client in (admin, broken.client(None), broken.client("jm_wrong"))]

    for answer in answers:
        assert answer.status_code == 503
        assert answer.json["type"] == "urn:jobmanager:problem:tokens-unavailable"
        assert int(answer.headers["Retry-After"]) > 0
        assert str(broken.tokens.path) not in answer.text
    assert "JOBMANAGER_TOKENS cannot be" in caplog.text
    assert broken.client(None).get("/health/live").status_code == 200


def test_a_token_asks_as_often_as_its_rate_allows_and_is_told_when_to_come_back(house: House) -> None:
    client = house.add("busy", Role.VIEWER, rate=3)

    answers = [client.get("/job-types") for _ in range(4)]

    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert answers[-1].json["type"] == "urn:jobmanager:problem:rate-limited"
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= 20
    assert house.add("calm", Role.VIEWER, rate=3).get("/job-types").status_code == 200


def test_what_is_refused_counts_too(house: House) -> None:
    client = house.add("pushy", Role.VIEWER, rate=2)

    assert [client.post("/jobs/halt", json={"all": True}).status_code for _ in range(3)] == [403, 403, 429]
    assert client.post("/submit", json={"Type": "Simple"}).json["error"].startswith("This token may send 2 requests")


def test_a_bucket_that_cannot_be_kept_refuses_nobody_and_is_logged(
    broken: House, caplog: pytest.LogCaptureFixture
) -> None:
    client = broken.add("busy", Role.VIEWER, rate=1)
    (broken.tokens.path.parent / "var" / "rates").write_text("in the way")

    assert [client.get("/job-types").status_code for _ in range(2)] == [200, 200]
    assert "requests of the token 'busy' are not counted" in caplog.text


# What is not yours is not there


@pytest.fixture(scope="module")
def some(house: House) -> FlaskClient:
    """A client that sees jobs of type Simple only."""
    return house.add("sam", Role.ADMIN, types=["Simple"])


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/details/{id}"),
        ("GET", "/halt/{id}"),
        ("POST", "/resume/{id}"),
        ("GET", "/stop/{id}"),
        ("GET", "/jobs/{id}"),
        ("GET", "/jobs/{id}/changes"),
        ("GET", "/jobs/{id}/log"),
        ("GET", "/jobs/{id}/artifact"),
        ("POST", "/jobs/{id}/halt"),
        ("POST", "/jobs/{id}/resume"),
        ("POST", "/jobs/{id}/stop"),
    ],
)
def test_a_job_of_another_type_is_answered_like_one_that_is_not_there(
    house: House, operator: FlaskClient, some: FlaskClient, method: str, path: str
) -> None:
    hidden = operator.post("/jobs", json={"type": "Other"}).json["id"]

    asking = {"method": method, "headers": {"X-Request-ID": "mine"}}
    not_yours = some.open(path.format(id=hidden), **asking)
    not_there = some.open(path.format(id=NOBODY), **asking)

    assert not_yours.status_code == 404
    assert not_yours.text.replace(hidden, NOBODY) == not_there.text
    assert dict(not_yours.headers) == dict(not_there.headers)
    assert operator.get(f"/details/{hidden}").json["details"]["status"] == "Submitted"


def test_a_job_of_a_type_that_may_be_seen_is_served(some: FlaskClient) -> None:
    job_id = some.post("/jobs", json={"type": "Simple"}).json["id"]

    assert some.get(f"/jobs/{job_id}").json["status"] == "submitted"
    assert some.post(f"/jobs/{job_id}/halt").json["status"] == "halted"
    assert some.get(f"/resume/{job_id}").json["details"]["status"] == "Submitted"
    assert some.post(f"/jobs/{job_id}/stop", json={"force": True}).json["status"] == "stopped"
    assert len(some.get(f"/jobs/{job_id}/changes").json["changes"]) == 4
    assert some.get(f"/jobs/{job_id}/log").json == {"lines": []}
    assert some.get(f"/jobs/{job_id}/artifact").status_code == 404


@pytest.mark.parametrize("query", ["", "type=Other", "status=submitted", "label=k:v", "q=Other", "q=v", "limit=1"])
def test_lists_miss_what_may_not_be_seen(operator: FlaskClient, some: FlaskClient, query: str) -> None:
    for job_type in ("Simple", "Other", "Simple", "Other"):
        operator.post("/jobs", json={"type": job_type, "labels": {"k": "v"}})
    seen, address = [], f"/jobs?{query}"
    while address:
        page = some.get(address)
        seen += [job["type"] for job in page.json["jobs"]]
        link = page.headers.get("Link")
        address = re.match("<(.*?)>", link)[1] if link else ""

    assert set(seen) == (set() if "Other" in query else {"Simple"})


def test_bulk_requests_do_not_match_what_may_not_be_seen(operator: FlaskClient, some: FlaskClient) -> None:
    hidden = operator.post("/jobs", json={"type": "Other", "labels": {"bulk": "1"}}).json["id"]
    seen = operator.post("/jobs", json={"type": "Simple", "labels": {"bulk": "1"}}).json["id"]

    for verb in ("halt", "resume", "stop"):
        swept = some.post(f"/jobs/{verb}", json={"label": ["bulk:1"]}).json
        assert swept["changed_ids"] == [seen]
        assert swept["unchanged"] == []
    assert some.post("/jobs/stop", json={"type": "Other"}).json["matched"] == 0
    assert operator.get(f"/jobs/{hidden}").json["status"] == "submitted"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/submit", {"Type": "{type}"}),
        ("/jobs", {"type": "{type}"}),
        ("/jobs/batch", [{"type": "Simple"}, {"type": "{type}"}]),
    ],
)
def test_a_type_that_may_not_be_seen_is_submitted_like_one_that_is_not_there(
    some: FlaskClient, path: str, body: Any
) -> None:
    def submit(job_type: str) -> TestResponse:
        return some.post(path, data=str(body).replace("'", '"').replace("{type}", job_type))

    not_yours, not_there = submit("Other"), submit("Nowhere")

    assert not_yours.status_code == not_there.status_code
    assert not_yours.status_code in (400, 422)
    assert not_yours.text.replace("Other", "Nowhere") == not_there.text


def test_types_that_may_not_be_seen_are_not_listed(some: FlaskClient, operator: FlaskClient) -> None:
    assert [each["type"] for each in some.get("/job-types").json["job_types"]] == ["Simple"]
    assert "Other" in [each["type"] for each in operator.get("/job-types").json["job_types"]]
    assert some.get("/job-types/Other").status_code == 404


def test_datasets_are_shown_to_a_token_that_may_see_exports_only(
    house: House, some: FlaskClient, viewer: FlaskClient
) -> None:
    datasets = house.app.extensions["jobmanager"].settings.datasets
    datasets.write_text('[secret]\nurl = "sqlite:///secret.db"\n')

    assert [each["name"] for each in viewer.get("/datasets").json["datasets"]] == ["secret"]
    assert some.get("/datasets").json == {"datasets": [], "formats": [], "error": None}
    assert house.client(None).get("/datasets").status_code == 401


def test_the_api_docs_describe_the_types_that_a_token_may_see_and_none_to_others(
    house: House, viewer: FlaskClient, some: FlaskClient
) -> None:
    def described(client: FlaskClient) -> set[str]:
        specification = client.get("/apispec.json").json
        assert list(OpenAPIV31SpecValidator(specification).iter_errors()) == []
        return {name for name in specification["components"]["schemas"] if name.endswith("Args")}

    for _ in range(2):  # the second time from the cache
        assert described(house.client(None)) == set()
        assert described(some) == {"SimpleArgs"}
        assert described(viewer) == {"SimpleArgs", "ExportArgs", "OtherArgs"}
    for client in (house.client(None), some):
        assert Other.__doc__ not in client.get("/apispec.json").text
    assert house.client("jm_wrong").get("/apispec.json").status_code == 401


# An idempotency key belongs to a token


def test_two_tokens_may_use_the_same_idempotency_key_and_learn_nothing_of_each_other(
    operator: FlaskClient, admin: FlaskClient, some: FlaskClient
) -> None:
    key = {"Idempotency-Key": "import-of-may"}

    hidden = operator.post("/jobs", json={"type": "Other"}, headers=key)
    answers = [client.post("/jobs", json={"type": "Simple"}, headers=key) for client in (some, admin, some, admin)]
    conflict = operator.post("/jobs", json={"type": "Simple"}, headers=key)

    assert [answer.status_code for answer in (hidden, *answers)] == [202] * 5
    ids = [answer.json["id"] for answer in answers]
    assert ids[:2] == ids[2:]
    assert len({hidden.json["id"], *ids}) == 3
    assert conflict.json["type"] == "urn:jobmanager:problem:idempotency-conflict"


# What goes in and out of the door


HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


@pytest.mark.parametrize(
    "path",
    ["/apidocs/", "/apispec.json", "/jobs", "/details/x", "/nope", "/static/apidocs.js", "/swagger/", "/apidocs"],
)
def test_every_answer_carries_the_headers_that_keep_browsers_in_check(house: House, path: str) -> None:
    for client in (house.client(None), house.client("jm_wrong")):
        with client.get(path, buffered=True) as response:
            assert {name: response.headers.get(name) for name in HEADERS} == HEADERS


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
@pytest.mark.parametrize(("method", "path"), [("POST", "/submit"), ("GET", f"/stop/{NOBODY}"), ("POST", "/jobs/stop")])
def test_a_page_of_another_site_or_of_a_neighbour_changes_nothing(
    operator: FlaskClient, method: str, path: str, site: str
) -> None:
    response = operator.open(
        path, method=method, headers={"Sec-Fetch-Site": site}, json={} if method == "POST" else None
    )

    assert response.status_code == 403
    assert "another site" in response.text


@pytest.mark.parametrize("site", ["same-origin", "none"])
def test_a_page_of_its_own_and_an_address_that_was_typed_in_do(operator: FlaskClient, site: str) -> None:
    response = operator.get(f"/stop/{NOBODY}", headers={"Sec-Fetch-Site": site})

    assert response.status_code == 404


def test_the_docs_declare_how_to_send_a_token(house: House) -> None:
    specification = house.client(None).get("/apispec.json").json

    scheme = specification["components"]["securitySchemes"]["token"]
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    assert specification["security"] == [{"token": []}, {}]
    assert specification["paths"]["/health/live"]["get"]["security"] == []


def test_neither_answers_nor_log_lines_carry_a_token(
    house: House, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(0)
    secret = house.tokens.add("whispered", Role.ADMIN, now=datetime.now(UTC) - timedelta(days=1), rate=100)
    client = house.client(secret)

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("a mistake")

    answers = [ask(client, method, rule) for method, rule in routes(house.app)]
    monkeypatch.setattr(JobManager, "get", fail)
    answers += [client.get(f"/details/{NOBODY}"), client.get(f"/jobs/{NOBODY}")]
    house.tokens.revoke("whispered")
    answers += [client.get("/jobs"), client.get(f"/details/{NOBODY}")]

    assert "a mistake" in caplog.text
    for told in (caplog.text, *(f"{answer.headers}{answer.text}" for answer in answers)):
        assert secret not in told
        assert secret.removeprefix("jm_") not in told


def test_a_stream_ends_when_its_token_is_revoked(house: House) -> None:
    answers = [house.add(name, Role.VIEWER).get("/events") for name in ("leaving", "staying")]
    leaving, staying = (iter(answer.response) for answer in answers)
    assert next(leaving)
    assert next(staying)
    began = time.monotonic()

    house.tokens.revoke("leaving")

    assert next(leaving, None) is None
    # Not because it was quiet: long before the next sign of life.
    assert time.monotonic() - began < event_stream.HEARTBEAT_SECONDS / 2
    assert house.add("poster", Role.OPERATOR).post("/jobs", json={"type": "Simple"}).status_code == 202
    assert b"event: change" in next(staying)
    for answer in answers:
        answer.close()
