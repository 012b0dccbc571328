"""A service that was installed without an extra runs, and says which extra is missing as soon as it is needed."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXPORT = ("pyarrow", "orjson", "adbc_driver_manager", "adbc_driver_sqlite", "adbc_driver_postgresql")
ALL = (*EXPORT, "psycopg", "pymysql", "duckdb", "opentelemetry")


def run_without(packages: tuple[str, ...], program: str, folder: Path) -> str:
    """Run a program in a process that cannot import the packages, and return what it printed."""
    hidden = f"import sys; sys.modules.update(dict.fromkeys({packages!r}))\n"
    done = subprocess.run(
        [sys.executable, "-c", hidden + textwrap.dedent(program)],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "JOBMANAGER_DATA_DIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_service_without_any_extra_runs_jobs_and_shows_its_pages(tmp_path: Path) -> None:
    shown = run_without(
        ALL,
        """
        from jobmanager import JobManager, Settings
        from jobmanager.http import create_app

        with JobManager(Settings(data_dir="data")) as manager:
            job = manager.submit("Simple", {"steps": 1, "seconds": 0})
            manager.wait(job.id, unless=("submitted", "running"), wait=30)
            client = create_app(manager).test_client()
            print(manager.get(job.id).status)
            print([client.get(path).status_code for path in ("/", "/apispec.json", "/datasets", "/metrics")])
        """,
        tmp_path,
    )

    assert shown.splitlines() == ["completed", "[200, 200, 200, 200]"]


def test_an_export_is_refused_at_submission_if_arrow_is_not_installed(tmp_path: Path) -> None:
    shown = run_without(
        EXPORT,
        """
        from jobmanager import JobManager, Settings
        from jobmanager.http import create_app

        with JobManager(Settings(data_dir="data", slots=0)) as manager:
            args = {"from_date": "2024-01-01", "to_date": "2024-12-31"}
            response = create_app(manager).test_client().post("/submit", json={"Type": "Export", "args": args})
            print(response.status_code, response.json["error"])
        """,
        tmp_path,
    )

    assert shown == "400 exports need pyarrow; the operator must install jobmanager[export]\n"


@pytest.mark.parametrize(
    ("hidden", "url", "error"),
    [
        (EXPORT, "sqlite:///x.db", "Exports need pyarrow, which is not installed. Install the service as {}[export]."),
        (
            ("psycopg",),
            "postgresql://me@127.0.0.1:1/x",
            "The table 't' of dataset 'set' cannot be read: psycopg is not installed. "
            "Install the service as {}[postgresql].",
        ),
        (
            ("pymysql",),
            "mysql://me@127.0.0.1:1/x",
            "The table 't' of dataset 'set' cannot be read: PyMySQL is not installed. "
            "Install the service as {}[mysql].",
        ),
        (
            ("duckdb",),
            "duckdb:///x.duckdb",
            "The table 't' of dataset 'set' cannot be read: DuckDB is not installed. "
            "Install the service as {}[duckdb].",
        ),
    ],
    ids=["export", "postgresql", "mysql", "duckdb"],
)
def test_a_dataset_whose_driver_is_not_installed_has_an_error_that_names_the_extra(
    tmp_path: Path, hidden: tuple[str, ...], url: str, error: str
) -> None:
    (tmp_path / "datasets.toml").write_text(f'[set]\nurl = "{url}"\ntable = "t"\ndate_column = "at"\nkey = "id"\n')

    shown = run_without(
        hidden,
        """
        from pathlib import Path
        from jobmanager.jobs.export.dataset_check import check_dataset
        from jobmanager.jobs.export.datasets import load_datasets

        print(check_dataset(load_datasets(Path("datasets.toml"))["set"]).error)
        """,
        tmp_path,
    )

    assert shown == error.format("jobmanager") + "\n"


def test_a_store_on_postgresql_is_refused_if_its_driver_is_not_installed(tmp_path: Path) -> None:
    shown = run_without(
        ("psycopg",),
        """
        from jobmanager.errors import ConfigError
        from jobmanager.store import Store

        try:
            Store("postgresql://me:secret@127.0.0.1:1/jobs")
        except ConfigError as error:
            print(error)
        """,
        tmp_path,
    )

    assert shown == (
        "JOBMANAGER_DATABASE_URL cannot be used: PostgreSQL needs psycopg, which is not installed. "
        "Install the service as jobmanager[postgresql].\n"
    )
