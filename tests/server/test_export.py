"""An export is exact: the same bytes, however often it was halted, frozen or killed."""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from gunicorn_server import Server, stopped_between_writes, until

from jobmanager.jobs.export.sample import make_sample

FORMATS = ("csv", "jsonl", "parquet")
ROWS = 120_000
TIMES = 5


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the configuration of a sample dataset."""
    folder = tmp_path_factory.mktemp("sample")
    make_sample(folder, ROWS)
    return folder / "datasets.toml"


@pytest.fixture(scope="module")
def undisturbed(datasets: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the SHA-256 of the file of each format, from exports that nothing interrupted."""
    server = Server(tmp_path_factory.mktemp("undisturbed") / "data", DATASETS=datasets)
    try:
        server.start()
        jobs = _submit(server)
        server.until_status("completed", *jobs.values(), seconds=60)
        return {name: _sha256(server, job) for name, job in jobs.items()}
    finally:
        server.close()


@pytest.fixture
def serve(make_server: Callable[..., Server], datasets: Path) -> Callable[..., Server]:
    """Return what starts a server that can export the sample dataset."""
    return lambda **settings: make_server(DATASETS=datasets, MAX_CRASHES=1000, **settings).start()


@pytest.mark.parametrize("park_seconds", [60, 0], ids=["in the thread that waits", "in a new thread"])
def test_an_export_halted_and_resumed_five_times_makes_the_same_file(
    serve: Callable[..., Server], undisturbed: dict[str, str], park_seconds: int
) -> None:
    server = serve(workers=1, PARK_SECONDS=park_seconds)
    jobs = _submit(server)

    for _ in range(TIMES):
        _until_all_move(server, jobs)
        for job in jobs.values():
            assert server.ask("halt", job)["status"] == "Halted"
        for job in jobs.values():
            server.ask("resume", job)
    server.until_status("completed", *jobs.values(), seconds=60)

    for job in jobs.values():
        assert [change["action"] for change in server.changes(job)].count("yield") == TIMES
    assert {name: _sha256(server, job) for name, job in jobs.items()} == undisturbed


def test_an_export_killed_five_times_makes_the_same_file(
    serve: Callable[..., Server], undisturbed: dict[str, str]
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    server = serve(workers=2)
    jobs = _submit(server)

    for _ in range(TIMES):
        _until_all_move(server, jobs)
        time.sleep(rng.uniform(0, 0.02))  # not on the heels of a checkpoint, which is what was waited for
        server.restart()
    server.until_status("completed", *jobs.values(), seconds=60)

    for job in jobs.values():
        assert [change["action"] for change in server.changes(job)].count("expire") == TIMES
        assert server.job(job)["failures"] == 0
    assert {name: _sha256(server, job) for name, job in jobs.items()} == undisturbed


def test_an_export_whose_worker_was_frozen_and_replaced_makes_the_same_file(
    serve: Callable[..., Server], undisturbed: dict[str, str]
) -> None:
    server = serve(workers=1)
    jobs = _submit(server)
    _until_all_move(server, jobs)

    with stopped_between_writes(server):
        successor = serve(workers=1)
        until(lambda: all(successor.job(job)["attempt"] == 2 for job in jobs.values()), successor.log)
        _until_all_move(successor, jobs)
    successor.until_status("completed", *jobs.values(), seconds=60)
    until(lambda: all(f"Attempt 1 of job {job} " in server.log() for job in jobs.values()), server.log)

    assert {name: _sha256(successor, job) for name, job in jobs.items()} == undisturbed


def test_a_stopped_export_leaves_no_file_even_if_it_was_killed_before(serve: Callable[..., Server]) -> None:
    server = serve(workers=2)
    jobs = _submit(server)
    _until_all_move(server, jobs)

    server.restart()
    for job in jobs.values():
        server.ask("stop", job)
    server.until_status("stopped", *jobs.values())

    assert not any(server.folder(job).exists() for job in jobs.values())


def _submit(server: Server) -> dict[str, str]:
    """Start an export of everything in each format; returns the jobs by format."""
    return {
        name: server.submit("Export", from_date="2023-01-01", to_date="2024-12-31", format=name) for name in FORMATS
    }


def _until_all_move(server: Server, jobs: dict[str, str]) -> None:
    """Wait until each job has saved a checkpoint that it had not saved before."""
    seen = {job: server.job(job)["checkpoint_seq"] for job in jobs.values()}
    for job, seq in seen.items():
        until(
            lambda job=job, seq=seq: server.job(job)["checkpoint_seq"] > seq,
            lambda job=job: f"{server.job(job)}\n{server.log()}",
        )
        assert server.status(job) == "running", f"{server.job(job)} was too fast for this test"


def _sha256(server: Server, job: str) -> str:
    """Return the hash of the file as a client gets it."""
    answer = server.client.get(f"/jobs/{job}/artifact")
    assert answer.status_code == 200
    found = hashlib.sha256(answer.content).hexdigest()
    assert found == server.details(job)["result"]["sha256"]
    assert os.path.getsize(server.folder(job) / server.details(job)["result"]["file"]) == len(answer.content)
    return found
