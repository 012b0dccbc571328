"""A server carries what it needs: a library that was imported stays in memory for good."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: What one kind of job, of store, of client or of setting needs, and takes megabytes.
HEAVY = ("adbc_driver_manager", "alembic", "httpx", "opentelemetry", "psycopg", "pyarrow", "rich")
SERVE = """
import sys, time
from jobmanager.http import create_app
app = create_app()
client = app.test_client()

def run(type, **args):
    job_id = client.post("/submit", json={"Type": type, "args": args}).json["jobID"]
    deadline = time.monotonic() + 20
    while (status := client.get(f"/details/{job_id}").json["details"]["status"]) != "Completed":
        assert status in ("Submitted", "Running") and time.monotonic() < deadline, status
        time.sleep(0.01)

run("Simple", steps=0)
for path in ("/health/ready", "/jobs", "/job-types", "/metrics", "/apispec.json"):
    assert client.get(path).status_code == 200, path
"""
EXPORT = 'run("Export", from_date="2023-01-01", to_date="2023-01-02")\n'
TELL = f'app.extensions["jobmanager"].close()\nprint([name for name in {HEAVY} if name in sys.modules])\n'


def imported_by(script: str, data_dir: Path) -> str:
    """Return what a process of its own that runs the script has imported of what is heavy."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("JOBMANAGER_", "OTEL_"))}
    environment |= {"JOBMANAGER_DATA_DIR": str(data_dir), "PYTHONPATH": str(ROOT)}
    told = subprocess.run(
        [sys.executable, "-c", script + TELL], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return told.stdout.strip()


def test_a_server_has_imported_only_what_its_jobs_and_its_store_need(tmp_path: Path) -> None:
    assert imported_by(SERVE, tmp_path) == "['alembic']", "which has made the store"
    assert imported_by(SERVE, tmp_path) == "[]"


def test_the_first_export_brings_what_exports_need(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "jobmanager", "sample", "--rows", "1000"],
        cwd=ROOT,
        env=os.environ | {"JOBMANAGER_DATA_DIR": str(tmp_path)},
        check=True,
    )

    assert "pyarrow" in imported_by(SERVE + EXPORT, tmp_path)
