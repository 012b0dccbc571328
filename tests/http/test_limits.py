"""Bodies that are too large, a full queue, a store that is away: refused, in words and headers a client can use."""

from __future__ import annotations

import io
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from jobmanager import JobManager, Settings
from jobmanager.http import create_app
from jobmanager.registry import Registry

MIB = 1024 * 1024
SOME_ID = "0190f3a4-5b6c-7d8e-9fa0-b1c2d3e4f506"


def submission_of(size: int) -> bytes:
    """Return a submission that is *size* bytes long."""
    head, tail = b'{"Type": "Simple", "args": {"steps": 0, "x": "', b'"}}'
    return head + b"x" * (size - len(head) - len(tail)) + tail


def send(client: FlaskClient, body: bytes, *, is_chunked: bool) -> Any:
    """Submit the body with its length, or in chunks, as a WSGI server hands them on."""
    if is_chunked:
        return client.post(
            "/submit",
            input_stream=io.BytesIO(body),
            headers={"Transfer-Encoding": "chunked"},
            environ_overrides={"wsgi.input_terminated": True},
        )
    return client.post("/submit", data=body)


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_of_one_mebibyte_is_accepted(quiet: FlaskClient, is_chunked: bool) -> None:
    response = send(quiet, submission_of(MIB), is_chunked=is_chunked)

    assert response.status_code == 200


@pytest.mark.parametrize("is_chunked", [False, True])
@pytest.mark.parametrize("size", [MIB + 1, 3 * MIB])
def test_a_larger_body_is_refused(quiet: FlaskClient, size: int, is_chunked: bool) -> None:
    response = send(quiet, submission_of(size), is_chunked=is_chunked)

    assert response.status_code == 413
    assert response.json == {"jobID": "", "error": "The body is larger than 1048576 bytes."}


@pytest.mark.parametrize("more", [1, 2, MIB])
def test_a_larger_body_is_refused_even_if_its_first_mebibyte_makes_sense(quiet: FlaskClient, more: int) -> None:
    body = b'{"Type": "Simple"}'.ljust(MIB) + b"x" * more

    response = send(quiet, body, is_chunked=True)

    assert response.status_code == 413


def test_a_full_queue_asks_to_come_back_later(settings: Settings) -> None:
    with JobManager(replace(settings, queue_limit=2, slots=0), Registry()) as manager:
        client = create_app(manager).test_client()
        accepted = [client.post("/submit", json={"Type": "Simple"}) for _ in range(2)]

        refused = client.post("/submit", json={"Type": "Simple"})
        client.post(f"/stop/{accepted[0].json['jobID']}")
        later = client.post("/submit", json={"Type": "Simple"})

    assert [response.status_code for response in accepted] == [200, 200]
    assert refused.status_code == 429
    assert refused.json == {"jobID": "", "error": "The queue is full: 2 jobs are waiting. Try again later."}
    assert int(refused.headers["Retry-After"]) > 0
    assert later.status_code == 200


@pytest.fixture(params=["jobmanager.db", "jobmanager.db-turn"])
def storeless(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FlaskClient]:
    """A client of a service whose store cannot be opened, because a folder is in the place of one of its files."""
    (tmp_path / "secret" / request.param).mkdir(parents=True)
    manager = JobManager(Settings(data_dir=tmp_path / "secret"), Registry())
    yield create_app(manager).test_client()
    manager.close()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/submit"),
        ("GET", f"/details/{SOME_ID}"),
        ("POST", f"/halt/{SOME_ID}"),
        ("GET", f"/resume/{SOME_ID}"),
        ("POST", f"/stop/{SOME_ID}"),
        ("GET", f"/jobs/{SOME_ID}/artifact"),
        ("GET", "/health/ready"),
    ],
)
def test_a_store_that_is_away_asks_to_come_back_later_and_shows_no_path(
    storeless: FlaskClient, tmp_path: Path, method: str, path: str
) -> None:
    response = storeless.open(path, method=method, json={"Type": "Simple"} if path == "/submit" else None)

    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) > 0
    assert response.headers["Cache-Control"] == "no-store"
    assert "store" in (response.json.get("error") or response.json["detail"])
    assert "secret" not in response.text
    assert str(tmp_path) not in response.text


def test_the_process_is_alive_and_its_docs_can_be_read_while_the_store_is_away(storeless: FlaskClient) -> None:
    assert storeless.get("/health/live").status_code == 200
    assert storeless.get("/apidocs/").status_code == 200
    assert storeless.get("/apispec.json").status_code == 200


def test_the_service_goes_on_by_itself_when_the_store_is_back(settings: Settings) -> None:
    with JobManager(replace(settings, slots=0), Registry()) as manager:
        client = create_app(manager).test_client()
        job_id = client.post("/submit", json={"Type": "Simple"}).json["jobID"]
        with closing(sqlite3.connect(settings.data_dir / "jobmanager.db")) as store:
            store.execute("ALTER TABLE jobs RENAME TO away")

            answers = [
                client.get("/health/ready"),
                client.get(f"/details/{job_id}"),
                client.post(f"/halt/{job_id}"),
                client.post("/submit", json={"Type": "Simple"}),
            ]
            store.execute("ALTER TABLE away RENAME TO jobs")

        assert [answer.status_code for answer in answers] == [503, 503, 503, 503]
        for answer in answers:
            assert "SELECT" not in answer.text
            assert "table" not in answer.text
        assert client.get("/health/ready").status_code == 200
        assert client.get(f"/details/{job_id}").json["details"]["status"] == "Submitted"


def test_a_folder_for_data_that_cannot_be_made_is_an_error_that_shows_no_path(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("in the way")
    manager = JobManager(Settings(data_dir=tmp_path / "secret" / "var"), Registry())

    response = create_app(manager).test_client().post("/submit", json={"Type": "Simple"})

    assert response.status_code == 500
    assert "secret" not in response.text
