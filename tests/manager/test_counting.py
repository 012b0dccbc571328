"""How many jobs there are stays right, even where somebody wrote who counts none."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobmanager.config import Settings
from jobmanager.engine import dispatcher
from jobmanager.errors import StoreUnavailable
from jobmanager.manager import JobManager


def shown(manager: JobManager) -> list[str]:
    """Return what /metrics says of how many jobs there are."""
    return [line for line in manager.metrics().decode().splitlines() if line.startswith("jobmanager_jobs{")]


def test_counts_that_are_wrong_are_told_and_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, until: Callable[..., Any]
) -> None:
    monkeypatch.setattr(dispatcher, "COUNT_SECONDS", 0.05)
    monkeypatch.setattr(dispatcher, "FIRST_COUNT_SECONDS", 0.05)
    with JobManager(Settings(data_dir=tmp_path, slots=0)) as manager, caplog.at_level(logging.WARNING):
        for _ in range(3):
            manager.submit("Simple", {})
        with sqlite3.connect(tmp_path / "jobmanager.db") as other:
            other.execute("UPDATE jobs SET status = 'halted' WHERE number = 2")
        other.close()

        right = [
            'jobmanager_jobs{status="halted",type="Simple"} 1.0',
            'jobmanager_jobs{status="submitted",type="Simple"} 2.0',
        ]
        until(lambda: shown(manager) == right, "the counts to be mended")

    assert (
        "The counts of jobs were wrong and are corrected now: +1 Simple halted, -1 Simple submitted." in caplog.messages
    )


def test_halts_are_heard_and_leases_renewed_while_the_counts_are_checked(
    make_manager: Any, steps: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("COUNT_SECONDS", "FIRST_COUNT_SECONDS"):
        monkeypatch.setattr(dispatcher, name, 0.05)
    is_checking, is_over = threading.Event(), threading.Event()

    def take_long(name: str) -> None:
        if name == "correct_count":
            is_checking.set()
            is_over.wait(20)

    manager, other = make_manager(lease_seconds=0.6), make_manager(slots=0)
    manager.store.fault = take_long
    job_id = manager.submit("Steps").id
    manager.until(job_id, "running")
    assert is_checking.wait(10)
    leased_until = manager.get(job_id).lease_expires_at

    manager.wait_until(lambda: manager.get(job_id).lease_expires_at > leased_until, "the lease to be renewed")
    assert other.halt(job_id, wait=5).status == "halted"
    is_over.set()


def test_a_check_of_the_counts_that_fails_harms_nothing(
    make_manager: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("COUNT_SECONDS", "FIRST_COUNT_SECONDS"):
        monkeypatch.setattr(dispatcher, name, 0.05)
    manager = make_manager()
    manager.store.fault = lambda name: StoreUnavailable("It is away.") if name == "correct_count" else None

    manager.wait_until(lambda: "The counts of jobs could not be checked: It is away." in caplog.messages)
