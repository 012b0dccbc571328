"""The datasets over HTTP: what a form needs, nothing of the operator's, and soon, whatever the databases do."""

from __future__ import annotations

import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from jobmanager import JobManager, Settings
from jobmanager.http import create_app
from jobmanager.jobs.export import bounded
from jobmanager.registry import Registry

ENTRY = '[orders]\nurl = "sqlite:///secret.db"\ntable = "hidden"\ndate_column = "at"\nkey = "id"\n'
YEAR = {"from_date": "2023-01-01", "to_date": "2023-12-31"}


@pytest.fixture
def client(tmp_path: Path) -> Iterator[FlaskClient]:
    with closing(sqlite3.connect(tmp_path / "secret.db")) as connection, connection:
        connection.execute("CREATE TABLE hidden (id INTEGER PRIMARY KEY, at TEXT, amount REAL)")
    with JobManager(Settings(data_dir=tmp_path, slots=0), Registry()) as manager:
        yield create_app(manager).test_client()


@pytest.fixture
def silent() -> Iterator[str]:
    """The URL of a database that accepts connections and says nothing; it ends them when the test is over."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"postgresql://me:secret@127.0.0.1:{server.getsockname()[1]}/secret"
    # The questions end with their connections; no thread is left.
    for thread in [thread for thread in threading.enumerate() if "asks-a-database" in thread.name]:
        thread.join(15)
        assert not thread.is_alive()


def configure(tmp_path: Path, text: str) -> None:
    (tmp_path / "datasets.toml").write_text(text)


def test_a_dataset_is_shown_with_its_columns_and_without_where_it_is(client: FlaskClient, tmp_path: Path) -> None:
    configure(tmp_path, ENTRY + 'timezone = "Europe/Vienna"\ndate_format = "space"\n')

    answer = client.get("/datasets")

    assert answer.status_code == 200
    columns = [{"name": "id", "type": "int64"}, {"name": "at", "type": "string"}, {"name": "amount", "type": "double"}]
    assert answer.json == {
        "datasets": [
            {
                "name": "orders",
                "date_column": "at",
                "date_format": "space",
                "timezone": "Europe/Vienna",
                "columns": columns,
                "error": None,
            }
        ],
        "formats": ["csv", "jsonl", "parquet"],
        "error": None,
    }


def test_datasets_that_cannot_be_used_are_shown_with_the_reason(client: FlaskClient, tmp_path: Path) -> None:
    away = ENTRY.replace("[orders]", "[away]").replace("secret.db", "secret/none.db")
    bad = ENTRY.replace("[orders]", "[bad]").replace("key", "ky")
    own = ENTRY.replace("[orders]", "[own]").replace("secret.db", "jobmanager.db")
    configure(tmp_path, ENTRY + away + bad + own)

    answer = client.get("/datasets")

    shown = {each["name"]: each for each in answer.json["datasets"]}
    assert list(shown) == ["away", "bad", "orders", "own"]
    assert [name for name, each in shown.items() if each["columns"]] == ["orders"]
    assert "The database of dataset 'away' cannot be read" in shown["away"]["error"]
    assert "unknown field ky (did you mean key?)" in shown["bad"]["error"]
    assert "is the service's own database" in shown["own"]["error"]
    for secret in ("secret", "hidden", "sqlite", str(tmp_path)):
        assert secret not in answer.text


@pytest.mark.parametrize(("text", "error"), [("", None), ("[one", "the operator's list of datasets cannot be read")])
def test_a_list_that_is_empty_or_cannot_be_read_shows_no_dataset(
    client: FlaskClient, tmp_path: Path, text: str, error: str | None
) -> None:
    configure(tmp_path, text)

    answer = client.get("/datasets").json

    assert answer["datasets"] == []
    assert (answer["error"] or "").startswith(error or "")
    assert (answer["error"] is None) == (error is None)


def test_silent_databases_hold_up_neither_the_list_nor_submissions(
    client: FlaskClient, tmp_path: Path, silent: str
) -> None:
    entries = [ENTRY.replace("[orders]", f"[s{number}]").replace("sqlite:///secret.db", silent) for number in range(9)]
    configure(tmp_path, ENTRY + "".join(entries))
    began = time.monotonic()

    shown = client.get("/datasets").json["datasets"]
    listed_after = time.monotonic() - began
    submitted = client.post("/jobs", json={"type": "Export", "args": YEAR | {"dataset": "s1", "columns": ["id"]}})
    submitted_after = time.monotonic() - began - listed_after

    assert [each["name"] for each in shown if each["columns"]] == ["orders"]
    errors = {each["error"] for each in shown if each["error"]}
    assert "The database did not answer within 2 s." in errors
    assert "Too many requests are waiting for databases. Try again later." in errors
    assert submitted.status_code == 202, "the job finds out whether there are such columns"
    assert listed_after < 8
    assert submitted_after < 1, "two questions are open already"


def test_no_more_than_two_questions_are_asked_at_once() -> None:
    go_on = threading.Event()
    asked: list[Any] = []

    def question() -> str:
        asked.append(None)
        assert go_on.wait(10)
        return "answer"

    for _ in range(bounded.MOST_QUERIES):
        with pytest.raises(bounded.QueryTimeout, match=r"did not answer within 0\.01 s"):
            bounded.query_with_timeout(question, seconds=0.01)
    with pytest.raises(bounded.QueryTimeout, match="Too many requests are waiting"):
        bounded.query_with_timeout(question, seconds=5)
    go_on.set()
    for thread in [thread for thread in threading.enumerate() if "asks-a-database" in thread.name]:
        thread.join(10)

    assert len(asked) == bounded.MOST_QUERIES == 2
    assert bounded.query_with_timeout(question, seconds=5) == "answer"


def test_what_a_question_raises_is_raised_and_gives_its_place_back() -> None:
    for _ in range(5):
        with pytest.raises(ZeroDivisionError):
            bounded.query_with_timeout(lambda: 1 / 0, seconds=5)


def test_a_question_whose_thread_cannot_be_started_gives_its_place_back(refuse_thread: Any) -> None:
    for _ in range(bounded.MOST_QUERIES):
        refuse_thread("-asks-a-database", RuntimeError("can't start new thread"))
        with pytest.raises(RuntimeError, match="can't start new thread"):
            bounded.query_with_timeout(lambda: "answer", seconds=5)

    assert bounded.query_with_timeout(lambda: "answer", seconds=5) == "answer"
