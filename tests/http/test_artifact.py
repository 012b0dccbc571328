"""GET /jobs/{id}/artifact hands out the file of a completed job, whole or in part, and nothing else."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from pydantic import BaseModel
from werkzeug.test import TestResponse

from jobmanager import Job, JobManager, Settings
from jobmanager.registry import Registry

CONTENT = b"id,text\r\n1,\xc3\xa9t\xc3\xa9\r\n"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Write(Job):
    """Writes a file, and returns the result that it was given."""

    class Args(BaseModel):
        told: Any

    def start(self) -> Any:
        """Write the file out.csv."""
        (self.workdir / "out.csv").write_bytes(CONTENT)
        return self.args.told


TOLD = {"file": "out.csv", "filename": "answers 2024.csv", "media_type": "text/csv", "sha256": SHA256}


@pytest.fixture
def finished(types: Registry, service: Any) -> str:
    """The id of a completed job that made a file."""
    types.register(Write)
    job_id: str = service.run("Write", {"told": TOLD})
    return job_id


def fetch(client: FlaskClient, job_id: str, method: str = "GET", **headers: str) -> TestResponse:
    """Ask for the job's file; read the answer, and close it."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.open(f"/jobs/{job_id}/artifact", method=method, headers=named, buffered=True)


def assert_is_problem(response: TestResponse, status: int) -> None:
    """Check that the answer is an error as RFC 9457 has it."""
    assert response.status_code == status
    assert response.mimetype == "application/problem+json"
    assert response.json["type"] in (
        "about:blank",
        "urn:jobmanager:problem:not-found",
        "urn:jobmanager:problem:unknown-job",
    )
    assert response.json["status"] == status
    assert response.json["title"]
    assert response.json["detail"]


def test_the_file_comes_whole_under_its_name(client: FlaskClient, finished: str) -> None:
    response = fetch(client, finished)

    assert response.status_code == 200
    assert response.data == CONTENT
    assert response.headers["Content-Disposition"] == 'attachment; filename="answers 2024.csv"'
    assert response.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert response.headers["Content-Length"] == str(len(CONTENT))
    assert response.headers["ETag"] == f'"{SHA256}"'
    assert response.headers["Accept-Ranges"] == "bytes"
    assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_head_tells_of_the_file_without_sending_it(client: FlaskClient, finished: str) -> None:
    response = fetch(client, finished, "HEAD")

    assert response.status_code == 200
    assert response.headers["Content-Length"] == str(len(CONTENT))
    assert response.headers["ETag"] == f'"{SHA256}"'
    assert response.data == b""


@pytest.mark.parametrize(
    ("wanted", "begin", "end"),
    [
        ("bytes=0-1", 0, 2),
        ("bytes=3-", 3, len(CONTENT)),
        ("bytes=-4", len(CONTENT) - 4, len(CONTENT)),
        ("bytes=5-9999", 5, len(CONTENT)),
    ],
)
def test_a_part_of_the_file_can_be_asked_for(
    client: FlaskClient, finished: str, wanted: str, begin: int, end: int
) -> None:
    response = fetch(client, finished, Range=wanted)

    assert response.status_code == 206
    assert response.data == CONTENT[begin:end]
    assert response.headers["Content-Range"] == f"bytes {begin}-{end - 1}/{len(CONTENT)}"
    assert response.headers["ETag"] == f'"{SHA256}"'


def test_a_download_that_broke_off_goes_on_only_if_the_file_is_the_same(client: FlaskClient, finished: str) -> None:
    same = fetch(client, finished, Range="bytes=3-", If_Range=f'"{SHA256}"')
    other = fetch(client, finished, Range="bytes=3-", If_Range='"another"')

    assert (same.status_code, same.data) == (206, CONTENT[3:])
    assert (other.status_code, other.data) == (200, CONTENT)


@pytest.mark.parametrize("wanted", ["bytes=9999-", "bytes=5-3"])
def test_a_part_that_the_file_does_not_have_is_refused_and_its_length_is_told(
    client: FlaskClient, finished: str, wanted: str
) -> None:
    response = fetch(client, finished, Range=wanted)

    assert_is_problem(response, 416)
    assert response.headers["Content-Range"] == f"bytes */{len(CONTENT)}"


@pytest.mark.parametrize("wanted", ["lines=0-1", "bytes=x", "bytes=", "bytes=0-0,2-3", "0-1", ""])
def test_a_range_of_another_kind_is_ignored(client: FlaskClient, finished: str, wanted: str) -> None:
    response = fetch(client, finished, Range=wanted)

    assert response.status_code == 200
    assert response.data == CONTENT


def test_a_range_in_a_head_request_is_ignored(client: FlaskClient, finished: str) -> None:
    response = fetch(client, finished, "HEAD", Range="bytes=0-1")

    assert response.status_code == 200
    assert response.headers["Content-Length"] == str(len(CONTENT))


@pytest.mark.parametrize("etag", [f'"{SHA256}"', f'W/"{SHA256}"', f'"another", "{SHA256}"', "*"])
def test_a_file_that_the_client_has_is_not_sent_again(client: FlaskClient, finished: str, etag: str) -> None:
    response = fetch(client, finished, If_None_Match=etag)

    assert response.status_code == 304
    assert response.data == b""
    assert response.headers["ETag"] == f'"{SHA256}"'


def test_a_file_that_the_client_does_not_have_is_sent(client: FlaskClient, finished: str) -> None:
    response = fetch(client, finished, If_None_Match='"another"')

    assert response.status_code == 200
    assert response.data == CONTENT


