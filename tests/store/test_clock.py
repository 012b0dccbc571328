"""A step of the wall clock, as after a change by hand or the first answer of a time server, takes nobody's job."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text

from jobmanager.core.outcomes import Settlement
from jobmanager.core.states import Action, Status
from jobmanager.core.values import NewJob
from jobmanager.store import Store
from jobmanager.store.sqlite import clocks


@pytest.mark.parametrize("step", [timedelta(days=1), timedelta(days=-1)], ids=["forward", "backward"])
def test_a_step_of_the_clock_takes_no_job_from_its_owner_and_keeps_none_from_being_claimed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: timedelta
) -> None:
    url = f"sqlite:///{tmp_path}/jobs.db"
    owner = Store(url)
    owner.add([NewJob(id="1", type="Simple", args={})], actor="test")
    owner.claim(1, types=["Simple"], max_running={})

    monkeypatch.setattr(clocks, "wall_clock", lambda: datetime.now(UTC) + step)
    other = Store(url)  # a process that begins after the step

    assert other.expire() == []
    assert other.get("1").status is Status.RUNNING
    other.add([NewJob(id="2", type="Simple", args={})], actor="test")
    assert [job.id for job in other.claim(1, types=["Simple"], max_running={})] == ["2"]
    owner.close()
    other.close()


def test_no_job_that_may_begin_at_once_waits_for_a_clock_that_was_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(f"sqlite:///{tmp_path}/jobs.db")
    store.add([NewJob(id="stopped", type="Simple", args={})], actor="test")
    store.claim(1, types=["Simple"], max_running={})
    store.apply("stopped", Action.STOP)
    store.settle("stopped", 1, Settlement(action=Action.RELEASE, failures=0, error=None))
    store.add([NewJob(id=name, type="Simple", args={}) for name in ("submitted", "resumed")], actor="test")
    store.apply("resumed", Action.HALT)
    store.apply("resumed", Action.RESUME)

    monkeypatch.setattr(store.database, "now", lambda: datetime.now(UTC) - timedelta(hours=1))

    assert [job.id for job in store.claim(3, types=["Simple"], max_running={})] == ["submitted", "resumed"]
    assert [job.id for job in store.claim_to_clean(3, types=["Simple"])] == ["stopped"]
    assert store.get("resumed").run_at == store.get("resumed").submitted_at
    store.close()


def test_a_job_that_is_resumed_after_the_clock_was_set_back_begins_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(f"sqlite:///{tmp_path}/jobs.db")
    names = ["alone", "with others"]
    store.add([NewJob(id=name, type="Simple", args={}) for name in names], actor="test")
    for name in names:
        store.apply(name, Action.HALT)

    monkeypatch.setattr(store.database, "now", lambda: datetime.now(UTC) - timedelta(hours=1))
    store.apply("alone", Action.RESUME)
    store.apply_to_each({"with others": store.now()}, Action.RESUME, statuses=(), actor="ann")

    assert [job.id for job in store.claim(3, types=["Simple"], max_running={})] == names
    store.close()


def test_a_process_that_is_frozen_as_it_looks_at_the_clock_of_the_database_does_not_go_wrong(
    prepared_postgres: str,
) -> None:
    store = Store(prepared_postgres)
    engine = store.database.engine
    asked = []

    def freeze_once(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "clock_timestamp" in statement and not asked:
            asked.append(statement)
            time.sleep(1)

    event.listen(engine, "after_cursor_execute", freeze_once)

    for _ in range(2):  # as it is measured, and as it is known from then on
        now = store.now()
        with engine.connect() as connection:
            theirs = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
        assert abs(theirs - now) < timedelta(seconds=0.3)
    assert asked
    store.close()
