"""The jobs of a manager that a caller may see: submit, find, follow, halt, resume and stop them.

Thread-safe. A caller that may see only some job types gets UnknownJob for the ids of other jobs, as for ids that were
never used. Methods for the whole service, such as its metrics, are in JobManager only.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
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
from jobmanager.engine.change_feed import Interest, Subscription
from jobmanager.engine.observers import Observers
from jobmanager.errors import UnknownJob
from jobmanager.registry import Registry
from jobmanager.runtime import Runtime
from jobmanager.submission import Submissions


class VisibleJobs:
    """The jobs of a manager, or only those of some types."""

    def __init__(
        self,
        runtime: Runtime,
        types: Registry,
        settings: Settings,
        observers: Observers,
        *,
        names: frozenset[str] | None = None,
    ) -> None:
        """*names* are the visible job types. None: all job types, also those that are missing in *types*."""
        self.types = types
        self.settings = settings
        self._names = names
        self._runtime = runtime
        self._observers = observers
        self._submissions = Submissions(types, settings, observers)
        self._bulk = BulkControl(runtime, types, observers)

    def visible_to(self, names: Collection[str]) -> VisibleJobs:
        """Return the jobs for a caller that may see only the job types with these names."""
        return VisibleJobs(
            self._runtime, self.types.only(names), self.settings, self._observers, names=frozenset(names)
        )

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

        Leaves out cursors and large fields; JobRecord.shortened names these fields. `get` returns the whole job. If the
        jobs are still large, the page has fewer than *limit*.
        """
        with self._runtime.call() as (store, _):
            return store.find(self._visible(selection), tuple(self.types), before=before, limit=limit)

    def now(self) -> datetime:
        """Return the time of the clock that all records use. Raises StoreUnavailable."""
        with self._runtime.call() as (store, _):
            return store.now()

    def get(self, job_id: str) -> JobRecord:
        """Return the job. Raises UnknownJob, StoreUnavailable."""
        with self._runtime.call() as (store, _):
            job = store.get(job_id)
        if self._names is not None and job.type not in self._names:
            raise UnknownJob(job_id)
        return job

    def changes(self, job_id: str) -> list[Change]:
        """Return the changes of the job, oldest first. Raises UnknownJob, StoreUnavailable."""
        self._check_visible(job_id)
        with self._runtime.call() as (store, _):
            return store.changes(job_id)

    def log(self, job_id: str, *, after: int = 0, limit: int = 1000) -> list[LogLine]:
        """Return lines of the job's log after the one numbered *after*: up to *limit* lines and about 1 MiB.

        An empty list means that there are no more lines. Raises UnknownJob, StoreUnavailable.
        """
        self.get(job_id)
        with self._runtime.call() as (store, _):
            return store.log(job_id, after=after, limit=limit)

    def follow(
        self, selection: Selection | None = None, *, job_id: str | None = None, after: int | None = None
    ) -> Subscription:
        """Return a subscription to changes and progress, of all jobs or of one. The caller has to close it.

        It begins with the changes numbered above *after*; None: with changes from now on. Of *selection*, only the
        statuses (compared with the new status of a change), type, types and labels are used. Raises TooManyStreams,
        StoreUnavailable, and UnknownJob if the job is not visible.
        """
        if job_id is not None:
            self._check_visible(job_id)
        interest = Interest(job_id=job_id, selection=self._visible(selection or Selection()))

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

    def is_unresponsive(self, job: JobRecord) -> bool:
        """Return True if the job has not obeyed a stop within JOBMANAGER_STOP_GRACE_SECONDS."""
        return health.is_unresponsive(job, self.now, grace_seconds=self.settings.stop_grace_seconds)

    def is_stuck(self, job: JobRecord) -> bool:
        """Return True if the job runs but has saved no checkpoint for longer than its type allows."""
        allowed = self.types.get(job.type).stuck_after_seconds if job.type in self.types else None
        return health.is_stuck(job, self.now, allowed_seconds=allowed)

    # Halt, resume, stop. If *versions* is given and lacks the version of the job, nothing changes: Outdated is raised.

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
        """End the job for good and roll back its work. Waits up to *wait* seconds until it has stopped.

        *force* interrupts Python code that does not obey. Raises UnknownJob, NotAllowed, Outdated, StoreUnavailable.
        """
        return self._request(job_id, Action.STOP, wait, actor=actor, reason=reason, versions=versions, is_forced=force)

    def halt_all(self, selection: Selection, *, actor: str = "embedder", reason: str | None = None) -> BulkResult:
        """Halt every job of the selection. Does not wait. Raises StoreUnavailable.

        If the store stops answering on the way, the remaining jobs are listed as unchanged.
        """
        return self._bulk.request(self._visible(selection), Action.HALT, actor=actor, reason=reason)

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
        return self._bulk.request(
            self._visible(selection), Action.RESUME, actor=actor, reason=reason, spread_seconds=spread_seconds
        )

    def stop_all(
        self, selection: Selection, *, actor: str = "embedder", reason: str | None = None, force: bool = False
    ) -> BulkResult:
        """Stop every job of the selection. Does not wait. Raises StoreUnavailable. See `halt_all`."""
        return self._bulk.request(self._visible(selection), Action.STOP, actor=actor, reason=reason, is_forced=force)

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
        self._check_visible(job_id)
        with self._runtime.call() as (store, engine):
            applied = store.apply(job_id, action, **how)
            self._observers.job_changed(applied)
            engine.deliver(applied)
        if applied.job.status in REACHED[action] or wait <= 0:
            return applied.job
        return self.wait(job_id, unless=tuple(UNDER_WAY[action]), wait=wait)

    def _check_visible(self, job_id: str) -> None:
        """Raise UnknownJob unless the caller may see the job's type, which never changes."""
        if self._names is not None:
            self.get(job_id)

    def _visible(self, selection: Selection) -> Selection:
        return selection if self._names is None else replace(selection, types=self._names)
