"""What holds for every route: health, errors as RFC 9457 has them, headers, and the way from old addresses."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

from jobmanager import JobManager, Settings
from jobmanager.core.values import JobRecord
from jobmanager.http import create_app
from jobmanager.registry import Registry


class Breaking(JobManager):
    """Has a mistake that nobody expects."""

    def get(self, job_id: str) -> JobRecord:
        """Raise what no route knows of."""
        raise RuntimeError(f"the secret of {job_id}")

    def halt(self, job_id: str, **_: Any) -> JobRecord:
        """Raise what no route knows of."""
        return self.get(job_id)


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
def test_a_healthy_service_says_so(quiet: FlaskClient, path: str) -> None:
    response = quiet.get(path)

    assert response.status_code == 200
    assert response.json == {"status": "ok"}
    assert response.headers["Cache-Control"] == "no-store"


def test_liveness_opens_nothing(settings: Settings) -> None:
    manager = JobManager(settings, Registry())

    response = create_app(manager).test_client().get("/health/live")

    assert response.status_code == 200
    assert not settings.data_dir.exists()


@pytest.mark.parametrize("path", ["/swagger", "/swagger/", "/swagger/index.html", "/apidocs"])
def test_the_address_of_the_go_service_s_docs_leads_to_ours(quiet: FlaskClient, path: str) -> None:
    response = quiet.get(path, follow_redirects=True)

    assert response.status_code == 200
    assert response.request.path == "/apidocs/"
    assert response.mimetype == "text/html"


@pytest.mark.parametrize(
    "path",
    ["/nope", "/submit/", "/details", "/details/", "/details/a/b", "/jobs/x/artifact/", "/%00", "/static/../app.py"],
)
def test_an_unknown_address_is_not_found(quiet: FlaskClient, path: str) -> None:
    response = quiet.get(path)

    assert response.status_code == 404
    assert response.mimetype == "application/problem+json"
    assert response.json["title"] == "Not Found"
    assert response.json["status"] == 404


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/submit", {"POST", "OPTIONS"}),
        ("PUT", "/submit", {"POST", "OPTIONS"}),
        ("BREW", "/submit", {"POST", "OPTIONS"}),
        ("DELETE", "/halt/x", {"GET", "HEAD", "POST", "OPTIONS"}),
        ("POST", "/details/x", {"GET", "HEAD", "OPTIONS"}),
        ("POST", "/health/live", {"GET", "HEAD", "OPTIONS"}),
        ("PUT", "/jobs/x/artifact", {"GET", "HEAD", "OPTIONS"}),
        ("POST", "/apidocs/", {"GET", "HEAD", "OPTIONS"}),
    ],
)
def test_a_wrong_method_is_refused_and_the_right_ones_are_named(
    quiet: FlaskClient, method: str, path: str, allowed: set[str]
) -> None:
    response = quiet.open(path, method=method)

    assert response.status_code == 405
    assert response.mimetype == "application/problem+json"
    assert response.json["title"] == "Method Not Allowed"
    assert set(response.headers["Allow"].split(", ")) == allowed


@pytest.mark.parametrize("path", ["/details/x", "/halt/x", "/jobs/x/artifact"])
def test_an_unexpected_exception_shows_nothing_and_is_logged(
    settings: Settings, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    response = create_app(Breaking(settings, Registry())).test_client().get(path)

    assert response.status_code == 500
    assert response.is_json
    assert response.headers["Cache-Control"] == "no-store"
    assert "secret" not in response.text
    assert "Traceback" not in response.text
    assert "the secret of x" in caplog.text


def test_every_answer_forbids_guessing_its_type(quiet: FlaskClient) -> None:
    for path in ("/health/live", "/details/x", "/nope", "/apidocs/", "/apispec.json", "/swagger/"):
        assert quiet.get(path).headers["X-Content-Type-Options"] == "nosniff", path
