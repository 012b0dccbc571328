"""A manager on a real store, and what the tests' job types tell and wait for."""

from __future__ import annotations

import itertools
import random
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jobmanager import Job, JobManager, Settings
from jobmanager.core.states import TRANSITIONS
from jobmanager.core.values import JobRecord
from jobmanager.engine.dispatcher import Engine
from jobmanager.registry import Registry
from jobmanager.store import Store

#: How long a job in a test waits for the test at most.
_GATE_SECONDS = 20.0

MakeManager = Callable[..., "Manager"]


class Stage:
    """What jobs tell a test, in order, and the gates at which they wait for it."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self._gates: defaultdict[str, threading.Event] = defaultdict(threading.Event)

    def tell(self, what: Any) -> None:
        """Add a line; called by jobs."""
        self.told.append(what)

    def open(self, name: str) -> None:
        """Let every thread pass that waits at the gate, now or later."""
        self._gates[name].set()

    def pass_gate(self, name: str) -> None:
        """Wait at the gate, deaf to everything else; called by jobs."""
        assert self._gates[name].wait(_GATE_SECONDS), f"nobody opened {name}"

    def is_open(self, name: str) -> bool:
        """Return True if the gate is open."""
        return self._gates[name].is_set()

    def wait_at(self, name: str, seconds: float) -> None:
        """Wait at the gate, for that long at most."""
        self._gates[name].wait(seconds)

    def open_all(self) -> None:
        """Let go of every thread, so that it can end."""
        for gate in list(self._gates.values()):
            gate.set()


class FaultyStore:
    """The store, with calls that fail if a test wants it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        #: returns what the call of that name raises, if anything; it may block as well
        self.fault: Callable[[str], BaseException | None] = lambda name: None

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._store, name)
        if not callable(value):
            return value

        def call(*args: Any, **kwargs: Any) -> Any:
            if (error := self.fault(name)) is not None:
                raise error
            return value(*args, **kwargs)

        return call


class Manager(JobManager):
    """A JobManager whose store can be made to fail, with what a test asks of it again and again."""

    store: FaultyStore

    def __init__(
        self, settings: Settings, types: Registry, until: Callable[..., Any], rng: Callable[[], float]
    ) -> None:
        super().__init__(settings, types, rng=rng)
        self.wait_until = until

    @property
    def engine(self) -> Engine:
        """The engine, started if it was not."""
        return self._runtime.start().engine

    def _open_store(self) -> Store:
        self.store = FaultyStore(super()._open_store())
        return self.store  # type: ignore[return-value]

    def until(self, job_id: str, *statuses: str) -> JobRecord:
        """Return the job as soon as its status is one of these."""
        self.wait_until(lambda: self.get(job_id).status in statuses, lambda: f"{statuses}: {self.get(job_id)}")
        return self.get(job_id)

    def actions(self, job_id: str) -> list[str]:
        """Return what happened to the job, after checking that the table has it and attempts only grew."""
        changes = self.changes(job_id)
        for before, after in itertools.pairwise(changes):
            assert after.from_status is before.to_status
            assert after.attempt >= before.attempt
            assert after.at >= before.at
        for change in changes[1:]:
            assert change.from_status is not None
            if change.from_status is not change.to_status or change.action != "stop":
                assert (change.from_status, change.action) in TRANSITIONS
        return [str(change.action) for change in changes]

    def log_text(self, job_id: str) -> str:
        """Return what the job logged, as one text."""
        return "\n".join(line.message for line in self.log(job_id))


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.open_all()


@pytest.fixture
def types() -> Registry:
    return Registry()


@pytest.fixture
def rng() -> Callable[[], float]:
    """Return what spreads retries."""
    return random.random


@pytest.fixture
def make_manager(
    tmp_path: Path, types: Registry, stage: Stage, until: Any, rng: Callable[[], float]
) -> Iterator[MakeManager]:
    """Return what makes managers on one store, as several processes would be; closed after the test."""
    managers: list[Manager] = []

    def make(*, own_types: Registry | None = None, rng: Callable[[], float] = rng, **settings: Any) -> Manager:
        usual: dict[str, Any] = {"data_dir": tmp_path / "var", "checkpoint_seconds": 0.0, "slots": 4}
        manager = Manager(Settings(**(usual | settings)), types if own_types is None else own_types, until, rng)
        managers.append(manager)
        manager.start()
        return manager

    yield make
    stage.open_all()
    for manager in managers:
        if hasattr(manager, "store"):
            manager.store.fault = lambda name: None
        manager.close(grace_seconds=5)


@pytest.fixture
def manager(make_manager: MakeManager) -> Manager:
    return make_manager()


@pytest.fixture
def steps(types: Registry, stage: Stage) -> type[Job]:
    """Return a registered type that takes steps until the stage ends it, and records its hooks and steps."""

    @types.register
    class Steps(Job):
        def tell(self, what: str) -> None:
            stage.tell((what, threading.current_thread()))

        def start(self) -> dict[str, int]:
            self.tell("start")
            step = self.cursor or 0
            try:
                while not stage.is_open("end"):
                    self.wait(0.001)
                    step += 1
                    self.checkpoint(cursor=step, done=step)
            finally:
                self.tell("finally")
            return {"steps": step}

        def halt(self) -> None:
            self.tell("halt")

        def resume(self) -> None:
            self.tell("resume")

        def stop(self) -> None:
            self.tell("stop")

        def clean(self) -> None:
            self.tell("clean")
            super().clean()

    return Steps
