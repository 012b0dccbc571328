"""What has long finished is removed, with everything that belongs to it; nothing else is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from jobmanager.config import Settings
from jobmanager.core.states import Status
from jobmanager.core.values import JobRecord
from jobmanager.errors import UnknownJob
from jobmanager.job import Job
from jobmanager.manager import JobManager
from jobmanager.registry import Registry


class Note(Job):
    """Leaves a file, and a line in its log."""

    def start(self) -> dict[str, str]:
        self.log.info("writing")
        (self.workdir / "note.txt").write_text("kept")
        return {"file": "note.txt"}


class Broken(Job):
    """Fails."""

    def start(self) -> None:
        raise ValueError("broken")


@pytest.fixture
def types() -> Registry:
    types = Registry()
    types.register(Note)
    types.register(Broken)
    return types


@pytest.fixture
def manager(tmp_path: Path, types: Registry) -> Iterator[JobManager]:
    with JobManager(Settings(data_dir=tmp_path), types) as manager:
        yield manager


def finished(manager: JobManager, name: str) -> JobRecord:
    job = manager.submit(name)
    return manager.wait(job.id, unless=(Status.SUBMITTED, Status.RUNNING), wait=5)


def test_jobs_beyond_the_newest_go_with_their_changes_log_and_files(manager: JobManager, tmp_path: Path) -> None:
    jobs = [finished(manager, "Note") for _ in range(5)]

    removed = manager.prune(keep=2)

    assert removed == 3
    for job in jobs[:3]:
        assert not (tmp_path / "jobs" / job.id).exists()
        with pytest.raises(UnknownJob):
            manager.changes(job.id)
    for job in jobs[3:]:
        assert manager.artifact(job.id).path.read_text() == "kept"
        assert [line.message for line in manager.log(job.id)] == ["writing"]


def test_jobs_that_are_not_finished_stay_however_old(manager: JobManager) -> None:
    old = finished(manager, "Note")
    waiting = manager.submit("Note", run_at=old.submitted_at + timedelta(days=1))

    manager.prune(before=waiting.submitted_at + timedelta(days=2))

    assert manager.get(waiting.id).status is Status.SUBMITTED
    with pytest.raises(UnknownJob):
        manager.get(old.id)


def test_a_failed_job_which_may_be_resumed_goes_by_age_alone(manager: JobManager) -> None:
    job = finished(manager, "Broken")
    assert job.finished_at is not None

    manager.prune(keep=0)
    assert manager.get(job.id).status is Status.FAILED

    manager.prune(before=job.finished_at + timedelta(seconds=1))
    with pytest.raises(UnknownJob):
        manager.get(job.id)


def test_a_download_goes_on_while_its_job_is_removed(manager: JobManager) -> None:
    job = finished(manager, "Note")

    with manager.artifact(job.id).path.open() as download:
        manager.prune(keep=0)

        assert download.read() == "kept"


def test_the_service_removes_by_itself_what_the_settings_say(tmp_path: Path, types: Registry) -> None:
    with JobManager(Settings(data_dir=tmp_path), types) as manager:
        jobs = [finished(manager, "Note") for _ in range(3)]

    with JobManager(Settings(data_dir=tmp_path, keep_jobs=1), types) as manager:
        deadline = time.monotonic() + 10
        while (tmp_path / "jobs" / jobs[1].id).exists() and time.monotonic() < deadline:
            manager.wait(jobs[2].id, unless=(Status.COMPLETED,), wait=0.05)

        assert [path.name for path in (tmp_path / "jobs").iterdir()] == [jobs[2].id]
