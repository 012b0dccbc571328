"""Whatever is sent, the service answers in its own words."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.slow

# The client is shared by all examples on purpose: what one leaves behind is what the next one meets.
SHARED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
names = st.sampled_from(["Simple", "Export", "Type", ""]) | json_values
arguments = json_values | st.fixed_dictionaries(
    {},
    optional={
        "steps": json_values,
        "seconds": json_values,
        "from_date": json_values,
        "to_date": json_values,
        "dataset": json_values,
        "columns": json_values,
        "format": json_values,
    },
)
submissions = st.fixed_dictionaries({"Type": names}, optional={"args": arguments})


def check(answer: Any) -> None:
    """Fail unless the answer is one of the service's own."""
    body = json.loads(answer.data, parse_constant=lambda name: name / 0)
    assert isinstance(body["jobID"], str)
    if answer.status_code == 200:
        assert body["details"]["jobID"] == body["jobID"]
    else:
        assert answer.status_code in (400, 404), answer.text
        assert body.keys() == {"jobID", "error"}
        assert body["error"]


@given(body=st.binary(max_size=200) | json_values.map(json.dumps).map(str.encode))
@settings(max_examples=200, suppress_health_check=SHARED)
def test_any_bytes_are_answered(quiet: FlaskClient, body: bytes) -> None:
    check(quiet.post("/submit", data=body))


@given(submission=submissions)
@example(submission={"Type": "Simple", "args": {"x": float("inf")}})
@example(submission={"Type": "Simple", "args": {"steps": True, "seconds": "1e-400"}})
@example(submission={"Type": "Simple", "args": {"\ud800": 1}})
@settings(max_examples=300, suppress_health_check=SHARED)
def test_any_submission_is_answered(quiet: FlaskClient, submission: dict[str, Any]) -> None:
    check(quiet.post("/submit", data=json.dumps(submission)))


@given(job_id=st.text(min_size=1, max_size=40).filter(lambda text: "/" not in text and text not in (".", "..")))
@settings(max_examples=100, suppress_health_check=SHARED)
def test_any_id_is_answered(quiet: FlaskClient, job_id: str) -> None:
    answer = quiet.get(f"/details/{quote(job_id)}")

    check(answer)
    assert answer.json["jobID"] == job_id
