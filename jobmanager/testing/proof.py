"""Prove that a job type can be halted, killed and stopped anywhere, or show where it cannot.

The job runs once undisturbed. Then it runs again for each disturbance: it is halted and resumed, restarted, killed with
SIGKILL or stopped at its checkpoints. Results and files must equal those of the undisturbed run. Each run forks its own
processes, so that the kills are real. So call `torture` only from a program with one thread. The engine's own code
calls the job, see harness.py.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import statistics
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from jobmanager.config import Settings
from jobmanager.core.outcomes import Ending, Outcome
from jobmanager.core.states import Status
from jobmanager.core.transitions import Values
from jobmanager.core.values import Checkpoint, JobRecord, LogLine
from jobmanager.job import Job
from jobmanager.registry import check_args, parse_args, type_name
from jobmanager.testing.harness import End, Harness, OneJobStore, Plan

#: The most checkpoints at which a job is disturbed. If the job has more, the disturbed ones are evenly spread.
MOST_CHECKPOINTS = 40


class Disturbance(StrEnum):
    """A way to disturb the job at a checkpoint."""

    NONE = "undisturbed"
    HALT = "halted and resumed"  # in its thread, as by a halt shorter than JOBMANAGER_PARK_SECONDS
    RESTART = "halted and restarted"  # as after a long halt, or a shutdown
    KILL_SAVED = "killed right after the save"
    KILL_UNSAVED = "killed right before the save"
    STOP = "stopped"


_ADVICE = {
    Disturbance.HALT: "resume() has to reopen everything that halt() closed, and neither may change the output",
    Disturbance.RESTART: "start() has to continue from self.cursor alone: nothing else is left of the earlier attempt",
    Disturbance.KILL_SAVED: "the cursor may only claim finished work: work first, then checkpoint(), sync in flush()",
    Disturbance.KILL_UNSAVED: "start() has to undo all work after the last checkpoint: truncate files to the cursor",
    Disturbance.STOP: "clean() has to remove everything the job did, and has to be repeatable",
}


_PLANS = {
    Disturbance.HALT: Plan(halts=True),
    Disturbance.RESTART: Plan(halts=True, end=End.UNWOUND),
    Disturbance.STOP: Plan(end=End.STOPPED),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """The outcome of one run of the job."""

    result: Any = None
    #: why the job failed, with the innermost line of its own code; None: it did not fail
    error: str | None = None
    #: SHA-256 and size of each file in the job's folder, by path
    files: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    #: what `observe` returned
    observed: Any = None

    def essence(self) -> Any:
        """Return the parts that must be equal in all runs. Leaves out file names, which may contain the attempt."""
        contents = {name: digest for name, (digest, _) in self.files.items()}
        return [_with_contents(self.result, contents), sorted(contents.values()), self.error, self.observed]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The result for a job type, with the problems that were found. str() of a verdict returns a report."""

    type: str
    checkpoints: int
    #: seconds of work between two checkpoints: a halt waits for the next checkpoint
    median_gap_seconds: float
    longest_gap_seconds: float
    #: one problem for each disturbance that the job does not survive, with the first checkpoint and some advice
    problems: tuple[str, ...]

    def is_sound(self) -> bool:
        """Return True if there are no problems."""
        return not self.problems

    def __str__(self) -> str:
        head = f"{self.type}: {self.checkpoints} checkpoints, "
        head += (
            f"{self.median_gap_seconds * 1e3:.1f} ms apart (median), {self.longest_gap_seconds * 1e3:.1f} ms at most."
        )
        if self.is_sound():
            ways = "; ".join(kind for kind in Disturbance if kind is not Disturbance.NONE)
            return f"{head}\nSound. At every checkpoint that was tried, the job was {ways}: the outcome was the same."
        return "\n".join([head, "Not sound:", *(f"- {problem}" for problem in self.problems)])


def torture(
    job_type: type[Job],
    args: dict[str, Any],
    *,
    settings: Settings | None = None,
    observe: Callable[[], Any] = lambda: None,
    most_checkpoints: int = MOST_CHECKPOINTS,
) -> Verdict:
    """Run the job with every disturbance and compare the outcomes. Blocks for many times the duration of the job.

    *settings*: the job's settings (for its datasets, for example). The job's files go to a temporary folder. *observe*
    returns, as JSON, the effects of the job outside its folder (rows of a table, for example). *observe* has to
    return the same value before a run and after `clean`.
    Raises InvalidRequest if the arguments are wrong.
    """
    settings = settings or Settings.from_env()
    check_args(args)
    parse_args(job_type, args, settings)
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        return _Bench(job_type, args, settings, observe, Path(folder)).judge(most_checkpoints)


