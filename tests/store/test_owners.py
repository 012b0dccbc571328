"""Processes on one SQLite file know at once when one of them has died."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from jobmanager.core.states import Status
from jobmanager.core.values import NewJob
from jobmanager.store import Store
from jobmanager.store.owner import boot_id

CLAIM_AND_WAIT = """
import sys
from jobmanager.store import Store
store = Store(sys.argv[1], lease_seconds=3600)
print(len(store.claim(1, types=["Simple"], max_running={})), flush=True)
sys.stdin.read()
"""


def test_a_job_is_taken_over_at_once_when_its_process_is_killed_however_long_its_lease(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/jobs.db"
    store = Store(url)
    store.add([NewJob(id="1", type="Simple", args={})], actor="test")
    arguments = [sys.executable, "-c", CLAIM_AND_WAIT, url]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"1\n"
        assert store.expire() == [], "its process lives"

        process.send_signal(signal.SIGKILL)
        process.wait(timeout=10)

        assert [applied.job.status for applied in store.expire()] == [Status.SUBMITTED]
    store.close()


def test_a_process_that_leaves_is_forgotten(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/jobs.db"
    store, other = Store(url), Store(url)

    other.close()

    assert [path.name for path in (tmp_path / "jobs.db-owners").iterdir()] == [store.owner]
    store.close()


@pytest.fixture
def no_boot_id(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Let the system not identify its boots: it has no /proc, and no program sysctl."""
    read_text = Path.read_text

    def refuse(path: Path, *args: Any, **kwargs: Any) -> str:
        if path.is_relative_to("/proc"):
            raise FileNotFoundError(path)
        return read_text(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", refuse)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    boot_id.cache_clear()
    yield
    boot_id.cache_clear()


def held_job(url: str) -> Store:
    """Return a store whose process holds a job, with a lease of an hour."""
    store = Store(url, lease_seconds=3600)
    store.add([NewJob(id="1", type="Simple", args={})], actor="test")
    assert len(store.claim(1, types=["Simple"], max_running={})) == 1
    return store


def take_over_after_a_boot(url: str) -> list[Status]:
    """Return what becomes of the jobs of a process that ended with the machine, with nothing left of its files."""
    store = held_job(url)
    with store.database.engine.connect().execution_options(is_writer=True) as connection, connection.begin():
        connection.execute(text("UPDATE jobs SET owner = '0ld:host:1:0-0'"))
    store.close()
    boot_id.cache_clear()
    later = Store(url)
    taken = [applied.job.status for applied in later.expire()]
    later.close()
    return taken


def test_a_job_from_before_a_boot_is_taken_over_when_a_store_is_opened(tmp_path: Path) -> None:
    assert take_over_after_a_boot(f"sqlite:///{tmp_path}/jobs.db") == [Status.SUBMITTED]


@pytest.mark.usefixtures("no_boot_id")
def test_a_job_from_before_a_boot_is_taken_over_if_the_system_does_not_identify_its_boots(tmp_path: Path) -> None:
    assert take_over_after_a_boot(f"sqlite:///{tmp_path}/jobs.db") == [Status.SUBMITTED]


@pytest.mark.usefixtures("no_boot_id")
def test_a_living_process_keeps_its_jobs_if_the_system_does_not_identify_its_boots(tmp_path: Path) -> None:
    store = held_job(f"sqlite:///{tmp_path}/jobs.db")
    boot_id.cache_clear()  # another process does not know the same boot

    other = Store(f"sqlite:///{tmp_path}/jobs.db")

    assert not other.owner.startswith(store.owner.split(":")[0])
    assert other.expire() == []
    assert store.get("1").status is Status.RUNNING
    store.close()
    other.close()


@pytest.mark.usefixtures("no_boot_id")
def test_processes_of_one_boot_of_macos_know_each_other(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "sysctl"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\n[ "$*" = "-n kern.bootsessionuuid" ] && echo 7F3C2A10-9E4B-4D0C-8B6E-5A1F0C9D2E37\n')
    program.chmod(0o755)
    store = held_job(f"sqlite:///{tmp_path}/jobs.db")
    boot_id.cache_clear()  # another process asks again

    other = Store(f"sqlite:///{tmp_path}/jobs.db")

    assert store.owner.startswith("7f3c2a10:")
    assert [applied.job.status for applied in other.release_process(os.getpid())] == [Status.SUBMITTED]
    store.close()
    other.close()
