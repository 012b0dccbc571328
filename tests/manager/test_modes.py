"""What the manager makes in its data folder is for its own user alone, whatever the umask of the process is."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobmanager import JobManager, Settings
from jobmanager.core.states import Status
from jobmanager.jobs.export.sample import make_sample


@pytest.fixture(autouse=True)
def _without_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def until_completed(manager: JobManager, job_id: str) -> None:
    """Wait until the job is completed, for 20 seconds at most."""
    deadline = time.monotonic() + 20
    while (job := manager.get(job_id)).status is not Status.COMPLETED:
        assert time.monotonic() < deadline, job
        time.sleep(0.01)


def open_to_others(folder: Path) -> set[str]:
    """Return what other users could read, write or enter if they got into the folder, and the folder itself."""
    paths = [folder, *folder.rglob("*")]
    return {str(path.relative_to(folder)) for path in paths if stat.S_IMODE(path.stat().st_mode) & 0o077}


def test_no_other_user_can_read_what_the_manager_keeps(tmp_path: Path) -> None:
    sample = make_sample(tmp_path / "sample", rows=1000).parent
    data = tmp_path / "new" / "data"
    settings = Settings(data_dir=data, datasets=sample / "datasets.toml")

    with JobManager(settings) as manager:
        job = manager.submit("Export", {"from_date": "2023-01-01", "to_date": "2024-12-31", "dataset": "responses"})
        until_completed(manager, job.id)
        found = open_to_others(data)
        files = {path.name.partition("-")[0] for path in data.rglob("*")}

    assert {"jobmanager.db", "export"} <= files
    assert found == set()
    assert not stat.S_IMODE(sample.stat().st_mode) & 0o077
    assert not stat.S_IMODE((tmp_path / "new").stat().st_mode) & 0o077


def test_a_data_folder_that_exists_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)

    with JobManager(Settings(data_dir=tmp_path)) as manager:
        manager.ping()

    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o750
