"""POST /submit reads bodies as the Go service did, and says what is wrong with those that it cannot read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flask.testing import FlaskClient
from pydantic import BaseModel

from jobmanager import Job
from jobmanager.core.json_values import MAX_DEPTH
from jobmanager.core.values import Selection
from jobmanager.registry import Registry


def nested(levels: int) -> str:
    """Return a submission whose innermost array lies *levels* deep, counting the body and its args."""
    arrays = levels - 2
    return f'{{"Type": "Simple", "args": {{"x": {"[" * arrays}{"]" * arrays}}}}}'


def test_a_submission_is_answered_with_the_id_and_the_details_of_the_job(quiet: FlaskClient) -> None:
    response = quiet.post("/submit", json={"Type": "Simple", "args": {"steps": 3}})

    assert response.status_code == 200
    assert list(response.json) == ["jobID", "message", "details"]
    assert response.json["message"] == "Success"
    assert response.json["details"]["jobID"] == response.json["jobID"]
    assert response.json["details"]["status"] == "Submitted"
    assert response.json["details"]["steps"] == 3


def test_the_example_of_the_go_service_is_accepted_and_further_arguments_are_ignored(quiet: FlaskClient) -> None:
    response = quiet.post("/submit", json={"Type": "Simple", "args": {"key": "value"}})

    assert response.status_code == 200
    assert "key" not in response.json["details"]


@pytest.mark.parametrize("name", ["Type", "type", "TYPE", "tYpE"])
@pytest.mark.parametrize("args", ["args", "Args", "ARGS", "arg\N{LATIN SMALL LETTER LONG S}"])
def test_names_of_fields_are_read_in_any_case(quiet: FlaskClient, name: str, args: str) -> None:
    response = quiet.post("/submit", json={name: "Simple", args: {"steps": 7}})

    assert response.status_code == 200
    assert response.json["details"]["steps"] == 7


@pytest.mark.parametrize("body", [{"Type": "Simple"}, {"Type": "Simple", "args": None}, {"Type": "Simple", "args": {}}])
def test_arguments_may_be_missing_or_null(quiet: FlaskClient, body: dict[str, Any]) -> None:
    assert quiet.post("/submit", json=body).status_code == 200


def test_further_fields_are_ignored(quiet: FlaskClient) -> None:
    response = quiet.post("/submit", json={"jobID": "mine", "Type": "Simple", "priority": "?", "": None})

    assert response.status_code == 200
    assert response.json["jobID"] != "mine"


@pytest.mark.parametrize(
    "body",
    [
        '{"Type": "Nope", "Type": "Simple", "args": {"steps": 1}, "args": {"steps": 2}}',
        '{"Type": "Nope", "TYPE": "Simple", "ARGS": {"steps": 1}, "args": {"steps": 2}}',
    ],
)
def test_of_a_field_that_comes_twice_the_last_counts(quiet: FlaskClient, body: str) -> None:
    response = quiet.post("/submit", data=body)

    assert response.status_code == 200
    assert response.json["details"]["steps"] == 2


@pytest.mark.parametrize(
    "content_type",
    [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/json"],
)
def test_the_content_type_does_not_matter(quiet: FlaskClient, content_type: str | None) -> None:
    response = quiet.post("/submit", data=b'{"Type": "Simple"}', content_type=content_type)

    assert response.status_code == 200


def test_a_byte_order_mark_does_not_matter(quiet: FlaskClient) -> None:
    assert quiet.post("/submit", data='{"Type": "Simple"}'.encode("utf-8-sig")).status_code == 200


def test_text_of_every_script_comes_back_as_it_was_sent(client: FlaskClient, types: Registry) -> None:
    class Greet(Job):
        """Keeps a greeting."""

        class Args(BaseModel):
            words: str

        def start(self) -> None:
            """Do nothing."""

    types.register(Greet)
    words = 'Grüße, 你好, 🙂, \u0000, \u2028, \\ and "'

    response = client.post("/submit", json={"Type": "Greet", "args": {"words": words}})

    assert response.json["details"]["words"] == words


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "expecting value at line 1, column 1"),
        (b" \n", "expecting value"),
        (b"Simple", "expecting value"),
        (b'{"Type": "Simple"', "expecting ',' delimiter"),
        (b'{"Type": "Simple"} {}', "extra data at line 1, column 20"),
        (b"{'Type': 'Simple'}", "expecting property name"),
        (b'{"Type": "Simp\nle"}', "invalid control character"),
        (b'{"Type": "Simp\xffle"}', "not valid UTF-8"),
        (b'{"Type": "Simple", "args": {"x": "\xed\xa0\x80"}}', "not valid UTF-8"),
        ('{"Type": "Simple"}'.encode("utf-16"), "not valid UTF-8"),
        (b'{"Type": "Simple", "args": {"x": NaN}}', "NaN is not valid JSON"),
        (b'{"Type": "Simple", "args": {"x": -Infinity}}', "-Infinity is not valid JSON"),
        (b'{"Type": "Simple", "args": {"x": 1e999}}', "number in it is too large"),
        (b'{"Type": "Simple", "args": {"x": ' + b"9" * 5000 + b"}}", "number in it is too large"),
        (b'{"Type": "Simple", "args": {"x": "\\ud800"}}', "surrogate"),
        (b'{"Type": "Simple", "args": {"\\udfff": 1}}', "surrogate"),
        (b"[" * 100_000, f"more than {MAX_DEPTH} levels deep"),
        (nested(MAX_DEPTH + 1).encode(), f"more than {MAX_DEPTH} levels deep"),
        (nested(960).encode(), f"more than {MAX_DEPTH} levels deep"),
        (b"[]", "not an array"),
        (b'"Simple"', "not a string"),
        (b"null", "not null"),
        (b"true", "not a boolean"),
        (b"1", "not a number"),
    ],
)
def test_a_body_that_cannot_be_read_is_refused_with_the_reason(quiet: FlaskClient, body: bytes, reason: str) -> None:
    response = quiet.post("/submit", data=body)

    assert response.status_code == 400
    assert response.json.keys() == {"jobID", "error"}
    assert response.json["jobID"] == ""
    assert reason in response.json["error"]
    assert '{"Type": "Simple", "args": {}}' in response.json["error"], "an example helps"


def test_a_body_as_deep_as_it_may_be_is_stored_and_runs(service: Any) -> None:
    body = json.loads(nested(MAX_DEPTH))
    body["args"]["steps"] = 0

    job_id = service.run(body["Type"], body["args"])

    assert service.details(job_id)["result"] == {"steps": 0}


def test_a_whole_number_of_four_thousand_digits_is_accepted_where_it_is_ignored(service: Any) -> None:
    job_id = service.run("Simple", {"steps": 0, "x": 10**4000})

    assert service.details(job_id)["status"] == "Completed"


@pytest.mark.parametrize("name", [None, "", 7, True, ["Simple"], {"Simple": 1}])
def test_a_type_that_is_no_name_is_refused(quiet: FlaskClient, name: Any) -> None:
    response = quiet.post("/submit", json={"Type": name})

    assert response.status_code == 400
    assert '"Type" must name a job type' in response.json["error"]


def test_a_missing_type_is_refused(quiet: FlaskClient) -> None:
    response = quiet.post("/submit", json={"args": {}})

    assert response.status_code == 400
    assert '"Type" must name a job type' in response.json["error"]


@pytest.mark.parametrize("name", ["Simpel", "simple", "Simple ", "\u0000", "../Simple", "O'Reilly"])
def test_an_unknown_type_is_refused_and_the_known_ones_are_named(quiet: FlaskClient, name: str) -> None:
    response = quiet.post("/submit", json={"Type": name})

    assert response.status_code == 400
    assert "Known types: Export, Simple" in response.json["error"]


@pytest.mark.parametrize(
    ("args", "kind"),
    [([], "an array"), ("steps=3", "a string"), (3, "a number"), (0, "a number"), (False, "a boolean")],
)
def test_arguments_that_are_no_object_are_refused(quiet: FlaskClient, args: Any, kind: str) -> None:
    response = quiet.post("/submit", json={"Type": "Simple", "args": args})

    assert response.status_code == 400
    assert response.json["error"] == f'"args" must be a JSON object, not {kind}.'


@pytest.mark.parametrize(
    ("args", "field"),
    [
        ({"steps": "many"}, "steps"),
        ({"steps": -1}, "steps"),
        ({"steps": 1.5}, "steps"),
        ({"steps": None}, "steps"),
        ({"steps": 10**400}, "steps"),
        ({"seconds": []}, "seconds"),
        ({"seconds": 86_401}, "seconds"),
    ],
)
def test_a_wrong_argument_is_named(quiet: FlaskClient, args: dict[str, Any], field: str) -> None:
    response = quiet.post("/submit", json={"Type": "Simple", "args": args})

    assert response.status_code == 400
    assert response.json["error"].startswith(f"{field}: ")


def test_what_was_refused_was_not_stored(client: FlaskClient, manager: Any) -> None:
    client.post("/submit", data=b"{}")
    client.post("/submit", json={"Type": "Nope"})
    client.post("/submit", json={"Type": "Simple", "args": {"steps": -1}})

    assert manager.find(Selection()).jobs == []
