"""Prove that a job type can be halted, killed and stopped anywhere, or show where it cannot.

The job runs undisturbed, then again while it is halted and resumed, restarted, killed with SIGKILL and stopped at its
checkpoints. Results and files have to equal those of the undisturbed run. Each run forks its own processes, so that a
kill is a real one: call it from a program with one thread. Does not depend on HTTP or on the store of jobs.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from jobmanager.config import Settings
from jobmanager.core.json_values import check_json
from jobmanager.errors import StopRequested, Unwind
from jobmanager.job import Job
from jobmanager.registry import check_args, parse_args, type_name
from jobmanager.signals import Signals

#: At how many checkpoints, evenly spread, a long job is disturbed.
MOST_CHECKPOINTS = 40


class Disturbance(StrEnum):
    """A way to disturb the job at a checkpoint."""

    NONE = "undisturbed"
    HALT = "halted and resumed"  # in its thread, as within JOBMANAGER_PARK_SECONDS
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


_silent = logging.Logger("jobmanager.testing.proof")
_silent.addHandler(logging.NullHandler())


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """The outcome of a run."""

    result: Any = None
    #: why it failed, with the innermost line of the job's own code
    error: str | None = None
    #: SHA-256 and size of each file in the job's folder, by path
    files: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    #: what `observe` returned
    observed: Any = None

    def essence(self) -> Any:
        """Return the part that must be equal in all runs: file names are left out, as they may contain the attempt."""
        contents = {name: digest for name, (digest, _) in self.files.items()}
        return [_with_contents(self.result, contents), sorted(contents.values()), self.error, self.observed]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Result for a job type: the problems that were found, if any. `str` of it is a report."""

    type: str
    checkpoints: int
    #: seconds between two checkpoints, for which a halt has to wait
    median_gap_seconds: float
    longest_gap_seconds: float
    #: one sentence for each disturbance that the job does not survive, with the first checkpoint and what to do
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

    *settings* are the job's settings (for its datasets, for example); its files go to a temporary folder. *observe*
    returns, as JSON, the effects of the job outside its folder (rows of a table, for example). It has to return the
    same before a run and after `clean`.
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
        gaps = rig.gaps() or [0.0]
        count = len(rig.gaps())
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
            median_gap_seconds=statistics.median(gaps),
            longest_gap_seconds=max(gaps),
            problems=tuple(problems),
        )

    def _problem(self, kind: Disturbance, places: list[int], undisturbed: Trace) -> str | None:
        """Disturb the job at all places in one run. If the outcome differs, find the first place where it does.

        A stop is tried at each place by itself. Returns None if there is no problem.
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
        """Stop the job at one checkpoint. Return the problem, or None if nothing is left."""
        trace, rig = self._run(Disturbance.STOP, frozenset({place}))
        wrong = None
        if trace.error is not None:
            wrong = trace.error
        elif rig.folder_path.exists():
            wrong = f"its folder is left, with {len(trace.files)} files"
        elif trace.observed != self._before:
            wrong = "its effects outside its folder are left"
        return wrong and f"Stopped at checkpoint {place}: {wrong}. {_advice(Disturbance.STOP)}"

    def _run(self, kind: Disturbance, places: frozenset[int]) -> tuple[Trace, _Rig]:
        """Run the job to its end, in as many processes as needed, then clean up."""
        self._runs += 1
        rig = _Rig(self._folder / str(self._runs), kind, places)
        attempt = 0
        while not rig.outcome_path.exists():
            attempt += 1
            if attempt > 2 * len(places) + 2:
                return Trace(error="its process also dies at other places"), rig
            self._in_a_child(self._attempt, rig, attempt)
        told = json.loads(rig.outcome_path.read_text(encoding="utf-8"))
        files = dict(_files(rig.folder_path))
        observed = json.loads(json.dumps(self._observe()))
        if kind is not Disturbance.STOP:
            # The next run must begin in the same state.
            self._in_a_child(self._clean, rig, attempt)
        return Trace(result=told["result"], error=told["error"], files=files, observed=observed), rig

    def _in_a_child(self, call: Callable[[_Rig, int], dict[str, Any]], rig: _Rig, attempt: int) -> None:
        """Make a call in a forked process, wait for it, and store its outcome. A call that unwinds has none."""
        child = os.fork()
        if child != 0:
            os.waitpid(child, 0)
            return
        try:
            rig.keep(**call(rig, attempt))
            os._exit(0)
        except Unwind:
            os._exit(0)
        finally:
            os._exit(1)

    def _attempt(self, rig: _Rig, attempt: int) -> dict[str, Any]:
        try:
            result = self._make_job(rig, attempt).start()
            check_json(result, "the result")
            return {"result": json.loads(json.dumps(result, allow_nan=False)), "error": None}
        except StopRequested:
            rig.stopped_job.stop()
            return self._clean(rig, attempt)
        except Unwind:
            raise
        except BaseException as error:
            return {"result": None, "error": _where(error)}

    def _clean(self, rig: _Rig, attempt: int) -> dict[str, Any]:
        """Clean twice, on fresh instances, as if the process had died right after the first time."""
        try:
            rig.is_cleaning = True
            for _ in range(2):
                self._make_job(rig, attempt).clean()
        except BaseException as error:
            return {"result": None, "error": _where(error)}
        return {"result": None, "error": None}

    def _make_job(self, rig: _Rig, attempt: int) -> Job:
        saved = rig.saved()
        job = self._job_type(
            rig,
            job_id="torture",
            attempt=attempt,
            args=parse_args(self._job_type, self._args, self._settings),
            cursor=saved["cursor"],
            settings=self._settings,
            log=_silent,
        )
        job.done, job.total, job.message = saved["done"], saved["total"], saved["message"]
        return job


class _Rig:
    """The CheckpointGate of a run. Saves each checkpoint in a file, counts them, and disturbs the job where planned."""

    def __init__(self, path: Path, kind: Disturbance, places: frozenset[int]) -> None:
        path.mkdir(parents=True)
        self.signals = Signals()
        self.due = float("-inf")  # every checkpoint is saved
        self.is_cleaning = False
        self.folder_path = path / "job"
        self.outcome_path = path / "outcome.json"
        self._saved_path = path / "saved.json"
        self._met_path = path / "met"
        self._kind = kind
        self._places = places
        self._met_at = time.monotonic()
        self.stopped_job: Job

    def folder(self) -> Path:
        """Return the job's folder. Makes it if it is missing."""
        self.folder_path.mkdir(exist_ok=True)
        return self.folder_path

    def reach_checkpoint(self, job: Job) -> None:
        """Save the checkpoint, and disturb the job if that is due here."""
        if self.is_cleaning:
            return
        with open(self._met_path, "a", encoding="ascii") as met:
            met.write(f"{time.monotonic() - self._met_at}\n")
        place = self.saved()["place"] + 1
        is_due = self._is_due(place)
        if is_due and self._kind is Disturbance.KILL_UNSAVED:
            os.kill(os.getpid(), signal.SIGKILL)
        self._save(job, place)
        if is_due:
            self._disturb(job)
        self._met_at = time.monotonic()

    def _is_due(self, place: int) -> bool:
        """Return True if the job is to be disturbed here. Records that: the job may pass the place again."""
        marker = self._saved_path.with_name(f"disturbed-{place}")
        if place not in self._places or marker.exists():
            return False
        marker.touch()
        return True

    def _disturb(self, job: Job) -> None:
        match self._kind:
            case Disturbance.KILL_SAVED:
                os.kill(os.getpid(), signal.SIGKILL)
            case Disturbance.HALT:
                job.halt()
                job.resume()
            case Disturbance.RESTART:
                job.halt()
                raise Unwind
            case Disturbance.STOP:
                self.stopped_job = job
                raise StopRequested

    def _save(self, job: Job, place: int) -> None:
        job.flush()
        check_json(job.cursor, "the cursor")
        saved = {"cursor": job.cursor, "done": job.done, "total": job.total, "message": job.message, "place": place}
        unfinished = self._saved_path.with_suffix(".new")
        unfinished.write_text(json.dumps(saved, allow_nan=False), encoding="utf-8")
        os.replace(unfinished, self._saved_path)
        check_json(job.details(), "what details() returned")
        job.is_dirty = False

    def saved(self) -> dict[str, Any]:
        """Return the last saved checkpoint."""
        if not self._saved_path.exists():
            return {"cursor": None, "done": None, "total": None, "message": None, "place": 0}
        saved: dict[str, Any] = json.loads(self._saved_path.read_text(encoding="utf-8"))
        return saved

    def gaps(self) -> list[float]:
        """Return the seconds from each checkpoint to the next."""
        text = self._met_path.read_text(encoding="ascii") if self._met_path.exists() else ""
        return [float(line) for line in text.splitlines()]

    def keep(self, *, result: Any, error: str | None) -> None:
        """Store the outcome for the parent process."""
        self.outcome_path.write_text(json.dumps({"result": result, "error": error}), encoding="utf-8")


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
