"""JobManager: the only entry point for HTTP, the command line and embedders.

Thread-safe. Joins the store, which decides, and the engine, which acts.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from functools import partial, wraps
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

import uuid_utils

from jobmanager.config import Settings
from jobmanager.core.job_log import LogLimits
from jobmanager.core.json_values import check_json
from jobmanager.core.repeatable import Repeatable, repeatable
from jobmanager.core.states import REACHED, UNDER_WAY, Action, Status
from jobmanager.core.values import (
    Applied,
    Artifact,
    BulkResult,
    Change,
    JobRecord,
    LogLine,
    NewBatch,
    NewJob,
    News,
    Page,
    Position,
    Selection,
    Submission,
)
from jobmanager.engine import retention
from jobmanager.engine.change_feed import Interest, Subscription
from jobmanager.engine.dispatcher import Engine
from jobmanager.errors import ConfigError, InvalidRequest, NotAllowed, NotFound, StoreUnavailable
from jobmanager.jobs import BUILT_IN
from jobmanager.observability import tracing
from jobmanager.observability.metrics import MeasuredStore, StoreCollector, exposition, has_slots
from jobmanager.private import make_folder
from jobmanager.registry import Registry, check_args, parse_args, registry
from jobmanager.store import Store, note_standstill

#: How long `close` gives running jobs to reach a checkpoint, by default.
GRACE_SECONDS = 20.0
#: How long `close` waits for calls under way to return.
_LAST_CALLS_SECONDS = 10.0
#: Jobs that a bulk request changes in one commit. Few, so that other writers hardly wait.
_SWEEP_SIZE = 100
#: Jobs that a bulk request reads in one query.
_PAGE_SIZE = 500
#: Largest integer that every database can store.
_LARGEST_INTEGER = 2**31 - 1

#: Most labels of a job.
MOST_LABELS = 32
_LONGEST_LABEL = 255
_LONGEST_KEY = 255

#: Most characters of each text in a job's result that describes its file.
_LONGEST_HEADER = 1000
#: The limit of most file systems.
_LONGEST_FILENAME = 255
_LINE = re.compile(r".+")
_ETAG = re.compile(r"[A-Za-z0-9._-]+")
#: A type and a subtype (RFC 9110 §8.3.1), then any parameters in ASCII.
_MEDIA_TYPE = re.compile(r"[\w!#$&^.+-]+/[\w!#$&^.+-]+\s*(?:;[ -~]*)?", re.ASCII)

P = ParamSpec("P")
T = TypeVar("T")


def _spread(number: int, now: datetime, seconds: float) -> Iterator[datetime | None]:
    """Yield the time from which each of *number* jobs, newest first, may run, the oldest at *now*; None: at once."""
    step = timedelta(seconds=seconds) / max(1, number - 1)
    return (now + step * place if seconds > 0 else None for place in reversed(range(number)))


def _counted(method: Callable[Concatenate[JobManager, P], T]) -> Callable[Concatenate[JobManager, P], T]:
    """Make `close` wait for calls of *method* under way, so that the store is not closed while they use it."""

    @wraps(method)
    def call(manager: JobManager, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with manager._calls:
            manager._under_way += 1
        try:
            return method(manager, *args, **kwargs)
        finally:
            with manager._calls:
                manager._under_way -= 1
                manager._calls.notify_all()

    return call


class JobManager:
    """Submits jobs, runs them in threads, and halts, resumes and stops them wherever they run.

    Opens nothing before `start`, so it may be made before a fork. As a context manager, it starts and closes:

        with JobManager(Settings(data_dir=Path("var"))) as manager:
            job = manager.submit("Simple", {"steps": 3})
    """

    def __init__(self, settings: Settings | None = None, types: Registry = registry) -> None:
        """Read the settings from the environment if none are given: raises ConfigError if one is invalid."""
        self.settings = settings or Settings.from_env()
        self.types = types
        # Guards the start and close of _store and _engine, and when and why the last start failed.
        self._lock = threading.Lock()
        self._refused_at, self._refusal = float("-inf"), ""
        self._store: Store | None = None
        self._engine: Engine | None = None
        self._collector = StoreCollector(self._opened)
        self._calls = threading.Condition()  # guards _under_way; notified whenever a call returns
        self._under_way = 0
        self._is_ending = False
        for job_type in BUILT_IN:
            types.register(job_type)
        types.load_entry_points()

    def start(self) -> None:
        """Open the store and begin to run jobs. Optional: every method that needs the store calls this.

        Does nothing if the manager has started. Raises ConfigError, or StoreUnavailable, also once it was closed.
        """
        if self._engine is not None:
            return
        if self._is_ending:
            # Checked without the lock: close holds it while it waits for calls under way.
            raise _shutting_down()
        asked_at = time.monotonic()
        with self._lock:
            if self._engine is not None:
                return
            if self._is_ending:
                # A request under way must not start the manager again in a process that is ending.
                raise _shutting_down()
            if self._refused_at > asked_at:  # failed while this waited; retries in turn would take minutes
                raise StoreUnavailable(self._refusal)
            try:
                store = self._open_store()
            except StoreUnavailable as error:
                self._refused_at, self._refusal = time.monotonic(), str(error)
                raise
            engine = Engine(store, self.types, self.settings)
            engine.start()
            self._store, self._engine = store, engine
            has_slots(self.settings.slots)

    def check(self) -> None:
        """Raise ConfigError or StoreUnavailable if `start` would fail. Leaves nothing open, so a fork may follow."""
        self._open_store().close()

    def begin_shutdown(self, grace_seconds: float = GRACE_SECONDS) -> None:
        """Stop claiming and hand over running jobs. Does not block; safe in a signal handler."""
        self._is_ending = True
        if self._engine is not None:
            self._engine.begin_shutdown(grace_seconds)

    def close(self, grace_seconds: float = GRACE_SECONDS) -> None:
        """Save and hand over running jobs, end all threads, close the store. Blocks; may be called twice."""
        self._is_ending = True
        with self._lock:
            if self._engine is None or self._store is None:
                return
            engine, store = self._engine, self._store
            engine.close(grace_seconds)  # until it returns, all methods work
            self._engine = self._store = None
            engine.notify()  # wake the threads that wait for a job
            with self._calls:
                self._calls.wait_for(lambda: self._under_way == 0, _LAST_CALLS_SECONDS)
            store.close()

    def __enter__(self) -> JobManager:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # Submitting and looking

    @_counted
    def submit(
        self,
        type: str,  # noqa: A002 - the name it has everywhere
        args: dict[str, Any] | None = None,
        *,
        priority: int = 0,
        run_at: datetime | None = None,
        max_attempts: int | None = None,
        timeout_seconds: float | None = None,
        labels: dict[str, str] | None = None,
        idempotency_key: str | None = None,
        idempotency_scope: str = "",
        actor: str = "embedder",
    ) -> JobRecord:
        """Store a job, to be run as soon as there is a slot. It is durable when this returns.

        The same *idempotency_key* with the same submission returns the job that was stored before, for at least a day.
        The same key in another *idempotency_scope* is another key.
        Raises UnknownType, InvalidRequest, Conflict (the key was used for another submission), QueueFull,
        StoreUnavailable.
        """
        asked = Submission(
            type=type,
            args=args or {},
            priority=priority,
            run_at=run_at,
            max_attempts=max_attempts,
            timeout_seconds=timeout_seconds,
            labels=labels or {},
            idempotency_key=idempotency_key,
            idempotency_scope=idempotency_scope,
        )
        new = self._checked(asked)
        engine = self._started()
        (job,) = self._opened().add([new], actor=actor)
        engine.offer()
        return job

    @_counted
    def submit_all(self, submissions: Iterable[Submission], *, actor: str = "embedder") -> list[str]:
        """Store many jobs, all or none, and return their ids. They are durable when this returns.

        Raises the same errors as `submit`; the field of an InvalidRequest begins with the submission's number, from 0.
        A Repeatable is iterated twice: to check the submissions, then to store them in parts. Other iterables, and
        submissions with idempotency keys, are in memory as a whole.
        """
        again = repeatable(submissions)
        of_types: Counter[str] = Counter()
        numbers = count()

        def check(asked: Submission) -> bool:
            """Check a submission, count its type, and return True if it has an idempotency key."""
            self._checked(asked, under=(next(numbers),))
            of_types[asked.type] += 1
            return asked.idempotency_key is not None

        # Not a loop: its variable would keep a submission, which may be large, while the next one is read.
        has_keys = sum(map(check, again)) > 0
        engine, store = self._started(), self._opened()
        # Read here: the store may make the jobs in another thread, which has another span.
        make = partial(self._new, traceparent=tracing.traceparent())
        new = NewBatch(jobs=Repeatable(lambda: map(make, again)), of_types=of_types)
        if has_keys:
            ids = [job.id for job in store.add(list(new.jobs), actor=actor)]
        else:
            ids = store.add_all(new, actor=actor) if of_types else []
        engine.offer()
        return ids

    @_counted
    def find(self, selection: Selection, *, before: Position | None = None, limit: int = 100) -> Page:
        """Return up to *limit* jobs by time of submission, the newest first. Raises StoreUnavailable.

        Leaves out cursors, and large fields, which JobRecord.shortened names: `get` returns the whole job. The page is
        shorter if its jobs are large even so.
        """
        return self._opened().find(selection, tuple(self.types), before=before, limit=limit)

    @_counted
    def now(self) -> datetime:
        """Return the time of the clock that all records use. Raises StoreUnavailable."""
        return self._opened().now()

    @_counted
    def get(self, job_id: str) -> JobRecord:
        """Return the job. Raises UnknownJob, StoreUnavailable."""
        return self._opened().get(job_id)

    @_counted
    def changes(self, job_id: str) -> list[Change]:
        """Return the changes of the job, oldest first. Raises UnknownJob, StoreUnavailable."""
        return self._opened().changes(job_id)

    @_counted
    def log(self, job_id: str, *, after: int = 0, limit: int = 1000) -> list[LogLine]:
        """Return lines of the job's log after the one numbered *after*: up to *limit* lines and about 1 MiB.

        An empty list means that there are no more lines. Raises UnknownJob, StoreUnavailable.
        """
        self.get(job_id)
        return self._opened().log(job_id, after=after, limit=limit)

    @_counted
    def follow(
        self, selection: Selection | None = None, *, job_id: str | None = None, after: int | None = None
    ) -> Subscription:
        """Return a subscription to changes and progress, of all jobs or of one. The caller has to close it.

        It begins with the changes numbered above *after*, or now. Of *selection*, only statuses (that changes lead to),
        type, types and labels count. Raises TooManyStreams, StoreUnavailable.
        """
        interest = Interest(job_id=job_id, selection=selection or Selection())
        return self._started().subscribe(interest, after=after, read=self._news)

    @_counted
    def _news(self, *, after: int, upto: int, job_id: str | None, limit: int) -> list[News]:
        return self._opened().news(after=after, upto=upto, job_id=job_id, limit=limit)

    def artifact(self, job_id: str) -> Artifact:
        """Return the file that a completed job made. Raises UnknownJob; NotFound if there is no file.

        The job's result names it in `file` (relative to its workdir), and may have `filename`, `media_type`, `sha256`.
        """
        job = self.get(job_id)
        told = job.result if job.status is Status.COMPLETED and isinstance(job.result, dict) else {}
        file = _line(told, "file", "")
        if not file:
            raise NotFound(f"Job {job_id} has no file; it is {job.status}.")
        folder = (self.settings.data_dir / "jobs" / job_id).resolve()
        path = (folder / file).resolve()
        # Not Path.is_file, which raises OSError for a name that is too long.
        if not path.is_relative_to(folder) or not os.path.isfile(path):
            raise NotFound(f"The file of job {job_id} is no longer there.")
        return Artifact(
            path=path,
            filename=_line(told, "filename", path.name, longest=_LONGEST_FILENAME),
            media_type=_line(told, "media_type", "application/octet-stream", form=_MEDIA_TYPE),
            etag=_line(told, "sha256", f"{job_id}-{job.attempt}", form=_ETAG),
        )

    @_counted
    def ping(self) -> None:
        """Return if the store answers; raise StoreUnavailable if not."""
        self._opened().ping()

    @_counted
    def metrics(self) -> bytes:
        """Return the metrics of the service, in the text format of Prometheus."""
        return exposition(self._collector, self.settings.metrics_dir)

    @_counted
    def is_unresponsive(self, job: JobRecord) -> bool:
        """Return True if the job has not obeyed a stop within JOBMANAGER_STOP_GRACE_SECONDS."""
        if job.status is not Status.STOPPING or job.asked_at is None:
            return False
        return (self._opened().now() - job.asked_at).total_seconds() > self.settings.stop_grace_seconds

    @_counted
    def is_stuck(self, job: JobRecord) -> bool:
        """Return True if the job runs but has saved no checkpoint for longer than its type allows."""
        allowed = self.types.get(job.type).stuck_after_seconds if job.type in self.types else None
        if job.status not in (Status.RUNNING, Status.HALTING) or job.running_since is None or allowed is None:
            return False
        last_sign = max(job.running_since, job.checkpoint.saved_at or job.running_since)
        return (self._opened().now() - last_sign).total_seconds() > allowed

    @_counted
    def prune(self, *, before: datetime | None = None, keep: int | None = None) -> int:
        """Remove jobs that finished before *before*, and those beyond the newest *keep*. Return how many.

        Their changes, logs and files go with them; see retention. Blocks until all are removed.
        """
        return retention.prune(self._opened(), self.settings.data_dir, before=before, keep=keep, seconds=float("inf"))

    @_counted
    def release_process(self, pid: int) -> int:
        """Hand over the jobs of a process on this machine that stands still, without counting a crash.

        Returns the number of these jobs. The threads of the process can write nothing more. Waits for rows that the
        process has locked. Raises StoreUnavailable.
        """
        note_standstill(self.settings.database_url, pid)
        engine = self._started()
        released = self._opened().release_process(pid)
        for applied in released:
            engine.obey(applied)
        return len(released)

    # Halt, resume, stop

    # If *versions* are given and the job's version is not among them, Outdated is raised and nothing changes.

    def halt(
        self,
        job_id: str,
        *,
        actor: str = "embedder",
        reason: str | None = None,
        wait: float = 0,
        versions: Collection[str] | None = None,
    ) -> JobRecord:
        """Pause the job where it stands, and keep everything. Waits up to *wait* seconds until it has halted.

        Raises UnknownJob, NotAllowed, Outdated, StoreUnavailable.
        """
        return self._ask(job_id, Action.HALT, actor, reason, wait, versions=versions)

    def resume(
        self,
        job_id: str,
        *,
        actor: str = "embedder",
        reason: str | None = None,
        wait: float = 0,
        versions: Collection[str] | None = None,
    ) -> JobRecord:
        """Continue a halted or failed job where it stood. Waits up to *wait* seconds until it runs.

        Raises UnknownJob, NotAllowed, Outdated, StoreUnavailable.
        """
        return self._ask(job_id, Action.RESUME, actor, reason, wait, versions=versions)

    def stop(
        self,
        job_id: str,
        *,
        actor: str = "embedder",
        reason: str | None = None,
        wait: float = 0,
        force: bool = False,
        versions: Collection[str] | None = None,
    ) -> JobRecord:
        """End the job for good and roll back its work. Waits up to *wait* seconds until that is done.

        *force* interrupts Python code that does not obey. Raises UnknownJob, NotAllowed, Outdated, StoreUnavailable.
        """
        return self._ask(job_id, Action.STOP, actor, reason, wait, is_forced=force, versions=versions)

    def halt_all(self, selection: Selection, *, actor: str = "embedder", reason: str | None = None) -> BulkResult:
        """Halt every job of the selection. Does not wait. Raises StoreUnavailable.

        If the store stops answering on the way, the remaining jobs are listed as unchanged.
        """
        return self._ask_all(selection, Action.HALT, actor, reason)

    def resume_all(
        self,
        selection: Selection,
        *,
        actor: str = "embedder",
        reason: str | None = None,
        spread_seconds: float = 0,
    ) -> BulkResult:
        """Resume every job of the selection, the oldest at once and the newest after *spread_seconds*.

        Does not wait. Raises StoreUnavailable. See `halt_all`.
        """
        return self._ask_all(selection, Action.RESUME, actor, reason, spread_seconds=spread_seconds)

    def stop_all(
        self, selection: Selection, *, actor: str = "embedder", reason: str | None = None, force: bool = False
    ) -> BulkResult:
        """Stop every job of the selection. Does not wait. Raises StoreUnavailable. See `halt_all`."""
        return self._ask_all(selection, Action.STOP, actor, reason, is_forced=force)

    def wait(self, job_id: str, *, unless: Sequence[Status], wait: float) -> JobRecord:
        """Return the job when its status is no longer one of *unless*, or after *wait* seconds. Blocks until then.

        Raises UnknownJob, StoreUnavailable.
        """
        deadline = time.monotonic() + wait
        while True:
            engine = self._started()
            seen = engine.moves()
            job = self.get(job_id)
            left = deadline - time.monotonic()
            if job.status not in unless or left <= 0:
                return job
            engine.wait_for_move(seen, left)

    def _ask(
        self,
        job_id: str,
        action: Action,
        actor: str,
        reason: str | None,
        wait: float,
        *,
        is_forced: bool = False,
        versions: Collection[str] | None = None,
    ) -> JobRecord:
        applied = self._apply(job_id, action, actor, reason, is_forced=is_forced, versions=versions)
        if applied.job.status in REACHED[action] or wait <= 0:
            return applied.job
        return self.wait(job_id, unless=tuple(UNDER_WAY[action]), wait=wait)

    @_counted
    def _apply(
        self,
        job_id: str,
        action: Action,
        actor: str,
        reason: str | None,
        *,
        is_forced: bool,
        versions: Collection[str] | None,
    ) -> Applied:
        engine = self._started()
        store = self._opened()
        applied = store.apply(job_id, action, actor=actor, reason=reason, is_forced=is_forced, versions=versions)
        engine.obey(applied)
        return applied

    def _ask_all(
        self,
        selection: Selection,
        action: Action,
        actor: str,
        reason: str | None,
        *,
        spread_seconds: float = 0,
        is_forced: bool = False,
    ) -> BulkResult:
        ids = list(self._ids_of(selection))
        run_ats = _spread(len(ids), self.now(), spread_seconds)
        how = {"statuses": selection.statuses, "actor": actor, "reason": reason, "is_forced": is_forced}
        changed: list[str] = []
        unchanged: dict[str, str] = {}
        reasons: dict[str, str] = {}  # one string per reason: a hundred thousand jobs may share it
        for begin in range(0, len(ids), _SWEEP_SIZE):
            some = dict(zip(ids[begin : begin + _SWEEP_SIZE], run_ats, strict=False))
            try:
                each = self._apply_to_each(some, action, **how)
            except StoreUnavailable:
                if begin == 0:
                    raise
                # The jobs before are changed, which an error would deny.
                unchanged |= dict.fromkeys(ids[begin:], "The store did not answer. Send the request again.")
                break
            for job_id, came in each.items():
                reason = _why_unchanged(came)
                if reason is None:
                    changed.append(job_id)
                else:
                    unchanged[job_id] = reasons.setdefault(reason, reason)
        return BulkResult(changed=changed, unchanged=unchanged)

    def _ids_of(self, selection: Selection) -> Iterator[str]:
        before: Position | None = None
        while True:
            ids, before = self._find_ids(selection, before)
            yield from ids
            if before is None:
                return

    @_counted
    def _find_ids(self, selection: Selection, before: Position | None) -> tuple[list[str], Position | None]:
        return self._opened().find_ids(selection, tuple(self.types), before=before, limit=_PAGE_SIZE)

    @_counted
    def _apply_to_each(
        self,
        run_ats: dict[str, datetime | None],
        action: Action,
        /,
        **how: Any,
    ) -> dict[str, Applied | NotAllowed | None]:
        engine = self._started()
        came = self._opened().apply_to_each(run_ats, action, **how)
        for applied in came.values():
            if isinstance(applied, Applied):
                engine.obey(applied)
        return came

    def _checked(self, asked: Submission, *, under: tuple[int, ...] = ()) -> NewJob:
        """Validate a submission and return it as a new job. Raises InvalidRequest with a field below *under*."""
        try:
            job_type = self.types.get(asked.type)
            check_args(asked.args)
            parse_args(job_type, asked.args, self.settings)
            new = self._new(asked, traceparent=tracing.traceparent())
            _check(new)
            return new
        except InvalidRequest as error:
            raise error.moved(under) from None

    def _new(self, asked: Submission, *, traceparent: str | None) -> NewJob:
        """Return a submission as a new job, with its type's defaults for settings that it leaves out."""
        job_type = self.types.get(asked.type)
        return NewJob(
            id=str(uuid_utils.uuid7()),
            type=asked.type,
            args=asked.args,
            priority=asked.priority,
            labels=asked.labels,
            run_at=asked.run_at,
            max_attempts=job_type.max_attempts if asked.max_attempts is None else asked.max_attempts,
            timeout_seconds=job_type.timeout_seconds if asked.timeout_seconds is None else asked.timeout_seconds,
            idempotency_key=asked.idempotency_key,
            idempotency_scope=asked.idempotency_scope,
            traceparent=traceparent,
        )

    def _open_store(self) -> Store:
        _make_data_dir(self.settings.data_dir)
        return MeasuredStore(
            self.settings.database_url,
            lease_seconds=self.settings.lease_seconds,
            max_crashes=self.settings.max_crashes,
            queue_limit=self.settings.queue_limit,
            log_limits=LogLimits(lines=self.settings.log_lines, bytes=self.settings.log_bytes),
        )

    def _opened(self) -> Store:
        self.start()
        if (store := self._store) is None:
            raise _shutting_down()
        return store

    def _started(self) -> Engine:
        self.start()
        if (engine := self._engine) is None:
            raise _shutting_down()
        return engine


