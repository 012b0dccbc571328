"""Run one job in a unit test, without a server, a database or threads.

The engine's own code calls the job (see harness.py). Every checkpoint is saved, and nothing sleeps.
"""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jobmanager.config import Settings
from jobmanager.core.json_values import check_json
from jobmanager.core.outcomes import Ending
from jobmanager.core.values import JSON, Checkpoint
from jobmanager.engine.gate import Gate
from jobmanager.job import Job
from jobmanager.registry import Registry, check_args, parse_args
from jobmanager.testing.harness import End, Harness, OneJobStore, Plan, through_json
from jobmanager.testing.proof import Verdict, torture

__all__ = ["RunOutcome", "Verdict", "run", "torture"]

#: For a file larger than this, the SHA-256 is returned instead of the content.
_CONTENT_BYTES = 1 << 20

Status = Literal["completed", "failed", "stopped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """The outcome of a job that `run` drove."""

    status: Status
    #: the return value of `start`, as it is after a round trip through JSON; None unless completed
    result: JSON
    #: why the job failed, as the service would show it; None: it did not fail. The traceback is in `log`
    error: str | None
    #: every checkpoint that was saved, in order; `seq` counts from 1
    checkpoints: tuple[Checkpoint, ...]
    #: the cursor with which another attempt would begin
    cursor: JSON
    #: the return value of `details` at the last checkpoint
    details: dict[str, JSON]
    #: lines of `self.log`, each as "LEVEL message"
    log: tuple[str, ...]
    #: files left in the workdir, by relative path: the content, or the SHA-256 in hex if a file is over 1 MiB
    files: dict[str, bytes | str]
    #: total seconds that `wait` would have slept
    waited_seconds: float


def run(
    job_type: type[Job],
    args: dict[str, JSON] | None = None,
    *,
    cursor: JSON = None,
    halt_after: int | None = None,
    restart_after: int | None = None,
    stop_after: int | None = None,
    clean_times: int = 1,
    settings: Settings | None = None,
) -> RunOutcome:
    """Run a job of that type to its end, in this thread and in a temporary folder, and return the outcome.

    *cursor*: where the first attempt begins, as if an earlier one had saved it.
    *halt_after*: at the checkpoint with this number, call `halt` and `resume`; the work goes on. Checkpoints are
    counted from 1 over all attempts.
    *restart_after*: at the checkpoint with this number, unwind the attempt, and begin with a new instance from the
    saved cursor, as after a shutdown. If *halt_after* is the same number, call `halt` before the unwinding, but not
    `resume`, as after a long halt.
    *stop_after*: at the checkpoint with this number, call `stop`, then `clean` on a fresh instance.
    *clean_times*: how often to call `clean` after a stop, each time on a fresh instance: `clean` must be repeatable.
    *settings*: the settings for the job and for the validation of its arguments; None: the defaults.

    A job that raises fails, and is not retried. Raises InvalidRequest if *args* are wrong, ValueError if a number is
    below 1, AssertionError if the job ends before a checkpoint that was given.

        >>> class Twice(Job):
        ...     def start(self):
        ...         for step in range(self.cursor or 0, 2):
        ...             self.checkpoint(cursor=step + 1)
        >>> run(Twice, restart_after=1).checkpoints[-1].cursor
        2
    """
    plan = {"halt_after": halt_after, "restart_after": restart_after, "stop_after": stop_after}
    for name, number in {**plan, "clean_times": clean_times}.items():
        if number is not None and number < 1:
            raise ValueError(f"{name} must be at least 1, not {number}")
    Registry().register(job_type)
    with tempfile.TemporaryDirectory(prefix="jobmanager-") as folder:
        settings = settings or Settings(data_dir=Path(folder) / "data")
        check_args(args := args or {})
        parse_args(job_type, args, settings)
        check_json(cursor, "cursor")
        store = OneJobStore(job_type, "test", args, Checkpoint(cursor=through_json(cursor)))
        trial = _Trial(job_type, store, Path(folder) / "trial", settings, plan)
        outcome = trial.run(clean_times)
    for name, number in plan.items():
        assert number is None or number <= trial.seen, f"{name}={number}, but the job made {trial.seen} checkpoints"
    return outcome


class _Trial(Harness):
    """Runs a job to its end. Disturbs the job at the checkpoints that were given to the function `run`."""

    def __init__(
        self, job_type: type[Job], store: OneJobStore, folder: Path, settings: Settings, plan: dict[str, int | None]
    ) -> None:
        super().__init__(job_type, store, folder, settings)
        self.seen = 0  # number of checkpoints that `start` has reached
        self._numbers = plan
        self._waited = 0.0

    def plan(self) -> Plan:
        """Return what the arguments of `run` say about the checkpoint that was just reached."""
        self.seen += 1
        asked = {name for name, number in self._numbers.items() if number == self.seen}
        end = End.STOPPED if "stop_after" in asked else End.UNWOUND if "restart_after" in asked else None
        return Plan(halts="halt_after" in asked, end=end)

    def prepare(self, job: Job, gate: Gate) -> None:
        """Replace the method `wait` of an instance: a test must not sleep."""

        def skip(seconds: float) -> None:
            self._waited += max(0.0, seconds)
            gate.raise_if_over()

        vars(job)["wait"] = skip

    def run(self, clean_times: int) -> RunOutcome:
        """Run attempts until one of them ends the job, and return the outcome."""
        while (outcome := self.perform()).ending is Ending.UNWOUND:
            pass
        if outcome.ending is Ending.INTERRUPTED:
            for _ in range(clean_times):
                if (outcome := self.clean()).ending is not Ending.CLEANED:
                    break
        statuses: dict[Ending, Status] = {Ending.DONE: "completed", Ending.CLEANED: "stopped"}
        return RunOutcome(
            status=statuses.get(outcome.ending, "failed"),
            result=through_json(outcome.result),
            error=outcome.error,
            checkpoints=tuple(self.store.saved),
            cursor=self.store.record.checkpoint.cursor,
            details=self.store.record.details,
            log=tuple(f"{line.level} {line.message}" for line in self.store.log),
            files=_files(self.folder),
            waited_seconds=self._waited,
        )


def _files(folder: Path) -> dict[str, bytes | str]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): _content(path) for path in found}


def _content(path: Path) -> bytes | str:
    if path.stat().st_size <= _CONTENT_BYTES:
        return path.read_bytes()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
