"""A step of the wall clock, as after a change by hand or the first answer of a time server, takes nobody's job."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from jobmanager.records import NewJob
from jobmanager.states import Status
from jobmanager.store import Store, sqlite


@pytest.mark.parametrize("step", [timedelta(days=1), timedelta(days=-1)], ids=["forward", "backward"])
def test_a_step_of_the_clock_takes_no_job_from_its_owner_and_keeps_none_from_being_claimed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: timedelta
) -> None:
    url = f"sqlite:///{tmp_path}/jobs.db"
    owner = Store(url)
    owner.add([NewJob(id="1", type="Simple", args={})], actor="test")
    owner.claim(1, types=["Simple"], max_running={})

    monkeypatch.setattr(sqlite, "_wall_clock", lambda: datetime.now(UTC) + step)
    other = Store(url)  # a process that begins after the step

    assert other.expire() == []
    assert other.get("1").status is Status.RUNNING
    other.add([NewJob(id="2", type="Simple", args={})], actor="test")
    assert [job.id for job in other.claim(1, types=["Simple"], max_running={})] == ["2"]
    owner.close()
    other.close()
