"""JobManager: the only entry point for HTTP, the command line and embedders.

Thread-safe. Joins the store, which decides, and the engine, which acts. Has no rules of its own: see
submission.py (valid submissions), bulk.py (requests for many jobs), artifacts.py (files), health.py (unresponsive and
stuck jobs), and runtime.py (start and close).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime
from typing import Any

from jobmanager import health
from jobmanager.artifacts import find_artifact
from jobmanager.bulk import BulkControl
from jobmanager.config import Settings
from jobmanager.core.states import REACHED, UNDER_WAY, Action, Status
from jobmanager.core.values import (
    Artifact,
    BulkResult,
    Change,
    JobRecord,
    LogLine,
    News,
    Page,
    Position,
    Selection,
    Submission,
)
from jobmanager.engine import retention
from jobmanager.engine.change_feed import Interest, Subscription
from jobmanager.engine.observers import Observers
from jobmanager.jobs import BUILT_IN
from jobmanager.observability.metrics import JobMetrics, StoreCollector, exposition
from jobmanager.observability.tracing import AttemptTraces
from jobmanager.registry import Registry, registry
from jobmanager.runtime import Runtime, open_store
from jobmanager.store import Store, note_standstill
from jobmanager.submission import Submissions

#: How long `close` gives running jobs to reach a checkpoint, by default.
GRACE_SECONDS = 20.0


class JobManager:
    """Submits jobs, runs them in threads, and halts, resumes and stops them wherever they run.

    Opens nothing before `start`, so it may be made before a fork. As a context manager, it starts and closes:

        with JobManager(Settings(data_dir=Path("var"))) as manager:
            job = manager.submit("Simple", {"steps": 3})
    """

    def __init__(
        self,
        settings: Settings | None = None,
        types: Registry = registry,
        *,
        rng: Callable[[], float] = random.random,
    ) -> None:
        """Read the settings from the environment if none are given: raises ConfigError if one is invalid.

        *rng* returns a number from 0 to 1, by which retries are spread.
        """
        self.settings = settings or Settings.from_env()
        self.types = types
        self._observers = Observers(JobMetrics(), AttemptTraces())
        self._runtime = Runtime(types, self.settings, self._observers, self._open_store, rng)
        self._submissions = Submissions(types, self.settings, self._observers)
        self._bulk = BulkControl(self._runtime, types, self._observers)
        self._collector = StoreCollector(lambda: self._runtime.start().store)
        for job_type in BUILT_IN:
            types.register(job_type)
        types.load_entry_points()

    def start(self) -> None:
        """Open the store and begin to run jobs. Optional: every method that needs the store calls this.

        Does nothing if the manager has started. Raises ConfigError, or StoreUnavailable, also once it was closed.
        """
        self._runtime.start()

    def check(self) -> None:
        """Raise ConfigError or StoreUnavailable if `start` would fail. Leaves nothing open, so a fork may follow."""
        self._open_store().close()

    def begin_shutdown(self, grace_seconds: float = GRACE_SECONDS) -> None:
        """Stop claiming and hand over running jobs. Does not block; safe in a signal handler."""
        self._runtime.begin_shutdown(grace_seconds)

    def close(self, grace_seconds: float = GRACE_SECONDS) -> None:
        """Save and hand over running jobs, end all threads, close the store. Blocks; may be called twice."""
        self._runtime.close(grace_seconds)

    def __enter__(self) -> JobManager:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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
        new = self._submissions.validate(asked)
        with self._runtime.call() as (store, engine):
            job = self._submissions.add(store, new, actor=actor)
            engine.offer()
            return job

    def submit_all(self, submissions: Iterable[Submission], *, actor: str = "embedder") -> list[str]:
        """Store many jobs, all or none, and return their ids. They are durable when this returns.

        Raises the same errors as `submit`; the field of an InvalidRequest begins with the submission's number, from 0.
        A Repeatable is iterated twice: to check the submissions, then to store them in parts. Other iterables, and
        submissions with idempotency keys, are in memory as a whole.
        """
        batch = self._submissions.validate_all(submissions)
        with self._runtime.call() as (store, engine):
            ids = self._submissions.add_all(store, batch, actor=actor)
            engine.offer()
            return ids

    def find(self, selection: Selection, *, before: Position | None = None, limit: int = 100) -> Page:
        """Return up to *limit* jobs by time of submission, the newest first. Raises StoreUnavailable.

        Leaves out cursors, and large fields, which JobRecord.shortened names: `get` returns the whole job. The page is
        shorter if its jobs are large even so.
        """
        with self._runtime.call() as (store, _):
            return store.find(selection, tuple(self.types), before=before, limit=limit)

    def now(self) -> datetime:
        """Return the time of the clock that all records use. Raises StoreUnavailable."""
        with self._runtime.call() as (store, _):
            return store.now()

    def get(self, job_id: str) -> JobRecord:
        """Return the job. Raises UnknownJob, StoreUnavailable."""
        with self._runtime.call() as (store, _):
            return store.get(job_id)

    def changes(self, job_id: str) -> list[Change]:
        """Return the changes of the job, oldest first. Raises UnknownJob, StoreUnavailable."""
        with self._runtime.call() as (store, _):
            return store.changes(job_id)

    def log(self, job_id: str, *, after: int = 0, limit: int = 1000) -> list[LogLine]:
        """Return lines of the job's log after the one numbered *after*: up to *limit* lines and about 1 MiB.

        An empty list means that there are no more lines. Raises UnknownJob, StoreUnavailable.
        """
        with self._runtime.call() as (store, _):
            store.get(job_id)
            return store.log(job_id, after=after, limit=limit)

    def follow(
        self, selection: Selection | None = None, *, job_id: str | None = None, after: int | None = None
    ) -> Subscription:
        """Return a subscription to changes and progress, of all jobs or of one. The caller has to close it.

        It begins with the changes numbered above *after*, or now. Of *selection*, only statuses (that changes lead to),
        type, types and labels count. Raises TooManyStreams, StoreUnavailable.
        """
        interest = Interest(job_id=job_id, selection=selection or Selection())

        def read(**which: Any) -> list[News]:
            with self._runtime.call() as (store, _):
                return store.news(**which)

        with self._runtime.call() as (_, engine):
            return engine.subscribe(interest, after=after, read=read)

    def artifact(self, job_id: str) -> Artifact:
        """Return the file that a completed job made. Raises UnknownJob; NotFound if there is no file.

        The job's result names it in `file` (relative to its workdir), and may have `filename`, `media_type`, `sha256`.
        """
        return find_artifact(self.get(job_id), self.settings.data_dir)

    def ping(self) -> None:
        """Return if the store answers; raise StoreUnavailable if not."""
        with self._runtime.call() as (store, _):
            store.ping()

    def metrics(self) -> bytes:
        """Return the metrics of the service, in the text format of Prometheus."""
        with self._runtime.calls:
            return exposition(self._collector, self.settings.metrics_dir)

    def is_unresponsive(self, job: JobRecord) -> bool:
        """Return True if the job has not obeyed a stop within JOBMANAGER_STOP_GRACE_SECONDS."""
        return health.is_unresponsive(job, self.now, grace_seconds=self.settings.stop_grace_seconds)

    def is_stuck(self, job: JobRecord) -> bool:
        """Return True if the job runs but has saved no checkpoint for longer than its type allows."""
        allowed = self.types.get(job.type).stuck_after_seconds if job.type in self.types else None
        return health.is_stuck(job, self.now, allowed_seconds=allowed)

    def prune(self, *, before: datetime | None = None, keep: int | None = None) -> int:
        """Remove jobs that finished before *before*, and those beyond the newest *keep*. Return how many.

        Their changes, logs and files go with them; see retention. Blocks until all are removed.
        """
        with self._runtime.call() as (store, _):
            return retention.prune(store, self.settings.data_dir, before=before, keep=keep, seconds=float("inf"))

    def release_process(self, pid: int) -> int:
        """Hand over the jobs of a process on this machine that stands still, without counting a crash.

        Returns the number of these jobs. The threads of the process can write nothing more. Waits for rows that the
        process has locked. Raises StoreUnavailable.
        """
        note_standstill(self.settings.database_url, pid)
        with self._runtime.call() as (store, engine):
            released = store.release_process(pid)
            for applied in released:
                self._observers.job_changed(applied)
                engine.deliver(applied)
            return len(released)

    # Halt, resume, stop. If *versions* are given and the job's is not among them, Outdated is raised: nothing changes.

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
        return self._request(job_id, Action.HALT, wait, actor=actor, reason=reason, versions=versions)

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
        return self._request(job_id, Action.RESUME, wait, actor=actor, reason=reason, versions=versions)

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
        return self._request(job_id, Action.STOP, wait, actor=actor, reason=reason, versions=versions, is_forced=force)

    def halt_all(self, selection: Selection, *, actor: str = "embedder", reason: str | None = None) -> BulkResult:
        """Halt every job of the selection. Does not wait. Raises StoreUnavailable.

        If the store stops answering on the way, the remaining jobs are listed as unchanged.
        """
        return self._bulk.request(selection, Action.HALT, actor=actor, reason=reason)

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
        return self._bulk.request(selection, Action.RESUME, actor=actor, reason=reason, spread_seconds=spread_seconds)

    def stop_all(
        self, selection: Selection, *, actor: str = "embedder", reason: str | None = None, force: bool = False
    ) -> BulkResult:
        """Stop every job of the selection. Does not wait. Raises StoreUnavailable. See `halt_all`."""
        return self._bulk.request(selection, Action.STOP, actor=actor, reason=reason, is_forced=force)

    def wait(self, job_id: str, *, unless: Sequence[Status], wait: float) -> JobRecord:
        """Return the job when its status is no longer one of *unless*, or after *wait* seconds. Blocks until then.

        Raises UnknownJob, StoreUnavailable.
        """
        deadline = time.monotonic() + wait
        while True:
            # Not a call in progress: a shutdown does not wait for this thread, but wakes it.
            engine = self._runtime.start().engine
            seen = engine.version()
            job = self.get(job_id)
            left = deadline - time.monotonic()
            if job.status not in unless or left <= 0:
                return job
            engine.wait_for_version(seen, left)

    def _request(self, job_id: str, action: Action, wait: float, **how: Any) -> JobRecord:
        """Apply an action, deliver the change, and wait until it has taken effect. *how*: see Store.apply."""
        with self._runtime.call() as (store, engine):
            applied = store.apply(job_id, action, **how)
            self._observers.job_changed(applied)
            engine.deliver(applied)
        if applied.job.status in REACHED[action] or wait <= 0:
            return applied.job
        return self.wait(job_id, unless=tuple(UNDER_WAY[action]), wait=wait)

    def _open_store(self) -> Store:
        return open_store(self.settings)
