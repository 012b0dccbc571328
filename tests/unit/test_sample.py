"""The sample data: the same everywhere, whole or not there at all, and ready to be exported."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from jobmanager.jobs.export import sample
from jobmanager.jobs.export.datasets import load_datasets
from jobmanager.jobs.export.sample import make_sample


def rows_of(path: Path) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT * FROM responses ORDER BY submitted_at, id").fetchall()


def test_the_sample_is_the_same_each_time(tmp_path: Path) -> None:
    first = make_sample(tmp_path / "a", 2000)
    second = make_sample(tmp_path / "b", 2000)

    assert rows_of(first) == rows_of(second)
    assert len(rows_of(first)) == 2000


def test_the_sample_has_what_an_export_can_stumble_over(tmp_path: Path) -> None:
    rows = rows_of(make_sample(tmp_path, 50_000))

    dates = [row[1] for row in rows]
    comments = {row[6] for row in rows}
    assert dates[0].startswith("2023-01-01 ")
    assert dates[-1].startswith("2024-12-31 ")
    assert len(set(dates)) < len(dates), "ties"
    assert {None, ""} < comments
    for part in ('"', ",", "\n"):
        assert any(part in comment for comment in comments if comment)
    assert not all(comment.isascii() for comment in comments if comment)
    assert any(row[5] is None for row in rows)


def test_its_list_of_datasets_names_it_and_its_order_has_an_index(tmp_path: Path) -> None:
    path = make_sample(tmp_path, 10)

    (dataset,) = load_datasets(tmp_path / "datasets.toml").values()

    assert (dataset.name, dataset.table) == ("responses", "responses")
    assert dataset.url.database == str(path)
    with closing(sqlite3.connect(path)) as connection:
        order = f"ORDER BY {dataset.date_column}, {dataset.key}"
        plan = connection.execute(f"EXPLAIN QUERY PLAN SELECT * FROM responses {order}").fetchall()
    assert "USING INDEX" in plan[0][3]


def test_what_is_there_already_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "datasets.toml").write_text("# mine\n")
    path = make_sample(tmp_path, 10)
    stamp = path.stat().st_mtime_ns

    make_sample(tmp_path, 20)

    assert (tmp_path / "datasets.toml").read_text() == "# mine\n"
    assert path.stat().st_mtime_ns == stamp
    assert len(rows_of(path)) == 10


def test_a_run_that_died_leaves_nothing_that_looks_done_and_the_next_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sample, "responses", lambda rows: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            make_sample(tmp_path, 10)
    assert not (tmp_path / "sample.db").exists()
    assert not (tmp_path / "datasets.toml").exists()

    make_sample(tmp_path, 10)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["datasets.toml", "sample.db"]


def test_processes_that_come_at_once_make_it_once(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib; from jobmanager.jobs.export.sample import make_sample; "
        "make_sample(pathlib.Path(sys.argv[1]), 5000)"
    )
    root = Path(sample.__file__).parents[3]

    processes = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], cwd=root) for _ in range(2)]

    assert [process.wait(30) for process in processes] == [0, 0]
    assert len(rows_of(tmp_path / "sample.db")) == 5000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["datasets.toml", "sample.db"]