class _Bench:
    """Runs one job many times and compares the outcomes."""

    def __init__(
        self, job_type: type[Job], args: dict[str, Any], settings: Settings, observe: Callable[[], Any], folder: Path
    ) -> None:
        self._job_type = job_type
        self._args = args
        self._settings = settings
        self._observe = observe
        self._folder = folder
        self._runs = 0
        self._before: Any = None

    def judge(self, most: int) -> Verdict:
        self._before = self._observe()
        undisturbed, rig = self._run(Disturbance.NONE, frozenset())
        gaps = rig.file_store.gaps()
        count = len(gaps)
        problems = []
        if undisturbed.error is not None:
            problems.append(f"Undisturbed, it fails: {undisturbed.error}.")
        else:
            places = _spread(count, most)
            kinds = [kind for kind in Disturbance if kind is not Disturbance.NONE]
            problems = [text for kind in kinds if (text := self._problem(kind, places, undisturbed))]
        return Verdict(
            type=type_name(self._job_type),
            checkpoints=count,
            median_gap_seconds=statistics.median(gaps or [0.0]),
            longest_gap_seconds=max(gaps, default=0.0),
            problems=tuple(problems),
        )

    def _problem(self, kind: Disturbance, places: list[int], undisturbed: Trace) -> str | None:
        """Disturb the job in one way at *places*, and return the problem; None if there is none.

        Disturbs the job at all places in one run. If the outcome differs, makes one run for each place, until a place
        with a problem is found. A stop ends the job, so stops always need one run for each place.
        """
        if kind is Disturbance.STOP:
            return next(filter(None, (self._leftover(place) for place in places)), None)
        together, _ = self._run(kind, frozenset(places))
        if together.essence() == undisturbed.essence():
            return None
        for place in places:
            alone, _ = self._run(kind, frozenset({place}))
            if alone.essence() != undisturbed.essence():
                return f"{kind.capitalize()} at checkpoint {place}: {_difference(undisturbed, alone)}. {_advice(kind)}"
        return f"{kind.capitalize()} at every checkpoint: {_difference(undisturbed, together)}. {_advice(kind)}"

    def _leftover(self, place: int) -> str | None:
        """Stop the job at one checkpoint. Return the problem; None if the stop left no files and no other effects."""
        trace, rig = self._run(Disturbance.STOP, frozenset({place}))
        wrong = None
        if trace.error is not None:
            wrong = trace.error
        elif rig.folder.exists():
            wrong = f"its folder is left, with {len(trace.files)} files"
        elif trace.observed != self._before:
            wrong = "its effects outside its folder are left"
        return wrong and f"Stopped at checkpoint {place}: {wrong}. {_advice(Disturbance.STOP)}"

    def _run(self, kind: Disturbance, places: frozenset[int]) -> tuple[Trace, _Rig]:
        """Run the job to its end, in as many processes as needed. Then clean up, unless a stop has cleaned up already.

        Returns the outcome of the run, and the rig that ran the job.
        """
        self._runs += 1
        folder = self._folder / str(self._runs)
        folder.mkdir()
        rig = _Rig(_FileStore(self._job_type, self._args, folder), self._job_type, self._settings, kind, places)
        attempts = 0
        while not rig.outcome_path.exists():
            attempts += 1
            if attempts > 2 * len(places) + 2:
                return Trace(error="its process also dies at other places"), rig
            self._in_a_child(rig, rig.run)
        told = json.loads(rig.outcome_path.read_text(encoding="utf-8"))
        files = dict(_files(rig.folder))
        observed = json.loads(json.dumps(self._observe()))
        if kind is not Disturbance.STOP:
            # The next run must begin in the same state.
            self._in_a_child(rig, rig.clean_up)
        return Trace(result=told["result"], error=told["error"], files=files, observed=observed), rig

    def _in_a_child(self, rig: _Rig, call: Callable[[], Outcome]) -> None:
        """Make a call in a forked process, and wait until that process has ended.

        The forked process stores the outcome, unless the job continues in another attempt.
        """
        child = os.fork()
        if child != 0:
            os.waitpid(child, 0)
            return
        try:
            rig.keep(call())
            os._exit(0)
        finally:
            os._exit(1)


class _FileStore(OneJobStore):
    """Keeps the attempt, the checkpoint and the checkpoint's place in a file, which outlives a killed process."""

    def __init__(self, job_type: type[Job], args: dict[str, Any], folder: Path) -> None:
        super().__init__(job_type, "torture", args, Checkpoint())
        self.folder = folder
        self.place = 0  # number of the last checkpoint that was reached, counted from 1
        self.kill: Disturbance | None = None  # KILL_SAVED or KILL_UNSAVED kills the process at the next save
        self._path = folder / "saved.json"
        self._gaps_path = folder / "gaps"

    def claim(self) -> JobRecord:
        """Begin the next attempt, from what the last process has saved."""
        if self._path.exists():
            saved = json.loads(self._path.read_text(encoding="utf-8"))
            self.place = saved.pop("place")
            self.record = replace(self.record, attempt=saved.pop("attempt"), checkpoint=Checkpoint(**saved))
        job = super().claim()
        self._write()
        return job

    def checkpoint(
        self, job_id: str, attempt: int, saved: Checkpoint | None, details: Values | None, lines: Sequence[LogLine] = ()
    ) -> Status:
        """Save a checkpoint, and return the job's status. Kills the process right before or after the save if due."""
        if self.kill is Disturbance.KILL_UNSAVED:
            os.kill(os.getpid(), signal.SIGKILL)
        status = super().checkpoint(job_id, attempt, saved, details, lines)
        self._write()
        if self.kill is Disturbance.KILL_SAVED:
            os.kill(os.getpid(), signal.SIGKILL)
        if saved is not None:
            with open(self._gaps_path, "a", encoding="ascii") as gaps:
                gaps.write(f"{saved.gap_seconds}\n")
        return status

    def gaps(self) -> list[float]:
        """Return the seconds of work before each checkpoint."""
        text = self._gaps_path.read_text(encoding="ascii") if self._gaps_path.exists() else ""
        return [float(line) for line in text.splitlines()]

    def _write(self) -> None:
        kept = self.record.checkpoint
        saved = {name: getattr(kept, name) for name in ("seq", "cursor", "done", "total", "message")}
        unfinished = self._path.with_suffix(".new")
        unfinished.write_text(
            json.dumps(saved | {"place": self.place, "attempt": self.record.attempt}), encoding="utf-8"
        )
        os.replace(unfinished, self._path)


