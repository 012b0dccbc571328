"""A job meets in the service what it meets in its author's test, so that a test that passes means something."""

from __future__ import annotations

from typing import Any

import pytest

from jobmanager import Fatal, Job
from jobmanager.errors import InvalidRequest, StopRequested
from jobmanager.registry import Registry
from jobmanager.testing.trial import run


class Told(Job):
    """Tells its log of everything that is called, and asks the service for something at its second checkpoint."""

    ask: Any = None

    def start(self) -> Any:
        self.log.info("start from %s", self.cursor)
        try:
            for step in range(self.cursor or 0, 4):
                if step == 1 and self.ask is not None:
                    self.ask(self.job_id)
                self.checkpoint(cursor=step + 1, done=step + 1, total=4, message=f"step {step}")
        finally:
            self.log.info("finally")
        return {"pair": (1, 2)}

    def halt(self) -> None:
        self.log.info("halt %d", self.attempt)
        self.checkpoint(message="halted")

    def resume(self) -> None:
        self.log.info("resume %d", self.attempt)

    def stop(self) -> None:
        self.log.info("stop %d", self.attempt)
        self.checkpoint(cursor="for clean")

    def clean(self) -> None:
        self.log.info("clean %d from %s", self.attempt, self.cursor)

    def flush(self) -> None:
        self.log.info("flush %s", self.cursor)

    def details(self) -> dict[str, Any]:
        return {"at": self.cursor}


def ended(manager: Any, job_id: str, outcome: Any) -> None:
    """Check that the job in the service ended as the one in the test."""
    job = manager.until(job_id, "completed", "failed", "stopped")
    assert (job.status, job.result, job.error) == (outcome.status, outcome.result, outcome.error)
    assert (job.checkpoint.cursor, job.details) == (outcome.cursor, outcome.details)
    lines = [f"{line.level} {line.message}" for line in manager.log(job_id)]
    without_tracebacks = [line for line in lines if "Traceback" not in line]
    assert without_tracebacks == [line for line in outcome.log if "Traceback" not in line]
    assert len(lines) == len(outcome.log)


def test_undisturbed(manager: Any, types: Registry) -> None:
    types.register(Told)

    ended(manager, manager.submit("Told").id, run(Told))


def test_halted_and_resumed(manager: Any, types: Registry) -> None:
    class Halted(Told):
        ask = staticmethod(manager.halt)

    types.register(Halted)
    job_id = manager.submit("Halted").id
    manager.until(job_id, "halted")
    manager.resume(job_id)

    ended(manager, job_id, run(Told, halt_after=2))


def test_parked_for_long(make_manager: Any, types: Registry) -> None:
    manager = make_manager(park_seconds=0.0)

    class Halted(Told):
        ask = staticmethod(manager.halt)

    types.register(Halted)
    job_id = manager.submit("Halted").id
    manager.wait_until(lambda: manager.get(job_id).status == "halted" and manager.get(job_id).owner is None)
    manager.resume(job_id)

    ended(manager, job_id, run(Told, halt_after=2, restart_after=2))


def test_stopped(manager: Any, types: Registry) -> None:
    class Stopped(Told):
        ask = staticmethod(manager.stop)

    types.register(Stopped)

    ended(manager, manager.submit("Stopped").id, run(Told, stop_after=2))


@pytest.mark.parametrize(
    "error",
    [ValueError("no"), Fatal("gone"), InvalidRequest("odd"), StopRequested("7"), SystemExit(3), GeneratorExit()],
    ids=lambda error: type(error).__name__,
)
def test_failed(manager: Any, types: Registry, error: BaseException) -> None:
    class Failing(Told):
        def start(self) -> None:
            super().start()
            raise error

    types.register(Failing)

    ended(manager, manager.submit("Failing").id, run(Failing))


@pytest.mark.parametrize("value", [{1}, float("nan"), "lone \udcff", b""], ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("where", ["cursor", "done", "details", "result"])
def test_what_cannot_be_stored(manager: Any, types: Registry, where: str, value: Any) -> None:
    class Odd(Told):
        def start(self) -> Any:
            self.checkpoint(cursor=1)
            if where in ("cursor", "done"):
                self.checkpoint(**{where: value})
            return value if where == "result" else None

        def details(self) -> dict[str, Any]:
            return {"odd": value} if where == "details" else {}

    types.register(Odd)

    ended(manager, manager.submit("Odd").id, run(Odd))