def test_a_name_outside_ascii_arrives_in_full(client: FlaskClient, types: Registry, service: Any) -> None:
    types.register(Write)
    job_id = service.run("Write", {"told": TOLD | {"filename": "Umfrage Köln.csv"}})

    response = fetch(client, job_id)

    assert "filename*=UTF-8''Umfrage%20K%C3%B6ln.csv" in response.headers["Content-Disposition"]


def test_what_a_type_does_not_tell_of_its_file_is_filled_in(client: FlaskClient, types: Registry, service: Any) -> None:
    types.register(Write)
    job_id = service.run("Write", {"told": {"file": "out.csv"}})

    response = fetch(client, job_id)

    assert response.data == CONTENT
    assert response.headers["Content-Disposition"] == "attachment; filename=out.csv"
    assert response.headers["Content-Type"] == "application/octet-stream"
    assert response.headers["ETag"]


def test_a_job_that_runs_has_no_file_yet(client: FlaskClient, service: Any) -> None:
    job_id = service.submit("Simple")
    service.wait_for(job_id, "Running")

    response = fetch(client, job_id)

    assert_is_problem(response, 404)
    assert response.json["detail"] == f"Job {job_id} has no file; it is running."


def test_a_job_that_makes_no_file_has_none(client: FlaskClient, service: Any) -> None:
    job_id = service.run("Simple", {"steps": 0})

    response = fetch(client, job_id)

    assert_is_problem(response, 404)
    assert response.json["detail"] == f"Job {job_id} has no file; it is completed."


@pytest.mark.parametrize("job_id", ["0190f3a4-5b6c-7d8e-9fa0-b1c2d3e4f506", "x", "..", "%00"])
def test_an_unknown_job_has_no_file(quiet: FlaskClient, job_id: str) -> None:
    response = fetch(quiet, job_id)

    assert_is_problem(response, 404)


@pytest.mark.parametrize(
    "file",
    [
        *["../../jobmanager.db", "/etc/hostname", "..", ".", "", "a\u0000b", "missing.csv", "link.csv", None, 7, []],
        *["x" * 300, "x/" * 450, "x" * 100_000, "☃" * 200],
    ],
    ids=lambda file: str(file)[:20],
)
def test_a_result_that_names_no_file_in_the_job_s_folder_hands_out_nothing(
    client: FlaskClient, settings: Settings, types: Registry, service: Any, file: Any
) -> None:
    types.register(Write)
    job_id = service.run("Write", {"told": TOLD | {"file": file}})
    (settings.data_dir / "jobs" / job_id / "link.csv").symlink_to(settings.data_dir / "jobmanager.db")

    response = fetch(client, job_id)

    assert_is_problem(response, 404)
    assert str(settings.data_dir) not in response.text


@pytest.mark.parametrize("told", ["out.csv", 7, ["out.csv"], None])
def test_a_result_that_is_no_object_names_no_file(
    client: FlaskClient, types: Registry, service: Any, told: Any
) -> None:
    types.register(Write)
    job_id = service.run("Write", {"told": told})

    assert_is_problem(fetch(client, job_id), 404)


@pytest.mark.parametrize(
    "wrong",
    [
        {name: value}
        for name in ("filename", "sha256", "media_type")
        for value in (7, None, "", "a\r\nX-Evil: 1", '☃"', "a\0b", "☃" * 1000, "x" * 5000, 'a";b', "W/x", "*")
    ],
    ids=repr,
)
def test_a_result_that_tells_oddly_of_its_file_still_hands_it_out(
    client: FlaskClient, types: Registry, service: Any, wrong: dict[str, Any]
) -> None:
    types.register(Write)
    job_id = service.run("Write", {"told": TOLD | wrong})

    response = fetch(client, job_id)

    assert response.status_code == 200
    assert response.data == CONTENT
    assert "X-Evil" not in response.headers
    for value in response.headers.values():
        assert value.isascii()
        assert len(value) < 4000
    assert response.get_etag()[0]


def test_a_file_that_was_removed_is_not_found(
    client: FlaskClient, finished: str, manager: JobManager, settings: Settings
) -> None:
    Path(settings.data_dir / "jobs" / finished / "out.csv").unlink()

    response = fetch(client, finished)

    assert_is_problem(response, 404)
    assert response.json["detail"] == f"The file of job {finished} is no longer there."


def test_the_character_set_that_the_job_tells_of_is_told_once(types: Registry, service: Any) -> None:
    types.register(Write)
    job_id = service.run("Write", {"told": TOLD | {"media_type": "text/csv; charset=utf-8"}})

    whole, part = fetch(service.http, job_id), fetch(service.http, job_id, Range="bytes=0-3")

    assert (whole.headers["Content-Type"], part.headers["Content-Type"]) == ("text/csv; charset=utf-8",) * 2


@pytest.mark.parametrize(("sha256", "is_used"), [("A-z_0.9", True), ('☃"', False), ('a"', False), ("W/x", False)])
def test_a_digest_that_cannot_be_an_etag_is_replaced(
    client: FlaskClient, types: Registry, service: Any, sha256: str, is_used: bool
) -> None:
    types.register(Write)
    job_id = service.run("Write", {"told": TOLD | {"sha256": sha256}})

    response = fetch(client, job_id)

    assert response.headers["ETag"] == (f'"{sha256}"' if is_used else f'"{job_id}-1"')
    assert fetch(client, job_id, If_None_Match=response.headers["ETag"]).status_code == 304


@pytest.mark.parametrize("media_type", ["☃/x", "text", "text/", "text/csv\u00e9", "text/csv; name=☃", "a b/c"])
def test_a_media_type_that_cannot_be_a_header_is_replaced(
    client: FlaskClient, types: Registry, service: Any, media_type: str
) -> None:
    types.register(Write)
    job_id = service.run("Write", {"told": TOLD | {"media_type": media_type}})

    assert fetch(client, job_id).headers["Content-Type"] == "application/octet-stream"
