"""Drive one job in a unit test, without a server, a store or threads.

The job is driven as in the service: hooks in the same order, a cursor that went through JSON, a fresh instance after a
restart and for `clean`. Every checkpoint is saved, and nothing sleeps.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jobmanager.config import Settings
from jobmanager.core.job_log import line_text
from jobmanager.core.json_values import check_json
from jobmanager.core.values import JSON, Checkpoint, finite, storable
from jobmanager.errors import Fatal, Interrupt, StopRequested, Unwind
from jobmanager.job import Job
from jobmanager.registry import Registry, check_args, parse_args
from jobmanager.signals import Signals
from jobmanager.testing.proof import Verdict, torture

__all__ = ["RunOutcome", "Verdict", "run", "torture"]

#: Of larger files, the SHA-256 is returned instead of the content.
_CONTENT_BYTES = 1 << 20

Status = Literal["completed", "failed", "stopped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """The outcome of a job that `run` drove."""

    status: Status
    #: the return value of `start`, as it is after a round trip through JSON; None unless completed
    result: JSON
    #: why it failed, as the service would show it; the traceback is in `log`
    error: str | None
    #: every checkpoint that was saved, in order; `seq` counts from 1
    checkpoints: tuple[Checkpoint, ...]
    #: where another attempt would begin
    cursor: JSON
    #: the return value of `details` at the last checkpoint
    details: dict[str, JSON]
    #: lines of `self.log`, each as "LEVEL message"
    log: tuple[str, ...]
    #: files left in the workdir: the content by relative path, or the SHA-256 in hex if it is over 1 MiB
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
    *halt_after*: at that checkpoint (from 1, over all attempts), call `halt` and `resume`; the work goes on.
    *restart_after*: at that checkpoint, unwind the attempt, and begin with a new instance from the saved cursor, as
    after a shutdown. Together with the same *halt_after*: call `halt` but not `resume`, as after a long halt.
    *stop_after*: at that checkpoint, stop the job: `stop`, then `clean` on a fresh instance.
    *clean_times*: how often to call `clean` then, each time on a fresh instance; it must be repeatable.
    *settings*: the settings for the job and for the validation of its arguments; None: the defaults.

    A job that raises fails; it is not retried. Raises InvalidRequest if *args* are wrong, ValueError if a number is
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
        trial = _Trial(job_type, args or {}, settings or Settings(data_dir=Path(folder) / "data"), Path(folder), plan)
        trial.cursor = _through_json(cursor, "cursor")
        outcome = trial.run(clean_times)
    for name, number in plan.items():
        assert number is None or number <= trial.seen, f"{name}={number}, but the job made {trial.seen} checkpoints"
    return outcome


class _Trial:
    """The CheckpointGate of a job under test; acts at the checkpoints that the plan names."""

    def __init__(
        self, job_type: type[Job], args: dict[str, JSON], settings: Settings, folder: Path, plan: dict[str, int | None]
    ) -> None:
        self.signals = Signals()
        self.due = 0.0  # always: every checkpoint is saved
        self.cursor: JSON = None
        self.seen = 0  # checkpoints of start, which the plan counts
        self._job_type = job_type
        check_args(args)
        self._args = parse_args(job_type, args, settings)
        self._settings = settings
        self._folder = folder / "workdir"
        self._plan = plan
        self._attempt = 0
        self._saved: list[Checkpoint] = []
        self._details: dict[str, JSON] = {}
        self._log = _Lines()
        self._waited = 0.0
        self._interrupt: Interrupt | None = None  # raised again at every checkpoint until the attempt has ended
        self._is_saving = False
        self._is_in_hook = False

    def run(self, clean_times: int) -> RunOutcome:
        """Run attempts until one ends the job."""
        while (outcome := self._attempt_once(clean_times)) is None:
            self._interrupt = None
        return outcome

    def _attempt_once(self, clean_times: int) -> RunOutcome | None:
        """Run one attempt; return None if it was unwound."""
        job = self._make_job()
        result, error = None, None
        try:
            result = _through_json(job.start(), "the result")
        except StopRequested:
            self._in_hook(lambda: self._logged(job.stop))
        except Unwind:
            return None
        except KeyboardInterrupt:
            raise
        except BaseException as raised:
            if job.is_dirty:
                self._logged(lambda: self._save(job))  # keep the progress for a retry
            error = self._told(raised)
        if isinstance(self._interrupt, StopRequested):
            return self._clean(clean_times)
        return self._outcome("completed" if error is None else "failed", result=result, error=error)

    def _clean(self, times: int) -> RunOutcome:
        self._interrupt = None
        try:
            for _ in range(times):
                job = self._make_job()
                self._in_hook(job.clean)
        except Exception as error:
            return self._outcome("failed", error=self._told(error))
        return self._outcome("stopped")

    def _make_job(self) -> Job:
        self._attempt += 1
        logger = logging.Logger(f"jobmanager.jobs.test-{self._attempt}", logging.INFO)
        logger.parent = logging.getLogger("jobmanager.jobs")
        logger.addHandler(self._log)
        job = self._job_type(
            self,
            job_id="test",
            attempt=self._attempt,
            args=self._args.model_copy(deep=True),
            cursor=_through_json(self.cursor, "the cursor"),
            settings=self._settings,
            log=logger,
        )
        if self._saved:
            last = self._saved[-1]
            job.done, job.total, job.message = last.done, last.total, last.message
        # Shadows Job.wait for this instance: a test must not sleep.
        vars(job)["wait"] = self._skip
        return job

    def reach_checkpoint(self, job: Job) -> None:
        """Save the checkpoint, then act on the plan; see CheckpointGate."""
        if self._is_saving:
            return
        self._save(job)
        if self._is_in_hook:
            return
        self.seen += 1
        self._obey(job)

    def folder(self) -> Path:
        """Return the job's folder. Makes it if it is missing."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder

    def _skip(self, seconds: float) -> None:
        self._waited += max(0.0, seconds)
        self._raise_again()

    def _obey(self, job: Job) -> None:
        self._raise_again()
        if self._is_now("halt_after"):
            self._in_hook(job.halt)
        if self._is_now("stop_after"):
            self._interrupt = StopRequested("test")
        elif self._is_now("restart_after"):
            self._interrupt = Unwind("test")
        elif self._is_now("halt_after"):
            self._in_hook(job.resume)
        self._raise_again()

    def _is_now(self, name: str) -> bool:
        return self._plan[name] == self.seen

    def _raise_again(self) -> None:
        if self._interrupt is not None and not self._is_in_hook:
            raise self._interrupt

    def _in_hook(self, hook: Callable[[], None]) -> None:
        """Call a hook. Its own checkpoints are saved, but nothing interrupts it."""
        self._is_in_hook = True
        try:
            hook()
        finally:
            self._is_in_hook = False

    def _save(self, job: Job) -> None:
        self._is_saving = True
        try:
            job.flush()
            self._logged(lambda: self._take_details(job))
            self._saved.append(self._checkpoint_of(job))
        finally:
            self._is_saving = False
        self.cursor = self._saved[-1].cursor
        job.is_dirty = False

    def _checkpoint_of(self, job: Job) -> Checkpoint:
        cursor = _through_json(job.cursor, "the cursor")
        return Checkpoint(
            seq=len(self._saved) + 1,
            cursor=self.cursor if cursor is None else cursor,
            done=finite(job.done, "done"),
            total=finite(job.total, "total"),
            message=None if job.message is None else storable(str(job.message)),
        )

    def _take_details(self, job: Job) -> None:
        self._details = _through_json(dict(job.details()), "what details() returned")

    def _logged(self, code: Callable[[], None]) -> None:
        """Call code of the job. Log its errors, which do not fail the job."""
        try:
            code()
        except Exception as error:
            self._told(error)

    def _told(self, error: BaseException) -> str:
        """Log the traceback of the error, and return the error as the service would show it."""
        self._log.lines.append("ERROR " + line_text("".join(traceback.format_exception(error))))
        return storable(str(error) if isinstance(error, Fatal) else f"{type(error).__name__}: {error}")

    def _outcome(self, status: Status, *, result: JSON = None, error: str | None = None) -> RunOutcome:
        return RunOutcome(
            status=status,
            result=result if status == "completed" else None,
            error=error,
            checkpoints=tuple(self._saved),
            cursor=self.cursor,
            details=self._details,
            log=tuple(self._log.lines),
            files=_files(self._folder),
            waited_seconds=self._waited,
        )


class _Lines(logging.Handler):
    """Keeps the lines that a job logs."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one record, with its traceback."""
        self.lines.append(f"{record.levelname} {line_text(self.format(record))}")


def _through_json(value: Any, what: str) -> JSON:
    """Return the value after a round trip through JSON: tuples as lists, keys as strings. Raises as check_json does."""
    check_json(value, what)
    return json.loads(json.dumps(value))


def _files(folder: Path) -> dict[str, bytes | str]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): _content(path) for path in found}


def _content(path: Path) -> bytes | str:
    if path.stat().st_size <= _CONTENT_BYTES:
        return path.read_bytes()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