class _Rig(Harness):
    """Runs the attempts of a disturbed job, each in a process of its own."""

    def __init__(
        self, store: _FileStore, job_type: type[Job], settings: Settings, kind: Disturbance, places: frozenset[int]
    ) -> None:
        super().__init__(job_type, store, store.folder, settings)
        self.file_store = store
        self.outcome_path = store.folder / "outcome.json"
        self._kind = kind
        self._places = places

    def run(self) -> Outcome:
        """Run the next attempt, and call `clean` after a stop."""
        outcome = self.perform()
        return self._clean_twice() if outcome.ending is Ending.INTERRUPTED else self._with_errors(outcome)

    def clean_up(self) -> Outcome:
        """Call `clean` in a process that has run no attempt."""
        self.begin()
        return self._clean_twice()

    def _clean_twice(self) -> Outcome:
        """Call `clean` twice, on fresh instances, as if the process had died right after the first call."""
        outcome = self.clean()
        return self._with_errors(self.clean() if outcome.ending is Ending.CLEANED else outcome)

    def plan(self) -> Plan:
        """Return how to disturb the job at the checkpoint that it has reached."""
        self.file_store.place += 1
        kind = self._kind if self._is_due(self.file_store.place) else Disturbance.NONE
        self.file_store.kill = kind
        return _PLANS.get(kind, Plan())

    def _is_due(self, place: int) -> bool:
        """Return True if the job is to be disturbed at this place. Returns True only once for each place."""
        marker = self.file_store.folder / f"disturbed-{place}"
        if place not in self._places or marker.exists():
            return False
        marker.touch()
        return True

    def _with_errors(self, outcome: Outcome) -> Outcome:
        """Return a failure if the job's code raised an error, even one that the service only logs; else *outcome*."""
        return Outcome(ending=Ending.RAISED, error=_where(self.errors[-1])) if self.errors else outcome

    def keep(self, outcome: Outcome) -> None:
        """Store the outcome for the parent process, unless the job continues in another attempt."""
        if outcome.ending is not Ending.UNWOUND:
            text = json.dumps({"result": outcome.result, "error": outcome.error})
            self.outcome_path.write_text(text, encoding="utf-8")


def _spread(count: int, most: int) -> list[int]:
    """Return up to *most* of the checkpoints from 1 to *count*, evenly spread, with the first and the last.

    >>> _spread(10, 4)
    [1, 4, 7, 10]
    """
    if count <= most:
        return list(range(1, count + 1))
    return sorted({1 + round(step * (count - 1) / (most - 1)) for step in range(most)})


def _difference(undisturbed: Trace, other: Trace) -> str:
    """Describe how a run differs from the undisturbed one."""
    if other.error is not None:
        return f"it fails with {other.error}"
    sizes = [sorted(size for _, size in trace.files.values()) for trace in (undisturbed, other)]
    if sizes[0] != sizes[1]:
        lost = (
            "less was written: work is lost"
            if sum(sizes[1]) < sum(sizes[0])
            else "more was written: work is done twice"
        )
        return f"its files have {sum(sizes[1])} bytes, not {sum(sizes[0])}; {lost}"
    if undisturbed.essence()[1] != other.essence()[1]:
        return "its files differ in content, not in size"
    if undisturbed.observed != other.observed:
        return "its effects outside its folder differ"
    return f"its result is {other.result!r}, not {undisturbed.result!r}"


def _advice(kind: Disturbance) -> str:
    return f"To fix it: {_ADVICE[kind]}."


def _files(folder: Path) -> Iterator[tuple[str, tuple[str, int]]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            yield str(path.relative_to(folder)), (digest, path.stat().st_size)


def _with_contents(value: Any, contents: Mapping[str, str]) -> Any:
    """Return *value* with each name of a file replaced by the hash of its content."""
    if isinstance(value, dict):
        return {key: _with_contents(item, contents) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_contents(item, contents) for item in value]
    return contents.get(value, value) if isinstance(value, str) else value


def _where(error: BaseException) -> str:
    """Return an error as one line, with the line of code it came from."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(last.filename).name}, line {last.lineno})"
