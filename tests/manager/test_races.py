"""Whatever is asked by whom and when: no job is lost, none works twice on a unit, none is left without an end."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest
from pydantic import BaseModel

from jobmanager import Job
from jobmanager.errors import NotAllowed
from jobmanager.registry import Registry

_UNITS = 60
_ENDLESS = 1_000_000


@pytest.fixture
def units(types: Registry, stage: Any) -> type[Job]:
    """Return a registered type that does each unit of its work once, and tells of it."""

    @types.register
    class Units(Job):
        class Args(BaseModel):
            units: int = _UNITS

        def start(self) -> dict[str, int]:
            for unit in range(self.cursor or 0, self.args.units):
                self.wait(0.001)
                stage.tell((self.job_id, unit))
                self.checkpoint(cursor=unit + 1, done=unit + 1, total=self.args.units)
            return {"units": self.args.units}

        def clean(self) -> None:
            stage.tell((self.job_id, "clean"))

    return Units


def told_of(stage: Any, job_id: str) -> list[Any]:
    return [what for whose, what in stage.told if whose == job_id]


def at_once(calls: Iterable[Callable[[], Any]]) -> None:
    """Make all calls at one instant, each in a thread of its own; raises what any of them raised."""
    calls = list(calls)
    barrier = threading.Barrier(len(calls))
    errors: list[BaseException] = []

    def make(call: Callable[[], Any]) -> None:
        barrier.wait(10)
        try:
            call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=make, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    if errors:
        raise errors[0]


def unless_final(ask: Callable[[str], Any], job_id: str) -> None:
    """Ask, and take no for an answer from a job that ends."""
    with contextlib.suppress(NotAllowed):
        ask(job_id)


class Moment:
    """The moment at which something ends, found by coming sooner when it was too late, and later when it was not."""

    def __init__(self) -> None:
        self._seconds = 0.005

    def come(self) -> None:
        time.sleep(self._seconds)

    def was(self, *, too_late: bool) -> None:
        self._seconds *= 0.85 if too_late else 1.15


def pester(ask: Callable[[random.Random], None], *, seed: int, seconds: float) -> Callable[[], None]:
    """Return what asks at random moments, for so long."""

    def run() -> None:
        rng = random.Random(seed)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            ask(rng)
            time.sleep(rng.uniform(0, 0.004))

    return run


@pytest.mark.parametrize("park_seconds", [60.0, 0.003, 0.0], ids=["woken", "either", "unwound"])
@pytest.mark.parametrize("processes", [1, 2])
def test_jobs_that_are_halted_and_resumed_at_random_do_each_unit_of_their_work_once(
    make_manager: Any, units: Any, stage: Any, park_seconds: float, processes: int
) -> None:
    managers = [make_manager(slots=2, park_seconds=park_seconds) for _ in range(processes)]
    jobs = [managers[0].submit("Units").id for _ in range(6)]

    def ask(rng: random.Random) -> None:
        manager = rng.choice(managers)
        unless_final(rng.choice([manager.halt, manager.resume]), rng.choice(jobs))

    at_once(pester(ask, seed=seed, seconds=0.6) for seed in range(4))
    for job in jobs:
        unless_final(managers[-1].resume, job)

    for job in jobs:
        ended = managers[0].until(job, "completed", "failed")
        assert (ended.status, ended.result, ended.error) == ("completed", {"units": _UNITS}, None)
        assert (ended.failures, ended.crashes) == (0, 0)
        assert told_of(stage, job) == list(range(_UNITS))
        managers[0].actions(job)


@pytest.mark.parametrize("park_seconds", [60.0, 0.0], ids=["woken", "unwound"])
@pytest.mark.parametrize("processes", [1, 2])
def test_a_stop_wins_against_any_number_of_halts_and_resumes(
    make_manager: Any, units: Any, stage: Any, park_seconds: float, processes: int
) -> None:
    managers = [make_manager(slots=2, park_seconds=park_seconds) for _ in range(processes)]
    rng = random.Random(processes)

    for _ in range(12):
        job = managers[0].submit("Units", {"units": _ENDLESS}).id
        asks = [ask for manager in managers for ask in (manager.halt, manager.resume, manager.halt, manager.resume)]
        time.sleep(rng.uniform(0, 0.03))
        at_once([*(partial(unless_final, ask, job) for ask in asks), partial(rng.choice(managers).stop, job)])

        stopped = managers[0].until(job, "stopped", "completed", "failed")
        assert stopped.status == "stopped"
        told = told_of(stage, job)
        assert told.count("clean") == (1 if stopped.has_begun() else 0)
        assert "clean" not in told[:-1], "no work after the clean"
        managers[0].actions(job)


def test_a_halt_that_comes_right_at_the_end_either_halts_the_job_or_is_too_late(
    manager: Any, types: Registry, stage: Any
) -> None:
    @types.register
    class Short(Job):
        def start(self) -> dict[str, str]:
            self.checkpoint(cursor="done")
            return {"all": "done"}

    ends = []
    moment = Moment()
    for _ in range(60):
        job = manager.submit("Short").id
        moment.come()
        unless_final(manager.halt, job)
        ends.append(manager.until(job, "completed", "halted").status)
        if ends[-1] == "halted":
            manager.resume(job)
        moment.was(too_late=ends[-1] == "completed")
        assert manager.until(job, "completed").result == {"all": "done"}

    assert set(ends) == {"completed", "halted"}, "the race was one"


def test_a_stop_that_comes_right_at_the_end_either_stops_and_cleans_the_job_or_is_too_late(
    manager: Any, types: Registry, stage: Any
) -> None:
    @types.register
    class Short(Job):
        def start(self) -> None:
            self.checkpoint(cursor="done")

        def clean(self) -> None:
            stage.tell(self.job_id)

    ends = set()
    moment = Moment()
    for _ in range(60):
        job = manager.submit("Short").id
        moment.come()
        unless_final(manager.stop, job)
        ended = manager.until(job, "completed", "stopped")
        ends.add(ended.status)
        moment.was(too_late=ended.status == "completed")
        expected = 1 if ended.status == "stopped" and ended.has_begun() else 0
        assert stage.told.count(job) == expected

    assert ends == {"completed", "stopped"}, "the race was one"


def test_a_halt_and_a_resume_at_one_instant_leave_the_job_halted_or_at_work(
    make_manager: Any, units: Any, stage: Any
) -> None:
    manager = make_manager(park_seconds=0.001)
    job = manager.submit("Units").id

    for _ in range(40):
        at_once([lambda: unless_final(manager.halt, job), lambda: unless_final(manager.resume, job)])
        time.sleep(0.001)
    unless_final(manager.resume, job)

    assert manager.until(job, "completed", "failed").result == {"units": _UNITS}
    assert told_of(stage, job) == list(range(_UNITS))


def test_a_thread_that_is_woken_as_it_gives_up_waiting_goes_on_once(make_manager: Any, units: Any, stage: Any) -> None:
    manager = make_manager(park_seconds=0.02)
    job = manager.submit("Units").id
    manager.until(job, "running")
    rng = random.Random(3)

    for _ in range(30):
        manager.halt(job)
        if manager.until(job, "halted", "completed").status == "completed":
            break
        time.sleep(rng.uniform(0.015, 0.025))
        manager.resume(job)
        manager.until(job, "running", "completed")

    unless_final(manager.resume, job)
    assert manager.until(job, "completed", "failed").result == {"units": _UNITS}
    assert told_of(stage, job) == list(range(_UNITS))


def test_many_jobs_are_all_completed_each_once(make_manager: Any, types: Registry, stage: Any) -> None:
    @types.register
    class Tiny(Job):
        def start(self) -> dict[str, str]:
            stage.tell(self.job_id)
            return {"me": self.job_id}

    manager = make_manager(slots=8)
    jobs = [manager.submit("Tiny").id for _ in range(200)]

    for job in jobs:
        assert manager.until(job, "completed", "failed").result == {"me": job}
    assert sorted(stage.told) == sorted(jobs)


def test_no_more_jobs_work_at_once_than_there_are_slots(make_manager: Any, types: Registry, stage: Any) -> None:
    lock = threading.Lock()
    at_work = {"now": 0, "most": 0}

    @types.register
    class Counted(Job):
        is_at_work = False

        def tell(self, *, is_at_work: bool) -> None:
            with lock:
                at_work["now"] += is_at_work - self.is_at_work
                at_work["most"] = max(at_work["most"], at_work["now"])
            self.is_at_work = is_at_work

        def start(self) -> None:
            self.tell(is_at_work=True)
            try:
                for step in range(self.cursor or 0, 10):
                    self.wait(0.005)
                    self.checkpoint(cursor=step + 1)
            finally:
                self.tell(is_at_work=False)

        def halt(self) -> None:
            self.tell(is_at_work=False)

        def resume(self) -> None:
            self.tell(is_at_work=True)

    manager = make_manager(slots=3)
    jobs = [manager.submit("Counted").id for _ in range(20)]

    def ask(rng: random.Random) -> None:
        unless_final(rng.choice([manager.halt, manager.resume]), rng.choice(jobs))

    at_once(pester(ask, seed=seed, seconds=0.6) for seed in range(2))
    for job in jobs:
        unless_final(manager.resume, job)
    for job in jobs:
        manager.until(job, "completed")

    assert at_work == {"now": 0, "most": 3}


def test_a_job_whose_halt_is_taken_back_has_kept_its_slot(make_manager: Any, steps: Any, stage: Any) -> None:
    manager = make_manager(slots=1)
    job = manager.submit("Steps").id
    manager.until(job, "running")
    is_about_to_halt = threading.Event()

    def fault(name: str) -> None:
        if name == "settle" and not is_about_to_halt.is_set():
            is_about_to_halt.set()
            stage.pass_gate("taken back")

    manager.store.fault = fault
    manager.halt(job)
    assert is_about_to_halt.wait(10)
    other = manager.submit("Steps").id

    seen = manager.wait(other, unless=("submitted",), wait=0.3)
    manager.resume(job)
    stage.open("taken back")
    manager.wait_until(lambda: "resume" in [what for what, _ in stage.told])

    assert seen.status == "submitted"
    assert [manager.get(job).status, manager.get(other).status] == ["running", "submitted"]
    assert manager.get(job).attempt == 1, "it went on in its thread"
