"""The JobManager for a token that may see only some job types.

Jobs of other types seem not to exist: their ids raise UnknownJob, like ids that were never used. Methods that are
missing here cannot be used with such a token.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any

from jobmanager.core.repeatable import Repeatable, repeatable
from jobmanager.core.values import Artifact, BulkResult, Change, JobRecord, LogLine, Page, Selection, Submission
from jobmanager.engine.change_feed import Subscription
from jobmanager.errors import InvalidRequest, UnknownJob
from jobmanager.manager import JobManager


class Restricted:
    """A JobManager limited to some job types. Each method does, and raises, the same as that of JobManager."""

    def __init__(self, manager: JobManager, names: Collection[str]) -> None:
        self._manager = manager
        self._names = frozenset(names)
        self.settings = manager.settings
        self.types = manager.types.only(names)

    def submit(self, type: str, args: dict[str, Any] | None = None, **how: Any) -> JobRecord:  # noqa: A002
        self.types.get(type)
        return self._manager.submit(type, args, **how)

    def submit_all(self, submissions: Iterable[Submission], **how: Any) -> list[str]:
        again = repeatable(submissions)
        return self._manager.submit_all(Repeatable(lambda: self._of_known_types(again)), **how)

    def _of_known_types(self, submissions: Iterable[Submission]) -> Iterator[Submission]:
        """Yield the submissions. Raises InvalidRequest at the first of another type, before anything is stored."""
        for number, submission in enumerate(submissions):
            try:
                self.types.get(submission.type)
            except InvalidRequest as error:
                raise error.moved((number,)) from None
            yield submission

    def find(self, selection: Selection, **how: Any) -> Page:
        return self._manager.find(self._mine(selection), **how)

    def get(self, job_id: str) -> JobRecord:
        job = self._manager.get(job_id)
        if job.type not in self._names:
            raise UnknownJob(job_id)
        return job

    def changes(self, job_id: str) -> list[Change]:
        return self._manager.changes(self._known(job_id))

    def log(self, job_id: str, **how: Any) -> list[LogLine]:
        return self._manager.log(self._known(job_id), **how)

    def follow(self, selection: Selection | None = None, *, job_id: str | None = None, **how: Any) -> Subscription:
        if job_id is not None:
            self._known(job_id)
        return self._manager.follow(self._mine(selection or Selection()), job_id=job_id, **how)

    def artifact(self, job_id: str) -> Artifact:
        return self._manager.artifact(self._known(job_id))

    def wait(self, job_id: str, **how: Any) -> JobRecord:
        return self._manager.wait(self._known(job_id), **how)

    def now(self) -> datetime:
        return self._manager.now()

    def is_unresponsive(self, job: JobRecord) -> bool:
        return self._manager.is_unresponsive(job)

    def is_stuck(self, job: JobRecord) -> bool:
        return self._manager.is_stuck(job)

    def halt(self, job_id: str, **how: Any) -> JobRecord:
        return self._manager.halt(self._known(job_id), **how)

    def resume(self, job_id: str, **how: Any) -> JobRecord:
        return self._manager.resume(self._known(job_id), **how)

    def stop(self, job_id: str, **how: Any) -> JobRecord:
        return self._manager.stop(self._known(job_id), **how)

    def halt_all(self, selection: Selection, **how: Any) -> BulkResult:
        return self._manager.halt_all(self._mine(selection), **how)

    def resume_all(self, selection: Selection, **how: Any) -> BulkResult:
        return self._manager.resume_all(self._mine(selection), **how)

    def stop_all(self, selection: Selection, **how: Any) -> BulkResult:
        return self._manager.stop_all(self._mine(selection), **how)

    def _known(self, job_id: str) -> str:
        """Return the id. Raises UnknownJob unless the job is of a visible type, which never changes."""
        return self.get(job_id).id

    def _mine(self, selection: Selection) -> Selection:
        return replace(selection, types=self._names)
