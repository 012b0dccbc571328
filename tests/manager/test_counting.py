"""How many jobs there are stays right, even where somebody wrote who counts none."""

from __future__ import annotations

import logging
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobmanager.config import Settings
from jobmanager.manager import JobManager


def shown(manager: JobManager) -> list[str]:
    """Return what /metrics says of how many jobs there are."""
    return [line for line in manager.metrics().decode().splitlines() if line.startswith("jobmanager_jobs{")]


def test_counts_that_are_wrong_are_told_and_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, until: Callable[..., Any]
) -> None:
    monkeypatch.setattr(sys.modules["jobmanager.engine"], "_COUNT_SECONDS", 0.05)
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

    assert "Jobs were not counted right, and are now: +1 Simple halted, -1 Simple submitted." in caplog.messages
