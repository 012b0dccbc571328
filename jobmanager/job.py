"""The base class of job types.

A job has its arguments, its cursor and its folder. It does not use HTTP, the store, or other threads: every hook is
called in the thread that runs `start`. Only `clean`, which runs after `start` has ended, may run in another thread.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeAlias

from pydantic import BaseModel, ConfigDict

from jobmanager.config import Settings
from jobmanager.signals import Signals

# Spelled out here because Job has a class attribute named type.
ArgsModel: TypeAlias = type[BaseModel]


class NoArgs(BaseModel):
    """The arguments of a job type that takes none."""

    model_config = ConfigDict(extra="forbid")


class CheckpointGate(Protocol):
    """The object behind `checkpoint()`: saves a job's checkpoints, and obeys halts, stops and interrupts."""

    signals: Signals
    #: when the next checkpoint is due to be saved (monotonic)
    due: float

    def reach_checkpoint(self, job: Job) -> None:
        """Save the job's checkpoint, then obey: block while halted, return to go on, or raise an Interrupt."""

    def wait_for_request(self, seconds: float) -> bool:
        """Block until a halt, a stop or an interrupt is requested, or for *seconds*. Return True if it is."""

    def folder(self) -> Path:
        """Return the job's own folder. Make it if it is missing."""


class Job:
    """One unit of long-running work that can be halted, resumed and stopped.

    Subclass it, give it `Args` and `start`, and register it: see docs/job-types.md.
    """

    #: the name clients submit; the class name unless set
    type: ClassVar[str] = ""
    #: can continue from its cursor in a new thread; if not, a halted job keeps its thread
    resumable: ClassVar[bool] = True
    #: jobs of this type that may run at once, over all processes; None: as many as there are slots
    max_running: ClassVar[int | None] = None
    #: number of tries, the first included, unless the submission says otherwise
    max_attempts: ClassVar[int] = 1
    #: longest time one attempt may run, unless the submission says otherwise; halts do not count
    timeout_seconds: ClassVar[float | None] = None
    #: a running job that has saved no checkpoint for this long is shown as stuck; None: never
    stuck_after_seconds: ClassVar[float | None] = 300.0

    #: validates the arguments at submission; its JSON Schema is in the API docs
    Args: ClassVar[ArgsModel] = NoArgs

    args: Any
    #: where to begin, as saved by the last checkpoint; None at first
    cursor: Any
    job_id: str
    #: counts executions of this job from 1
    attempt: int
    #: the settings of the process it runs in
    settings: Settings
    #: lines written here are kept with the job
    log: logging.Logger

    def __init__(
        self,
        gate: CheckpointGate,
        *,
        job_id: str,
        attempt: int,
        args: BaseModel,
        cursor: Any,
        settings: Settings,
        log: logging.Logger,
    ) -> None:
        self.job_id = job_id
        self.attempt = attempt
        self.args = args
        self.cursor = cursor
        self.settings = settings
        self.log = log
        self.done: float | None = None
        self.total: float | None = None
        self.message: str | None = None
        #: values passed to checkpoint() are not saved yet
        self.is_dirty = False
        self._gate = gate
        self._is_asked = gate.signals.halt.is_set
        self._calls = 0  # of checkpoint(), since the last save
        self._waited_seconds = 0.0  # in wait(), since the last save
        self._measured_at = time.monotonic()
        self._gap_seconds: float | None = None

    def start(self) -> dict[str, Any] | None:
        """Do the work, beginning at `self.cursor`, and return the job's result (JSON). Raising means failure."""
        raise NotImplementedError(f"{type(self).__name__} has to define start()")

    def halt(self) -> None:
        """Release connections and locks: the job is about to park."""

    def resume(self) -> None:
        """Acquire again what `halt` has released: the job has just been woken."""

    def stop(self) -> None:
        """Prepare for `clean`: the job has to end for good."""

    def clean(self) -> None:
        """Roll back the work. May run in another process, with only args and cursor, and more than once."""
        shutil.rmtree(self.workdir, ignore_errors=False)

    def details(self) -> dict[str, Any]:
        """Return more JSON to show in the job's details. Called whenever a checkpoint is saved."""
        return {}

    def flush(self) -> None:
        """Make all work up to the cursor durable. Called right before a checkpoint is saved."""

    @property
    def workdir(self) -> Path:
        """The job's own folder, made if it is missing. The default `clean` removes it."""
        return self._gate.folder()

    def checkpoint(
        self, cursor: Any = None, done: float | None = None, total: float | None = None, message: str | None = None
    ) -> None:
        """Report that the work up to *cursor* is done, and obey a halt or a stop.

        Cheap enough for every unit of work: saves only if JOBMANAGER_CHECKPOINT_SECONDS have passed since the last
        save, and whenever the job halts, stops, ends or is handed over. An argument of None leaves its value as it was.
        Pass a new object as *cursor*; do not change an earlier one in place. Blocks while the job is halted. Raises an
        Interrupt, which is a BaseException, if the attempt has to end.
        """
        if cursor is not None:
            self.cursor = cursor
        if done is not None:
            self.done = done
        if total is not None:
            self.total = total
        if message is not None:
            self.message = message
        self.is_dirty = True
        self._calls += 1
        if self._is_asked() or time.monotonic() >= self._gate.due:
            self._reach_checkpoint()

    def wait(self, seconds: float) -> None:
        """Sleep, but wake at once to obey a halt or a stop, as `checkpoint` does. After a resume, sleep the rest."""
        left = seconds
        while left > 0:
            began = time.monotonic()
            until_due = self._gate.due - began if self.is_dirty else left
            asked = self._gate.wait_for_request(max(0.0, min(left, until_due, threading.TIMEOUT_MAX)))
            waited = time.monotonic() - began
            left -= waited
            self._waited_seconds += waited
            if asked or (self.is_dirty and time.monotonic() >= self._gate.due):
                self._reach_checkpoint()

    @property
    def gap_seconds(self) -> float | None:
        """Average time between two calls of `checkpoint`, in seconds: an estimate of how long a halt takes.

        Measured over the calls since the last save. Leaves out the time in `wait`, because a halt ends it at once.
        """
        if self._calls:
            worked = time.monotonic() - self._measured_at - self._waited_seconds
            self._gap_seconds = max(0.0, worked) / self._calls
        return self._gap_seconds

    def _reach_checkpoint(self) -> None:
        self._gate.reach_checkpoint(self)
        self._calls, self._waited_seconds, self._measured_at = 0, 0.0, time.monotonic()
