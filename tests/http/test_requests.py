"""Each request has an id: in its answer, and in what is logged while it is answered."""

from __future__ import annotations

import logging
import uuid
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from jobmanager import JobManager, Settings
from jobmanager.http import create_app
from jobmanager.observability import logs
from jobmanager.registry import Registry


def test_the_id_that_a_client_sends_comes_back(quiet: FlaskClient) -> None:
    response = quiet.get("/health/live", headers={"X-Request-ID": "4711-a.b:c/d+e="})

    assert response.headers["X-Request-ID"] == "4711-a.b:c/d+e="


@pytest.mark.parametrize("told", ["", "a b", "x" * 129, "ä", '"', "a;b"])
def test_one_that_is_no_sane_id_is_replaced_by_a_new_one(quiet: FlaskClient, told: str) -> None:
    first, second = (quiet.get("/health/live", headers={"X-Request-ID": told}).headers["X-Request-ID"] for _ in "12")

    assert uuid.UUID(first) != uuid.UUID(second)


@pytest.mark.parametrize("path", ["/no/such/path", "/details/none", "/events?limit=1"])
def test_errors_have_one_too(quiet: FlaskClient, path: str) -> None:
    assert quiet.get(path, headers={"X-Request-ID": "e1"}).headers["X-Request-ID"] == "e1"


def test_what_is_logged_while_a_request_is_answered_has_its_id(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "jobmanager.db").mkdir()
    client = create_app(JobManager(Settings(data_dir=tmp_path), Registry())).test_client()
    caplog.handler.addFilter(logs.Context())

    client.get("/health/ready", headers={"X-Request-ID": "away"})
    logging.getLogger("jobmanager").warning("afterwards")

    assert [(record.request_id, record.levelname) for record in caplog.records] == [  # type: ignore[attr-defined]
        ("away", "WARNING"),
        ("", "WARNING"),
    ]