def _why_unchanged(came: Applied | NotAllowed | None) -> str | None:
    """Return why a bulk request did not change a job; None if it did."""
    if isinstance(came, NotAllowed):
        return str(came)
    if came is None:
        return "No longer matches the filter."
    return f"It is already {came.job.status}." if came.change is None else None


def _shutting_down() -> StoreUnavailable:
    return StoreUnavailable("The service is shutting down. Try again later.")


def _check(new: NewJob) -> None:
    """Raise InvalidRequest if a new job cannot be stored, or could never run as submitted."""
    try:
        check_json(new.labels, "labels")
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"{error}.", field="labels") from None
    if not -_LARGEST_INTEGER <= new.priority <= _LARGEST_INTEGER:
        raise InvalidRequest("priority must be between -2147483647 and 2147483647.", field="priority")
    if not 1 <= new.max_attempts <= _LARGEST_INTEGER:
        raise InvalidRequest("max_attempts must be between 1 and 2147483647.", field="max_attempts")
    if new.timeout_seconds is not None and not 0 < new.timeout_seconds < float("inf"):
        raise InvalidRequest("timeout_seconds must be greater than 0 and finite.", field="timeout_seconds")
    _check_labels(new.labels)
    key = new.idempotency_key
    if key is not None and not (0 < len(key) <= _LONGEST_KEY and key.isprintable()):
        text = f"An idempotency key has 1 to {_LONGEST_KEY} printable characters."
        raise InvalidRequest(text, field="idempotency_key")
    if new.run_at is not None and new.run_at.tzinfo is None:
        raise InvalidRequest("run_at must include a time zone.", field="run_at")


def _check_labels(labels: dict[str, str]) -> None:
    if len(labels) > MOST_LABELS:
        raise InvalidRequest(f"A job can have at most {MOST_LABELS} labels.", field="labels")
    for name, value in labels.items():
        if not isinstance(value, str) or max(len(name), len(value)) > _LONGEST_LABEL:
            raise InvalidRequest(
                f"A label's name and value must be strings of at most {_LONGEST_LABEL} characters.", field="labels"
            )
        if not name or ":" in name:
            raise InvalidRequest("A label's name must not be empty or contain a colon.", field="labels")


def _line(
    result: dict[str, Any], name: str, otherwise: str, *, longest: int = _LONGEST_HEADER, form: re.Pattern[str] = _LINE
) -> str:
    """Return the text under *name* in a job's result, or *otherwise* if it is missing or unfit for a path or header."""
    value = result.get(name)
    if not isinstance(value, str) or len(value) > longest or not value.isprintable():
        return otherwise
    return value if form.fullmatch(value) else otherwise


def _make_data_dir(path: Path) -> None:
    try:
        make_folder(path)
        make_folder(path / "jobs")
    except OSError as error:
        raise ConfigError(f"JOBMANAGER_DATA_DIR cannot be used: {path}: {error.strerror}.") from None
