"""Export over HTTP: dates as given, wrong arguments that are named, and the file in the end."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from jobmanager import JobManager, Settings
from jobmanager.http import create_app
from jobmanager.http.openapi import examples
from jobmanager.jobs.export.job import Export
from jobmanager.jobs.export.sample import make_sample
from jobmanager.registry import Registry

YEAR = {"from_date": "2023-01-01", "to_date": "2023-12-31"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sample data, and its list of datasets."""
    folder = tmp_path_factory.mktemp("sample")
    make_sample(folder, rows=3000)
    return folder


@pytest.fixture
def settings(tmp_path: Path, data: Path) -> Settings:
    return Settings(data_dir=tmp_path / "var", datasets=data / "datasets.toml", checkpoint_seconds=0.0)


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Any:
    """A client of a service that takes exports and runs none."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("door"), datasets=data / "datasets.toml", slots=0)
    with JobManager(settings, Registry()) as manager:
        client = create_app(manager).test_client()
        submit(client, **YEAR)
        yield client


def submit(client: FlaskClient, **args: Any) -> Any:
    return client.post("/submit", json={"Type": "Export", "args": args})


@pytest.mark.parametrize(
    ("from_date", "to_date"),
    [
        ("2024-03-01", "2024-03-09"),
        ("2024-Mar-01", "2024-Mar-09"),
        ("2024-mar-01", "2024-MAR-09"),
        ("2024-Mar-01", "2024-03-09"),
        ("2024-03-01", "2024-Mar-09"),
        ("2024-03-01T12:30:00", "2024-03-09 23:59:59.5"),
        ("2024-03-01T12:30:00+02:00", "2024-03-09T00:00:00Z"),
        ("2024-02-29", "2024-02-29"),
    ],
)
def test_the_dates_are_shown_as_they_were_given_from_submission_to_the_end(
    client: FlaskClient, service: Any, from_date: str, to_date: str
) -> None:
    submitted = submit(client, from_date=from_date, to_date=to_date)

    completed = service.wait_for(submitted.json["jobID"], "Completed")

    for details in (submitted.json["details"], completed):
        assert details["from_date"] == from_date
        assert details["to_date"] == to_date


def test_both_layouts_name_the_same_rows(client: FlaskClient, service: Any) -> None:
    iso = service.run("Export", {"from_date": "2023-03-01", "to_date": "2024-03-09"})
    go = service.run("Export", {"from_date": "2023-Mar-01", "to_date": "2024-Mar-09"})

    files = [client.get(f"/jobs/{job_id}/artifact", buffered=True).data for job_id in (iso, go)]

    assert files[0] == files[1]
    assert len(files[0]) > 1000


def test_the_file_holds_the_rows_between_the_dates_and_is_what_the_details_say(
    client: FlaskClient, service: Any, data: Path
) -> None:
    job_id = service.run("Export", YEAR)

    response = client.get(f"/jobs/{job_id}/artifact", buffered=True)

    with closing(sqlite3.connect(data / "sample.db")) as connection:
        keys = [
            row[0] for row in connection.execute("SELECT id FROM responses WHERE submitted_at < '2024' ORDER BY id")
        ]
    rows = list(csv.DictReader(io.StringIO(response.text, newline="")))
    result = service.details(job_id)["result"]
    assert [int(row["id"]) for row in rows] == keys
    assert result["rows"] == len(keys)
    assert result["bytes"] == len(response.data)
    assert result["sha256"] == hashlib.sha256(response.data).hexdigest()
    assert result["sha256"] in response.headers["ETag"]
    assert result["filename"] in response.headers["Content-Disposition"]


@pytest.mark.parametrize(
    ("file_format", "media_type", "begin"),
    [("csv", "text/csv", b'"id","score"'), ("jsonl", "application/", b'{"id":'), ("parquet", "application/", b"PAR1")],
)
def test_each_format_comes_under_its_media_type_and_ending(
    client: FlaskClient, service: Any, file_format: str, media_type: str, begin: bytes
) -> None:
    job_id = service.run("Export", YEAR | {"format": file_format, "columns": ["id", "score"]})

    response = client.get(f"/jobs/{job_id}/artifact", buffered=True)

    assert response.mimetype.startswith(media_type)
    assert f".{file_format}" in response.headers["Content-Disposition"]
    assert response.data.startswith(begin)


def test_a_completed_export_tells_how_much_it_wrote_and_stays(client: FlaskClient, service: Any) -> None:
    job_id = service.run("Export", YEAR)

    details = service.details(job_id)

    assert details["rows"] == details["done"] == details["total"] == details["result"]["rows"]
    assert details["bytes"] > 0
    assert service.ask("stop", job_id).status_code == 409
    assert client.get(f"/jobs/{job_id}/artifact", buffered=True).status_code == 200


def test_a_halted_export_tells_what_is_kept_and_a_stopped_one_leaves_no_file(
    service: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Small chunks, so that there is time to halt it between two of them.
    monkeypatch.setattr(Export, "chunk_rows", 1)
    job_id = service.submit("Export", YEAR)
    service.wait_until(job_id, lambda details: details.get("rows", 0) >= 2)

    halted = service.ask("halt", job_id).json["details"]

    assert halted["status"] == "Halted"
    assert halted["rows"] == halted["checkpoint"]["done"] >= 2
    (part,) = (settings.data_dir / "jobs" / job_id).iterdir()
    assert part.stat().st_size == halted["bytes"] > 0
    assert (halted["from_date"], halted["to_date"]) == (YEAR["from_date"], YEAR["to_date"])
    assert service.ask("stop", job_id).json["details"]["status"] == "Stopped"
    assert not part.exists()


def test_an_export_goes_on_in_another_process_whatever_was_added_to_the_list_of_datasets(
    service: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Export, "chunk_rows", 10)
    entry = (data / "datasets.toml").read_text().replace("sqlite:///sample.db", f"sqlite:///{data}/sample.db")
    (tmp_path / "datasets.toml").write_text(entry)
    settings = Settings(data_dir=tmp_path, checkpoint_seconds=0.0)
    with JobManager(settings, Registry()) as manager:
        other = type(service)(http=create_app(manager).test_client())
        job_id = other.submit("Export", YEAR)
        other.wait_until(job_id, lambda details: details.get("rows", 0) >= 10)
        assert other.ask("halt", job_id).json["details"]["status"] == "Halted"

    (tmp_path / "datasets.toml").write_text(entry + entry.replace("[responses]", "[more]") + "[bad]\nurl = 7\n")
    with JobManager(settings, Registry()) as manager:
        other = type(service)(http=create_app(manager).test_client())
        other.ask("resume", job_id)

        completed = other.wait_for(job_id, "Completed")

    assert completed["attempt"] == 2
    assert completed["dataset"] == "responses"
    assert completed["result"]["rows_checked"]


@pytest.mark.parametrize("name", examples.SUBMISSIONS)
def test_the_examples_of_the_docs_are_accepted(door: FlaskClient, name: str) -> None:
    response = door.post("/submit", json=examples.SUBMISSIONS[name]["value"])

    assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    ("args", "names"),
    [
        ({"to_date": "2024-01-01"}, ["from_date"]),
        ({"from_date": "2024-01-01"}, ["to_date"]),
        ({}, ["from_date", "to_date"]),
        (YEAR | {"from_date": "2024-02-30"}, ["from_date", "2024-03-09"]),
        (YEAR | {"from_date": "2024-13-01"}, ["from_date", "2024-Mar-09"]),
        (YEAR | {"from_date": "yesterday"}, ["from_date", "2024-03-09"]),
        (YEAR | {"from_date": ""}, ["from_date", "2024-03-09"]),
        (YEAR | {"to_date": "2024-Foo-09"}, ["to_date", "2024-Mar-09"]),
        (YEAR | {"to_date": "09.03.2024"}, ["to_date", "2024-03-09"]),
        (YEAR | {"from_date": 20240101}, ["from_date", "string"]),
        (YEAR | {"from_date": None}, ["from_date", "string"]),
        ({"from_date": "2024-01-02", "to_date": "2024-01-01"}, ["from_date must not be after to_date"]),
        ({"from_date": "2024-Feb-01", "to_date": "2024-01-31"}, ["from_date must not be after to_date"]),
        (YEAR | {"dataset": "respnses"}, ["dataset", "'respnses'", "responses"]),  # codespell:ignore respnses
        (YEAR | {"dataset": "../../etc/passwd"}, ["dataset", "responses"]),
        (YEAR | {"dataset": 7}, ["dataset", "string"]),
        (YEAR | {"columns": ["id", "colour"]}, ["columns", "colour", "submitted_at"]),
        (YEAR | {"columns": []}, ["columns"]),
        (YEAR | {"columns": ["id", "id"]}, ["columns", "twice"]),
        (YEAR | {"columns": ["id; DROP TABLE responses"]}, ["columns", "submitted_at"]),
        (YEAR | {"columns": "id"}, ["columns", "list"]),
        (YEAR | {"columns": [1]}, ["columns", "string"]),
        (YEAR | {"format": "xlsx"}, ["format", "csv", "jsonl", "parquet"]),
        (YEAR | {"format": "CSV"}, ["format", "csv"]),
        (YEAR | {"url": "sqlite:////etc/passwd"}, ["url"]),
        (YEAR | {"table": "sqlite_master"}, ["table"]),
        (YEAR | {"fromdate": "2024-01-01"}, ["fromdate"]),
    ],
)
def test_a_wrong_argument_is_refused_with_its_name_and_what_would_be_right(
    door: FlaskClient, data: Path, args: dict[str, Any], names: list[str]
) -> None:
    response = submit(door, **args)

    assert response.status_code == 400
    assert response.json.keys() == {"jobID", "error"}
    assert response.json["jobID"] == ""
    for name in names:
        assert name in response.json["error"]
    for secret in (str(data), "sample.db", "SELECT", "sqlite://", "pydantic", "Traceback"):
        assert secret not in response.json["error"].replace(json.dumps(args), "")


def test_no_dataset_at_all_is_said_in_a_sentence(settings: Settings, tmp_path: Path) -> None:
    with JobManager(replace(settings, datasets=tmp_path / "none.toml", slots=0), Registry()) as manager:
        response = submit(create_app(manager).test_client(), **YEAR)

    assert response.status_code == 400
    assert "no dataset is configured" in response.json["error"]
    assert str(tmp_path) not in response.text


@pytest.mark.parametrize("text", ["[responses", "[responses]\nurl = 7", "responses = 1", "[responses]\nurl = 'x'"])
def test_a_list_of_datasets_that_is_wrong_is_told_without_showing_it(
    settings: Settings, tmp_path: Path, text: str
) -> None:
    (tmp_path / "secret.toml").write_text(text)
    with JobManager(replace(settings, datasets=tmp_path / "secret.toml", slots=0), Registry()) as manager:
        response = submit(create_app(manager).test_client(), **YEAR)

    assert response.status_code == 400
    assert "operator" in response.json["error"]
    assert "secret" not in response.text


def test_a_database_that_is_away_shows_neither_path_nor_url_in_the_details(
    service: Any, data: Path, settings: Settings
) -> None:
    gone = data / "gone.toml"
    gone.write_text((data / "datasets.toml").read_text().replace("sample.db", "secret/missing.db"))
    elsewhere = replace(settings, datasets=gone, data_dir=settings.data_dir / "other", database_url="")
    with JobManager(elsewhere, Registry()) as manager:
        client = create_app(manager).test_client()
        other = type(service)(http=client)
        job_id = submit(client, **YEAR).json["jobID"]

        details = other.wait_until(job_id, lambda details: "error" in details)
        other.ask("stop", job_id)

    assert "responses" in details["error"], "the dataset is named"
    for secret in (str(data), "secret", "missing.db", "sqlite://", "SELECT"):
        assert secret not in details["error"]
